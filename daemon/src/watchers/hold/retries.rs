//! When the guard retries the writes that failed.
//!
//! Owns the time of the next attempt for each run that has one. The first retry comes after [`SOONEST`], each further one after
//! twice the time of the one before, and none after more than [`SLOWEST`].

use failsafe_core::RunId;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const SOONEST: Duration = Duration::from_millis(20);
const SLOWEST: Duration = Duration::from_secs(1);

struct Retry {
    due: Instant,
    wait: Duration,
}

/// The runs whose last write failed.
#[derive(Default)]
pub(super) struct Retries(BTreeMap<RunId, Retry>);

impl Retries {
    /// Whether the run is written now: it never failed, or its time has come.
    pub(super) fn is_due(&self, run: RunId, now: Instant) -> bool {
        self.0.get(&run).is_none_or(|retry| retry.due <= now)
    }

    /// Notes a failed write. True at the first one since the last success.
    pub(super) fn failed(&mut self, run: RunId, now: Instant) -> bool {
        let last = self.0.get(&run).map(|retry| retry.wait);
        let wait = last.map_or(SOONEST, |wait| (wait * 2).min(SLOWEST));
        self.0.insert(run, Retry { due: now + wait, wait });
        last.is_none()
    }

    /// Puts the next attempt of a run off, where its last one failed: it is not known yet whether the write holds.
    pub(super) fn put_off(&mut self, run: RunId, now: Instant) {
        if let Some(retry) = self.0.get_mut(&run) {
            retry.due = now + retry.wait;
        }
    }

    /// Whether the last write of the run that is known to hold or not failed.
    pub(super) fn has_failed(&self, run: RunId) -> bool {
        self.0.contains_key(&run)
    }

    /// Notes a write that succeeded, or a run for which nothing is desired any more. True when it had failed before.
    pub(super) fn settled(&mut self, run: RunId) -> bool {
        self.0.remove(&run).is_some()
    }

    /// Forgets all runs but those that `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(RunId) -> bool) {
        self.0.retain(|run, _| keep(*run));
    }

    /// How long until the next retry; `None` when none is due.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.0.values().map(|retry| retry.due.saturating_duration_since(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_is_retried_with_growing_waits_of_at_most_a_second_until_it_succeeds() {
        let (run, mut now) = (RunId(uuid::Uuid::from_u128(7)), Instant::now());
        let mut retries = Retries::default();
        assert!(retries.is_due(run, now) && retries.next(now).is_none());
        let mut waits = Vec::new();
        for attempt in 0..9 {
            assert!(retries.is_due(run, now), "attempt {attempt}");
            assert_eq!(retries.failed(run, now), attempt == 0, "only the first failure is news");
            assert!(!retries.is_due(run, now));
            let wait = retries.next(now).unwrap();
            waits.push(wait.as_millis());
            now += wait;
        }
        assert_eq!(waits, [20, 40, 80, 160, 320, 640, 1000, 1000, 1000]);
        assert!(retries.settled(run) && !retries.settled(run));
        assert!(retries.failed(run, now), "after a success the first failure is news again");
        assert_eq!(retries.next(now), Some(SOONEST));
    }

    #[test]
    fn a_run_that_failed_keeps_no_other_run_from_being_written() {
        let (failing, other) = (RunId(uuid::Uuid::from_u128(1)), RunId(uuid::Uuid::from_u128(2)));
        let now = Instant::now();
        let mut retries = Retries::default();
        retries.failed(failing, now);
        assert!(retries.is_due(other, now));
        retries.retain(|run| run == other);
        assert!(retries.is_due(failing, now), "an ended run is forgotten");
    }
}

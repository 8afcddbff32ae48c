//! What a target did not take: messages about it are held back after some attempts, so that others pass. Pure: times go in.
//!
//! Invariants: messages about one key keep their order; while every message fails the target is asked no more often than for one.

use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Attempts with one message while the others wait behind it.
const TRIES: u32 = 5;

/// Keys of which a message failed.
#[derive(Debug, Default)]
pub struct Held {
    keys: BTreeMap<String, Tries>,
    /// Attempts that failed since the last message that was sent.
    failures: u32,
}

#[derive(Debug)]
struct Tries {
    attempts: u32,
    /// Until then others are tried.
    until: Option<Instant>,
}

/// What follows from an attempt that failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    /// Attempts with this message.
    pub attempt: u32,
    /// When it is tried again at the earliest.
    pub wait: Duration,
    /// How long nothing is sent to this target.
    pub pause: Duration,
}

impl Held {
    /// An attempt with a message about `key` failed; `wait`: the wait after the nth attempt.
    pub fn failed(&mut self, key: &str, now: Instant, wait: impl Fn(u32) -> Duration) -> Failed {
        self.failures = self.failures.saturating_add(1);
        let tries = self.keys.entry(key.to_owned()).or_insert(Tries { attempts: 0, until: None });
        tries.attempts = tries.attempts.saturating_add(1);
        let own = wait(tries.attempts);
        // Others failed as well: it is the target.
        let of_target = self.failures.checked_sub(TRIES).filter(|beyond| *beyond > 0).map_or(Duration::ZERO, &wait);
        if tries.attempts < TRIES {
            tries.until = None;
            let wait = own.max(of_target);
            return Failed { attempt: tries.attempts, wait, pause: wait };
        }
        tries.until = Some(now + own);
        Failed { attempt: tries.attempts, wait: own.max(of_target), pause: of_target }
    }

    /// A message about `key` was sent.
    pub fn sent(&mut self, key: &str) {
        self.keys.remove(key);
        // Others failed before it, so the target was away: what is held is tried now.
        if self.failures > TRIES {
            self.keys.values_mut().for_each(|tries| tries.until = None);
        }
        self.failures = 0;
    }

    /// The message about `key` is refused or too old.
    pub fn over(&mut self, key: &str) {
        self.keys.remove(key);
    }

    /// Forgets keys without a message.
    pub fn keep(&mut self, waits: impl Fn(&str) -> bool) {
        self.keys.retain(|key, _| waits(key));
    }

    /// Whether messages about `key` are held back now.
    pub fn is_held(&self, key: &str, now: Instant) -> bool {
        self.keys.get(key).is_some_and(|tries| tries.until.is_some_and(|until| until > now))
    }

    /// When the next one is no longer held back; `None`: nothing is held back.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        self.keys.values().filter_map(|tries| tries.until).filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nth wait takes n seconds.
    fn secs(n: u32) -> Duration {
        Duration::from_secs(n.into())
    }

    #[test]
    fn a_key_that_always_fails_is_held_back_and_others_pass_without_a_pause() {
        let (mut held, now) = (Held::default(), Instant::now());
        for attempt in 1..TRIES {
            assert_eq!(held.failed("a", now, secs), Failed { attempt, wait: secs(attempt), pause: secs(attempt) });
            assert!(!held.is_held("a", now));
        }
        let held_back = Failed { attempt: TRIES, wait: secs(TRIES), pause: Duration::ZERO };
        assert_eq!(held.failed("a", now, secs), held_back);
        assert!(held.is_held("a", now) && !held.is_held("b", now));
        held.sent("b");
        assert!(held.is_held("a", now), "the target works: `a` is tried again in its time");
        assert_eq!(held.until(now), Some(now + secs(TRIES)));
        let later = now + secs(TRIES);
        assert!(!held.is_held("a", later));
        assert_eq!(held.failed("a", later, secs).pause, Duration::ZERO);
        held.sent("a");
        assert_eq!(held.until(now), None);
    }

    #[test]
    fn a_target_that_takes_nothing_is_asked_no_more_often_for_many_keys() {
        let (mut held, mut now) = (Held::default(), Instant::now());
        for failures in 1..200 {
            let key = ["a", "b", "c", "d"].into_iter().find(|key| !held.is_held(key, now)).unwrap();
            let failed = held.failed(key, now, secs);
            // Only after the last attempt with the first key there is no pause: the others are tried then.
            let pause = if failures < TRIES { failures } else { failures - TRIES };
            assert_eq!(failed.pause, secs(pause), "{failures}");
            now += failed.pause;
        }
        held.failed("z", now, secs);
        held.sent("z");
        assert!(["a", "b", "c", "d"].iter().all(|key| !held.is_held(key, now)), "the target is back");
    }
}

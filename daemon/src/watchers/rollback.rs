//! Compares the audit log with the counter of the TPM, which no copy of the disk takes back, and counts it up.
//!
//! ```text
//! start, and every hour ─► counter of the TPM ─► compare with the last entry `counter` ─► finding in the log and the health
//!                                                          └─► entry, durable ─► count
//! ```
//! Owns what the log states of the counter. Invariants: it counts at most once for each boot and once for each [`EVERY`], because
//! counting wears out the TPM; it counts only to a value of which the entry is durable; nobody waits for this thread, and a TPM that
//! fails or does not answer changes nothing but its text in `doctor`.

use crate::{
    config::Tpm,
    log::Log,
    pipeline::{Message, Sender},
    platform::{clock, sched},
    tpm::{NoTpm, NodeTpm},
    watchers::keep::{AUDIT_LOG, lasting},
};
use failsafe_core::health::Until;
use failsafe_journal::{
    Draft, WaitError,
    counter::{self, Stated, Step, compare, draft},
    finding,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often it counts at most within a boot. What was written since then, and is rolled back, is not found out by the counter.
pub const EVERY: Duration = Duration::from_secs(3_600);
/// When a TPM that failed is asked again.
const AGAIN: Duration = Duration::from_secs(60);
/// When a TPM that made no counter is asked again: each attempt is in the log.
const MAKE_AGAIN: Duration = Duration::from_secs(86_400);
/// How long the thread sleeps.
const LOOK: Duration = Duration::from_secs(1);

/// How the counter stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Counter {
    /// It was not read yet.
    #[default]
    Unread,
    /// The log and the counter agree on this value.
    Agreed(u64),
    /// It is not used.
    Unused(String),
    /// It cannot be read or counted.
    Failed(String),
}

/// How the counter stands, for `doctor`.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Counter>);

impl Shared {
    /// What is known before a thread reads it: why there is none.
    pub fn of(config: &Tpm) -> Shared {
        let unused = |why: &str| Counter::Unused(why.to_owned());
        let known = match (config.disabled, config.counter) {
            (true, _) => unused("the configuration does not use a TPM (tpm.disabled)"),
            (false, false) => unused("the configuration does not use it (tpm.counter)"),
            (false, true) if config.device.exists() => Counter::Unread,
            (false, true) => Counter::Unused(NoTpm::Absent(config.device.clone()).to_string()),
        };
        Shared(Mutex::new(known))
    }

    /// How it stands.
    pub fn get(&self) -> Counter {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, counter: Counter) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counter;
    }
}

/// The thread.
pub struct Rollback {
    log: Log,
    tpm: Arc<NodeTpm>,
    stated: Stated,
    /// Why the log could not be read when the daemon started.
    unread: Option<String>,
    /// When it counts, although log and counter agree.
    due: Instant,
    shared: Arc<Shared>,
}

/// Why a look ended early.
enum Stopped {
    /// The daemon stops.
    Stopping,
    /// The log could not be read: nothing is compared.
    Unread(String),
    /// The TPM.
    Tpm(NoTpm),
    /// The TPM made no counter.
    NotMade(NoTpm),
    /// The log takes no entry.
    Log(WaitError),
}

impl Rollback {
    /// Reads what the log states. Before retention removes anything.
    pub fn new(log: Log, tpm: Arc<NodeTpm>, boot_id: &str, shared: Arc<Shared>) -> Rollback {
        // A log that cannot be read is a finding of its own. What it states is not known then: nothing is compared.
        let (last, unread) = match counter::last(log.path()) {
            Ok(last) => (last, None),
            Err(error) => (None, Some(format!("what the audit log states of the counter cannot be read: {error}"))),
        };
        let stated = last.as_ref().and_then(counter::of).unwrap_or_default();
        let of_boot = last.filter(|entry| entry.boot_id == boot_id);
        let since = of_boot.map(|entry| Duration::from_nanos(clock::monotonic_ns().saturating_sub(entry.mono_ns)));
        let due = Instant::now() + since.map_or(Duration::ZERO, |since| EVERY.saturating_sub(since));
        Rollback { log, tpm, stated, unread, due, shared }
    }

    /// Works until `stop`.
    pub fn work(mut self, pipeline: &Sender, stop: &AtomicBool) {
        sched::background();
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                let (found, wait) = self.look(stop);
                if let Some(what) = found {
                    // A closed queue means that the pipeline has ended.
                    let _closed = pipeline.send(alarm(what));
                }
                next = Instant::now() + wait;
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Compares, and counts if it is due. Returns what is amiss, which is in the log then, and when to look again.
    fn look(&mut self, stop: &AtomicBool) -> (Option<String>, Duration) {
        let mut found = None;
        let (counter, wait) = match self.agree(&mut found, stop) {
            Err(Stopped::Unread(why)) => (Counter::Failed(why), EVERY),
            Ok(value) => (Counter::Agreed(value), self.due.saturating_duration_since(Instant::now())),
            Err(Stopped::Stopping) => return (found, EVERY),
            Err(Stopped::Tpm(why @ (NoTpm::Disabled | NoTpm::Absent(_)))) => (Counter::Unused(why.to_string()), EVERY),
            Err(Stopped::Tpm(why)) => (Counter::Failed(why.to_string()), AGAIN),
            Err(Stopped::NotMade(why)) => (Counter::Failed(why.to_string()), MAKE_AGAIN),
            Err(Stopped::Log(why)) => (Counter::Failed(why.to_string()), AGAIN),
        };
        if let Counter::Failed(why) = &counter
            && self.shared.get() != counter
        {
            tracing::warn!(why, "the counter against a rollback of the audit log is not used");
        }
        self.shared.set(counter);
        (found, wait)
    }

    /// Has the log and the counter agree, and returns the value.
    fn agree(&mut self, found: &mut Option<String>, stop: &AtomicBool) -> Result<u64, Stopped> {
        if let Some(why) = &self.unread {
            return Err(Stopped::Unread(why.clone()));
        }
        // Each step leads to another; a counter that somebody else counts up meanwhile does not keep this thread here.
        for _ in 0..4 {
            let value = self.tpm.counter().map_err(Stopped::Tpm)?;
            let (step, amiss) = compare(self.stated, value);
            if let Some(what) = amiss {
                tracing::error!(what, "the audit log");
                self.write(&finding(&what, self.log.stamp()), stop)?;
                *found = Some(what);
            }
            match (step, value) {
                (Step::Agreed, Some(value)) if Instant::now() < self.due => return Ok(value),
                (Step::Agreed, Some(value)) => self.state(Some(value.saturating_add(1)), stop)?,
                (Step::State(value) | Step::Next(value), _) => self.state(Some(value), stop)?,
                (Step::Begin, _) => self.begin(stop)?,
                (Step::Count(_), _) => self.count().map_err(Stopped::Tpm)?,
                (Step::Agreed, None) => {}
            }
        }
        let why = "the counter was counted up by somebody else meanwhile".to_owned();
        Err(Stopped::Tpm(NoTpm::NotNow(why)))
    }

    fn begin(&mut self, stop: &AtomicBool) -> Result<(), Stopped> {
        self.state(None, stop)?;
        let Err(why) = self.count() else { return Ok(()) };
        // Otherwise a copy of this log would pass for one of the moment before the counter was made. Without an answer the TPM may
        // have made it: then the next look finds it.
        if let NoTpm::NotNow(text) = &why
            && self.tpm.counter().map_err(Stopped::Tpm)?.is_none()
        {
            self.write(&counter::none(text, self.log.stamp()), stop)?;
            self.stated = Stated::Nothing;
            return Err(Stopped::NotMade(why));
        }
        Err(Stopped::Tpm(why))
    }

    /// Counts. Whatever comes of it, it is not done again within [`EVERY`] unless the counter is behind what is stated.
    fn count(&mut self) -> Result<(), NoTpm> {
        self.due = Instant::now() + EVERY;
        self.tpm.count().map(drop)
    }

    fn state(&mut self, value: Option<u64>, stop: &AtomicBool) -> Result<(), Stopped> {
        self.write(&draft(value, self.log.stamp()), stop)?;
        self.stated = value.map_or(Stated::Beginning, Stated::Value);
        Ok(())
    }

    /// Waits until the entry is durable: a disk that hangs delays this thread only.
    fn write(&self, draft: &Draft, stop: &AtomicBool) -> Result<(), Stopped> {
        let ticket = self.log.submit(draft);
        loop {
            match ticket.wait(LOOK) {
                Ok(_) => return Ok(()),
                Err(WaitError::Timeout) if stop.load(Ordering::Relaxed) => return Err(Stopped::Stopping),
                Err(WaitError::Timeout) => {}
                Err(error) => return Err(Stopped::Log(error)),
            }
        }
    }
}

fn alarm(what: String) -> Message {
    lasting(AUDIT_LOG, what, Until::Reset)
}

#[cfg(test)]
mod tests;

//! Compares the audit log with the counter of the TPM, which no copy of the disk takes back, and counts it up.
//!
//! ```text
//! start, and every hour ─► counter of the TPM ─► compare with the last entry `counter` ─► finding in the log and the health
//!                                                          └─► entry, durable ─► count
//! ```
//! Owns what the log states of the counter. A TPM that appears later, because its driver loads after the daemon, is used from then on.
//!
//! Invariants: it counts at most once for each boot and once for each [`EVERY`], because
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
/// How long a TPM that the log has a value of may be missing, or not answer, until that is a finding: its driver may load after the
/// daemon, and another program may use it.
const DRIVER: Duration = Duration::from_secs(600);
/// How long the thread sleeps. A TPM that appears is noticed within this time.
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
    /// The log states a value, but the node has no TPM.
    Missing(String),
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
            (false, true) => Counter::Unread,
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
    /// The log has a finding that the TPM is missing, and no value since then.
    missing: bool,
    /// There was no device at the last look.
    absent: bool,
    /// Since when no value of the TPM is known: there is none, or it does not answer.
    silent: Option<Instant>,
    /// How long this may be so until it is a finding.
    driver: Duration,
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
        let missing = last.as_ref().is_some_and(counter::is_missing);
        // An entry of a missing TPM did not count.
        let of_boot = last.filter(|entry| entry.boot_id == boot_id && !missing);
        let since = of_boot.map(|entry| Duration::from_nanos(clock::monotonic_ns().saturating_sub(entry.mono_ns)));
        let due = Instant::now() + since.map_or(Duration::ZERO, |since| EVERY.saturating_sub(since));
        Rollback { log, tpm, stated, missing, absent: false, silent: None, driver: DRIVER, unread, due, shared }
    }

    /// Works until `stop`.
    pub fn work(mut self, pipeline: &Sender, stop: &AtomicBool) {
        sched::background();
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let appeared = self.absent && self.tpm.absent().is_none();
            if appeared || Instant::now() >= next {
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
        let agreed = self.agree(&mut found, stop).map(Counter::Agreed);
        let counter = match agreed {
            Err(Stopped::Tpm(why)) if why != NoTpm::Disabled => self.without_tpm(&why, &mut found, stop),
            other => other,
        };
        let (counter, wait) = match counter {
            Ok(counter @ Counter::Agreed(_)) => (counter, self.due.saturating_duration_since(Instant::now())),
            Ok(counter) => (counter, AGAIN),
            Err(Stopped::Stopping) => return (found, EVERY),
            Err(Stopped::Unread(why)) => (Counter::Failed(why), EVERY),
            Err(Stopped::Tpm(why @ NoTpm::Disabled)) => (Counter::Unused(why.to_string()), EVERY),
            Err(Stopped::Tpm(why)) => (Counter::Failed(why.to_string()), AGAIN),
            Err(Stopped::NotMade(why)) => (Counter::Failed(why.to_string()), MAKE_AGAIN),
            Err(Stopped::Log(why)) => (Counter::Failed(why.to_string()), AGAIN),
        };
        if let Counter::Failed(why) | Counter::Missing(why) = &counter
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
        let absent = self.tpm.absent();
        self.absent = absent.is_some();
        if let Some(absent) = absent {
            return Err(Stopped::Tpm(absent));
        }
        // Each step leads to another; a counter that somebody else counts up meanwhile does not keep this thread here.
        for _ in 0..4 {
            let value = self.tpm.counter().map_err(Stopped::Tpm)?;
            // Only a value shows that nothing is hidden: a plain file in the place of the device does not.
            self.silent = None;
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

    /// There is no TPM now, or it does not answer. If the log states a value, somebody may have disabled, replaced or occupied the TPM
    /// to hide that the log was rolled back: that is a finding, once until the log states a value again.
    fn without_tpm(&mut self, no: &NoTpm, found: &mut Option<String>, stop: &AtomicBool) -> Result<Counter, Stopped> {
        let since = *self.silent.get_or_insert_with(Instant::now);
        let why = no.to_string();
        let Stated::Value(value) = self.stated else {
            return Ok(if self.absent { Counter::Unused(why) } else { Counter::Failed(why) });
        };
        let text = format!("the log states {value} for the counter of the TPM, but {why}");
        let counter = if self.absent { Counter::Missing(text.clone()) } else { Counter::Failed(text.clone()) };
        if !self.missing && since.elapsed() >= self.driver {
            let what = format!("it cannot be excluded that the log was rolled back: {text}");
            tracing::error!(what, "the audit log");
            self.write(&finding(&what, self.log.stamp()), stop)?;
            self.missing = true;
            *found = Some(what);
            self.write(&counter::missing(value, &why, self.log.stamp()), stop)?;
        }
        Ok(counter)
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
        self.missing = false;
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

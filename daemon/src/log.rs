//! The audit log as the daemon writes it: [`Record`]s in, tickets of durability out. The writer's thread is the journal's.

pub mod claims;
mod durable;
mod open_runs;
mod orders;
mod quota;
mod tally;
mod unlisted;
mod vouch;

pub use durable::{DurableSearch, damaged};
pub use orders::LoggedOrders;
pub use quota::{Budget, Spent};
pub use tally::Tallying;
pub use vouch::{Vouch, default_name, rotate, wrong_name};

use crate::platform::clock;
use failsafe_core::{
    RunId,
    decision::IncidentId,
    record::{Limited, Record},
};
use failsafe_journal::{
    AuditHandle, AuditWriter, Draft, Options, Query, Stamp, Status, Ticket, WaitError,
    group::{Statement, TreeStatus},
    head::HEAD_FILE,
    search::SearchError,
    storage::{
        Layout, Retention,
        file::{LOG_FILE, set_aside},
    },
    tree::signed::CHECKPOINT_FILE,
    writer::OpenError,
};
pub(crate) use open_runs::OpenRuns;
use quota::{Class, Meter};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    time::Duration,
};
use tokio::sync::watch;

/// The log's folder in the state folder; a log that was set aside stays in it too.
const FOLDER: &str = "audit";

/// The field of the first entry of a file with the runs that are open: started in the boot of the entry, and not ended.
pub(crate) const OPEN_RUNS: &str = "open_runs";

/// An order waits at most this long until its entry is durable.
const DURABLE: Duration = Duration::from_secs(10);

/// A finding: nothing is left to compare the log with, but runs.
const EMPTIED: &str = "the audit log is empty or was deleted, though the state folder has runs";

/// Owner of the log's writer thread.
pub struct LogOwner {
    writer: AuditWriter,
    log: Log,
}

/// A handle to record with; cheap to clone.
#[derive(Clone)]
pub struct Log {
    handle: AuditHandle,
    boot_id: String,
    path: PathBuf,
    latest: watch::Receiver<u64>,
    findings: Arc<[String]>,
    meter: Arc<Mutex<Meter>>,
    live: Arc<OnceLock<LiveRuns>>,
    open_runs: Arc<OpenRuns>,
    orders: orders::Current,
    tallying: Arc<Tallying>,
}

/// The runs that live, and those that are guarded.
type LiveRuns = Box<dyn Fn() -> Vec<RunId> + Send + Sync>;

/// How much of the log is kept, and how much of it each user gets.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// What is kept.
    pub retention: Retention,
    /// What users get.
    pub budget: Budget,
}

/// What opening the log found, in words for the first records; empty when all was in order.
pub type Findings = Vec<String>;

impl LogOwner {
    /// Opens the log under `state_dir`. An incomplete tail is cut off and recorded. A log that was tampered with is moved aside and
    /// never appended to; the new log records this first. `second_head` is a file outside the state folder that holds the log's head.
    ///
    /// # Errors
    /// [`OpenError`] when the log can neither be opened nor set aside.
    pub fn open(
        state_dir: &Path,
        second_head: &Path,
        boot_id: &str,
        bounds: Bounds,
        vouch: Option<Vouch>,
    ) -> Result<(LogOwner, Findings), OpenError> {
        let heads = vec![state_dir.join(HEAD_FILE), second_head.to_owned()];
        let known = heads.iter().any(|head| head.exists());
        let mut layout = Layout { heads, retention: bounds.retention, ..Layout::default() };
        let (live, open_runs): (Arc<OnceLock<LiveRuns>>, Arc<OpenRuns>) = Default::default();
        let orders = orders::Current::default();
        let dir = &state_dir.join(FOLDER);
        let mut findings = Vec::new();
        if let Some(vouch) = &vouch {
            layout.checkpoint = Some((state_dir.join(CHECKPOINT_FILE), vouch.known(&mut findings)));
            if let Err(error) = vouch.publish(state_dir) {
                tracing::warn!(%error, "the public keys for verifying the audit log are not up to date");
            }
        }
        let (sender, latest) = watch::channel(0);
        let options = || {
            let sender = sender.clone();
            let observer = Box::new(move |index: u64, _: std::sync::Arc<[u8]>| {
                sender.send_replace(index + 1);
            });
            let known = live.clone();
            let live = Box::new(move || Some(known.get()?().iter().map(RunId::to_string).collect()));
            let (open, ordered) = (open_runs.clone(), orders.clone());
            let statement: Statement = Box::new(move || {
                let runs = open.list().map(|runs| (OPEN_RUNS.to_owned(), serde_json::json!(runs)));
                let orders = ordered.get().map(|orders| (orders::ORDERS.to_owned(), serde_json::json!(orders)));
                runs.into_iter().chain(orders).collect()
            });
            let (signing, heartbeat) =
                (vouch.as_ref().map(Vouch::signing), vouch.as_ref().map(|vouch| vouch.heartbeat));
            Options {
                observer: Some(observer),
                live: Some(live),
                statement: Some(statement),
                signing,
                heartbeat,
                ..Options::default()
            }
        };
        let writer = match AuditWriter::spawn_in(dir, layout.clone(), options()) {
            Err(OpenError::Tampered { offset, index, why }) => {
                let wall = u64::try_from(clock::wall_ns()).unwrap_or_default();
                let aside = set_aside(dir, wall).map_err(OpenError::File)?;
                layout.fresh = Some(format!(
                    "the audit log was tampered with at entry {index}, byte {offset} ({why}); it is kept as {}",
                    aside.display()
                ));
                AuditWriter::spawn_in(dir, layout, options())?
            }
            other => other?,
        };
        if let Some(dropped) = &writer.recovery().dropped {
            findings.push(format!("the audit log's torn tail was cut off: {dropped:?}"));
        }
        findings.extend(writer.recovery().findings.iter().cloned());
        let entries = writer.recovery().entries;
        // Those of earlier daemons are durable, too.
        sender.send_if_modified(|latest| {
            let is_known = *latest >= entries;
            *latest = entries.max(*latest);
            !is_known
        });
        let emptied = !known
            && entries == 0
            && std::fs::read_dir(state_dir.join("runs")).is_ok_and(|mut runs| runs.next().is_some());
        if emptied {
            findings.push(EMPTIED.to_owned());
        }
        let log = Log {
            handle: writer.handle(),
            boot_id: boot_id.to_owned(),
            path: dir.join(LOG_FILE),
            latest,
            findings: findings.clone().into(),
            meter: Arc::new(Mutex::new(Meter::new(bounds.budget, clock::monotonic_ns()))),
            live,
            open_runs,
            orders,
            tallying: Arc::default(),
        };
        if emptied {
            log.handle.submit_then(&failsafe_journal::finding(EMPTIED, log.stamp()), |_| {});
        }
        Ok((LogOwner { writer, log }, findings))
    }

    /// A handle.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Writes what waits and ends the thread.
    pub fn close(self) {
        let limited = self.log.meter().summaries(clock::monotonic_ns(), true);
        limited.into_iter().for_each(|limited| self.log.limited(limited));
        if let Err(error) = self.writer.shutdown(Duration::from_secs(5)) {
            tracing::error!(%error, "audit log closed with records lost");
        }
    }
}

impl Log {
    /// Queues a record; never waits for the disk.
    pub fn record(&self, record: &Record, run: Option<RunId>, incident: Option<IncidentId>) {
        self.record_at(self.stamp(), record, run, incident);
    }

    /// As [`Log::record`], of something that was at `stamp`.
    pub fn record_at(&self, stamp: Stamp, record: &Record, run: Option<RunId>, incident: Option<IncidentId>) {
        self.record_at_then(stamp, record, run, incident, |_| {});
    }

    /// Now, on this machine and boot.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            wall_ns: u64::try_from(clock::wall_ns()).unwrap_or_default(),
            mono_ns: clock::monotonic_ns(),
            boot_id: self.boot_id.clone(),
        }
    }

    /// Queues a record; `then` is called with what became of it, on the log's thread.
    pub fn record_then(
        &self,
        record: &Record,
        run: Option<RunId>,
        incident: Option<IncidentId>,
        then: impl FnOnce(Result<(), WaitError>) + Send + 'static,
    ) {
        self.record_at_then(self.stamp(), record, run, incident, then);
    }

    /// Records something, and waits until that is durable.
    ///
    /// # Errors
    /// It was not within [`DURABLE`]; it may become so later.
    pub fn record_durably(&self, record: &Record, run: Option<RunId>) -> Result<(), String> {
        let (done, durable) = mpsc::sync_channel(1);
        self.record_then(record, run, None, move |result| drop(done.send(result)));
        match durable.recv_timeout(DURABLE) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the audit log did not answer within {} s", DURABLE.as_secs())),
        }
    }

    /// As [`Log::record_then`], of something that was at `stamp`.
    pub fn record_at_then(
        &self,
        stamp: Stamp,
        record: &Record,
        run: Option<RunId>,
        incident: Option<IncidentId>,
        then: impl FnOnce(Result<(), WaitError>) + Send + 'static,
    ) {
        self.tallying.note(record);
        let draft = self.draft(stamp, record, run, incident);
        let prepared = match draft.prepare() {
            Ok(prepared) => prepared,
            Err(error) => return then(Err(WaitError::Refused(error))),
        };
        let now = clock::monotonic_ns();
        let mut meter = self.meter();
        let admitted = meter.admit(record, run, &draft, prepared.max_bytes(), now);
        let limited = meter.summaries(now, false);
        drop(meter);
        limited.into_iter().for_each(|limited| self.limited(limited));
        if let Some(first) = admitted.first
            && let Ok(prepared) = first.prepare()
        {
            run.into_iter().for_each(|run| self.open_runs.started(run));
            self.handle.submit_prepared(&first, prepared, true, |_| {});
        }
        if admitted.itself {
            let reserved = quota::class(record) != Class::Ordinary;
            let (tallying, open_runs) = (self.tallying.clone(), self.open_runs.clone());
            open_runs.note(record);
            self.orders.note(record);
            let ends = run.filter(|_| matches!(record, Record::RunEnded { .. }));
            self.handle.submit_prepared(&draft, prepared, reserved, move |done| {
                tallying.take_up();
                if let (Some(run), Ok(_)) = (ends, &done) {
                    open_runs.ended(run);
                }
                then(done.map(|_| ()));
            });
        } else {
            then(Err(WaitError::OverBudget));
        }
    }

    /// Whose budget entries about a run count for, where no entry of this daemon has its beginning: a run that is guarded, or that ended
    /// while no daemon watched.
    pub fn owned(&self, run: RunId, uid: u32) {
        self.meter().owned(run, uid);
    }

    /// The size of the budget of a user who has spent it; `None`: there is something left.
    pub fn spent(&self, uid: u32) -> Option<u64> {
        self.meter().spent(uid, clock::monotonic_ns())
    }

    /// What users have of their budgets.
    pub fn used(&self) -> Spent {
        self.meter().used(clock::monotonic_ns())
    }

    /// From now on, segments may be removed that have nothing of these runs. `live` must not block.
    pub fn know_live(&self, live: impl Fn() -> Vec<RunId> + Send + Sync + 'static) {
        let _known = self.live.set(Box::new(live));
    }

    /// The runs of this boot that the log had as open when this daemon started. From now on, each file of the log begins with those that
    /// are open then.
    pub fn know_open(&self, runs: impl IntoIterator<Item = RunId>) {
        self.open_runs.complete(runs);
    }

    /// Writes a summary of entries that were not written.
    fn limited(&self, limited: Limited) {
        tracing::warn!(uid = limited.uid, run = ?limited.run, entries = limited.entries, "entries of the audit log are summed up");
        let run = limited.run;
        let record = Record::Limited(limited);
        self.tallying.note(&record);
        let draft = self.draft(self.stamp(), &record, run, None);
        self.handle.submit_then(&draft, |_| {});
    }

    /// What was recorded, counted.
    pub fn tallying(&self) -> &Tallying {
        &self.tallying
    }

    /// Whether records become durable, and how many were refused and are not on record yet.
    pub fn written(&self) -> (bool, u64) {
        match self.handle.status() {
            Status::Healthy => (self.handle.tree().problem.is_none(), 0),
            Status::Degraded { dropped, .. } => (false, dropped),
            Status::Stopped => (false, 0),
        }
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draft(&self, stamp: Stamp, record: &Record, run: Option<RunId>, incident: Option<IncidentId>) -> Draft {
        // A record holds only finite numbers and text keys; were one not to serialise, the entry would still say so.
        let body =
            serde_json::to_value(record).unwrap_or_else(|e| serde_json::json!({ "unserialisable": e.to_string() }));
        let mut draft = Draft::new(record.kind(), stamp, body);
        draft.run = run.map(|r| r.to_string());
        draft.incident = incident.map(|i| i.to_string());
        draft
    }

    /// Queues an entry of the journal's own kinds. The ticket tells when it is durable.
    pub fn submit(&self, draft: &Draft) -> Ticket {
        self.handle.submit(draft)
    }

    /// What opening the log found amiss, and what was found since.
    pub fn findings(&self) -> Vec<String> {
        self.findings.iter().cloned().chain(self.handle.tree().findings).collect()
    }

    /// What is signed of the log.
    pub fn tree(&self) -> TreeStatus {
        self.handle.tree()
    }

    /// Whether the wall clock can be right, so that something may be removed because of its age.
    pub fn believes_clock(&self) -> bool {
        self.handle.believes_clock(&self.stamp())
    }

    /// What earlier logs left: what was set aside, for whoever looks for entries that this log does not have.
    pub fn asides(&self) -> Vec<PathBuf> {
        self.path.parent().map(failsafe_journal::storage::file::asides).unwrap_or_default()
    }

    /// The durable entries that a query wants, for whoever passes them on.
    ///
    /// # Errors
    /// [`SearchError`]: the log cannot be read.
    pub fn search(&self, query: Query) -> Result<DurableSearch, SearchError> {
        DurableSearch::open(self.clone(), query)
    }

    /// The log file, for readers: with [`failsafe_journal::Search`], which also reads the sealed segments beside it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes whenever entries became durable; holds the number of entries.
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.latest.clone()
    }

    /// `healthy`, or what is wrong.
    pub fn state(&self) -> String {
        match self.handle.status() {
            Status::Healthy => match self.handle.tree().problem {
                Some(problem) => format!("degraded: {problem}"),
                None => "healthy".into(),
            },
            Status::Degraded { error, pending, dropped, .. } => {
                format!("degraded: {error}; {pending} entries wait in memory, {dropped} were dropped")
            }
            Status::Stopped => "stopped".into(),
        }
    }
}

#[cfg(test)]
mod tests;

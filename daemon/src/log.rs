//! The audit log as the daemon writes it: [`Record`]s in, tickets of durability out. The writer's thread is the journal's.

use crate::platform::clock;
use failsafe_core::{RunId, decision::IncidentId, record::Record};
use failsafe_journal::{
    AuditHandle, AuditWriter, Draft, Options, Stamp, Status, Ticket, WaitError,
    head::HEAD_FILE,
    storage::{
        Layout,
        file::{LOG_FILE, set_aside},
    },
    writer::OpenError,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::watch;

/// The log's folder in the state folder; a log that was set aside stays in it too.
const FOLDER: &str = "audit";

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
}

/// What opening the log found, in words for the first records; empty when all was in order.
pub type Findings = Vec<String>;

impl LogOwner {
    /// Opens the log under `state_dir`. A torn tail is cut off and said; a log that was tampered with is set aside, never
    /// appended to, and a new one says so first. `second_head` is a file outside the state folder that holds the log's head.
    ///
    /// # Errors
    /// [`OpenError`] when the log can neither be opened nor set aside.
    pub fn open(state_dir: &Path, second_head: &Path, boot_id: &str) -> Result<(LogOwner, Findings), OpenError> {
        let heads = vec![state_dir.join(HEAD_FILE), second_head.to_owned()];
        let known = heads.iter().any(|head| head.exists());
        let mut layout = Layout { heads, ..Layout::default() };
        let dir = &state_dir.join(FOLDER);
        let mut findings = Vec::new();
        let (sender, latest) = watch::channel(0);
        let options = || {
            let sender = sender.clone();
            let observer = Box::new(move |index: u64, _: std::sync::Arc<[u8]>| {
                sender.send_replace(index + 1);
            });
            Options { observer: Some(observer), ..Options::default() }
        };
        let writer = match AuditWriter::spawn_in(dir, layout.clone(), options()) {
            Err(OpenError::Tampered { offset, index, why }) => {
                let wall = u64::try_from(clock::wall_ns()).unwrap_or_default();
                let aside = set_aside(dir, wall).map_err(OpenError::File)?;
                findings.push(format!(
                    "the audit log was tampered with at entry {index}, byte {offset} ({why}); it is kept as {}",
                    aside.display()
                ));
                layout.fresh = true;
                AuditWriter::spawn_in(dir, layout, options())?
            }
            other => other?,
        };
        if let Some(dropped) = &writer.recovery().dropped {
            findings.push(format!("the audit log's torn tail was cut off: {dropped:?}"));
        }
        findings.extend(writer.recovery().findings.iter().cloned());
        let entries = writer.recovery().entries;
        if !known
            && entries == 0
            && std::fs::read_dir(state_dir.join("runs")).is_ok_and(|mut runs| runs.next().is_some())
        {
            findings.push("the audit log is empty or was deleted, though the state folder has runs".into());
        }
        let log = Log {
            handle: writer.handle(),
            boot_id: boot_id.to_owned(),
            path: dir.join(LOG_FILE),
            latest,
            findings: findings.clone().into(),
        };
        Ok((LogOwner { writer, log }, findings))
    }

    /// A handle.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Writes what waits and ends the thread.
    pub fn close(self) {
        if let Err(error) = self.writer.shutdown(std::time::Duration::from_secs(5)) {
            tracing::error!(%error, "audit log closed with records lost");
        }
    }
}

impl Log {
    /// Queues a record; never waits for the disk.
    pub fn record(&self, record: &Record, run: Option<RunId>, incident: Option<IncidentId>) -> Ticket {
        self.handle.submit(&self.draft(self.stamp(), record, run, incident))
    }

    /// As [`Log::record`], of something that was at `stamp`.
    pub fn record_at(&self, stamp: Stamp, record: &Record, run: Option<RunId>, incident: Option<IncidentId>) -> Ticket {
        self.handle.submit(&self.draft(stamp, record, run, incident))
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

    /// As [`Log::record_then`], of something that was at `stamp`.
    pub fn record_at_then(
        &self,
        stamp: Stamp,
        record: &Record,
        run: Option<RunId>,
        incident: Option<IncidentId>,
        then: impl FnOnce(Result<(), WaitError>) + Send + 'static,
    ) {
        self.handle.submit_then(&self.draft(stamp, record, run, incident), move |done| then(done.map(|_| ())));
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

    /// What opening the log found amiss.
    pub fn findings(&self) -> &[String] {
        &self.findings
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
            Status::Healthy => "healthy".into(),
            Status::Degraded { error, pending, dropped, .. } => {
                format!("degraded: {error}; {pending} entries wait in memory, {dropped} were dropped")
            }
            Status::Stopped => "stopped".into(),
        }
    }
}

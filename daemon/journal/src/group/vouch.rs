//! When a checkpoint is signed and when a `heartbeat` entry is written. Both are work of the log's thread between two commits.

use std::io;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::clock::Stamp;
use crate::entry::{Draft, kind};
use crate::storage::Storage;
use crate::tree::Signing;
use crate::writer::AuditLog;

/// What vouches for the log.
pub(super) struct Vouching {
    signing: Option<Signing>,
    heartbeat: Option<Duration>,
    /// When an entry was written last.
    written: Instant,
    /// When a checkpoint was signed, or could not be.
    signed: Option<Instant>,
}

impl Vouching {
    pub(super) fn new(signing: Option<Signing>, heartbeat: Option<Duration>) -> Vouching {
        Vouching { signing, heartbeat, written: Instant::now(), signed: None }
    }

    /// Entries became durable.
    pub(super) fn wrote(&mut self, entries: usize) {
        if entries > 0 {
            self.written = Instant::now();
        }
    }

    /// When there is something to do, if nothing is submitted before.
    pub(super) fn due<S: Storage>(&self, log: &AuditLog<S>) -> Option<Instant> {
        if log.is_building_tree() {
            return Some(Instant::now());
        }
        [self.heartbeat.map(|every| self.written + every), self.signature_due(log)].into_iter().flatten().min()
    }

    pub(super) fn heart_is_due(&self) -> bool {
        self.heartbeat.is_some_and(|every| self.written.elapsed() >= every)
    }

    pub(super) fn signature_is_due<S: Storage>(&self, log: &AuditLog<S>) -> bool {
        self.signature_due(log).is_some_and(|due| due <= Instant::now())
    }

    /// At once where nothing was signed yet by this process.
    fn signature_due<S: Storage>(&self, log: &AuditLog<S>) -> Option<Instant> {
        let signing = self.signing.as_ref()?;
        log.tree().filter(|tree| tree.frontier.size() > 0 && tree.entries() != log.signed())?;
        Some(self.signed.map_or_else(Instant::now, |signed| signed + signing.every))
    }

    /// Signs the log as it is.
    pub(super) fn sign<S: Storage>(&mut self, log: &mut AuditLog<S>, border: bool) -> io::Result<bool> {
        let Some(signing) = &self.signing else { return Ok(false) };
        self.signed = Some(Instant::now());
        let signer = (signing.signer)().map_err(io::Error::other)?;
        log.sign(&*signer, border)
    }

    /// An entry that shows that the log is being written, though there is nothing to record.
    pub(super) fn heartbeat(&self, now: Stamp) -> Draft {
        let after = self.heartbeat.unwrap_or_default();
        Draft::new(kind::HEARTBEAT, now, json!({ "silent_ms": u64::try_from(after.as_millis()).unwrap_or(u64::MAX) }))
    }
}

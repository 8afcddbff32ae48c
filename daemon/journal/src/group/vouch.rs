//! When a checkpoint is signed and when a `heartbeat` entry is written. Both are work of the log's thread between two commits.

use std::io;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::clock::Stamp;
use crate::entry::{Draft, kind};
use crate::statement;
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
    /// When an entry stated how far the log is signed; at first the start.
    stated: Instant,
    /// How far that entry states it. It may not be durable yet.
    stated_entries: u64,
    /// Such an entry was made, and is not durable yet.
    stating: bool,
}

impl Vouching {
    pub(super) fn new(signing: Option<Signing>, heartbeat: Option<Duration>) -> Vouching {
        let now = Instant::now();
        Vouching { signing, heartbeat, written: now, signed: None, stated: now, stated_entries: 0, stating: false }
    }

    /// Entries became durable.
    pub(super) fn wrote(&mut self, entries: usize) {
        if entries > 0 {
            self.written = Instant::now();
            if std::mem::take(&mut self.stating) {
                self.stated = self.written;
            }
        }
    }

    /// When there is something to do, if nothing is submitted before.
    pub(super) fn due<S: Storage>(&self, log: &AuditLog<S>) -> Option<Instant> {
        if log.is_building_tree() {
            return Some(Instant::now());
        }
        [self.heartbeat_due(log), self.signature_due(log)].into_iter().flatten().min()
    }

    pub(super) fn heart_is_due<S: Storage>(&self, log: &AuditLog<S>) -> bool {
        self.heartbeat_due(log).is_some_and(|due| due <= Instant::now())
    }

    /// After a silence; and in a log that is never silent, when checkpoints were signed that no entry states yet.
    fn heartbeat_due<S: Storage>(&self, log: &AuditLog<S>) -> Option<Instant> {
        let every = self.heartbeat?;
        let since = if log.signed() == self.stated_entries { self.written } else { self.written.min(self.stated) };
        Some(since + every)
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
        let signer = (signing.signer)(log.key_name().unwrap_or(&signing.name)).map_err(io::Error::other)?;
        log.sign(&*signer, border)
    }

    /// An entry that shows that the log is being written, though there is nothing to record, and how far it is signed.
    pub(super) fn heartbeat(&mut self, signed: u64, now: Stamp) -> Draft {
        (self.stating, self.stated_entries) = (true, signed);
        let silent_ms = u64::try_from(self.written.elapsed().as_millis()).unwrap_or(u64::MAX);
        Draft::new(kind::HEARTBEAT, now, json!({ "silent_ms": silent_ms, (statement::SIGNED): signed }))
    }
}

//! From one file to the next: sealing a segment, and removing segments from the beginning.

use super::{
    AuditLog, CommitError,
    entries::{mismatch, segment_entry},
    growing::keep_edge,
};
use crate::clock::Stamp;
use crate::entry::{Draft, Sealed, kind};
use crate::frame;
use crate::plausible::{self, Plausible};
use crate::removal;
use crate::segments::{Builder, Summary};
use crate::storage::Storage;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The log grows by this much until sealing is tried again after a failure.
const SEAL_RETRY_BYTES: u64 = 1 << 20;

impl<S: Storage> AuditLog<S> {
    /// Seals the file if it has reached its size and nothing is pending, and appends the entry that names the sealed segment
    /// to the new one. A disk that fails here delays sealing and nothing else. True: something was sealed.
    pub fn seal_if_due(&mut self, now: Stamp) -> bool {
        self.seal_if_due_with(now, Map::new)
    }

    /// [`seal_if_due`](Self::seal_if_due). The entry also has the fields of `statement`.
    pub fn seal_if_due_with(&mut self, now: Stamp, statement: impl FnOnce() -> Map<String, Value>) -> bool {
        let is_due = self.seal_at.is_some_and(|at| self.durable >= at);
        let has_entries = self.chain.next_index > self.storage.start().next_index;
        if !is_due || !has_entries || !self.pending.is_empty() || self.dirty {
            return false;
        }
        let sealed = self.storage.seal(&self.builder, self.chain, self.durable);
        let is_another = self.storage.start() == self.chain;
        if is_another {
            // Whether or not all of it succeeded, the file is another one now, with only a header.
            self.builder = Builder::new(self.chain.next_index);
            self.durable = self.storage.len().unwrap_or(frame::SEGMENT_HEADER_BYTES as u64);
            self.seal_at = self.storage.seal_at();
            self.growing.sealed(&mut self.storage);
        }
        let late = match &sealed {
            Ok(_) => self.unsealed.take(),
            Err(error) => {
                self.unsealed = Some(error.to_string());
                self.seal_at = self.seal_at.map(|_| self.durable + SEAL_RETRY_BYTES);
                None
            }
        };
        // The draft is ours, and always fits.
        let mut entry = segment_entry(sealed.as_ref().ok(), self.signed, late.as_deref(), &self.storage.catalog(), now);
        if let (true, Some(body)) = (is_another, entry.body.as_object_mut()) {
            let mut stated = statement();
            stated.append(body);
            *body = stated;
        }
        is_another && self.append(&entry).is_ok()
    }

    /// What is known of the wall clock at `now`.
    pub(crate) fn plausible(&mut self, now: &Stamp) -> Plausible {
        self.plausible.see(now);
        self.plausible.clone()
    }

    /// Removes segments from the log's beginning as far as its retention says so, and because of their age only while the wall clock
    /// can be right. That it cannot is an entry once; what is to be removed for its size then is at the next call. An entry that names each by its hash is durable
    /// before the first file is removed. Returns that entry.
    ///
    /// # Errors
    /// [`CommitError`]: the entry is not durable; nothing was removed.
    pub fn retain(&mut self, now: Stamp, live: &dyn Fn(&Summary) -> bool) -> Result<Vec<Sealed>, CommitError> {
        if !self.pending.is_empty() || self.dirty || self.growing.is_building() {
            return Ok(Vec::new());
        }
        let by_age = self.plausible.see(&now);
        if let Some(what) = self.plausible.report(&now) {
            let body = json!({ "cause": plausible::CAUSE, "what": what });
            // The draft is ours, and always fits.
            let _gap = self.append(&Draft::new(Cow::Borrowed(kind::GAP), now.clone(), body));
            return self.commit();
        }
        let removable = self.storage.removable(now.wall_ns, by_age, self.signed, live);
        let noticed = self.storage.noticed();
        for what in &noticed {
            // The text is a string of ours, which an entry always has room for.
            let _reported = self.append(&mismatch(what, false, now.clone()));
        }
        let Some((mut removed, segments)) = removable else { return self.commit() };
        // Without the edge there the tree could not be continued.
        if self.growing.ready().is_some() && !keep_edge(&mut self.storage, removed.entries) {
            return self.commit();
        }
        let Ok(entry) = self.append(&removal::draft(&removed, &segments, now)) else { return self.commit() };
        removed.entry = Some(entry.index);
        let written = self.commit()?;
        // What cannot be removed now is removed at the next start, or named once more by the next removal.
        let _later = self.storage.remove(&removed);
        Ok(written)
    }
}

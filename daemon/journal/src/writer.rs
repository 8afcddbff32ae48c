//! The audit log as its single writer sees it: verify and repair on opening, then append in memory and commit in groups.
//!
//! Invariants:
//! - Up to `durable`, the file is what was synced; behind it stands nothing, or a beginning of the pending entries that a
//!   failed commit left and that the next one cuts off first.
//! - A pending entry keeps its index and bytes through every retry, so at whatever moment the power fails, the file is the
//!   durable log plus a beginning of the pending one.
//! - After a failed sync the pending bytes are cut off and written again: the kernel may have dropped them and would
//!   report the next sync as successful.

mod entries;
mod error;
mod growing;
mod sealing;
mod torn;

pub(crate) use error::chain_text;
pub use {
    entries::finding,
    error::{CommitError, OpenError},
    torn::{Dropped, EXCERPT_BYTES},
};

use std::collections::BTreeMap;
use std::io;

use crate::clock::Clock;
use crate::entry::{Draft, DraftError, Hash, Prepared, Sealed};
use crate::frame::{self, HEADER_BYTES, push_frame};
use crate::head::Head;
use crate::plausible::Plausible;
use crate::segments::Builder;
use crate::statement;
use crate::storage::Storage;
use crate::tree::{self, Growing};
use crate::walk::{Chain, Ending, Walker};
use entries::{mismatch, recovered, segment_entry};
use growing::grow;
use torn::{inspect, shortened};

/// An open audit log.
#[derive(Debug)]
pub struct AuditLog<S> {
    storage: S,
    chain: Chain,
    /// Index of what is durable in this file.
    builder: Builder,
    pending: Vec<Sealed>,
    header_pending: bool,
    durable: u64,
    /// The size at which sealing is tried next.
    seal_at: Option<u64>,
    /// Why sealing failed since it was due.
    unsealed: Option<String>,
    /// The file may hold bytes behind `durable`.
    dirty: bool,
    /// The tree of the durable entries.
    growing: Growing,
    /// Under what the tree is signed.
    origin: Option<String>,
    /// Entries that the last checkpoint vouches for.
    signed: u64,
    /// Leaf hash of the last durable entry.
    durable_head: Hash,
    /// Since when what was signed is to be put aside, wall clock ns: as soon as the finding that says why is durable.
    aside_due: Option<u64>,
    /// Why it could not be put aside.
    aside_problem: Option<String>,
    /// Until what opening found is durable: whether that was nothing.
    opened: Option<bool>,
    /// Whether the wall clock can be right.
    plausible: Plausible,
}

/// What opening a log found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Valid entries found.
    pub entries: u64,
    /// The tail that was cut off, if any.
    pub dropped: Option<Dropped>,
    /// Entries written by opening (the `recovered` entry), as far as they are durable; the others are still pending.
    pub written: Vec<Sealed>,
    /// Why what opening wrote is not durable yet: a commit tries again.
    pub deferred: Option<String>,
    /// What is amiss with the log as a whole, in words; each is an entry too.
    pub findings: Vec<String>,
}

impl<S: Storage> AuditLog<S> {
    /// Verifies all of `storage`, cuts off a torn tail, and says so in a `recovered` entry. A disk that is full or fails
    /// to write does not prevent opening: see [`Recovery::deferred`].
    ///
    /// # Errors
    /// [`OpenError`]; the log is then as it was found.
    pub fn open(storage: S, clock: &dyn Clock) -> Result<(Self, Recovery), OpenError> {
        let start = storage.start();
        let noted = storage.noted_heads().to_vec();
        let mut builder = Builder::new(start.next_index);
        let mut hashes = BTreeMap::new();
        let mut leaves = Vec::new();
        let mut stated = 0;
        let mut plausible = Plausible::after(storage.last_wall_ns());
        let mut walker = Walker::continuing(storage, start);
        let ending = walker.run(|offset, view| {
            builder.add(offset, view);
            leaves.push(view.leaf_hash);
            let entry = view.entry_of(statement::may_be_in);
            stated = entry.as_ref().and_then(statement::signed).unwrap_or(stated);
            plausible.read(view, entry.as_ref());
            if noted.iter().any(|head| head.entries == view.index + 1) {
                hashes.insert(view.index, view.leaf_hash);
            }
        });
        let ending = ending.map_err(OpenError::io("read"))?;
        let chain = walker.chain();
        let (end, dropped) = match ending {
            Ending::Clean => (walker.source().len().map_err(OpenError::io("read size of"))?, None),
            Ending::Torn { offset, bytes, why } => {
                let (sha256, excerpt) = inspect(walker.source(), offset, why).map_err(OpenError::io("read"))?;
                (offset, Some(Dropped { offset, bytes, why, sha256, excerpt }))
            }
            Ending::Tampered(problem) => return Err(problem.into()),
        };
        let mut storage = walker.into_source();
        let entries = chain.next_index;
        let mut findings = storage.findings().to_vec();
        findings.extend(
            noted
                .iter()
                .find_map(|head| shortened(head, chain, |at| hashes.get(&at).copied().or_else(|| storage.hash_at(at)))),
        );
        let last = storage.signed().cloned();
        let (growing, contradicted) = grow(&mut storage, start.next_index, leaves);
        let last = last.filter(|_| contradicted.is_none());
        findings.extend(contradicted);
        findings.extend(storage.unlike_stated(stated));
        findings.extend(storage.head_lost(stated).filter(|_| entries > 0));
        let aside_due = growing.is_held().then(|| clock.now().wall_ns);
        let catalog = Some(storage.catalog()).filter(|catalog| catalog.link.is_some() && !catalog.is_stated);
        let is_empty = entries == start.next_index;
        let mut log = Self {
            growing,
            signed: last.as_ref().map_or(0, tree::SignedTree::entries),
            origin: last.map(|last| last.origin),
            durable_head: chain.head,
            aside_due,
            aside_problem: None,
            opened: Some(findings.is_empty()),
            plausible,
            // The first entry of the next file states the catalog.
            seal_at: if catalog.is_some() && !is_empty { Some(0) } else { storage.seal_at() },
            unsealed: None,
            storage,
            chain,
            builder,
            pending: Vec::new(),
            header_pending: end < HEADER_BYTES as u64,
            durable: end,
            dirty: dropped.is_some(),
        };
        // First of all: what was written before is not what is read now.
        for finding in &findings {
            log.append(&mismatch(finding, aside_due.is_some(), clock.now())).map_err(OpenError::Draft)?;
        }
        if let Some(dropped) = &dropped {
            log.append(&recovered(dropped, clock.now())).map_err(OpenError::Draft)?;
        }
        if let Some(catalog) = catalog.filter(|_| is_empty) {
            let entry = segment_entry(None, log.signed, None, &catalog, clock.now());
            log.append(&entry).map_err(OpenError::Draft)?;
        }
        // Always: bytes that were written but never synced before a crash of the process are valid here, and are about to
        // be built upon.
        let (written, deferred) = match log.commit() {
            Ok(written) => (written, None),
            Err(error) => (Vec::new(), Some(chain_text(&error))),
        };
        if aside_due.is_some() && log.aside_due.is_none() {
            // What is amiss is reported already.
            let _none = log.growing.build(&mut log.storage, tree::START_BYTES);
        }
        Ok((log, Recovery { entries, dropped, written, deferred, findings }))
    }

    /// Places `draft` in the log, in memory. Durable only after [`commit`](Self::commit).
    ///
    /// # Errors
    /// [`DraftError`]; nothing was placed.
    pub fn append(&mut self, draft: &Draft) -> Result<Sealed, DraftError> {
        Ok(self.append_prepared(&draft.prepare()?))
    }

    /// [`append`](Self::append) of a draft that is checked already.
    pub fn append_prepared(&mut self, prepared: &Prepared) -> Sealed {
        let sealed = prepared.seal(self.chain.next_index, &self.chain.head);
        self.chain = Chain { next_index: sealed.index + 1, head: sealed.leaf_hash };
        self.pending.push(sealed.clone());
        sealed
    }

    /// Writes all pending entries and syncs once. Returns them in order: they are durable now.
    ///
    /// # Errors
    /// [`CommitError`]; everything stays pending, to be tried again.
    pub fn commit(&mut self) -> Result<Vec<Sealed>, CommitError> {
        self.settle()?;
        let mut out =
            Vec::with_capacity(self.pending.iter().map(|sealed| sealed.bytes.len() + 8).sum::<usize>() + HEADER_BYTES);
        if self.header_pending {
            out.extend_from_slice(&frame::header_at(&self.storage.start()));
        }
        let mut offsets = Vec::with_capacity(self.pending.len());
        for sealed in &self.pending {
            offsets.push(self.durable + out.len() as u64);
            push_frame(&mut out, &sealed.bytes);
        }
        self.dirty = true;
        let written = self.write_all(&out).map_err(CommitError::io("write"));
        match written.and_then(|()| self.storage.sync().map_err(CommitError::io("sync"))) {
            Ok(()) => {
                self.durable += out.len() as u64;
                (self.dirty, self.header_pending) = (false, false);
                let written = std::mem::take(&mut self.pending);
                for (sealed, offset) in written.iter().zip(offsets) {
                    self.builder.push(offset, &sealed.about);
                    self.growing.push(sealed.leaf_hash);
                    self.durable_head = sealed.leaf_hash;
                }
                if let Some(last) = written.last() {
                    let head = Head { entries: last.index + 1, hash: last.leaf_hash, wall_ns: last.about.wall_ns };
                    self.storage.note_head(head);
                }
                self.put_signed_aside();
                if let Some(sound) = self.opened.take() {
                    // What cannot be moved or removed now is at the next start.
                    let _later = self.storage.opened(sound);
                }
                Ok(written)
            }
            Err(error) => {
                // At once, so that a reader does not see entries come and go; if it fails, the next commit repeats it.
                let _later = self.settle();
                Err(error)
            }
        }
    }

    /// Entries not durable yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What the next entry will continue, pending ones included.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Size of the durable log, in bytes.
    #[must_use]
    pub fn durable_bytes(&self) -> u64 {
        self.durable
    }

    /// The medium.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Brings the file to the durable length, after a failure or a torn tail, and never when someone else shortened it:
    /// that would pad it with zeros.
    fn settle(&mut self) -> Result<(), CommitError> {
        let found = self.storage.len().map_err(CommitError::io("read size of"))?;
        if found < self.durable || (found > self.durable && !self.dirty) {
            return Err(CommitError::Changed { expected: self.durable, found });
        }
        if found > self.durable {
            self.storage.truncate(self.durable).map_err(CommitError::io("truncate"))?;
        }
        self.dirty = false;
        Ok(())
    }

    fn write_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            match self.storage.append(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

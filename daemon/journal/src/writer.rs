//! The audit log as its single writer sees it: verify and repair on opening, then append in memory and commit in groups.
//!
//! Invariants:
//! - Up to `durable`, the file is what was synced; behind it stands nothing, or a beginning of the pending entries that a
//!   failed commit left and that the next one cuts off first.
//! - A pending entry keeps its index and bytes through every retry, so at whatever moment the power fails, the file is the
//!   durable log plus a beginning of the pending one.
//! - After a failed sync the pending bytes are cut off and written again: the kernel may have dropped them and would
//!   report the next sync as successful.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::clock::{Clock, Stamp};
use crate::entry::{Draft, DraftError, Hash, Prepared, Sealed, kind};
use crate::frame::{self, Bad, HEADER_BYTES, push_frame};
use crate::head::Head;
use crate::plausible::{self, Plausible};
use crate::removal;
use crate::segments::{Builder, Summary};
use crate::statement;
use crate::storage::{CatalogState, ReadAt, Storage};
use crate::tree::{self, Growing, Tree, signed};
use crate::walk::{Chain, Ending, Problem, Walker};
use failsafe_tlog::{Checkpoint, Signer};

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

/// A torn tail that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Where it began.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
    /// What was wrong with it.
    pub why: Bad,
    /// SHA-256 of it.
    pub sha256: Hash,
    /// Its readable beginning, without the frame header, at most [`EXCERPT_BYTES`] bytes.
    pub excerpt: String,
}

/// Most bytes of a dropped tail that a `recovered` entry quotes.
pub const EXCERPT_BYTES: usize = 512;

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

    /// Goes on reading sealed segments for the tree. True: there is more to read. If the log turns out not to contain what was
    /// signed, an entry that reports it is appended, and its text returned.
    pub fn build_tree(&mut self, now: Stamp) -> (bool, Option<String>) {
        let found = self.growing.build(&mut self.storage, tree::STEP_BYTES);
        if let Some(why) = &found {
            if self.growing.stuck().is_none() {
                restart(&mut self.growing, &self.storage);
                (self.origin, self.signed) = (None, 0);
                self.aside_due = Some(now.wall_ns);
            }
            // The text is a string of ours, which an entry always has room for.
            let _reported = self.append(&mismatch(why, self.aside_due.is_some(), now));
        }
        (self.is_building_tree(), found)
    }

    /// Whether sealed segments are still being read for the tree.
    #[must_use]
    pub fn is_building_tree(&self) -> bool {
        self.growing.is_building() && !self.growing.is_held()
    }

    /// Why what was signed of another log cannot be put aside, so that nothing is signed.
    #[must_use]
    pub fn aside_problem(&self) -> Option<&str> {
        self.aside_problem.as_deref()
    }

    /// Puts aside what was signed, if the log does not contain it. The finding that says so is durable.
    fn put_signed_aside(&mut self) {
        let Some(wall_ns) = self.aside_due else { return };
        match self.storage.put_signed_aside(wall_ns) {
            Ok(()) => {
                (self.aside_due, self.aside_problem) = (None, None);
                self.growing.release();
            }
            // The next commit tries again.
            Err(error) => self.aside_problem = Some(error.to_string()),
        }
    }

    /// The tree of the durable entries; `None` while it is being built, or if it cannot be.
    #[must_use]
    pub fn tree(&self) -> Option<&Tree> {
        self.growing.ready()
    }

    /// Number of entries that the last checkpoint vouches for.
    #[must_use]
    pub fn signed(&self) -> u64 {
        self.signed
    }

    /// The name of the key that signed this log before; `None`: nothing was signed, or the log replaces the one that was.
    #[must_use]
    pub fn key_name(&self) -> Option<&str> {
        signed::key_name(self.origin.as_deref()?)
    }

    /// Signs the tree of the durable entries and keeps the checkpoint, if there are entries that none vouches for. With `border`
    /// it is also kept as that of the border of segments at which the tree stands. True: it was signed. Nothing is while checkpoints
    /// that the log does not contain are not put aside yet.
    ///
    /// # Errors
    /// Those of the medium; the checkpoint before is then still there.
    pub fn sign(&mut self, signer: &dyn Signer, border: bool) -> io::Result<bool> {
        let Some(tree) = self.growing.ready().filter(|tree| tree.frontier.size() > 0) else { return Ok(false) };
        if tree.entries() == self.signed && !border {
            return Ok(false);
        }
        let (entries, size, root) = (tree.entries(), tree.frontier.size(), tree.frontier.root());
        let origin = match &self.origin {
            Some(origin) => origin.clone(),
            None => signed::origin(signer.key().name(), &self.durable_head, tree.first),
        };
        let checkpoint = Checkpoint { origin: origin.clone(), size, root, extensions: Vec::new() };
        let note = checkpoint.sign(signer).encode();
        self.storage.keep_checkpoint(&note, border.then_some(entries))?;
        (self.origin, self.signed) = (Some(origin), entries);
        Ok(true)
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

/// The tree of a log that was just read, compared with what was signed of it. Also what is amiss.
fn grow<S: Storage>(storage: &mut S, from: u64, leaves: Vec<Hash>) -> (Growing, Option<String>) {
    let last = storage.signed().cloned();
    let begin = storage.begin();
    if storage.aside_due() {
        let mut growing = Growing::new(Tree::beginning_at(begin), from, leaves, None);
        restart(&mut growing, storage);
        return (growing, None);
    }
    let at_most = last.as_ref().map_or(from, |last| last.entries().min(from));
    let (tree, lost) = match storage.tree_before(at_most) {
        Ok(tree) => (tree, None),
        Err(why) => {
            let lost = match &last {
                Some(last) if last.entries() < begin => Some(format!(
                    "the audit log cannot be compared with its last checkpoint, which was signed for {} entries: retention removed \
                     the first {begin}, as it does where the log reaches its size while nothing can be signed; or the log was replaced",
                    last.entries()
                )),
                // Else a log that had lost entries before it had a tree.
                last => last.as_ref().is_some_and(|last| last.first != begin).then_some(why),
            };
            (Tree::beginning_at(begin), lost)
        }
    };
    let mut growing = Growing::new(tree, from, leaves, last);
    let found = lost.or_else(|| growing.build(storage, tree::START_BYTES));
    if found.is_some() && growing.stuck().is_none() {
        restart(&mut growing, storage);
    }
    (growing, found)
}

/// Begins the tree anew from the log's beginning, without the edges that were kept, and not before they are put aside.
fn restart<S: Storage>(growing: &mut Growing, storage: &S) {
    growing.hold(Tree::beginning_at(storage.begin()));
}

/// Makes sure that the edge in front of entry `at` is kept.
fn keep_edge<S: Storage>(storage: &mut S, at: u64) -> bool {
    let Ok(mut tree) = storage.tree_before(at) else { return false };
    while tree.entries() < at {
        let Ok(Some(read)) = storage.sealed_leaf(tree.entries()) else { return false };
        tree.push(read.leaf);
    }
    storage.keep_tree(&tree).is_ok()
}

/// A log that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log was changed by something else than a crash of its writer. It is left as found; the caller decides, see
    /// [`set_aside`](crate::storage::set_aside).
    #[error("tampered at byte {offset}, entry {index}: {why}")]
    Tampered {
        /// Where the first invalid frame begins.
        offset: u64,
        /// The index that the entry there should have.
        index: u64,
        /// What is wrong.
        why: crate::walk::Why,
    },
    /// The log could not be read.
    #[error("{operation} audit log")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The log's file could not be opened.
    #[error("open audit log")]
    File(#[source] crate::storage::file::FileError),
    /// The journal's own entry was refused. Not reachable with a sound clock.
    #[error("write recovered entry")]
    Draft(#[source] DraftError),
    /// The writer thread could not be started.
    #[error("start audit log writer thread")]
    Thread(#[source] io::Error),
}

impl OpenError {
    fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

impl From<Problem> for OpenError {
    fn from(Problem { offset, index, why }: Problem) -> Self {
        Self::Tampered { offset, index, why }
    }
}

/// A commit that did not take place.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The medium failed.
    #[error("{operation} audit log")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Someone else changed the file's length since the last commit. Writing on would hide where.
    #[error("audit log is {found} bytes long, not {expected}: something else changed it")]
    Changed {
        /// Length that this writer left.
        expected: u64,
        /// Length found.
        found: u64,
    },
}

impl CommitError {
    fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

/// An error and its sources on one line.
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |e| e.source())
        .fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

/// The log grows by this much until sealing is tried again after a failure.
const SEAL_RETRY_BYTES: u64 = 1 << 20;

/// What is wrong when a log that once stood at `head` now ends at `chain`.
fn shortened(head: &Head, chain: Chain, hash_at: impl Fn(u64) -> Option<Hash>) -> Option<String> {
    let wrong = |what: String| {
        Some(format!(
            "the audit log is not the one that was written last: {what}; the head kept outside it is {} entries, {}",
            head.entries,
            hex::encode(head.hash)
        ))
    };
    let last = head.entries.checked_sub(1)?;
    if chain.next_index == 0 {
        return wrong("it is empty or was deleted".into());
    }
    if head.entries > chain.next_index {
        let missing = head.entries - chain.next_index;
        return wrong(format!("its last {missing} entries are missing: it ends with entry {}", chain.next_index - 1));
    }
    match hash_at(last) {
        Some(hash) if hash == head.hash => None,
        // Older than what retention has left: nothing to compare with.
        None => None,
        Some(hash) => wrong(format!("its entry {last} has hash {}", hex::encode(hash))),
    }
}

/// An entry that states what was found amiss with the log as a whole.
#[must_use]
pub fn finding(what: &str, now: Stamp) -> Draft {
    mismatch(what, false, now)
}

/// With `anew`, what was signed is put aside, and what entries before this one state about it counts no longer.
fn mismatch(finding: &str, anew: bool, now: Stamp) -> Draft {
    let mut body = json!({ "cause": "integrity", "what": finding });
    if anew {
        body[statement::SIGNED] = json!(0);
    }
    Draft::new(Cow::Borrowed(kind::GAP), now, body)
}

/// The first entry of a file: about the segment that was sealed, and the catalog.
fn segment_entry(
    sealed: Option<&Summary>,
    signed: u64,
    late: Option<&str>,
    catalog: &CatalogState,
    now: Stamp,
) -> Draft {
    let mut body = json!({ (statement::SIGNED): signed });
    if let Some(summary) = sealed {
        body["sealed"] = json!({
            "first": summary.first,
            "entries": summary.entries,
            "bytes": summary.bytes,
            "head": hex::encode(summary.head),
            "summary_sha256": hex::encode(summary.hash()),
        });
    }
    if let Some(link) = &catalog.link {
        body[statement::CATALOG] = json!(hex::encode(link));
    }
    if let Some(why) = &catalog.made_again {
        body["catalog_made_again"] = json!(why);
    }
    if let Some(why) = late {
        body["late"] = json!(why);
    }
    Draft::new(Cow::Borrowed(kind::SEGMENT), now, body)
}

fn recovered(dropped: &Dropped, now: Stamp) -> Draft {
    let body: Value = json!({
        "offset": dropped.offset,
        "dropped_bytes": dropped.bytes,
        "why": dropped.why.to_string(),
        "sha256": hex::encode(dropped.sha256),
        "excerpt": dropped.excerpt,
    });
    Draft::new(Cow::Borrowed(kind::RECOVERED), now, body)
}

fn inspect(source: &impl ReadAt, offset: u64, why: Bad) -> io::Result<(Hash, String)> {
    let mut hasher = Sha256::new();
    let mut excerpt = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    let mut at = offset;
    loop {
        match source.read_at(at, &mut chunk) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&chunk[..n]);
                let room = (EXCERPT_BYTES + frame::FRAME_HEADER_BYTES).saturating_sub(excerpt.len());
                excerpt.extend_from_slice(&chunk[..n.min(room)]);
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let skip = if matches!(why, Bad::HeaderCut) { 0 } else { frame::FRAME_HEADER_BYTES };
    let text = excerpt.get(skip..).unwrap_or_default();
    Ok((hasher.finalize().into(), String::from_utf8_lossy(text).into_owned()))
}

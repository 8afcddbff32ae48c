//! The tree of the durable entries: continued from the edges that are kept, compared with what was signed, and signed.

use super::{AuditLog, entries::mismatch};
use crate::clock::Stamp;
use crate::entry::Hash;
use crate::storage::Storage;
use crate::tree::{self, Growing, Tree, signed};
use failsafe_tlog::{Checkpoint, Signer};
use std::io;

impl<S: Storage> AuditLog<S> {
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
    pub(super) fn put_signed_aside(&mut self) {
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
}

/// The tree of a log that was just read, compared with what was signed of it. Also what is amiss.
pub(super) fn grow<S: Storage>(storage: &mut S, from: u64, leaves: Vec<Hash>) -> (Growing, Option<String>) {
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
pub(super) fn restart<S: Storage>(growing: &mut Growing, storage: &S) {
    growing.hold(Tree::beginning_at(storage.begin()));
}

/// Makes sure that the edge in front of entry `at` is kept.
pub(super) fn keep_edge<S: Storage>(storage: &mut S, at: u64) -> bool {
    let Ok(mut tree) = storage.tree_before(at) else { return false };
    while tree.entries() < at {
        let Ok(Some(read)) = storage.sealed_leaf(tree.entries()) else { return false };
        tree.push(read.leaf);
    }
    storage.keep_tree(&tree).is_ok()
}

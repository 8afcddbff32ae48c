//! The tree of a log that is being written: it is compared with what was signed of it, continued with each durable entry, and
//! built from the sealed segments where their edges are missing.

use std::io;

use super::{SignedTree, Tree};
use crate::entry::Hash;
use crate::storage::Storage;

/// The tree of an open log.
#[derive(Debug)]
pub(crate) struct Growing {
    tree: Tree,
    /// Hashes of the entries that are behind `from` and not in the tree yet: those before it are still being read.
    waiting: Vec<Hash>,
    from: u64,
    /// Borders in `waiting` of which the edge is to be kept.
    borders: Vec<u64>,
    /// What was signed last, until the tree has been compared with it.
    signed: Option<SignedTree>,
    /// Why the tree cannot be continued.
    stuck: Option<String>,
    /// The tree is not built, and no edge kept, until what was signed of another one is put aside.
    held: bool,
}

impl Growing {
    /// A tree that stands at `tree`; the file being written begins with entry `from` and has the entries of `waiting`.
    pub fn new(tree: Tree, from: u64, waiting: Vec<Hash>, signed: Option<SignedTree>) -> Growing {
        Growing { tree, waiting, from, borders: Vec::new(), signed, stuck: None, held: false }
    }

    /// The tree of all durable entries; `None` while it is being built.
    pub fn ready(&self) -> Option<&Tree> {
        let complete = self.waiting.is_empty() && self.tree.entries() == self.from;
        (complete && self.stuck.is_none() && !self.held).then_some(&self.tree)
    }

    /// Whether there are entries left to bring into the tree.
    pub fn is_building(&self) -> bool {
        self.stuck.is_none() && self.ready().is_none()
    }

    /// Why there is no tree.
    pub fn stuck(&self) -> Option<&str> {
        self.stuck.as_deref()
    }

    /// Appends the leaf of an entry that is durable.
    pub fn push(&mut self, leaf: Hash) {
        if self.ready().is_some() {
            self.tree.push(leaf);
            self.from += 1;
        } else if self.stuck.is_none() {
            self.waiting.push(leaf);
        }
    }

    /// The file was sealed behind the last entry.
    pub fn sealed(&mut self, storage: &mut impl Storage) {
        match self.ready() {
            Some(tree) => keep(storage, tree),
            None => self.borders.push(self.from + self.waiting.len() as u64),
        }
    }

    /// Reads about `budget` bytes of sealed segments. Returns what is amiss: the log is not the one that was signed. The caller
    /// calls [`hold`](Self::hold), and puts aside what was signed when the finding is durable.
    pub fn build(&mut self, storage: &mut impl Storage, budget: u64) -> Option<String> {
        if let Some(why) = self.signed.as_ref().and_then(|signed| self.cannot_contain(signed)) {
            return Some(why);
        }
        if self.stuck.is_some() || self.held || (self.ready().is_some() && self.signed.is_none()) {
            return None;
        }
        match self.read(storage, budget) {
            Ok(None) => {}
            Ok(Some(why)) => return Some(why),
            Err(error) => {
                self.stuck = Some(format!("the tree of the audit log cannot be built: {error}"));
                (self.waiting, self.signed) = (Vec::new(), None);
                return self.stuck.clone();
            }
        }
        if self.tree.entries() < self.from {
            return None;
        }
        let mut tree = self.tree.clone();
        for leaf in &self.waiting {
            if let Some(why) = self.signed.as_ref().and_then(|signed| differs(&tree, signed)) {
                return Some(why);
            }
            if self.borders.contains(&tree.entries()) {
                keep(storage, &tree);
            }
            tree.push(*leaf);
        }
        if let Some(why) = self.signed.as_ref().and_then(|signed| differs(&tree, signed)) {
            return Some(why);
        }
        (self.from, self.tree, self.signed) = (tree.entries(), tree, None);
        (self.waiting, self.borders) = (Vec::new(), Vec::new());
        None
    }

    /// Begins anew at `tree`, without anything to compare with, and waits for [`release`](Self::release).
    pub fn hold(&mut self, tree: Tree) {
        (self.tree, self.signed, self.held) = (tree, None, true);
    }

    /// Whether it waits.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// What was signed is put aside.
    pub fn release(&mut self) {
        self.held = false;
    }

    fn read(&mut self, storage: &mut impl Storage, budget: u64) -> io::Result<Option<String>> {
        let mut left = budget;
        while self.tree.entries() < self.from {
            let Some(read) = storage.sealed_leaf(self.tree.entries())? else { break };
            if let Some(why) = self.signed.as_ref().and_then(|signed| differs(&self.tree, signed)) {
                return Ok(Some(why));
            }
            if read.at_border {
                keep(storage, &self.tree);
            }
            self.tree.push(read.leaf);
            left = left.saturating_sub(read.bytes);
            if left == 0 {
                break;
            }
        }
        if self.tree.entries() == self.from {
            keep(storage, &self.tree);
        }
        Ok(None)
    }

    /// What shows already that the log does not contain what was signed.
    fn cannot_contain(&self, signed: &SignedTree) -> Option<String> {
        let entries = self.from + self.waiting.len() as u64;
        if signed.entries() > entries {
            return Some(format!(
                "the audit log was rolled back: it has {entries} entries, but a checkpoint was signed for {}; entries at its end were \
                 removed, or an older copy was restored",
                signed.entries()
            ));
        }
        (signed.first != self.tree.first).then(|| {
            format!(
                "the tree of the audit log begins with entry {}, but a checkpoint was signed for a tree that begins with entry {}",
                self.tree.first, signed.first
            )
        })
    }
}

/// What is amiss if `tree` stands where a checkpoint was signed and has another root.
fn differs(tree: &Tree, signed: &SignedTree) -> Option<String> {
    if tree.entries() != signed.entries() {
        return None;
    }
    let root = tree.frontier.root();
    (root != signed.root).then(|| {
        format!(
            "the audit log does not contain what was signed: its first {} entries have root hash {}, the checkpoint has {}; an \
             entry was replaced, or the log is another one",
            signed.entries(),
            hex::encode(root),
            hex::encode(signed.root)
        )
    })
}

/// A border of which the edge is not kept is read once more at the next start.
fn keep(storage: &mut impl Storage, tree: &Tree) {
    let _derived = storage.keep_tree(tree);
}

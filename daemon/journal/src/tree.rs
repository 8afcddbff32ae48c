//! The Merkle tree of RFC 6962 over the log's entries, and what is signed of it. Leaf hashes are those of the entries as they are
//! stored, so a log of an earlier version has a tree too.
//!
//! ```text
//!  audit/N.tree         edge of the tree at the border in front of entry N: with it, nothing before N has to be read
//!        N.checkpoint   the signed checkpoint of the tree of the entries before N
//!  log.checkpoint       the latest signed checkpoint, outside the log's folder
//! ```
//!
//! Invariants:
//! - Only durable entries are in the tree that is signed.
//! - A checkpoint that the log does not contain is never overwritten: it is moved aside with what belongs to it, and the tree
//!   goes on under another origin.
//! - At the start at most [`START_BYTES`] of sealed segments are read. A log without edges gets them step by step, on the log's
//!   thread.

pub mod edge;
pub mod extends;
mod growing;
pub mod leaves;
pub mod prove;
pub mod signed;

pub use edge::Edge;
pub(crate) use growing::Growing;
pub use signed::{SignedTree, Signing};

use failsafe_tlog::Frontier;

use crate::entry::Hash;

/// Most bytes of sealed segments that are read for the tree at the start.
pub const START_BYTES: u64 = 16 << 20;
/// Bytes of sealed segments that are read for the tree between two commits.
pub(crate) const STEP_BYTES: u64 = 4 << 20;

/// The tree over the log's entries from `first` on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// The entry that is leaf 0: 0, unless entries had been removed before the log had a tree.
    pub first: u64,
    /// Its right edge.
    pub frontier: Frontier,
}

impl Tree {
    /// A tree without leaves that begins with entry `first`.
    #[must_use]
    pub fn beginning_at(first: u64) -> Tree {
        Tree { first, frontier: Frontier::new() }
    }

    /// The entry that is its next leaf, which is the number of entries of the log so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.first.saturating_add(self.frontier.size())
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.frontier.push(leaf);
    }
}

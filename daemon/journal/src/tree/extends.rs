//! Whether the log of one checkpoint extends that of an earlier one, from the files of the log, without the daemon.

use failsafe_tlog::collect::NoProof;
use failsafe_tlog::proof::verify_consistency;
use failsafe_tlog::{Collector, leaf_hash};
use std::io;
use std::path::Path;

use super::leaves::Leaves;
use super::{SignedTree, Tree, edge};
use crate::entry::Hash;
use crate::removal;

/// Why it is not shown that a log extends an earlier checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum NotExtended {
    /// The checkpoints have different origins.
    #[error("the earlier checkpoint is of the log {old}, the newer one of the log {new}")]
    OtherLog {
        /// Origin of the earlier one.
        old: String,
        /// Origin of the newer one.
        new: String,
    },
    /// The log is not the one of a checkpoint.
    #[error(
        "the first {entries} entries of the log have root hash {computed}, but the {which} checkpoint has {expected}"
    )]
    Forked {
        /// `earlier` or `newer`.
        which: &'static str,
        /// Entries of the checkpoint.
        entries: u64,
        /// By the log.
        computed: String,
        /// By the checkpoint.
        expected: String,
    },
    /// The log ends before a checkpoint.
    #[error(
        "the log has {found} entries, but the {which} checkpoint was signed for {entries}: entries at its end are missing"
    )]
    Shortened {
        /// `earlier` or `newer`.
        which: &'static str,
        /// Entries of the log.
        found: u64,
        /// Entries of the checkpoint.
        entries: u64,
    },
    /// The log has both, but the newer checkpoint is the older one.
    #[error(
        "the newer checkpoint was signed for {new} entries, fewer than the {old} of the earlier one, and the log contains both: an old \
         checkpoint is presented as a new one"
    )]
    Stale {
        /// Entries of the earlier one.
        old: u64,
        /// Entries of the newer one.
        new: u64,
    },
    /// What the proof needs was removed.
    #[error(transparent)]
    Removed(NoProof),
    /// The tree cannot be continued.
    #[error("the tree of the log is not known: {0}")]
    Tree(String),
    /// The log cannot be read.
    #[error("read the audit log")]
    Read(#[from] io::Error),
}

/// The proof that the tree of `new` contains the tree of `old`, made of the log in `dir`, and verified.
///
/// # Errors
/// [`NotExtended`].
pub fn extends(dir: &Path, old: &SignedTree, new: &SignedTree) -> Result<Vec<Hash>, NotExtended> {
    if old.origin != new.origin {
        return Err(NotExtended::OtherLog { old: old.origin.clone(), new: new.origin.clone() });
    }
    let stale = new.size < old.size;
    let (lower, upper) = if stale { ((new, "newer"), (old, "earlier")) } else { ((old, "earlier"), (new, "newer")) };
    let removed = removal::read(dir).ok().flatten();
    let begin = removed.as_ref().map_or(0, |removed| removed.entries);
    let base = |at_most: u64| match edge::nearest(dir, removed.as_ref(), at_most) {
        Err(_) if old.first == begin => Ok(Tree::beginning_at(begin)),
        nearest => nearest.map_err(NotExtended::Tree),
    };
    let nearest = base(lower.0.entries().max(begin))?;
    let from_edge = nearest.entries() > begin;
    let found = match compare(dir, nearest, lower, upper) {
        // An edge is derived data: a damaged one is no fork, and one behind the end of the log says nothing. The entries decide.
        Err(NotExtended::Forked { .. } | NotExtended::Tree(_) | NotExtended::Read(_)) if from_edge => {
            compare(dir, base(begin)?, lower, upper)
        }
        found => found,
    };
    match found? {
        _ if stale => Err(NotExtended::Stale { old: old.entries(), new: new.entries() }),
        hashes => Ok(hashes),
    }
}

/// A checkpoint, and which of the two it is.
type Named<'a> = (&'a SignedTree, &'static str);

fn compare(dir: &Path, base: Tree, lower: Named<'_>, upper: Named<'_>) -> Result<Vec<Hash>, NotExtended> {
    let ((lower, lower_is), (upper, upper_is)) = (lower, upper);
    if base.first != upper.first {
        return Err(NotExtended::Tree(format!(
            "the edge at entry {} is of a tree that begins with entry {}, not {}",
            base.entries(),
            base.first,
            upper.first
        )));
    }
    let collected = Collector::consistency(&base.frontier, lower.size, upper.size);
    let mut collector = collected.map_err(NotExtended::Removed)?;
    let mut leaves = Leaves::new(dir, base.entries());
    while leaves.next_index() < upper.entries() {
        let Some(entry) = leaves.next_entry()? else { break };
        collector.push(leaf_hash(&entry));
    }
    let found = leaves.next_index();
    if found < upper.entries() {
        let (which, short) = if found < lower.entries() { (lower_is, lower) } else { (upper_is, upper) };
        return Err(NotExtended::Shortened { which, found, entries: short.entries() });
    }
    let (mut proofs, computed) = collector.finish().map_err(NotExtended::Removed)?;
    if computed != upper.root {
        let (computed, expected) = (hex::encode(computed), hex::encode(upper.root));
        return Err(NotExtended::Forked { which: upper_is, entries: upper.entries(), computed, expected });
    }
    let proof = proofs.pop().unwrap_or_default();
    verify_consistency((lower.size, &lower.root), (upper.size, &upper.root), &proof).map_err(|wrong| {
        use failsafe_tlog::proof::Wrong;
        let (Wrong::Fork { computed, .. } | Wrong::Root { computed, .. }) = wrong else {
            return NotExtended::Tree(wrong.to_string());
        };
        let expected = hex::encode(lower.root);
        NotExtended::Forked { which: lower_is, entries: lower.entries(), computed, expected }
    })?;
    Ok(proof)
}

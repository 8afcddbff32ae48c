//! Proofs from the files of a log, without the daemon.

use failsafe_tlog::collect::NoProof;
use failsafe_tlog::{Checkpoint, Collector, ProofFile, leaf_hash};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::leaves::Leaves;
use super::{SignedTree, Tree, edge};
use crate::entry::Hash;
use crate::removal;

/// A proof that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// It is behind the checkpoint.
    #[error("entry {index} is not covered by the checkpoint, which has {entries} entries")]
    NotCovered {
        /// The entry.
        index: u64,
        /// Entries that the checkpoint vouches for.
        entries: u64,
    },
    /// It is before the tree.
    #[error(
        "entry {index} is not in the tree, which begins with entry {first}: it had been removed when the tree was begun"
    )]
    BeforeTree {
        /// The entry.
        index: u64,
        /// The entry that is leaf 0.
        first: u64,
    },
    /// It was removed.
    #[error(
        "entry {index} is not in the log, which begins with entry {first}: earlier entries were removed by retention"
    )]
    Removed {
        /// The entry.
        index: u64,
        /// The first entry of the log.
        first: u64,
    },
    /// The tree cannot be continued.
    #[error("the tree of the log is not known: {0}")]
    Tree(String),
    /// The log is not the one of the checkpoint.
    #[error(
        "the log does not fit the checkpoint: its first {entries} entries have root hash {computed}, the checkpoint has {expected}"
    )]
    Differs {
        /// Entries of the checkpoint.
        entries: u64,
        /// By the log.
        computed: String,
        /// By the checkpoint.
        expected: String,
    },
    /// Something is missing in the log.
    #[error(transparent)]
    NoProof(#[from] NoProof),
    /// The log cannot be read.
    #[error("read the audit log")]
    Read(#[from] io::Error),
}

/// An entry and its inclusion proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Included {
    /// Its place in the tree.
    pub leaf: u64,
    /// The inclusion proof.
    pub hashes: Vec<Hash>,
    /// Its bytes.
    pub entry: Vec<u8>,
}

/// The proof that entry `index` of the log in `dir` is in the tree of `checkpoint`, a signed checkpoint as bytes. What it reads
/// begins at the last known edge in front of the entry.
///
/// # Errors
/// [`ProveError`].
pub fn prove(dir: &Path, index: u64, checkpoint: Checkpoint, note: Vec<u8>) -> Result<ProofFile, ProveError> {
    let mut proved = prove_all(dir, &[index], checkpoint)?;
    let Included { leaf, hashes, entry } = proved.remove(0);
    Ok(ProofFile { extra: Some(entry), index: leaf, hashes, checkpoint: note })
}

/// The same for several entries, in the order of `indices`. The log is read once.
///
/// # Errors
/// [`ProveError`], for the first entry of which there is no proof.
pub fn prove_all(dir: &Path, indices: &[u64], checkpoint: Checkpoint) -> Result<Vec<Included>, ProveError> {
    let Some(first_wanted) = indices.iter().copied().min() else { return Ok(Vec::new()) };
    let origin = checkpoint.origin.clone();
    let signed = SignedTree::of(checkpoint)
        .ok_or_else(|| ProveError::Tree(format!("the origin {origin} names no first entry")))?;
    let removed = removal::read(dir).ok().flatten();
    let first = removed.as_ref().map_or(0, |removed| removed.entries);
    let leaf = |index: u64| {
        if index >= signed.entries() {
            return Err(ProveError::NotCovered { index, entries: signed.entries() });
        }
        let leaf = index.checked_sub(signed.first).ok_or(ProveError::BeforeTree { index, first: signed.first })?;
        if index < first { Err(ProveError::Removed { index, first }) } else { Ok(leaf) }
    };
    let leaf_numbers = indices.iter().map(|index| leaf(*index)).collect::<Result<Vec<_>, _>>()?;
    let base = |at_most: u64| match edge::nearest(dir, removed.as_ref(), at_most) {
        Err(_) if signed.first == first => Ok(Tree::beginning_at(first)),
        nearest => nearest.map_err(ProveError::Tree),
    };
    let nearest = base(first_wanted)?;
    let from_edge = nearest.entries() > first;
    match included(dir, nearest, (indices, &leaf_numbers), &signed) {
        // An edge is derived data: a damaged one says nothing about the log. The entries decide.
        Err(ProveError::Differs { .. } | ProveError::Tree(_) | ProveError::Read(_)) if from_edge => {
            included(dir, base(first)?, (indices, &leaf_numbers), &signed)
        }
        proved => proved,
    }
}

/// The proofs, by the entries behind `tree`.
fn included(
    dir: &Path,
    tree: Tree,
    (indices, leaf_numbers): (&[u64], &[u64]),
    signed: &SignedTree,
) -> Result<Vec<Included>, ProveError> {
    if tree.first != signed.first {
        return Err(ProveError::Tree(format!(
            "the edge at entry {} is of a tree that begins with entry {}, not {}",
            tree.entries(),
            tree.first,
            signed.first
        )));
    }
    let mut collector = Collector::inclusion(&tree.frontier, leaf_numbers, signed.size)?;
    let mut leaves = Leaves::new(dir, tree.entries());
    let mut entries: BTreeMap<u64, Vec<u8>> = indices.iter().map(|index| (*index, Vec::new())).collect();
    while leaves.next_index() < signed.entries() {
        let at = leaves.next_index();
        let Some(entry) = leaves.next_entry()? else { break };
        collector.push(leaf_hash(&entry));
        if let Some(wanted) = entries.get_mut(&at) {
            *wanted = entry;
        }
    }
    let (proofs, computed) = collector.finish()?;
    if computed != signed.root {
        let (computed, expected) = (hex::encode(computed), hex::encode(signed.root));
        return Err(ProveError::Differs { entries: signed.entries(), computed, expected });
    }
    let included = indices.iter().zip(leaf_numbers).zip(proofs).map(|((index, leaf), hashes)| {
        let entry = entries.get(index).cloned().unwrap_or_default();
        Included { leaf: *leaf, hashes, entry }
    });
    Ok(included.collect())
}

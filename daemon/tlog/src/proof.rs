//! Inclusion and consistency proofs: which parts of a tree they consist of, and their verification as RFC 9162 section 2.1
//! describes it.

use crate::hash::{Hash, empty_root, node_hash};
use std::ops::Range;

/// A proof that does not prove.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// The leaf is not in a tree of that size.
    #[error("entry {index} is not in a tree of {size} entries")]
    Outside {
        /// The leaf.
        index: u64,
        /// The tree.
        size: u64,
    },
    /// The later tree is the smaller one.
    #[error(
        "the later tree has {later} entries, fewer than the {earlier} of the earlier one: entries at the end are missing"
    )]
    Smaller {
        /// Size of the earlier tree.
        earlier: u64,
        /// Size of the later tree.
        later: u64,
    },
    /// Too few or too many hashes.
    #[error("the proof has {found} hashes; a proof of this kind for these sizes has {expected}")]
    Length {
        /// Hashes that are needed.
        expected: usize,
        /// Hashes given.
        found: usize,
    },
    /// The hashes lead to another root: the entry, its place, or the proof differs.
    #[error(
        "the proof leads to root hash {computed}, but the tree has {expected}: the entry, its place or the proof was changed"
    )]
    Root {
        /// By the proof.
        computed: String,
        /// Of the tree.
        expected: String,
    },
    /// The earlier tree is not the beginning of the later one.
    #[error(
        "the proof leads to root hash {computed} for the earlier tree, but it has {expected}: the later tree does not contain the earlier one"
    )]
    Fork {
        /// By the proof.
        computed: String,
        /// Of the earlier tree.
        expected: String,
    },
}

/// The parts of a tree of `size` leaves, as ranges of leaves, that the inclusion proof for leaf `index` names by their roots, in
/// the proof's order.
///
/// # Errors
/// [`Wrong::Outside`].
pub fn inclusion_ranges(index: u64, size: u64) -> Result<Vec<Range<u64>>, Wrong> {
    if index >= size {
        return Err(Wrong::Outside { index, size });
    }
    let (mut from, mut to) = (0, size);
    let mut ranges = Vec::new();
    while to - from > 1 {
        let middle = from + left_half(to - from);
        if index < middle {
            ranges.push(middle..to);
            to = middle;
        } else {
            ranges.push(from..middle);
            from = middle;
        }
    }
    ranges.reverse();
    Ok(ranges)
}

/// The parts of a tree of `later` leaves that the proof names which shows that it contains the tree of `earlier` leaves.
///
/// # Errors
/// [`Wrong::Smaller`].
pub fn consistency_ranges(earlier: u64, later: u64) -> Result<Vec<Range<u64>>, Wrong> {
    if earlier > later {
        return Err(Wrong::Smaller { earlier, later });
    }
    if earlier == 0 || earlier == later {
        return Ok(Vec::new());
    }
    let (mut from, mut to) = (0, later);
    let mut ranges = Vec::new();
    while to != earlier {
        let middle = from + left_half(to - from);
        if earlier <= middle {
            ranges.push(middle..to);
            to = middle;
        } else {
            ranges.push(from..middle);
            from = middle;
        }
    }
    // Where the earlier tree is a complete subtree, its root is known to whoever verifies.
    if from > 0 {
        ranges.push(from..to);
    }
    ranges.reverse();
    Ok(ranges)
}

/// The largest power of two below `size`, which is at least 2.
fn left_half(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// Whether the leaf with hash `leaf` is at `index` of the tree of `size` leaves with `root`.
///
/// # Errors
/// [`Wrong`]: it is not shown.
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, proof: &[Hash], root: &Hash) -> Result<(), Wrong> {
    let expected = inclusion_ranges(index, size)?.len();
    if proof.len() != expected {
        return Err(Wrong::Length { expected, found: proof.len() });
    }
    let (mut at, mut last) = (index, size - 1);
    let mut computed = *leaf;
    for hash in proof {
        if at & 1 == 1 || at == last {
            computed = node_hash(hash, &computed);
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            computed = node_hash(&computed, hash);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if last == 0 && computed == *root {
        return Ok(());
    }
    Err(Wrong::Root { computed: hex::encode(computed), expected: hex::encode(root) })
}

/// Whether the tree of `later` leaves with `later_root` begins with the tree of `earlier` leaves with `earlier_root`.
///
/// # Errors
/// [`Wrong`]: it is not shown.
pub fn verify_consistency(
    (earlier, earlier_root): (u64, &Hash),
    (later, later_root): (u64, &Hash),
    proof: &[Hash],
) -> Result<(), Wrong> {
    let expected = consistency_ranges(earlier, later)?.len();
    if proof.len() != expected {
        return Err(Wrong::Length { expected, found: proof.len() });
    }
    let fork = |computed: &Hash| Wrong::Fork { computed: hex::encode(computed), expected: hex::encode(earlier_root) };
    if earlier == 0 {
        return if *earlier_root == empty_root() { Ok(()) } else { Err(fork(&empty_root())) };
    }
    if earlier == later {
        return if earlier_root == later_root { Ok(()) } else { Err(fork(later_root)) };
    }
    let (mut at, mut last) = (earlier - 1, later - 1);
    while at & 1 == 1 {
        (at, last) = (at >> 1, last >> 1);
    }
    let mut hashes = proof.iter();
    let begin = if earlier.is_power_of_two() { Some(earlier_root) } else { hashes.next() };
    let (mut old, mut new) = begin.map_or((empty_root(), empty_root()), |hash| (*hash, *hash));
    for hash in hashes {
        if at & 1 == 1 || at == last {
            (old, new) = (node_hash(hash, &old), node_hash(hash, &new));
            while at & 1 == 0 && at != 0 {
                (at, last) = (at >> 1, last >> 1);
            }
        } else {
            new = node_hash(&new, hash);
        }
        (at, last) = (at >> 1, last >> 1);
    }
    if old != *earlier_root {
        return Err(fork(&old));
    }
    if last == 0 && new == *later_root {
        return Ok(());
    }
    Err(Wrong::Root { computed: hex::encode(new), expected: hex::encode(later_root) })
}

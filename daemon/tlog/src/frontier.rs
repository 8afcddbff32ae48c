//! The right edge of a tree: the roots of the complete subtrees that make it up, largest first. It is all that is needed to
//! append and to compute the root.
//!
//! ```text
//!  size 7 = 4 + 2 + 1:      [root of 0..4] [root of 4..6] [leaf 6]
//! ```

use crate::hash::{Hash, empty_root, node_hash};

/// The right edge of a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    hashes: Vec<Hash>,
}

/// A stored frontier that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tree of {size} leaves has {expected} hashes at its right edge, not {found}")]
pub struct WrongEdge {
    /// Number of leaves.
    pub size: u64,
    /// Number of ones in it.
    pub expected: usize,
    /// Hashes given.
    pub found: usize,
}

impl Frontier {
    /// Of the empty tree.
    #[must_use]
    pub fn new() -> Frontier {
        Frontier::default()
    }

    /// A frontier that was stored.
    ///
    /// # Errors
    /// [`WrongEdge`]: `hashes` does not fit `size`.
    pub fn restore(size: u64, hashes: Vec<Hash>) -> Result<Frontier, WrongEdge> {
        let expected = size.count_ones() as usize;
        if hashes.len() != expected {
            return Err(WrongEdge { size, expected, found: hashes.len() });
        }
        Ok(Frontier { size, hashes })
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the complete subtrees, largest first.
    #[must_use]
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Appends a leaf, given by its hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // Each trailing one is a complete subtree that becomes the left half of a larger one.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.hashes.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.hashes.push(node);
        self.size += 1;
    }

    /// The root hash.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut edge = self.hashes.iter().rev();
        let Some(last) = edge.next() else { return empty_root() };
        edge.fold(*last, |right, left| node_hash(left, &right))
    }

    /// The part of the edge that covers the leaves from `from` on, as a frontier of its own. `None`: `from` lies inside one of
    /// the subtrees, or behind the tree.
    #[must_use]
    pub fn suffix(&self, from: u64) -> Option<Frontier> {
        let mut covered = 0;
        let mut hashes = self.hashes.iter();
        let mut left = self.size;
        while covered < from {
            hashes.next()?;
            let subtree = 1 << left.checked_ilog2()?;
            covered += subtree;
            left -= subtree;
        }
        (covered == from).then(|| Frontier { size: left, hashes: hashes.copied().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;

    fn tree(leaves: std::ops::Range<u64>) -> Frontier {
        let mut frontier = Frontier::new();
        leaves.for_each(|n| frontier.push(leaf_hash(&n.to_be_bytes())));
        frontier
    }

    #[test]
    fn the_edge_behind_a_subtree_is_a_tree_of_its_own() {
        let whole = tree(0..7);
        assert_eq!(whole.suffix(0), Some(whole.clone()));
        assert_eq!(whole.suffix(4), Some(tree(4..7)));
        assert_eq!(whole.suffix(6), Some(tree(6..7)));
        assert_eq!(whole.suffix(7), Some(Frontier::new()));
        for inside in [1, 2, 3, 5, 8] {
            assert_eq!(whole.suffix(inside), None, "{inside}");
        }
    }

    #[test]
    fn an_edge_with_a_missing_or_additional_hash_is_refused() {
        let whole = tree(0..7);
        let restored = |n: usize| Frontier::restore(7, whole.hashes()[..n].to_vec());
        assert_eq!(restored(3), Ok(whole.clone()));
        assert_eq!(restored(2).unwrap_err().to_string(), "a tree of 7 leaves has 3 hashes at its right edge, not 2");
    }
}

//! Builds a proof while the leaves of a tree pass by, in memory that grows with its logarithm. The leaves before `base` are not
//! needed: the frontier there stands for them.

use crate::frontier::Frontier;
use crate::hash::Hash;
use crate::proof::{Wrong, consistency_ranges, inclusion_ranges};
use std::ops::Range;

/// The hashes of a proof in the making.
#[derive(Debug, Clone)]
pub struct Collector {
    parts: Vec<(Range<u64>, Frontier)>,
    /// Numbers of `parts`, by the beginning of the range.
    order: Vec<usize>,
    /// The part in `order` that the next leaf can be in.
    at: usize,
    size: u64,
    tree: Frontier,
}

/// A proof that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    /// It is about something that is not in the tree.
    #[error(transparent)]
    Wrong(#[from] Wrong),
    /// It needs hashes of leaves that are not there any more.
    #[error("the proof needs entries {from} to {to}, but the log begins at entry {base}: earlier ones were removed")]
    Removed {
        /// First entry that is needed.
        from: u64,
        /// Last one.
        to: u64,
        /// The first entry of the log.
        base: u64,
    },
    /// Fewer leaves came by than the tree has.
    #[error("the log has {found} entries, fewer than the {size} of the tree")]
    Short {
        /// Leaves that came by, those before the base included.
        found: u64,
        /// Leaves of the tree.
        size: u64,
    },
}

impl Collector {
    /// The inclusion proof of leaf `index` in the tree of `size` leaves.
    ///
    /// # Errors
    /// [`NoProof`].
    pub fn inclusion(base: &Frontier, index: u64, size: u64) -> Result<Collector, NoProof> {
        if index < base.size() {
            return Err(NoProof::Removed { from: index, to: index, base: base.size() });
        }
        Collector::new(base, inclusion_ranges(index, size)?, size)
    }

    /// The proof that the tree of `later` leaves contains that of `earlier` leaves.
    ///
    /// # Errors
    /// [`NoProof`].
    pub fn consistency(base: &Frontier, earlier: u64, later: u64) -> Result<Collector, NoProof> {
        Collector::new(base, consistency_ranges(earlier, later)?, later)
    }

    fn new(base: &Frontier, ranges: Vec<Range<u64>>, size: u64) -> Result<Collector, NoProof> {
        let removed = |range: &Range<u64>| NoProof::Removed {
            from: range.start,
            to: range.end.saturating_sub(1),
            base: base.size(),
        };
        if size < base.size() {
            return Err(removed(&(size.saturating_sub(1)..size)));
        }
        let parts = ranges.into_iter().map(|range| {
            if range.start >= base.size() {
                return Ok((range, Frontier::new()));
            }
            let known = base.suffix(range.start).ok_or_else(|| removed(&range))?;
            // The edge goes on behind the range: only its first subtree can be what is needed.
            let known = match known.size() > range.end - range.start {
                true => first_subtree(&known).filter(|first| first.size() == range.end - range.start),
                false => Some(known),
            };
            known.map(|known| (range.clone(), known)).ok_or_else(|| removed(&range))
        });
        let parts = parts.collect::<Result<Vec<_>, NoProof>>()?;
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|part| parts[*part].0.start);
        Ok(Collector { parts, order, at: 0, size, tree: base.clone() })
    }

    /// The next leaf, given by its hash. Leaves behind the tree are ignored.
    pub fn push(&mut self, leaf: Hash) {
        let index = self.tree.size();
        if index >= self.size {
            return;
        }
        self.tree.push(leaf);
        while let Some(part) = self.order.get(self.at) {
            let (range, frontier) = &mut self.parts[*part];
            if index >= range.end {
                self.at += 1;
                continue;
            }
            if range.contains(&index) {
                frontier.push(leaf);
            }
            break;
        }
    }

    /// The proof, and the root of the tree.
    ///
    /// # Errors
    /// [`NoProof::Short`].
    pub fn finish(self) -> Result<(Vec<Hash>, Hash), NoProof> {
        if self.tree.size() < self.size {
            return Err(NoProof::Short { found: self.tree.size(), size: self.size });
        }
        Ok((self.parts.iter().map(|(_, frontier)| frontier.root()).collect(), self.tree.root()))
    }
}

fn first_subtree(frontier: &Frontier) -> Option<Frontier> {
    let (size, hash) = (frontier.size(), frontier.hashes().first()?);
    Frontier::restore(1 << size.checked_ilog2()?, vec![*hash]).ok()
}

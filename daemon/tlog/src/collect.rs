//! Builds proofs while the leaves of a tree pass by once, in memory that grows with the number of proofs and the logarithm of the
//! tree. The leaves before `base` are not needed: the frontier there stands for them.

use crate::frontier::Frontier;
use crate::hash::Hash;
use crate::proof::{Wrong, consistency_ranges, inclusion_ranges};
use std::{collections::BTreeMap, ops::Range};

/// The hashes of proofs in the making.
#[derive(Debug, Clone)]
pub struct Collector {
    /// The subtrees that the proofs name, each once, by their beginnings.
    parts: Vec<(Range<u64>, Frontier)>,
    /// Of each proof, the numbers of its `parts`, in its order.
    proofs: Vec<Vec<usize>>,
    /// The first part that has not begun.
    next: usize,
    /// Parts that the next leaf can be in. The subtrees of several proofs can contain each other.
    open: Vec<usize>,
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
    /// The inclusion proofs of the leaves `indices` in the tree of `size` leaves.
    ///
    /// # Errors
    /// [`NoProof`].
    pub fn inclusion(base: &Frontier, indices: &[u64], size: u64) -> Result<Collector, NoProof> {
        let ranges = indices.iter().map(|&index| match index < base.size() {
            true => Err(NoProof::Removed { from: index, to: index, base: base.size() }),
            false => Ok(inclusion_ranges(index, size)?),
        });
        Collector::new(base, ranges.collect::<Result<_, _>>()?, size)
    }

    /// The proof that the tree of `later` leaves contains that of `earlier` leaves.
    ///
    /// # Errors
    /// [`NoProof`].
    pub fn consistency(base: &Frontier, earlier: u64, later: u64) -> Result<Collector, NoProof> {
        Collector::new(base, vec![consistency_ranges(earlier, later)?], later)
    }

    fn new(base: &Frontier, ranges: Vec<Vec<Range<u64>>>, size: u64) -> Result<Collector, NoProof> {
        let removed = |range: &Range<u64>| NoProof::Removed {
            from: range.start,
            to: range.end.saturating_sub(1),
            base: base.size(),
        };
        if size < base.size() {
            return Err(removed(&(size.saturating_sub(1)..size)));
        }
        let mut numbers: BTreeMap<(u64, u64), usize> =
            ranges.iter().flatten().map(|range| ((range.start, range.end), 0)).collect();
        numbers.values_mut().enumerate().for_each(|(at, number)| *number = at);
        let parts = numbers.keys().map(|&(start, end)| {
            let range = start..end;
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
        let number = |range: &Range<u64>| numbers.get(&(range.start, range.end)).copied();
        let proofs = ranges.iter().map(|proof| proof.iter().filter_map(number).collect()).collect();
        Ok(Collector { parts, proofs, next: 0, open: Vec::new(), size, tree: base.clone() })
    }

    /// The next leaf, given by its hash. Leaves behind the tree are ignored.
    pub fn push(&mut self, leaf: Hash) {
        let index = self.tree.size();
        if index >= self.size {
            return;
        }
        self.tree.push(leaf);
        while self.parts.get(self.next).is_some_and(|(range, _)| range.start <= index) {
            self.open.push(self.next);
            self.next += 1;
        }
        let parts = &mut self.parts;
        self.open.retain(|part| {
            let (range, frontier) = &mut parts[*part];
            let contains = range.contains(&index);
            if contains {
                frontier.push(leaf);
            }
            contains
        });
    }

    /// The proofs, and the root of the tree.
    ///
    /// # Errors
    /// [`NoProof::Short`].
    pub fn finish(self) -> Result<(Vec<Vec<Hash>>, Hash), NoProof> {
        if self.tree.size() < self.size {
            return Err(NoProof::Short { found: self.tree.size(), size: self.size });
        }
        let roots: Vec<Hash> = self.parts.iter().map(|(_, frontier)| frontier.root()).collect();
        let hashes = |proof: &Vec<usize>| proof.iter().filter_map(|part| roots.get(*part).copied()).collect();
        Ok((self.proofs.iter().map(hashes).collect(), self.tree.root()))
    }
}

fn first_subtree(frontier: &Frontier) -> Option<Frontier> {
    let (size, hash) = (frontier.size(), frontier.hashes().first()?);
    Frontier::restore(1 << size.checked_ilog2()?, vec![*hash]).ok()
}

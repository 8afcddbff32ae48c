//! The states that one rule keeps: one for the run, or one for each GPU or each series.
//!
//! Invariants: a look-up costs a binary search, however many series there are; the states are visited in the order in which they were
//! made, which is that of the decisions that follow from it in recordings.

use crate::{
    signal::{MAX_SERIES, Series},
    subject::GpuId,
};
use std::{cmp::Ordering, fmt};

/// What a state belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Of {
    Run,
    Gpu(GpuId),
    Series(Series),
    AllSeries,
}

/// The same, borrowed from a signal.
#[derive(Debug, Clone, Copy)]
pub(super) enum OfSignal<'s> {
    Run,
    Gpu(&'s GpuId),
    Series(&'s Series),
    AllSeries,
}

impl OfSignal<'_> {
    fn cmp(self, known: &Of) -> Ordering {
        match (self, known) {
            (OfSignal::Gpu(own), Of::Gpu(known)) => own.cmp(known),
            (OfSignal::Series(own), Of::Series(known)) => own.cmp(known),
            (own, known) => own.rank().cmp(&known.rank()),
        }
    }

    fn rank(self) -> u8 {
        match self {
            OfSignal::Run => 0,
            OfSignal::Gpu(_) => 1,
            OfSignal::Series(_) => 2,
            OfSignal::AllSeries => 3,
        }
    }

    fn to_owned(self) -> Of {
        match self {
            OfSignal::Run => Of::Run,
            OfSignal::Gpu(gpu) => Of::Gpu(gpu.clone()),
            OfSignal::Series(series) => Of::Series(series.clone()),
            OfSignal::AllSeries => Of::AllSeries,
        }
    }
}

impl Of {
    fn rank(&self) -> u8 {
        match self {
            Of::Run => 0,
            Of::Gpu(_) => 1,
            Of::Series(_) => 2,
            Of::AllSeries => 3,
        }
    }
}

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Of::Run => f.write_str("the run"),
            Of::Gpu(gpu) => gpu.fmt(f),
            Of::Series(series) => series.fmt(f),
            Of::AllSeries => f.write_str("all series"),
        }
    }
}

/// The states.
#[derive(Debug, Clone)]
pub(super) struct Levels<L> {
    /// In the order in which they were made.
    all: Vec<(Of, L)>,
    /// Their places, sorted by what they belong to.
    sorted: Vec<usize>,
}

impl<L> Default for Levels<L> {
    fn default() -> Self {
        Levels { all: Vec::new(), sorted: Vec::new() }
    }
}

impl<L: Default> Levels<L> {
    fn find(&self, of: OfSignal<'_>) -> Result<usize, usize> {
        self.sorted.binary_search_by(|at| match self.all.get(*at) {
            Some((known, _)) => of.cmp(known).reverse(),
            None => Ordering::Less,
        })
    }

    /// The state, made if there is none. `None` for a series beyond the limit: the sensor refuses those and reports them.
    pub(super) fn get(&mut self, of: OfSignal<'_>) -> Option<&mut L> {
        let at = match self.find(of) {
            Ok(found) => *self.sorted.get(found)?,
            Err(_) if matches!(of, OfSignal::Series(_)) && self.all.len() >= MAX_SERIES => return None,
            Err(place) => {
                self.all.push((of.to_owned(), L::default()));
                self.sorted.insert(place, self.all.len() - 1);
                self.all.len() - 1
            }
        };
        self.all.get_mut(at).map(|(_, level)| level)
    }

    /// The series has ended.
    pub(super) fn remove(&mut self, series: &Series) {
        let Ok(found) = self.find(OfSignal::Series(series)) else { return };
        let gone = self.sorted.remove(found);
        self.all.remove(gone);
        self.sorted.iter_mut().filter(|at| **at > gone).for_each(|at| *at -= 1);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Of, L)> {
        self.all.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut (Of, L)> {
        self.all.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(n: usize) -> Series {
        Series::Rank(n.to_string())
    }

    #[test]
    fn each_series_has_its_own_state_and_they_keep_the_order_in_which_they_came() {
        let mut levels: Levels<usize> = Levels::default();
        let order: Vec<usize> = (0..MAX_SERIES).map(|n| n * 37 % MAX_SERIES).collect();
        order.iter().for_each(|n| *levels.get(OfSignal::Series(&rank(*n))).unwrap() = *n);
        assert!(levels.get(OfSignal::Series(&rank(MAX_SERIES))).is_none(), "beyond the limit");
        *levels.get(OfSignal::AllSeries).unwrap() = 7_000;
        assert!(order.iter().all(|n| *levels.get(OfSignal::Series(&rank(*n))).unwrap() == *n));
        order.iter().step_by(2).for_each(|n| levels.remove(&rank(*n)));
        levels.remove(&rank(9_999));
        let kept: Vec<usize> = order.iter().copied().skip(1).step_by(2).chain([7_000]).collect();
        assert_eq!(levels.iter().map(|(_, level)| *level).collect::<Vec<_>>(), kept);
        assert!(kept[..128].iter().all(|n| *levels.get(OfSignal::Series(&rank(*n))).unwrap() == *n));
    }

    #[test]
    fn what_a_state_belongs_to_has_one_order() {
        let (gpu, series) = (GpuId("a".into()), rank(1));
        let all = [OfSignal::Run, OfSignal::Gpu(&gpu), OfSignal::Series(&series), OfSignal::AllSeries];
        for (n, one) in all.iter().enumerate() {
            for (m, other) in all.iter().enumerate() {
                assert_eq!(one.cmp(&OfSignal::to_owned(*other)), n.cmp(&m));
            }
        }
    }
}

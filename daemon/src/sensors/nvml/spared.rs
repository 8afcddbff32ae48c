//! The GPUs that the next sampler is to leave alone: those whose calls did not come back, for a while that grows, and those
//! that are let go of for a reset, until they are taken up again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// The longest that a GPU is left alone; a reset takes less.
const MOST: Duration = Duration::from_secs(600);
/// Shorter waits are not reported.
const LEAST: Duration = Duration::from_secs(1);

/// GPUs to be left alone.
#[derive(Debug, Default)]
pub struct Spared {
    /// By index: the UUID of one that hangs cannot be asked for.
    hung: BTreeMap<u32, Hung>,
    /// By UUID.
    let_go: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy)]
struct Hung {
    until: Instant,
    /// How long it is left alone the next time.
    next: Duration,
}

impl Spared {
    /// Leaves a GPU alone that hung: for `first`, or twice as long as the last time, unless that was long ago.
    pub fn hung(&mut self, index: u32, first: Duration) {
        let recent = self.hung.get(&index).filter(|hung| hung.until.elapsed() < MOST);
        let wait = recent.map_or(first, |hung| hung.next).max(LEAST);
        let next = (wait * 2).min(MOST);
        self.hung.insert(index, Hung { until: Instant::now() + wait, next });
    }

    /// Leaves a GPU alone until it is taken up.
    pub fn let_go(&mut self, uuid: String) {
        self.let_go.insert(uuid);
    }

    /// It need not be left alone any more.
    pub fn take_up(&mut self, uuid: &str) {
        self.let_go.remove(uuid);
    }

    /// Those that the next sampler leaves alone, and for how long. One that was never seen is held by nobody.
    pub fn of_next(&self, index: impl Fn(&str) -> Option<u32>) -> Vec<(u32, Duration)> {
        let now = Instant::now();
        let left = self.hung.iter().map(|(index, hung)| (*index, hung.until.saturating_duration_since(now)));
        let let_go = self.let_go.iter().filter_map(|uuid| Some((index(uuid)?, MOST)));
        // The first of an index is what counts.
        let_go.chain(left.filter(|(_, left)| *left >= LEAST)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_hangs_again_is_left_alone_for_longer_and_one_let_go_until_it_is_taken_up() {
        let mut spared = Spared::default();
        let seconds = Duration::from_secs;
        let next = |spared: &Spared| spared.of_next(|uuid| (uuid == "GPU-a").then_some(1));
        spared.hung(0, seconds(30));
        let [(0, first)] = next(&spared)[..] else { panic!("{:?}", next(&spared)) };
        assert!(first > seconds(20) && first <= seconds(30), "{first:?}");
        spared.hung(0, seconds(30));
        assert!(next(&spared)[0].1 > seconds(50), "{:?}", next(&spared));
        for _ in 0..9 {
            spared.hung(0, seconds(30));
        }
        assert!(next(&spared)[0].1 <= MOST);
        spared.let_go("GPU-a".into());
        spared.let_go("GPU-never-seen".into());
        assert_eq!(next(&spared)[0], (1, MOST));
        assert_eq!(next(&spared).len(), 2);
        spared.take_up("GPU-a");
        assert_eq!(next(&spared).len(), 1);
    }
}

//! The test that counts events: when the last of them happened, as many as the test needs.
//!
//! Memory is bounded by the number that is needed: further events replace the oldest ones, and the test is true by then.

use crate::time::{MonoTime, Span};
use std::collections::VecDeque;

/// Events that a test counts.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    needed: u32,
    /// Those that happened as the test states it.
    real: Times,
    /// Those that the kernel let through because the policy only observes; the test is on what is denied.
    would_be: Times,
}

/// The times of events, and how many each stands for.
#[derive(Debug, Clone, Default)]
struct Times {
    times: VecDeque<(MonoTime, u64)>,
    sum: u128,
    /// Older events were given up for newer ones, so that there were at least as many.
    full: bool,
}

impl Counted {
    /// Of a test that needs so many.
    pub(super) fn new(needed: u32) -> Counted {
        Counted { needed, real: Times::default(), would_be: Times::default() }
    }

    /// An event happened, which stands for `repeats` before it as well: the kernel reports the same call once a second.
    pub(super) fn take(&mut self, at: MonoTime, repeats: u64, observed: bool) {
        let times = if observed { &mut self.would_be } else { &mut self.real };
        times.take(at, repeats.saturating_add(1), self.needed as usize);
    }

    /// Whether enough happened within the window.
    pub(super) fn holds(&mut self, now: MonoTime, within: Span) -> bool {
        self.real.expire(now, within);
        self.would_be.expire(now, within);
        self.sum() >= u128::from(self.needed)
    }

    /// Whether what happened is not enough without what would have been denied.
    pub(super) fn is_observed(&self) -> bool {
        self.real.sum < u128::from(self.needed)
    }

    /// What would have been denied counts no more.
    pub(super) fn forget_would_be(&mut self) {
        self.would_be = Times::default();
    }

    /// How many were counted, in words.
    pub(super) fn show(&self) -> String {
        let more = if self.real.full || self.would_be.full { "at least " } else { "" };
        format!("{more}{} counted", self.sum())
    }

    fn sum(&self) -> u128 {
        self.real.sum + self.would_be.sum
    }
}

impl Times {
    fn take(&mut self, at: MonoTime, weight: u64, most: usize) {
        if self.times.capacity() == 0 {
            // Once, at the first event: a test of which none happens needs no memory.
            self.times.reserve_exact(most);
        }
        if self.times.len() >= most {
            self.drop_first();
            self.full = true;
        }
        // Time does not always go forward between processors.
        let at = self.times.back().map_or(at, |(last, _)| at.max(*last));
        self.times.push_back((at, weight));
        self.sum += u128::from(weight);
    }

    fn expire(&mut self, now: MonoTime, within: Span) {
        while self.times.front().is_some_and(|(at, _)| now.since(*at) >= within) {
            self.drop_first();
            self.full = false;
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, weight)) = self.times.pop_front() {
            self.sum -= u128::from(weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the definition: all events are kept, and those within the window are counted at each moment.
        #[test]
        fn a_count_holds_exactly_if_enough_events_are_in_the_window(
            needed in 2u32..6,
            events in prop::collection::vec((0u64..20, 0u64..3, any::<bool>()), 1..60),
        ) {
            let (mut counted, within) = (Counted::new(needed), Span(50));
            let (mut now, mut all) = (0, Vec::new());
            for (after, repeats, observed) in events {
                now += after;
                counted.take(MonoTime(now), repeats, observed);
                all.push((now, repeats + 1, observed));
                let lately = |of: &dyn Fn(bool) -> bool| -> u64 {
                    all.iter().filter(|(at, _, observed)| now - at < 50 && of(*observed)).map(|(_, weight, _)| weight).sum()
                };
                prop_assert_eq!(counted.holds(MonoTime(now), within), lately(&|_| true) >= u64::from(needed));
                prop_assert_eq!(counted.is_observed(), lately(&|observed| !observed) < u64::from(needed));
                prop_assert!(counted.real.times.len() <= needed as usize && counted.would_be.times.len() <= needed as usize);
            }
        }
    }
}

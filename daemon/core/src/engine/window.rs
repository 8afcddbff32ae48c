//! The window over which a rate is taken.

use crate::{
    policy::{Bound, Op},
    signal::Shape,
    time::{MonoTime, Span},
};
use std::collections::VecDeque;

/// Totals within the window, and the last one before it.
#[derive(Debug, Clone, Default)]
pub(super) struct Window(VecDeque<(MonoTime, i64)>);

impl Window {
    /// Growth of the value within the window, and the length it is to be divided by: never less than the window, so that
    /// the first samples of a run cannot make a rate out of nothing.
    /// A level that falls has shrunk; a total cannot.
    pub(super) fn delta(&mut self, at: MonoTime, total: i64, over: Span, shape: Shape) -> Option<(i64, Span)> {
        if shape == Shape::Counter && self.0.back().is_some_and(|(_, last)| *last > total) {
            // The counter was reset (driver reload, new cgroup): what was before says nothing of what is now.
            self.0.clear();
        }
        while self.0.get(1).is_some_and(|(next, _)| at.since(*next) >= over) {
            self.0.pop_front();
        }
        self.0.push_back((at, total));
        let (first_at, first) = *self.0.front()?;
        Some((total.saturating_sub(first), at.since(first_at).max(over)))
    }
}

/// `delta / span > bound` per second, exactly, in integers.
pub(super) fn rate_passed(op: Op, bound: Bound, delta: i64, span: Span) -> bool {
    let Bound::Integer(bound) = bound else { return false };
    let seen = i128::from(delta) * 1_000_000_000;
    let allowed = i128::from(bound) * i128::from(span.0);
    match op {
        Op::Above => seen > allowed,
        Op::Below => seen < allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(shape: Shape, samples: &[(u64, i64)]) -> i64 {
        let mut window = Window::default();
        let all = samples
            .iter()
            .map(|(s, value)| window.delta(MonoTime(s * 1_000_000_000), *value, Span::from_secs(5), shape));
        all.last().flatten().map_or(0, |(delta, _)| delta)
    }

    #[test]
    fn a_level_that_fell_has_shrunk_and_a_total_was_reset() {
        let samples = [(0, 100), (1, 40), (2, 70)];
        assert_eq!(growth(Shape::Level, &samples), -30);
        assert_eq!(growth(Shape::Counter, &samples), 30);
        assert_eq!(growth(Shape::Level, &[(0, 100), (1, 900), (7, 1_000), (8, 1_100)]), 200);
    }
}

//! What the detectors count with: how long a state lasts, and how a value moved within a window.

use crate::time::{MonoTime, Span};
use std::collections::VecDeque;

/// Points of a window at most; between them it is coarser.
const POINTS: u64 = 128;

/// How long a state has lasted, microseconds; 0 when it does not hold.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lasting(Option<MonoTime>);

impl Lasting {
    pub(super) fn take(&mut self, holds: bool, at: MonoTime) -> i64 {
        if !holds {
            self.0 = None;
            return 0;
        }
        let since = *self.0.get_or_insert(at);
        micros(at.since(since))
    }
}

/// A span in the unit of a duration signal.
pub(super) fn micros(span: Span) -> i64 {
    i64::try_from(span.0 / 1_000).unwrap_or(i64::MAX)
}

/// Values within a window.
#[derive(Debug, Clone)]
pub(super) struct Window {
    length: Span,
    points: VecDeque<(MonoTime, i64)>,
}

impl Window {
    pub(super) fn new(length: Span) -> Window {
        Window { length, points: VecDeque::new() }
    }

    /// Adds a value.
    pub(super) fn push(&mut self, value: i64, at: MonoTime) {
        while self.points.get(1).is_some_and(|(next, _)| at.since(*next) >= self.length) {
            self.points.pop_front();
        }
        let step = self.length.0 / POINTS;
        let close = self.points.len() > 1
            && self.points.get(self.points.len() - 2).is_some_and(|(before, _)| at.since(*before).0 < step);
        if close {
            self.points.pop_back();
        }
        self.points.push_back((at, value));
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.points.clear();
    }

    /// By how much the value moved over at least half the window, and in which time.
    pub(super) fn moved(&self) -> Option<(i64, Span)> {
        let ((first_at, first), (last_at, last)) = (self.points.front()?, self.points.back()?);
        let span = last_at.since(*first_at);
        (span.0 >= self.length.0 / 2 && span.0 > 0).then(|| (last.saturating_sub(*first), span))
    }

    /// How much that is in `per`.
    pub(super) fn slope(&self, per: Span) -> Option<i64> {
        let (moved, span) = self.moved()?;
        i64::try_from(i128::from(moved) * i128::from(per.0) / i128::from(span.0)).ok()
    }

    /// The mean of the values, where they cover at least half the window.
    pub(super) fn mean(&self) -> Option<i64> {
        self.moved()?;
        let sum: i128 = self.points.iter().map(|(_, value)| i128::from(*value)).sum();
        i64::try_from(sum / i128::try_from(self.points.len()).ok()?).ok()
    }
}

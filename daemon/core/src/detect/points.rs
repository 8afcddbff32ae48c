//! Values with their times over a window in time, thinned: of each part of the window the last value only. It never allocates after it
//! is made.

use crate::time::{MonoTime, Span};
use std::collections::VecDeque;

/// Parts of the window.
pub(super) const PARTS: usize = 128;

/// The points, oldest first. Which of them are too old is for the method to say.
#[derive(Debug)]
pub(super) struct Points {
    pub(super) points: VecDeque<(MonoTime, f64)>,
    room: usize,
    part: u64,
}

impl Clone for Points {
    fn clone(&self) -> Points {
        // The copy of a deque has the room for what is in it only.
        let mut points = VecDeque::with_capacity(self.room);
        points.extend(&self.points);
        Points { points, ..*self }
    }
}

impl Points {
    /// None yet, with room for as many, over a window of this length.
    pub(super) fn new(room: usize, over: Span) -> Points {
        Points { points: VecDeque::with_capacity(room), room, part: over.0 / PARTS as u64 }
    }

    /// The memory of as many.
    pub(super) const fn bytes(room: usize) -> usize {
        room * size_of::<(MonoTime, f64)>()
    }

    /// Removes the last point where it lies in the same part of the window as the one before it: the next takes its place.
    pub(super) fn thin(&mut self) {
        let before = |n: usize| self.points.len().checked_sub(n).and_then(|n| self.points.get(n));
        if before(2).zip(before(1)).is_some_and(|((before, _), (last, _))| last.since(*before).0 < self.part) {
            self.points.pop_back();
        }
    }
}

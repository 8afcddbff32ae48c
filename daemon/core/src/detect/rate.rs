//! A rate: how much the value has changed over a time, for each unit of time.
//!
//! It is the change between the value that came last and the newest value that is at least the window old, divided by the time between
//! them. The window is thinned to [`POINTS`] points, each the last value of its part of the time. Of a total, a value below the one
//! before it is a reset: what was before it says nothing of what is now.

use super::{Detect, Detector, Finding, Param, Range, Sample, Side, Spec};
use crate::time::{MonoTime, Span};
use std::collections::VecDeque;

pub(super) const SPEC: Spec = Spec {
    name: "rate",
    finds: "changes faster or slower than a rate",
    params: &[
        Param { name: "limit", what: "the change in `per` that is compared", range: Range::Level },
        Param {
            name: "per",
            what: "the unit of time of `limit`",
            range: Range::Time {
                default: Some(Span::from_secs(1)),
                least: Span::from_millis(1),
                most: Span::from_secs(7 * 86_400),
            },
        },
        Param {
            name: "over",
            what: "the time over which the change is taken",
            range: Range::Time {
                default: Some(Span::from_secs(60)),
                least: Span::from_secs(1),
                most: Span::from_secs(86_400),
            },
        },
        Param { name: "of", what: "of a total, a value that falls is a reset", range: Range::Choice(OF) },
        Param::side(&["above", "below"]),
    ],
    waits: false,
    check: |detect| match (detect.choice("of"), detect.number("limit") < 0.0) {
        ("total", true) => Err(("limit", "not below 0, as a total does not fall".to_owned())),
        _ => Ok(()),
    },
    bytes: |_| ROOM * size_of::<(MonoTime, f64)>(),
    start,
};

const OF: &[&str] = &["level", "total"];
/// Parts of the window.
const POINTS: usize = 128;
/// One for each part, the one before the window, and the one that came last.
const ROOM: usize = POINTS + 4;

#[derive(Debug)]
struct Rate {
    limit: f64,
    per: f64,
    over: Span,
    total: bool,
    side: Side,
    points: VecDeque<(MonoTime, f64)>,
}

impl Clone for Rate {
    fn clone(&self) -> Rate {
        // The copy of a deque has the room for what is in it only.
        let mut points = VecDeque::with_capacity(ROOM);
        points.extend(&self.points);
        Rate { points, ..*self }
    }
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(Rate {
        limit: detect.number("limit"),
        per: detect.time("per").0 as f64,
        over: detect.time("over"),
        total: detect.choice("of") == "total",
        side: detect.side(),
        points: VecDeque::with_capacity(ROOM),
    })
}

impl Detector for Rate {
    fn take(&mut self, Sample { value, at, .. }: Sample) -> Option<Finding> {
        self.push(value, at);
        let (first_at, first) = *self.points.front()?;
        let time = at.since(first_at);
        if time < self.over {
            return None;
        }
        // Finite, also where the change is not.
        let score = ((value - first) * (self.per / time.0 as f64)).clamp(f64::MIN, f64::MAX);
        Some(Finding { found: self.side.of(score - self.limit) > 0.0, score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

impl Rate {
    fn push(&mut self, value: f64, at: MonoTime) {
        if self.total && self.points.back().is_some_and(|(_, last)| value < *last) {
            self.points.clear();
        }
        let part = self.over.0 / POINTS as u64;
        let before = |n: usize| self.points.len().checked_sub(n).and_then(|n| self.points.get(n));
        if before(2).zip(before(1)).is_some_and(|((before, _), (last, _))| last.since(*before).0 < part) {
            self.points.pop_back();
        }
        while self.points.len() == ROOM || self.points.get(1).is_some_and(|(next, _)| at.since(*next) >= self.over) {
            self.points.pop_front();
        }
        self.points.push_back((at, value));
    }
}

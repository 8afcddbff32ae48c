//! A leak: memory that grows towards its limit. The slope over a time, and from it the time until the limit is reached.
//!
//! Only a slope that is certain counts. The window is thinned to [`POINTS`] points, each the last value of its part of the time.

use super::{Detect, Detector, Finding, Param, Range, Sample, Spec, no_check, plateau::Line};
use crate::time::{MonoTime, Span};
use std::collections::VecDeque;

pub(super) const SPEC: Spec = Spec {
    name: "leak",
    finds: "grows so that it reaches its limit soon",
    params: &[
        Param { name: "limit", what: "what it must not reach", range: Range::Level },
        Param {
            name: "within",
            what: "the time until then at most",
            range: Range::Time { default: None, least: Span::from_secs(1), most: Span::from_secs(7 * 86_400) },
        },
        Param {
            name: "over",
            what: "the time over which the slope is taken",
            range: Range::Time {
                default: Some(Span::from_secs(600)),
                least: Span::from_secs(1),
                most: Span::from_secs(86_400),
            },
        },
        Param::number("certain", (6.0, 1.0, 100.0), "standard errors that the slope must have at least"),
    ],
    waits: false,
    check: no_check,
    bytes: |_| (POINTS + 2) * size_of::<(MonoTime, f64)>(),
    start,
};

/// Points of the window.
const POINTS: usize = 128;

#[derive(Debug)]
struct Leak {
    limit: f64,
    within: f64,
    over: Span,
    certain: f64,
    points: VecDeque<(MonoTime, f64)>,
}

impl Clone for Leak {
    fn clone(&self) -> Leak {
        // The copy of a deque has the room for what is in it only.
        let mut points = VecDeque::with_capacity(POINTS + 2);
        points.extend(&self.points);
        Leak { points, ..*self }
    }
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(Leak {
        limit: detect.number("limit"),
        within: seconds(detect.time("within")),
        over: detect.time("over"),
        certain: detect.number("certain"),
        points: VecDeque::with_capacity(POINTS + 2),
    })
}

impl Detector for Leak {
    fn take(&mut self, Sample { value, at, .. }: Sample) -> Option<Finding> {
        self.push(value, at);
        let (first, _) = *self.points.front()?;
        if self.points.len() < 8 || at.since(first).0 < self.over.0 / 2 {
            return None;
        }
        let line = Line::through(self.points.iter().map(|(at, value)| (seconds(at.since(first)), *value)));
        let left = (self.limit - value).max(0.0) / line.slope;
        let certain = line.slope > 0.0 && line.slope > self.certain * line.error && left.is_finite();
        // What does not grow never reaches it.
        let score = if value >= self.limit {
            0.0
        } else if certain {
            left
        } else {
            f64::MAX
        };
        Some(Finding { found: score <= self.within, score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

impl Leak {
    fn push(&mut self, value: f64, at: MonoTime) {
        while self.points.front().is_some_and(|(first, _)| at.since(*first) > self.over) {
            self.points.pop_front();
        }
        let part = self.over.0 / POINTS as u64;
        let before = |n: usize| self.points.len().checked_sub(n).and_then(|n| self.points.get(n));
        if before(2).zip(before(1)).is_some_and(|((before, _), (last, _))| last.since(*before).0 < part) {
            self.points.pop_back();
        }
        if self.points.len() > POINTS {
            self.points.pop_front();
        }
        self.points.push_back((at, value));
    }
}

fn seconds(span: Span) -> f64 {
    span.0 as f64 / 1e9
}

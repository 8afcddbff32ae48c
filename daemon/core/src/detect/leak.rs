//! A leak: memory that grows towards its limit. The slope over a time, and from it the time until the limit is reached.
//!
//! Only a slope that is certain counts. The window is thinned to [`PARTS`] points, each the last value of its part of the time.

use super::{
    Detect, Detector, Finding, Param, Range, Sample, Spec, no_check,
    plateau::Line,
    points::{PARTS, Points},
};
use crate::time::{MonoTime, Span};

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
    bytes: |_| Points::bytes(ROOM),
    start,
};

/// The points of the window, and the one that came last.
const ROOM: usize = PARTS + 2;

#[derive(Debug, Clone)]
struct Leak {
    limit: f64,
    within: f64,
    over: Span,
    certain: f64,
    window: Points,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(Leak {
        limit: detect.number("limit"),
        within: seconds(detect.time("within")),
        over: detect.time("over"),
        certain: detect.number("certain"),
        window: Points::new(ROOM, detect.time("over")),
    })
}

impl Detector for Leak {
    fn take(&mut self, Sample { value, at, .. }: Sample) -> Option<Finding> {
        self.push(value, at);
        let (first, _) = *self.window.points.front()?;
        if self.window.points.len() < 8 || at.since(first).0 < self.over.0 / 2 {
            return None;
        }
        let line = Line::through(self.window.points.iter().map(|(at, value)| (seconds(at.since(first)), *value)));
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
        while self.window.points.front().is_some_and(|(first, _)| at.since(*first) > self.over) {
            self.window.points.pop_front();
        }
        self.window.thin();
        if self.window.points.len() > PARTS {
            self.window.points.pop_front();
        }
        self.window.points.push_back((at, value));
    }
}

fn seconds(span: Span) -> f64 {
    span.0 as f64 / 1e9
}

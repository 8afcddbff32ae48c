//! A rate: how much the value has changed over a time, for each unit of time.
//!
//! It is the change between the value that came last and the newest value that is at least the window old, divided by the time between
//! them. The window is thinned to [`PARTS`] points, each the last value of its part of the time. Of a total, a value below the one
//! before it is a reset: what was before it says nothing of what is now.

use super::{
    Detect, Detector, Finding, Param, Range, Sample, Side, Spec,
    points::{PARTS, Points},
};
use crate::time::{MonoTime, Span};

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
    bytes: |_| Points::bytes(ROOM),
    start,
};

const OF: &[&str] = &["level", "total"];
/// One for each part, the one before the window, and the one that came last.
const ROOM: usize = PARTS + 4;

#[derive(Debug, Clone)]
struct Rate {
    limit: f64,
    per: f64,
    over: Span,
    total: bool,
    side: Side,
    window: Points,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(Rate {
        limit: detect.number("limit"),
        per: detect.time("per").0 as f64,
        over: detect.time("over"),
        total: detect.choice("of") == "total",
        side: detect.side(),
        window: Points::new(ROOM, detect.time("over")),
    })
}

impl Detector for Rate {
    fn take(&mut self, Sample { value, at, .. }: Sample) -> Option<Finding> {
        self.push(value, at);
        let (first_at, first) = *self.window.points.front()?;
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
        if self.total && self.window.points.back().is_some_and(|(_, last)| value < *last) {
            self.window.points.clear();
        }
        self.window.thin();
        let points = &mut self.window.points;
        while points.len() == ROOM || points.get(1).is_some_and(|(next, _)| at.since(*next) >= self.over) {
            points.pop_front();
        }
        points.push_back((at, value));
    }
}

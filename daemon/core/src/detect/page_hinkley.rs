//! Page-Hinkley's test: the cumulative deviation from the mean of all values has moved far from its extreme. As river's
//! `drift.PageHinkley`, with which the tests compare it; after a finding it begins anew.

use super::{Detect, Detector, Finding, Param, Sample, Side, Spec, no_check};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "page-hinkley",
    finds: "has drifted from the mean of its values (test of Page and Hinkley)",
    params: &[
        Param::number("limit", (50.0, 0.000_001, 1_000_000.0), "cumulative deviation from which the test holds"),
        Param::number("drift", (0.005, 0.0, 1_000_000.0), "deviation that is subtracted for each value"),
        Param::number("keep", (0.9999, 0.5, 1.0), "share of the sum that is kept at each value"),
        Param::count("after", (30, 1, 1_000_000), "values before it judges"),
        Param::side(Side::NAMES),
    ],
    waits: false,
    check: no_check,
    bytes: |_| 0,
    start,
};

#[derive(Debug, Clone)]
struct PageHinkley {
    limit: f64,
    drift: f64,
    keep: f64,
    after: usize,
    side: Side,
    state: State,
}

#[derive(Debug, Clone)]
struct State {
    seen: usize,
    mean: f64,
    rise: f64,
    fall: f64,
    least: f64,
    greatest: f64,
}

impl State {
    const NEW: State =
        State { seen: 0, mean: 0.0, rise: 0.0, fall: 0.0, least: f64::INFINITY, greatest: f64::NEG_INFINITY };
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(PageHinkley {
        limit: detect.number("limit"),
        drift: detect.number("drift"),
        keep: detect.number("keep"),
        after: detect.count("after"),
        side: detect.side(),
        state: State::NEW,
    })
}

impl Detector for PageHinkley {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        let state = &mut self.state;
        state.seen = state.seen.saturating_add(1);
        state.mean += (value - state.mean) / state.seen as f64;
        let deviation = value - state.mean;
        state.rise = self.keep * state.rise + deviation - self.drift;
        state.fall = self.keep * state.fall + deviation + self.drift;
        state.least = state.least.min(state.rise);
        state.greatest = state.greatest.max(state.fall);
        if state.seen < self.after {
            return None;
        }
        let (rise, fall) = (state.rise - state.least, state.greatest - state.fall);
        let score = match self.side {
            Side::Above => rise,
            Side::Below => fall,
            Side::Both => rise.max(fall),
        };
        let found = score > self.limit;
        // Values that overflow the sums would hide what comes after them.
        if found || !score.is_finite() {
            *state = State::NEW;
        }
        score.is_finite().then_some(Finding { found, score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

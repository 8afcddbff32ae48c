//! Spikes: values far from the median of the values before them, in units of their median absolute deviation.
//!
//! A window with more than half of its values equal has no deviation: then nothing is judged.

use super::{Detect, Detector, Finding, Param, Sample, Side, Spec, ring::Sorted, ring::Votes};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "robust-z",
    finds: "is far from the median of the values before it, measured in robust standard deviations (MAD)",
    params: &[
        Param::number("limit", (6.0, 1.0, 1_000.0), "robust standard deviations from which a value counts"),
        Param::count("window", (100, 10, 2_000), "values before it that it is compared with"),
        Param::count("trips", (3, 1, 32), "how many of the last `of` values must count"),
        Param::count("of", (5, 1, 32), "of how many"),
        Param::side(Side::NAMES),
    ],
    waits: false,
    check: Votes::check,
    bytes: |detect| Sorted::bytes(detect.count("window")),
    start,
};

/// From the median absolute deviation to the standard deviation of a normal distribution.
const NORMAL: f64 = 1.482_602_218_505_602;

#[derive(Debug, Clone)]
struct RobustZ {
    limit: f64,
    side: Side,
    window: Sorted,
    votes: Votes,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(RobustZ {
        limit: detect.number("limit"),
        side: detect.side(),
        window: Sorted::new(detect.count("window")),
        votes: Votes::new(detect.count("trips"), detect.count("of")),
    })
}

impl Detector for RobustZ {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        let finding = self.judge(value);
        self.window.push(value);
        finding
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

impl RobustZ {
    fn judge(&mut self, value: f64) -> Option<Finding> {
        if !self.window.is_full() {
            return None;
        }
        let median = self.window.median();
        let deviation = NORMAL * self.window.deviation(median);
        let score = self.side.of((value - median) / deviation);
        // Also where nothing deviates, or the values are so large that their distance overflows.
        if !score.is_finite() {
            return None;
        }
        Some(Finding { found: self.votes.take(score > self.limit), score })
    }
}

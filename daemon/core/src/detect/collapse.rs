//! Collapse of throughput: values far below the median of the values before them.

use super::{Detect, Detector, Finding, Param, Sample, Spec, ring::Sorted, ring::Votes};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "collapse",
    finds: "has fallen to a fraction of the median of the values before it",
    params: &[
        Param::number("share", (0.5, 0.01, 0.99), "share of the median below which a value counts"),
        Param::count("window", (100, 10, 2_000), "values before it that it is compared with"),
        Param::count("trips", (3, 1, 32), "how many of the last `of` values must count"),
        Param::count("of", (3, 1, 32), "of how many"),
    ],
    waits: false,
    check: Votes::check,
    bytes: |detect| Sorted::bytes(detect.count("window")),
    start,
};

#[derive(Debug, Clone)]
struct Collapse {
    share: f64,
    window: Sorted,
    votes: Votes,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(Collapse {
        share: detect.number("share"),
        window: Sorted::new(detect.count("window")),
        votes: Votes::new(detect.count("trips"), detect.count("of")),
    })
}

impl Detector for Collapse {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        let median = self.window.median();
        let full = self.window.is_full();
        self.window.push(value);
        let score = value / median;
        // Of a median that is not above 0 there is no share.
        if !full || median <= 0.0 || !score.is_finite() {
            return None;
        }
        Some(Finding { found: self.votes.take(score < self.share), score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

//! Values that are the same, bit by bit: a loss that is computed anew never is.

use super::{Detect, Detector, Finding, Param, Sample, Spec, no_check};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "identical",
    finds: "has had the same value, bit by bit, again and again",
    params: &[Param::count("trips", (20, 2, 1_000_000), "equal values without a break")],
    waits: false,
    check: no_check,
    bytes: |_| 0,
    start,
};

#[derive(Debug, Clone)]
struct Identical {
    trips: usize,
    last: u64,
    equal: usize,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(Identical { trips: detect.count("trips"), last: 0, equal: 0 })
}

impl Detector for Identical {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        let bits = value.to_bits();
        self.equal = if self.equal > 0 && bits == self.last { self.equal.saturating_add(1) } else { 1 };
        self.last = bits;
        Some(Finding { found: self.equal >= self.trips, score: self.equal as f64 })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

//! Values outside a band around an exponentially weighted mean, in standard deviations that are weighted alike.
//!
//! A value outside the band moves the mean by no more than the band's edge: a spike does not widen the band for the next one.

use super::{Detect, Detector, Finding, Param, Sample, Side, Spec, no_check};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "ewma-band",
    finds: "is outside a band around its exponentially weighted mean",
    params: &[
        Param::number("limit", (6.0, 0.5, 1_000.0), "standard deviations from the mean to the edge of the band"),
        Param::number("fading", (0.03, 0.000_01, 0.5), "weight of a new value in mean and deviation"),
        Param::count("after", (100, 2, 1_000_000), "values before it judges"),
        Param::side(Side::NAMES),
    ],
    waits: false,
    check: no_check,
    bytes: |_| 0,
    start,
};

#[derive(Debug, Clone)]
struct EwmaBand {
    limit: f64,
    fading: f64,
    after: usize,
    side: Side,
    seen: usize,
    mean: f64,
    variance: f64,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    Box::new(EwmaBand {
        limit: detect.number("limit"),
        fading: detect.number("fading"),
        after: detect.count("after"),
        side: detect.side(),
        seen: 0,
        mean: 0.0,
        variance: 0.0,
    })
}

impl Detector for EwmaBand {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        let sigma = self.variance.sqrt();
        let residual = value - self.mean;
        let score = self.side.of(residual / sigma);
        let judges = self.seen >= self.after && score.is_finite();
        let most = if judges { self.limit * sigma } else { f64::INFINITY };
        self.learn(residual.clamp(-most, most));
        judges.then_some(Finding { found: score > self.limit, score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

impl EwmaBand {
    fn learn(&mut self, residual: f64) {
        self.seen = self.seen.saturating_add(1);
        if self.seen == 1 {
            (self.mean, self.variance) = (self.mean + residual, 0.0);
            return;
        }
        let mean = self.mean + self.fading * residual;
        let variance = (1.0 - self.fading) * (self.variance + self.fading * residual * residual);
        // A value whose square no number holds would end all judging.
        if mean.is_finite() && variance.is_finite() {
            (self.mean, self.variance) = (mean, variance);
        }
    }
}

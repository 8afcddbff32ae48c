//! Divergence: a small rise that lasts. One-sided cumulative sum of how far values lie from a slow reference, in standard deviations.
//!
//! The reference (exponentially weighted mean and mean absolute deviation) is held while evidence piles up, or it would follow the
//! rise that is looked for. One value adds at most `cap`: a single spike is for `robust-z`. What is found holds until the evidence is
//! as good as gone: a rise as small as `drift` lets the sum wander about the limit, and one rise would be found again and again. A rise
//! that has been found for `relearn` values is the new reference.

use super::{Detect, Detector, Finding, Param, Sample, Side, Spec, no_check};
use crate::time::MonoTime;

pub(super) const SPEC: Spec = Spec {
    name: "cusum",
    finds: "has moved from its slow average and stays there, even by little (one-sided cumulative sum, CUSUM)",
    params: &[
        Param::number("limit", (14.0, 1.0, 10_000.0), "sum of standard deviations from which the test holds"),
        Param::number("drift", (1.3, 0.0, 10.0), "standard deviations that are subtracted for each value"),
        Param::number("cap", (4.0, 0.5, 1_000.0), "standard deviations that one value adds at most"),
        Param::number("fading", (0.005, 0.000_01, 0.5), "weight of a new value in the reference"),
        Param::count("after", (1_000, 10, 1_000_000), "values from which the reference is made first"),
        Param::count("relearn", (1_000, 1, 1_000_000), "values after which a rise becomes the reference"),
        Param::side(&["above", "below"]),
    ],
    waits: false,
    check: |detect| match detect.number("cap") > detect.number("drift") {
        true => no_check(detect),
        false => Err(("cap", format!("more than {}, which is `drift`", detect.number("drift")))),
    },
    bytes: |_| 0,
    start,
};

/// From the mean absolute deviation to the standard deviation of a normal distribution.
const NORMAL: f64 = 1.253_314_137_315_5;
/// Values beyond it are no measurement, but the overflow of a program: the square of a number above it is none. One among the first
/// values would be most of the reference for as long as it fades.
const LARGEST: f64 = 1e150;
/// The share of `limit` up to which the reference follows, and what was found no longer holds.
const FOLLOWS: f64 = 1.0 / 6.0;
/// Engines before this one: what was found no longer holds below the limit.
const HOLDS_ON: u32 = 12;

#[derive(Debug, Clone)]
struct Cusum {
    limit: f64,
    drift: f64,
    cap: f64,
    fading: f64,
    after: usize,
    relearn: usize,
    side: Side,
    /// The sum up to which what was found no longer holds.
    clears: f64,
    seen: usize,
    /// Values for which it has been found without a break.
    found: usize,
    mean: f64,
    deviation: f64,
    sum: f64,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    let limit = detect.number("limit");
    Box::new(Cusum {
        limit,
        clears: limit * FOLLOWS,
        drift: detect.number("drift"),
        cap: detect.number("cap"),
        fading: detect.number("fading"),
        after: detect.count("after"),
        relearn: detect.count("relearn"),
        side: detect.side(),
        seen: 0,
        found: 0,
        mean: 0.0,
        deviation: 0.0,
        sum: 0.0,
    })
}

impl Detector for Cusum {
    fn take(&mut self, Sample { value, .. }: Sample) -> Option<Finding> {
        if self.found > self.relearn {
            (self.seen, self.found, self.sum) = (0, 0, 0.0);
        }
        if self.seen < self.after && value.abs() > LARGEST {
            // The reference begins anew behind it.
            self.seen = 0;
            return None;
        }
        if self.seen == 0 {
            (self.mean, self.deviation) = (value, 0.0);
        }
        self.seen = self.seen.saturating_add(1);
        let weight = self.fading.max(1.0 / self.seen as f64);
        let residual = value - self.mean;
        if self.seen <= self.after {
            self.mean += weight * residual;
            self.deviation += weight * (residual.abs() - self.deviation);
            return None;
        }
        let sigma = NORMAL * self.deviation;
        let z = self.side.of(residual) / sigma;
        if !z.is_finite() {
            // Values that never differed: what differs from them is not measured yet.
            if residual.abs() <= LARGEST {
                self.deviation += weight * (residual.abs() - self.deviation);
            }
            return None;
        }
        // Never far above the limit: what was found ends soon after the values are back.
        self.sum = (self.sum + z.min(self.cap) - self.drift).clamp(0.0, self.limit + self.cap);
        let found = self.sum > if self.found > 0 { self.clears } else { self.limit };
        self.found = if found { self.found + 1 } else { 0 };
        if self.sum <= self.limit * FOLLOWS {
            let most = self.cap * sigma;
            self.mean += weight * residual.clamp(-most, most);
            self.deviation += weight * (residual.abs().min(most) - self.deviation);
        }
        Some(Finding { found, score: self.sum })
    }

    fn decide_as(&mut self, engine: u32) {
        if engine < HOLDS_ON {
            self.clears = self.limit;
        }
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

//! A quantile of the values of the last time, such as the 99th percentile of latencies, from a sketch of fixed size (DDSketch: Masson,
//! Rim and Lee, 2019): each bucket is `1 %` wide, so that the quantile of values from 1e-9 to 1e17 is off by so much
//! at most.
//!
//! Two sketches take turns: the values of the last `over` are in one of them, and at most as many older ones in the other.

use super::{Detect, Detector, Finding, Param, Range, Sample, Side, Spec};
use crate::time::{MonoTime, Span};

pub(super) const SPEC: Spec = Spec {
    name: "quantile",
    finds: "has a quantile, over the last time, beyond a bound",
    params: &[
        Param { name: "limit", what: "the bound", range: Range::Level },
        Param::number("quantile", (0.99, 0.0, 1.0), "which: 0.5 is the median"),
        Param {
            name: "over",
            what: "the time; values up to twice as old count",
            range: Range::Time {
                default: Some(Span::from_secs(300)),
                least: Span::from_secs(1),
                most: Span::from_secs(86_400),
            },
        },
        Param::count("after", (100, 1, 1_000_000), "values that there must be"),
        Param::side(&["above", "below"]),
    ],
    waits: false,
    check: |detect| match detect.number("limit") < GREATEST {
        true => Ok(()),
        false => Err(("limit", format!("expected less than {GREATEST:e} in the signal's base unit"))),
    },
    bytes: |_| 2 * BUCKETS * size_of::<u32>(),
    start,
};

/// The relative accuracy.
const ACCURACY: f64 = 0.01;
/// From one bucket to the next.
const GAMMA: f64 = (1.0 + ACCURACY) / (1.0 - ACCURACY);
/// From about 1e-9 to 1e17 and, in the last one, more; the first one has what is less, and 0.
const BUCKETS: usize = 3_000;
/// The bucket of values up to 1.
const ONE: f64 = 1_040.0;

/// Values up to here have buckets of their own.
const GREATEST: f64 = 1e17;

#[derive(Debug, Clone)]
struct Sketch {
    counts: Vec<u32>,
    total: u64,
}

#[derive(Debug, Clone)]
struct Quantile {
    limit: f64,
    quantile: f64,
    over: Span,
    after: u64,
    side: Side,
    /// That of now, and that of before.
    sketches: [Sketch; 2],
    since: Option<MonoTime>,
}

fn start(detect: &Detect, _: MonoTime) -> Box<dyn Detector> {
    let new = || Sketch { counts: vec![0; BUCKETS], total: 0 };
    Box::new(Quantile {
        limit: detect.number("limit"),
        quantile: detect.number("quantile"),
        over: detect.time("over"),
        after: detect.count("after") as u64,
        side: detect.side(),
        sketches: [new(), new()],
        since: None,
    })
}

impl Detector for Quantile {
    fn take(&mut self, Sample { value, at, .. }: Sample) -> Option<Finding> {
        // Of what is less than 0 the buckets know nothing.
        if value < 0.0 {
            return None;
        }
        let age = at.since(*self.since.get_or_insert(at));
        if age >= self.over {
            self.sketches.rotate_left(1);
            self.since = Some(at);
            let [now, before] = &mut self.sketches;
            now.clear();
            if age.0 >= self.over.0.saturating_mul(2) {
                before.clear();
            }
        }
        let [now, before] = &mut self.sketches;
        now.add(value);
        let total = now.total + before.total;
        if total < self.after {
            return None;
        }
        let rank = self.quantile * (total - 1) as f64;
        let score = quantile(now, before, rank);
        let found = self.side.of(score - self.limit) > 0.0;
        Some(Finding { found, score })
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

impl Sketch {
    fn add(&mut self, value: f64) {
        let at = (libm::log(value) / libm::log(GAMMA)).ceil() + ONE;
        let bucket = at.clamp(0.0, (BUCKETS - 1) as f64) as usize;
        if let Some(count) = self.counts.get_mut(bucket) {
            *count = count.saturating_add(1);
            self.total += 1;
        }
    }

    fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }
}

/// The value of that rank, from 0, of both.
fn quantile(now: &Sketch, before: &Sketch, rank: f64) -> f64 {
    let mut seen = 0.0;
    for (n, (a, b)) in now.counts.iter().zip(&before.counts).enumerate() {
        seen += f64::from(*a) + f64::from(*b);
        if seen > rank {
            // The middle of the bucket, by which the error on either side is the same.
            let edge = libm::exp((n as f64 - ONE) * libm::log(GAMMA));
            return if n == 0 { 0.0 } else { 2.0 * edge / (GAMMA + 1.0) };
        }
    }
    0.0
}

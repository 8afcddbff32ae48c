//! Exponential histograms of OpenTelemetry: bucket `i` of scale `s` holds what is above `b^i` and at most `b^(i+1)`, with
//! `b = 2^(2^-s)`; the same mirrored for negative values, and a bucket around zero.

use super::{BUCKETS, Explicit};
use std::collections::BTreeMap;

/// Scales that OpenTelemetry's SDKs use.
const SCALES: std::ops::RangeInclusive<i32> = -10..=20;

/// Most buckets that are not empty: with a gap before each of them, the one around zero, and what is below and above, they are at
/// most [`BUCKETS`] listed ones.
const MOST: usize = (BUCKETS - 4) / 2;

/// Counts by bucket; empty ones are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Exponential {
    scale: i32,
    zero: u64,
    zero_threshold: f64,
    positive: BTreeMap<i32, u64>,
    negative: BTreeMap<i32, u64>,
}

impl Exponential {
    /// From the fields of a data point: the counts of each sign with the index of the first one. `None`: they are not valid, or there are
    /// too many.
    #[must_use]
    pub fn new(
        scale: i32,
        zero: u64,
        zero_threshold: f64,
        positive: (i32, &[u64]),
        negative: (i32, &[u64]),
    ) -> Option<Exponential> {
        let is_valid = SCALES.contains(&scale) && zero_threshold.is_finite() && zero_threshold >= 0.0;
        let used = |counts: &[u64]| counts.iter().filter(|count| **count > 0).count();
        if !is_valid || used(positive.1) + used(negative.1) > MOST {
            return None;
        }
        let buckets = |(first, counts): (i32, &[u64])| {
            let mut all = BTreeMap::new();
            for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                all.insert(first.checked_add(i32::try_from(at).ok()?)?, *count);
            }
            Some(all)
        };
        Some(Exponential { scale, zero, zero_threshold, positive: buckets(positive)?, negative: buckets(negative)? })
    }

    pub(super) fn buckets(&self) -> usize {
        self.positive.len() + self.negative.len() + 1
    }

    /// `None`: it cannot be one that went on from the earlier one. An SDK only ever lowers the scale meanwhile.
    pub(super) fn since(&self, earlier: &Exponential) -> Option<Exponential> {
        let lowered = u32::try_from(earlier.scale.checked_sub(self.scale)?).ok()?;
        if self.zero_threshold != earlier.zero_threshold {
            return None;
        }
        Some(Exponential {
            zero: self.zero.checked_sub(earlier.zero)?,
            positive: minus(&self.positive, &at_scale(&earlier.positive, lowered))?,
            negative: minus(&self.negative, &at_scale(&earlier.negative, lowered))?,
            ..*self
        })
    }

    /// The same with bounds that are listed; `None`: one of them is not finite.
    pub(super) fn explicit(&self) -> Option<Explicit> {
        let bound = |index: i32| (f64::from(index) * f64::from(-self.scale).exp2()).exp2();
        // Buckets with their bounds, from the lowest value to the highest. Between them nothing was counted.
        let mut all: Vec<(f64, f64, u64)> = Vec::new();
        for (index, count) in self.negative.iter().rev() {
            all.push((-bound(index.checked_add(1)?), -bound(*index), *count));
        }
        if self.zero > 0 {
            let edge = self.zero_threshold.max(f64::MIN_POSITIVE);
            all.push((-edge, edge, self.zero));
        }
        for (index, count) in &self.positive {
            all.push((bound(*index), bound(index.checked_add(1)?), *count));
        }
        let (mut bounds, mut counts) = (Vec::new(), Vec::new());
        for (lower, upper, count) in all {
            // The bucket around zero may overlap the first ones.
            let lower = bounds.last().map_or(lower, |last: &f64| last.max(lower));
            if bounds.last().is_none_or(|last| *last < lower) {
                bounds.push(lower);
                counts.push(0);
            }
            if upper > lower {
                bounds.push(upper);
                counts.push(count);
            } else if let Some(last) = counts.last_mut() {
                *last = last.saturating_add(count);
            }
        }
        counts.push(0);
        Explicit::new(bounds, counts)
    }
}

/// The counts at a scale that is lower by `lowered`.
fn at_scale(counts: &BTreeMap<i32, u64>, lowered: u32) -> BTreeMap<i32, u64> {
    let mut all = BTreeMap::new();
    for (index, count) in counts {
        let of: &mut u64 = all.entry(index >> lowered.min(31)).or_default();
        *of = of.saturating_add(*count);
    }
    all
}

fn minus(now: &BTreeMap<i32, u64>, earlier: &BTreeMap<i32, u64>) -> Option<BTreeMap<i32, u64>> {
    let mut all = now.clone();
    for (index, count) in earlier {
        let left = all.get_mut(index)?;
        *left = left.checked_sub(*count)?;
    }
    Some(all)
}

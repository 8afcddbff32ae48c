//! Histograms: what was observed in one interval, as quantiles and as samples.
//!
//! ```text
//! buckets of a report ─► minus those of the report before, where they add up ─► .p50 .p90 .p99, and up to 64 values as .sample
//! ```
//! A value is known only by its bucket: it is placed evenly within it. So each of the results is wrong by the width of its bucket at
//! most. The lowest and the highest bucket end at the least and the greatest value, where these are given of the same interval; else
//! the lowest ends at 0, if its bound is above 0, and a value beyond the last bound counts as that bound.

mod exponential;

pub use exponential::Exponential;

#[cfg(feature = "otlp")]
use crate::repeats::Repeats;
use std::collections::BTreeMap;

/// Most buckets of one report.
pub const BUCKETS: usize = 512;
/// Most samples of one interval, evenly spread over what was observed.
pub const SAMPLES: u64 = 64;
/// Series of which the last report is remembered, and their buckets in all.
const REMEMBERED: usize = 256;
const REMEMBERED_BUCKETS: usize = 8_192;
/// Quantiles, with the end of their name.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
/// The end of the name of a sample.
const SAMPLE: &str = "sample";

/// Counts by bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct Explicit {
    /// Upper bounds of all buckets but the last, which has none. They rise and are finite.
    bounds: Vec<f64>,
    counts: Vec<u64>,
}

impl Explicit {
    /// `None`: the bounds do not rise or are not finite, there is not one more count than bounds, or there are too many.
    #[must_use]
    pub fn new(bounds: Vec<f64>, counts: Vec<u64>) -> Option<Explicit> {
        let rises = bounds.windows(2).all(|pair| pair[0] < pair[1]) && bounds.iter().all(|bound| bound.is_finite());
        let fits = counts.len() == bounds.len() + 1 && counts.len() <= BUCKETS;
        (rises && fits).then_some(Explicit { bounds, counts })
    }

    /// `None`: it cannot be one that went on from the earlier one.
    fn since(&self, earlier: &Explicit) -> Option<Explicit> {
        let more = |(now, before): (&u64, &u64)| now.checked_sub(*before);
        let counts = self.counts.iter().zip(&earlier.counts).map(more).collect::<Option<_>>()?;
        (self.bounds == earlier.bounds).then(|| Explicit { bounds: self.bounds.clone(), counts })
    }

    fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The bounds of a bucket, as far as they are known.
    fn bucket(&self, at: usize, least: Option<f64>, greatest: Option<f64>) -> Option<(f64, f64)> {
        let upper = self.bounds.get(at).copied();
        let lower = at.checked_sub(1).and_then(|before| self.bounds.get(before)).copied();
        // What is given as least and greatest may be wrong: one beyond the bucket says nothing of it.
        let least = least.filter(|least| upper.is_none_or(|upper| *least <= upper));
        let greatest = greatest.filter(|greatest| lower.is_none_or(|lower| *greatest >= lower));
        let upper = match (upper, greatest) {
            (Some(bound), Some(greatest)) => bound.min(greatest),
            (bound, greatest) => bound.or(greatest).or(lower)?,
        };
        let lower = match (lower, least) {
            (Some(bound), Some(least)) => bound.max(least),
            (None, None) if upper > 0.0 => 0.0,
            (None, None) => upper,
            (bound, least) => bound.or(least)?,
        };
        // The least may be given as more than the greatest.
        Some((lower.min(upper), upper))
    }
}

/// What one report says was observed.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// When its counts began, in units of the sender; 0: not known.
    pub began: u64,
    /// When it was made, in the same units; 0: not known.
    pub made: u64,
    /// Whether its counts go on from the report before.
    pub adds_up: bool,
    /// The least and the greatest value of all that is counted.
    pub least: Option<f64>,
    /// See `least`.
    pub greatest: Option<f64>,
    /// The counts.
    pub counts: Counts,
}

/// Counts in one of the forms.
#[derive(Debug, Clone, PartialEq)]
pub enum Counts {
    /// Bounds that are listed.
    Explicit(Explicit),
    /// Bounds that follow from a scale.
    Exponential(Exponential),
}

impl Counts {
    fn since(&self, earlier: &Counts) -> Option<Counts> {
        match (self, earlier) {
            (Counts::Explicit(now), Counts::Explicit(earlier)) => now.since(earlier).map(Counts::Explicit),
            (Counts::Exponential(now), Counts::Exponential(earlier)) => now.since(earlier).map(Counts::Exponential),
            _ => None,
        }
    }

    fn buckets(&self) -> usize {
        match self {
            Counts::Explicit(explicit) => explicit.counts.len(),
            Counts::Exponential(exponential) => exponential.buckets(),
        }
    }
}

/// What one sender sent before: the last reports of series that add up, and its values with a step. Bounded: without room for a
/// report, its intervals are not known.
#[derive(Debug, Clone, Default)]
pub struct Earlier {
    all: BTreeMap<String, Before>,
    buckets: usize,
    #[cfg(feature = "otlp")]
    pub(crate) repeats: Repeats,
}

/// The last report of a series.
#[derive(Debug, Clone)]
struct Before {
    began: u64,
    made: u64,
    counts: Counts,
}

impl Earlier {
    /// What was observed since the last report of this series; `None`: that is not known, as it is the first one.
    pub fn interval(&mut self, series: &str, report: Report) -> Option<Interval> {
        let Report { adds_up, least, greatest, .. } = report;
        let (counts, is_whole) = if adds_up { self.since(series, report)? } else { (report.counts, true) };
        let counts = match counts {
            Counts::Explicit(explicit) => explicit,
            Counts::Exponential(exponential) => exponential.explicit()?,
        };
        // They may be of what was counted before the interval.
        let of_interval = |value: Option<f64>| finite(value).filter(|_| is_whole);
        Some(Interval { counts, least: of_interval(least), greatest: of_interval(greatest) })
    }

    /// What was counted since the report before, and whether that is all that the report counts.
    fn since(&mut self, series: &str, report: Report) -> Option<(Counts, bool)> {
        let Report { began, made, counts, .. } = report;
        let earlier = self.all.remove(series);
        self.buckets -= earlier.as_ref().map_or(0, |before| before.counts.buckets());
        let buckets = self.buckets + counts.buckets();
        if self.all.len() < REMEMBERED && buckets <= REMEMBERED_BUCKETS {
            self.buckets = buckets;
            self.all.insert(series.to_owned(), Before { began, made, counts: counts.clone() });
        }
        let before = earlier?;
        if before.began == began {
            return Some((counts.since(&before.counts)?, false));
        }
        // It began anew after the report before: all of it came since. Otherwise it is not known what came since.
        (before.made > 0 && began >= before.made).then_some((counts, true))
    }
}

/// The ends of the names of all results.
pub(crate) fn parts() -> impl Iterator<Item = &'static str> {
    QUANTILES.iter().map(|(part, _)| *part).chain([SAMPLE])
}

fn finite(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

/// What was observed in one interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Interval {
    counts: Explicit,
    least: Option<f64>,
    greatest: Option<f64>,
}

impl Interval {
    /// The results, each with the end of its name; none if nothing was observed.
    #[must_use]
    pub fn values(&self) -> Vec<(&'static str, f64)> {
        let total = self.counts.total();
        if total == 0 {
            return Vec::new();
        }
        let quantiles = QUANTILES.iter().map(|(part, of)| (*part, of * total as f64));
        let samples = total.min(SAMPLES);
        let sample = |n: u64| (SAMPLE, (n as f64 + 0.5) / samples as f64 * total as f64);
        let wanted = quantiles.chain((0..samples).map(sample));
        wanted.filter_map(|(part, rank)| Some((part, self.at(rank)?))).collect()
    }

    /// The value below which `rank` of the values lie.
    fn at(&self, rank: f64) -> Option<f64> {
        let mut below = 0.0;
        let mut found = None;
        for (at, count) in self.counts.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            found = Some((at, ((rank - below) / count).clamp(0.0, 1.0)));
            if rank <= below + count {
                break;
            }
            below += count;
        }
        let (at, part) = found?;
        let (lower, upper) = self.counts.bucket(at, self.least, self.greatest)?;
        // The difference of two bounds can be infinite.
        Some(lower * (1.0 - part) + upper * part)
    }
}

#[cfg(test)]
mod tests;

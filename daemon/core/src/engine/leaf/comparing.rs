//! The test that compares a signal with its own first values, with another signal, or with a number of the run's manifest.
//!
//! A series is compared with its own beginning, and with the same series of the other signal; with the only series of the other signal
//! where that has one. Until there is something to compare with, and where a value is not finite, the test is unknown.

use super::LeafState;
use crate::{
    policy::{
        Amount, Op, Reference, Relative, Statistic,
        reference::{LEAST_VALUES, MEDIAN_VALUES},
    },
    signal::{Kind, MAX_SERIES, Real, Series, Signal},
    time::{MonoTime, Span},
};
use std::collections::BTreeMap;

/// The first values of a series.
#[derive(Debug, Clone)]
pub(super) struct Baseline {
    began: MonoTime,
    first_step: Option<u64>,
    seen: u64,
    taken: Taken,
    /// What they come to, once they are complete.
    level: Option<f64>,
}

#[derive(Debug, Clone)]
enum Taken {
    Mean(f64),
    /// Every `stride`th value.
    Median {
        kept: Vec<f64>,
        stride: u64,
    },
}

impl Baseline {
    pub(super) fn new(statistic: Statistic, began: MonoTime) -> Baseline {
        let taken = match statistic {
            Statistic::Mean => Taken::Mean(0.0),
            Statistic::Median => Taken::Median { kept: Vec::with_capacity(MEDIAN_VALUES), stride: 1 },
        };
        Baseline { began, first_step: None, seen: 0, taken, level: None }
    }

    /// A finite value came: what the first values come to, where it is not one of them.
    pub(super) fn take(&mut self, first: Amount, at: MonoTime, step: Option<u64>, value: f64) -> Option<f64> {
        if self.level.is_some() {
            return self.level;
        }
        let passed = match (first, step) {
            (Amount::Time(first), _) => at.since(self.began) >= first,
            (Amount::Steps(first), Some(step)) => step.saturating_sub(*self.first_step.get_or_insert(step)) >= first,
            // Without steps, each value is one.
            (Amount::Steps(first), None) => self.seen >= first,
        };
        if passed && self.seen >= LEAST_VALUES {
            self.level = Some(self.taken.level());
            return self.level;
        }
        self.taken.take(self.seen, value);
        self.seen += 1;
        None
    }
}

impl Taken {
    fn take(&mut self, seen: u64, value: f64) {
        match self {
            Taken::Mean(mean) => *mean += (value - *mean) / (seen as f64 + 1.0),
            Taken::Median { kept, stride } => {
                if !seen.is_multiple_of(*stride) {
                    return;
                }
                if kept.len() >= MEDIAN_VALUES {
                    let mut even = false;
                    kept.retain(|_| {
                        even = !even;
                        even
                    });
                    *stride *= 2;
                }
                // The number of kept values is even here, so that the next one is on the wider stride too.
                kept.push(value);
            }
        }
    }

    fn level(&mut self) -> f64 {
        match self {
            Taken::Mean(mean) => *mean,
            Taken::Median { kept, .. } => {
                kept.sort_unstable_by(f64::total_cmp);
                let at = |n: usize| kept.get(n).copied().unwrap_or(f64::NAN);
                let n = kept.len();
                let median =
                    if n % 2 == 1 { at(n / 2) } else { f64::midpoint(at((n / 2).saturating_sub(1)), at(n / 2)) };
                // They are not needed any more.
                *kept = Vec::new();
                median
            }
        }
    }
}

impl LeafState {
    /// A value of the test's signal, or of the one that it is compared with.
    pub(super) fn compare(
        &mut self,
        (kind, op, relative): (&Kind, Op, &Relative),
        hold: Span,
        signal: &Signal,
        manifest: &BTreeMap<String, Real>,
    ) {
        let Some((value, step)) = signal.value.number() else { return };
        let series = signal.value.series();
        if signal.kind != *kind {
            return self.other(series, value);
        }
        let other = self.other_of(series);
        let Some(gauge) = self.gauge(series) else { return };
        gauge.value = value;
        if !value.is_finite() {
            return gauge.forget();
        }
        let level = match &relative.to {
            Reference::First { first, statistic } => {
                let baseline = gauge.baseline.get_or_insert_with(|| Box::new(Baseline::new(*statistic, signal.at)));
                baseline.take(*first, signal.at, step, value)
            }
            Reference::Signal { .. } => other,
            Reference::Manifest { key } => manifest.get(key).map(|value| value.0),
        };
        match level.and_then(|level| relative.bound(level)) {
            Some(bound) => {
                gauge.score = bound;
                let beyond = if op == Op::Above { value > bound } else { value < bound };
                gauge.take(signal.at, Some((beyond, !beyond)), hold);
            }
            None => gauge.forget(),
        }
    }

    /// A value of the other signal.
    fn other(&mut self, series: Option<&Series>, value: f64) {
        match self.others.binary_search_by(|(known, _)| known.as_ref().cmp(&series)) {
            Ok(at) => self.others.get_mut(at).into_iter().for_each(|(_, other)| *other = value),
            Err(_) if self.others.len() >= MAX_SERIES => {}
            Err(at) => self.others.insert(at, (series.cloned(), value)),
        }
    }

    fn other_of(&self, series: Option<&Series>) -> Option<f64> {
        let same = self.others.binary_search_by(|(known, _)| known.as_ref().cmp(&series)).ok();
        let only = || (self.others.len() == 1).then_some(0);
        self.others.get(same.or_else(only)?).map(|(_, other)| *other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_many_values_is_taken_of_evenly_spaced_ones() {
        for n in [10u64, 11, 1_023, 1_024, 1_025, 2_048, 2_049, 100_000] {
            let mut baseline = Baseline::new(Statistic::Median, MonoTime(0));
            for step in 0..n {
                // Values that come in another order than their size.
                let value = (step * 7_919 % n) as f64;
                assert_eq!(baseline.take(Amount::Steps(n), MonoTime(step), None, value), None);
                let Taken::Median { kept, .. } = &baseline.taken else { panic!() };
                assert!(kept.len() <= MEDIAN_VALUES && kept.capacity() == MEDIAN_VALUES);
            }
            let level = baseline.take(Amount::Steps(n), MonoTime(n), None, 0.0).unwrap();
            let (exact, tolerance) = ((n - 1) as f64 / 2.0, if n <= 1_024 { 0.0 } else { n as f64 / 50.0 });
            assert!((level - exact).abs() <= tolerance, "{n}: {level}");
        }
    }

    #[test]
    fn a_mean_of_values_near_the_greatest_number_is_finite() {
        let mut baseline = Baseline::new(Statistic::Mean, MonoTime(0));
        for step in 0..10 {
            assert_eq!(baseline.take(Amount::Steps(10), MonoTime(step), Some(step), f64::MAX), None);
        }
        assert_eq!(baseline.take(Amount::Steps(10), MonoTime(10), Some(10), 0.0), Some(f64::MAX));
    }
}

//! The values of a signal over time: lists, and curves with seeded noise.

use failsafe_core::{
    signal::{Claimed, Kind, Real, Series, Value},
    time::Span,
    unit::Unit,
};

/// The values of one input.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// One after the other; `None` is a sample that does not come. The last one is repeated.
    List(Vec<Option<f64>>),
    /// A curve.
    Curve {
        /// Its form.
        shape: Shape,
        /// Standard deviation of the noise on it.
        noise: f64,
    },
}

/// The form of a curve. Times count from the first sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// The same value.
    Constant(f64),
    /// From the first sample to the last.
    Ramp(f64, f64),
    /// One value before a time, another from then on.
    Step(f64, f64, Span),
    /// A base, and a peak for a time.
    Spike {
        /// Before and after.
        base: f64,
        /// Meanwhile.
        peak: f64,
        /// From when.
        after: Span,
        /// For how long.
        width: Span,
    },
}

impl Values {
    /// How many samples a list has.
    pub fn listed(&self) -> Option<u64> {
        match self {
            Values::List(list) => u64::try_from(list.len()).ok(),
            Values::Curve { .. } => None,
        }
    }

    /// Sample `n` of `count`, so long after the first; `None`: it does not come.
    pub fn sample(&self, n: u64, count: u64, since: Span, noise: &mut Noise) -> Option<f64> {
        match self {
            Values::List(list) => {
                let at = usize::try_from(n).unwrap_or(usize::MAX).min(list.len().saturating_sub(1));
                list.get(at).copied().flatten()
            }
            Values::Curve { shape, noise: deviation } => {
                let value = match *shape {
                    Shape::Constant(value) => value,
                    Shape::Ramp(from, to) if count > 1 => from + (to - from) * n as f64 / (count - 1) as f64,
                    Shape::Ramp(from, _) => from,
                    Shape::Step(before, _, after) if since < after => before,
                    Shape::Step(_, value, _) => value,
                    Shape::Spike { base, peak, after, width } => {
                        if since >= after && since.0 - after.0 < width.0 {
                            peak
                        } else {
                            base
                        }
                    }
                };
                Some(if *deviation > 0.0 { value + deviation * noise.normal() } else { value })
            }
        }
    }
}

/// The training steps that come with the values of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steps {
    /// The first value is of this step, and each further one of so many steps later.
    From {
        /// The first.
        first: u64,
        /// How much later each is; 0: all are of one step.
        by: u64,
    },
    /// The run reports none.
    None,
}

impl Steps {
    /// Each value is of a step of its own, from 1 on.
    pub const EACH: Steps = Steps::From { first: 1, by: 1 };

    /// The step of the `n`th value, from 0.
    pub fn of(self, n: u64) -> Option<u64> {
        match self {
            Steps::From { first, by } => Some(first.saturating_add(by.saturating_mul(n))),
            Steps::None => None,
        }
    }
}

/// A value of the signal's kind.
pub fn value(kind: &Kind, number: f64, step: Option<u64>, series: &Series) -> Value {
    if kind.unit() == Unit::Real {
        return Value::Claimed(Claimed { value: Real(number), step, series: series.clone() });
    }
    // Integers of a policy test are far below 2^53; what a curve gives in between is rounded.
    Value::Integer(number.round() as i64)
}

/// A random sequence of a seed: SplitMix64, written here because its numbers must never change with a version of a crate.
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    /// The sequence of a seed. Each input of a test has one of its own, so that a further input changes no other.
    pub fn of(seed: u64, input: u64) -> Noise {
        Noise(seed.wrapping_add(input.wrapping_mul(0xd6e8_feb8_6659_fd93)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Close to a normal distribution with mean 0 and deviation 1, within 6 deviations: the sum of twelve numbers. Only sums and
    /// products are used, which give the same bits on every machine.
    fn normal(&mut self) -> f64 {
        let unit = |bits: u64| (bits >> 11) as f64 / (1u64 << 53) as f64;
        (0..12).map(|_| unit(self.next())).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(shape: Shape) -> Vec<f64> {
        let values = Values::Curve { shape, noise: 0.0 };
        let mut noise = Noise::of(1, 0);
        (0..5).map(|n| values.sample(n, 5, Span::from_secs(n), &mut noise).unwrap()).collect()
    }

    #[test]
    fn curves_have_the_form_that_they_are_named_after() {
        assert_eq!(curve(Shape::Constant(2.0)), [2.0; 5]);
        assert_eq!(curve(Shape::Ramp(0.0, 8.0)), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(curve(Shape::Step(1.0, 9.0, Span::from_secs(3))), [1.0, 1.0, 1.0, 9.0, 9.0]);
        let spike = Shape::Spike { base: 1.0, peak: 9.0, after: Span::from_secs(2), width: Span::from_secs(1) };
        assert_eq!(curve(spike), [1.0, 1.0, 9.0, 1.0, 1.0]);
    }

    #[test]
    fn a_list_has_missing_samples_and_repeats_its_last_value() {
        let list = Values::List(vec![Some(1.0), None, Some(3.0)]);
        let mut noise = Noise::of(1, 0);
        let all: Vec<Option<f64>> = (0..5).map(|n| list.sample(n, 5, Span(0), &mut noise)).collect();
        assert_eq!(all, [Some(1.0), None, Some(3.0), Some(3.0), Some(3.0)]);
    }

    #[test]
    fn noise_has_the_stated_mean_and_deviation_and_the_same_numbers_for_the_same_seed() {
        let numbers = |seed| {
            let mut noise = Noise::of(seed, 3);
            (0..20_000).map(|_| noise.normal()).collect::<Vec<f64>>()
        };
        let all = numbers(7);
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert_eq!(all, numbers(7));
        assert_ne!(all, numbers(8));
    }
}

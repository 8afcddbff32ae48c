//! Faults that are put into healthy curves, and after how many steps they are found.

use super::{Watch, curves::Curve};
use failsafe_core::detect::Detect;

/// Faults that are put into each curve.
const EACH: usize = 8;
/// Steps before the fault from which a detector has learnt.
const BEFORE: usize = 4_000;
/// Steps after it in which it is looked for.
const AFTER: usize = 400;
/// It must be found within so many.
const WITHIN: usize = 100;

/// A fault of a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It rises by 0.001 a step.
    Ramp,
    /// It is higher by 0.05 from one step to the next.
    SmallStep,
    /// It is higher by 0.3.
    BigStep,
}

impl Fault {
    pub const ALL: &[Fault] = &[Fault::Ramp, Fault::SmallStep, Fault::BigStep];

    pub fn name(self) -> &'static str {
        match self {
            Fault::Ramp => "ramp_0.001",
            Fault::SmallStep => "step_0.05",
            Fault::BigStep => "step_0.3",
        }
    }

    /// What it adds to the loss after so many steps, from 1.
    fn adds(self, n: usize) -> f64 {
        match self {
            Fault::Ramp => 0.001 * n as f64,
            Fault::SmallStep => 0.05,
            Fault::BigStep => 0.3,
        }
    }
}

/// Steps until each fault was found, the first step of it being 1; sorted.
#[derive(Debug)]
pub struct Delays(Vec<Option<usize>>);

impl Delays {
    pub fn of(fault: Fault, detectors: &[Detect], curves: &[Curve]) -> Delays {
        let mut delays = Vec::new();
        for curve in curves {
            for place in places(curve) {
                let mut watch = Watch::new(detectors);
                for n in place - BEFORE..place {
                    watch.trips(n, curve.values[n]);
                }
                delays.push(
                    (1..=AFTER).find(|n| watch.trips(place + n - 1, curve.values[place + n - 1] + fault.adds(*n))),
                );
            }
        }
        // Those that were not found come last.
        delays.sort_by_key(|delay| delay.unwrap_or(usize::MAX));
        Delays(delays)
    }

    pub fn missed(&self) -> usize {
        self.0.iter().filter(|delay| delay.is_none_or(|delay| delay > WITHIN)).count()
    }

    /// Of the faults that were found in time.
    pub fn found_share(&self) -> f64 {
        1.0 - self.missed() as f64 / self.0.len().max(1) as f64
    }

    /// Of all, also of those that were found late; `None` where most were not found.
    pub fn median(&self) -> Option<usize> {
        self.0.get(self.0.len() / 2).copied().flatten()
    }
}

/// Where the faults begin: evenly over the curve, after the first 10,000 steps.
fn places(curve: &Curve) -> impl Iterator<Item = usize> {
    let room = curve.values.len().saturating_sub(10_000 + AFTER);
    (0..EACH).map(move |n| 10_000 + (2 * n + 1) * room / (2 * EACH))
}

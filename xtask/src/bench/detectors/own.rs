//! Faults for the detectors that are not made for a loss that rises: each method with the fault that it is for.
//!
//! Every value is a percentage of the mean of the curve's 4,000 values before it, so that one bound fits all curves.

use super::{Watch, alarms, curves::Curve, detectors};
use crate::bench::report::Report;
use anyhow::Result;

/// Values before the fault, and those of the mean.
const BEFORE: usize = 4_000;
/// Steps after it in which it is looked for.
const AFTER: usize = 2_000;
/// Faults that are put into each curve.
const EACH: usize = 8;

/// A method and its fault.
struct Own {
    method: &'static str,
    /// As a policy has it.
    table: &'static str,
    /// The value at that step, from the healthy one and the last one before the fault. The fault begins with step 1.
    value: fn(i64, f64, f64) -> f64,
    /// The step is the same from the fault on.
    stands: bool,
}

const ALL: &[Own] = &[
    Own {
        method: "collapse",
        table: "{ method = \"collapse\" }",
        value: |n, v, _| if n > 0 { 0.4 * v } else { v },
        stands: false,
    },
    // Before the fault it falls by 0.02 % a step, and then no longer.
    Own {
        method: "plateau",
        table: "{ method = \"plateau\" }",
        value: |n, v, _| v - 0.02 * n.min(0) as f64,
        stands: false,
    },
    Own {
        method: "identical",
        table: "{ method = \"identical\" }",
        value: |n, v, last| if n > 0 { last } else { v },
        stands: false,
    },
    Own { method: "stall", table: "{ method = \"stall\", after = \"60s\" }", value: |_, v, _| v, stands: true },
    // Each 20th value is twice as large.
    Own {
        method: "quantile",
        table: "{ method = \"quantile\", limit = 150, quantile = 0.99, over = \"300s\" }",
        value: |n, v, _| if n > 0 && n % 20 == 0 { 2.0 * v } else { v },
        stands: false,
    },
    // Each 4th value is.
    Own {
        method: "burn-rate",
        table: "{ method = \"burn-rate\", limit = 150, factor = 10, long = \"600s\", short = \"60s\" }",
        value: |n, v, _| if n > 0 && n % 4 == 0 { 2.0 * v } else { v },
        stands: false,
    },
    // It grows by 0.5 % a step.
    Own {
        method: "rate",
        table: "{ method = \"rate\", limit = 0.2, over = \"100s\" }",
        value: |n, v, _| v + 0.5 * n.max(0) as f64,
        stands: false,
    },
    // It grows by 0.1 % a step: 200 % are 1,000 steps away when the fault begins.
    Own {
        method: "leak",
        table: "{ method = \"leak\", limit = 200, within = \"1000s\", over = \"200s\" }",
        value: |n, v, _| v + 0.1 * n.max(0) as f64,
        stands: false,
    },
];

/// Measures each method with its fault.
///
/// # Errors
/// A table is no detector.
pub fn run(report: &mut Report, curves: &[Curve]) -> Result<()> {
    let relative: Vec<Curve> = curves.iter().map(relative).collect();
    let steps: usize = relative.iter().map(Curve::judged).sum();
    for own in ALL {
        let detectors = detectors(&[own.table])?;
        let count: usize = relative.iter().map(|curve| alarms(&detectors, curve).len()).sum();
        let mut delays: Vec<Option<usize>> = relative.iter().flat_map(|curve| own.delays(&detectors, curve)).collect();
        delays.sort_by_key(|delay| delay.unwrap_or(usize::MAX));
        let found = delays.iter().flatten().count();
        report.figure(&format!("own_{}_alarms_per_million", own.method), count as f64 * 1e6 / steps as f64);
        report.figure(&format!("own_{}_found_share", own.method), found as f64 / delays.len().max(1) as f64);
        report
            .figure(&format!("own_{}_delay_median_steps", own.method), delays.get(delays.len() / 2).copied().flatten());
    }
    Ok(())
}

impl Own {
    /// Steps until the fault is found, in each place of the curve.
    fn delays(&self, detectors: &[failsafe_core::detect::Detect], curve: &Curve) -> Vec<Option<usize>> {
        let room = curve.values.len().saturating_sub(10_000 + AFTER);
        let places = (0..EACH).map(|n| 10_000 + (2 * n + 1) * room / (2 * EACH));
        let delay = |place: usize| {
            let mut watch = Watch::new(detectors);
            let last = curve.values[place - 1];
            let mut trips = |at: usize| {
                let n = at as i64 - place as i64 + 1;
                let step = if self.stands { at.min(place - 1) } else { at };
                watch.steps(at, (self.value)(n, curve.values[at], last), step)
            };
            for at in place - BEFORE..place {
                trips(at);
            }
            (1..=AFTER).find(|n| trips(place + n - 1))
        };
        places.map(delay).collect()
    }
}

/// The curve in percent of the mean of the values before each.
fn relative(curve: &Curve) -> Curve {
    let mut sum: f64 = curve.values.iter().take(BEFORE).sum();
    let value = |(n, value): (usize, &f64)| {
        let mean = sum / BEFORE as f64;
        if n >= BEFORE {
            sum += value - curve.values[n - BEFORE];
        }
        100.0 * value / mean
    };
    Curve { name: curve.name.clone(), values: curve.values.iter().enumerate().map(value).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::detectors::{curves, skip};

    #[test]
    fn each_method_finds_the_fault_that_it_is_for() {
        let folder = curves::folder();
        let Some(curves) = curves::read(&folder).unwrap() else {
            skip::skip(&format!("{} has no training curves: set FAILSAFE_CURVES", folder.display()));
            return;
        };
        let curve = relative(&curves[0]);
        for own in ALL {
            let detectors = detectors(&[own.table]).unwrap();
            let delays = own.delays(&detectors, &curve);
            assert!(delays.iter().flatten().count() * 2 > delays.len(), "{}: {delays:?}", own.method);
        }
    }
}

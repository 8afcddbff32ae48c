//! `[drift]`: how runs are followed for changes of their factors.

use super::check::Wrong;
use serde::Deserialize;
use std::time::Duration;

/// `[drift]`: how runs are followed for changes of their factors.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drift {
    /// Time between two readings of a run, in seconds.
    pub period_s: u64,
    /// Most of one processor that repeated readings of all runs take, in percent. Beyond it, readings are further apart.
    pub cpu_percent: f64,
    /// True: runs are not followed.
    pub disabled: bool,
}

impl Default for Drift {
    fn default() -> Drift {
        Drift { period_s: 60, cpu_percent: 0.2, disabled: false }
    }
}

impl Drift {
    /// What is out of its range.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Wrong::outside([("drift.period_s", self.period_s, 1..=86_400)]);
        if !(0.01..=100.0).contains(&self.cpu_percent) {
            let message = format!("expected 0.01 to 100, not {}", self.cpu_percent);
            wrong.push(Wrong::new("drift.cpu_percent", message));
        }
        wrong
    }

    /// Time between two readings.
    pub fn period(&self) -> Duration {
        Duration::from_secs(self.period_s)
    }

    /// How long repeated readings rest after one that took so long.
    pub fn rest(&self, took: Duration) -> Duration {
        took.mul_f64((100.0 / self.cpu_percent - 1.0).max(0.0)).min(Duration::from_secs(3_600))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_rest_so_long_that_they_stay_within_their_share() {
        let drift = Drift::default();
        assert_eq!(drift.rest(Duration::from_millis(20)), Duration::from_millis(9_980));
        assert_eq!(drift.rest(Duration::from_secs(60)), Duration::from_secs(3_600));
        assert_eq!(Drift { cpu_percent: 100.0, ..drift }.rest(Duration::from_secs(1)), Duration::ZERO);
        assert!(drift.wrong().is_empty());
        for wrong in [Drift { period_s: 0, ..drift }, Drift { cpu_percent: f64::NAN, ..drift }] {
            assert_eq!(wrong.wrong().len(), 1, "{wrong:?}");
        }
    }
}

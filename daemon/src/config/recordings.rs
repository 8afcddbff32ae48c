//! `[recordings]`: how much of ended runs is kept.

use super::check::Wrong;
use serde::Deserialize;

/// `[recordings]`: how much of ended runs is kept.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recordings {
    /// Recordings of one user's runs, live ones included, in MiB.
    pub per_user_mib: u64,
    /// ... of all users but root.
    pub total_mib: u64,
    /// ... of root's runs.
    pub root_mib: u64,
    /// Ended runs of one user.
    pub runs_per_user: usize,
    /// Days since a run ended.
    pub days: u64,
}

impl Default for Recordings {
    fn default() -> Recordings {
        Recordings { per_user_mib: 4_096, total_mib: 32_768, root_mib: 16_384, runs_per_user: 2_000, days: 90 }
    }
}

impl Recordings {
    /// What is out of its range.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        Wrong::outside([
            ("recordings.per_user_mib", self.per_user_mib, 1..=self.total_mib),
            ("recordings.total_mib", self.total_mib, 1..=1 << 30),
            ("recordings.root_mib", self.root_mib, 1..=1 << 30),
            ("recordings.runs_per_user", self.runs_per_user as u64, 1..=1_000_000),
            ("recordings.days", self.days, 1..=36_500),
        ])
    }
}

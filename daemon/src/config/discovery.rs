//! Which cgroups become runs by themselves, and how many.

use super::check::Wrong;
use failsafe_core::discover::{Rule, Rules};
use serde::Deserialize;
use std::path::{Component, PathBuf};
use std::time::Duration;

/// `[discovery]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discovery {
    /// Below which cgroup the paths of patterns begin, relative to the cgroup2 mount; empty: at the mount.
    pub root: PathBuf,
    /// Most discovered runs of one owner. Runs with an unknown owner count as those of one.
    pub runs_per_owner: u32,
    /// Most discovered runs.
    pub runs: u32,
    /// Most folders that are watched for new cgroups.
    pub watches: u32,
    /// Cgroups that the kernel may bind before they are registered, at once; 0: each is bound when it is registered.
    pub early_slots: u32,
    /// How often everything is looked at again, whatever the kernel reported, in seconds.
    pub rescan_s: u32,
}

impl Default for Discovery {
    fn default() -> Discovery {
        Discovery { root: PathBuf::new(), runs_per_owner: 64, runs: 512, watches: 4_096, early_slots: 16, rescan_s: 10 }
    }
}

impl Discovery {
    /// What is wrong with it.
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        let mut wrong = Wrong::outside([
            ("discovery.runs", self.runs.into(), 1..=1_000),
            ("discovery.runs_per_owner", self.runs_per_owner.into(), 1..=1_000),
            ("discovery.watches", self.watches.into(), 16..=65_536),
            ("discovery.early_slots", self.early_slots.into(), 0..=64),
            ("discovery.rescan_s", self.rescan_s.into(), 1..=3_600),
        ]);
        if !self.root.components().all(plain) {
            wrong.push(Wrong::new("discovery.root", "expected a path relative to the cgroup2 mount, or nothing"));
        }
        wrong
    }

    /// How often everything is looked at again.
    pub fn rescan(&self) -> Duration {
        Duration::from_secs(self.rescan_s.into())
    }
}

/// `[[discover]]`, all of them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "Vec<Rule>")]
pub struct DiscoverRules(pub Rules);

impl TryFrom<Vec<Rule>> for DiscoverRules {
    type Error = String;

    fn try_from(rules: Vec<Rule>) -> Result<DiscoverRules, String> {
        Rules::new(rules).map(DiscoverRules)
    }
}

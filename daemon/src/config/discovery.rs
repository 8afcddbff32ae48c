//! Which cgroups become runs by themselves, and how many.

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
    /// How often everything is looked at again, whatever the kernel reported, in seconds.
    pub rescan_s: u32,
}

impl Default for Discovery {
    fn default() -> Discovery {
        Discovery { root: PathBuf::new(), runs_per_owner: 64, runs: 512, watches: 4_096, rescan_s: 10 }
    }
}

impl Discovery {
    /// What is wrong with it: the field, and what was expected.
    pub(super) fn wrong(&self) -> Option<(&'static str, String)> {
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
        if !self.root.components().all(plain) {
            return Some(("discovery.root", "expected a path relative to the cgroup2 mount, or nothing".into()));
        }
        let range = |field, value: u32, least: u32, most: u32| {
            let wrong = !(least..=most).contains(&value);
            wrong.then(|| (field, format!("expected {least} to {most}, not {value}")))
        };
        range("discovery.runs", self.runs, 1, 1_000)
            .or_else(|| range("discovery.runs_per_owner", self.runs_per_owner, 1, 1_000))
            .or_else(|| range("discovery.watches", self.watches, 16, 65_536))
            .or_else(|| range("discovery.rescan_s", self.rescan_s, 1, 3_600))
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

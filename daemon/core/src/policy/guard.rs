//! What the kernel does on its own: refuse what a rule matches, keep to lists and limits, and act when nobody watches.

use super::Pattern;
use crate::decision::Mode;
use serde::{Deserialize, Serialize};

/// Longest path or prefix that the kernel compares, in bytes.
pub const MAX_PATH: usize = 240;

/// What the kernel does with a call that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Let it through and report it.
    #[default]
    Observe,
    /// Refuse it in the call: EPERM to the caller.
    Deny,
    /// Refuse it, and from the next instruction on exec, open, connect and egress of the whole run; the daemon
    /// freezes the run.
    Stop,
}

impl Effect {
    /// Every effect.
    pub const ALL: [Effect; 3] = [Effect::Observe, Effect::Deny, Effect::Stop];

    /// Whether the call is only reported.
    pub fn is_observe(&self) -> bool {
        *self == Effect::Observe
    }

    /// The name that policies write.
    pub fn name(self) -> &'static str {
        match self {
            Effect::Observe => "observe",
            Effect::Deny => "deny",
            Effect::Stop => "stop",
        }
    }
}

/// What the kernel does with a run when no daemon has been seen for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OnDead {
    /// What was denied stays denied, nothing else.
    #[default]
    Keep,
    /// All egress of the run is denied.
    DenyEgress,
    /// What a stopped run is denied: exec, open, connect and egress.
    DenyAll,
}

/// The programs that a run may execute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecList {
    /// Deny, or only report what would have been denied.
    pub mode: Mode,
    /// Paths: [`Pattern::Exact`] and [`Pattern::Prefix`] only.
    pub allow: Vec<Pattern>,
}

/// Bounds on making processes. Beyond them fork fails with EPERM where the kernel has LSM, and an event says so everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Live processes at once.
    pub processes: Option<u32>,
    /// Processes made in one second.
    pub forks_per_second: Option<u32>,
}

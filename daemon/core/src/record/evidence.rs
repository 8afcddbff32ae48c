//! What is kept of a decision: the rule behind it, and the state of the run.

use crate::{decision::Observation, policy::Effect};
use serde::{Deserialize, Serialize};

/// The state of a run at an intervention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its processes.
    pub processes: Vec<ProcessFacts>,
    /// False when the time budget cut the list.
    pub complete: bool,
    /// The last value of every signal of the run and of its GPUs.
    pub signals: Vec<Observation>,
    /// Whether the processes were already frozen when the list was taken.
    pub frozen: bool,
}

/// One process of a run, as a snapshot keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Process id.
    pub pid: u32,
    /// Parent's.
    pub ppid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat` field 22).
    pub start_ticks: u64,
    /// Real user id.
    pub uid: u32,
    /// `comm`.
    pub comm: String,
    /// The head of argv.
    pub argv: String,
    /// State letter of `/proc/PID/stat`.
    pub state: char,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// CPU time, microseconds.
    pub cpu_us: u64,
}

/// The rule behind a decision, as the policy that the run was pinned to has it; or what that policy has about a decision of failsafed
/// itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleText {
    /// Why the rule exists, or why failsafed decides so.
    pub rationale: String,
    /// Who answers for it.
    pub owner: String,
    /// What to do next.
    pub playbook: Option<String>,
    /// Name and version of the policy.
    pub policy: String,
    /// What the kernel was to do with the call; `observe` in entries of earlier versions.
    #[serde(default, skip_serializing_if = "Effect::is_observe")]
    pub effect: Effect,
}

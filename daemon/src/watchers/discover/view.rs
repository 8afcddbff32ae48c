//! What discovery found, for people: plain data that the thread publishes.

use super::gpus::alive::Alive;
use failsafe_core::{Mode, RunId};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Matching cgroups without a run that are listed; more are counted.
pub const MOST_LISTED: usize = 512;

/// A matching cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchedCgroup {
    /// Its path below the mount.
    pub path: String,
    /// The rule.
    pub rule: String,
    /// Its run, or why there is none.
    pub state: Result<RunId, String>,
    /// It is not to have one: a supervisor's, an administrator's, or one that a user named.
    pub overruled: bool,
}

impl MatchedCgroup {
    /// It should have a run, and has none.
    pub fn is_open(&self) -> bool {
        self.state.is_err() && !self.overruled
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleView {
    /// Its name.
    pub name: String,
    /// Its patterns.
    pub patterns: Vec<String>,
    /// The name of its policy.
    pub policy: String,
    /// Its mode.
    pub mode: Mode,
    /// Why its policy cannot be used now.
    pub error: Option<String>,
    /// Cgroups that have a run.
    pub registered: u64,
    /// Matching cgroups that have none.
    pub refused: u64,
    /// The kernel binds its cgroups when they are made.
    pub early: bool,
}

/// What the kernel does for discovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EarlyView {
    /// Why it binds no cgroup when it is made; `None`: it does.
    pub off: Option<String>,
    /// Cgroups that it bound since the daemon started.
    pub bound: u64,
    /// Those that matched and were not, for want of room.
    pub missed: u64,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The rules, in their order.
    pub rules: Vec<RuleView>,
    /// Matching cgroups, by path.
    pub found: Vec<MatchedCgroup>,
    /// Matching cgroups without a run that are not listed, by reason.
    pub unlisted: BTreeMap<String, u64>,
    /// Folders that are watched, and the most.
    pub watched: (u64, u64),
    /// How often the kernel dropped reports of new cgroups. All were looked at again then.
    pub overflows: u64,
    /// What the kernel does.
    pub early: EarlyView,
    /// What does not work, in words.
    pub problem: Option<String>,
}

/// The view, shared with the API.
#[derive(Debug, Default)]
pub struct Shared {
    view: Mutex<View>,
    finder: Alive,
}

impl Shared {
    /// The view, locked: nobody holds it over a system call.
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the thread that finds the GPUs of runs works.
    pub fn finder(&self) -> &Alive {
        &self.finder
    }
}

//! Exactly whom an action on a run would touch, without touching anybody.
//!
//! Owns nothing, writes nothing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::platform::cgroup::CgroupError;
use crate::platform::{Cgroup, ProcFs, ProcessId};

/// What an action would reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRun {
    /// The levels, the run's root first, as paths of `/proc/PID/cgroup`.
    pub levels: Vec<PathBuf>,
    /// The processes, by level.
    pub processes: Vec<Affected>,
}

/// A process that an action would reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affected {
    /// Number and start time.
    pub id: ProcessId,
    /// Its name (lossy).
    pub comm: String,
    /// State letter; one in `D` may not freeze or die in time.
    pub state: char,
    /// Its level, as a path of `/proc/PID/cgroup`.
    pub level: PathBuf,
}

/// Lists them, as they are now.
///
/// # Errors
/// Vanished when the cgroup was removed, or it holds this daemon (the action would be refused too).
pub fn dry_run(cgroup: &Cgroup) -> Result<DryRun, CgroupError> {
    cgroup.refuse_if_own()?;
    let proc = ProcFs::default();
    let mut out = DryRun { levels: Vec::new(), processes: Vec::new() };
    let mut listed = BTreeSet::new();
    let mut add = |level: &Cgroup| {
        for pid in level.procs()? {
            // A domain's list repeats the processes of its threaded levels: each is shown once.
            if !listed.insert(pid) {
                continue;
            }
            if let Some(stat) = proc.stat(pid)? {
                out.processes.push(Affected {
                    id: stat.id,
                    comm: stat.comm,
                    state: stat.state,
                    level: level.cgroup_path(),
                });
            }
        }
        out.levels.push(level.cgroup_path());
        Ok(())
    };
    add(cgroup)?;
    let _all = cgroup.walk(None, &mut add)?;
    Ok(out)
}

//! Evidence before containment: the process tree of a run, within a time budget.
//!
//! Owns nothing. Two passes, so that what always works comes first: states and counters of everybody, then the
//! arguments, for which the kernel needs the process's memory-map lock. Those of a process in state D are not
//! asked for: it may hold that lock, and the reader would hang with it.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::platform::cgroup::CgroupError;
use crate::platform::{Cgroup, ProcFs, clock, proc};

/// Bytes of a process's arguments that are kept.
const ARGV_BYTES: u64 = 512;
/// Levels are counted for this long at least.
const LEVELS: Duration = Duration::from_millis(20);
/// Arguments that are kept.
const ARGV_ITEMS: usize = 16;

/// The processes of a run at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSnapshot {
    /// When it was begun, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// How long it took, microseconds.
    pub took_usec: u64,
    /// Whether everything was read: false when the budget ran out.
    pub complete: bool,
    /// Levels of the cgroup tree, the root included; of an incomplete snapshot those that were visited.
    pub levels: u64,
    /// The processes, by level.
    pub processes: Vec<ProcessSnapshot>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSnapshot {
    /// Its number.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// Start time, clock ticks since boot.
    pub start_time: u64,
    /// Its name (lossy).
    pub comm: String,
    /// The first of its arguments (lossy); absent when not read: state D, or no time left.
    pub argv: Option<Vec<String>>,
    /// State letter.
    pub state: char,
    /// Effective user id.
    pub uid: u32,
    /// Threads.
    pub threads: u64,
    /// Resident bytes, shared pages included.
    pub rss_bytes: u64,
    /// CPU time used, microseconds.
    pub cpu_usec: u64,
    /// Its level, relative to the run's cgroup (empty for the run's own).
    pub level: String,
}

/// Reads the tree, stopping when the budget is spent (checked between processes).
///
/// # Errors
/// Vanished when the cgroup was removed; else when the kernel refuses a read.
pub fn snapshot(cgroup: &Cgroup, budget: Duration) -> Result<RunSnapshot, CgroupError> {
    let began = Instant::now();
    let mut snapshot =
        RunSnapshot { at_ns: clock::monotonic_ns(), took_usec: 0, complete: false, levels: 0, processes: Vec::new() };
    snapshot.complete = fill(cgroup, &mut snapshot, began + budget.max(LEVELS), || began.elapsed() < budget)?;
    snapshot.took_usec = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(snapshot)
}

/// False when time ran out.
fn fill(
    cgroup: &Cgroup,
    out: &mut RunSnapshot,
    limit: Instant,
    time_left: impl Fn() -> bool,
) -> Result<bool, CgroupError> {
    let procfs = ProcFs::default();
    let (tick, page) = (proc::usec_per_tick(), proc::page_size());
    let mut seen = std::collections::BTreeSet::new();
    let mut all = true;
    let mut add = |level: &Cgroup| {
        out.levels += 1;
        let name = level.path().strip_prefix(cgroup.path()).unwrap_or(level.path());
        let name = name.to_string_lossy().into_owned();
        for pid in level.procs()? {
            if !time_left() {
                all = false;
                return Ok(());
            }
            if !seen.insert(pid) {
                continue;
            }
            let Some(stat) = procfs.stat(pid)? else { continue };
            // The owner of the folder itself is always the effective user (proc(5)).
            let Ok(meta) = std::fs::metadata(procfs.path(pid, "")) else { continue };
            out.processes.push(ProcessSnapshot {
                pid,
                ppid: stat.ppid,
                start_time: stat.id.start_time,
                comm: stat.comm,
                argv: None,
                state: stat.state,
                uid: meta.uid(),
                threads: stat.threads,
                rss_bytes: stat.rss_pages.saturating_mul(page),
                cpu_usec: stat.cpu_ticks.saturating_mul(tick),
                level: name.clone(),
            });
        }
        Ok(())
    };
    add(cgroup)?;
    let walk = cgroup.walk(Some(limit), &mut add)?;
    if !all || !walk.complete {
        return Ok(false);
    }
    for process in out.processes.iter_mut().filter(|p| p.state != 'D') {
        if !time_left() {
            return Ok(false);
        }
        process.argv = procfs.cmdline(process.pid, ARGV_BYTES)?.map(|mut argv| {
            argv.truncate(ARGV_ITEMS);
            argv
        });
    }
    Ok(true)
}

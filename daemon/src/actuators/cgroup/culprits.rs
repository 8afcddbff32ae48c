//! Which threads keep a cgroup from being frozen or emptied.
//!
//! Owns nothing. A task freezes when it reaches its signal trap; one that sleeps uninterruptibly (state D), or runs
//! on in the kernel, does not reach it. The parent of a `vfork` child also shows as D, yet the kernel counts it as
//! frozen, so it is named only when nobody else can be. A task that a v1 freezer holds (a container that is paused) shows as
//! D as well, and sleeps where that freezer met it: it is named with that freezer.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::platform::proc::ProcStat;
use crate::platform::{Cgroup, Mounts, ProcFs};

/// At most this many are named.
const MAX: usize = 64;
/// Of so many it is looked whether a v1 freezer holds them: each look takes the kernel's lock of all cgroups.
const FREEZERS: usize = 8;
/// How long they are looked for at most, level by level.
const LOOK: Duration = Duration::from_millis(200);

/// A thread that was not contained, as it was at the deadline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// Process number; the thread's own number where its process could not be told.
    pub pid: u32,
    /// Thread number, equal to `pid` for a process's first thread.
    pub tid: u32,
    /// The thread's name (lossy).
    pub comm: String,
    /// State letter of `/proc/PID/stat`: `D` is uninterruptible sleep.
    pub state: char,
    /// The kernel function it sleeps in, where the kernel says.
    pub wchan: Option<String>,
    /// The v1 freezer that holds it, where one does: its path in that hierarchy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freezer: Option<String>,
}

/// Threads of a cgroup that are not frozen: uninterruptible ones first, then running ones; else whoever is not
/// seen to sit in the freezer.
pub(super) fn unfrozen(cgroup: &Cgroup) -> Vec<Culprit> {
    let mut named = not_frozen(cgroup);
    let hierarchies = if named.iter().any(|culprit| culprit.state == 'D') { v1_hierarchies() } else { Vec::new() };
    if !hierarchies.is_empty() {
        for culprit in named.iter_mut().filter(|culprit| culprit.state == 'D').take(FREEZERS) {
            culprit.freezer = freezer_of(culprit.tid, &hierarchies);
        }
    }
    named
}

/// Where the hierarchies of cgroup v1 are mounted: none on most hosts.
fn v1_hierarchies() -> Vec<PathBuf> {
    let mounts = Mounts::read(ProcFs::default().root()).unwrap_or_default();
    mounts.all.into_iter().filter(|mount| mount.fs_type == "cgroup").map(|mount| mount.target).collect()
}

/// The v1 freezer that holds a thread.
fn freezer_of(tid: u32, hierarchies: &[PathBuf]) -> Option<String> {
    let text = ProcFs::default().read(tid, "cgroup").ok()??;
    let text = String::from_utf8_lossy(&text);
    let path = text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let is_freezer = parts.next()?.split(',').any(|controller| controller == "freezer");
        parts.next().filter(|_| is_freezer)
    })?;
    let state = |hierarchy: &PathBuf| {
        let file = hierarchy.join(path.trim_start_matches('/')).join("freezer.state");
        std::fs::read_to_string(Path::new(&file)).ok()
    };
    let state = hierarchies.iter().find_map(state)?;
    matches!(state.trim(), "FROZEN" | "FREEZING").then(|| path.to_owned())
}

fn not_frozen(cgroup: &Cgroup) -> Vec<Culprit> {
    let threads: Vec<Candidate> = look(cgroup, |level| !level.events().is_ok_and(|e| e.frozen));
    for kind in [Kind::Uninterruptible, Kind::Running, Kind::Elsewhere, Kind::VforkParent] {
        let mut named: Vec<Culprit> = Vec::new();
        for seen in threads.iter().filter(|t| t.kind == kind) {
            named.push(seen.culprit.clone());
            if named.len() == MAX {
                break;
            }
        }
        // Running threads are named beside uninterruptible ones: both hold the freeze up.
        if kind == Kind::Uninterruptible && !named.is_empty() {
            let room = MAX - named.len();
            named.extend(threads.iter().filter(|t| t.kind == Kind::Running).take(room).map(|t| t.culprit.clone()));
        }
        if !named.is_empty() {
            return named;
        }
    }
    Vec::new()
}

/// Threads still alive in a cgroup that was killed.
pub(super) fn survivors(cgroup: &Cgroup) -> Vec<Culprit> {
    let mut all: Vec<Culprit> = look(cgroup, |_| true).into_iter().map(|s| s.culprit).collect();
    all.truncate(MAX);
    all
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Uninterruptible,
    Running,
    Elsewhere,
    VforkParent,
    Contained,
}

struct Candidate {
    kind: Kind,
    culprit: Culprit,
}

fn look(cgroup: &Cgroup, wanted: impl Fn(&Cgroup) -> bool) -> Vec<Candidate> {
    let proc = ProcFs::default();
    let mut seen = Vec::new();
    let mut at = |level: &Cgroup| {
        if wanted(level) {
            threads_of(level, &proc, &mut seen);
        }
    };
    at(cgroup);
    // What cannot be read is left unnamed; the outcome says so.
    let _named = cgroup.walk(Some(Instant::now() + LOOK), |level| {
        at(level);
        Ok(())
    });
    seen
}

fn threads_of(level: &Cgroup, proc: &ProcFs, seen: &mut Vec<Candidate>) {
    for tid in level.threads().unwrap_or_default() {
        // /proc/TID answers for any thread, though it is not listed.
        let Ok(Some(stat)) = proc.stat(tid) else { continue };
        if matches!(stat.state, 'Z' | 'X') {
            continue;
        }
        let wchan = proc.wchan(tid, tid);
        let pid = level.thread_group(tid).unwrap_or(tid);
        // The name in /proc/TID/stat is the thread's; kind depends on where it sleeps.
        seen.push(Candidate {
            kind: classify(&stat, wchan.as_deref()),
            culprit: Culprit { pid, tid, comm: stat.comm, state: stat.state, wchan, freezer: None },
        });
    }
}

fn classify(stat: &ProcStat, wchan: Option<&str>) -> Kind {
    match (stat.state, wchan) {
        ('D', Some("kernel_clone" | "wait_for_vfork_done" | "_do_fork")) => Kind::VforkParent,
        ('D', _) => Kind::Uninterruptible,
        ('R', _) => Kind::Running,
        // A stopped or traced task is counted as frozen by the kernel.
        ('T' | 't', _) => Kind::Contained,
        // The freezer's trap, under the names compilers leave it.
        (_, Some("do_freezer_trap" | "get_signal" | "cgroup_enter_frozen" | "do_signal_stop")) => Kind::Contained,
        _ => Kind::Elsewhere,
    }
}

//! Which threads keep a cgroup from being frozen or emptied.
//!
//! Owns nothing. A task freezes when it reaches its signal trap; one that sleeps uninterruptibly (state D), or runs
//! on in the kernel, does not reach it. The parent of a `vfork` child also shows as D, yet the kernel counts it as
//! frozen, so it is named only when nobody else can be.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::platform::proc::ProcStat;
use crate::platform::{Cgroup, ProcFs};

/// At most this many are named.
const MAX: usize = 64;
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
}

/// Threads of a cgroup that are not frozen: uninterruptible ones first, then running ones; else whoever is not
/// seen to sit in the freezer.
pub(super) fn unfrozen(cgroup: &Cgroup) -> Vec<Culprit> {
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
            culprit: Culprit { pid, tid, comm: stat.comm, state: stat.state, wchan },
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

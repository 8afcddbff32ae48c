//! Killing a run: everybody in its cgroup, proved by `populated 0`.
//!
//! Owns nothing. `cgroup.kill` (kernel 5.14) is atomic against fork and migration and works on a frozen tree. Where
//! the kernel lacks or refuses it, the tree is frozen first, so that nobody forks faster than we kill, and each
//! process gets SIGKILL through a pidfd until nobody is left.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::culprits::{self, Culprit};
use super::{freeze, wait::Backoff};
use crate::platform::cgroup::CgroupError;
use crate::platform::pidfd::PidFd;
use crate::platform::{Cgroup, ProcFs, clock};

/// A process that came in after `cgroup.kill` was written (moved in by another) is met by writing it again, this often.
const AGAIN: Duration = Duration::from_millis(20);
/// ... and at most this far apart.
const AGAIN_MOST: Duration = Duration::from_millis(200);

/// How a run was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillMethod {
    /// The kernel's `cgroup.kill`.
    CgroupKill,
    /// SIGKILL to each process by pidfd, the tree frozen meanwhile.
    PidLoop,
}

/// What became of a kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KillOutcome {
    /// `cgroup.events` read `populated 0` (or the cgroup was removed, which the kernel allows only then).
    Killed {
        /// When that was read, `CLOCK_MONOTONIC` nanoseconds.
        at_ns: u64,
        /// From before the first write to that reading.
        took: Duration,
        /// How.
        method: KillMethod,
    },
    /// Nobody was in it.
    AlreadyEmpty,
    /// The deadline came first.
    Partial {
        /// Who is still there: a task in state D dies only when it leaves the kernel.
        survivors: Vec<Culprit>,
        /// Why a process could not be signalled.
        trouble: Option<String>,
        /// From before the first write to the deadline.
        took: Duration,
        /// How it was tried.
        method: KillMethod,
    },
    /// The cgroup had been removed before anything was done.
    Vanished,
    /// The kernel refused, or the cgroup holds this daemon.
    Failed {
        /// The operation, e.g. `writing`.
        op: &'static str,
        /// The file, folder or process.
        path: PathBuf,
        /// What the kernel said, where it was a system call.
        errno: Option<Errno>,
        /// The whole story in one line.
        cause: String,
    },
}

impl KillOutcome {
    /// A failed call as an outcome; vanished is one of its own.
    #[must_use]
    pub fn from_error(e: &CgroupError) -> Self {
        if e.is_vanished() {
            return Self::Vanished;
        }
        let (op, path) = e.place();
        Self::Failed { op, path, errno: e.errno(), cause: e.chain() }
    }
}

/// Kills everybody, by `cgroup.kill` or else by the loop.
#[must_use]
pub fn kill(cgroup: &Cgroup, deadline: Instant) -> KillOutcome {
    match attempt(cgroup, KillMethod::CgroupKill, deadline) {
        Err(e) if is_unsupported(&e) => kill_with(cgroup, KillMethod::PidLoop, deadline),
        other => other.unwrap_or_else(|e| KillOutcome::from_error(&e)),
    }
}

/// Kills everybody, in this way only.
#[must_use]
pub fn kill_with(cgroup: &Cgroup, method: KillMethod, deadline: Instant) -> KillOutcome {
    attempt(cgroup, method, deadline).unwrap_or_else(|e| KillOutcome::from_error(&e))
}

/// Before 5.14 there is no `cgroup.kill`; in a threaded cgroup it is refused.
fn is_unsupported(e: &CgroupError) -> bool {
    matches!(e, CgroupError::NoSuchFile { .. }) || e.errno() == Some(Errno::EOPNOTSUPP)
}

fn attempt(cgroup: &Cgroup, method: KillMethod, deadline: Instant) -> Result<KillOutcome, CgroupError> {
    let began = Instant::now();
    if !first(cgroup, method)? {
        return Ok(KillOutcome::AlreadyEmpty);
    }
    match wait_empty(cgroup, method, began, deadline) {
        // rmdir is refused while anybody lives in it: gone after the first blow means empty.
        Err(e) if e.is_vanished() => Ok(killed(began, method)),
        other => other,
    }
}

/// The first blow; false when nobody is there.
fn first(cgroup: &Cgroup, method: KillMethod) -> Result<bool, CgroupError> {
    cgroup.refuse_if_own()?;
    let populated = cgroup.events()?.populated;
    if populated {
        match method {
            KillMethod::CgroupKill => cgroup.write_file("cgroup.kill", b"1")?,
            KillMethod::PidLoop => {
                let _started = freeze::start(cgroup)?;
                let _again_later = signal_all(cgroup)?;
            }
        }
    }
    Ok(populated)
}

fn wait_empty(
    cgroup: &Cgroup,
    method: KillMethod,
    began: Instant,
    deadline: Instant,
) -> Result<KillOutcome, CgroupError> {
    let mut backoff = Backoff::until(deadline);
    let mut last = Instant::now();
    let mut again = if method == KillMethod::CgroupKill { AGAIN } else { AGAIN / 10 };
    let mut trouble = None;
    loop {
        if !cgroup.events()?.populated {
            return Ok(killed(began, method));
        }
        if !backoff.pause() {
            break;
        }
        if last.elapsed() < again {
            continue;
        }
        if method == KillMethod::CgroupKill {
            cgroup.write_file("cgroup.kill", b"1")?;
            again = (again * 2).min(AGAIN_MOST);
        }
        // `cgroup.kill` passes over a process whose first thread has ended while others go on, and children forked before
        // a freeze reached their parent are found by looking again.
        trouble = signal_all(cgroup)?;
        last = Instant::now();
    }
    let took = began.elapsed();
    let survivors = culprits::survivors(cgroup);
    if !cgroup.events()?.populated {
        return Ok(killed(began, method));
    }
    Ok(KillOutcome::Partial { survivors, trouble, took, method })
}

fn killed(began: Instant, method: KillMethod) -> KillOutcome {
    KillOutcome::Killed { at_ns: clock::monotonic_ns(), took: began.elapsed(), method }
}

/// SIGKILL to each process of the tree, never to one that merely got a listed number. Gives the first reason why one could
/// not be signalled; the others are signalled all the same.
fn signal_all(cgroup: &Cgroup) -> Result<Option<String>, CgroupError> {
    let mut trouble = None;
    let mut level = |level: &Cgroup| {
        for pid in level.procs()? {
            if let Err(error) = signal(cgroup, pid) {
                trouble.get_or_insert_with(|| error.chain());
            }
        }
        Ok(())
    };
    level(cgroup)?;
    let _all = cgroup.walk(None, &mut level)?;
    Ok(trouble)
}

fn signal(cgroup: &Cgroup, pid: u32) -> Result<(), CgroupError> {
    let proc = ProcFs::default();
    let failed = |op| move |source| CgroupError::Io { op, path: ProcFs::default().path(pid, ""), source };
    let fd = match PidFd::open(pid) {
        Ok(fd) => fd,
        Err(Errno::ESRCH | Errno::EINVAL) => return Ok(()),
        Err(source) => return Err(failed("opening pidfd of")(source)),
    };
    // The descriptor is of whoever has the number now; is that one of ours?
    if !proc.cgroup(pid)?.is_some_and(|path| cgroup.contains(&path)) {
        return Ok(());
    }
    match fd.signal(Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(source) => Err(failed("killing")(source)),
    }
}

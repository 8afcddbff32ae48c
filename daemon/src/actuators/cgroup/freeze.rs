//! Freezing a run: every level of its cgroup, proved by reading back.
//!
//! Owns nothing. The write at the run's root stops the whole tree; the levels below are frozen as well, so that
//! another's `cgroup.freeze=0` on any one of them (Slurm up to 24.11 does that) releases nobody.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::culprits::{self, Culprit};
use super::wait::Backoff;
use crate::platform::cgroup::{CgroupError, EventsFile};
use crate::platform::{Cgroup, clock};

/// What became of a freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreezeOutcome {
    /// `cgroup.events` of the run's root read `populated 1` and `frozen 1` after every level had been written.
    Frozen {
        /// When that was read, `CLOCK_MONOTONIC` nanoseconds.
        at_ns: u64,
        /// From before the first write to that reading.
        took: Duration,
        /// Processes in the tree, counted after it was frozen.
        processes: u64,
        /// Levels of the tree, the root included.
        levels: u64,
        /// Ids of levels below the root that somebody had frozen before: a thaw should leave those as they were.
        already_frozen: Vec<u64>,
    },
    /// Nobody is in the run's cgroup. It stays told to freeze.
    Empty,
    /// The deadline came first. Everything that could be frozen is, and stays told to.
    Partial {
        /// Who holds it up; empty when they could not be told from the rest.
        culprits: Vec<Culprit>,
        /// From before the first write to the deadline.
        took: Duration,
    },
    /// The cgroup was removed, so nobody is in it.
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

/// A freeze that has been asked for and not yet proved.
#[derive(Debug)]
pub struct Started {
    began: Instant,
    events: EventsFile,
    levels: u64,
    already_frozen: Vec<u64>,
}

/// Freezes and verifies.
#[must_use]
pub fn freeze(cgroup: &Cgroup, deadline: Instant) -> FreezeOutcome {
    match start(cgroup) {
        Ok(started) => verify(cgroup, started, deadline),
        Err(e) => FreezeOutcome::from_error(&e),
    }
}

/// Writes `cgroup.freeze=1` at the run's root, then at every level below it that does not have it. Returns at once:
/// the tasks stop when they next reach their trap.
///
/// # Errors
/// When the root could not be written (vanished, refused, or it holds this daemon).
pub fn start(cgroup: &Cgroup) -> Result<Started, CgroupError> {
    let began = Instant::now();
    cgroup.refuse_if_own()?;
    cgroup.write_file("cgroup.freeze", b"1")?;
    let events = cgroup.open_events()?;
    let swept = sweep(cgroup)?;
    Ok(Started { began, events, levels: swept.levels, already_frozen: swept.already_frozen })
}

/// Waits until the kernel says that the whole tree is frozen, freezing levels that appeared meanwhile.
#[must_use]
pub fn verify(cgroup: &Cgroup, started: Started, deadline: Instant) -> FreezeOutcome {
    verify_inner(cgroup, started, deadline).unwrap_or_else(|e| FreezeOutcome::from_error(&e))
}

fn verify_inner(cgroup: &Cgroup, mut started: Started, deadline: Instant) -> Result<FreezeOutcome, CgroupError> {
    let mut backoff = Backoff::until(deadline);
    loop {
        let seen = started.events.read()?;
        if !seen.populated {
            return Ok(FreezeOutcome::Empty);
        }
        if seen.frozen {
            let swept = sweep(cgroup)?;
            started.levels = swept.levels;
            // Only a reading made after the last write proves anything.
            let seen = started.events.read()?;
            if swept.written == 0 && seen.frozen && seen.populated {
                return frozen(cgroup, started);
            }
        }
        if !backoff.pause() {
            break;
        }
        // Another may have undone the root while we wait; the write is only made when it is needed.
        if backoff.is_slow() && !cgroup.freeze_requested()? {
            cgroup.write_file("cgroup.freeze", b"1")?;
        }
    }
    let took = started.began.elapsed();
    let culprits = culprits::unfrozen(cgroup);
    // Naming them takes time: what has frozen since is frozen, if late.
    let seen = started.events.read()?;
    if seen.frozen && seen.populated && sweep(cgroup)?.written == 0 && started.events.read()?.frozen {
        return frozen(cgroup, started);
    }
    Ok(FreezeOutcome::Partial { culprits, took })
}

fn frozen(cgroup: &Cgroup, started: Started) -> Result<FreezeOutcome, CgroupError> {
    let at_ns = clock::monotonic_ns();
    let took = started.began.elapsed();
    let processes = cgroup.all_procs()?.len() as u64;
    Ok(FreezeOutcome::Frozen { at_ns, took, processes, levels: started.levels, already_frozen: started.already_frozen })
}

#[derive(Debug, Default)]
struct Swept {
    levels: u64,
    written: u64,
    already_frozen: Vec<u64>,
}

/// Tells every level below the root to freeze. Those that vanish meanwhile are no concern.
fn sweep(cgroup: &Cgroup) -> Result<Swept, CgroupError> {
    let mut swept = Swept { levels: 1, ..Swept::default() };
    for level in cgroup.descendants()? {
        let asked = level.freeze_requested().and_then(|requested| {
            if !requested {
                level.write_file("cgroup.freeze", b"1")?;
            }
            Ok(requested)
        });
        match asked {
            Ok(true) => swept.already_frozen.push(level.id()),
            Ok(false) => swept.written += 1,
            Err(e) if e.is_vanished() => continue,
            Err(e) => return Err(e),
        }
        swept.levels += 1;
    }
    Ok(swept)
}

impl FreezeOutcome {
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

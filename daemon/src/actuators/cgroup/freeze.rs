//! Freezing a run: its root first, proved by reading back, then every level below.
//!
//! ```text
//! start (one write on an open file) -> Verification::step, again and again -> outcome
//!                                        root reads frozen 1 -> sweep of the levels below, within SWEEP
//! ```
//!
//! Owns nothing. The write at the run's root stops the whole tree, and needs neither a descriptor nor a path. The levels
//! below are frozen as well, so that another's `cgroup.freeze=0` on any one of them (Slurm up to 24.11 does that)
//! releases nobody. A sweep that cannot finish does not make the freeze fail: the root's reading is the proof.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::culprits::{self, Culprit};
use super::wait::Backoff;
use crate::platform::cgroup::CgroupError;
use crate::platform::{Cgroup, clock};

/// How long one step may write levels below the root, and count processes after that: other runs wait behind it.
const SWEEP: Duration = Duration::from_millis(250);

/// What became of a freeze.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FreezeOutcome {
    /// `cgroup.events` of the run's root read `populated 1` and `frozen 1`.
    Frozen {
        /// When that was read, `CLOCK_MONOTONIC` nanoseconds.
        at_ns: u64,
        /// From before the first write to that reading.
        took: Duration,
        /// Processes in the tree, counted after it was frozen.
        processes: u64,
        /// Levels of the tree that are told to freeze, the root included.
        levels: u64,
        /// Why not all levels below the root are, or not all processes were counted; the root holds them.
        unswept: Option<String>,
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
}

/// Freezes and verifies.
#[must_use]
pub fn freeze(cgroup: &Cgroup, deadline: Instant) -> FreezeOutcome {
    match start(cgroup) {
        Ok(started) => verify(cgroup, started, deadline),
        Err(e) => FreezeOutcome::from_error(&e),
    }
}

/// Writes `cgroup.freeze=1` at the run's root. Returns at once: the tasks stop when they next reach their trap.
///
/// # Errors
/// When the root could not be written (vanished, refused, or it holds this daemon).
pub fn start(cgroup: &Cgroup) -> Result<Started, CgroupError> {
    let began = Instant::now();
    cgroup.refuse_if_own()?;
    cgroup.write_file("cgroup.freeze", b"1")?;
    Ok(Started { began })
}

/// Waits until the kernel says that the whole tree is frozen, freezing levels that appeared meanwhile.
#[must_use]
pub fn verify(cgroup: &Cgroup, started: Started, deadline: Instant) -> FreezeOutcome {
    let mut verification = Verification::new(started, deadline);
    loop {
        match verification.step(cgroup, true) {
            Step::Done(outcome) => return outcome,
            Step::Again => {}
            Step::Wait(pause) => std::thread::sleep(pause),
            Step::Late => return verification.late(cgroup),
        }
    }
}

/// What a verification needs next.
#[derive(Debug)]
pub enum Step {
    /// It is over.
    Done(FreezeOutcome),
    /// Another step, at once.
    Again,
    /// Another step, after this time.
    Wait(Duration),
    /// The deadline has passed: [`Verification::late`] says who holds it up, which takes time.
    Late,
}

/// A freeze on its way to its proof. Each step is short, so that one thread can look after many.
#[derive(Debug)]
pub struct Verification {
    began: Instant,
    backoff: Backoff,
    /// When the root was first seen frozen, if it has been since.
    frozen_at: Option<u64>,
    /// Ids of levels that another had frozen: found by the first sweep, for later ones find this freeze's own.
    already_frozen: Option<Vec<u64>>,
}

impl Verification {
    /// One that has until `deadline`.
    #[must_use]
    pub fn new(started: Started, deadline: Instant) -> Self {
        let backoff = Backoff::until(deadline);
        Self { began: started.began, backoff, frozen_at: None, already_frozen: None }
    }

    /// Looks once. `sweeps`: it may write the levels below the root, which nobody else does at this moment.
    pub fn step(&mut self, cgroup: &Cgroup, sweeps: bool) -> Step {
        self.try_step(cgroup, sweeps).unwrap_or_else(|e| Step::Done(FreezeOutcome::from_error(&e)))
    }

    fn try_step(&mut self, cgroup: &Cgroup, sweeps: bool) -> Result<Step, CgroupError> {
        let seen = cgroup.events()?;
        if !seen.populated {
            return Ok(Step::Done(FreezeOutcome::Empty));
        }
        if seen.frozen {
            return self.frozen(cgroup, sweeps);
        }
        self.frozen_at = None;
        let Some(pause) = self.backoff.next() else { return Ok(Step::Late) };
        // Another may have undone the root while we wait; the write is only made when it is needed.
        if self.backoff.is_slow() && !cgroup.freeze_requested()? {
            cgroup.write_file("cgroup.freeze", b"1")?;
        }
        Ok(Step::Wait(pause))
    }

    /// The root reads frozen: the levels below are told to freeze too, as far as time and descriptors allow.
    fn frozen(&mut self, cgroup: &Cgroup, sweeps: bool) -> Result<Step, CgroupError> {
        let at_ns = *self.frozen_at.get_or_insert_with(clock::monotonic_ns);
        let took = self.began.elapsed();
        let swept = if sweeps {
            sweep(cgroup, Some(Instant::now() + SWEEP), &|| true)
        } else {
            let unfinished = Some("another sweep is under way".to_owned());
            Swept { levels: 1, unfinished, ..Swept::default() }
        };
        let already_frozen = self.already_frozen.get_or_insert_with(|| swept.already_frozen.clone()).clone();
        let seen = cgroup.events()?;
        if !seen.frozen || (swept.written > 0 && swept.unfinished.is_none()) {
            // Levels that came late were written: the next look finds them so.
            return Ok(Step::Again);
        }
        if !seen.populated {
            return Ok(Step::Done(FreezeOutcome::Empty));
        }
        let mut unswept = swept.unfinished;
        let processes = match cgroup.procs_until(Instant::now() + SWEEP) {
            Ok(members) => {
                if !members.complete && unswept.is_none() {
                    unswept = Some("not all processes were counted: too many cgroups for the time".into());
                }
                members.ids.len() as u64
            }
            Err(e) if e.is_vanished() => return Err(e),
            Err(e) => {
                unswept.get_or_insert_with(|| format!("processes were not counted: {}", e.chain()));
                0
            }
        };
        Ok(Step::Done(FreezeOutcome::Frozen { at_ns, took, processes, levels: swept.levels, unswept, already_frozen }))
    }

    /// After the deadline: names who holds the freeze up. What has frozen since is frozen, if late.
    pub fn late(&mut self, cgroup: &Cgroup) -> FreezeOutcome {
        let took = self.began.elapsed();
        let culprits = culprits::unfrozen(cgroup);
        match cgroup.events() {
            Ok(seen) if seen.frozen && seen.populated => match self.frozen(cgroup, false) {
                Ok(Step::Done(outcome)) => outcome,
                Ok(_) => FreezeOutcome::Partial { culprits, took },
                Err(e) => FreezeOutcome::from_error(&e),
            },
            Ok(_) => FreezeOutcome::Partial { culprits, took },
            Err(e) => FreezeOutcome::from_error(&e),
        }
    }
}

/// What a sweep did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Levels that are told to freeze, the root included.
    pub levels: u64,
    /// Levels that this sweep wrote.
    pub written: u64,
    /// Ids of those that were told before.
    pub already_frozen: Vec<u64>,
    /// Why it did not reach every level.
    pub unfinished: Option<String>,
}

/// Tells every level below the root to freeze, until `limit`. Levels that vanish meanwhile are no concern; one that
/// cannot be opened or written is, but the others are written all the same. Once it is no longer `wanted`, nothing is.
#[must_use]
pub fn sweep(cgroup: &Cgroup, limit: Option<Instant>, wanted: &dyn Fn() -> bool) -> Swept {
    let mut swept = Swept { levels: 1, ..Swept::default() };
    let mut failed = None;
    let walked = cgroup.walk(limit, |level| {
        if !wanted() {
            failed.get_or_insert_with(|| "a later decision thawed the run".to_owned());
            return Ok(());
        }
        let asked = level.freeze_requested().and_then(|requested| {
            if !requested {
                level.write_file("cgroup.freeze", b"1")?;
            }
            Ok(requested)
        });
        match asked {
            Ok(true) => swept.already_frozen.push(level.id()),
            Ok(false) => swept.written += 1,
            Err(e) if e.is_vanished() => return Ok(()),
            Err(e) => {
                failed.get_or_insert_with(|| e.chain());
                return Ok(());
            }
        }
        swept.levels += 1;
        Ok(())
    });
    let cut = || Some(format!("{} levels below the root were asked to freeze, not all", swept.levels - 1));
    swept.unfinished = match walked {
        Ok(walk) if walk.complete => failed,
        Ok(_) => cut(),
        Err(e) if e.is_vanished() => failed,
        Err(e) => Some(format!("levels below the root: {}", e.chain())),
    };
    swept
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

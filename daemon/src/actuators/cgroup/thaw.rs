//! Thawing a run: every level, proved by reading back.
//!
//! Owns nothing. The levels below are released before the root, so the run resumes as a whole with the last write.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::wait::Backoff;
use crate::platform::cgroup::CgroupError;
use crate::platform::{Cgroup, clock};

/// What became of a thaw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThawOutcome {
    /// The kernel says that no level is frozen (but those the caller asked to keep).
    Thawed {
        /// When that was read, `CLOCK_MONOTONIC` nanoseconds.
        at_ns: u64,
        /// From before the first write to that reading.
        took: Duration,
        /// Levels of the tree, the root included.
        levels: u64,
    },
    /// This run's own levels are released, but a cgroup above it is frozen by another.
    HeldByAncestor {
        /// The frozen cgroup nearest to the root.
        path: PathBuf,
    },
    /// Somebody with a say wanted the run frozen again before it was proved thawed; its root is told to freeze.
    Superseded,
    /// The deadline came first.
    Partial {
        /// Levels the kernel still calls frozen.
        levels: Vec<PathBuf>,
        /// From before the first write to the deadline.
        took: Duration,
    },
    /// The cgroup was removed.
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

/// Thaws every level but those in `keep` (ids of levels that were frozen by another before the run was: see
/// [`FreezeOutcome::Frozen`](super::FreezeOutcome)).
#[must_use]
pub fn thaw(cgroup: &Cgroup, keep: &[u64], deadline: Instant) -> ThawOutcome {
    thaw_unless(cgroup, keep, deadline, &|| false)
}

/// [`thaw`], given up as soon as `superseded` says that the run is to be frozen after all. Whoever wants it frozen has to
/// say so there *before* writing to the cgroup: then no order of the two can leave it thawed.
#[must_use]
pub fn thaw_unless(cgroup: &Cgroup, keep: &[u64], deadline: Instant, superseded: &dyn Fn() -> bool) -> ThawOutcome {
    thaw_inner(cgroup, keep, deadline, superseded).unwrap_or_else(|e| ThawOutcome::from_error(&e))
}

fn thaw_inner(
    cgroup: &Cgroup,
    keep: &[u64],
    deadline: Instant,
    superseded: &dyn Fn() -> bool,
) -> Result<ThawOutcome, CgroupError> {
    let began = Instant::now();
    let mut backoff = Backoff::until(deadline);
    if superseded() {
        return Ok(ThawOutcome::Superseded);
    }
    release(cgroup, keep)?;
    cgroup.write_file("cgroup.freeze", b"0")?;
    loop {
        if superseded() {
            // The 0 may have come after the other's 1.
            cgroup.write_file("cgroup.freeze", b"1")?;
            return Ok(ThawOutcome::Superseded);
        }
        let (levels, still) = still_frozen(cgroup, keep)?;
        if still.is_empty() {
            return Ok(ThawOutcome::Thawed { at_ns: clock::monotonic_ns(), took: began.elapsed(), levels });
        }
        if let Some(path) = cgroup.frozen_ancestor()? {
            return Ok(ThawOutcome::HeldByAncestor { path });
        }
        if !backoff.pause() {
            return Ok(ThawOutcome::Partial { levels: still, took: began.elapsed() });
        }
        release(cgroup, keep)?;
    }
}

/// Writes 0 at every level below the root that asks for a freeze. The root still holds them all meanwhile.
fn release(cgroup: &Cgroup, keep: &[u64]) -> Result<(), CgroupError> {
    let _all = cgroup.walk(None, |level| {
        if !keep.contains(&level.id()) && level.freeze_requested()? {
            level.write_file("cgroup.freeze", b"0")?;
        }
        Ok(())
    })?;
    Ok(())
}

/// How many levels there are, and which of them the kernel still calls frozen; what lies at or below a kept level is
/// not asked.
fn still_frozen(cgroup: &Cgroup, keep: &[u64]) -> Result<(u64, Vec<PathBuf>), CgroupError> {
    let mut still = Vec::new();
    if cgroup.events()?.frozen {
        still.push(cgroup.path().to_owned());
    }
    let mut kept: Vec<PathBuf> = Vec::new();
    let walk = cgroup.walk(None, |level| {
        // Parents come first: whatever lies below a kept level is passed over.
        if keep.contains(&level.id()) {
            kept.push(level.path().to_owned());
        }
        if !kept.iter().any(|kept| level.path().starts_with(kept)) && level.events()?.frozen {
            still.push(level.path().to_owned());
        }
        Ok(())
    })?;
    Ok((1 + walk.levels, still))
}

impl ThawOutcome {
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

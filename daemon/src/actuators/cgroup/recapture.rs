//! Bringing a process that left its run back into it.
//!
//! Owns nothing. The kernel takes only a number for a move, so the process is identified before it (start time),
//! held by pidfd across it, and identified again after it.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::platform::cgroup::CgroupError;
use crate::platform::pidfd::PidFd;
use crate::platform::{Cgroup, ProcFs, ProcessId};

/// Where a process is put when the run's own level may hold none (it gives controllers on to its children).
const RETURNED: &str = "failsafe-returned";

/// What became of a recapture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recapture {
    /// It is in the run again with all its threads; a frozen run freezes it on arrival.
    Returned {
        /// Where it had been.
        from: PathBuf,
        /// Where it is now.
        to: PathBuf,
    },
    /// It was in the run already.
    Inside,
    /// It has ended, or its number belongs to another now. Nothing was moved.
    Gone,
    /// It ended during the move and its number passed to another, which was moved in its place: to be looked at.
    Misplaced {
        /// The process that was moved.
        stranger: ProcessId,
        /// Where it may be put back, if it was a sibling.
        from: PathBuf,
    },
}

/// Moves an escaped process, with all its threads, back to its run.
///
/// # Errors
/// When the kernel refuses the move (the run vanished, a threaded cgroup), or the process is this daemon.
pub fn recapture(run: &Cgroup, who: ProcessId) -> Result<Recapture, CgroupError> {
    let proc = ProcFs::default();
    if who.pid == std::process::id() {
        return Err(CgroupError::HoldsDaemon { path: run.path().to_owned(), own: proc.path(who.pid, "") });
    }
    let fd = match PidFd::open(who.pid) {
        Ok(fd) => fd,
        Err(Errno::ESRCH | Errno::EINVAL) => return Ok(Recapture::Gone),
        Err(source) => return Err(CgroupError::Io { op: "opening pidfd of", path: proc.path(who.pid, ""), source }),
    };
    if proc.identity(who.pid)? != Some(who) {
        return Ok(Recapture::Gone);
    }
    let Some(from) = proc.cgroup(who.pid)? else {
        return Ok(Recapture::Gone);
    };
    if run.contains(&from) {
        return Ok(Recapture::Inside);
    }
    match attach(run, who.pid) {
        Err(e) if e.errno() == Some(Errno::ESRCH) => return Ok(Recapture::Gone),
        other => other?,
    }
    // Alive after the move means that the number was its own all along.
    let ended = fd.has_ended().map_err(|source| CgroupError::Io {
        op: "polling pidfd of",
        path: proc.path(who.pid, ""),
        source,
    })?;
    match proc.identity(who.pid)? {
        Some(now) if now == who => {}
        Some(stranger) if ended => return Ok(Recapture::Misplaced { stranger, from }),
        _ => return Ok(Recapture::Gone),
    }
    match proc.cgroup(who.pid)? {
        Some(to) if run.contains(&to) => Ok(Recapture::Returned { from, to }),
        _ if ended => Ok(Recapture::Gone),
        // Moved on by another at once: the caller sees it outside again and may repeat.
        Some(to) => Err(CgroupError::Outside { path: to, mount: run.path().to_owned() }),
        None => Ok(Recapture::Gone),
    }
}

fn attach(run: &Cgroup, pid: u32) -> Result<(), CgroupError> {
    match run.attach(pid) {
        Err(e) if e.errno() == Some(Errno::EBUSY) => {}
        other => return other,
    }
    let leaf = match run.create_child(RETURNED) {
        Err(e) if e.errno() == Some(Errno::EEXIST) => run.child(RETURNED.as_ref())?,
        other => other?,
    };
    if run.freeze_requested()? {
        leaf.write_file("cgroup.freeze", b"1")?;
    }
    leaf.attach(pid)
}

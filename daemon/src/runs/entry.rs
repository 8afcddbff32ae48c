//! How the first process comes into a run: the one that asked for it, and no other.
//!
//! ```text
//! Waiting ─► (the process is moved, and is the one meant) ─► Entered
//!    └─────► (killed before, or its caller went away)     ─► Withdrawn: what was moved is moved back
//! ```
//!
//! Invariants: an empty cgroup is a run's end from Entered or Withdrawn on, not before; whoever is first of enter and withdraw
//! wins; a process that is moved back goes to the cgroup that the caller came from, so that nobody gains by it.

use crate::platform::{
    Cgroup, CgroupError, CgroupRoot, ProcFs,
    peer::{Peer, PeerError},
};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
};

const WAITING: u8 = 0;
const ENTERED: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Processes fork while they are moved back: the cgroup is emptied at most this often.
const ROUNDS: usize = 16;

/// Whether a run's first process is in.
#[derive(Debug)]
pub struct Entry(AtomicU8);

impl Entry {
    /// Of a run that is waited for, or that has processes.
    pub fn new(entered: bool) -> Entry {
        Entry(AtomicU8::new(if entered { ENTERED } else { WAITING }))
    }

    /// The first process is in; false: the run was withdrawn before.
    pub fn enter(&self) -> bool {
        self.leave_waiting(ENTERED)
    }

    /// Nobody is to come in any more; false: somebody is in.
    pub fn withdraw(&self) -> bool {
        self.leave_waiting(WITHDRAWN)
    }

    /// Whether nobody is waited for any more.
    pub fn is_settled(&self) -> bool {
        self.0.load(Ordering::Acquire) != WAITING
    }

    fn leave_waiting(&self, to: u8) -> bool {
        match self.0.compare_exchange(WAITING, to, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(now) => now == to,
        }
    }
}

/// Why a process was not moved into its run.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// It is not there any more, or it cannot be known what it is.
    #[error("{}", .0.chain())]
    Peer(#[from] PeerError),
    /// The move.
    #[error("{}", .0.chain())]
    Cgroup(#[from] CgroupError),
    /// Where it comes from.
    #[error("its cgroup {path} cannot be opened: {source}")]
    Origin {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It was moved, and is not there.
    #[error("process {0} was moved into the run and left it at once")]
    NotThere(u32),
}

/// The cgroup that a process was moved out of, held open.
#[derive(Debug)]
pub struct Origin {
    procs: File,
}

impl Origin {
    fn open(root: &CgroupRoot, cgroup_path: &Path) -> Result<Origin, EnterError> {
        let path = root.mount().join(cgroup_path.strip_prefix("/").unwrap_or(cgroup_path)).join("cgroup.procs");
        match OpenOptions::new().write(true).open(&path) {
            Ok(procs) => Ok(Origin { procs }),
            Err(source) => Err(EnterError::Origin { path, source }),
        }
    }

    fn take(&self, pid: u32) -> std::io::Result<()> {
        (&self.procs).write_all(pid.to_string().as_bytes())
    }
}

/// Moves the peer into a run's cgroup.
///
/// # Errors
/// [`EnterError`]. Whoever was moved is back where they were.
pub fn move_in(root: &CgroupRoot, cgroup: &Cgroup, peer: &Peer) -> Result<Origin, EnterError> {
    let now = peer.now(root)?;
    let origin = Origin::open(root, now.cgroups.first().map_or(Path::new("/"), PathBuf::as_path))?;
    let pid = peer.id().pid;
    // It may end between this and the move, and another process get its number.
    peer.alive()?;
    let moved = cgroup.attach(pid).map_err(EnterError::from);
    let there = moved.and_then(|()| {
        peer.alive()?;
        if cgroup.procs()?.contains(&pid) { Ok(()) } else { Err(EnterError::NotThere(pid)) }
    });
    match there {
        Ok(()) => Ok(origin),
        Err(error) => {
            move_back(root, cgroup, peer, &origin);
            Err(error)
        }
    }
}

/// Moves whoever is in the cgroup back to where the peer was: the peer, and what it forked meanwhile. A process that got the
/// number of the peer after its end was just forked, and goes to the cgroup of its parent.
pub fn move_back(root: &CgroupRoot, cgroup: &Cgroup, peer: &Peer, origin: &Origin) {
    for _ in 0..ROUNDS {
        let Ok(procs) = cgroup.procs() else { return };
        if procs.is_empty() {
            return;
        }
        for pid in procs {
            let stranger = pid == peer.id().pid && peer.alive().is_err();
            let parents = if stranger { cgroup_of_parent(root, cgroup, pid) } else { None };
            let moved = parents.as_ref().unwrap_or(origin).take(pid);
            if let Err(error) = moved {
                tracing::warn!(pid, %error, "a process could not be moved out of a run that was not started");
            }
        }
    }
}

fn cgroup_of_parent(root: &CgroupRoot, cgroup: &Cgroup, pid: u32) -> Option<Origin> {
    let proc = ProcFs::default();
    let parent = proc.stat(pid).ok()??.ppid;
    let path = proc.cgroup(parent).ok()??;
    // A parent that is in the run too was moved with it.
    if cgroup.contains(&path) { None } else { Origin::open(root, &path).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_entering_and_withdrawing_the_first_wins() {
        let run = Entry::new(false);
        assert!(!run.is_settled());
        assert!(run.withdraw() && run.withdraw());
        assert!(!run.enter() && run.is_settled());
        let run = Entry::new(false);
        assert!(run.enter() && !run.withdraw() && run.enter() && run.is_settled());
        assert!(!Entry::new(true).withdraw());
    }
}

//! Removing the cgroup of a run that is over: the proof that nobody is in it and that nobody can come in.
//!
//! ```text
//! pipeline: cgroup empty for 100 ms ─► ask ─► cgroup-removal: rmdir ─► proved  ─► pipeline: end ─► reaper: detach
//!                                                                └──► refused ─► the run lives on, bounded and judged
//! ```
//! The kernel refuses to remove a cgroup in which a process lives. Programs and pins of the run are therefore removed only after its
//! cgroup: no process can enter in between. A thread of its own does it, because a run may leave thousands of levels, and the pipeline
//! waits for nobody.
//!
//! Invariants: a run is asked for once at a time; a proof is final; without it the run stays as it is.

use super::LiveRun;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

const IDLE: u8 = 0;
const ASKED: u8 = 1;
const REFUSED: u8 = 2;
const PROVED: u8 = 3;

/// How far the removal of a run's cgroup is.
#[derive(Debug, Default)]
pub struct Removal {
    state: AtomicU8,
    /// A failure is on record.
    pub(crate) reported: AtomicBool,
}

impl Removal {
    /// Whether the cgroup is gone.
    pub fn is_proved(&self) -> bool {
        self.state.load(Ordering::Acquire) == PROVED
    }

    /// False: it is asked for already, or done.
    pub(crate) fn ask(&self) -> bool {
        [IDLE, REFUSED]
            .into_iter()
            .any(|from| self.state.compare_exchange(from, ASKED, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    pub(crate) fn note(&self, gone: bool) {
        self.state.store(if gone { PROVED } else { REFUSED }, Ordering::Release);
    }
}

impl LiveRun {
    /// Whether its end is proved: nobody is in its cgroup, and the cgroup is removed where the daemon made it.
    pub fn is_vacant(&self) -> bool {
        if self.made { self.removal.is_proved() } else { self.is_empty() }
    }

    /// Removes its cgroup where the daemon made it. The error is the reason where that fails although nobody is in it. May take long.
    pub(crate) fn vacate(&self) -> Result<bool, String> {
        if !self.made {
            return Ok(self.is_empty());
        }
        let removed = self.cgroup.remove_tree();
        let gone = self.cgroup.events().is_err_and(|error| error.is_vanished());
        self.removal.note(gone);
        match removed {
            _ if gone || !self.is_empty() => Ok(gone),
            Err(error) => Err(error.chain()),
            Ok(()) => Err("another folder is at its path".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_is_asked_for_once_at_a_time_and_a_proof_is_final() {
        let removal = Removal::default();
        assert!(removal.ask() && !removal.ask() && !removal.is_proved());
        removal.note(false);
        assert!(removal.ask(), "what was refused is tried again");
        removal.note(true);
        assert!(removal.is_proved() && !removal.ask() && removal.is_proved());
    }
}

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

use super::{LiveRun, guarded::gap};
use crate::pipeline::{Message, Sender};
use failsafe_core::Input;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    thread::JoinHandle,
};

/// As many as there can be runs: a run is in the queue once.
const QUEUE: usize = super::kernel::MAX_RUNS as usize;

const IDLE: u8 = 0;
const ASKED: u8 = 1;
const REFUSED: u8 = 2;
const PROVED: u8 = 3;

/// How far the removal of a run's cgroup is.
#[derive(Debug, Default)]
pub struct Removal {
    state: AtomicU8,
    /// A failure is on record.
    reported: AtomicBool,
}

impl Removal {
    /// Whether the cgroup is gone.
    pub fn is_proved(&self) -> bool {
        self.state.load(Ordering::Acquire) == PROVED
    }

    /// False: it is asked for already, or done.
    fn ask(&self) -> bool {
        [IDLE, REFUSED]
            .into_iter()
            .any(|from| self.state.compare_exchange(from, ASKED, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    fn note(&self, gone: bool) {
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

/// The pipeline's end of the thread.
pub struct Remover {
    queue: SyncSender<Arc<LiveRun>>,
}

impl Remover {
    /// Starts the thread; it ends, after what waits, when the remover is dropped.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn spawn(pipeline: Sender) -> std::io::Result<(Remover, JoinHandle<()>)> {
        let (queue, over) = mpsc::sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("cgroup-removal".into()).spawn(move || work(&over, &pipeline))?;
        Ok((Remover { queue }, thread))
    }

    /// Asks for the proof of a run's end; the pipeline gets [`Message::Ended`] when it is there. Never waits.
    pub fn ask(&self, live: &Arc<LiveRun>) {
        if live.made && live.removal.ask() && self.queue.try_send(live.clone()).is_err() {
            // The sampler reports the empty cgroup again.
            live.removal.note(false);
        }
    }
}

fn work(over: &Receiver<Arc<LiveRun>>, pipeline: &Sender) {
    for live in over {
        // Where the queue is full nobody waits: the sampler reports the cgroup again.
        match live.vacate() {
            Ok(true) => drop(pipeline.try_send(Message::Ended(live.run.id))),
            Err(why) if !live.removal.reported.load(Ordering::Relaxed) => {
                let what = format!(
                    "the run is over, but its cgroup {} cannot be removed: {why}; it stays bounded until that succeeds",
                    live.cgroup.path().display()
                );
                let message = Message::Input(Input::Gap(gap(live.run.id, what, false)));
                live.removal.reported.store(pipeline.try_send(message).is_ok(), Ordering::Relaxed);
            }
            Ok(false) | Err(_) => {}
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

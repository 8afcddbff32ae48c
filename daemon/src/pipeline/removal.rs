//! The thread that removes the cgroups of runs that are over, for the pipeline, which waits for nobody: see `runs::removal`.

use super::{Message, Sender};
use crate::guard::kernel::MAX_RUNS;
use crate::runs::{LiveRun, guarded::gap};
use failsafe_core::Input;
use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{self, Receiver, SyncSender},
    },
    thread::JoinHandle,
};

/// As many as there can be runs: a run is in the queue once.
const QUEUE: usize = MAX_RUNS as usize;

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

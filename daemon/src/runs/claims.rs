//! The order of what is claimed about a run: the audit log and the engine have the same one.
//!
//! Of each number of a run's manifests the first counts, for the engine and for the daemon that reads the log later. A claim is written and
//! handed to the pipeline in one turn, and the first turn begins when whoever made the run has made its own claim: a process that is in the
//! cgroup already is not before it.
//!
//! Invariant: the pipeline takes no turn. A turn waits for the disk.

use super::LiveRun;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns of a run.
#[derive(Debug)]
pub struct Claims {
    turn: Arc<Semaphore>,
    open: AtomicBool,
}

impl Default for Claims {
    /// Not open.
    fn default() -> Claims {
        Claims { turn: Arc::new(Semaphore::new(0)), open: AtomicBool::new(false) }
    }
}

impl Claims {
    /// The pipeline has the run, and its maker's claim: others may claim from here on.
    pub fn open(&self) {
        if !self.open.swap(true, Ordering::AcqRel) {
            self.turn.add_permits(1);
        }
    }

    /// The next turn, in the order of the calls. `None`: there is none any more.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turn.clone().acquire_owned().await.ok()
    }
}

/// Held by whoever made a run; the claims of others begin when it is dropped.
#[derive(Debug)]
pub struct Unclaimed(Arc<LiveRun>);

impl Unclaimed {
    /// Of a run that was just made.
    pub fn of(live: &Arc<LiveRun>) -> Unclaimed {
        Unclaimed(live.clone())
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        self.0.claims.open();
    }
}

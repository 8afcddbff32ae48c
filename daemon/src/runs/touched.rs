//! Which runs may have changed since somebody looked: noted by whoever changes one, taken by who watches the list of runs.
//!
//! Invariants: noting a run waits for nobody, and wakes one waiter for each lane at most; where there is no room for a run, all
//! runs count as changed.

use crossbeam_queue::ArrayQueue;
use failsafe_core::RunId;
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
};
use tokio::sync::watch;

/// Runs that wait to be looked at.
const ROOM: usize = 4_096;

/// Runs that may have changed.
#[derive(Debug)]
pub struct Touched {
    runs: ArrayQueue<RunId>,
    all: AtomicBool,
    grown: watch::Sender<()>,
}

impl Default for Touched {
    fn default() -> Touched {
        Touched { runs: ArrayQueue::new(ROOM), all: AtomicBool::new(true), grown: watch::Sender::new(()) }
    }
}

/// What is to be looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// These runs.
    At(BTreeSet<RunId>),
    /// All.
    AtAll,
}

impl Touched {
    /// Notes that a run may have changed.
    pub fn note(&self, run: RunId) {
        if self.runs.push(run).is_err() {
            self.all.store(true, Ordering::Release);
        }
        self.grown.send_replace(());
    }

    /// Takes what was noted. What is noted meanwhile is taken now or the next time.
    pub fn take(&self) -> Look {
        let all = self.all.swap(false, Ordering::AcqRel);
        let noted: BTreeSet<RunId> = std::iter::from_fn(|| self.runs.pop()).take(ROOM).collect();
        if all { Look::AtAll } else { Look::At(noted) }
    }

    /// Changes whenever something is noted. For few waiters: each one costs whoever notes.
    pub fn grown(&self) -> watch::Receiver<()> {
        self.grown.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: usize) -> RunId {
        RunId(uuid::Uuid::from_u128(n as u128))
    }

    #[test]
    fn more_runs_than_there_is_room_for_are_all_looked_at() {
        let touched = Touched::default();
        assert_eq!(touched.take(), Look::AtAll, "at first");
        [1, 2, 1].into_iter().for_each(|n| touched.note(run(n)));
        assert_eq!(touched.take(), Look::At([run(1), run(2)].into()));
        assert_eq!(touched.take(), Look::At(BTreeSet::new()));
        (0..=ROOM).for_each(|n| touched.note(run(n)));
        assert_eq!(touched.take(), Look::AtAll);
    }
}

//! Which runs may have changed since somebody looked: noted by whoever changes one, taken by who watches the list of runs.
//!
//! Invariants: noting a run waits for no client and no disk, and wakes nobody while nobody watches, else one task of each lane; where there
//! is no room for a run, all runs count as changed.

use crossbeam_queue::ArrayQueue;
use failsafe_core::RunId;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
};
use tokio::sync::watch;

/// Runs that wait to be looked at.
const ROOM: usize = 4_096;

/// Runs that may have changed.
#[derive(Debug)]
pub struct Touched {
    runs: ArrayQueue<RunId>,
    all: AtomicBool,
    watched: Arc<AtomicUsize>,
    grown: watch::Sender<()>,
}

/// Somebody watches, until this is dropped.
#[derive(Debug)]
pub struct Watching(Arc<AtomicUsize>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for Touched {
    fn default() -> Touched {
        Touched {
            runs: ArrayQueue::new(ROOM),
            all: AtomicBool::new(true),
            watched: Arc::default(),
            grown: watch::Sender::new(()),
        }
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
        // Pairs with the fence of who begins to watch: either it takes the run, or it is seen here.
        fence(Ordering::SeqCst);
        if self.watched.load(Ordering::Relaxed) > 0 {
            self.wake();
        }
    }

    /// Has everybody look again who watches.
    pub fn wake(&self) {
        self.grown.send_replace(());
    }

    /// From here on whoever notes a run wakes those who watch. To be called before the first look.
    pub fn watch(&self) -> Watching {
        self.watched.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Watching(self.watched.clone())
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
    fn noting_a_run_wakes_nobody_while_nobody_watches() {
        let touched = Touched::default();
        let grown = touched.grown();
        touched.note(run(1));
        assert!(!grown.has_changed().unwrap());
        let (one, other) = (touched.watch(), touched.watch());
        drop(one);
        touched.note(run(2));
        assert!(grown.has_changed().unwrap());
        drop(other);
        let grown = touched.grown();
        touched.note(run(3));
        assert!(!grown.has_changed().unwrap());
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

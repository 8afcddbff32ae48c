//! What the thread of drills and the API have in common: who waits for a drill, and what is known of the last ones.
//!
//! Invariants: at most one drill waits; who asks while one waits or is done is refused. Who waits gets a result, or that there will be none.

use super::Asked;
use crate::runs::drills::Drills;
use failsafe_core::drill::Drill;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread::Thread,
};
use tokio::sync::oneshot;

/// What people see.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What is known.
    pub drills: Drills,
    /// When the next one is due by the schedule, nanoseconds since the epoch.
    pub due_ns: Option<i64>,
    /// Whether one is overdue.
    pub overdue: bool,
    /// Drills since the daemon started, by result.
    pub counts: Counts,
}

/// Drills by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Every step was proved.
    pub proved: u64,
    /// The node only observed.
    pub unproved: u64,
    /// They could not be done.
    pub not_done: u64,
    /// A step failed.
    pub failed: u64,
}

/// Why no drill is done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// One is being done, or waits.
    #[error("a drill is being done already: wait for its result (`failsafectl drill status`)")]
    Busy,
    /// The thread does no more.
    #[error("the daemon is stopping")]
    Closed,
}

type QueuedDrill = (Asked, oneshot::Sender<Drill>);

#[derive(Debug, Default)]
struct Inner {
    view: View,
    waiting: Option<QueuedDrill>,
    /// One was taken, or is being done.
    busy: bool,
    /// The thread that does drills, while it waits for something to do.
    thread: Option<Thread>,
    /// It does no more.
    closed: bool,
}

/// Both ends.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Inner>);

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a drill. What is returned gets its result.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn ask(&self, asked: Asked) -> Result<oneshot::Receiver<Drill>, Refused> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(Refused::Closed);
        }
        if inner.waiting.is_some() || inner.busy {
            return Err(Refused::Busy);
        }
        let (done, result) = oneshot::channel();
        inner.waiting = Some((asked, done));
        if let Some(thread) = &inner.thread {
            thread.unpark();
        }
        Ok(result)
    }

    /// From here on this thread does drills, and is unparked for each that is asked for, until what is returned is dropped.
    pub(super) fn open(&self, thread: Thread) -> Open<'_> {
        self.inner().thread = Some(thread);
        Open(self)
    }

    /// What is known.
    pub fn view(&self) -> View {
        self.inner().view.clone()
    }

    /// Takes the one who waits.
    pub(super) fn take(&self) -> Option<QueuedDrill> {
        let mut inner = self.inner();
        inner.busy |= inner.waiting.is_some();
        inner.waiting.take()
    }

    /// Shows what is known.
    pub(super) fn show(&self, view: View) {
        let mut inner = self.inner();
        inner.busy = view.drills.under.is_some();
        inner.view = view;
    }
}

/// A thread does what is asked for. Dropped: none does any more, and nobody waits.
pub(super) struct Open<'a>(&'a Shared);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.closed = true;
        // Whoever waits for it sees that there is no result.
        inner.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::Actor;
    use std::{sync::Arc, thread};

    fn asked() -> Asked {
        Asked { actor: Actor::Daemon, reason: "test".into() }
    }

    #[test]
    fn a_request_that_is_not_taken_before_the_thread_ends_is_answered_and_later_ones_are_refused() {
        let shared = Shared::default();
        let open = shared.open(thread::current());
        let waits = shared.ask(asked()).unwrap();
        assert_eq!(shared.ask(asked()).unwrap_err(), Refused::Busy);
        drop(open);
        assert!(waits.blocking_recv().is_err());
        assert_eq!(shared.ask(asked()).unwrap_err(), Refused::Closed);
    }

    #[test]
    fn a_request_wakes_the_thread_that_waits_without_a_limit() {
        let shared = Arc::new(Shared::default());
        let (of_thread, (is_open, opened)) = (shared.clone(), std::sync::mpsc::channel());
        let thread = thread::spawn(move || {
            let _open = of_thread.open(thread::current());
            is_open.send(()).unwrap();
            loop {
                if let Some((asked, _)) = of_thread.take() {
                    return asked.reason;
                }
                thread::park();
            }
        });
        opened.recv().unwrap();
        let _waits = shared.ask(asked()).unwrap();
        assert_eq!(thread.join().unwrap(), "test");
    }
}

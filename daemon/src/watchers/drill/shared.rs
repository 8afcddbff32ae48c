//! What the thread of drills and the API have in common: who waits for a drill, and what is known of the last ones.
//!
//! Invariant: at most one drill waits; who asks while one waits or is done is refused.

use super::Asked;
use crate::runs::drills::Drills;
use failsafe_core::drill::Drill;
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    /// Drills since the daemon started, by result: proved, unproved, failed.
    pub counts: [u64; 3],
}

/// A drill is being done, or waits.
#[derive(Debug, thiserror::Error)]
#[error("a drill is being done already: wait for its result (`failsafectl drill status`)")]
pub struct Busy;

type Waiting = (Asked, oneshot::Sender<Drill>);

#[derive(Debug, Default)]
struct Inner {
    view: View,
    waiting: Option<Waiting>,
    /// One was taken, or is being done.
    busy: bool,
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
    /// [`Busy`].
    pub fn ask(&self, asked: Asked) -> Result<oneshot::Receiver<Drill>, Busy> {
        let mut inner = self.inner();
        if inner.waiting.is_some() || inner.busy {
            return Err(Busy);
        }
        let (done, result) = oneshot::channel();
        inner.waiting = Some((asked, done));
        Ok(result)
    }

    /// What is known.
    pub fn view(&self) -> View {
        self.inner().view.clone()
    }

    /// Takes the one who waits.
    pub(super) fn take(&self) -> Option<Waiting> {
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

//! The promise given for a submit, and its one resolution.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::entry::{DraftError, Hash};

/// Where an entry now durably is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// Its index.
    pub index: u64,
    /// Its RFC 6962 leaf hash.
    pub leaf_hash: Hash,
}

/// Why an entry is not durable, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// Not within the time given; it may still become durable.
    #[error("audit entry not durable in time")]
    Timeout,
    /// Refused: too much waits for the disk already. A `gap` entry will count it.
    #[error("audit queue is full")]
    Full,
    /// Not written: the budget of the user that it is about is spent. An entry sums such drafts up.
    #[error("audit entry not written: its user's budget is spent")]
    OverBudget,
    /// The writer ended before the entry was durable. Some beginning of such entries may still be found in the log.
    #[error("audit log is closed")]
    Closed,
    /// The draft can never be an entry.
    #[error("audit draft refused: {0}")]
    Refused(DraftError),
}

type Outcome = Result<Durable, WaitError>;

/// Waits for one submit to be durable.
#[derive(Debug, Clone)]
pub struct Ticket {
    slot: Arc<Slot>,
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    outcome: Mutex<Option<Outcome>>,
    resolved: Condvar,
}

impl Ticket {
    pub(super) fn new() -> (Self, Done) {
        let slot = Arc::new(Slot::default());
        (Self { slot: Arc::clone(&slot) }, Done::Ticket(slot))
    }

    /// Blocks until the entry is durable, at most `timeout`.
    ///
    /// # Errors
    /// [`WaitError`]. After [`WaitError::Timeout`] it can be waited again.
    pub fn wait(&self, timeout: Duration) -> Outcome {
        let deadline = Instant::now() + timeout;
        let mut outcome = self.slot.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WaitError::Timeout);
            }
            outcome = self.slot.resolved.wait_timeout(outcome, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The outcome if there is one, without waiting.
    #[must_use]
    pub fn poll(&self) -> Option<Outcome> {
        self.slot.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The writer's end of a promise.
pub(super) enum Done {
    Ticket(Arc<Slot>),
    Call(Box<dyn FnOnce(Outcome) + Send>),
}

impl Done {
    pub(super) fn resolve(self, outcome: Outcome) {
        match self {
            Self::Ticket(slot) => {
                *slot.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
                slot.resolved.notify_all();
            }
            Self::Call(then) => then(outcome),
        }
    }
}

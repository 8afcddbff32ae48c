//! Writing the end of a run; what cannot be written is tried again.

use super::{Registry, store::EndedRun};
use std::sync::PoisonError;

impl Registry {
    /// Marks a run's end; one that cannot be written is tried again.
    pub(super) fn mark_ended(&self, ended: &EndedRun) {
        if let Err(error) = self.store.mark_ended(ended) {
            tracing::error!(run = %ended.run.id, error = error.chain(), "the run's end could not be written: it is tried again");
            self.unmarked.lock().unwrap_or_else(PoisonError::into_inner).push(ended.clone());
        }
    }

    /// Tries again to write the ends that could not be written.
    pub fn mark_ends(&self) {
        let waiting = std::mem::take(&mut *self.unmarked.lock().unwrap_or_else(PoisonError::into_inner));
        for ended in waiting {
            match self.store.mark_ended(&ended) {
                Ok(()) => tracing::info!(run = %ended.run.id, "the run's end is written"),
                Err(_) => self.unmarked.lock().unwrap_or_else(PoisonError::into_inner).push(ended),
            }
        }
    }
}

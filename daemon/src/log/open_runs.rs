//! The runs of this boot that the audit log has as started and not as ended. Each file of the log begins with their list, so that the
//! next daemon need not read older files to find them ([`crate::runs::past`]).
//!
//! A run is in the list from before its beginning is queued until its end is durable. So whenever a file of the log is sealed, the
//! list has every run that the sealed files have as open; it may have more.

use failsafe_core::{RunId, record::Record};
use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The list.
#[derive(Debug, Default)]
pub(crate) struct OpenRuns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What earlier daemons left is known.
    is_complete: bool,
    runs: BTreeSet<RunId>,
    /// Ended before what earlier daemons left was known.
    ended: BTreeSet<RunId>,
}

impl OpenRuns {
    /// An entry that is to be queued.
    pub(crate) fn note(&self, record: &Record) {
        if let Record::RunStarted { run, .. } = record {
            self.started(run.id);
        }
    }

    /// The beginning of a run is to be queued.
    pub(crate) fn started(&self, run: RunId) {
        self.state().runs.insert(run);
    }

    /// The end of a run is durable.
    pub(crate) fn ended(&self, run: RunId) {
        let mut state = self.state();
        state.runs.remove(&run);
        if !state.is_complete {
            state.ended.insert(run);
        }
    }

    /// What earlier daemons of this boot left open.
    pub(crate) fn complete(&self, earlier: impl IntoIterator<Item = RunId>) {
        let mut state = self.state();
        let ended = std::mem::take(&mut state.ended);
        state.runs.extend(earlier.into_iter().filter(|run| !ended.contains(run)));
        state.is_complete = true;
    }

    /// The list; `None` while it is not complete.
    pub(crate) fn list(&self) -> Option<Vec<String>> {
        let state = self.state();
        state.is_complete.then(|| state.runs.iter().map(RunId::to_string).collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

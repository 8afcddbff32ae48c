//! The GPUs of runs, which several sensors find: the engine gets them as they stand when it is stepped, whoever was first.

use super::Pipeline;
use failsafe_core::{Input, RunId, record::Record};

impl Pipeline {
    /// Puts what is known now into an input about the GPUs of a run: two sensors may have found something at once, and the messages of
    /// the two may come in the other order. What the log does not state yet is to be recorded behind the decisions: also that a GPU of
    /// the run is found by something else than before.
    pub(super) fn latest_gpus(&self, input: &mut Input) -> Option<(Record, RunId)> {
        let Input::RunGpus { run, gpus, .. } = input else { return None };
        let live = self.runs.get(run)?;
        let (found, removed) = {
            let mut status = live.status();
            gpus.clone_from(&status.gpus);
            status.state_gpus()
        };
        let is_new = !found.is_empty() || !removed.is_empty();
        is_new.then_some((Record::RunGpus { run: *run, found, removed }, *run))
    }
}

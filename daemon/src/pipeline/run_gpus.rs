//! The GPUs of runs, which several sensors find: the engine gets them as they stand when it is stepped, whoever was first.

use super::Pipeline;
use failsafe_core::{Input, RunId, record::Record};

impl Pipeline {
    /// Puts what is known now into an input about the GPUs of a run: two sensors may have found something at once, and the messages of
    /// the two may come in the other order. What is new to the engine is to be recorded behind the decisions.
    pub(super) fn latest_gpus(&self, input: &mut Input) -> Option<(Record, RunId)> {
        let Input::RunGpus { run, gpus, .. } = input else { return None };
        let live = self.runs.get(run)?;
        let before = self.judge.state.gpus(*run)?;
        let (now, found) = {
            let status = live.status();
            (status.gpus.clone(), status.found_gpus.clone())
        };
        *gpus = now;
        let found: Vec<_> = found.into_values().filter(|found| !before.contains(&found.gpu)).collect();
        let removed: Vec<_> = before.difference(gpus).cloned().collect();
        let is_new = !found.is_empty() || !removed.is_empty();
        is_new.then(|| (Record::RunGpus { run: *run, found, removed }, *run))
    }
}

//! Events that the programs of an earlier daemon wrote and that nobody read.

use super::Adopted;
use crate::{
    guard::LeftEvents,
    runs::{Registry, departed::Departed, guarded::GuardedRun, translate},
    sensors::ebpf::{self, EventReader},
};
use failsafe_core::{Input, RunId};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

impl Registry {
    /// The events that an earlier daemon's programs wrote or noted and nobody read, of the runs that were taken up, up to the
    /// instant from which this daemon's own programs see them. Those of guarded runs are counted, those of `departed` runs noted.
    pub(super) fn left_inputs(&self, left: LeftEvents, adopted: &[Adopted], departed: &mut [Departed]) -> Vec<Input> {
        let mut runs: BTreeMap<(u32, u32), (RunId, u64)> = BTreeMap::new();
        let mut ended: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        let mut passed_over: BTreeMap<(u32, u32), Arc<GuardedRun>> = BTreeMap::new();
        let guarded = self.guarded();
        let mut inputs = Vec::new();
        for previous in &left.runs {
            let place = (previous.slot, previous.epoch);
            if let Some(run) = adopted.iter().find(|a| a.live.run.cgroup_id == previous.root_id) {
                runs.insert(place, (run.live.run.id, run.attached));
            } else if let Some(nth) = departed.iter().position(|run| run.is_of(previous.root_id)) {
                ended.insert(place, nth);
            } else if let Some(run) = guarded.iter().find(|run| run.root == Some(previous.root_id)) {
                passed_over.insert(place, run.clone());
            }
        }
        let mut judge = |event: ebpf::Event| {
            let place = (event.slot, event.epoch);
            // While it was being attached both rings may have an event: seen twice is better than not at all.
            if let Some((run, attached)) = runs.get(&place)
                && event.at_ns < *attached
            {
                inputs.extend(translate::event_of(&self.kernel, *run, event));
            } else if let Some(run) = ended.get(&place).and_then(|nth| departed.get_mut(*nth)) {
                if let Some(input) = translate::event_of(&self.kernel, run.run().id, event) {
                    run.takes(&input);
                }
            } else if let Some(run) = passed_over.get(&place) {
                run.missed.fetch_add(1, Ordering::Relaxed);
            }
        };
        let leavers = left.leavers();
        EventReader::of(left.ring).drain(&mut judge);
        leavers.into_iter().map(ebpf::leaving).for_each(&mut judge);
        if !inputs.is_empty() {
            tracing::info!(events = inputs.len(), "events of the time without a daemon are judged now");
        }
        inputs
    }
}

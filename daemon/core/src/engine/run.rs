//! The state of one run: its policy, its GPUs, its containment, and whether it is only watched.

mod blind;
mod blindness;
mod decide;
mod judge;
mod pace;

use super::{REJUDGED_AFTER_OBSERVING, RunView, index::Index, last::Last, rule::RuleState, tree::TreeState};
use crate::{
    containment::Containment,
    decision::{Action, Cause, Decision, IncidentId, Observation, Upkeep},
    detectors::Detectors,
    event::Event,
    input::Run,
    policy::{Condition, Policy, PolicyDigest, Rule, Truth},
    record::Suppressed,
    signal::{Kind, Real, Series, Value},
    subject::{GpuId, RunId, Subject},
    time::{MonoTime, Span},
};
use blindness::Blindness;
use decide::Because;
use pace::Pace;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub(super) struct RunState {
    id: RunId,
    /// The engine that is decided as; `None`: this one.
    earlier: Option<u32>,
    pub(super) policy: PolicyDigest,
    registered: MonoTime,
    containment: Containment,
    /// It is only watched: what is decided is not carried out, but for operators' commands.
    observed: bool,
    /// Another state has it frozen, see [`super::State::set_frozen_by_others`].
    frozen_by_others: bool,
    /// It stands still by its last [`Kind::Suspended`]: until when that time is taken away from what is awaited of it.
    stands_still: Option<MonoTime>,
    /// What failsafe would have done of itself while it was only watched, by what caused it, and what is no longer so after a thaw.
    held_back: BTreeMap<Upkeep, Because>,
    /// Frozen without a decision on record when it was taken up.
    unexplained: bool,
    decisions: u32,
    incidents: u32,
    open: Option<IncidentId>,
    retries: u32,
    gpus: BTreeSet<GpuId>,
    /// The MIG devices it was given, by GPU.
    mig: BTreeMap<GpuId, BTreeSet<String>>,
    rules: Vec<RuleState>,
    /// Of the rules whose condition has several parts.
    trees: Vec<Option<TreeState>>,
    index: Index,
    last: Last,
    blindness: Blindness,
    /// Rules, by index, that froze the run since it was last thawed.
    stopped_by: BTreeSet<usize>,
    /// Decisions that contain nothing, and cordons.
    pace: Pace,
    cordons: Pace,
    detectors: Detectors,
    /// The numbers of its manifest that rules read; of each the first that came.
    manifest: BTreeMap<String, Real>,
}

impl RunState {
    pub(super) fn new(run: &Run, policy: &Policy, earlier: Option<u32>, recalled: Containment) -> RunState {
        let contained = (run.contained.frozen || run.contained.blocked) && !run.contained.unexplained;
        let gpus = all_gpus(&run.gpus, &run.mig);
        let tree = |rule: &Rule| match &rule.when {
            Condition::Tree(tree) => Some(TreeState::new(tree, gpus.iter().cloned(), run.registered, earlier)),
            Condition::Threshold { .. } | Condition::NotFinite { .. } | Condition::Event(_) => None,
        };
        let trees: Vec<Option<TreeState>> = policy.rules.iter().map(tree).collect();
        RunState {
            id: run.id,
            earlier,
            policy: run.policy,
            registered: run.registered,
            containment: recalled.taken_up(run.contained, run.registered),
            observed: false,
            frozen_by_others: false,
            stands_still: None,
            held_back: BTreeMap::new(),
            unexplained: run.contained.unexplained,
            decisions: run.decisions,
            incidents: run.incidents,
            open: (contained && run.incidents > 0).then(|| IncidentId::new(run.id, run.incidents)),
            retries: 0,
            gpus: run.gpus.clone(),
            mig: run.mig.clone(),
            rules: vec![RuleState::default(); policy.rules.len()],
            index: Index::of(policy, &trees),
            trees,
            last: Last::default(),
            blindness: Blindness::new(policy),
            stopped_by: BTreeSet::new(),
            pace: Pace::new(run.registered),
            cordons: Pace::new(run.registered),
            detectors: Detectors::of(policy),
            manifest: BTreeMap::new(),
        }
    }

    /// It is only watched from here on. What is in force by then stays.
    pub(super) fn observe(&mut self) {
        self.observed = true;
    }

    /// It is bounded from here on. What held meanwhile, and was not acted upon, is judged again at once: a total never falls, and a sensor
    /// goes blind once.
    pub(super) fn enforce(&mut self, policy: &Policy, at: MonoTime, out: &mut Vec<Decision>) {
        if !std::mem::take(&mut self.observed) || self.is_as_engine_before(REJUDGED_AFTER_OBSERVING) {
            return;
        }
        for (what, because) in std::mem::take(&mut self.held_back) {
            let stands = what != Upkeep::Blind || self.is_blind();
            if stands && self.containment.is_frozen() {
                self.containment.others_want_it_frozen();
            } else if stands {
                let because = Because { at, ..because };
                self.decide(
                    Cause::Upkeep { what },
                    vec![Action::Freeze, Action::Snapshot, Action::Notify],
                    because,
                    out,
                );
            }
        }
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Some(tree) = self.trees.get_mut(index).and_then(Option::as_mut) {
                tree.enforce(rule, policy);
            }
            self.judge_standing(index, rule, at, out);
        }
        self.judge_trees(policy, at, out);
    }

    /// Whether it is decided as an engine before this one did.
    fn is_as_engine_before(&self, engine: u32) -> bool {
        self.earlier.is_some_and(|earlier| earlier < engine)
    }

    pub(super) fn gpus(&self) -> &BTreeSet<GpuId> {
        &self.gpus
    }

    pub(super) fn containment(&self) -> &Containment {
        &self.containment
    }

    pub(super) fn others_want_it_frozen(&mut self) {
        self.containment.others_want_it_frozen();
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.containment.is_frozen()
    }

    pub(super) fn set_frozen_by_others(&mut self, frozen: bool) {
        self.frozen_by_others = frozen;
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.stands_still.is_some() && !self.containment.is_frozen()
    }

    /// By the sensor, it stands still or does not.
    pub(super) fn note_suspension(&mut self, stands_still: bool, at: MonoTime) {
        self.skip_suspension(at);
        self.stands_still = stands_still.then(|| self.stands_still.unwrap_or(at));
    }

    /// Time in which it stands still is no silence. It is taken away, and the time does not begin anew: a run that stops itself for a
    /// moment again and again is found as silent all the same.
    pub(super) fn skip_suspension(&mut self, at: MonoTime) {
        if let Some(until) = self.stands_still.as_mut().filter(|until| **until < at) {
            let length = at.since(std::mem::replace(until, at));
            self.trees.iter_mut().flatten().for_each(|tree| tree.suspended(at, length));
        }
    }

    /// The daemon stood still: what is awaited of the run had no time to come, and no condition is known to have held.
    pub(super) fn paused(&mut self, at: MonoTime, length: Span) {
        self.skip_suspension(MonoTime(at.0.saturating_sub(length.0)));
        self.stands_still = self.stands_still.map(|_| at);
        self.blindness.paused(self.registered, at, length);
        self.rules.iter_mut().for_each(|rule| rule.paused(at, length));
        self.trees.iter_mut().flatten().for_each(|tree| tree.paused(at, length));
    }

    pub(super) fn view(&self) -> RunView {
        RunView {
            frozen: self.containment.is_frozen(),
            blocked: self.containment.is_latched(),
            decisions: self.decisions,
            incidents: self.incidents,
        }
    }

    pub(super) fn suppressed(&self, policy: &Policy) -> Vec<Suppressed> {
        let counted = policy.rules.iter().zip(&self.rules);
        counted
            .filter(|(_, state)| state.suppressed() > 0)
            .map(|(rule, state)| Suppressed { rule: rule.id.clone(), events: state.suppressed() })
            .collect()
    }

    pub(super) fn visit_tests(&self, mut visit: impl FnMut(usize, usize, Truth)) {
        for (rule, tree) in self.trees.iter().enumerate() {
            if let Some(tree) = tree {
                tree.visit_tests(|test, truth| visit(rule, test, truth));
            }
        }
    }

    pub(super) fn last_signals(&self) -> Vec<Observation> {
        self.last.all()
    }

    pub(super) fn last_metrics(&self, most: usize) -> (Vec<Observation>, usize) {
        self.last.metrics(most)
    }

    pub(super) fn has_gpu(&self, gpu: &GpuId) -> bool {
        self.gpus.contains(gpu) || self.mig.values().any(|given| given.contains(&gpu.0))
    }

    /// Whether it has any GPU or MIG device.
    pub(super) fn has_gpus(&self) -> bool {
        !self.gpus.is_empty() || self.mig.values().any(|given| !given.is_empty())
    }

    /// Whether the run is judged by a signal of a GPU. One that was given MIG devices is judged by their signals, not by the same
    /// signals of the whole GPU.
    pub(super) fn is_judged_by(&self, gpu: &GpuId, kind: &Kind) -> bool {
        self.has_gpu(gpu) && !(kind.is_of_slices() && self.mig.contains_key(gpu))
    }

    /// Whether what happened on one of its GPUs was where the run is: one that was given MIG devices has nothing to do with a
    /// GPU instance that holds none of them.
    pub(super) fn is_at(&self, gpu: &GpuId, value: &Value) -> bool {
        let Value::Event(Event::Xid { slice: Some(slice), .. }) = value else { return true };
        slice.devices.is_empty() || self.mig.get(gpu).is_none_or(|given| !given.is_disjoint(&slice.devices))
    }

    pub(super) fn set_gpus(&mut self, policy: &Policy, gpus: &BTreeSet<GpuId>, at: MonoTime, out: &mut Vec<Decision>) {
        self.gpus.clone_from(gpus);
        let all = all_gpus(gpus, &self.mig);
        self.detectors.set_gpus(&all);
        self.blindness.unread.retain(|(gpu, _), _| all.contains(gpu));
        self.last.retain(|subject| match subject {
            Subject::Gpu(gpu) => all.contains(gpu),
            Subject::Node | Subject::Run(_) | Subject::Process { .. } => true,
        });
        self.trees.iter_mut().flatten().for_each(|tree| tree.set_gpus(&all, at));
        self.judge_trees(policy, at, out);
    }

    /// Numbers of its manifest. They are judged with the next values of the signals that are compared with them.
    pub(super) fn manifest(&mut self, policy: &Policy, values: &BTreeMap<String, Real>) {
        for key in policy.rules.iter().flat_map(|rule| rule.when.manifest_keys()) {
            if let (Some(value), false) = (values.get(key), self.manifest.contains_key(key)) {
                self.manifest.insert(key.to_owned(), *value);
            }
        }
    }

    pub(super) fn retire(&mut self, policy: &Policy, series: &Series, at: MonoTime, out: &mut Vec<Decision>) {
        for rule in &mut self.rules {
            rule.retire(series);
        }
        self.trees.iter_mut().flatten().for_each(|tree| tree.retire(series, at));
        self.judge_trees(policy, at, out);
        self.last.retire(series);
    }
}

/// The GPUs, and the MIG devices that were given of them.
fn all_gpus(gpus: &BTreeSet<GpuId>, mig: &BTreeMap<GpuId, BTreeSet<String>>) -> BTreeSet<GpuId> {
    let slices = mig.values().flatten().map(|uuid| GpuId(uuid.clone()));
    gpus.iter().cloned().chain(slices).collect()
}

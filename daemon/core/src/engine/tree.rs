//! The state of a rule whose condition has several parts.
//!
//! ```text
//! Tree ─► Program (once) ─┐
//! signal, event, tick ────┴─► LeafState ─► Truth of each step ─► for, keep_firing_for ─► trip, with what made it true
//! ```
//!
//! Owned by its run. A condition with a test on GPUs is judged for each GPU by itself ([`Instance`]); tests of the run itself are
//! shared. Invariants: compiled once; no allocation in a judgement that does not trip; time comes from the inputs only and never runs
//! back, so that a replay decides the same.

mod instance;
mod program;
mod shown;

pub(super) use shown::Evidence;

use super::leaf::{Known, LeafState, Sight};
use crate::{
    decision::Mode,
    event::EventKind,
    policy::{Policy, Rule, Test, Tree, Truth, tree::PHASE_METRIC},
    signal::{Kind, Real, Series, Signal, Source, Value},
    subject::{GpuId, Subject},
    time::{MonoTime, Span},
};
use instance::Instance;
use program::{Program, Step, states};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Not,
};

/// The state of one rule.
#[derive(Debug, Clone)]
pub(super) struct TreeState {
    program: Program,
    of_gpus: bool,
    /// The engine that it decides as; `None`: this one.
    earlier: Option<u32>,
    /// Of tests that are not on a GPU, by the number of the test; the others' are in the instances.
    shared: Vec<LeafState>,
    instances: Vec<Instance>,
}

impl TreeState {
    /// Of a run with these GPUs; `earlier`: the engine that it decides as, where that is not this one.
    pub(super) fn new(
        tree: &Tree,
        gpus: impl Iterator<Item = GpuId>,
        now: MonoTime,
        earlier: Option<u32>,
    ) -> TreeState {
        let program = Program::of(tree);
        let (of_gpus, shared) = (tree.is_of_gpus(), states(&program, now));
        let mut state = TreeState { program, of_gpus, earlier, shared, instances: Vec::new() };
        if of_gpus {
            state.set_gpus(&gpus.collect(), now);
        } else {
            state.instances.push(Instance::new(&state.program, None, now));
        }
        state
    }

    /// The run's GPUs and MIG devices are now these.
    pub(super) fn set_gpus(&mut self, gpus: &BTreeSet<GpuId>, now: MonoTime) {
        if !self.of_gpus {
            return;
        }
        self.instances.retain(|instance| instance.gpu.as_ref().is_some_and(|gpu| gpus.contains(gpu)));
        for gpu in gpus {
            if !self.instances.iter().any(|instance| instance.gpu.as_ref() == Some(gpu)) {
                self.instances.push(Instance::new(&self.program, Some(gpu.clone()), now));
            }
        }
    }

    /// The signals that its tests read, and the kinds of its events.
    pub(super) fn inputs(&self) -> (Vec<Kind>, Vec<EventKind>) {
        let tests = || self.program.leaves.iter().map(|leaf| &leaf.test);
        let phase = Kind::Metric(PHASE_METRIC.to_owned());
        let kinds = tests().filter_map(|test| match test {
            Test::Phase { .. } => Some(phase.clone()),
            _ => None,
        });
        let kinds = kinds.chain(tests().flat_map(Test::kinds).cloned());
        (kinds.collect(), tests().filter_map(|test| Some(test.event()?.kind)).collect())
    }

    /// Takes a signal or an event, without judging.
    pub(super) fn take(
        &mut self,
        rule: &Rule,
        policy: &Policy,
        signal: &Signal,
        observed: bool,
        manifest: &BTreeMap<String, Real>,
    ) {
        let TreeState { program, shared, instances, earlier, .. } = self;
        for (n, leaf) in program.leaves.iter().enumerate() {
            let is_event = matches!(signal.value, Value::Event(_));
            let concerns = match &leaf.test {
                Test::Event { wanted, .. } | Test::Count { wanted, .. } => {
                    matches!(&signal.value, Value::Event(event) if event.kind() == wanted.kind)
                }
                Test::Phase { .. } => {
                    matches!(&signal.kind, Kind::Metric(name) if name == PHASE_METRIC)
                }
                Test::Age { .. } => false,
                Test::Steps { .. } => matches!(&signal.kind, Kind::Metric(_)),
                other => !is_event && other.kinds().any(|kind| *kind == signal.kind),
            };
            if !concerns {
                continue;
            }
            let observes = || {
                observed || rule.mode == Mode::Observe || leaf.test.event().is_some_and(|e| policy.observes_event(e))
            };
            let mut give = |state: &mut LeafState| match &leaf.test {
                test @ (Test::Event { .. } | Test::Count { .. }) => state.event(test, signal, observes()),
                test => {
                    state.value(test, leaf.hold, signal, Known { earlier: *earlier, manifest });
                    false
                }
            };
            if !leaf.test.is_of_gpus() {
                if shared.get_mut(n).is_some_and(&mut give) {
                    instances.iter_mut().for_each(Instance::again);
                }
                continue;
            }
            for instance in instances.iter_mut() {
                let mine = match &signal.subject {
                    Subject::Gpu(gpu) => instance.gpu.as_ref() == Some(gpu),
                    Subject::Node | Subject::Run(_) | Subject::Process { .. } => true,
                };
                if mine && instance.own.get_mut(n).is_some_and(&mut give) {
                    instance.again();
                }
            }
        }
    }

    /// A sensor lost something.
    pub(super) fn lost(&mut self, source: Source, at: MonoTime) {
        self.each_leaf(|leaf, test| leaf.lost(test, source, at));
    }

    /// The daemon stood still for this long until `at`.
    pub(super) fn paused(&mut self, at: MonoTime, length: Span) {
        self.instances.iter_mut().for_each(|instance| instance.paused(at, length));
        self.each_leaf(|leaf, test| leaf.paused(test, at, length));
    }

    /// The run was suspended for this long until `at`.
    pub(super) fn suspended(&mut self, at: MonoTime, length: Span) {
        self.each_leaf(|leaf, test| leaf.skip_silence(test, at, length));
    }

    fn each_leaf(&mut self, mut act: impl FnMut(&mut LeafState, &Test)) {
        let TreeState { program, shared, instances, .. } = self;
        let states = std::iter::once(shared).chain(instances.iter_mut().map(|instance| &mut instance.own));
        for state in states {
            program.leaves.iter().zip(state).for_each(|(leaf, state)| act(state, &leaf.test));
        }
    }

    /// A series has ended.
    pub(super) fn retire(&mut self, series: &Series, at: MonoTime) {
        for (leaf, state) in self.program.leaves.iter().zip(&mut self.shared) {
            state.retire(&leaf.test, leaf.hold, series, at);
        }
    }

    /// An operator thawed the run, and has seen what tripped the rule: it trips again when the condition has not held meanwhile, when
    /// an event of it happens anew, or after the rule's `rearm`.
    pub(super) fn rearm(&mut self, rule: &Rule, at: MonoTime) {
        for instance in &mut self.instances {
            instance.last_trip = None;
            if instance.tripped {
                instance.thawed = true;
                instance.rearmed_at = rule.rearm().map(|after| MonoTime(at.0.saturating_add(after.0)));
            }
        }
    }

    /// The trip of its last judgement came while the run was only watched: nothing was done.
    pub(super) fn hold_back(&mut self, n: usize) {
        if let Some(instance) = self.instances.get_mut(n) {
            instance.held_back = true;
        }
    }

    /// The run is no longer only watched: what tripped meanwhile, and was not acted upon, is armed again. What would have been denied
    /// happened to a run that was let do it, and counts no more; what happened counts as before.
    pub(super) fn enforce(&mut self, rule: &Rule, policy: &Policy) {
        if rule.mode == Mode::Observe {
            return;
        }
        self.each_leaf(|leaf, test| {
            if test.event().is_some_and(|event| !policy.observes_event(event)) {
                leaf.forget_would_be();
            }
        });
        for instance in self.instances.iter_mut().filter(|instance| instance.held_back) {
            instance.rearm();
            instance.last_trip = None;
        }
    }

    /// How many there are to judge.
    pub(super) fn instances(&self) -> usize {
        self.instances.len()
    }

    /// Judges the condition for one GPU, or for the run. Whether the rule trips.
    pub(super) fn judge(&mut self, n: usize, rule: &Rule, tree: &Tree, sight: &Sight<'_>, at: MonoTime) -> bool {
        let TreeState { program, shared, instances, .. } = self;
        let Some(instance) = instances.get_mut(n) else { return false };
        instance.now = instance.now.max(at);
        let now = instance.now;
        for (step, what) in program.steps.iter().enumerate() {
            let of = |part: &usize| instance.truths.get(*part).copied().unwrap_or_default();
            let truth = match what {
                Step::Leaf(leaf) => program.leaves.get(*leaf).map_or(Truth::Unknown, |test| {
                    let (test, gpu) = (&test.test, instance.gpu.as_ref());
                    let states = if test.is_of_gpus() { &mut instance.own } else { &mut *shared };
                    let gpu = gpu.filter(|_| test.is_of_gpus());
                    states.get_mut(*leaf).map_or(Truth::Unknown, |state| state.truth(test, gpu, sight, now))
                }),
                Step::Not(part) => of(part).not(),
                Step::AtLeast { n, of: parts } => Truth::at_least(*n, parts.iter().map(of)),
            };
            if let Some(slot) = instance.truths.get_mut(step) {
                *slot = truth;
            }
        }
        if !sight.judges_real {
            return instance.step(rule, tree, now);
        }
        let acts = sight.enforces && rule.mode == Mode::Enforce;
        if instance.tripped && instance.observed && acts && program.really_holds(shared, instance) {
            // By now enough has happened, and nothing was done for it yet.
            instance.rearm();
            instance.last_trip = None;
        }
        let trips = instance.step(rule, tree, now);
        instance.observed |= trips && !program.really_holds(shared, instance);
        trips
    }

    /// Each test, by its number, with its truth at the last judgement.
    pub(super) fn visit_tests(&self, mut visit: impl FnMut(usize, Truth)) {
        for instance in &self.instances {
            for (step, truth) in self.program.steps.iter().zip(&instance.truths) {
                if let Step::Leaf(test) = step {
                    visit(*test, *truth);
                }
            }
        }
    }
}

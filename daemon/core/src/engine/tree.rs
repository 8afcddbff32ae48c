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

use super::leaf::{Known, LeafState, Sight};
use crate::{
    decision::{Confidence, Mode, Observation},
    event::EventKind,
    policy::{Leaf, Node, Policy, Rule, Test, Tree, Truth, tree::PHASE_METRIC},
    signal::{Kind, Real, Series, Signal, Source, Value},
    subject::{GpuId, Subject},
    time::{MonoTime, Span},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Not,
};

/// Series of one test whose values a decision keeps.
const SERIES_SHOWN: usize = 8;

/// One step of a compiled condition. Its parts come before it.
#[derive(Debug, Clone)]
enum Step {
    Leaf(usize),
    Not(usize),
    AtLeast { n: usize, of: Vec<usize> },
}

/// A condition, compiled.
#[derive(Debug, Clone, Default)]
struct Program {
    steps: Vec<Step>,
    leaves: Vec<Leaf>,
}

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

/// The condition for one GPU, or for the run.
#[derive(Debug, Clone)]
struct Instance {
    gpu: Option<GpuId>,
    own: Vec<LeafState>,
    /// The truth of each step at the last judgement.
    truths: Vec<Truth>,
    /// The same without what would have been denied, as far as that was asked for.
    real: Vec<Truth>,
    holds: Stopwatch,
    fails: Stopwatch,
    tripped: bool,
    /// It tripped only with what would have been denied, so that nothing was done.
    observed: bool,
    /// It tripped while the run was only watched, so that nothing was done.
    held_back: bool,
    thawed: bool,
    rearmed_at: Option<MonoTime>,
    last_trip: Option<MonoTime>,
    now: MonoTime,
}

/// For how long something has been known to be so. It stands still while that is not known.
#[derive(Debug, Clone, Copy, Default)]
struct Stopwatch {
    held: Span,
    since: Option<MonoTime>,
}

impl Stopwatch {
    fn run(&mut self, now: MonoTime) {
        self.since.get_or_insert(now);
    }

    fn pause(&mut self, now: MonoTime) {
        self.held = self.elapsed(now);
        self.since = None;
    }

    fn reset(&mut self) {
        *self = Stopwatch::default();
    }

    fn elapsed(&self, now: MonoTime) -> Span {
        let running = self.since.map_or(Span(0), |since| now.since(since));
        Span(self.held.0.saturating_add(running.0))
    }
}

/// What made a condition true.
pub(super) struct Proof {
    pub gpu: Option<GpuId>,
    /// The tests that made it true, in words.
    pub words: Vec<String>,
    /// Whether these are all tests of the condition.
    pub all: bool,
    /// Their values, as far as they have any.
    pub values: Vec<Evidence>,
    pub confidence: Confidence,
    /// It is true of what would have been denied.
    pub observed: bool,
}

/// A value that made a test true.
pub(super) enum Evidence {
    /// An event.
    Event(Observation),
    /// The last value of a signal.
    Last(Subject, Kind, Option<Series>),
}

impl Program {
    fn of(tree: &Tree) -> Program {
        let mut program = Program::default();
        program.add(&tree.root);
        program
    }

    /// The number of the step.
    fn add(&mut self, node: &Node) -> usize {
        let step = match node {
            Node::Leaf(leaf) => {
                self.leaves.push(leaf.clone());
                Step::Leaf(self.leaves.len() - 1)
            }
            Node::Not(part) => Step::Not(self.add(part)),
            many => {
                let of = many.parts().iter().map(|part| self.add(part)).collect();
                Step::AtLeast { n: many.needed(), of }
            }
        };
        self.steps.push(step);
        self.steps.len() - 1
    }

    /// The tests, with whether they had to hold, that made a step what it is; the confidence in it.
    fn witnesses(&self, step: usize, wanted: bool, truths: &[Truth], out: &mut Vec<(usize, bool)>) -> Confidence {
        match self.steps.get(step) {
            None => Confidence::High,
            Some(Step::Leaf(leaf)) => {
                out.push((*leaf, wanted));
                self.leaves.get(*leaf).and_then(|leaf| leaf.confidence).unwrap_or(Confidence::High)
            }
            Some(Step::Not(part)) => self.witnesses(*part, !wanted, truths, out),
            Some(Step::AtLeast { n, of }) => {
                let agree = |part: &&usize| truths.get(**part) == Some(&Truth::from(wanted));
                let mut sure: Vec<Confidence> =
                    of.iter().filter(agree).map(|part| self.witnesses(*part, wanted, truths, out)).collect();
                sure.sort_by(|a, b| b.cmp(a));
                // So many of them suffice: the least certain of the most certain that do.
                let enough = if wanted { *n } else { of.len() + 1 - n };
                sure.get(enough.saturating_sub(1)).copied().unwrap_or(Confidence::High)
            }
        }
    }
}

impl Program {
    /// Whether the condition holds also without what would have been denied.
    fn really_holds(&self, shared: &[LeafState], instance: &mut Instance) -> bool {
        let Instance { own, truths, real, now, .. } = instance;
        if truths.last() != Some(&Truth::True) {
            return false;
        }
        for (step, what) in self.steps.iter().enumerate() {
            let of = |part: &usize| real.get(*part).copied().unwrap_or_default();
            let truth = match what {
                Step::Leaf(n) => {
                    let truth = truths.get(step).copied().unwrap_or_default();
                    let is_observed = self.leaves.get(*n).is_some_and(|Leaf { test, .. }| {
                        let states = if test.is_of_gpus() { &**own } else { shared };
                        states.get(*n).is_some_and(|state| state.is_observed(test, *now))
                    });
                    if truth == Truth::True && is_observed { Truth::False } else { truth }
                }
                Step::Not(part) => of(part).not(),
                Step::AtLeast { n, of: parts } => Truth::at_least(*n, parts.iter().map(of)),
            };
            if let Some(slot) = real.get_mut(step) {
                *slot = truth;
            }
        }
        real.last() == Some(&Truth::True)
    }
}

impl Instance {
    fn new(program: &Program, gpu: Option<GpuId>, now: MonoTime) -> Instance {
        Instance {
            gpu,
            own: states(program, now),
            truths: vec![Truth::Unknown; program.steps.len()],
            real: vec![Truth::Unknown; program.steps.len()],
            holds: Stopwatch::default(),
            fails: Stopwatch::default(),
            tripped: false,
            observed: false,
            held_back: false,
            thawed: false,
            rearmed_at: None,
            last_trip: None,
            now,
        }
    }

    fn truth(&self) -> Truth {
        self.truths.last().copied().unwrap_or_default()
    }
}

fn states(program: &Program, now: MonoTime) -> Vec<LeafState> {
    program.leaves.iter().map(|leaf| LeafState::new(&leaf.test, now)).collect()
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
        let TreeState { program, shared, instances, .. } = self;
        let states = std::iter::once(shared).chain(instances.iter_mut().map(|instance| &mut instance.own));
        for state in states {
            for (leaf, state) in program.leaves.iter().zip(state) {
                state.lost(&leaf.test, source, at);
            }
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
        let TreeState { program, shared, instances, .. } = self;
        let states = std::iter::once(shared).chain(instances.iter_mut().map(|instance| &mut instance.own));
        for state in states {
            for (leaf, state) in program.leaves.iter().zip(state) {
                if leaf.test.event().is_some_and(|event| !policy.observes_event(event)) {
                    state.forget_would_be();
                }
            }
        }
        for instance in instances.iter_mut().filter(|instance| instance.held_back) {
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

    /// What made the condition true, at its last judgement. `judges_real`: see [`Sight`].
    pub(super) fn proof(&self, n: usize, judges_real: bool) -> Option<Proof> {
        let instance = self.instances.get(n)?;
        let mut tests = Vec::new();
        let root = self.program.steps.len().checked_sub(1)?;
        let confidence = self.program.witnesses(root, true, &instance.truths, &mut tests);
        let mut proof = Proof {
            gpu: instance.gpu.clone(),
            words: Vec::new(),
            all: tests.len() == self.program.leaves.len(),
            values: Vec::new(),
            confidence,
            observed: judges_real && instance.observed,
        };
        for (n, wanted) in tests {
            let (Some(leaf), Some(state)) = (self.program.leaves.get(n), self.state(instance, n)) else { continue };
            let mut word = if wanted { leaf.to_string() } else { format!("not {leaf}") };
            let scores = state.scores(&leaf.test, Truth::from(wanted));
            if !scores.is_empty() {
                // What was found is evidence that no value has.
                proof.all = false;
                let shown = scores.iter().take(SERIES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
                let of = if matches!(leaf.test, Test::Compare { .. }) { "bound" } else { "score" };
                word.push_str(&format!(": {of} {shown}"));
            }
            if let Some(counted) = state.counted().filter(|_| wanted) {
                proof.all = false;
                word.push_str(&format!(": {counted}"));
            }
            proof.words.push(word);
            match (&leaf.test, leaf.test.kind()) {
                (Test::Event { .. } | Test::Count { .. }, _) if wanted => {
                    proof.observed |= !judges_real && state.was_observed();
                    proof.values.extend(state.happened().cloned().map(Evidence::Event));
                }
                (Test::Absent { .. }, Some(kind)) => {
                    // The last value that came, if any did: of a metric that of whatever series is kept.
                    proof.values.push(Evidence::Last(self.subject(instance, kind), kind.clone(), None));
                }
                (Test::Phase { .. }, _) => {
                    let kind = Kind::Metric(PHASE_METRIC.to_owned());
                    let series = state.witnesses(&leaf.test, Truth::from(wanted)).take(SERIES_SHOWN);
                    proof
                        .values
                        .extend(series.map(|series| {
                            Evidence::Last(self.subject(instance, &kind), kind.clone(), series.cloned())
                        }));
                }
                (test, Some(kind)) => {
                    if let Test::Compare { than, .. } = test
                        && let Some(other) = than.signal()
                    {
                        proof.values.push(Evidence::Last(self.subject(instance, other), other.clone(), None));
                    }
                    let series = state.witnesses(&leaf.test, Truth::from(wanted)).take(SERIES_SHOWN);
                    proof.values.extend(
                        series
                            .map(|series| Evidence::Last(self.subject(instance, kind), kind.clone(), series.cloned())),
                    );
                }
                _ => {}
            }
        }
        Some(proof)
    }

    fn state<'s>(&'s self, instance: &'s Instance, leaf: usize) -> Option<&'s LeafState> {
        let of_gpus = self.program.leaves.get(leaf)?.test.is_of_gpus();
        if of_gpus { instance.own.get(leaf) } else { self.shared.get(leaf) }
    }

    /// The GPU, of a signal of GPUs; of others the caller knows the run.
    fn subject(&self, instance: &Instance, kind: &Kind) -> Subject {
        match &instance.gpu {
            Some(gpu) if kind.is_of_a_gpu() => Subject::Gpu(gpu.clone()),
            _ => Subject::Node,
        }
    }

    /// Where the rule tripped and does not trip again yet, with what it waits for.
    pub(super) fn disarmed(&self, rule: &Rule, now: MonoTime) -> Vec<String> {
        let tripped = self.instances.iter().filter(|instance| instance.tripped);
        tripped
            .map(|instance| {
                let again = match instance.rearmed_at {
                    Some(at) => format!(", or for {} more", at.since(now)),
                    None => String::new(),
                };
                format!("rule {} ({}): until its condition no longer holds{again}", rule.id, instance.name())
            })
            .collect()
    }

    /// Where the condition is unknown, with what is not known.
    pub(super) fn unknown(&self, rule: &Rule, sight: &Sight<'_>) -> Vec<String> {
        if self.of_gpus && self.instances.is_empty() {
            return vec![format!("rule {}: the run has no GPU", rule.id)];
        }
        let unknown = self.instances.iter().filter(|instance| instance.truth() == Truth::Unknown);
        unknown
            .map(|instance| {
                let mut whys: Vec<String> = Vec::new();
                for (step, what) in self.program.steps.iter().enumerate() {
                    let Step::Leaf(n) = what else { continue };
                    let (Some(leaf), Some(state)) = (self.program.leaves.get(*n), self.state(instance, *n)) else {
                        continue;
                    };
                    if instance.truths.get(step) == Some(&Truth::Unknown) {
                        let gpu = instance.gpu.as_ref().filter(|_| leaf.test.is_of_gpus());
                        whys.push(state.unknown(&leaf.test, gpu, sight));
                    }
                }
                whys.dedup();
                format!("rule {} ({}): {}", rule.id, instance.name(), whys.join("; "))
            })
            .collect()
    }
}

impl Instance {
    fn name(&self) -> String {
        self.gpu.as_ref().map_or_else(|| "the run".to_owned(), ToString::to_string)
    }

    /// An event happened anew: what an operator saw before a thaw was something else.
    fn again(&mut self) {
        if self.thawed {
            self.rearm();
            self.holds.reset();
        }
    }

    fn rearm(&mut self) {
        (self.tripped, self.observed, self.held_back) = (false, false, false);
        (self.thawed, self.rearmed_at) = (false, None);
    }

    /// From the truth of the condition to whether the rule trips.
    fn step(&mut self, rule: &Rule, tree: &Tree, now: MonoTime) -> bool {
        let truth = self.truth();
        match truth {
            Truth::True => self.fails.reset(),
            Truth::False => {
                self.holds.reset();
                self.fails.run(now);
            }
            Truth::Unknown => {
                self.holds.pause(now);
                self.fails.pause(now);
            }
        }
        if truth == Truth::False && self.fails.elapsed(now) >= tree.keep {
            self.rearm();
        }
        if self.rearmed_at.is_some_and(|from| from <= now) {
            // `for` is judged anew: what held before the thaw has been seen.
            self.rearm();
            self.holds.reset();
        }
        if truth != Truth::True {
            return false;
        }
        self.holds.run(now);
        let cools = self.last_trip.is_some_and(|last| now.since(last) < rule.cooldown);
        if self.tripped || cools || self.holds.elapsed(now) < tree.hold {
            return false;
        }
        (self.tripped, self.last_trip) = (true, Some(now));
        true
    }
}

//! The engine: one pure function from inputs to decisions.
//!
//! ```text
//! Input ─► step ─► each run it concerns ─► each rule ─► Decision
//!              └► upkeep: escape, foreign thaw, blindness, interrupted or failed actions
//! ```
//!
//! Runs do not see one another: stepping a run over the inputs that [`concerns`] it gives the same decisions as stepping it
//! among all others. A recording of one run is therefore enough to replay it.

mod index;
mod last;
mod leaf;
mod levels;
mod rule;
mod run;
mod series;
mod tree;
mod window;

use crate::{
    containment::Containment,
    decision::{Decision, Mode, Observation},
    input::Input,
    policy::{Policy, PolicySet, Truth},
    record::Suppressed,
    signal::{Signal, Source},
    subject::{GpuId, RunId, Subject},
    time::{MonoTime, Span},
};
use run::RunState;
use std::collections::{BTreeMap, BTreeSet};

/// From this engine on, a rule on `verdict = "denied"` matches `would-deny` where the policy only observes.
const OBSERVED_DENIALS: u32 = 9;

/// From this engine on, what held while a run was only watched is judged again when it is bounded.
const REJUDGED_AFTER_OBSERVING: u32 = 10;

/// From this engine on, a signal of a GPU that cannot be read is not absent, but unknown.
const UNREAD_IS_UNKNOWN: u32 = 10;

/// From this engine on, a rule that tripped only with what would have been denied trips again once what happened is enough.
const REAL_TRIPS_AGAIN: u32 = 11;

/// From this engine on, a run causes a bounded number of decisions a second that contain nothing, and a rule at most one.
const PACED: u32 = 13;

/// A sampled sensor that has said nothing of a run for this long is blind to it.
pub const STALE_AFTER: Span = Span::from_secs(10);

/// What the engine remembers. Owned by whoever steps it.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The engine that it decides as; `None`: this one.
    earlier: Option<u32>,
    runs: BTreeMap<RunId, RunState>,
    /// Those of `runs` that have GPUs or MIG devices: no signal of a GPU concerns another one.
    on_gpus: BTreeSet<RunId>,
    /// What is known from before of the containment of runs that are taken up next.
    recalled: BTreeMap<RunId, Containment>,
    /// Runs that start next and are only watched.
    observed: BTreeSet<RunId>,
}

/// What is known of a live run's containment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunView {
    /// Frozen, or being frozen.
    pub frozen: bool,
    /// Egress latch on.
    pub blocked: bool,
    /// Decisions made so far.
    pub decisions: u32,
    /// Incidents opened so far.
    pub incidents: u32,
}

/// Rules of a live run that do not judge, or do not trip, at the moment. One line each, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RulesView {
    /// Rules that do not see what they judge, with the reason.
    pub blind: Vec<String>,
    /// Rules that tripped and wait for their value to clear.
    pub disarmed: Vec<String>,
    /// Rules whose condition is unknown: what of it is not known decides.
    pub unknown: Vec<String>,
}

impl State {
    /// One that decides as the engine of that number did, see [`crate::replay::ENGINE`].
    pub fn of(engine: u32) -> State {
        State { earlier: Some(engine), ..State::default() }
    }

    /// Gives the facts of a run's containment from before, for the [`Input::RunStarted`] that takes it up. They change no
    /// decision, so a recording does not have them.
    pub fn recall(&mut self, id: RunId, containment: Containment) {
        self.recalled.insert(id, containment);
    }

    /// A run's containment, while it lives.
    pub fn containment(&self, id: RunId) -> Option<&Containment> {
        self.runs.get(&id).map(RunState::containment)
    }

    /// Whether the owner of the run alone has it contained, and nothing else would.
    pub fn is_ordered_by_owner_alone(&self, id: RunId) -> bool {
        self.containment(id).is_some_and(Containment::is_ordered_by_owner_alone)
    }

    /// Somebody other than the owner wants the frozen run frozen. It changes what the owner may do, and no decision.
    pub fn others_want_it_frozen(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.others_want_it_frozen();
        }
    }

    /// The live runs that have GPUs: what comes of a GPU concerns no other run.
    pub fn on_gpus(&self) -> impl Iterator<Item = RunId> + '_ {
        self.on_gpus.iter().copied()
    }

    fn note_gpus(&mut self, id: RunId) {
        if self.runs.get(&id).is_some_and(RunState::has_gpus) {
            self.on_gpus.insert(id);
        } else {
            self.on_gpus.remove(&id);
        }
    }

    /// The GPUs of a run, as they are known now, while it lives.
    pub fn gpus(&self, id: RunId) -> Option<&BTreeSet<GpuId>> {
        self.runs.get(&id).map(RunState::gpus)
    }

    /// Whether the run is to be frozen now.
    pub fn is_frozen(&self, id: RunId) -> bool {
        self.runs.get(&id).is_some_and(RunState::is_frozen)
    }

    /// For a state that only watches a run which other policies contain: whether they have it frozen. Time in which it is does not count as
    /// absence. Nothing else follows from it.
    pub fn set_frozen_by_others(&mut self, id: RunId, frozen: bool) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.set_frozen_by_others(frozen);
        }
    }

    /// Whether somebody else than failsafe holds the run still: its processes are stopped, or its cgroup is frozen.
    pub fn is_suspended(&self, id: RunId) -> bool {
        self.runs.get(&id).is_some_and(RunState::is_suspended)
    }

    /// A run's containment in short and counts, while it lives.
    pub fn run(&self, id: RunId) -> Option<RunView> {
        self.runs.get(&id).map(RunState::view)
    }

    /// What the run's rules cannot judge now, and which of them do not trip again yet.
    pub fn rules(&self, policies: &PolicySet, id: RunId, now: MonoTime) -> RulesView {
        let run = self.runs.get(&id).and_then(|run| Some((run, policies.get(&run.policy)?)));
        run.map(|(run, policy)| run.rules_view(policy, now)).unwrap_or_default()
    }

    /// The first rules that do not judge now, each with the reason, and how many there are in all. For texts: the lines of the other rules
    /// are not made.
    pub fn blind_rules(&self, policies: &PolicySet, id: RunId) -> (Vec<String>, usize) {
        let run = self.runs.get(&id).and_then(|run| Some((run, policies.get(&run.policy)?)));
        run.map(|(run, policy)| run.blind_rules(policy)).unwrap_or_default()
    }

    /// Visits each test of each condition of several parts, with its truth when it was last judged: the rule's and the test's place in
    /// the policy. A condition on GPUs is judged for each of them.
    pub fn visit_tests(&self, id: RunId, visit: impl FnMut(usize, usize, Truth)) {
        if let Some(run) = self.runs.get(&id) {
            run.visit_tests(visit);
        }
    }

    /// What is not seen of the run at present, each with the reason where one is known.
    pub fn blind(&self, id: RunId) -> Vec<String> {
        self.runs.get(&id).map(RunState::blind_to).unwrap_or_default()
    }

    /// Events that matched a rule of the run within the rule's cooldown, and that no decision counts yet.
    pub fn suppressed(&self, policies: &PolicySet, id: RunId) -> Vec<Suppressed> {
        let run = self.runs.get(&id).and_then(|run| Some((run, policies.get(&run.policy)?)));
        run.map(|(run, policy)| run.suppressed(policy)).unwrap_or_default()
    }

    /// The last value of every signal of the run and of its GPUs.
    pub fn last_signals(&self, id: RunId) -> Vec<Observation> {
        self.runs.get(&id).map(RunState::last_signals).unwrap_or_default()
    }

    /// The last values of the metrics that a run reports, `most` at most, and how many there are more. Those that rules judge have a
    /// value for each rank.
    pub fn last_metrics(&self, id: RunId, most: usize) -> (Vec<Observation>, usize) {
        self.runs.get(&id).map(|run| run.last_metrics(most)).unwrap_or_default()
    }
}

/// Steps the engine by one input. A run whose policy is not in `policies` is never judged: the daemon does not start one.
pub fn step(policies: &PolicySet, state: &mut State, input: &Input) -> Vec<Decision> {
    let mut out = Vec::new();
    match input {
        Input::RunStarted(run) => {
            let recalled = state.recalled.remove(&run.id).unwrap_or_default();
            if let Some(policy) = policies.get(&run.policy) {
                let mut adopted = RunState::new(run, policy, state.earlier, recalled);
                if state.observed.remove(&run.id) {
                    adopted.observe();
                }
                adopted.adopted(&mut out);
                state.runs.insert(run.id, adopted);
                state.note_gpus(run.id);
            }
        }
        Input::RunEnded { run, .. } => {
            state.runs.remove(run);
            state.on_gpus.remove(run);
            state.observed.remove(run);
        }
        Input::Mode { run, mode, at } => match (state.runs.get_mut(run), mode) {
            (Some(run), Mode::Observe) => run.observe(),
            (Some(_), Mode::Enforce) => each(policies, state, input, |run, policy| run.enforce(policy, *at, &mut out)),
            (None, Mode::Observe) => drop(state.observed.insert(*run)),
            (None, Mode::Enforce) => drop(state.observed.remove(run)),
        },
        Input::RunGpus { run: id, gpus, at } => {
            each(policies, state, input, |run, policy| run.set_gpus(policy, gpus, *at, &mut out));
            state.note_gpus(*id);
        }
        Input::Signal(signal) => {
            each(policies, state, input, |run, policy| run.signal(policy, signal, &mut out));
        }
        Input::Gap(gap) => each(policies, state, input, |run, policy| run.gap(policy, gap, &mut out)),
        Input::Unread(unread) => each(policies, state, input, |run, policy| run.unread(policy, unread, &mut out)),
        Input::Silent(silent) => each(policies, state, input, |run, policy| run.silent(policy, silent, &mut out)),
        Input::Missing(missing) => each(policies, state, input, |run, policy| run.missing(policy, missing, &mut out)),
        Input::Manifest { values, .. } => each(policies, state, input, |run, policy| run.manifest(policy, values)),
        Input::SeriesEnded { series, at, .. } => {
            each(policies, state, input, |run, policy| run.retire(policy, series, *at, &mut out));
        }
        Input::Paused { at, length } => state.runs.values_mut().for_each(|run| run.paused(*at, *length)),
        Input::Tick(at) => each(policies, state, input, |run, policy| run.tick(policy, *at, &mut out)),
        Input::Control(control) => {
            each(policies, state, input, |run, policy| run.control(policy, control, &mut out));
        }
        Input::Outcome(outcome) => each(policies, state, input, |run, _| run.outcome(outcome, &mut out)),
    }
    out
}

/// Whether an input can change what is decided about `run`, given that the engine already stepped all before it.
pub fn concerns(state: &State, input: &Input, run: RunId) -> bool {
    is_of(state.runs.get(&run), input, run)
}

fn is_of(known: Option<&RunState>, input: &Input, run: RunId) -> bool {
    match input {
        Input::Signal(Signal { subject, kind, value, .. }) => match subject {
            Subject::Gpu(gpu) => known.is_some_and(|r| r.is_judged_by(gpu, kind) && r.is_at(gpu, value)),
            Subject::Node => true,
            Subject::Run(id) | Subject::Process { run: id, .. } => *id == run,
        },
        Input::Gap(gap) => {
            gap.run.is_none_or(|id| id == run)
                && gap.gpu.as_ref().is_none_or(|gpu| known.is_some_and(|r| r.has_gpu(gpu)))
        }
        Input::Unread(unread) => known.is_some_and(|r| r.is_judged_by(&unread.gpu, &unread.kind)),
        Input::Silent(silent) => silent.run == run,
        Input::Missing(missing) => missing.run == run,
        Input::Tick(_) | Input::Paused { .. } => true,
        Input::Outcome(outcome) => outcome.decision.run == run,
        Input::RunStarted(started) => started.id == run,
        Input::RunGpus { run: id, .. }
        | Input::RunEnded { run: id, .. }
        | Input::SeriesEnded { run: id, .. }
        | Input::Manifest { run: id, .. }
        | Input::Mode { run: id, .. } => *id == run,
        Input::Control(control) => control.run == run,
    }
}

fn each(policies: &PolicySet, state: &mut State, input: &Input, mut act: impl FnMut(&mut RunState, &Policy)) {
    let mut act = |run: &mut RunState| {
        if let Some(policy) = policies.get(&run.policy) {
            act(run, policy);
        }
    };
    if let Input::Signal(Signal { subject, .. }) = input
        && let Some(id) = subject.run()
    {
        // Most inputs are of one run: the others are not asked.
        state.runs.get_mut(&id).into_iter().for_each(&mut act);
        return;
    }
    if is_of_a_gpu(input) {
        for id in &state.on_gpus {
            if let Some(run) = state.runs.get_mut(id).filter(|run| is_of(Some(run), input, *id)) {
                act(run);
            }
        }
        return;
    }
    for (id, run) in &mut state.runs {
        if is_of(Some(run), input, *id) {
            act(run);
        }
    }
}

/// Whether an input comes of a GPU, so that it concerns only runs that have one ([`State::on_gpus`]).
pub fn is_of_a_gpu(input: &Input) -> bool {
    match input {
        Input::Signal(signal) => matches!(signal.subject, Subject::Gpu(_)),
        Input::Unread(_) => true,
        _ => false,
    }
}

/// The sensors that are sampled at an interval, so that silence means blindness.
fn sampled(source: Source) -> bool {
    matches!(source, Source::Cgroup | Source::Nvml | Source::Ebpf)
}

#[cfg(test)]
mod tests;

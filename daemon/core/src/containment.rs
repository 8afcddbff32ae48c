//! What is desired of a run's containment, and what is proved of it.
//!
//! ```text
//! decision, command ─► desired, or lifted ─┐
//! outcome ─────────► proved, partial, failed ─┴─► Containment ─► is_frozen, is_latched, state
//! ```
//! Owners: the engine has the containment of each run that it judges, and the pipeline publishes it after each step
//! (ADR 27). The reader of the audit log applies the same transitions to the same decisions and outcomes.
//! Invariants: pure. A step is desired until a thaw is decided, and stays listed until the thaw is proved. A thaw that
//! failed leaves the freeze desired.

use crate::{
    actor::{Actor, OWNER},
    decision::{Action, Cause, Decision, DecisionId, Mode, Outcome, Proof, Verdict},
    input::{Command, Contained, Control},
    time::MonoTime,
};
use serde::{Deserialize, Serialize};

/// How a run is contained. In the order in which the steps were first desired; each measure at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Containment {
    steps: Vec<Step>,
}

/// What a step does to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// Deny all egress in the kernel.
    Latch,
    /// Freeze its cgroup.
    Freeze,
    /// Kill its processes.
    Kill,
}

/// One step, with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What.
    pub measure: Measure,
    /// Since when and why it is desired; none: it is lifted, and that is not proved yet.
    pub desired: Option<Desired>,
    /// What was proved last; none: nothing yet.
    pub result: Option<StepResult>,
}

/// Since when a step is desired, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The instant of the decision's cause, or of the command.
    pub since: MonoTime,
    /// The decision; none for a command on a guarded run, and for what a daemon found at its start.
    pub decision: Option<DecisionId>,
    /// Who asked first; the daemon where a rule or its own work decided.
    pub actor: Actor,
    /// Whether somebody other than the owner of the run ordered it, too: a policy, root, the administrators' group, or the
    /// daemon. What is not known counts as true: the owner may lift only what nobody else wants (ADR 78).
    #[serde(default = "unknown_orderer")]
    pub others: bool,
}

fn unknown_orderer() -> bool {
    true
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepResult {
    /// Proved, partial with what is missing, or failed with the cause.
    pub verdict: Verdict,
    /// What was read back.
    pub proofs: Vec<Proof>,
    /// When.
    pub at: MonoTime,
}

/// The containment in one word, for the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ContainmentState {
    /// Not contained.
    #[default]
    Running,
    /// Frozen and proved.
    Frozen,
    /// Decided, not wholly proved.
    Partial,
}

impl Measure {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Latch => "latch",
            Measure::Freeze => "freeze",
            Measure::Kill => "kill",
        }
    }

    fn of(action: Action) -> Option<Measure> {
        match action {
            Action::Block => Some(Measure::Latch),
            Action::Freeze => Some(Measure::Freeze),
            Action::Kill => Some(Measure::Kill),
            Action::Notify
            | Action::Snapshot
            | Action::Thaw
            | Action::Recapture { .. }
            | Action::CordonGpu
            | Action::CordonNode => None,
        }
    }

    /// Whether a thaw lifts it.
    fn is_lifted(self) -> bool {
        match self {
            Measure::Latch | Measure::Freeze => true,
            Measure::Kill => false,
        }
    }
}

impl Desired {
    fn by(decision: &Decision) -> Desired {
        let (actor, others) = match &decision.cause {
            Cause::Operator(request) => (request.actor.clone(), request.role != OWNER),
            Cause::Rule { .. } | Cause::Upkeep { .. } => (Actor::Daemon, true),
        };
        Desired { since: decision.at, decision: Some(decision.id), actor, others }
    }

    fn found(since: MonoTime) -> Desired {
        Desired { since, decision: None, actor: Actor::Daemon, others: true }
    }
}

impl Containment {
    /// The containment of a run that is registered or taken up as `contained`.
    pub fn of(contained: Contained, since: MonoTime) -> Containment {
        Containment::default().taken_up(contained, since)
    }

    /// The containment of a run that is taken up as `contained`, with the facts of the steps that are known from before.
    /// Only `contained` decides which steps a thaw can lift are desired: the facts change no decision of the engine.
    pub fn taken_up(mut self, contained: Contained, since: MonoTime) -> Containment {
        let Contained { frozen, blocked, unexplained: _ } = contained;
        self.lift_unless(|measure| match measure {
            Measure::Latch => blocked,
            Measure::Freeze => frozen,
            Measure::Kill => true,
        });
        self.forget_lifted();
        for (measure, is_held) in [(Measure::Latch, blocked), (Measure::Freeze, frozen)] {
            if is_held {
                // What the earlier daemon knew and did not record may want it, too.
                self.entry(measure).desired.get_or_insert_with(|| Desired::found(since)).others = true;
            }
        }
        self
    }

    /// Its steps.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Whether nothing is desired or in force.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether it is meant to be frozen.
    pub fn is_frozen(&self) -> bool {
        self.is_desired(Measure::Freeze)
    }

    /// Whether all its egress is meant to be denied.
    pub fn is_latched(&self) -> bool {
        self.is_desired(Measure::Latch)
    }

    /// Whether it is meant to be frozen, and nobody but the owner of the run ordered any part of its containment.
    pub fn is_ordered_by_owner_alone(&self) -> bool {
        self.is_frozen() && self.steps.iter().filter_map(|step| step.desired.as_ref()).all(|desired| !desired.others)
    }

    /// Somebody other than the owner wants it frozen. It is frozen already, so nothing is decided.
    pub fn others_want_it_frozen(&mut self) {
        if let Some(desired) = self.step_mut(Measure::Freeze).and_then(|step| step.desired.as_mut()) {
            desired.others = true;
        }
    }

    /// The state of the freeze.
    pub fn state(&self) -> ContainmentState {
        match self.step(Measure::Freeze).map(|step| &step.result) {
            None => ContainmentState::Running,
            Some(Some(StepResult { verdict: Verdict::Proved, .. })) => ContainmentState::Frozen,
            Some(_) => ContainmentState::Partial,
        }
    }

    /// Takes in a decision, before it is carried out.
    pub fn decided(&mut self, decision: &Decision) {
        if decision.mode == Mode::Observe {
            return;
        }
        for action in &decision.actions {
            if let Some(measure) = Measure::of(*action) {
                self.desire(measure, Desired::by(decision));
            } else if *action == Action::Thaw {
                self.lift_unless(|measure| !measure.is_lifted());
            }
        }
    }

    /// Takes in a command that is carried out without a decision: that of a guarded run.
    pub fn commanded(&mut self, control: &Control) {
        let (actor, others) = (&control.actor, control.role != OWNER);
        let desired = || Desired { since: control.at, decision: None, actor: actor.clone(), others };
        match control.command {
            Command::Freeze => self.desire(Measure::Freeze, desired()),
            Command::Kill => self.desire(Measure::Kill, desired()),
            Command::Thaw => self.lift_unless(|measure| !measure.is_lifted()),
        }
    }

    /// Takes in what came of an action.
    pub fn came_out(&mut self, outcome: &Outcome) {
        let result = StepResult { verdict: outcome.verdict.clone(), proofs: outcome.proofs.clone(), at: outcome.at };
        self.carried_out(outcome.action, result, Some(outcome.decision));
    }

    /// The same for an action without a decision: that of a guarded run.
    pub fn carried_out(&mut self, action: Action, result: StepResult, decision: Option<DecisionId>) {
        match (action, &result.verdict) {
            (Action::Thaw, Verdict::Proved | Verdict::Partial(_)) => self.forget_lifted(),
            // What could not be thawed is still to be guarded.
            (Action::Thaw, Verdict::Failed(_)) => {
                let step = self.entry(Measure::Freeze);
                if step.desired.is_none() {
                    // The thaw may have got halfway, so what was proved before does not count.
                    let desired = Some(Desired { since: result.at, decision, actor: Actor::Daemon, others: true });
                    *step = Step { desired, result: None, ..step.clone() };
                }
            }
            (action, _) => {
                // The step was lifted and forgotten if the outcome comes after that of a thaw.
                if let Some(step) = Measure::of(action).and_then(|measure| self.step_mut(measure)) {
                    step.result = Some(result);
                }
            }
        }
    }

    /// Takes in what a daemon finds at its start: `contained` is what it holds from now on, `frozen` whether the kernel
    /// reports the run as frozen. What an earlier daemon proved of a freeze counts only if it is so still.
    pub fn found(self, contained: Contained, frozen: bool, at: MonoTime) -> Containment {
        let mut found = self.taken_up(contained, at);
        found.see_frozen(frozen, at);
        found
    }

    fn see_frozen(&mut self, frozen: bool, at: MonoTime) {
        if frozen {
            let step = self.entry(Measure::Freeze);
            if !step.result.as_ref().is_some_and(|result| result.verdict == Verdict::Proved) {
                let proofs = vec![Proof { fact: "re-observed at restart".into(), seen: "frozen 1".into() }];
                step.result = Some(StepResult { verdict: Verdict::Proved, proofs, at });
            }
        } else if let Some(step) = self.step_mut(Measure::Freeze) {
            step.result = None;
        }
    }

    fn is_desired(&self, measure: Measure) -> bool {
        self.step(measure).is_some_and(|step| step.desired.is_some())
    }

    fn step(&self, measure: Measure) -> Option<&Step> {
        self.steps.iter().find(|step| step.measure == measure)
    }

    fn step_mut(&mut self, measure: Measure) -> Option<&mut Step> {
        self.steps.iter_mut().find(|step| step.measure == measure)
    }

    fn entry(&mut self, measure: Measure) -> &mut Step {
        let at = self.steps.iter().position(|step| step.measure == measure).unwrap_or_else(|| {
            self.steps.push(Step { measure, desired: None, result: None });
            self.steps.len() - 1
        });
        &mut self.steps[at]
    }

    /// A step that is desired already keeps its beginning; it is carried out again, so what was proved before does not count.
    fn desire(&mut self, measure: Measure, desired: Desired) {
        let step = self.entry(measure);
        let others = desired.others;
        step.desired.get_or_insert(desired).others |= others;
        step.result = None;
    }

    fn lift_unless(&mut self, keeps: impl Fn(Measure) -> bool) {
        for step in self.steps.iter_mut().filter(|step| !keeps(step.measure)) {
            step.desired = None;
        }
    }

    fn forget_lifted(&mut self) {
        self.steps.retain(|step| step.desired.is_some());
    }
}

#[cfg(test)]
mod tests;

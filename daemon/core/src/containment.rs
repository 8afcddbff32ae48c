//! What is desired of a run's containment, and what is proved of it.
//!
//! ```text
//! decision, command ─► desired, or lifted ─┐
//! outcome ─────────► proved, partial, failed ─┴─► Containment ─► is_frozen, is_latched, standing
//! ```
//! Invariants: pure. The engine uses it, and the table of runs and the reader of the audit log are to (ADR 27): the same decisions and
//! outcomes give the same state everywhere. A step is desired until a thaw is decided,
//! and stays listed until the thaw is proved.

use crate::{
    actor::Actor,
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
    /// Who asked; the daemon where a rule or its own work decided.
    pub actor: Actor,
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

/// How a run stands, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
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
        let actor = match &decision.cause {
            Cause::Operator(request) => request.actor.clone(),
            Cause::Rule { .. } | Cause::Upkeep { .. } => Actor::Daemon,
        };
        Desired { since: decision.at, decision: Some(decision.id), actor }
    }

    fn found(since: MonoTime) -> Desired {
        Desired { since, decision: None, actor: Actor::Daemon }
    }
}

impl Containment {
    /// What a run has that is registered or taken up as `contained`.
    pub fn of(contained: Contained, since: MonoTime) -> Containment {
        let mut containment = Containment::default();
        if contained.blocked {
            containment.desire(Measure::Latch, Desired::found(since));
        }
        if contained.frozen {
            containment.desire(Measure::Freeze, Desired::found(since));
        }
        containment
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

    /// How it stands, by the freeze.
    pub fn standing(&self) -> Standing {
        match self.step(Measure::Freeze).map(|step| &step.result) {
            None => Standing::Running,
            Some(Some(StepResult { verdict: Verdict::Proved, .. })) => Standing::Frozen,
            Some(_) => Standing::Partial,
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
                self.lift();
            }
        }
    }

    /// Takes in a command that is carried out without a decision: that of a guarded run.
    pub fn commanded(&mut self, control: &Control) {
        let desired = || Desired { since: control.at, decision: None, actor: control.actor.clone() };
        match control.command {
            Command::Freeze => self.desire(Measure::Freeze, desired()),
            Command::Kill => self.desire(Measure::Kill, desired()),
            Command::Thaw => {
                self.lift();
                self.forget_lifted();
            }
        }
    }

    /// Takes in what came of an action.
    pub fn came_out(&mut self, outcome: &Outcome) {
        match (outcome.action, &outcome.verdict) {
            (Action::Thaw, Verdict::Proved | Verdict::Partial(_)) => self.forget_lifted(),
            // What could not be thawed is still to be guarded.
            (Action::Thaw, Verdict::Failed(_)) => {
                let decision = Some(outcome.decision);
                let desired = Desired { since: outcome.at, decision, actor: Actor::Daemon };
                self.entry(Measure::Freeze).desired.get_or_insert(desired);
            }
            (action, _) => {
                let step = Measure::of(action).and_then(|measure| self.step_mut(measure));
                if let Some(step) = step {
                    let (verdict, proofs) = (outcome.verdict.clone(), outcome.proofs.clone());
                    step.result = Some(StepResult { verdict, proofs, at: outcome.at });
                }
            }
        }
    }

    /// Takes in what a daemon finds at its start: `contained` is what it holds from now on, `frozen` whether the kernel reports the run
    /// as frozen. What an earlier daemon proved of a freeze counts only if it is so still.
    pub fn found(&mut self, contained: Contained, frozen: bool, at: MonoTime) {
        for (measure, is_held) in [(Measure::Latch, contained.blocked), (Measure::Freeze, contained.frozen)] {
            if is_held {
                self.entry(measure).desired.get_or_insert_with(|| Desired::found(at));
            }
        }
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
        step.desired.get_or_insert(desired);
        step.result = None;
    }

    fn lift(&mut self) {
        for step in self.steps.iter_mut().filter(|step| step.measure.is_lifted()) {
            step.desired = None;
        }
    }

    fn forget_lifted(&mut self) {
        self.steps.retain(|step| step.desired.is_some());
    }
}

#[cfg(test)]
mod tests;

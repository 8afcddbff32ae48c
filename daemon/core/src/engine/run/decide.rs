//! Decisions about a run: their numbers and incidents, and what each changes in the state of the run.

use super::RunState;
use crate::{
    actor::{OWNER, Request},
    decision::{
        Action, Cause, Confidence, Decision, DecisionId, IncidentId, Mode, Observation, Outcome, Severity, Upkeep,
        Verdict,
    },
    event::{DriftSince, Event},
    input::{Command, Control},
    policy::{OnDrift, OnEscape, Policy, Rule},
    signal::Signal,
    time::MonoTime,
};

/// The first engine in which a thaw of the run's owner leaves its rules as they are. Before, no owner could thaw.
const OWNER_THAWS: u32 = 14;
/// A failed containment is decided again this often before it is left to people.
const RETRIES: u32 = 3;

/// What caused a decision, apart from its text.
#[derive(Debug, Clone)]
pub(super) struct Because {
    pub(super) at: MonoTime,
    pub(super) seqs: Vec<u64>,
    pub(super) values: Vec<Observation>,
    pub(super) severity: Severity,
    pub(super) confidence: Confidence,
    pub(super) mode: Mode,
}

impl Because {
    pub(super) fn of(seen: &Signal, rule: &Rule) -> Because {
        Because {
            at: seen.at,
            seqs: vec![seen.seq],
            values: vec![Observation::of(seen)],
            severity: rule.severity,
            confidence: rule.confidence,
            mode: rule.mode,
        }
    }

    fn certain(seen: &Signal) -> Because {
        Because {
            at: seen.at,
            seqs: vec![seen.seq],
            values: vec![Observation::of(seen)],
            severity: Severity::Critical,
            confidence: Confidence::High,
            mode: Mode::Enforce,
        }
    }
}

impl RunState {
    /// A run found frozen for no recorded reason is held, and the holding is a decision like any other: it can be explained,
    /// and thawed.
    pub(in crate::engine) fn adopted(&mut self, out: &mut Vec<Decision>) {
        if self.unexplained {
            let actions = vec![Action::Freeze, Action::Snapshot, Action::Notify];
            let because = Because {
                at: self.registered,
                seqs: Vec::new(),
                values: Vec::new(),
                severity: Severity::Critical,
                confidence: Confidence::Medium,
                mode: Mode::Enforce,
            };
            self.decide(Cause::Upkeep { what: Upkeep::FoundFrozen }, actions, because, out);
        }
    }

    /// What failsafe does on its own, without a rule.
    pub(super) fn event_upkeep(&mut self, policy: &Policy, event: &Event, seen: &Signal, out: &mut Vec<Decision>) {
        match event {
            Event::Leave { pid, mover_in_run, .. } => {
                let recapture =
                    self.containment.is_frozen() || (*mover_in_run && policy.on_escape == OnEscape::Recapture);
                let actions = if recapture {
                    vec![Action::Recapture { pid: *pid }, Action::Notify]
                } else {
                    vec![Action::Notify]
                };
                self.decide(Cause::Upkeep { what: Upkeep::Escape }, actions, Because::certain(seen), out);
            }
            Event::Latched => {
                if self.containment.is_frozen() {
                    self.containment.others_want_it_frozen();
                    return;
                }
                let actions = vec![Action::Freeze, Action::Snapshot, Action::Notify];
                self.decide(Cause::Upkeep { what: Upkeep::Latched }, actions, Because::certain(seen), out);
            }
            Event::ForeignThaw { .. } => {
                if !self.containment.is_frozen() {
                    return;
                }
                self.decide(
                    Cause::Upkeep { what: Upkeep::ForeignThaw },
                    vec![Action::Freeze, Action::Notify],
                    Because::certain(seen),
                    out,
                );
            }
            Event::Drift { since, .. } => {
                let holds = policy.on_drift == OnDrift::Hold && *since == DriftSince::Predecessor;
                if holds && self.containment.is_frozen() {
                    self.containment.others_want_it_frozen();
                } else if holds {
                    let actions = vec![Action::Freeze, Action::Snapshot, Action::Notify];
                    self.decide(Cause::Upkeep { what: Upkeep::Drift }, actions, Because::certain(seen), out);
                }
            }
            Event::Exec { .. }
            | Event::Fork { .. }
            | Event::Exit { .. }
            | Event::Open { .. }
            | Event::Net { .. }
            | Event::Syscall { .. }
            | Event::Privilege { .. }
            | Event::ExecMemory { .. }
            | Event::Protect { .. }
            | Event::Budget { .. }
            | Event::Dns { .. }
            | Event::Oom { .. }
            | Event::ForeignGpuProcess { .. }
            | Event::Xid { .. }
            | Event::Gpu { .. } => {}
        }
    }

    pub(in crate::engine) fn control(&mut self, policy: &Policy, control: &Control, out: &mut Vec<Decision>) {
        let actions = match control.command {
            Command::Freeze => vec![Action::Freeze, Action::Snapshot, Action::Notify],
            Command::Kill => vec![Action::Snapshot, Action::Kill, Action::Notify],
            Command::Thaw => vec![Action::Thaw, Action::Notify],
        };
        let cause = Cause::Operator(Request {
            actor: control.actor.clone(),
            role: control.role.clone(),
            reason: control.reason.clone(),
        });
        let because = Because {
            at: control.at,
            seqs: vec![control.seq],
            values: Vec::new(),
            severity: Severity::Warning,
            confidence: Confidence::High,
            mode: Mode::Enforce,
        };
        self.decide(cause, actions, because, out);
        // What a rule waits for is not put off by a thaw of the owner: no rule froze the run, and nobody else looked at it.
        let of_owner = control.role == OWNER && !self.is_as_engine_before(OWNER_THAWS);
        if control.command == Command::Thaw && !of_owner {
            self.rearm(policy, control.at);
        }
    }

    pub(in crate::engine) fn outcome(&mut self, outcome: &Outcome, out: &mut Vec<Decision>) {
        self.containment.came_out(outcome);
        match (&outcome.verdict, outcome.action) {
            (Verdict::Failed(_), action @ (Action::Freeze | Action::Kill | Action::Block)) => {
                if self.retries >= RETRIES {
                    return;
                }
                self.retries += 1;
                let because = Because {
                    at: outcome.at,
                    seqs: Vec::new(),
                    values: Vec::new(),
                    severity: Severity::Critical,
                    confidence: Confidence::High,
                    mode: Mode::Enforce,
                };
                self.decide(Cause::Upkeep { what: Upkeep::Retry }, vec![action, Action::Notify], because, out);
            }
            (Verdict::Proved | Verdict::Partial(_), Action::Freeze | Action::Kill | Action::Block) => self.retries = 0,
            (
                _,
                Action::Thaw
                | Action::Notify
                | Action::Snapshot
                | Action::Recapture { .. }
                | Action::CordonGpu
                | Action::CordonNode,
            ) => {}
        }
    }

    /// Whether a decision is carried out in a run that is only watched: an operator's command, and what keeps one in force.
    fn is_kept_up(&self, cause: &Cause) -> bool {
        match cause {
            Cause::Operator(_) | Cause::Upkeep { what: Upkeep::Retry | Upkeep::ForeignThaw } => true,
            Cause::Upkeep { what: Upkeep::Escape } => self.containment.is_frozen(),
            Cause::Upkeep { .. } | Cause::Rule { .. } => false,
        }
    }

    pub(super) fn decide(&mut self, cause: Cause, actions: Vec<Action>, mut because: Because, out: &mut Vec<Decision>) {
        self.decisions += 1;
        if self.observed && !self.is_kept_up(&cause) {
            because.mode = Mode::Observe;
            if let (Cause::Upkeep { what }, true) = (&cause, actions.contains(&Action::Freeze)) {
                self.held_back.insert(*what, Because { mode: Mode::Enforce, ..because.clone() });
            }
        }
        let contains = because.mode == Mode::Enforce && actions.iter().any(|a| a.contains());
        let incident = match self.open {
            Some(open) => open,
            None => {
                self.incidents += 1;
                IncidentId::new(self.id, self.incidents)
            }
        };
        if contains {
            self.open = Some(incident);
        }
        let decision = Decision {
            id: DecisionId { run: self.id, n: self.decisions },
            incident,
            at: because.at,
            cause,
            actions,
            because: because.seqs,
            values: because.values,
            confidence: because.confidence,
            severity: because.severity,
            mode: because.mode,
            policy: self.policy,
        };
        self.containment.decided(&decision);
        if !self.held_back.is_empty() {
            self.containment.others_want_it_frozen();
        }
        if decision.mode == Mode::Enforce && decision.actions.contains(&Action::Thaw) {
            self.thawed();
        }
        out.push(decision);
    }

    fn thawed(&mut self) {
        self.open = None;
        self.retries = 0;
        self.stopped_by.clear();
        // Whoever thaws has seen what was found so far.
        self.held_back.clear();
    }

    fn rearm(&mut self, policy: &Policy, at: MonoTime) {
        for ((state, tree), rule) in self.rules.iter_mut().zip(&mut self.trees).zip(&policy.rules) {
            state.rearm(rule, at);
            if let Some(tree) = tree {
                tree.rearm(rule, at);
            }
        }
    }
}

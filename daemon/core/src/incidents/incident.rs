//! One incident, as the entries about it have it.

use super::Entry;
use crate::{
    Actor, PolicyDigest, RunId,
    decision::{Action, Cause, Decision, IncidentId, Mode, Outcome, Severity, Verdict},
    record::RuleText,
    standing::{IncidentState, steps},
    time::MonoTime,
    visible::{clean, shortened},
};
use std::{collections::BTreeMap, sync::Arc};

/// Actions that are kept of an incident, the last ones.
const STEPS: usize = 32;
/// Values of the first decision that are kept.
const VALUES: usize = 8;
/// Proofs that are kept of an action, and things that are not proved.
const PROOFS: usize = 8;
/// Longest text, in bytes.
const TEXT: usize = 512;

/// What is known of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Its name; empty: not known.
    pub name: String,
    /// Its owner; none: not known.
    pub owner_uid: Option<u32>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Name and version of its policy; empty: not known.
    pub policy: String,
}

/// An incident.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// Its id.
    pub id: IncidentId,
    /// The index of the last entry about it, plus 1.
    pub revision: u64,
    /// The run.
    pub run: RunId,
    /// What is known of the run.
    pub known: Arc<Known>,
    /// The policy that the run is pinned to.
    pub policy: PolicyDigest,
    /// The rule that opened it; none: an operator, or failsafe itself.
    pub rule: Option<String>,
    /// What the policy has about that rule.
    pub text: Option<RuleText>,
    /// The condition in words, or what else was the cause.
    pub condition: String,
    /// The values seen.
    pub values: Vec<String>,
    /// The worst of its decisions.
    pub severity: Severity,
    /// Observe: none of its decisions was carried out.
    pub mode: Mode,
    /// Who acted first; none: its beginning is not known.
    pub actor: Option<Actor>,
    /// Number of decisions.
    pub decisions: u32,
    /// Their actions, in order.
    pub steps: Vec<Taken>,
    /// Actions that are left out, the oldest.
    pub left_out: u32,
    /// When its cause was, nanoseconds since the epoch; 0: not known.
    pub opened_ns: i64,
    /// When it was over; none: it is open.
    pub closed_ns: Option<i64>,
    /// When the last entry about it was written.
    pub changed_ns: i64,
    /// Index of the entry with its first decision, of those that were seen.
    pub entry: u64,
    /// It is of a drill.
    pub drill: bool,
    /// Its run ended.
    pub run_has_ended: bool,
    /// A later thaw of the run, of another incident or of a guarded run, is proved.
    pub is_lifted: bool,
    /// Its first decision was not seen: rule, condition, values, actor, time and entry of its beginning are not known, and
    /// decisions and actions before those that are listed may be missing.
    pub beginning_unknown: bool,
    /// Entries about its run that came while it was open are not in the log, because the log budget of a user was spent.
    pub entries_limited: bool,
}

/// An action of a decision.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// Number of the decision.
    pub decision: u32,
    /// The action.
    pub action: Action,
    /// Observe: it was not carried out.
    pub mode: Mode,
    /// It contains, and nothing has lifted it.
    pub desired: bool,
    /// The last result.
    pub verdict: Option<Verdict>,
    /// What was read back.
    pub proofs: Vec<String>,
    /// Who asked.
    pub actor: Actor,
    /// Under which role, and why; empty where nobody asked.
    pub role: String,
    /// Why.
    pub reason: String,
    /// When its cause was, nanoseconds since the epoch.
    pub decided_ns: i64,
    /// When its result was read back.
    pub result_ns: Option<i64>,
    /// Index of the entry with the decision.
    pub entry: u64,
    /// Index of the entry with the last result.
    pub result_entry: Option<u64>,
}

impl Taken {
    /// Whether how the incident stands depends on it.
    fn counts(&self) -> bool {
        self.mode == Mode::Enforce && (self.action.contains() || self.action == Action::Thaw)
    }
}

impl Incident {
    /// By its first decision, which [`Incident::decided`] takes up then.
    pub(super) fn opened(
        entry: &Entry<'_>,
        decision: &Decision,
        (rule, blind, drill): (Option<&RuleText>, Option<&str>, bool),
        known: Arc<Known>,
    ) -> Incident {
        let text = rule.map(|rule| RuleText {
            rationale: short(&rule.rationale),
            owner: short(&rule.owner),
            playbook: rule.playbook.as_deref().map(short),
            policy: short(&rule.policy),
            effect: rule.effect,
        });
        Incident {
            id: decision.incident,
            revision: 0,
            run: decision.id.run,
            known,
            policy: decision.policy,
            rule: match &decision.cause {
                Cause::Rule { rule, .. } => Some(short(rule)),
                Cause::Operator(_) | Cause::Upkeep { .. } => None,
            },
            text,
            condition: short(&decision.condition(blind)),
            values: decision.values.iter().take(VALUES).map(|seen| short(&seen.words())).collect(),
            severity: decision.severity,
            mode: decision.mode,
            actor: Some(asked(decision).0),
            decisions: 0,
            steps: Vec::new(),
            left_out: 0,
            opened_ns: entry.wall_of(decision.at),
            closed_ns: None,
            changed_ns: 0,
            entry: entry.index,
            drill,
            run_has_ended: false,
            is_lifted: false,
            beginning_unknown: false,
            entries_limited: false,
        }
    }

    /// By a decision of which it is not certain that it is the first one: nothing is known of the beginning.
    pub(super) fn found(entry: &Entry<'_>, decision: &Decision, drill: bool, known: Arc<Known>) -> Incident {
        Incident {
            rule: None,
            text: None,
            condition: String::new(),
            values: Vec::new(),
            actor: None,
            opened_ns: 0,
            entry: entry.index,
            beginning_unknown: true,
            ..Incident::opened(entry, decision, (None, None, drill), known)
        }
    }

    /// A decision of it.
    pub(super) fn decided(&mut self, entry: &Entry<'_>, decision: &Decision) {
        self.decisions += 1;
        self.severity = self.severity.max(decision.severity);
        if decision.mode == Mode::Enforce {
            self.mode = Mode::Enforce;
        }
        if steps(decision).any(|action| action == Action::Thaw) {
            self.steps.iter_mut().for_each(|step| step.desired = false);
        }
        if decision.mode == Mode::Enforce && decision.actions.iter().any(|action| action.contains()) {
            self.is_lifted = false;
        }
        let (actor, role, reason) = asked(decision);
        for action in &decision.actions {
            self.steps.push(Taken {
                decision: decision.id.n,
                action: *action,
                mode: decision.mode,
                desired: decision.mode == Mode::Enforce && action.contains() && !self.run_has_ended,
                verdict: None,
                proofs: Vec::new(),
                actor: actor.clone(),
                role: role.clone(),
                reason: reason.clone(),
                decided_ns: entry.wall_of(decision.at),
                result_ns: None,
                entry: entry.index,
                result_entry: None,
            });
        }
        while self.steps.len() > STEPS {
            // The last action of each kind makes how the incident stands.
            let again = |at: &usize| self.steps[at + 1..].iter().any(|later| later.action == self.steps[*at].action);
            let at = (0..self.steps.len()).find(again).unwrap_or(0);
            self.steps.remove(at);
            self.left_out += 1;
        }
        self.changed(entry);
    }

    /// An outcome of it. False: it is of no action that is kept.
    pub(super) fn came(&mut self, entry: &Entry<'_>, outcome: &Outcome) -> bool {
        let mut own = self.steps.iter_mut();
        let step = own.find(|step| step.decision == outcome.decision.n && step.action == outcome.action);
        let Some(step) = step else { return false };
        step.verdict = Some(match &outcome.verdict {
            Verdict::Proved => Verdict::Proved,
            Verdict::Partial(missing) => Verdict::Partial(missing.iter().take(PROOFS).map(|it| short(it)).collect()),
            Verdict::Failed(why) => Verdict::Failed(short(why)),
        });
        let proofs = outcome.proofs.iter().take(PROOFS);
        step.proofs = proofs.map(|proof| short(&format!("{}: {}", proof.fact, proof.seen))).collect();
        (step.result_ns, step.result_entry) = (Some(entry.wall_of(outcome.at)), Some(entry.index));
        self.changed(entry);
        true
    }

    /// Its run ended.
    pub(super) fn run_ended(&mut self, wall_ns: u64, revision: u64) {
        let wall_ns = i64::try_from(wall_ns).unwrap_or(i64::MAX);
        (self.closed_ns, self.changed_ns) = (Some(wall_ns), wall_ns);
        self.steps.iter_mut().for_each(|step| step.desired = false);
        (self.revision, self.run_has_ended) = (revision, true);
    }

    /// A thaw of its run is proved that is not one of its own.
    pub(super) fn lifted(&mut self, entry: &Entry<'_>) {
        self.is_lifted = true;
        self.steps.iter_mut().for_each(|step| step.desired = false);
        self.changed(entry);
    }

    fn changed(&mut self, entry: &Entry<'_>) {
        self.revision = entry.index.saturating_add(1);
        self.changed_ns = i64::try_from(entry.wall_ns).unwrap_or(i64::MAX);
        // An outcome can be recorded after the end of the run.
        if !self.run_has_ended {
            let over = matches!(self.standing(), IncidentState::Noted | IncidentState::Thawed);
            // A later outcome does not move the end.
            self.closed_ns = over.then_some(self.closed_ns.unwrap_or(self.changed_ns));
        }
    }

    /// Whether something of it contains the run, or is to.
    pub fn is_open(&self) -> bool {
        self.closed_ns.is_none()
    }

    /// How it stands.
    pub fn standing(&self) -> IncidentState {
        if self.is_lifted {
            return IncidentState::Thawed;
        }
        let counted = self.steps.iter().filter(|step| step.counts());
        IncidentState::after(counted.map(|step| (step.action, step.verdict.as_ref())))
    }

    /// The word for how it stands. Nothing more is to come of the actions of a run that has ended.
    pub fn standing_name(&self) -> &'static str {
        match self.standing() {
            standing @ (IncidentState::Noted | IncidentState::Thawed) => standing.name(),
            _ if self.run_has_ended => "ended",
            standing => standing.name(),
        }
    }

    /// Name and version of the policy.
    pub fn policy_name(&self) -> &str {
        match &self.text {
            Some(text) => &text.policy,
            None => &self.known.policy,
        }
    }

    /// Bytes that it takes, more or less.
    pub fn bytes(&self) -> usize {
        let list = |texts: &[String]| texts.iter().map(|it| it.len() + size_of::<String>()).sum::<usize>();
        let text = self.text.as_ref().map_or(0, |text| {
            text.rationale.len() + text.owner.len() + text.policy.len() + text.playbook.as_ref().map_or(0, String::len)
        });
        let labels: usize = self.known.labels.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
        let steps: usize = self
            .steps
            .iter()
            .map(|step| {
                let verdict = match &step.verdict {
                    None | Some(Verdict::Proved) => 0,
                    Some(Verdict::Partial(missing)) => list(missing),
                    Some(Verdict::Failed(why)) => why.len(),
                };
                size_of::<Taken>() + verdict + list(&step.proofs) + step.role.len() + step.reason.len() + 64
            })
            .sum();
        let own = self.condition.len() + self.rule.as_ref().map_or(0, String::len) + self.known.name.len();
        size_of::<Incident>() + 128 + own + text + labels + list(&self.values) + steps
    }
}

impl Entry<'_> {
    /// The wall time of an instant of its boot.
    fn wall_of(&self, at: MonoTime) -> i64 {
        let wall = i128::from(self.wall_ns) + i128::from(at.0) - i128::from(self.mono_ns);
        i64::try_from(wall).unwrap_or(i64::MAX).max(0)
    }
}

/// Who asked for a decision, under which role, and why.
fn asked(decision: &Decision) -> (Actor, String, String) {
    match &decision.cause {
        Cause::Operator(request) => (request.actor.clone(), request.role.clone(), short(&request.reason)),
        Cause::Rule { .. } | Cause::Upkeep { .. } => (Actor::Daemon, String::new(), String::new()),
    }
}

/// A text that others wrote, harmless and bounded.
fn short(text: &str) -> String {
    shortened(clean(text), TEXT)
}

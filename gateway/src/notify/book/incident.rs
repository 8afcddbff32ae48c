//! One incident that is open.

use super::{Entry, Sender, UNPROVED, Weigh, blank, only_observed, text, verdict, worse};
use crate::{
    config::About,
    notify::message::{Message, RunFacts},
};
use failsafe_core::{
    decision::{Action, Cause, Decision, Mode, Outcome, Severity, Verdict},
    record::{Limited, RuleText},
    standing::{self, IncidentState},
    visible::shortened,
};
use serde::{Deserialize, Serialize};

/// Steps of an incident that are kept: the last ones. A decision has at most a few.
const STEPS: usize = 64;
/// Values of the first decision that are kept.
const VALUES: usize = 8;
/// Proofs of a step that are kept, and things that are not proved.
const PROOFS: usize = 4;
/// Longest cause in a summary, in bytes.
const BRIEF: usize = 240;

/// An incident.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    pub run: String,
    pub began_ns: i64,
    /// When its standing is to be announced.
    pub due_ns: Option<i64>,
    changed_ns: i64,
    severity: Severity,
    first_severity: Severity,
    mode: Mode,
    rule: Option<String>,
    rationale: Option<String>,
    contact: Option<String>,
    playbook: Option<String>,
    condition: String,
    values: Vec<String>,
    /// What the first decision asked for.
    actions: Vec<String>,
    /// How many decisions there were.
    decisions: u32,
    steps: Vec<Step>,
    /// The standing that was announced last.
    announced: Option<String>,
    ended: bool,
    /// Who asked for a thaw, and why.
    thawed_by: Option<String>,
    next: Option<String>,
}

/// An action of a decision that the standing depends on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    decision: u32,
    action: Action,
    verdict: Option<Verdict>,
    proofs: Vec<String>,
}

impl Open {
    /// By its first decision, which [`Open::decided`] takes up then.
    pub fn by(entry: &Entry<'_>, decision: &Decision, rule: Option<&RuleText>, blind: Option<&str>) -> Open {
        let cause_ns = i64::try_from(decision.at.0).unwrap_or(entry.mono_ns);
        Open {
            run: decision.id.run.to_string(),
            began_ns: entry.wall_ns.saturating_sub(entry.mono_ns.saturating_sub(cause_ns).max(0)),
            due_ns: None,
            changed_ns: entry.wall_ns,
            severity: decision.severity,
            first_severity: decision.severity,
            mode: decision.mode,
            rule: rule_id(decision),
            rationale: rule.map(|rule| text(&rule.rationale)),
            contact: rule.map(|rule| text(&rule.owner)).filter(|owner| !owner.is_empty()),
            playbook: rule.and_then(|rule| rule.playbook.as_deref()).map(text),
            condition: text(&decision.condition(blind)),
            values: decision.values.iter().take(VALUES).map(|seen| text(&seen.words())).collect(),
            actions: decision.actions.iter().take(STEPS).map(ToString::to_string).collect(),
            decisions: 0,
            steps: Vec::new(),
            announced: None,
            ended: false,
            thawed_by: None,
            next: None,
        }
    }

    /// Decisions that are not in the log one by one, because the budget of the owner is spent: how bad they are is not known.
    pub fn hidden(entry: &Entry<'_>, run: String, limited: &Limited) -> Open {
        let (uid, entries) = (limited.uid, limited.entries);
        Open {
            run,
            began_ns: entry.wall_ns,
            due_ns: Some(entry.wall_ns),
            changed_ns: entry.wall_ns,
            severity: Severity::Critical,
            first_severity: Severity::Critical,
            mode: Mode::Enforce,
            rule: None,
            rationale: None,
            contact: None,
            playbook: None,
            condition: format!(
                "user {uid} has spent the budget of the audit log: {entries} entries with decisions are only summed up in it"
            ),
            values: Vec::new(),
            actions: Vec::new(),
            decisions: 0,
            steps: Vec::new(),
            announced: None,
            ended: false,
            thawed_by: None,
            next: Some("failsafectl list".into()),
        }
    }

    /// A decision of it.
    pub fn decided(&mut self, decision: &Decision, wall_ns: i64) {
        self.decisions += 1;
        self.severity = worse(self.severity, decision.severity);
        if decision.mode == Mode::Enforce {
            self.mode = Mode::Enforce;
        }
        for action in standing::steps(decision) {
            self.supersede(action);
            self.steps.push(Step { decision: decision.id.n, action, verdict: None, proofs: Vec::new() });
        }
        if let Some(over @ 1..) = self.steps.len().checked_sub(STEPS) {
            self.steps.drain(..over);
        }
        if let Cause::Operator(request) = &decision.cause
            && decision.actions.contains(&Action::Thaw)
        {
            self.thawed_by = Some(text(&format!("{}: {}", request.actor, request.reason)));
        }
        self.changed(wall_ns);
    }

    /// The last step of each action counts, and a thaw that is proved ends what was before it: the rest is not kept.
    fn supersede(&mut self, action: Action) {
        let Some(at) = self.steps.iter().position(|step| step.action == action) else { return };
        if action == Action::Thaw && self.steps[at].verdict == Some(Verdict::Proved) {
            self.steps.drain(..=at);
        } else {
            self.steps.remove(at);
        }
    }

    /// An outcome of it.
    pub fn came(&mut self, outcome: &Outcome, wall_ns: i64) {
        let mut own = self.steps.iter_mut();
        let step = own.find(|step| step.decision == outcome.decision.n && step.action == outcome.action);
        if let Some(step) = step {
            step.verdict = Some(match &outcome.verdict {
                Verdict::Proved => Verdict::Proved,
                Verdict::Partial(missing) => Verdict::Partial(missing.iter().take(PROOFS).map(|it| text(it)).collect()),
                Verdict::Failed(why) => Verdict::Failed(text(why)),
            });
            let proof = |proof: &failsafe_core::Proof| text(&format!("{}: {}", proof.fact, proof.seen));
            step.proofs = outcome.proofs.iter().take(PROOFS).map(proof).collect();
            self.changed(wall_ns);
        }
    }

    /// Its run ended.
    pub fn ended(&mut self, wall_ns: i64) {
        self.ended = true;
        self.changed(wall_ns);
    }

    fn changed(&mut self, wall_ns: i64) {
        self.changed_ns = wall_ns;
        let state = self.state();
        if !self.ended && self.announced.as_deref() == Some(state.name()) {
            self.due_ns = None;
            return;
        }
        let settled = match state {
            IncidentState::Noted | IncidentState::Contained(_) | IncidentState::Thawed => true,
            IncidentState::Pending(_) | IncidentState::Partial(_) | IncidentState::Failed(_) => self.ended,
        };
        // What is not proved may be proved soon. The wait is not prolonged by further decisions.
        let due = if settled { wall_ns } else { wall_ns.saturating_add(UNPROVED) };
        self.due_ns = Some(if settled { due } else { self.due_ns.map_or(due, |earlier| earlier.min(due)) });
    }

    fn state(&self) -> IncidentState {
        IncidentState::after(self.steps.iter().map(|step| (step.action, step.verdict.as_ref())))
    }

    /// What is to be announced now: the standing, and the end of it where there is one.
    pub fn take(&mut self, key: &str, run: Option<RunFacts>, sender: &Sender) -> Vec<Message> {
        self.due_ns = None;
        let state = self.state();
        let mut messages = Vec::new();
        if self.announced.as_deref() != Some(state.name()) {
            messages.push(self.message(key, run.clone(), sender, &state));
            self.announced = Some(state.name().to_owned());
        }
        if self.ended && state != IncidentState::Thawed {
            let noted = state == IncidentState::Noted;
            let mut end = self.message(key, run, sender, &state);
            end.summary = format!("{}; the run ended", end.summary);
            (end.standing, end.resolved, end.update, end.closes_only) = ("ended".into(), true, true, noted);
            messages.push(end);
        }
        messages
    }

    /// Whether nothing more is to come.
    pub fn is_closed(&self) -> bool {
        self.ended || self.announced.as_deref() == Some(IncidentState::Thawed.name())
    }

    /// Whether its run ended.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// What it would say now, if it was announced.
    pub fn active(&self, key: &str, run: Option<RunFacts>, sender: &Sender) -> Option<Message> {
        self.announced.as_ref()?;
        let mut message = self.message(key, run, sender, &self.state());
        message.id = format!("{key}/again");
        Some(message)
    }

    fn message(&self, key: &str, run: Option<RunFacts>, sender: &Sender, state: &IncidentState) -> Message {
        let name = run.as_ref().map_or(self.run.as_str(), |run| run.name.as_str());
        // What is done has to be in the summary too, however long the cause is.
        let brief = || shortened(self.condition.clone(), BRIEF);
        let cause = self.rule.as_ref().map_or_else(brief, |rule| format!("rule {rule}"));
        let now = match state {
            _ if only_observed(self.mode) => format!("would be: {}; nothing was done", self.actions.join(", ")),
            IncidentState::Noted => "nothing is contained".into(),
            IncidentState::Pending(actions) => format!("{} not proved yet", names(actions)),
            IncidentState::Contained(actions) => format!("{} in force and proved", names(actions)),
            IncidentState::Partial(missing) => format!("PARTIAL, not proved: {}", missing.join("; ")),
            IncidentState::Failed(why) => format!("FAILED: {}", why.join("; ")),
            IncidentState::Thawed => match &self.thawed_by {
                Some(by) => format!("thawed by {by}"),
                None => "thawed".into(),
            },
        };
        let mut done: Vec<String> = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            // The last step of each action counts.
            if !self.steps[at + 1..].iter().any(|later| later.action == step.action) {
                done.push(text(&format!("{}: {}", step.action, verdict(step.verdict.as_ref(), &step.proofs))));
            }
        }
        let owner = run.as_ref().and_then(|run| run.owner_uid).map(|uid| format!("the run's owner, user {uid}"));
        let contact = self.contact.clone().or_else(|| (!sender.contact.is_empty()).then(|| sender.contact.clone()));
        Message {
            about: About::Incident,
            severity: self.severity,
            first_severity: self.first_severity,
            mode: self.mode,
            standing: state.name().into(),
            resolved: *state == IncidentState::Thawed,
            update: self.announced.is_some(),
            closes_only: false,
            began_ns: self.began_ns,
            at_ns: self.changed_ns,
            summary: text(&format!("{}: run {name}: {cause}: {now}", sender.node)),
            run,
            rule: self.rule.clone(),
            rationale: self.rationale.clone(),
            condition: self.condition.clone(),
            values: self.values.clone(),
            done,
            contact: contact.or(owner).unwrap_or_default(),
            playbook: self.playbook.clone(),
            next: self.next.clone().unwrap_or_else(|| format!("failsafectl explain {key}")),
            ..blank(key, sender)
        }
    }
}

impl Weigh for Open {
    fn weigh(&self) -> usize {
        let texts =
            [&self.rule, &self.rationale, &self.contact, &self.playbook, &self.announced, &self.thawed_by, &self.next];
        let texts: usize = texts.into_iter().flatten().chain([&self.run, &self.condition]).map(String::len).sum();
        let lists: usize = self.values.iter().chain(&self.actions).map(|it| it.len() + size_of::<String>()).sum();
        size_of::<Open>() + texts + lists + self.steps.iter().map(Weigh::weigh).sum::<usize>()
    }
}

impl Weigh for Step {
    fn weigh(&self) -> usize {
        let verdict = match &self.verdict {
            None | Some(Verdict::Proved) => 0,
            Some(Verdict::Partial(missing)) => missing.iter().map(|it| it.len() + size_of::<String>()).sum(),
            Some(Verdict::Failed(why)) => why.len(),
        };
        size_of::<Step>() + verdict + self.proofs.iter().map(|it| it.len() + size_of::<String>()).sum::<usize>()
    }
}

fn names(actions: &[Action]) -> String {
    actions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn rule_id(decision: &Decision) -> Option<String> {
    match &decision.cause {
        Cause::Rule { rule, .. } => Some(text(rule)),
        Cause::Operator(_) | Cause::Upkeep { .. } => None,
    }
}

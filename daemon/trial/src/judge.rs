//! Holds decisions against what a test expects.

use crate::{
    file::{Case, Expect, MAX_LENGTH, Property, Who},
    run::{Ran, START, of_rule},
    seconds,
};
use failsafe_core::{
    Decision, Subject,
    decision::{Action, Cause, Mode},
    time::Span,
};
use std::collections::BTreeSet;

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// Why it failed; empty: it passed.
    pub failures: Vec<Failure>,
}

/// One reason for which a test failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The line of the test file that states the expectation.
    pub line: usize,
    /// What was expected.
    pub expected: String,
    /// What happened.
    pub happened: String,
    /// The values behind it.
    pub values: Vec<String>,
}

impl Verdict {
    /// Whether the test passed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Holds what came of a test against what it expects.
pub fn judge(case: &Case, ran: &Ran) -> Verdict {
    let mut failures: Vec<Failure> = ran
        .broken
        .iter()
        .map(|(line, why)| Failure {
            line: *line,
            expected: "an input that can be judged".to_owned(),
            happened: why.clone(),
            values: Vec::new(),
        })
        .collect();
    let mut left: Vec<u64> = case.expect.iter().map(|expect| expect.count).collect();
    let mut unexpected = Vec::new();
    for decision in &ran.decisions {
        // Of several expectations the one that ends first: a later decision can still meet the others.
        let fits =
            case.expect.iter().enumerate().filter(|(n, expect)| left.get(*n) > Some(&0) && expect.fits(decision));
        match fits.min_by_key(|(n, expect)| (expect.until, *n)).map(|(n, _)| n) {
            Some(n) => left[n] -= 1,
            None => unexpected.push(decision),
        }
    }
    let lacking: Vec<(usize, &Expect)> =
        case.expect.iter().enumerate().filter(|(n, _)| left.get(*n) > Some(&0)).collect();
    for (n, expect) in &lacking {
        failures.push(missing(expect, left.get(*n).copied().unwrap_or(0), &unexpected, ran, ran.seen.get(n)));
    }
    // What came in another form than expected is reported there.
    unexpected.retain(|decision| !lacking.iter().any(|(_, expect)| expect.is_of(decision)));
    if !case.others {
        let nothing = case.expect.is_empty();
        failures.extend(unexpected.iter().map(|decision| Failure {
            line: case.line,
            expected: if nothing { "no decision" } else { "no other decision" }.to_owned(),
            happened: what(decision),
            values: why(decision, ran),
        }));
    }
    for property in &case.properties {
        failures.extend(violations(*property, &ran.decisions).into_iter().map(|decision| Failure {
            line: case.line,
            expected: format!("property {}", property.name()),
            happened: what(decision),
            values: why(decision, ran),
        }));
    }
    failures.sort_by_key(|failure| failure.line);
    Verdict { failures }
}

impl Expect {
    fn is_of(&self, decision: &Decision) -> bool {
        match (&self.who, &decision.cause) {
            (Who::Rule(id, _), _) => of_rule(decision) == Some(id),
            (Who::Upkeep(wanted), Cause::Upkeep { what }) => wanted == what,
            _ => false,
        }
    }

    fn fits(&self, decision: &Decision) -> bool {
        let at = Ran::time(decision);
        self.is_of(decision)
            && (self.from..=self.until).contains(&at)
            && self.mode.is_none_or(|mode| mode == decision.mode)
            && self.actions.as_ref().is_none_or(|actions| *actions == plain(&decision.actions))
    }

    /// In words.
    fn words(&self, left: u64) -> String {
        let who = match &self.who {
            Who::Rule(id, _) => format!("rule {id}"),
            Who::Upkeep(what) => format!("upkeep {what}"),
        };
        let when = match (self.from, self.until) {
            (from, until) if from == until => format!(" at {}", seconds(from)),
            (Span(0), until) if until >= MAX_LENGTH => String::new(),
            (Span(0), until) => format!(" by {}", seconds(until)),
            (from, until) => format!(" between {} and {}", seconds(from), seconds(until)),
        };
        let mode = match self.mode {
            None => "",
            Some(Mode::Enforce) => ", enforced",
            Some(Mode::Observe) => ", only observed",
        };
        let in_order = |actions: &BTreeSet<Action>| {
            let known = Action::IN_POLICY.into_iter().filter(|action| actions.contains(action));
            let all: Vec<Action> =
                known.chain(actions.iter().copied().filter(|a| !Action::IN_POLICY.contains(a))).collect();
            format!(": {}", list(all.iter()))
        };
        let actions = self.actions.as_ref().map(in_order).unwrap_or_default();
        let times = match (self.count, left) {
            (1, _) => String::new(),
            (count, left) => format!(" {count} times, {left} missing"),
        };
        format!("{who}{when}{times}{mode}{actions}")
    }
}

fn missing(expect: &Expect, left: u64, unexpected: &[&Decision], ran: &Ran, seen: Option<&Vec<String>>) -> Failure {
    let near: Vec<&&Decision> = unexpected.iter().filter(|decision| expect.is_of(decision)).collect();
    let happened = match near.as_slice() {
        [] => "no such decision".to_owned(),
        some => some.iter().map(|decision| what(decision)).collect::<Vec<_>>().join("; "),
    };
    let values = near.iter().flat_map(|decision| why(decision, ran)).chain(seen.into_iter().flatten().cloned());
    let mut shown = Vec::new();
    for value in values {
        if !shown.contains(&value) {
            shown.push(value);
        }
    }
    Failure { line: expect.line, expected: expect.words(left), happened, values: shown }
}

/// A decision in one line.
pub fn what(decision: &Decision) -> String {
    let who = match &decision.cause {
        Cause::Rule { rule, .. } => format!("rule {rule}"),
        Cause::Upkeep { what } => format!("upkeep {what}"),
        Cause::Operator(_) => "an operator".to_owned(),
    };
    let mode = if decision.mode == Mode::Observe { " (only observed)" } else { "" };
    format!("{} at {}{mode}: {}", who, seconds(Ran::time(decision)), list(decision.actions.iter()))
}

/// The condition and the values that made it true, or what was not seen.
pub fn why(decision: &Decision, ran: &Ran) -> Vec<String> {
    let mut lines: Vec<String> =
        ran.unseen.get(&decision.id).map(|unseen| format!("because {unseen}")).into_iter().collect();
    if let Cause::Rule { condition, .. } = &decision.cause {
        lines.push(format!("because {condition}"));
    }
    for value in &decision.values {
        let of = match &value.subject {
            Subject::Gpu(gpu) => format!(" of {gpu}"),
            _ => String::new(),
        };
        let at = seconds(value.at.since(START));
        match value.event() {
            Some(event) => lines.push(format!("event{of} {event} at {at}")),
            None => lines.push(format!("{}{of} = {} at {at}", value.kind, value.show())),
        }
    }
    lines
}

fn list<'a>(actions: impl Iterator<Item = &'a Action>) -> String {
    actions.map(|action| action.name()).collect::<Vec<_>>().join(", ")
}

/// The actions without what differs from run to run.
fn plain(actions: &[Action]) -> BTreeSet<Action> {
    let one = |action: &Action| match action {
        Action::Recapture { .. } => Action::Recapture { pid: 0 },
        other => *other,
    };
    actions.iter().map(one).collect()
}

/// The decisions that violate a property.
fn violations(property: Property, decisions: &[Decision]) -> Vec<&Decision> {
    let enforced = |decision: &Decision| decision.mode == Mode::Enforce;
    let kills_before = |first: Action| {
        let mut done = false;
        let mut wrong = Vec::new();
        for decision in decisions.iter().filter(|decision| enforced(decision)) {
            // The actions of a decision are carried out in their order.
            for action in &decision.actions {
                done |= *action == first;
                if *action == Action::Kill && !done {
                    wrong.push(decision);
                }
            }
        }
        wrong
    };
    match property {
        Property::NoDecision => decisions.iter().collect(),
        Property::NoContainment => {
            let contains = |decision: &&Decision| enforced(decision) && decision.actions.iter().any(|a| a.contains());
            decisions.iter().filter(contains).collect()
        }
        Property::FreezeBeforeKill => kills_before(Action::Freeze),
        Property::SnapshotBeforeKill => kills_before(Action::Snapshot),
        Property::AlwaysNotify => {
            decisions.iter().filter(|decision| !decision.actions.contains(&Action::Notify)).collect()
        }
    }
}

#[cfg(test)]
mod tests;

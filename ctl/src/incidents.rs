//! All incidents of a log, each in brief, and which of a run's incidents stopped it. Pure: entries in, facts out.

use crate::{
    entry::Logged,
    incident::{Decided, IncidentState, standing},
};
use failsafe_core::{
    decision::{Action, Cause, Decision, IncidentId, Mode, Verdict},
    record::Record,
};
use std::collections::BTreeMap;

/// Kinds of the log's entries that make an incident.
pub const KINDS: [&str; 2] = ["decision", "outcome"];

/// An incident in brief.
#[derive(Debug)]
pub struct Brief<'a> {
    /// Its id.
    pub id: IncidentId,
    /// Its decisions with their outcomes; never empty.
    pub decisions: Vec<Decided<'a>>,
}

/// The incidents that the entries have decisions of, in the order in which they began.
pub fn briefs(entries: &[Logged]) -> Vec<Brief<'_>> {
    let mut briefs: Vec<Brief<'_>> = Vec::new();
    let mut places: BTreeMap<IncidentId, usize> = BTreeMap::new();
    for entry in entries {
        match entry.record() {
            Some(Record::Decision { decision, rule, blind, .. }) => {
                let place = *places.entry(decision.incident).or_insert_with(|| {
                    briefs.push(Brief { id: decision.incident, decisions: Vec::new() });
                    briefs.len() - 1
                });
                let (rule, blind, outcomes) = (rule.as_ref(), blind.as_deref(), Vec::new());
                briefs[place].decisions.push(Decided { entry, decision, rule, blind, outcomes, evidence: None });
            }
            Some(Record::Outcome(outcome)) => {
                let brief = places.get(&outcome.incident).and_then(|place| briefs.get_mut(*place));
                let decided =
                    brief.and_then(|b| b.decisions.iter_mut().rev().find(|d| d.decision.id == outcome.decision));
                if let Some(decided) = decided {
                    decided.outcomes.push((entry, outcome));
                }
            }
            _ => {}
        }
    }
    briefs
}

impl Brief<'_> {
    /// The decision that opened it.
    pub fn opened_by(&self) -> &Decided<'_> {
        &self.decisions[0]
    }

    /// When it began, wall time in nanoseconds.
    pub fn began(&self) -> i128 {
        self.opened_by().began().1
    }

    /// How it stands.
    pub fn standing(&self) -> IncidentState {
        standing(&self.decisions)
    }

    fn enforced(&self) -> impl Iterator<Item = &Decision> {
        self.decisions.iter().map(|d| d.decision).filter(|d| d.mode == Mode::Enforce)
    }

    /// Whether something in it stopped or bounded the run.
    pub fn contains(&self) -> bool {
        self.enforced().any(|d| d.actions.iter().any(|action| action.contains()))
    }

    fn thawed(&self) -> bool {
        self.enforced().any(|d| d.actions.contains(&Action::Thaw))
    }

    fn rule(&self) -> Option<&str> {
        match &self.opened_by().decision.cause {
            Cause::Rule { rule, .. } => Some(rule),
            Cause::Operator(_) | Cause::Upkeep { .. } => None,
        }
    }

    fn by_operator(&self) -> bool {
        matches!(self.opened_by().decision.cause, Cause::Operator(_))
    }

    /// The decision that killed the run: an outcome of the kill says that at least a part of it was killed.
    fn killed(&self) -> Option<&Decided<'_>> {
        let killed = |decided: &&Decided<'_>| {
            let kills = decided.outcomes.iter().filter(|(_, o)| o.action == Action::Kill);
            kills.map(|(_, o)| &o.verdict).any(|verdict| !matches!(verdict, Verdict::Failed(_)))
        };
        self.decisions.iter().find(killed)
    }
}

/// The incident of a run that explains how it stands: the first that contained it since it was last thawed. Where only an operator
/// contained it, the violation that was reported before; where nothing did, the latest.
pub fn first_cause(of_run: &[Brief<'_>]) -> Option<IncidentId> {
    let last = of_run.last()?;
    let begin = of_run.iter().rposition(|brief| brief.id != last.id && brief.thawed()).map_or(0, |at| at + 1);
    let since = &of_run[begin..];
    if let Some(brief) = since.iter().find(|brief| brief.contains() && !brief.by_operator()) {
        return Some(brief.id);
    }
    let Some(acted) = since.iter().position(Brief::contains) else { return Some(last.id) };
    let reported = since[..acted].iter().rev().find_map(Brief::rule);
    let violation = reported.and_then(|rule| since[..acted].iter().find(|brief| brief.rule() == Some(rule)));
    Some(violation.unwrap_or(&since[acted]).id)
}

/// What ended a run.
#[derive(Debug)]
pub enum End<'b> {
    /// failsafe killed it, by this decision.
    Killed(&'b Decision),
    /// It ended while this incident contained it.
    WhileContained(&'b Brief<'b>),
    /// failsafe had no part in it.
    Itself,
}

impl End<'_> {
    /// Whether failsafe ended the run.
    pub fn by_failsafe(&self) -> bool {
        matches!(self, End::Killed(_))
    }

    /// The incident that the end belongs to.
    pub fn incident(&self) -> Option<IncidentId> {
        match self {
            End::Killed(decision) => Some(decision.incident),
            End::WhileContained(brief) => Some(brief.id),
            End::Itself => None,
        }
    }
}

/// What ended the run that had these incidents.
pub fn end_of<'b>(of_run: &'b [Brief<'b>]) -> End<'b> {
    let Some(last) = of_run.iter().rev().find(|brief| brief.contains() || brief.thawed()) else { return End::Itself };
    if let Some(killed) = last.killed() {
        return End::Killed(killed.decision);
    }
    match last.standing() {
        IncidentState::Noted | IncidentState::Thawed => End::Itself,
        IncidentState::Contained(_)
        | IncidentState::Partial(_)
        | IncidentState::Failed(_)
        | IncidentState::Pending(_) => End::WhileContained(last),
    }
}

#[cfg(test)]
mod tests;

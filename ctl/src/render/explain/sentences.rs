//! An incident in sentences: what was done and why, and how it stands.

use crate::{
    incident::{Decided, Incident, IncidentState},
    incidents::Brief,
    render::{actors, clean, decision, time},
};
use failsafe_core::decision::{Action, Cause, Confidence, Decision, Mode, Severity};
use jiff::tz::TimeZone;
use std::fmt::Write;

/// An incident in a few words: what was done first, and because of what.
pub fn in_brief(brief: &Brief<'_>) -> String {
    in_few_words(brief.opened_by().decision)
}

/// A decision in a few words.
pub fn in_few_words(decision: &Decision) -> String {
    let would = if decision.mode == Mode::Observe { "would " } else { "" };
    let why = match &decision.cause {
        Cause::Rule { rule, .. } => format!("rule {rule}"),
        Cause::Operator(request) => format!("{}: {}", actors::requester(request), request.reason),
        Cause::Upkeep { what } => decision::upkeep(*what).to_owned(),
    };
    format!("{would}{}: {why}", decision::actions(&decision.actions))
}

/// The first sentence.
pub fn headline(incident: &Incident<'_>) -> String {
    let Decided { decision, rule, blind, .. } = incident.opened_by();
    let run = incident.run_name();
    let acts: Vec<&str> = decision.actions.iter().filter(|a| a.contains()).map(|a| past(*a)).collect();
    let mut acts = if acts.is_empty() { "reported".to_owned() } else { acts.join(" and ") };
    for action in decision.actions.iter().filter(|a| matches!(a, Action::CordonGpu | Action::CordonNode)) {
        let _ = write!(acts, " and {}", past(*action));
    }
    let was = match (&incident.standing, decision.mode) {
        (_, Mode::Observe) => "would have been",
        (IncidentState::Pending(_) | IncidentState::Failed(_), _) => "was to be",
        _ => "was",
    };
    match &decision.cause {
        Cause::Rule { rule: id, .. } => {
            let policy = rule.map(|r| format!(" of policy {}", r.policy)).unwrap_or_default();
            format!("Run {run} {was} {acts}, because rule {id}{policy} tripped.")
        }
        Cause::Operator(request) => {
            let (by, reason) = (actors::requester(request), &request.reason);
            match decision.actions.first() {
                Some(Action::Thaw) => format!("Run {run} was thawed by {by}: {reason}."),
                _ => format!("Run {run} {was} {acts} by {by}: {reason}."),
            }
        }
        Cause::Upkeep { what } => {
            let blind = blind.map(|what| format!(": {}", clean(what))).unwrap_or_default();
            format!("Run {run} {was} {acts} by failsafed itself: {}{blind}.", decision::upkeep(*what))
        }
    }
}

pub(super) fn past(action: Action) -> &'static str {
    match action {
        Action::CordonGpu => "its GPU cordoned",
        Action::CordonNode => "the node cordoned",
        Action::Notify => "reported",
        Action::Snapshot => "recorded",
        Action::Block => "cut off from the network",
        Action::Freeze => "frozen",
        Action::Kill => "killed",
        Action::Thaw => "thawed",
        Action::Recapture { .. } => "an escaped process was moved back into its cgroup",
    }
}

pub(super) fn standing(incident: &Incident<'_>, zone: &TimeZone) -> String {
    let text = in_words(&incident.standing, incident.opened_by().decision.mode);
    match incident.ended {
        Some(ended) => match incident.unwatched() {
            None => format!("{text} The run ended at {}.", time::wall(i128::from(ended.wall_ns), zone)),
            Some(between) => {
                let before = time::wall(i128::from(between.noticed_ns), zone);
                let seen = between.last_seen_ns.map(|seen| time::wall(i128::from(seen), zone));
                let after = seen.map(|seen| format!(" and after {seen}")).unwrap_or_default();
                format!("{text} The run ended before {before}{after}; no daemon watched the end.")
            }
        },
        None => text,
    }
}

/// How an incident stands, as a sentence.
pub fn in_words(standing: &IncidentState, mode: Mode) -> String {
    match standing {
        IncidentState::Noted if mode == Mode::Observe => "Nothing was done: it was only observed.".to_owned(),
        IncidentState::Noted => {
            "Nothing was contained: the decision is in the audit log and its event stream.".to_owned()
        }
        IncidentState::Pending(actions) => {
            format!("NOT KNOWN: the log has no outcome of {} yet.", decision::actions(actions))
        }
        IncidentState::Contained(actions) => format!("In force and verified: {}.", decision::actions(actions)),
        IncidentState::Partial(missing) => format!("PARTIAL, not proved: {}.", missing.join("; ")),
        IncidentState::Failed(why) => format!("FAILED: {}.", why.join("; ")),
        IncidentState::Thawed => "Thawed; verified.".to_owned(),
    }
}

/// The word for it.
pub fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

/// The word for it.
pub fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    }
}

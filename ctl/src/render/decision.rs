//! Decisions and outcomes in words: what was decided, why, with which values, and what is proved.

use super::actors;
use failsafe_core::{
    decision::{Action, Cause, Decision, Mode, Observation, Outcome, Proof, Upkeep, Verdict},
    input::Command,
    subject::Subject,
};
use std::fmt::Display;

/// The command's verb.
pub fn command(command: Command) -> &'static str {
    match command {
        Command::Freeze => "freeze",
        Command::Thaw => "thaw",
        Command::Kill => "kill",
    }
}

/// Actions in order, as one text.
pub fn actions(actions: &[Action]) -> String {
    actions.iter().map(Action::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn decided(decision: &Decision) -> String {
    let would = if decision.mode == Mode::Observe { "would (observe only): " } else { "" };
    let incident = decision.incident;
    format!("{incident} {would}{} because {}", actions(&decision.actions), because(decision))
}

/// The cause of a decision, with the values seen.
pub fn because(decision: &Decision) -> String {
    let saw: Vec<String> = decision.values.iter().map(observation).collect();
    let saw = if saw.is_empty() { String::new() } else { format!("; saw {}", saw.join(", ")) };
    match &decision.cause {
        Cause::Rule { rule, condition, suppressed } => {
            let again = if *suppressed > 0 { format!(" (and {suppressed} times before)") } else { String::new() };
            format!("of rule {rule}: {condition}{saw}{again}")
        }
        Cause::Operator(request) => format!("{} asked: {}", actors::requester(request), request.reason),
        Cause::Upkeep { what } => format!("{}{saw}", upkeep(*what)),
    }
}

/// What an upkeep of failsafe's means.
pub fn upkeep(what: Upkeep) -> &'static str {
    match what {
        Upkeep::Escape => "a process left the run's cgroup",
        Upkeep::Latched => "a stop rule latched the run in the kernel, and the event of it was lost",
        Upkeep::ForeignThaw => "somebody else thawed the contained run",
        Upkeep::FoundFrozen => "the run was found frozen at the daemon's start, for no recorded reason",
        Upkeep::Blind => "a sensor that the policy needs went blind",
        Upkeep::Retry => "an action failed and is tried again",
        Upkeep::Drift => "the run differs from the one that it continues, and its policy holds such a run",
    }
}

/// A value with its subject.
pub fn observation(seen: &Observation) -> String {
    let value = seen.show();
    match (&seen.subject, seen.event()) {
        (Subject::Process { process, .. }, Some(_)) => format!("{value} by pid {} ({})", process.pid, process.comm),
        (Subject::Run(_), Some(_)) => value,
        (subject, Some(_)) => format!("{value} on {subject}"),
        (Subject::Run(_), None) => format!("{} = {value}", seen.kind),
        (subject, None) => format!("{} = {value} on {subject}", seen.kind),
    }
}

pub(super) fn came_of(outcome: &Outcome) -> String {
    let after = format!(" after {}", outcome.took);
    result(outcome.action, &after, &outcome.verdict, &outcome.proofs)
}

pub(super) fn result(action: impl Display, after: &str, verdict: &Verdict, proofs: &[Proof]) -> String {
    let facts: Vec<String> = proofs.iter().map(|p| format!("{}: {}", p.fact, p.seen)).collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join("; ")) };
    match verdict {
        Verdict::Proved => format!("{action} proved{after}{facts}"),
        Verdict::Partial(missing) => format!("{action} PARTIAL{after}, not proved: {}{facts}", missing.join("; ")),
        Verdict::Failed(why) => format!("{action} FAILED{after}: {why}{facts}"),
    }
}

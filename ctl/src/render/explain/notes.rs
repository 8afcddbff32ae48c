//! Notes on the page of an incident beside the containment: cordons, calls that this kernel could not deny, and thaws that do not
//! last.

use super::sentences::past;
use crate::{
    incident::{Decided, Incident},
    render::decision,
};
use failsafe_core::{
    decision::{Action, Cause, Decision, Mode, Observation, Verdict},
    event::{Assurance, Event, Verdict as Did},
    signal::Shape,
    subject::Subject,
};
use std::collections::BTreeSet;

/// What a thaw of the run leads to, where that is not obvious: what tripped the rule does not fall by a thaw.
pub enum AfterThaw {
    /// The rule freezes the run again, with the reason.
    FrozenAgain(String),
    /// The run goes on without the rule, with the reason.
    Disarmed(String),
}

impl AfterThaw {
    /// The reason.
    pub fn text(&self) -> &str {
        match self {
            AfterThaw::FrozenAgain(why) | AfterThaw::Disarmed(why) => why,
        }
    }
}

/// What a thaw leads to after this decision.
pub fn after_thaw(decision: &Decision) -> Option<AfterThaw> {
    let Cause::Rule { rule, condition, .. } = &decision.cause else { return None };
    decision.values.iter().find_map(|seen| match seen.event() {
        Some(Event::Budget { budget, .. }) => Some(AfterThaw::FrozenAgain(format!(
            "The budget `{budget}` stays used up after a thaw: rule {rule} freezes the run again at its next packet, unless only a \
             rate was exceeded. Kill the run, and start it again with a larger budget."
        ))),
        // A condition of several parts is armed by any of them that no longer holds.
        None if seen.kind.shape() == Shape::Counter
            && condition.starts_with(&format!("{} above ", seen.kind))
            && !condition.contains("/s") =>
        {
            Some(AfterThaw::Disarmed(format!(
                "{} never falls: after a thaw, rule {rule} does not match again for this run until failsafed is restarted. To \
                 limit what it does from now on, kill the run, and start it again with another bound.",
                seen.kind
            )))
        }
        _ => None,
    })
}

/// A call that the rule was to deny and that this kernel let happen. One that was seen at its entry may have failed later, of itself
/// or because a program on the cgroup refused a device; a destination may refuse or never answer. That those succeeded would be a guess.
pub fn not_denied(decided: &Decided<'_>) -> Option<String> {
    let (decision, to_deny) = (decided.decision, decided.rule.is_some_and(|rule| !rule.effect.is_observe()));
    let succeeded = |did: Did| did == Did::WouldDeny || (did == Did::Allowed && to_deny);
    let seen = decision.values.iter().find(|seen| seen.event().and_then(Event::verdict).is_some_and(succeeded))?;
    let why = match decision.mode {
        Mode::Observe => "it was only observed",
        Mode::Enforce => "this kernel cannot deny it",
    };
    let event = seen.event();
    let known = match event.and_then(Event::assurance) {
        Some(Assurance::ObservedUnreliable) => "NOT DENIED AT ITS ENTRY; WHETHER THE CALL SUCCEEDED IS NOT KNOWN",
        // It is seen before the packet leaves.
        _ if matches!(event, Some(Event::Net { .. })) => "NOT DENIED; WHETHER THE CALL SUCCEEDED IS NOT KNOWN",
        _ => "THE CALL SUCCEEDED",
    };
    Some(format!("{known}: {why} ({}).", decision::observation(seen)))
}

/// The cordons of the incident, in sentences.
pub fn cordons(incident: &Incident<'_>) -> Vec<String> {
    let enforced = incident.decisions.iter().filter(|decided| decided.decision.mode == Mode::Enforce);
    let mut lines = Vec::new();
    for decided in enforced {
        for action in decided.decision.actions.iter().filter(|action| is_cordon(**action)) {
            let what = past(*action);
            let verdict = decided.outcomes.iter().rev().find(|(_, outcome)| outcome.action == *action);
            let line = match verdict.map(|(_, outcome)| &outcome.verdict) {
                Some(Verdict::Failed(why)) => format!("CORDON FAILED: {action}: {why}."),
                Some(Verdict::Partial(missing)) => format!("CORDON PARTIAL: {action}: {}.", missing.join("; ")),
                None => format!("NOT KNOWN: the log has no outcome of {action} yet."),
                Some(Verdict::Proved) => {
                    let what = what.replace(" cordoned", " was cordoned");
                    format!("{}{}: no new run is started there.", what[..1].to_uppercase(), &what[1..])
                }
            };
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

/// The commands that undo the cordons.
pub fn undo_cordons(incident: &Incident<'_>) -> Vec<String> {
    let decisions = incident.decisions.iter().map(|decided| decided.decision).filter(|d| d.mode == Mode::Enforce);
    let mut lines = Vec::new();
    for decision in decisions {
        if decision.actions.contains(&Action::CordonNode) {
            lines.push("failsafectl node uncordon --reason TEXT".to_owned());
        }
        if decision.actions.contains(&Action::CordonGpu) {
            let gpus: BTreeSet<&str> = decision.values.iter().filter_map(gpu_of).collect();
            lines.extend(gpus.iter().map(|gpu| format!("failsafectl gpu uncordon {gpu} --reason TEXT")));
        }
    }
    lines.sort();
    lines.dedup();
    lines
}

fn gpu_of(seen: &Observation) -> Option<&str> {
    match (&seen.subject, seen.event()) {
        (Subject::Gpu(gpu), _) => Some(&gpu.0),
        (_, Some(Event::ForeignGpuProcess { gpu, .. })) => Some(gpu),
        _ => None,
    }
}

fn is_cordon(action: Action) -> bool {
    matches!(action, Action::CordonGpu | Action::CordonNode)
}

//! Sections of the full page: facts, values, the rule, the timeline, and what is proved.

use super::{
    WIDTH,
    sentences::{confidence, severity},
};
use crate::{
    incident::{Decided, Incident},
    render::{Paint, actors, decision, event, fill, table, time, users},
};
use failsafe_core::{
    decision::{Action, Cause, Mode, Outcome, Verdict},
    record::Record,
    subject::Subject,
};
use jiff::tz::TimeZone;
use std::fmt::Write;

pub(super) fn facts(incident: &Incident<'_>, zone: &TimeZone) -> String {
    let Decided { decision, rule, .. } = incident.opened_by();
    let run = incident.run;
    let rule_line = match &decision.cause {
        Cause::Rule { rule, condition, .. } => format!("{rule}: {condition}"),
        _ => String::new(),
    };
    let name = rule.map(|r| r.policy.as_str()).or(incident.policy_name).unwrap_or_default();
    let labels: Vec<String> = run.iter().flat_map(|r| &r.labels).map(|(k, v)| format!("{k}={v}")).collect();
    let gpus: Vec<String> = run.iter().flat_map(|r| &r.gpus).map(ToString::to_string).collect();
    table::pairs(
        "  ",
        [
            ("run", format!("{} {}", incident.run_name(), incident.run_id)),
            ("user", owner(incident).unwrap_or_default()),
            ("labels", labels.join(", ")),
            ("cgroup", run.map(|r| r.cgroup.clone()).unwrap_or_default()),
            ("GPUs", gpus.join(", ")),
            ("rule", rule_line),
            ("severity", format!("{}, confidence {}", severity(decision.severity), confidence(decision.confidence))),
            ("policy", format!("{name} {}", decision.policy).trim().to_owned()),
            ("at", time::exact(incident.zero().1, zone)),
        ],
    )
}

/// The owner of the run: the user, `unknown`, or nothing if the log does not have the run.
pub(super) fn owner(incident: &Incident<'_>) -> Option<String> {
    let known = incident.owner_uid.map(users::shown);
    known.or_else(|| incident.run.map(|run| users::shown(run.owner_uid)))
}

pub(super) fn saw(incident: &Incident<'_>) -> String {
    let decision = incident.opened_by().decision;
    let mut out = String::new();
    for seen in &decision.values {
        let _ = writeln!(out, "  {}", decision::observation(seen));
        if let Subject::Process { process, .. } = &seen.subject {
            let _ = writeln!(
                out,
                "    pid {} ({}), parent {}, user {}",
                process.pid,
                process.comm,
                process.ppid,
                users::shown(process.uid)
            );
        }
    }
    if let Cause::Rule { suppressed, .. } = &decision.cause
        && *suppressed > 0
    {
        let _ = writeln!(out, "  the same happened {suppressed} times before, within the rule's cooldown");
    }
    if let Cause::Operator(request) = &decision.cause {
        let (role, reason) = (&request.role, &request.reason);
        let _ = writeln!(out, "  {}, allowed as {role}, gave the reason: {reason}", actors::named(&request.actor));
        if let Some(process) = actors::process(&request.actor) {
            let _ = writeln!(out, "    {process}");
        }
    }
    out
}

pub(super) fn why(incident: &Incident<'_>) -> String {
    let Some(rule) = incident.opened_by().rule else { return String::new() };
    let mut out: String = fill(&rule.rationale, WIDTH - 2).iter().map(|line| format!("  {line}\n")).collect();
    let _ = match incident.opened_by().decision.cause {
        Cause::Rule { .. } => writeln!(out, "  Its owner is {}.", rule.owner),
        _ => writeln!(out, "  The owner of policy {} is {}.", rule.policy, rule.owner),
    };
    out
}

pub(super) fn timeline(incident: &Incident<'_>, zone: &TimeZone) -> String {
    let (zero, zero_wall) = incident.zero();
    let boot = &incident.opened_by().entry.boot_id;
    let mut rows: Vec<(i128, String)> = Vec::new();
    for seen in &incident.opened_by().decision.values {
        rows.push((
            zero_wall + i128::from(seen.at.0) - i128::from(zero.0),
            format!("seen: {}", decision::observation(seen)),
        ));
    }
    for entry in incident.entries.iter().copied().chain(incident.ended) {
        // Within the boot the monotonic clock is right even where the wall clock jumped.
        let wall = |mono: u64| {
            if entry.boot_id == *boot {
                zero_wall + i128::from(mono) - i128::from(zero.0)
            } else {
                i128::from(entry.wall_ns)
            }
        };
        let at = match entry.record() {
            Some(Record::Outcome(outcome)) => outcome.at.0,
            Some(Record::Control(control)) => control.at.0,
            _ => entry.mono_ns,
        };
        let text = match entry.record() {
            Some(Record::Decision { decision, .. }) => {
                let would = if decision.mode == Mode::Observe { "would " } else { "" };
                let why = if decision.id == incident.opened_by().decision.id {
                    String::new()
                } else {
                    format!(" because {}", decision::because(decision))
                };
                format!("decided #{}: {would}{}{why}", decision.id.n, decision::actions(&decision.actions))
            }
            _ => event::summary(entry),
        };
        rows.push((wall(at), text));
    }
    // Outcomes are written when they come in; what they report was earlier.
    rows.sort_by_key(|(wall, _)| *wall);
    let line = |(wall, text): &(i128, String)| {
        format!("  {}  {:>12}  {text}\n", time::exact(*wall, zone), time::delta(wall - zero_wall))
    };
    rows.iter().map(line).collect()
}

pub(super) fn done(incident: &Incident<'_>, paint: Paint) -> String {
    let mut out = String::new();
    for Decided { decision, outcomes, evidence, .. } in &incident.decisions {
        let _ = writeln!(out, "  decision #{}: {}", decision.id.n, decision::actions(&decision.actions));
        for action in &decision.actions {
            let mine: Vec<&Outcome> = outcomes.iter().map(|(_, o)| *o).filter(|o| o.action == *action).collect();
            if mine.is_empty() {
                let text = match (decision.mode, action) {
                    (Mode::Observe, _) => paint.dim("not carried out: it was only observed"),
                    (Mode::Enforce, Action::Snapshot) if evidence.is_some() => "kept: see the evidence".to_owned(),
                    (Mode::Enforce, Action::Notify | Action::Snapshot) => paint.dim("no outcome recorded"),
                    (Mode::Enforce, _) => {
                        paint.bad("no outcome in the log: it is unknown whether the action was completed")
                    }
                };
                let _ = writeln!(out, "    {:<10} {text}", action.to_string());
            }
            for outcome in mine {
                let (verdict, label, missing) = match &outcome.verdict {
                    Verdict::Proved => (paint.good("proved"), "", Vec::new()),
                    Verdict::Partial(missing) => (paint.bad("PARTIAL"), "not proved", missing.iter().collect()),
                    Verdict::Failed(why) => (paint.bad("FAILED"), "because", vec![why]),
                };
                let _ = writeln!(out, "    {:<10} {verdict} {} after its cause", action.to_string(), outcome.took);
                for text in missing {
                    let _ = writeln!(out, "      {label}: {text}");
                }
                for proof in &outcome.proofs {
                    let _ = writeln!(out, "      read back: {}: {}", proof.fact, proof.seen);
                }
            }
        }
    }
    out
}

pub(super) fn leaks(incident: &Incident<'_>) -> String {
    let line = |action: Action| move |leak: &&str| format!("  {action}: {leak}\n");
    incident.containments().iter().flat_map(|action| action.known_leaks().iter().map(line(*action))).collect()
}

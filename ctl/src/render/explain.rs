//! The page of an incident: what happened, when, on which condition and why that rule exists, what was done and what of it
//! is proved, the evidence, what was not reached, what to do next.

mod evidence;

use super::{Paint, event, fill, table, time};
use crate::incident::{Decided, Incident, Standing};
use failsafe_core::{
    decision::{Action, Cause, Confidence, Mode, Outcome, Severity, Verdict},
    record::Record,
    subject::Subject,
};
use jiff::tz::TimeZone;
use std::fmt::Write;

/// The width of paragraphs.
const WIDTH: usize = 100;

/// The page.
pub fn page(incident: &Incident<'_>, zone: &TimeZone, paint: Paint) -> String {
    let mut out = String::new();
    let headline = headline(incident);
    let _ = writeln!(out, "{}", paint.head(&format!("Incident {}", incident.id)));
    for line in fill(&headline, WIDTH) {
        let _ = writeln!(out, "{line}");
    }
    let _ = writeln!(out, "{}\n", standing(incident, zone, paint));
    out.push_str(&facts(incident, zone));
    let mut section = |title: &str, body: String| {
        if !body.is_empty() {
            let _ = write!(out, "\n{}\n{body}", paint.head(title));
        }
    };
    section("What was seen", saw(incident));
    section("Why this rule exists", why(incident));
    section("What happened, when", timeline(incident, zone));
    section("What was done, and what is proved", done(incident, paint));
    section("Evidence", evidence::of(incident));
    section("What these actions do not reach", leaks(incident));
    section("What to do next", next(incident));
    out
}

/// The first sentence.
pub fn headline(incident: &Incident<'_>) -> String {
    let Decided { decision, rule, .. } = incident.opened_by();
    let run = incident.run_name();
    let acts: Vec<&str> = decision.actions.iter().filter(|a| a.contains()).map(|a| past(*a)).collect();
    let acts = if acts.is_empty() { "reported".to_owned() } else { acts.join(" and ") };
    let was = match (&incident.standing, decision.mode) {
        (_, Mode::Observe) => "would have been",
        (Standing::Pending(_) | Standing::Failed(_), _) => "was to be",
        _ => "was",
    };
    match &decision.cause {
        Cause::Rule { rule: id, .. } => {
            let policy = rule.map(|r| format!(" of policy {}", r.policy)).unwrap_or_default();
            format!("Run {run} {was} {acts}, because rule {id}{policy} tripped.")
        }
        Cause::Operator { uid, role, reason, .. } => match decision.actions.first() {
            Some(Action::Thaw) => format!("User {uid} ({role}) thawed run {run}: {reason}."),
            _ => format!("Run {run} {was} {acts} by user {uid} ({role}): {reason}."),
        },
        Cause::Upkeep { what } => format!("Run {run} {was} {acts} by failsafed itself: {}.", event::upkeep(*what)),
    }
}

fn past(action: Action) -> &'static str {
    match action {
        Action::CordonGpu => "had its GPU cordoned",
        Action::CordonNode => "had the node cordoned",
        Action::Notify => "reported",
        Action::Snapshot => "recorded",
        Action::Block => "cut off from the network",
        Action::Freeze => "frozen",
        Action::Kill => "killed",
        Action::Thaw => "thawed",
        Action::Recapture { .. } => "made whole again (the process was moved back)",
    }
}

fn standing(incident: &Incident<'_>, zone: &TimeZone, paint: Paint) -> String {
    let text = match &incident.standing {
        Standing::Noted if incident.opened_by().decision.mode == Mode::Observe => {
            paint.warn("Nothing was done: the rule only observes.")
        }
        Standing::Noted => paint.warn("Nothing was contained: people were told."),
        Standing::Pending(actions) => {
            paint.bad(&format!("NOT KNOWN: the log has no outcome of {} yet.", event::actions(actions)))
        }
        Standing::Contained(actions) => paint.good(&format!("Proved, and it stands: {}.", event::actions(actions))),
        Standing::Partial(missing) => paint.bad(&format!("PARTIAL, not proved: {}.", missing.join("; "))),
        Standing::Failed(why) => paint.bad(&format!("FAILED: {}.", why.join("; "))),
        Standing::Thawed => paint.good("Thawed, and proved so."),
    };
    match incident.ended {
        Some(ended) => format!("{text} The run ended at {}.", time::wall(i128::from(ended.wall_ns), zone)),
        None => text,
    }
}

fn facts(incident: &Incident<'_>, zone: &TimeZone) -> String {
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
            ("user", run.map(|r| r.owner_uid.to_string()).unwrap_or_default()),
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

fn saw(incident: &Incident<'_>) -> String {
    let decision = incident.opened_by().decision;
    let mut out = String::new();
    for seen in &decision.values {
        let _ = writeln!(out, "  {}", event::seen(seen));
        if let Subject::Process { process, .. } = &seen.subject {
            let _ = writeln!(
                out,
                "    pid {} ({}), parent {}, user {}",
                process.pid, process.comm, process.ppid, process.uid
            );
        }
    }
    if let Cause::Rule { suppressed, .. } = &decision.cause
        && *suppressed > 0
    {
        let _ = writeln!(out, "  the same happened {suppressed} times before, within the rule's cooldown");
    }
    if let Cause::Operator { uid, pid, role, reason } = &decision.cause {
        let _ = writeln!(out, "  user {uid}, by pid {pid}, allowed as {role}, gave the reason: {reason}");
    }
    out
}

fn why(incident: &Incident<'_>) -> String {
    let Some(rule) = incident.opened_by().rule else { return String::new() };
    let mut out: String = fill(&rule.rationale, WIDTH - 2).iter().map(|line| format!("  {line}\n")).collect();
    let _ = writeln!(out, "  Its owner is {}.", rule.owner);
    out
}

fn timeline(incident: &Incident<'_>, zone: &TimeZone) -> String {
    let (zero, zero_wall) = incident.zero();
    let boot = &incident.opened_by().entry.boot_id;
    let mut rows: Vec<(i128, String)> = Vec::new();
    for seen in &incident.opened_by().decision.values {
        rows.push((zero_wall + i128::from(seen.at.0) - i128::from(zero.0), format!("seen: {}", event::seen(seen))));
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
                    format!(" because {}", event::because(decision))
                };
                format!("decided #{}: {would}{}{why}", decision.id.n, event::actions(&decision.actions))
            }
            _ => event::summary(entry),
        };
        rows.push((wall(at), text));
    }
    // Outcomes are written when they come in; what they tell of was earlier.
    rows.sort_by_key(|(wall, _)| *wall);
    let line = |(wall, text): &(i128, String)| {
        format!("  {}  {:>12}  {text}\n", time::exact(*wall, zone), time::delta(wall - zero_wall))
    };
    rows.iter().map(line).collect()
}

fn done(incident: &Incident<'_>, paint: Paint) -> String {
    let mut out = String::new();
    for Decided { decision, outcomes, evidence, .. } in &incident.decisions {
        let _ = writeln!(out, "  decision #{}: {}", decision.id.n, event::actions(&decision.actions));
        for action in &decision.actions {
            let mine: Vec<&Outcome> = outcomes.iter().map(|(_, o)| *o).filter(|o| o.action == *action).collect();
            if mine.is_empty() {
                let text = match (decision.mode, action) {
                    (Mode::Observe, _) => paint.dim("not carried out: the rule only observes"),
                    (Mode::Enforce, Action::Snapshot) if evidence.is_some() => "kept: see the evidence".to_owned(),
                    (Mode::Enforce, Action::Notify | Action::Snapshot) => paint.dim("no outcome recorded"),
                    (Mode::Enforce, _) => paint.bad("no outcome recorded: how far it got is not known"),
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

fn leaks(incident: &Incident<'_>) -> String {
    let line = |action: Action| move |leak: &&str| format!("  {action}: {leak}\n");
    incident.containments().iter().flat_map(|action| action.known_leaks().iter().map(line(*action))).collect()
}

fn next(incident: &Incident<'_>) -> String {
    let run = &incident.run_id;
    let mut lines: Vec<(String, &str)> = Vec::new();
    let playbook = incident.opened_by().rule.and_then(|rule| rule.playbook.clone());
    if let Some(playbook) = playbook {
        lines.push((playbook, "the rule's playbook"));
    }
    let live = incident.ended.is_none();
    let contained = !matches!(incident.standing, Standing::Noted | Standing::Thawed);
    if live {
        lines.push((format!("failsafectl describe {run}"), "how the run stands now"));
    }
    if live && matches!(incident.standing, Standing::Partial(_) | Standing::Failed(_) | Standing::Pending(_)) {
        lines.push((format!("failsafectl freeze {run} --reason TEXT"), "try again what is not proved"));
    }
    if live && contained {
        lines.push((format!("failsafectl thaw {run} --reason TEXT"), "let it go on, and lift the block"));
        lines.push((format!("failsafectl kill {run} --reason TEXT"), "end it"));
    }
    lines.push((format!("failsafectl replay {run}"), "the same inputs give the same decisions"));
    lines.push((format!("failsafectl replay {run} --policy FILE"), "what another policy would have decided"));
    lines.push((format!("failsafectl events --incident {}", incident.id), "every entry about it"));
    lines.push(("failsafectl log verify".to_owned(), "nobody changed the log"));
    let width = lines.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
    lines.iter().map(|(left, right)| format!("  {left:width$}  {right}\n")).collect()
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

#[cfg(test)]
mod tests;

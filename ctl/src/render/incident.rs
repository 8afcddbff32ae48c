//! Incidents as the daemon has them in memory: the list, one of them, and a change of one.

use super::{Paint, actors, clean, json, table, time, users};
use crate::text::short;
use failsafe_proto::v1 as pb;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The table of `incident list`.
pub fn list(incidents: &[pb::Incident], zone: &TimeZone) -> String {
    let rows = incidents.iter().map(|incident| {
        [
            incident.id.clone(),
            began(incident, zone),
            run(incident),
            state(incident.state()).to_owned(),
            standing(incident),
            severity(incident.severity()).to_owned(),
            cause(incident),
        ]
    });
    table::table(["INCIDENT", "BEGAN", "RUN", "STATE", "STANDING", "SEVERITY", "CAUSE"], rows)
}

/// The list for programs.
pub fn list_json(incidents: &[pb::Incident], revision: u64, incomplete: &BTreeSet<String>) -> Value {
    json!({
        "incidents": incidents.iter().map(json).collect::<Vec<_>>(),
        "revision": revision,
        "incomplete": incomplete,
    })
}

/// The page of `incident show`.
pub fn page(incident: &pb::Incident, zone: &TimeZone, paint: Paint) -> String {
    let closed = if incident.closed_ns == 0 { String::new() } else { wall(incident.closed_ns, zone) };
    let owner = incident.owner_uid.map(users::shown).unwrap_or_default();
    let labels: std::collections::BTreeMap<_, _> = incident.labels.iter().collect();
    let labels: Vec<String> = labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let detail = incident.standing_detail.join("; ");
    let mut out = format!("{}\n", paint.head(&format!("Incident {} of run {}", clean(&incident.id), run(incident))));
    out += &table::pairs(
        "  ",
        [
            ("state", state(incident.state()).to_owned()),
            (
                "standing",
                if detail.is_empty() { standing(incident) } else { format!("{}: {detail}", standing(incident)) },
            ),
            ("severity", severity(incident.severity()).to_owned()),
            ("cause", cause(incident)),
            ("seen", incident.values.join("; ")),
            ("why", incident.rationale.clone()),
            ("contact", incident.contact.clone()),
            ("playbook", incident.playbook.clone()),
            ("run", incident.run_id.clone()),
            ("owner", owner),
            ("labels", labels.join(",")),
            ("policy", format!("{} {}", incident.policy_name, incident.policy_digest).trim().to_owned()),
            ("began", began(incident, zone)),
            ("closed", closed),
            (if incident.beginning_unknown { "first entry read" } else { "log entry" }, incident.entry.to_string()),
            ("drill", if incident.drill { "yes: the run was stopped on purpose".to_owned() } else { String::new() }),
        ],
    );
    if incident.beginning_unknown {
        out += "The beginning is not in the memory of the daemon: see `failsafectl explain`\n";
    }
    if incident.entries_limited {
        out += "Entries about the run are missing in the audit log (log-limited): the state may be out of date\n";
    }
    if incident.steps_left_out > 0 {
        out += &format!("{} earlier actions are left out: see `failsafectl explain`\n", incident.steps_left_out);
    }
    out += &table::table(
        ["DECISION", "ACTION", "DESIRED", "RESULT", "BY", "ENTRY", "PROOF"],
        incident.steps.iter().map(|step| {
            let proof: Vec<&str> = step.missing.iter().chain(&step.proofs).map(String::as_str).collect();
            [
                step.decision.to_string(),
                step.action.clone(),
                if step.desired { "yes" } else { "no" }.to_owned(),
                result(step).to_owned(),
                asked(step),
                step.result_entry.unwrap_or(step.entry).to_string(),
                proof.join("; "),
            ]
        }),
    );
    out + &format!("next: {}\n", clean(&incident.next_command))
}

/// A line of `incident watch`.
pub fn change(change: &pb::WatchIncidentsResponse, follow: bool, (zone, paint): (&TimeZone, Paint)) -> String {
    let revision = change.revision;
    let Some(incident) = &change.incident else {
        return at((revision, change.missed), follow, "incident list", paint);
    };
    let when = paint.dim(&wall(incident.changed_ns, zone));
    let (id, run, standing) = (clean(&incident.id), run(incident), standing(incident));
    let cause = clean(&cause(incident));
    format!("{when}  {id}  {run}  {}  {standing}  {cause}\n", state(incident.state()))
}

/// A line about no subject: the state is complete up to a revision, or changes before it were missed. `follow`: the watch goes on.
pub fn at((revision, missed): (u64, bool), follow: bool, list: &str, paint: Paint) -> String {
    let revision = match follow {
        true => format!("watching from revision {revision}"),
        false => format!("complete up to revision {revision}"),
    };
    if missed {
        let why = "earlier changes are no longer available";
        return format!("{}\n", paint.warn(&format!("{why}: see `failsafectl {list}`; {revision}")));
    }
    format!("{}\n", paint.dim(&revision))
}

/// An incident for programs.
pub fn json(incident: &pb::Incident) -> Value {
    let step = |step: &pb::IncidentStep| {
        json!({
            "decision": step.decision,
            "action": step.action,
            "mode": mode(step.mode()),
            "desired": step.desired,
            "verdict": result(step),
            "missing": step.missing,
            "proofs": step.proofs,
            "actor": step.actor.as_ref().and_then(actors::of_message),
            "role": step.role,
            "reason": step.reason,
            "decided_ns": step.decided_ns,
            "result_ns": step.result_ns,
            "entry": step.entry,
            "result_entry": step.result_entry,
        })
    };
    json!({
        "incident": incident.id,
        "revision": incident.revision,
        "state": state(incident.state()),
        "standing": incident.standing,
        "standing_detail": incident.standing_detail,
        "run_id": incident.run_id,
        "run_name": incident.run_name,
        "owner_uid": incident.owner_uid,
        "labels": incident.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "policy_digest": incident.policy_digest,
        "policy_name": incident.policy_name,
        "rule": incident.rule,
        "condition": incident.condition,
        "values": incident.values,
        "rationale": incident.rationale,
        "contact": incident.contact,
        "playbook": incident.playbook,
        "severity": severity(incident.severity()),
        "mode": mode(incident.mode()),
        "actor": incident.actor.as_ref().and_then(actors::of_message),
        "decisions": incident.decisions,
        "steps": incident.steps.iter().map(step).collect::<Vec<_>>(),
        "steps_left_out": incident.steps_left_out,
        "opened_ns": incident.opened_ns,
        "closed_ns": incident.closed_ns,
        "changed_ns": incident.changed_ns,
        "entry": incident.entry,
        "next_command": incident.next_command,
        "drill": incident.drill,
        "beginning_unknown": incident.beginning_unknown,
        "entries_limited": incident.entries_limited,
    })
}

/// A change of one for programs.
pub fn change_json(change: &pb::WatchIncidentsResponse) -> Value {
    json!({
        "revision": change.revision,
        "missed": change.missed,
        "incomplete": change.incomplete,
        "log_problem": (!change.log_problem.is_empty()).then_some(&change.log_problem),
        "incident": change.incident.as_ref().map(json),
    })
}

fn wall(ns: i64, zone: &TimeZone) -> String {
    time::wall(i128::from(ns), zone)
}

/// When it began; empty where that is not known.
fn began(incident: &pb::Incident, zone: &TimeZone) -> String {
    if incident.beginning_unknown { String::new() } else { wall(incident.opened_ns, zone) }
}

fn run(incident: &pb::Incident) -> String {
    if incident.run_name.is_empty() { short(&incident.run_id) } else { clean(&incident.run_name) }
}

fn cause(incident: &pb::Incident) -> String {
    if incident.beginning_unknown {
        "not known: it began before the entries in memory".to_owned()
    } else if incident.rule.is_empty() {
        incident.condition.clone()
    } else {
        format!("rule {}: {}", incident.rule, incident.condition)
    }
}

fn standing(incident: &pb::Incident) -> String {
    let standing = standing_word(incident);
    if incident.entries_limited { format!("{standing} (log-limited)") } else { standing }
}

fn standing_word(incident: &pb::Incident) -> String {
    match (incident.standing.as_str(), incident.mode()) {
        ("noted", pb::NodeMode::Observe) => "observed".to_owned(),
        ("pending" | "partial" | "failed", _) => incident.standing.to_uppercase(),
        (standing, _) => clean(standing),
    }
}

fn asked(step: &pb::IncidentStep) -> String {
    let Some(actor) = step.actor.as_ref().and_then(actors::of_message) else { return String::new() };
    if step.role.is_empty() { actors::named(&actor) } else { actors::with_pid(&actor, &step.role) }
}

/// The word for what came of an action; empty where it was not carried out.
fn result(step: &pb::IncidentStep) -> &'static str {
    match step.verdict() {
        pb::Verdict::Unspecified => "",
        verdict => json::verdict(verdict),
    }
}

fn state(state: pb::IncidentState) -> &'static str {
    match state {
        pb::IncidentState::Unspecified => "unknown",
        pb::IncidentState::Open => "open",
        pb::IncidentState::Closed => "closed",
    }
}

fn severity(severity: pb::IncidentSeverity) -> &'static str {
    match severity {
        pb::IncidentSeverity::Unspecified => "unknown",
        pb::IncidentSeverity::Info => "info",
        pb::IncidentSeverity::Warning => "warning",
        pb::IncidentSeverity::Critical => "critical",
    }
}

fn mode(mode: pb::NodeMode) -> &'static str {
    match mode {
        pb::NodeMode::Unspecified => "unknown",
        pb::NodeMode::Enforce => "enforce",
        pb::NodeMode::Observe => "observe",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident() -> pb::Incident {
        pb::Incident {
            id: "inc-5f0c9a1b2c3d-1".into(),
            revision: 8,
            state: pb::IncidentState::Open as i32,
            standing: "contained".into(),
            standing_detail: vec!["freeze".into()],
            run_id: "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".into(),
            run_name: "trainer".into(),
            owner_uid: Some(4_000_000_000),
            rule: "loss".into(),
            condition: "metric.loss > 4".into(),
            values: vec!["metric.loss: 5\u{1b}[2J".into()],
            severity: pb::IncidentSeverity::Critical as i32,
            mode: pb::NodeMode::Enforce as i32,
            steps: vec![pb::IncidentStep {
                decision: 1,
                action: "freeze".into(),
                desired: true,
                verdict: pb::Verdict::Proved as i32,
                proofs: vec!["cgroup.events: frozen 1".into()],
                actor: Some(pb::Actor { actor: Some(pb::actor::Actor::Daemon(pb::Daemon {})) }),
                entry: 7,
                result_entry: Some(8),
                ..Default::default()
            }],
            opened_ns: 1_795_469_696_123_456_789,
            entry: 7,
            next_command: "failsafectl explain inc-5f0c9a1b2c3d-1".into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_page_shows_cause_steps_and_proofs_and_no_control_characters() {
        let page = page(&incident(), &TimeZone::UTC, Paint::plain());
        for part in [
            "Incident inc-5f0c9a1b2c3d-1 of run trainer",
            "contained: freeze",
            "rule loss: metric.loss > 4",
            "freeze  yes      proved  failsafed  8      cgroup.events: frozen 1",
            "next: failsafectl explain inc-5f0c9a1b2c3d-1",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains('\u{1b}'), "{page}");
    }

    #[test]
    fn an_incident_with_an_unknown_beginning_or_limited_entries_shows_that() {
        let incident = pb::Incident {
            rule: String::new(),
            condition: String::new(),
            opened_ns: 0,
            beginning_unknown: true,
            entries_limited: true,
            ..incident()
        };
        let page = page(&incident, &TimeZone::UTC, Paint::plain());
        let list = list(std::slice::from_ref(&incident), &TimeZone::UTC);
        for text in [&page, &list] {
            assert!(text.contains("not known: it began before the entries in memory"), "{text}");
            assert!(text.contains("contained (log-limited)") && !text.contains("1970"), "{text}");
        }
        assert!(page.contains("the state may be out of date"), "{page}");
        let value = json(&incident);
        assert!(value["beginning_unknown"] == true && value["entries_limited"] == true);
    }

    #[test]
    fn the_list_for_programs_has_its_revision_and_why_it_may_lack_incidents() {
        let why = BTreeSet::from(["some incidents are in the audit log only".to_owned()]);
        let value = list_json(&[incident()], 8, &why);
        assert_eq!(value["incidents"][0]["incident"], "inc-5f0c9a1b2c3d-1");
        assert_eq!((&value["revision"], &value["incomplete"][0]), (&8.into(), &why.first().unwrap().as_str().into()));
    }

    #[test]
    fn a_change_is_one_line_and_a_missed_one_names_the_next_command() {
        let line = |change: &pb::WatchIncidentsResponse| super::change(change, true, (&TimeZone::UTC, Paint::plain()));
        let changed = pb::WatchIncidentsResponse { revision: 8, incident: Some(incident()), ..Default::default() };
        assert!(line(&changed).ends_with("inc-5f0c9a1b2c3d-1  trainer  open  contained  rule loss: metric.loss > 4\n"));
        let missed = pb::WatchIncidentsResponse { revision: 8, missed: true, ..Default::default() };
        assert_eq!(
            line(&missed),
            "earlier changes are no longer available: see `failsafectl incident list`; watching from revision 8\n"
        );
    }
}

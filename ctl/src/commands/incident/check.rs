//! What a file proves. Every check adds to the findings; a contradiction in one part does not hide those of others.

mod log;
mod policy;
mod replay;
mod statement;

pub(super) use statement::{digest_of, nonce as statement_nonce, stated};

use super::{super::log::keys::Known, parts::Parts};
use crate::{
    bundle::Name,
    entry::Logged,
    incident::Incident,
    render::{
        bundle::{Findings, Key},
        count,
    },
};
use failsafe_attest::key::SOFTWARE_KEY;
use failsafe_core::{
    decision::{Action, IncidentId, Mode, Verdict},
    record::Record,
};
use std::collections::BTreeSet;

/// What was found, with the entries that are in order.
pub(super) struct Checked {
    pub findings: Findings,
    pub incident: Option<IncidentId>,
    pub entries: Vec<Logged>,
}

/// Checks all parts. Without `keys`, signatures are verified with the keys that the file names.
pub(super) fn all(parts: &Parts, keys: Option<&Known>) -> Checked {
    let mut findings = Findings::default();
    let id = parts.manifest.incident.parse::<IncidentId>().ok();
    let mut checked = Checked { findings: Findings::default(), incident: id, entries: Vec::new() };
    let Some(id) = id else {
        findings.problem(format!("manifest.json names no incident: `{}`", parts.manifest.incident));
        return Checked { findings, ..checked };
    };
    let own = match keys {
        Some(_) => None,
        None => match parts.get(Name::Keys).map(|text| Known::parse(text, false)) {
            Some(Ok(keys)) => Some(keys),
            Some(Err(why)) => {
                findings.problem(format!("{}: {why}", Name::Keys));
                None
            }
            None => None,
        },
    };
    let is_allowed = keys.is_some();
    let keys = keys.or(own.as_ref());
    checked.entries = log::check(parts, id, keys, is_allowed, &mut findings);
    match Incident::gather(id, &checked.entries) {
        Some(incident) => of_incident(parts, &incident, keys, &checked.entries, &mut findings),
        None if findings.problems.is_empty() => {
            findings.problem(format!("there is no decision of incident {id} in it"));
        }
        None => {}
    }
    always(&mut findings);
    Checked { findings, ..checked }
}

fn of_incident(
    parts: &Parts,
    incident: &Incident<'_>,
    keys: Option<&Known>,
    entries: &[Logged],
    findings: &mut Findings,
) {
    policy::check(parts, incident, findings);
    replay::check(parts, incident, entries, findings);
    evidence(incident, findings);
    statement::check(parts, incident, keys, entries, findings);
}

/// Snapshots are entries of the log.
fn evidence(incident: &Incident<'_>, findings: &mut Findings) {
    let taken = incident.decisions.iter().filter_map(|decided| decided.evidence);
    let (proved, unproved): (Vec<_>, Vec<_>) = taken.partition(|(entry, _)| !findings.unproved.contains(&entry.index));
    let (taken, unproved) = (proved.len(), unproved.len());
    if unproved > 0 {
        findings.lacks("evidence", format!("{} in entries without a proof", count(unproved, "snapshot", "snapshots")));
    }
    if taken > 0 {
        let many = count(taken, "snapshot of the run's processes", "snapshots of the run's processes");
        findings.proved.push(("evidence", format!("{many}, as the log has it")));
    }
    for decided in &incident.decisions {
        let is_enforced = decided.decision.mode == Mode::Enforce;
        let is_taken =
            |action: &Action, verdict: &Verdict| *action == Action::Snapshot && !matches!(verdict, Verdict::Failed(_));
        let was_taken = decided.outcomes.iter().any(|(_, outcome)| is_taken(&outcome.action, &outcome.verdict));
        if is_enforced && was_taken && decided.evidence.is_none() {
            let n = decided.decision.id.n;
            findings
                .lacks("evidence", format!("the snapshot of decision {n} was taken, but its entry is not in the file"));
        }
    }
}

/// What no file proves.
fn always(findings: &mut Findings) {
    findings
        .not_proved
        .push(("key", format!("it is a {SOFTWARE_KEY}: root of the node can copy it, and sign anything with it")));
    findings.not_proved.push(("truth", "the log shows that the daemon wrote this, not that it is true".to_owned()));
    findings.not_proved.push(("later", "what happened after the last entry in the file".to_owned()));
}

/// The recordings that the decisions and outcomes of an incident are in, by the entries about the run.
pub(super) fn recordings_of(incident: &Incident<'_>, entries: &[Logged]) -> BTreeSet<u32> {
    let of_incident: BTreeSet<u64> = incident.entries.iter().map(|entry| entry.index).collect();
    let mut current = None;
    let mut numbers = BTreeSet::new();
    for entry in entries {
        match entry.record() {
            Some(Record::RunStarted { .. }) => current = Some(0),
            Some(Record::RunAdopted { part, .. }) => current = Some(*part),
            _ => {}
        }
        if of_incident.contains(&entry.index) {
            numbers.extend(current);
        }
    }
    numbers
}

/// Whether an entry belongs into the file of an incident: it is of the incident, of the beginning and end of its run, or about a
/// stored statement of the incident or the end.
pub(super) fn belongs(entry: &Logged, incident: &Incident<'_>) -> bool {
    let is_of_run = entry.run.as_deref() == Some(incident.run_id.as_str());
    let is_about_run = is_of_run
        && match entry.record() {
            Some(Record::Statement { .. }) => stated(entry, incident).is_some(),
            Some(Record::Limited(_)) => true,
            Some(record) => record.kind() == "run",
            None => entry.kind == "run",
        };
    is_about_run || incident.entries.iter().any(|of| of.index == entry.index)
}

fn key(keys: &Known, key: &failsafe_tlog::VerifierKey, is_allowed: bool) -> Key {
    let about = keys.about(key);
    Key { id: about.id, comment: if is_allowed { about.comment } else { String::new() }, is_allowed }
}

/// A key in a sentence.
fn named(key: &Key) -> String {
    match key.comment.as_str() {
        "" => format!("key {}", key.id),
        comment => format!("key {} `{comment}`", key.id),
    }
}

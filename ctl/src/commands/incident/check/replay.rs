//! The recordings: whether they are those that the log names, and whether their inputs lead to the decisions in the log.

use super::{Findings, Incident, Logged, Name, Parts, Record, recordings_of};
use crate::{
    commands::replay::{
        audit::{Audit, Facts, Given},
        compare::Report,
        found::{Found, Lost, Section, Source},
        judge_found,
    },
    exit::{Exit, Fail},
    render::count,
};
use failsafe_core::{
    decision::{Decision, Outcome},
    replay::ENGINE,
};
use std::collections::BTreeSet;

/// Decisions without cover that are named.
const SHOWN: usize = 5;

pub(super) fn check(parts: &Parts, incident: &Incident<'_>, entries: &[Logged], findings: &mut Findings) {
    let needed = recordings_of(incident, entries);
    let there: BTreeSet<u32> = parts.recordings().map(|(number, _)| number).collect();
    for number in needed.difference(&there) {
        let name = Name::Recording(*number).to_string();
        let why = parts.why_missing(&name).unwrap_or("no reason is given");
        findings.lacks("recording", format!("{name} is not in the file: {why}"));
    }
    if there.is_empty() {
        findings.lacks("replay", "without a recording, the decision cannot be replayed");
        return;
    }
    let source = |(number, section): (u32, &Section)| Source {
        name: Name::Recording(number).to_string(),
        number: Some(number),
        bytes: section.clone(),
    };
    let found = Found { sources: parts.recordings().map(source).collect(), lost: Vec::new(), all: true };
    let (mut outcomes, mut compared) = (Vec::new(), 0);
    let report = judge_found(found, None, |given| {
        (compared, outcomes) = without_entry(given, incident, entries);
        against(given, incident, entries)
    });
    match report {
        Ok(report) => {
            findings.replay = Some(report.json());
            page(&report, incident, compared, findings);
        }
        Err(fail) if fail.exit == Exit::Tampered => findings.problem(fail.message.replace('\n', ": ")),
        Err(fail) => findings.lacks("replay", fail.message.replace('\n', ": ")),
    }
    for outcome in outcomes {
        findings.problem(outcome);
    }
}

/// Compares the decisions of the incident: entries of others are not in the file.
fn against(given: &Given<'_>, incident: &Incident<'_>, entries: &[Logged]) -> Result<Audit, Fail> {
    let of_incident = |facts: &Facts<'_>| -> Vec<Decision> {
        facts.decisions.iter().filter(|decision| decision.incident == incident.id).cloned().collect()
    };
    let decisions: Vec<Vec<Decision>> = given.recordings.iter().map(of_incident).collect();
    let recordings = given.recordings.iter().zip(&decisions);
    let recordings = recordings.map(|(facts, decisions)| Facts { decisions, ..facts.clone() }).collect();
    Audit::of(&Given { recordings, lost: given.lost, latest: false }, entries)
}

/// How many outcomes of the incident are in the recordings, and those of them that no entry has.
fn without_entry(given: &Given<'_>, incident: &Incident<'_>, entries: &[Logged]) -> (usize, Vec<String>) {
    // What was not written because a budget was spent is counted by an entry.
    let limited = entries.iter().filter_map(|entry| match entry.record() {
        Some(Record::Limited(limited)) => limited.kinds.get("outcome"),
        _ => None,
    });
    if limited.sum::<u64>() > 0 {
        return (0, Vec::new());
    }
    let logged: Vec<&Outcome> =
        incident.decisions.iter().flat_map(|decided| &decided.outcomes).map(|(_, outcome)| *outcome).collect();
    let recorded = given.recordings.iter().flat_map(|facts| facts.outcomes);
    let recorded: Vec<&Outcome> = recorded.filter(|outcome| outcome.incident == incident.id).collect();
    let same = |a: &Outcome, b: &Outcome| (a.decision, a.action, a.at) == (b.decision, b.action, b.at);
    let missing = recorded.iter().filter(|outcome| !logged.iter().any(|logged| same(logged, outcome)));
    let missing = missing.map(|outcome| {
        format!(
            "the recording has an outcome of {} of decision {}, but no entry in the file has it: an entry was removed",
            outcome.action, outcome.decision.n
        )
    });
    (recorded.len(), missing.collect())
}

fn page(report: &Report, incident: &Incident<'_>, outcomes: usize, findings: &mut Findings) {
    let summary = report.summary();
    let names = summary.names.join(", ");
    for problem in summary.problems {
        findings.problem(problem.clone());
    }
    for Lost { name, why, exit, .. } in summary.lost {
        match exit {
            // It is among the problems.
            Exit::Tampered => {}
            _ => findings.lacks("recording", format!("{name}: {why}")),
        }
    }
    if let Some(why) = summary.skipped {
        findings.lacks("recording", format!("{names}: nothing binds it to the log: {why}"));
    } else if summary.problems.is_empty() && summary.sealed {
        findings.proved.push(("recording", format!("{names}: the log has its hash")));
    } else if summary.problems.is_empty() {
        let notes = summary.notes.join("; ");
        findings.not_proved.push((
            "recording",
            format!(
                "{names}: the log has no hash of it ({notes}). Its inputs are bound to the log by what the decisions \
                 name of them only; export again after the end of the run"
            ),
        ));
    }
    if !summary.complete {
        findings.lacks("recording", format!("{names}: a recording is cut off"));
    }
    for text in summary.not_covered.iter().take(SHOWN) {
        findings.lacks("replay", format!("not covered: {text}"));
    }
    let inputs = summary.inputs;
    if summary.differs {
        let text = format!(
            "{} of the run, decided again from {inputs} recorded inputs by engine {ENGINE}: NOT THE SAME DECISIONS. {}",
            count(summary.decisions, "decision", "decisions"),
            summary.engine
        );
        match summary.explained || summary.sealed {
            true => findings.lacks("replay", text),
            // The log has no hash of the inputs, so they may be others.
            false => findings.problem(format!("the recorded inputs do not lead to the decisions in the log: {text}")),
        }
        return;
    }
    if summary.problems.is_empty() && summary.whole {
        let text = format!(
            "{}, decided again from {inputs} recorded inputs of the run by engine {ENGINE}: the same as in the log",
            count(incident.decisions.len(), "decision", "decisions")
        );
        findings.proved.push(("replay", text));
        if outcomes > 0 {
            let text = format!("{} in the recording: the log has each", count(outcomes, "outcome", "outcomes"));
            findings.proved.push(("outcomes", text));
        }
    }
}

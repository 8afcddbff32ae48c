//! The recordings: whether they are those that the log names, and whether their inputs lead to the decisions in the log.

use super::{Findings, Incident, Logged, Name, Parts, Record, recordings_of};
use crate::{
    commands::replay::{
        audit::{Audit, Facts, Given},
        compare::Report,
        found::{Lost, RunRecordings, Section, Source},
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
    let found = RunRecordings { sources: parts.recordings().map(source).collect(), lost: Vec::new(), all: true };
    let mut outcomes = Outcomes::NotCompared;
    let report = judge_found(found, None, |given| {
        outcomes = Outcomes::of(given, incident, entries);
        against(given, incident, entries)
    });
    match report {
        Ok(report) => {
            findings.replay = Some(report.json());
            page(&report, incident, outcomes, entries, findings);
        }
        Err(fail) if fail.exit == Exit::Tampered => findings.problem(fail.message.replace('\n', ": ")),
        Err(fail) => findings.lacks("replay", fail.message.replace('\n', ": ")),
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

/// How the outcomes in the recordings compare with the entries.
enum Outcomes {
    /// Some were not written to the log, because a budget was spent.
    NotCompared,
    /// So many are in the recordings, and an entry has each.
    Same(usize),
    /// No entry has these.
    Missing(Vec<String>),
}

impl Outcomes {
    fn of(given: &Given<'_>, incident: &Incident<'_>, entries: &[Logged]) -> Outcomes {
        let limited = entries.iter().filter_map(|entry| match entry.record() {
            Some(Record::Limited(limited)) => limited.kinds.get("outcome"),
            _ => None,
        });
        if limited.sum::<u64>() > 0 {
            return Outcomes::NotCompared;
        }
        let logged = incident.decisions.iter().flat_map(|decided| &decided.outcomes);
        let key = |outcome: &Outcome| (outcome.decision, outcome.action, outcome.at);
        let logged: BTreeSet<_> = logged.map(|(_, outcome)| key(outcome)).collect();
        let recorded = given.recordings.iter().flat_map(|facts| facts.outcomes);
        let recorded: Vec<&Outcome> = recorded.filter(|outcome| outcome.incident == incident.id).collect();
        let missing = recorded.iter().filter(|outcome| !logged.contains(&key(outcome)));
        let missing: Vec<String> = missing
            .map(|Outcome { action, decision, .. }| {
                format!(
                    "the recording has an outcome of {action} of decision {}, but no entry in the file has it: an entry was removed",
                    decision.n
                )
            })
            .collect();
        if missing.is_empty() { Outcomes::Same(recorded.len()) } else { Outcomes::Missing(missing) }
    }
}

fn page(report: &Report, incident: &Incident<'_>, outcomes: Outcomes, entries: &[Logged], findings: &mut Findings) {
    let summary = report.summary();
    let is_proved = |entry: &Logged| !findings.unproved.contains(&entry.index);
    // One of them has the hash of the recording.
    let of_run_proved = entries.iter().filter(|entry| entry.kind == "run").all(is_proved);
    let mut of_outcomes = incident.decisions.iter().flat_map(|decided| &decided.outcomes);
    let outcomes_proved = of_outcomes.all(|(entry, _)| is_proved(entry));
    let sealed = summary.sealed && of_run_proved;
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
        return;
    }
    if summary.problems.is_empty() && summary.sealed && !of_run_proved {
        findings.lacks("recording", format!("{names}: the entries about the run, which have its hash, have no proof"));
    } else if summary.problems.is_empty() && summary.sealed {
        let hash = if summary.names.len() == 1 { "its hash" } else { "the hash of each" };
        findings.proved.push(("recording", format!("{names}: the log has {hash}")));
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
        match summary.explained || sealed {
            true => findings.lacks("replay", text),
            // The log has no hash of the inputs, so they may be others.
            false => findings.problem(format!("the recorded inputs do not lead to the decisions in the log: {text}")),
        }
        return;
    }
    if !summary.problems.is_empty() {
        return;
    }
    let decisions = count(incident.decisions.len(), "decision", "decisions");
    let again = format!("{decisions}, decided again from {inputs} recorded inputs of the run by engine {ENGINE}");
    match summary.whole {
        true => findings.proved.push(("replay", format!("{again}: the same as in the log"))),
        false => findings.lacks("replay", format!("{again}: not all could be compared {}", summary.notes.join("; "))),
    }
    match outcomes {
        Outcomes::NotCompared => {
            let why = "some outcomes of the run are not in the log, because the budget of its user was spent";
            findings.lacks("outcomes", why);
        }
        Outcomes::Same(0) => {}
        Outcomes::Same(n) if outcomes_proved => {
            let n = count(n, "outcome", "outcomes");
            findings.proved.push(("outcomes", format!("{n} in the recording: the log has each")));
        }
        Outcomes::Same(n) => {
            let n = count(n, "outcome", "outcomes");
            findings.lacks("outcomes", format!("{n} in the recording: some of their entries have no proof"));
        }
        Outcomes::Missing(missing) => missing.into_iter().for_each(|text| findings.problem(text)),
    }
}

//! How the recordings of a run compare with what the audit log has of it: the decisions, and the hash that the daemon wrote when
//! it closed each recording.
//!
//! Pure: a recording's facts and entries in, findings out. A *problem* is what no crash and no full disk leaves behind: somebody
//! changed, cut or swapped the recording, or the log. A *note* is what cannot be compared.

use super::found::{self, Lost};
use crate::{
    entry::Logged,
    exit::Fail,
    render::{clean, count, decision},
};
use failsafe_core::{
    RunId,
    decision::{Decision, Outcome},
    input::Run,
    record::{Limited, Record, RecordingSeal},
};
use failsafe_journal::{Entry, RecordingEnd, entry::Hash};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What a recording contains about itself.
#[derive(Clone)]
pub(in crate::commands) struct Facts<'a> {
    /// The name of its file.
    pub name: &'a str,
    /// The run in its header.
    pub run: &'a Run,
    /// Its number, where its version has one.
    pub part: Option<u32>,
    /// How it ends.
    pub end: RecordingEnd,
    /// Frames read.
    pub frames: u64,
    /// Its last hash; `None`: its version has none.
    pub hash: Option<Hash>,
    /// The decisions in it.
    pub decisions: &'a [Decision],
    /// The outcomes in it.
    pub outcomes: &'a [Outcome],
}

/// The recordings that are compared with the log of one run.
pub(in crate::commands) struct Given<'a> {
    /// Those that were read, in order; at least one.
    pub recordings: Vec<Facts<'a>>,
    /// Those that could not be read.
    pub lost: &'a [Lost],
    /// Whether they must include the run's latest: they are the daemon's, of the run as it is now.
    pub latest: bool,
}

impl Given<'_> {
    /// The run.
    pub(super) fn run(&self) -> Option<RunId> {
        self.recordings.first().map(|facts| facts.run.id)
    }

    fn several(&self) -> bool {
        self.recordings.len() + self.lost.len() > 1
    }

    fn last(&self) -> Option<u32> {
        let read = self.recordings.iter().map(|facts| facts.part);
        read.chain(self.lost.iter().map(|lost| lost.number)).flatten().max()
    }
}

/// The result of the comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::commands) struct Audit {
    /// What somebody changed.
    pub problems: Vec<String>,
    /// What cannot be compared.
    pub notes: Vec<String>,
    /// Decisions of the log that are in no recording.
    pub not_covered: Vec<String>,
    /// Decisions that are the same.
    pub same: usize,
    /// Whether the hash is the one in the log; `None`: the log has none.
    pub hash: Option<bool>,
    /// Entries of a recording are missing in it.
    pub missing: bool,
    /// The log has later decisions of the live run: the recording may have them in a moment.
    pub behind: bool,
    /// The log may have more in a moment.
    pub unsettled: bool,
    /// Why nothing was compared.
    pub skipped: Option<String>,
    /// The caller named the log.
    pub named: bool,
}

/// One daemon's time with the run, as the log has it.
struct Part {
    number: Option<u32>,
    run: Run,
    decisions: BTreeMap<u32, (u64, Decision)>,
    /// Decisions that were not written because their user's budget was spent.
    limited: Vec<Limited>,
    seal: Option<RecordingSeal>,
    /// The run's end, or the next daemon.
    over: bool,
}

impl Audit {
    /// Nothing is compared.
    pub(super) fn skipped(why: impl Into<String>) -> Audit {
        Audit { skipped: Some(why.into()), ..Audit::default() }
    }

    /// Compares recordings of one run with the entries of the run, kinds `run` and `decision`, in the order of the log.
    ///
    /// # Errors
    /// An entry is not canonical.
    pub(in crate::commands) fn of(given: &Given<'_>, entries: &[Logged]) -> Result<Audit, Fail> {
        let parts = parts(entries)?;
        if parts.is_empty() {
            let run = given.run().map(|run| run.to_string()).unwrap_or_default();
            return Ok(Audit::skipped(format!("the audit log has no beginning of run {run}")));
        }
        let mut audit = Audit { hash: Some(true), ..Audit::default() };
        let mut covered = BTreeSet::new();
        for facts in &given.recordings {
            let found = match best(facts, &parts) {
                Ok((at, found)) => {
                    covered.insert(at);
                    found
                }
                Err(problem) => Audit { problems: vec![problem], ..Audit::default() },
            };
            audit.add(found, given.several().then_some(facts.name));
        }
        for (_, part) in parts.iter().enumerate().filter(|(at, _)| !covered.contains(at)) {
            let lost = given.lost.iter().find(|lost| lost.number.is_some() && lost.number == part.number);
            audit.without(part, lost);
        }
        if let (true, Some(last), Some(Some(logged))) =
            (given.latest, given.last(), parts.last().map(|part| part.number))
            && last != logged
        {
            audit
                .problems
                .push(format!("the last recording of the run is {last}, but the audit log has recording {logged}"));
        }
        Ok(audit)
    }

    /// Adds what was found about the recording `name`, if there are several.
    fn add(&mut self, of: Audit, name: Option<&str>) {
        let named = |text: String| match name {
            Some(name) => format!("{name}: {text}"),
            None => text,
        };
        self.problems.extend(of.problems.into_iter().map(named));
        self.notes.extend(of.notes.into_iter().map(named));
        self.not_covered.extend(of.not_covered.into_iter().map(named));
        self.same += of.same;
        self.hash = match (self.hash, of.hash) {
            (Some(a), Some(b)) => Some(a && b),
            (Some(false), None) | (None, Some(false)) => Some(false),
            _ => None,
        };
        self.missing |= of.missing;
        self.behind |= of.behind;
        self.unsettled |= of.unsettled;
    }

    /// Adds a part of the log that no recording is compared with.
    fn without(&mut self, part: &Part, lost: Option<&Lost>) {
        let name = part.number.map_or_else(|| "a recording without a number".to_owned(), found::name);
        if lost.is_some_and(|lost| lost.missing) && part.seal.as_ref().is_some_and(|seal| seal.hash.is_some()) {
            self.problems.push(format!("{name} is missing, but the audit log has its hash: somebody removed it"));
        }
        for (n, (index, decision)) in &part.decisions {
            let because = clean(&decision::because(decision));
            self.not_covered.push(format!("{name}: decision {n} because {because} (entry {index} of the audit log)"));
        }
        let summed = part.limited.iter().filter(|limited| limited.last_decision > 0);
        let summed: u64 = summed.filter_map(|limited| limited.kinds.get("decision")).sum();
        if summed > 0 {
            self.not_covered.push(format!("{name}: {summed} decisions that the audit log counts but does not contain"));
        }
    }

    /// One line of the report.
    pub(super) fn text(&self) -> String {
        if let Some(why) = &self.skipped {
            return format!("not compared: {}", clean(why));
        }
        if !self.problems.is_empty() {
            return "DOES NOT MATCH, see below".to_owned();
        }
        let hash = match self.hash {
            Some(_) => ", the same hash",
            None => ", no hash",
        };
        let notes: String = self.notes.iter().map(|note| format!("; {}", clean(note))).collect();
        format!("{} the same{hash}{notes}", count(self.same, "decision", "decisions"))
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "compared": self.skipped.is_none(),
            "skipped": self.skipped,
            "not_covered": self.not_covered,
            "same_decisions": self.same,
            "same_hash": self.hash,
            "problems": self.problems,
            "notes": self.notes,
        })
    }
}

fn parts(entries: &[Logged]) -> Result<Vec<Part>, Fail> {
    let mut parts: Vec<Part> = Vec::new();
    for logged in entries {
        // From the entry's own bytes: what is shown has control characters replaced.
        let entry = Entry::parse(&logged.bytes).map_err(|error| Fail::because("the audit log is damaged", &error))?;
        let Ok(record) = serde_json::from_value::<Record>(entry.body) else { continue };
        let begins = |number: Option<u32>, run: Run| Part {
            number,
            run,
            decisions: BTreeMap::new(),
            limited: Vec::new(),
            seal: None,
            over: false,
        };
        match record {
            Record::RunStarted { run, .. } => parts.push(begins(Some(0), run)),
            Record::RunAdopted { run, part, .. } => {
                if let Some(last) = parts.last_mut() {
                    last.over = true;
                }
                parts.push(begins((part > 0).then_some(part), run));
            }
            Record::Decision { decision, .. } => {
                if let Some(last) = parts.last_mut() {
                    last.decisions.insert(decision.id.n, (entry.index, decision));
                }
            }
            Record::Limited(limited) => {
                if let Some(last) = parts.last_mut() {
                    last.limited.push(limited);
                }
            }
            Record::RunEnded { recording, .. } => {
                if let Some(last) = parts.last_mut() {
                    last.over = true;
                    last.seal = recording.or(last.seal.take());
                }
            }
            Record::RecordingClosed { recording, .. } => {
                if let Some(last) = parts.last_mut() {
                    last.seal = Some(recording);
                }
            }
            _ => {}
        }
    }
    Ok(parts)
}

/// The part of the log that a recording belongs to, and how it compares; otherwise the problem.
fn best(facts: &Facts<'_>, parts: &[Part]) -> Result<(usize, Audit), String> {
    let fits =
        |part: &Part| part.run == *facts.run && part.number.zip(facts.part).is_none_or(|(logged, file)| logged == file);
    let compared = parts.iter().enumerate().filter(|(_, part)| fits(part)).map(|(at, part)| (at, compare(facts, part)));
    // Recordings of earlier versions have no number, and several may begin with the same facts.
    compared.min_by_key(|(_, audit)| audit.problems.len()).ok_or_else(|| {
        let known: Vec<String> = parts.iter().filter_map(|part| part.number).map(|n| n.to_string()).collect();
        let number = facts.part.map(|part| format!(" {part}")).unwrap_or_default();
        format!(
            "the audit log has no beginning of recording{number} with this run's name, user, cgroup and policy (it has \
             recordings {})",
            known.join(", ")
        )
    })
}

fn compare(facts: &Facts<'_>, part: &Part) -> Audit {
    let mut audit = Audit::default();
    let closed = part.seal.is_some();
    let ended = matches!(facts.end, RecordingEnd::Finished);
    let last = facts.decisions.last().map_or(facts.run.decisions, |decision| decision.id.n);
    let recorded: BTreeMap<u32, &Decision> = facts.decisions.iter().map(|d| (d.id.n, d)).collect();
    for (n, (index, logged)) in &part.decisions {
        match recorded.get(n) {
            Some(recorded) if same(recorded, logged) => audit.same += 1,
            Some(_) => audit.problems.push(format!("decision {n} is not the one in the audit log (entry {index})")),
            None if *n < last || ended || (closed && !unwritten(part)) => {
                let because = decision::because(logged);
                audit.problems.push(format!(
                    "decision {n} because {} (entry {index} of the audit log) is missing in the recording",
                    clean(&because)
                ));
            }
            None => {
                // Of a live run, the recording was read before the log.
                let live = !part.over && !closed;
                (audit.behind, audit.missing) = (audit.behind || live, audit.missing || !live);
                let because = clean(&decision::because(logged));
                audit.not_covered.push(format!("decision {n} because {because} (entry {index} of the audit log)"));
            }
        }
    }
    let newest = part.decisions.keys().next_back().copied().unwrap_or(facts.run.decisions);
    let (limited, lost): (Vec<u32>, Vec<u32>) =
        recorded.keys().filter(|n| !part.decisions.contains_key(n)).partition(|n| is_limited(part, **n));
    if !limited.is_empty() {
        audit.notes.push(format!(
            "{} not in the audit log, because the user's budget was spent",
            count(limited.len(), "decision is", "decisions are")
        ));
    }
    for n in &lost {
        audit.unsettled |= *n > newest;
        audit.problems.push(format!("decision {n} of the recording is missing in the audit log"));
    }
    if audit.missing {
        audit
            .notes
            .push("the audit log has later decisions than the recording: its end was lost or cut off".to_owned());
    }
    seal(facts, part, &mut audit);
    audit
}

/// Whether a decision is among those that a summary stands for.
fn is_limited(part: &Part, n: u32) -> bool {
    part.limited.iter().any(|limited| {
        let unnamed = limited.decisions.last().is_some_and(|last| n > *last) && n <= limited.last_decision;
        limited.decisions.contains(&n) || unnamed
    })
}

fn seal(facts: &Facts<'_>, part: &Part, audit: &mut Audit) {
    let Some(seal) = &part.seal else {
        match (&facts.end, part.over, facts.hash) {
            (_, _, None) => audit.notes.push("the recording is of a version without hashes".to_owned()),
            // A live run has no hash in the log yet.
            (RecordingEnd::Finished, false, _) => {
                audit.unsettled = true;
                audit.notes.push("the audit log has no end of the run and so no hash of the recording".to_owned());
            }
            (_, false, _) => audit.notes.push("the run lives".to_owned()),
            (_, true, _) => audit.notes.push(
                "the audit log has no hash of the recording: the daemon that wrote it ended without closing it"
                    .to_owned(),
            ),
        }
        return;
    };
    let Some(logged) = &seal.hash else {
        audit.problems.push(format!(
            "the audit log says that there is no such recording: {}",
            clean(seal.problem.as_deref().unwrap_or("no reason"))
        ));
        return;
    };
    let found = facts.hash.map(hex::encode);
    audit.hash = Some(found.as_ref() == Some(logged));
    match found {
        Some(found) if found == *logged => {}
        Some(_) if facts.frames < seal.frames && unwritten(part) => {
            audit.missing = true;
            audit.notes.push(format!(
                "the recording has {} of {} frames: {}",
                facts.frames,
                seal.frames,
                clean(seal.problem.as_deref().unwrap_or_default())
            ));
        }
        Some(_) if facts.frames < seal.frames => audit.problems.push(format!(
            "the recording has {} of the {} frames that it had when it was closed: it was cut off, or frames were removed",
            facts.frames, seal.frames
        )),
        Some(_) if facts.frames > seal.frames => audit.problems.push(format!(
            "the recording has {} frames, but it had {} when it was closed",
            facts.frames, seal.frames
        )),
        Some(found) => audit.problems.push(format!(
            "the recording's hash is {found}, but it was {logged} when it was closed: it was changed, or is another one"
        )),
        None => audit.problems.push(
            "the recording is of a version without hashes, but the one that the audit log names had a hash".to_owned(),
        ),
    }
}

/// The daemon could not write all of it.
fn unwritten(part: &Part) -> bool {
    part.seal.as_ref().is_some_and(|seal| seal.problem.is_some())
}

/// By their text: two values that are not a number are the same then.
fn same(a: &Decision, b: &Decision) -> bool {
    let text = |decision: &Decision| serde_json::to_value(decision).ok();
    text(a).is_some() && text(a) == text(b)
}

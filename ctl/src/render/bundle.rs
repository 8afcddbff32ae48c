//! The page about the file of an incident: what it proves, by which key, and what it does not prove.
//!
//! Invariant: text from the file was chosen by whoever made it, so all of it is made harmless for a terminal.

use super::{Paint, clean, explain, fill, json, table, time};
use crate::incident::Incident;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::{collections::BTreeSet, fmt::Write, path::Path};

/// Columns of a paragraph.
const WIDTH: usize = 96;

/// Contradictions that the text names.
const SHOWN: usize = 20;

/// What was found in a file.
#[derive(Debug, Default)]
pub struct Findings {
    /// What contradicts the file: somebody changed it, or it is of another log, run or incident.
    pub problems: Vec<String>,
    /// What it proves, by topic.
    pub proved: Vec<(&'static str, String)>,
    /// What it does not prove, by topic.
    pub not_proved: Vec<(&'static str, String)>,
    /// What of that a complete file proves.
    pub lacking: Vec<String>,
    /// Entries of the log that nothing proves.
    pub unproved: BTreeSet<u64>,
    /// Whether a decision of the incident is among them: then nothing that follows from the decisions is proved.
    pub decision_unproved: bool,
    /// The key that signed the log, where its signature is valid.
    pub key: Option<Key>,
    /// The replay, for programs.
    pub replay: Option<Value>,
}

/// A key that signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its id.
    pub id: String,
    /// Its comment in the list of keys.
    pub comment: String,
    /// Whether it is on a list of the verifier; otherwise the file named it.
    pub is_allowed: bool,
}

/// The result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All that a file can prove is proved, by an allowed key.
    Proved,
    /// A part is not.
    InPart,
    /// Not even the decisions are.
    NotProved,
    /// All signatures are valid, but nobody said which keys are allowed.
    KeyNotChecked,
    /// Something contradicts.
    NotValid,
}

impl Findings {
    /// The result.
    pub fn verdict(&self) -> Verdict {
        match &self.key {
            _ if !self.problems.is_empty() => Verdict::NotValid,
            None => Verdict::NotProved,
            Some(_) if self.decision_unproved => Verdict::NotProved,
            Some(key) if !key.is_allowed => Verdict::KeyNotChecked,
            Some(_) if self.lacking.is_empty() => Verdict::Proved,
            Some(_) => Verdict::InPart,
        }
    }

    /// Adds a contradiction.
    pub fn problem(&mut self, what: impl Into<String>) {
        self.problems.push(what.into());
    }

    /// Adds something that is not proved, though a complete file proves it.
    pub fn lacks(&mut self, topic: &'static str, what: impl Into<String>) {
        let what = what.into();
        self.lacking.push(format!("{topic}: {what}"));
        self.not_proved.push((topic, what));
    }
}

/// The page.
pub struct Page<'a> {
    /// The file, as the caller named it.
    pub file: &'a Path,
    /// What was found in it.
    pub findings: &'a Findings,
    /// The incident, where the file has one.
    pub incident: Option<&'a Incident<'a>>,
    /// The caller's time zone.
    pub zone: &'a TimeZone,
}

impl Page<'_> {
    /// For people.
    pub fn text(&self, paint: Paint) -> String {
        let findings = self.findings;
        let file = clean(&self.file.display().to_string());
        let (word, tint): (String, fn(Paint, &str) -> String) = match findings.verdict() {
            Verdict::Proved => ("PROVED".to_owned(), Paint::good),
            Verdict::InPart => ("PROVED IN PART: see what is not proved".to_owned(), Paint::warn),
            Verdict::NotProved => {
                ("NOT PROVED: nothing in it shows that the log has the decision".to_owned(), Paint::bad)
            }
            Verdict::KeyNotChecked => (
                "INTACT, BUT NOTHING IS PROVED: the keys are those that the file names; give a list with --keys"
                    .to_owned(),
                Paint::warn,
            ),
            Verdict::NotValid => ("NOT VALID".to_owned(), Paint::bad),
        };
        let mut out = format!("{file}: {}\n", tint(paint, &word));
        for problem in findings.problems.iter().take(SHOWN) {
            out.push_str(&paragraph("  ", &clean(problem)));
        }
        if findings.problems.len() > SHOWN {
            let _ = writeln!(out, "  and {} more, see -o json", findings.problems.len() - SHOWN);
        }
        if findings.verdict() == Verdict::NotValid {
            out.push_str("  believe nothing of this file; keep it, and have the incident exported again\n");
        }
        if let Some(incident) = self.incident {
            out.push_str(&self.incident(incident, paint));
        }
        let proved = match findings.verdict() {
            Verdict::NotValid | Verdict::NotProved => "Consistent, but not proved",
            Verdict::KeyNotChecked => "Would be proved, if the key is the node's",
            Verdict::Proved | Verdict::InPart => "Proved",
        };
        for (head, list) in [(proved, &findings.proved), ("Not proved", &findings.not_proved)] {
            if list.is_empty() {
                continue;
            }
            let width = list.iter().map(|(topic, _)| topic.len()).max().unwrap_or(0);
            let _ = write!(out, "\n{}\n", paint.head(head));
            for (topic, text) in list {
                let lines = fill(&clean(text), WIDTH - width - 4);
                for (at, line) in lines.iter().enumerate() {
                    let topic = if at == 0 { *topic } else { "" };
                    let _ = writeln!(out, "  {topic:width$}  {line}");
                }
            }
        }
        out
    }

    fn incident(&self, incident: &Incident<'_>, paint: Paint) -> String {
        let opened = incident.opened_by();
        let mut out = format!("\n{}\n", paint.head(&format!("Incident {}", incident.id)));
        out.push_str(&paragraph("  ", &clean(&explain::headline(incident))));
        let seen: Vec<String> = opened.decision.values.iter().map(super::decision::observation).collect();
        let state = explain::in_words(&incident.standing, opened.decision.mode);
        let is_shown = incident.entries.iter().all(|entry| !self.findings.unproved.contains(&entry.index));
        let until =
            if is_shown { "as of the last entry in the file" } else { "by entries of which some have no proof" };
        let rows = [
            ("at", time::exact(incident.zero().1, self.zone)),
            ("seen", seen.join(", ")),
            ("run", format!("{} {}", incident.run_name(), incident.run_id)),
            ("state", format!("{state} ({until})")),
        ];
        out.push_str(&table::pairs("  ", rows));
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let findings = self.findings;
        let topics = |list: &[(&'static str, String)]| -> Vec<Value> {
            list.iter().map(|(topic, text)| json!({ "topic": topic, "text": text })).collect()
        };
        json!({
            "file": self.file,
            "verdict": match findings.verdict() {
                Verdict::Proved => "proved",
                Verdict::InPart => "proved-in-part",
                Verdict::NotProved => "not-proved",
                Verdict::KeyNotChecked => "key-not-checked",
                Verdict::NotValid => "not-valid",
            },
            "problems": findings.problems,
            "proved": topics(&findings.proved),
            "not_proved": topics(&findings.not_proved),
            "lacking": findings.lacking,
            "entries_without_proof": findings.unproved,
            "key_id": findings.key.as_ref().map(|key| &key.id),
            "key_comment": findings.key.as_ref().map(|key| &key.comment),
            "key_allowed": findings.key.as_ref().map(|key| key.is_allowed),
            "incident": self.incident.map(json::incident),
            "replay": findings.replay,
        })
    }
}

fn paragraph(indent: &str, text: &str) -> String {
    fill(text, WIDTH - indent.len()).iter().map(|line| format!("{indent}{line}\n")).collect()
}

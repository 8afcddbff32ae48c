//! What is known of incidents and of health, from the entries of the audit log, and which messages follow. Pure: entries and times
//! go in, messages come out.
//!
//! ```text
//! entry ─► apply: the incident or the part changes ─► due (its standing is to be announced, now or after a wait) ─► take: messages
//! ```
//! Invariants: there is one first message for each incident and each change of its standing; a message that closes an incident
//! follows the one that opened it; the same entries give the same messages, with the same ids, after a restart. Its size is
//! bounded.

mod health;
mod incident;

use super::message::{Message, RunFacts};
use failsafe_core::{
    decision::{Mode, Severity, Verdict},
    record::Record,
    visible::clean,
};
use incident::Open;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A containment that is not proved yet is announced after this time, in nanoseconds.
const UNPROVED: i64 = 5_000_000_000;
/// A part that is not healthy, but not unhealthy either, is announced after this time: a restart of the daemon is no alarm.
const UNSETTLED: i64 = 30_000_000_000;
/// No wait is as long, in nanoseconds.
const STEPPED: i64 = 60_000_000_000;
/// Incidents that are open at once. Beyond this number, an incident of the run with the most is forgotten.
const OPEN: usize = 4_096;
/// Live runs that are known.
const RUNS: usize = 16_384;
/// Longest text of a field, in bytes.
const TEXT: usize = 1_024;

/// Who the messages are from.
#[derive(Debug, Clone)]
pub struct Sender {
    /// The node.
    pub node: String,
    /// Whom to call where no rule names an owner.
    pub contact: String,
}

/// What is known.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    runs: BTreeMap<String, RunFacts>,
    open: BTreeMap<String, Open>,
    health: BTreeMap<String, health::Part>,
    /// Incidents that were forgotten because there were too many.
    pub forgotten: u64,
    /// Number of the last message.
    pub sent: u64,
}

/// An entry of the audit log.
pub struct Entry<'a> {
    /// When it was written, nanoseconds since the epoch.
    pub wall_ns: i64,
    /// When it was written, `CLOCK_MONOTONIC` of its boot.
    pub mono_ns: i64,
    /// What it says.
    pub record: &'a Record,
}

impl Book {
    /// Takes an entry up.
    pub fn apply(&mut self, entry: &Entry<'_>) {
        match entry.record {
            Record::RunStarted { run, policy_name, .. } => {
                let policy = Some(policy_name.as_str());
                self.know(run, policy);
            }
            Record::RunAdopted { run, .. } => self.know(run, None),
            Record::RunEnded { run, .. } => {
                let run = run.to_string();
                let mut any = false;
                for open in self.open.values_mut().filter(|open| open.run == run) {
                    open.ended(entry.wall_ns);
                    any = true;
                }
                // With open incidents it is forgotten after the last one.
                if !any {
                    self.runs.remove(&run);
                }
            }
            // The run of a drill is stopped on purpose. A drill that fails changes the health of the node, which is reported.
            Record::Decision { drill: true, .. } => {}
            Record::Decision { decision, rule, blind, drill: false } => {
                let key = decision.incident.to_string();
                if !self.open.contains_key(&key) {
                    self.make_room();
                    self.open.insert(key.clone(), Open::by(entry, decision, rule.as_ref(), blind.as_deref()));
                }
                if let Some(open) = self.open.get_mut(&key) {
                    open.decided(decision, entry.wall_ns);
                }
            }
            Record::Outcome(outcome) => {
                if let Some(open) = self.open.get_mut(&outcome.incident.to_string()) {
                    open.came(outcome, entry.wall_ns);
                }
            }
            Record::Health(change) => self.changed(change, entry.wall_ns),
            Record::Limited(limited) if limited.last_decision > 0 => {
                let run = limited.run.map(|run| run.to_string()).unwrap_or_default();
                let key = format!("limited-{}", if run.is_empty() { limited.uid.to_string() } else { run.clone() });
                if !self.open.contains_key(&key) {
                    self.make_room();
                    self.open.insert(key, Open::hidden(entry, run, limited));
                }
            }
            _ => {}
        }
    }

    fn know(&mut self, run: &failsafe_core::input::Run, policy: Option<&str>) {
        let id = run.id.to_string();
        let policy = policy.map(clean).or_else(|| self.runs.get(&id).map(|known| known.policy.clone()));
        if self.runs.len() >= RUNS && !self.runs.contains_key(&id) {
            // Messages about it go to all targets that its severity matches.
            return;
        }
        let facts = RunFacts {
            id: id.clone(),
            name: clean(&run.name),
            owner_uid: Some(run.owner_uid),
            labels: run.labels.clone(),
            policy: policy.unwrap_or_else(|| run.policy.to_string()),
        };
        self.runs.insert(id, facts);
    }

    /// Forgets an incident of the run that has the most, the oldest one of those, where there are too many.
    fn make_room(&mut self) {
        if self.open.len() < OPEN {
            return;
        }
        let mut of_run: BTreeMap<&str, usize> = BTreeMap::new();
        for open in self.open.values() {
            *of_run.entry(&open.run).or_default() += 1;
        }
        let Some((run, _)) = of_run.into_iter().max_by_key(|(_, count)| *count) else { return };
        let oldest = self.open.iter().filter(|(_, open)| open.run == run).min_by_key(|(_, open)| open.began_ns);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.open.remove(&key);
            self.forgotten += 1;
        }
    }

    /// Forgets what is open: it was there before the first start, and is not announced.
    pub fn begin(&mut self) {
        self.open.clear();
        self.health.values_mut().for_each(health::Part::begin);
    }

    /// When the next message is due, nanoseconds since the epoch.
    pub fn next_due(&self) -> Option<i64> {
        let incidents = self.open.values().filter_map(|open| open.due_ns);
        incidents.chain(self.health.values().filter_map(|part| part.due_ns)).min()
    }

    /// The messages that are due, in the order in which their incidents began. `all`: also those that would wait.
    pub fn take(&mut self, now_ns: i64, sender: &Sender) -> Vec<Message> {
        // A time that lies far ahead is of before the clock was set back.
        let is_due = |due: Option<i64>| due.is_some_and(|due| due <= now_ns || due > now_ns.saturating_add(STEPPED));
        let mut due: Vec<(i64, String)> = Vec::new();
        due.extend(self.open.iter().filter(|(_, it)| is_due(it.due_ns)).map(|(key, it)| (it.began_ns, key.clone())));
        due.sort();
        let mut messages = Vec::new();
        for (_, key) in due {
            let Some(open) = self.open.get_mut(&key) else { continue };
            let run = (!open.run.is_empty()).then(|| {
                let unknown = || RunFacts { id: open.run.clone(), name: open.run.clone(), ..RunFacts::default() };
                self.runs.get(&open.run).cloned().unwrap_or_else(unknown)
            });
            messages.extend(open.take(&key, run, sender));
            if open.is_closed() {
                let run = open.run.clone();
                let has_ended = open.has_ended();
                self.open.remove(&key);
                if has_ended && !self.open.values().any(|other| other.run == run) {
                    self.runs.remove(&run);
                }
            }
        }
        messages.extend(self.take_health(is_due, sender));
        for message in &mut messages {
            self.sent += 1;
            message.id = format!("{}/{}", message.key, self.sent);
        }
        messages
    }

    /// Messages as they would be written now about all that is open and was announced, for targets that want to hear it again.
    pub fn active(&self, sender: &Sender) -> Vec<Message> {
        let incidents = self.open.iter().filter_map(|(key, open)| {
            let run = self.runs.get(&open.run).cloned();
            open.active(key, run, sender)
        });
        incidents.chain(self.health.iter().filter_map(|(key, part)| part.active(key, sender))).collect()
    }
}

/// A text for a message: harmless, and not too long.
fn text(text: &str) -> String {
    let clean = clean(text);
    if clean.len() <= TEXT {
        return clean;
    }
    format!("{} ...", &clean[..clean.floor_char_boundary(TEXT)])
}

/// A message with what is the same for all.
fn blank(key: &str, sender: &Sender) -> Message {
    Message { key: key.into(), ..Message::test(&sender.node, &sender.contact, 0) }
}

/// The verdict in words.
fn verdict(verdict: Option<&Verdict>, proofs: &[String]) -> String {
    match verdict {
        None => "not proved yet".into(),
        Some(Verdict::Proved) if proofs.is_empty() => "proved".into(),
        Some(Verdict::Proved) => format!("proved ({})", proofs.join("; ")),
        Some(Verdict::Partial(missing)) => format!("PARTIAL, not proved: {}", missing.join("; ")),
        Some(Verdict::Failed(why)) => format!("FAILED: {why}"),
    }
}

/// The worse of two.
fn worse(one: Severity, other: Severity) -> Severity {
    one.max(other)
}

/// Whether nothing was carried out.
fn only_observed(mode: Mode) -> bool {
    mode == Mode::Observe
}

#[cfg(test)]
pub mod tests;

//! What is known of incidents and of health, from the entries of the audit log, and which messages follow. Pure: entries and times
//! go in, messages come out.
//!
//! ```text
//! entry ─► apply: the incident or the part changes ─► due (its standing is to be announced, now or after a wait) ─► take: messages
//! ```
//! Invariants: there is one first message for each incident and each change of its standing; a message that closes an incident
//! follows the one that opened it; the same entries give the same messages, with the same ids, after a restart. It is bounded in
//! incidents, in runs and in bytes.

mod bounded;
mod health;
mod incident;

use super::message::{Message, RunFacts};
use bounded::{Bounded, Weigh};
use failsafe_core::{
    decision::{Mode, Severity, Verdict},
    record::Record,
    visible::{beginning, clean},
};
use incident::Open;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A containment that is not proved yet is announced after this time, in nanoseconds.
const UNPROVED: i64 = 5_000_000_000;
/// A part that is not healthy, but not unhealthy either, is announced after this time: a restart of the daemon is no alarm.
const UNSETTLED: i64 = 30_000_000_000;
/// No wait is as long, in nanoseconds.
const STEPPED: i64 = 60_000_000_000;
/// Incidents that are open at once, and their bytes. Beyond it, the oldest incident of the run that takes the most is forgotten.
const OPEN: usize = 4_096;
const OPEN_BYTES: usize = 8 << 20;
/// Live runs that are known, and their bytes. Beyond it, the oldest runs are forgotten.
const RUNS: usize = 16_384;
const RUN_BYTES: usize = 8 << 20;
/// Runs that are forgotten at once, at least.
const ROOM: usize = 64;
/// The owner of a run of which it is not known, as entries have it: no user has this id.
const NO_UID: u32 = u32::MAX;
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
    runs: Bounded<RunFacts>,
    open: Bounded<Open>,
    health: BTreeMap<String, health::Part>,
    /// Incidents that were forgotten because there were too many.
    pub forgotten: u64,
    /// Number of the last message.
    pub sent: u64,
    /// Keys of incidents that are no longer open, since the last call of [`Book::take_gone`].
    #[serde(skip)]
    gone: Vec<String>,
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
            Record::RunOwner { run, owner_uid, .. } => {
                self.runs.change(&run.to_string(), |facts| facts.owner_uid = Some(*owner_uid));
            }
            Record::RunEnded { run, .. } => {
                let run = run.to_string();
                let own: Vec<String> = self.keys_of(&run).cloned().collect();
                for key in &own {
                    self.open.change(key, |open| open.ended(entry.wall_ns));
                }
                // With open incidents it is forgotten after the last one.
                if own.is_empty() {
                    self.runs.remove(&run);
                }
            }
            // The run of a drill is stopped on purpose. A drill that fails changes the health of the node, which is reported.
            Record::Decision { drill: true, .. } => {}
            Record::Decision { decision, rule, blind, drill: false } => {
                let key = decision.incident.to_string();
                if !self.open.contains(&key) {
                    self.open.insert(key.clone(), Open::by(entry, decision, rule.as_ref(), blind.as_deref()));
                }
                self.open.change(&key, |open| open.decided(decision, entry.wall_ns));
                self.make_room(&key);
            }
            Record::Outcome(outcome) => {
                let key = outcome.incident.to_string();
                self.open.change(&key, |open| open.came(outcome, entry.wall_ns));
                self.make_room(&key);
            }
            Record::Health(change) => self.changed(change, entry.wall_ns),
            Record::Limited(limited) if limited.last_decision > 0 => {
                let run = limited.run.map(|run| run.to_string()).unwrap_or_default();
                let key = format!("limited-{}", if run.is_empty() { limited.uid.to_string() } else { run.clone() });
                if !self.open.contains(&key) {
                    // The summary may be written after the end of its run, which nothing closes then.
                    let is_live = self.runs.contains(&run)
                        && !self.keys_of(&run).any(|key| self.open.get(key).is_some_and(Open::has_ended));
                    self.open.insert(key.clone(), Open::hidden(entry, run, limited));
                    if !is_live {
                        self.open.change(&key, |open| open.ended(entry.wall_ns));
                    }
                    self.make_room(&key);
                }
            }
            _ => {}
        }
    }

    fn keys_of<'a>(&'a self, run: &'a str) -> impl Iterator<Item = &'a String> {
        self.open.iter().filter(move |(_, open)| open.run == run).map(|(key, _)| key)
    }

    fn know(&mut self, run: &failsafe_core::input::Run, policy: Option<&str>) {
        let id = run.id.to_string();
        let policy = policy.map(text).or_else(|| self.runs.get(&id).map(|known| known.policy.clone()));
        let facts = RunFacts {
            id: id.clone(),
            name: text(&run.name),
            owner_uid: Some(run.owner_uid).filter(|uid| *uid != NO_UID),
            labels: run.labels.clone(),
            policy: policy.unwrap_or_else(|| run.policy.to_string()),
            unknown: false,
        };
        self.runs.insert(id, facts);
        // Messages about a run that is forgotten go to all targets that its severity matches.
        let is_over = |runs: &Bounded<RunFacts>| runs.len() > RUNS || runs.bytes() > RUN_BYTES;
        if !is_over(&self.runs) {
            return;
        }
        // First those without an open incident, such as runs that never ended in the log. Ids are in the order of the starts.
        let needed: BTreeSet<&str> = self.open.iter().map(|(_, open)| open.run.as_str()).collect();
        let (last, first): (Vec<_>, Vec<_>) = self
            .runs
            .iter()
            .map(|(id, _)| id)
            .filter(|it| **it != run.id.to_string())
            .partition(|id| needed.contains(id.as_str()));
        // Some more than one, so that not every run that starts costs this search.
        let oldest: Vec<String> = first.into_iter().chain(last).cloned().collect();
        for (at, id) in oldest.iter().enumerate() {
            if at >= ROOM && !is_over(&self.runs) {
                break;
            }
            self.runs.remove(id);
        }
    }

    /// Forgets the oldest incident of the run that takes the most bytes, until all are within their bounds. `newest` stays.
    fn make_room(&mut self, newest: &str) {
        while self.open.len() > OPEN || self.open.bytes() > OPEN_BYTES {
            let others = || self.open.iter().filter(|(key, _)| *key != newest);
            let mut of_run: BTreeMap<&str, usize> = BTreeMap::new();
            for (_, open) in others() {
                *of_run.entry(&open.run).or_default() += open.weigh();
            }
            let Some((run, _)) = of_run.into_iter().max_by_key(|(_, bytes)| *bytes) else { return };
            let oldest = others().filter(|(_, open)| open.run == run).min_by_key(|(_, open)| open.began_ns);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
            self.close(&key);
            self.forgotten += 1;
        }
    }

    fn close(&mut self, key: &str) -> Option<Open> {
        self.gone.push(key.to_owned());
        self.open.remove(key)
    }

    /// Forgets what is open: it was there before the first start, and is not announced.
    pub fn begin(&mut self) {
        self.forget_open();
        self.health.values_mut().for_each(health::Part::begin);
    }

    /// Forgets incidents and runs: another log is read from its start. The health of the parts stays as it is known.
    pub fn restart(&mut self) {
        self.forget_open();
        self.runs = Bounded::default();
    }

    fn forget_open(&mut self) {
        for (key, open) in std::mem::take(&mut self.open).iter() {
            if open.has_ended() {
                self.runs.remove(&open.run);
            }
            self.gone.push(key.clone());
        }
    }

    /// The incidents that are no longer open, since the last call.
    pub fn take_gone(&mut self) -> Vec<String> {
        let gone = std::mem::take(&mut self.gone);
        gone.into_iter().filter(|key| !self.has(key)).collect()
    }

    /// Whether there is an open incident or a part with this key.
    pub fn has(&self, key: &str) -> bool {
        self.open.contains(key) || self.health.contains_key(key)
    }

    /// When the next message is due, nanoseconds since the epoch.
    pub fn next_due(&self) -> Option<i64> {
        let incidents = self.open.iter().filter_map(|(_, open)| open.due_ns);
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
            let Some(run) = self.open.get(&key).map(|open| open.run.clone()) else { continue };
            let facts = (!run.is_empty()).then(|| {
                let unknown = || RunFacts { id: run.clone(), name: run.clone(), unknown: true, ..RunFacts::default() };
                self.runs.get(&run).cloned().unwrap_or_else(unknown)
            });
            let taken =
                self.open.change(&key, |open| (open.take(&key, facts, sender), open.is_closed(), open.has_ended()));
            let Some((own, is_closed, has_ended)) = taken else { continue };
            messages.extend(own);
            if is_closed {
                self.close(&key);
                if has_ended && self.keys_of(&run).next().is_none() {
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

impl Weigh for RunFacts {
    fn weigh(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(key, value)| key.len() + value.len() + 64).sum();
        size_of::<RunFacts>() + self.id.len() + self.name.len() + self.policy.len() + labels
    }
}

/// A text for a message: harmless, and not too long.
fn text(text: &str) -> String {
    let clean = clean(beginning(text, TEXT + 1));
    if clean.len() <= TEXT {
        return clean;
    }
    format!("{} ...", beginning(&clean, TEXT))
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

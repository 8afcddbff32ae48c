//! The health of one part: the node, or a GPU.

use super::{Book, Sender, UNSETTLED, blank, text, worse};
use crate::{config::About, notify::message::Message};
use failsafe_core::{
    decision::{Mode, Severity},
    health::{Change, Level, Reason},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Reasons of a part that are named.
const REASONS: usize = 8;
/// Reasons of a part that are kept, and parts.
const KEPT: usize = 64;
const PARTS: usize = 1_024;

/// A part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    level: Level,
    since_ns: i64,
    /// When its level is to be announced.
    pub due_ns: Option<i64>,
    /// The level that was announced last; none: none, or that it is healthy.
    announced: Option<Level>,
    first_severity: Severity,
    /// The worst that was announced since it was healthy.
    worst: Severity,
    reasons: BTreeMap<String, String>,
    by: Option<String>,
}

impl Part {
    fn new() -> Part {
        Part {
            level: Level::Healthy,
            since_ns: 0,
            due_ns: None,
            announced: None,
            first_severity: Severity::Info,
            worst: Severity::Info,
            reasons: BTreeMap::new(),
            by: None,
        }
    }

    /// Takes what is known as known to everybody.
    pub fn begin(&mut self) {
        self.due_ns = None;
        self.announced = (self.level != Level::Healthy).then_some(self.level);
        (self.first_severity, self.worst) = (severity(self.level), severity(self.level));
    }

    fn take(&mut self, key: &str, sender: &Sender) -> Option<Message> {
        self.due_ns = None;
        let now = (self.level != Level::Healthy).then_some(self.level);
        if now == self.announced {
            return None;
        }
        if self.announced.is_none() {
            (self.first_severity, self.worst) = (severity(self.level), severity(self.level));
        }
        self.worst = worse(self.worst, severity(self.level));
        let message = Message { update: self.announced.is_some(), ..self.message(key, sender) };
        self.announced = now;
        Some(message)
    }

    /// What it would say now, if it was announced that it is not healthy.
    pub fn active(&self, key: &str, sender: &Sender) -> Option<Message> {
        self.announced?;
        Some(Message { id: format!("{key}/again"), update: true, ..self.message(key, sender) })
    }

    fn message(&self, key: &str, sender: &Sender) -> Message {
        let (what, level) = (key.trim_start_matches("health/"), self.level);
        let what = if what == "node" { what.to_owned() } else { format!("GPU {what}") };
        let mut why: Vec<&str> = self.reasons.values().take(REASONS).map(String::as_str).collect();
        why.extend(self.by.as_deref());
        let why = if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) };
        let resolved = level == Level::Healthy;
        Message {
            about: About::Health,
            // The targets that got the alarm get its end.
            severity: if resolved { self.worst } else { severity(level) },
            first_severity: self.first_severity,
            mode: Mode::Enforce,
            standing: level.name().into(),
            resolved,
            began_ns: self.since_ns,
            at_ns: self.since_ns,
            summary: text(&format!("{}: {what} is {level}{why}", sender.node)),
            condition: text(&format!("the health of {what} changed to {level}")),
            values: self.reasons.iter().take(REASONS).map(|(code, said)| text(&format!("{code}: {said}"))).collect(),
            next: "failsafectl node reasons".into(),
            ..blank(key, sender)
        }
    }
}

/// How bad a level is.
fn severity(level: Level) -> Severity {
    match level {
        Level::Healthy => Severity::Info,
        Level::Degraded | Level::Unknown | Level::Draining => Severity::Warning,
        Level::Unhealthy => Severity::Critical,
    }
}

impl Book {
    /// A part changed.
    pub(super) fn changed(&mut self, change: &Change, wall_ns: i64) {
        let key = format!("health/{}", change.target);
        if self.health.len() >= PARTS && !self.health.contains_key(&key) {
            return;
        }
        let part = self.health.entry(key).or_insert_with(Part::new);
        for code in &change.removed {
            part.reasons.remove(&text(code));
        }
        let said = |Reason { text: said, advice, .. }: &Reason| text(&format!("{said} (advice: {advice})"));
        part.reasons.extend(change.added.iter().map(|reason| (text(&reason.code), said(reason))));
        while part.reasons.len() > KEPT {
            part.reasons.pop_last();
        }
        if change.to == part.level {
            return;
        }
        (part.level, part.since_ns, part.by) = (change.to, wall_ns, change.by.as_deref().map(text));
        part.due_ns = match change.to {
            Level::Healthy | Level::Unhealthy | Level::Draining => Some(wall_ns),
            Level::Degraded | Level::Unknown => {
                let due = wall_ns.saturating_add(UNSETTLED);
                Some(part.due_ns.map_or(due, |earlier| earlier.min(due)))
            }
        };
    }

    pub(super) fn take_health(&mut self, is_due: impl Fn(Option<i64>) -> bool, sender: &Sender) -> Vec<Message> {
        let due = self.health.iter_mut().filter(|(_, part)| is_due(part.due_ns));
        due.filter_map(|(key, part)| part.take(key, sender)).collect()
    }
}

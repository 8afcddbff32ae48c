//! One line for one entry of the audit log.

mod record;

use super::{Paint, clean, time};
use crate::{
    entry::{Body, Logged},
    text::short,
};
use failsafe_core::{
    decision::{Mode, Severity, Verdict},
    drill::Finding,
    health::Level,
    record::Record,
};
use jiff::tz::TimeZone;
use std::collections::BTreeMap;

/// Names of runs by id.
pub type Names = BTreeMap<String, String>;

/// The line: time, index, kind, run, what happened.
pub fn line(entry: &Logged, names: &Names, zone: &TimeZone, paint: Paint) -> String {
    let run = match &entry.run {
        Some(id) => names.get(id).cloned().unwrap_or_else(|| short(id)),
        None => "-".to_owned(),
    };
    let what = summary(entry);
    let what = match weight(entry) {
        Weight::Bad => paint.bad(&what),
        Weight::Warn => paint.warn(&what),
        Weight::Plain => what,
    };
    let when = time::wall(i128::from(entry.wall_ns), zone);
    format!("{}  {:>5}  {:<9} {:<16} {what}\n", paint.dim(&when), entry.index, entry.kind, clean(&run))
}

/// The entry in one line.
pub fn summary(entry: &Logged) -> String {
    match &entry.body {
        Body::Known(record) => record::record_summary(record),
        Body::Other(body) => other(&entry.kind, body),
    }
}

/// The journal's own entries, and those of a version that this one does not know.
fn other(kind: &str, body: &serde_json::Value) -> String {
    let text = |name: &str| match &body[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match (kind, body["cause"].as_str()) {
        ("recovered", _) => {
            format!("a torn tail of {} bytes was cut off the log: {}", text("dropped_bytes"), text("why"))
        }
        ("gap", Some("overflow")) => format!("{} entries were dropped: the disk was too slow", text("dropped")),
        ("gap", Some("storage")) => {
            format!("the log's disk failed {} times ({}); nothing was lost", text("failed_commits"), text("error"))
        }
        ("gap", Some("integrity" | "clock")) => text("what"),
        ("segment", _) if body["sealed"].is_object() => {
            let sealed = &body["sealed"];
            format!("sealed the segment of {} entries from entry {} on", sealed["entries"], sealed["first"])
        }
        _ => body.to_string().chars().take(200).collect(),
    }
}

enum Weight {
    Bad,
    Warn,
    Plain,
}

fn weight(entry: &Logged) -> Weight {
    match entry.record() {
        Some(Record::Decision { decision, .. }) if decision.mode == Mode::Enforce => match decision.severity {
            Severity::Critical => Weight::Bad,
            Severity::Warning => Weight::Warn,
            Severity::Info => Weight::Plain,
        },
        Some(Record::Outcome(outcome)) => match outcome.verdict {
            Verdict::Proved => Weight::Plain,
            Verdict::Partial(_) | Verdict::Failed(_) => Weight::Bad,
        },
        Some(Record::Gap(gap)) if gap.blind => Weight::Warn,
        Some(Record::Drift { .. } | Record::Statement { digest: None, .. }) => Weight::Warn,
        Some(Record::Drill(drill)) => match drill.result {
            Finding::Proved => Weight::Plain,
            Finding::Unproved | Finding::NotDone => Weight::Warn,
            Finding::Failed => Weight::Bad,
        },
        Some(Record::Health(change)) => match change.to {
            Level::Healthy => Weight::Plain,
            Level::Unhealthy => Weight::Bad,
            Level::Degraded | Level::Unknown | Level::Draining => Weight::Warn,
        },
        Some(Record::PolicyRefused { .. } | Record::GpuReset { done: Some(false), .. }) => Weight::Warn,
        Some(Record::RunStarted { broken, repair, .. }) if !broken.is_empty() || !repair.is_empty() => Weight::Warn,
        None if matches!(entry.kind.as_str(), "gap" | "recovered") => Weight::Warn,
        _ => Weight::Plain,
    }
}

#[cfg(test)]
mod tests;

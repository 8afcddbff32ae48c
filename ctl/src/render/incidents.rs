//! The list of incidents.

use super::{event::Names, explain, table, time};
use crate::{incident::IncidentState, incidents::Brief, text::short};
use failsafe_core::decision::Mode;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

/// The table, the oldest first.
pub fn table(all: &[Brief<'_>], names: &Names, zone: &TimeZone) -> String {
    let rows = all.iter().map(|brief| {
        let began = time::wall(brief.began(), zone);
        [brief.id.to_string(), began, name(brief, names), state(brief).to_owned(), explain::in_brief(brief)]
    });
    table::table(["INCIDENT", "BEGAN", "RUN", "STATE", "WHAT"], rows)
}

/// For programs.
pub fn json(all: &[Brief<'_>], names: &Names) -> Value {
    let one = |brief: &Brief<'_>| {
        let first = brief.opened_by();
        json!({
            "incident": brief.id.to_string(),
            "run_id": first.decision.id.run.to_string(),
            "run_name": names.get(&first.decision.id.run.to_string()),
            "at_ns": i64::try_from(brief.began()).unwrap_or(i64::MAX),
            "severity": explain::severity(first.decision.severity),
            "standing": brief.standing().name(),
            "cause": first.decision.cause,
            "actions": first.decision.actions,
            "decisions": brief.decisions.len(),
        })
    };
    all.iter().map(one).collect()
}

fn name(brief: &Brief<'_>, names: &Names) -> String {
    let id = brief.opened_by().decision.id.run.to_string();
    names.get(&id).cloned().unwrap_or_else(|| short(&id))
}

fn state(brief: &Brief<'_>) -> &'static str {
    match brief.standing() {
        IncidentState::Noted if brief.opened_by().decision.mode == Mode::Observe => "observed",
        IncidentState::Noted => "noted",
        IncidentState::Pending(_) => "PENDING",
        IncidentState::Contained(_) => "contained",
        IncidentState::Partial(_) => "PARTIAL",
        IncidentState::Failed(_) => "FAILED",
        IncidentState::Thawed => "thawed",
    }
}

//! Results of drills.

use super::{clean, table, time};
use failsafe_core::time::Span;
use failsafe_proto::v1 as pb;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::fmt::Write;

/// What a drill shows, in one word.
fn word(proof: pb::DrillProof) -> &'static str {
    match proof {
        pb::DrillProof::Proved => "proved",
        pb::DrillProof::Unproved => "unproved",
        pb::DrillProof::NotDone => "not-done",
        pb::DrillProof::Failed | pb::DrillProof::Unspecified => "failed",
    }
}

/// Why a drill is not proved, with the step; empty: it is.
fn why(result: &pb::DrillResult) -> String {
    match (result.problem.as_str(), result.failed_step.as_str()) {
        ("", _) => String::new(),
        (why, "") => why.to_owned(),
        (why, step) => format!("step {step}: {why}"),
    }
}

/// One result.
pub fn page(result: &pb::DrillResult, zone: &TimeZone) -> String {
    let mut out = table::pairs(
        "",
        [
            ("drill", result.name.clone()),
            ("result", word(result.proof()).to_uppercase()),
            ("because", why(result)),
            ("violation to frozen", result.stopped_in_ns.map_or(String::new(), |ns| Span(ns).to_string())),
            ("began", format!("{}, took {}", time::wall(result.began_ns.into(), zone), Span(result.took_ns))),
            ("asked by", format!("{}: {}", result.by, result.reason)),
        ],
    );
    if !result.steps.is_empty() {
        let steps = result.steps.iter().map(|step| [step.name.clone(), Span(step.took_ns).to_string()]);
        let _ = write!(out, "\n{}", table::table(["STEP", "TOOK"], steps));
    }
    out
}

/// The last proof, in one line.
pub fn proved(state: &pb::DrillState, now: i64) -> String {
    let proved = state.proved.as_ref().map(|proved| {
        let stopped_in = proved.stopped_in_ns.map_or(String::new(), |ns| format!(", frozen within {}", Span(ns)));
        format!("{} ago{stopped_in}", time::ago(state.proved_ns, now))
    });
    proved.unwrap_or_else(|| "never".to_owned())
}

/// What stands against the node by its drills; empty: nothing.
pub fn against(state: &pb::DrillState) -> String {
    match (&state.failed, state.overdue) {
        (Some(failed), _) => format!("{} failed, {}", failed.name, why(failed)),
        (None, true) => "overdue: no drill has proved a stop for too long".to_owned(),
        (None, false) => String::new(),
    }
}

/// The state.
pub fn status(state: &pb::DrillState, now: i64, zone: &TimeZone) -> String {
    let schedule = match state.every_ms {
        0 => "none: only `failsafectl drill now`".to_owned(),
        every => {
            let due = time::wall(state.due_ns.into(), zone);
            let [every, jitter] = [every, state.jitter_ms].map(|ms| time::long(i128::from(ms / 1_000)));
            format!("every {every}, jitter {jitter}; next after {due}")
        }
    };
    let last = state.last.as_ref().map(|last| {
        let why = why(last);
        let because = if why.is_empty() { String::new() } else { format!(": {why}") };
        format!("{}, {}{because}", time::wall(last.began_ns.into(), zone), word(last.proof()))
    });
    let mut out = table::pairs(
        "",
        [
            ("last proof", proved(state, now)),
            ("last drill", last.unwrap_or_else(|| "none".to_owned())),
            ("schedule", schedule),
            ("now", if state.running { "a drill is being done".to_owned() } else { String::new() }),
        ],
    );
    let against = against(state);
    if !against.is_empty() {
        let _ = writeln!(out, "NOT PROVED: {}", clean(&against));
    }
    out
}

/// One result, for programs.
pub fn value(result: &pb::DrillResult) -> Value {
    let steps: Vec<Value> =
        result.steps.iter().map(|step| json!({ "name": step.name, "took_ns": step.took_ns })).collect();
    json!({
        "run_id": result.run_id,
        "name": result.name,
        "result": word(result.proof()),
        "stopped_in_ns": result.stopped_in_ns,
        "steps": steps,
        "failed_step": result.failed_step,
        "problem": result.problem,
        "began_ns": result.began_ns,
        "took_ns": result.took_ns,
        "by": result.by,
        "reason": result.reason,
    })
}

/// The state, for programs.
pub fn state(state: &pb::DrillState) -> Value {
    let of = |result: &Option<pb::DrillResult>| result.as_ref().map(value);
    json!({
        "every_ms": state.every_ms,
        "jitter_ms": state.jitter_ms,
        "last": of(&state.last),
        "proved": of(&state.proved),
        "failed": of(&state.failed),
        "proved_ns": state.proved_ns,
        "due_ns": state.due_ns,
        "overdue": state.overdue,
        "running": state.running,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> pb::DrillResult {
        pb::DrillResult {
            run_id: "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".into(),
            name: "failsafe-drill-1".into(),
            proof: pb::DrillProof::Failed.into(),
            stopped_in_ns: Some(812_000),
            steps: vec![pb::DrillStep { name: "start".into(), took_ns: 9_000_000 }],
            failed_step: "still".into(),
            problem: "its process runs \u{1b}[2J".into(),
            took_ns: 300_000_000,
            by: "schedule drill".into(),
            reason: "it is due".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_failed_drill_is_shown_with_its_step_and_cannot_write_on_the_terminal() {
        let page = page(&failed(), &TimeZone::UTC);
        assert!(page.contains("FAILED") && page.contains("step still: its process runs"), "{page}");
        assert!(page.contains("812 us") && !page.contains('\u{1b}'), "{page}");
        let state = pb::DrillState { last: Some(failed()), failed: Some(failed()), ..Default::default() };
        let text = status(&state, 0, &TimeZone::UTC);
        assert!(text.contains("NOT PROVED: failsafe-drill-1 failed, step still"), "{text}");
        assert!(text.contains("last proof  never") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(super::state(&state)["failed"]["failed_step"], "still");
    }

    #[test]
    fn an_overdue_drill_and_the_schedule_are_shown() {
        let state = pb::DrillState { every_ms: 86_400_000, overdue: true, due_ns: 1, ..Default::default() };
        let text = status(&state, 0, &TimeZone::UTC);
        assert!(text.contains("every 1d") && text.contains("NOT PROVED: overdue"), "{text}");
        assert_eq!(against(&pb::DrillState::default()), "");
    }
}

//! Canaries of named policies.

use super::seconds;
use crate::metrics::families::Families;
use failsafe_proto::v1::{MetricsCanary, MetricsCanarySide, MetricsSnapshotResponse};

/// Stages with the names of `failsafectl policy canary list`.
const STAGES: [&str; 4] = ["running", "promoted", "withdrawn", "over"];
/// Canaries that have series; failsafed has no more.
const MOST: usize = 16;

/// Adds the series.
pub fn add(families: &mut Families, answer: &MetricsSnapshotResponse) {
    let all = || answer.canaries.iter().take(MOST);
    let mut stages = families.gauges("failsafed_canary_stage", "Stage of a canary: 1 for it, 0 for the others.");
    for canary in all() {
        for stage in STAGES {
            let is_it = f64::from(u8::from(canary.stage == stage));
            stages.with(&[("policy", canary.name.as_str()), ("stage", stage)], is_it);
        }
    }
    drop(stages);
    let help = "When the canary began, seconds since the epoch.";
    let mut start = families.gauges("failsafed_canary_start_time_seconds", help);
    for canary in all() {
        start.with(&[("policy", canary.name.as_str())], seconds(canary.since_ns));
    }
    drop(start);
    let help =
        "Whether a person has to decide: as many runs have ended as were asked for, and the criteria decide nothing.";
    let mut waits = families.gauges("failsafed_canary_waits", help);
    for canary in all() {
        waits.with(&[("policy", canary.name.as_str())], f64::from(u8::from(canary.waits)));
    }
    drop(waits);
    let help =
        "Runs that began while the canary was running, with the candidate or with the policy in force (control).";
    let mut runs = families.gauges("failsafed_canary_runs", help);
    for (canary, side, of) in all().flat_map(sides) {
        let labels = |state| [("policy", canary.name.as_str()), ("side", side), ("state", state)];
        runs.with(&labels("live"), of.live as f64);
        runs.with(&labels("ended"), of.runs.saturating_sub(of.live) as f64);
    }
    drop(runs);
    let help = "Runs of the canary that their policy froze, killed or blocked at least once.";
    let mut contained = families.gauges("failsafed_canary_contained_runs", help);
    for (canary, side, of) in all().flat_map(sides) {
        contained.with(&[("policy", canary.name.as_str()), ("side", side)], of.contained as f64);
    }
    drop(contained);
    let help = "Decisions by which the policies of these runs froze, killed or blocked one.";
    let mut decisions = families.counters("failsafed_canary_interventions_total", help);
    for (canary, side, of) in all().flat_map(sides) {
        decisions.with(&[("policy", canary.name.as_str()), ("side", side)], of.interventions as f64);
    }
}

/// Its runs with the candidate, and the others.
fn sides(canary: &MetricsCanary) -> impl Iterator<Item = (&MetricsCanary, &'static str, MetricsCanarySide)> {
    let both = [("candidate", canary.candidate), ("control", canary.control)];
    both.into_iter().filter_map(move |(side, of)| Some((canary, side, of?)))
}

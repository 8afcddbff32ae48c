//! Runs, and what was done to them.

use super::seconds;
use crate::metrics::families::{Families, label_name};
use failsafe_proto::v1::{MetricsRun, MetricsSnapshotResponse, RunState};
use std::collections::{BTreeMap, BTreeSet};

const STATES: [(RunState, &str); 4] = [
    (RunState::Running, "running"),
    (RunState::Frozen, "frozen"),
    (RunState::Partial, "partial"),
    (RunState::Guarded, "guarded"),
];

/// Actions of which outcomes have series before the first one.
const ACTIONS: [&str; 4] = ["block", "freeze", "kill", "thaw"];
const RESULTS: [&str; 3] = ["failed", "partial", "proved"];

fn state(of: RunState) -> &'static str {
    STATES.iter().find(|(state, _)| *state == of).map_or("unknown", |(_, name)| name)
}

fn mode(enforced: bool) -> &'static str {
    if enforced { "enforce" } else { "observe" }
}

/// Adds the series. `most` runs have series of their own.
pub fn add(families: &mut Families, answer: &MetricsSnapshotResponse, most: usize) {
    let counts: BTreeMap<i32, u64> = answer.run_counts.iter().map(|count| (count.state, count.count)).collect();
    let mut by_state = families.gauges("failsafed_runs", "Live runs, by state.");
    for (of, name) in STATES {
        by_state.with(&[("state", name)], counts.get(&(of as i32)).copied().unwrap_or(0) as f64);
    }
    drop(by_state);
    let listed = &answer.runs[..answer.runs.len().min(most)];
    let left_out = answer.runs_left_out + (answer.runs.len() - listed.len()) as u64;
    let help = "Live runs without series of their own, because of metrics.runs.";
    families.gauge("failsafed_runs_left_out", help, left_out as f64);
    add_runs(families, listed);
    add_interventions(families, answer);
    let counts = answer.denials.unwrap_or_default();
    let mut denials = families.counters("failsafed_denials_total", "What the kernel refused to runs, by kind.");
    for (kind, count) in [
        ("network-call", counts.denied_calls),
        ("operation", counts.denied_ops),
        ("packet", counts.dropped_packets),
        ("packet-over-budget", counts.budget_drops),
    ] {
        denials.with(&[("kind", kind)], count as f64);
    }
    drop(denials);
    let help = "Operations of runs that a rule watches or would have refused.";
    families.counter("failsafed_observed_operations_total", help, counts.observed_ops as f64);
    let help = "Policies that were refused for a run.";
    families.counter("failsafed_policies_refused_total", help, answer.policies_refused as f64);
}

fn add_runs(families: &mut Families, runs: &[MetricsRun]) {
    let help = "A live run. All other series of runs have the label run only: join them on it.";
    let mut info = families.gauges("failsafe_run_info", help);
    for run in runs {
        let uid = run.owner_uid.to_string();
        let mode = mode(!run.observed);
        let mut labels: Vec<(&str, &str)> = vec![
            ("run", &run.id),
            ("name", &run.name),
            ("owner_uid", &uid),
            ("policy", &run.policy_name),
            ("policy_digest", &run.policy_digest),
            ("mode", mode),
        ];
        // Users choose the keys: two of them can become the same name of a label.
        let own: BTreeMap<String, &String> = run.labels.iter().map(|(key, value)| (label_name(key), value)).collect();
        labels.extend(own.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        info.with(&labels, 1.0);
    }
    drop(info);
    let mut states = families.gauges("failsafed_run_state", "State of a live run: 1 for the state that it is in.");
    for run in runs {
        states.with(&[("run", run.id.as_str()), ("state", state(run.state()))], 1.0);
    }
    drop(states);
    let help = "When the run was registered, seconds since the epoch.";
    let mut start = families.gauges("failsafed_run_start_time_seconds", help);
    for run in runs {
        start.with(&[("run", run.id.as_str())], seconds(run.registered_ns));
    }
    drop(start);
    let mut frozen = families.counters("failsafed_run_frozen_seconds_total", "Time for which the run was frozen.");
    for run in runs {
        if let Some(ms) = run.frozen_ms {
            frozen.with(&[("run", run.id.as_str())], ms as f64 / 1e3);
        }
    }
    drop(frozen);
    let mut gpus = families.gauges("failsafed_run_gpu", "A GPU that the run was given or is on.");
    for run in runs {
        for gpu in run.gpus.iter().collect::<BTreeSet<_>>() {
            gpus.with(&[("run", run.id.as_str()), ("gpu", gpu)], 1.0);
        }
    }
    drop(gpus);
    let policies: BTreeSet<(&str, &str)> =
        runs.iter().map(|run| (run.policy_name.as_str(), run.policy_digest.as_str())).collect();
    let mut info = families.gauges("failsafed_policy_info", "A policy that a live run is pinned to.");
    for (policy, digest) in policies {
        info.with(&[("policy", policy), ("policy_digest", digest)], 1.0);
    }
}

fn add_interventions(families: &mut Families, answer: &MetricsSnapshotResponse) {
    let help = "Actions in decisions, by the rule that decided: an operator and failsafe itself are rules here too.";
    let mut interventions = families.counters("failsafed_interventions_total", help);
    for one in &answer.interventions {
        let labels = [("action", one.action.as_str()), ("rule", one.rule.as_str()), ("mode", mode(one.enforced))];
        interventions.with(&labels, one.count as f64);
    }
    drop(interventions);
    let help =
        "Outcomes of actions: proved, partial or failed. Actions of observe mode are not carried out: result would.";
    let mut actions = families.counters("failsafed_actions_total", help);
    // From 0 on: the first one would be no increase otherwise.
    let begun = ACTIONS.iter().flat_map(|action| RESULTS.iter().map(move |result| ((*action, *result), 0)));
    let mut outcomes: BTreeMap<(&str, &str), u64> = begun.collect();
    for one in &answer.actions {
        outcomes.insert((&one.action, &one.result), one.count);
    }
    for ((action, result), count) in outcomes {
        actions.with(&[("action", action), ("result", result), ("mode", mode(true))], count as f64);
    }
    let mut would: BTreeMap<&str, u64> = BTreeMap::new();
    for one in answer.interventions.iter().filter(|one| !one.enforced) {
        *would.entry(one.action.as_str()).or_default() += one.count;
    }
    for (action, count) in would {
        actions.with(&[("action", action), ("result", "would"), ("mode", mode(false))], count as f64);
    }
    drop(actions);
    let help = "Time from the cause of a decision to the proof of its action.";
    let mut durations = families.histograms("failsafed_containment_duration_seconds", help);
    for one in &answer.durations {
        let buckets = one.bounds_ns.iter().zip(&one.counts).map(|(bound, count)| (seconds(*bound), *count));
        let labels = [("action", one.action.as_str()), ("stage", "proved")];
        durations.histogram(&labels, (one.count, seconds(one.sum_ns)), buckets);
    }
}

//! The node: health, GPUs, sensors, the audit log, limits, and what failsafed itself uses.

use super::seconds;
use crate::metrics::families::Families;
use failsafe_proto::v1::{
    DrillProof, GapCount, Gpu, HealthLevel, HealthResponse, MetricsSnapshotResponse, NodeMode, PartHealth,
};
use std::collections::BTreeMap;

/// Reasons of one part that have series.
const REASONS: usize = 32;
/// Levels with the names of `failsafectl node health`.
const LEVELS: [(HealthLevel, &str); 5] = [
    (HealthLevel::Healthy, "healthy"),
    (HealthLevel::Degraded, "degraded"),
    (HealthLevel::Unknown, "unknown"),
    (HealthLevel::Draining, "draining"),
    (HealthLevel::Unhealthy, "unhealthy"),
];
/// Results of drills with their names.
const DRILLS: [(DrillProof, &str); 4] = [
    (DrillProof::Proved, "proved"),
    (DrillProof::Unproved, "unproved"),
    (DrillProof::NotDone, "not-done"),
    (DrillProof::Failed, "failed"),
];
/// Signals of GPUs: name of the signal, of the series, help, and what one unit of the signal is.
const SIGNALS: [(&str, &str, &str, f64); 6] = [
    (
        "gpu.utilization",
        "failsafed_gpu_utilization_ratio",
        "Part of the time in which a kernel ran on the GPU, 0 to 1.",
        1e-5,
    ),
    ("gpu.memory_used", "failsafed_gpu_memory_used_bytes", "Memory of the GPU in use.", 1.0),
    ("gpu.memory_total", "failsafed_gpu_memory_bytes", "Memory of the GPU.", 1.0),
    ("gpu.temperature", "failsafed_gpu_temperature_celsius", "Temperature of the GPU.", 1e-3),
    ("gpu.power", "failsafed_gpu_power_watts", "Power that the GPU draws.", 1e-3),
    ("gpu.energy", "failsafed_gpu_energy_joules_total", "Energy that the GPU has used.", 1e-3),
];

/// Adds the series.
pub fn add(families: &mut Families, answer: &MetricsSnapshotResponse) {
    families.gauges("failsafed_build_info", "Version of failsafed.").with(&[("version", answer.version.as_str())], 1.0);
    let start = "When failsafed started, seconds since the epoch. Its counters began at 0 then.";
    families.gauge("failsafed_start_time_seconds", start, seconds(answer.started_ns));
    let observes = answer.mode.as_ref().is_some_and(|mode| mode.mode == NodeMode::Observe as i32);
    let mode = "Whether the node only observes: everything is judged and recorded, nothing is contained.";
    families.gauge("failsafed_observe_mode", mode, f64::from(u8::from(observes)));
    if let Some(health) = &answer.health {
        add_health(families, health);
    }
    let fresh_ns = answer.health.as_ref().map_or(0, |health| health.fresh_ms.saturating_mul(1_000_000));
    add_gpus(families, answer, fresh_ns);
    add_sensors(families, answer);
    add_log(families, answer);
    add_limits(families, answer);
    add_overhead(families, answer);
    add_drills(families, answer);
    families.gauge("failsafed_shadows", "Policies that are judged beside those in force.", answer.shadows as f64);
    let help = "Inputs that shadows did not judge, as they could not keep up.";
    families.counter("failsafed_shadow_inputs_dropped_total", help, answer.shadow_inputs_dropped as f64);
}

fn add_health(families: &mut Families, health: &HealthResponse) {
    // What failsafed says of parts that it has not looked at for so long is not known any more.
    let is_stale = health.age_ms >= health.fresh_ms;
    let level = |part: &PartHealth| if is_stale { HealthLevel::Unknown } else { part.level() };
    let set = |part: &PartHealth| LEVELS.map(|(of, name)| (name, f64::from(u8::from(level(part) == of))));
    let mut node = families.gauges("failsafed_node_health", "Health of the node: 1 for its level, 0 for the others.");
    for (name, value) in health.node.iter().flat_map(set) {
        node.with(&[("level", name)], value);
    }
    drop(node);
    let mut gpus = families.gauges("failsafed_gpu_health", "Health of the GPU: 1 for its level, 0 for the others.");
    for part in &health.gpus {
        for (name, value) in set(part) {
            gpus.with(&[("gpu", part.gpu.as_str()), ("level", name)], value);
        }
    }
    drop(gpus);
    let help =
        "A reason against the health of the node (without gpu) or of a GPU. failsafectl node health explains it.";
    let mut reasons = families.gauges("failsafed_health_reason", help);
    for part in health.node.iter().chain(&health.gpus) {
        let mut codes: Vec<(&str, HealthLevel)> =
            part.reasons.iter().map(|reason| (reason.code.as_str(), reason.level())).collect();
        codes.sort_by_key(|(code, level)| (*code, *level as i32));
        codes.dedup_by_key(|(code, _)| *code);
        for (code, level) in codes.into_iter().take(REASONS) {
            let name = LEVELS.iter().find(|(of, _)| *of == level).map_or("", |(_, name)| name);
            reasons.with(&[("gpu", part.gpu.as_str()), ("code", code), ("level", name)], 1.0);
        }
    }
    drop(reasons);
    let age =
        "Age of what failsafed knows of the health. From failsafed_health_fresh_seconds on, the levels are unknown.";
    families.gauge("failsafed_health_age_seconds", age, health.age_ms as f64 / 1e3);
    let fresh = "Age from which on the health is unknown.";
    families.gauge("failsafed_health_fresh_seconds", fresh, health.fresh_ms as f64 / 1e3);
}

fn add_gpus(families: &mut Families, answer: &MetricsSnapshotResponse, fresh_ns: u64) {
    let mut info = families.gauges("failsafed_gpu_info", "A GPU that failsafed sees.");
    for gpu in &answer.gpus {
        let (index, name) = (gpu.index.to_string(), gpu.name.as_str());
        info.with(&[("gpu", gpu.uuid.as_str()), ("index", &index), ("name", name), ("pci", &gpu.pci)], 1.0);
    }
    drop(info);
    let help = "When the values of the GPU were read last, seconds since the epoch. Old values have no series.";
    let mut sampled = families.gauges("failsafed_gpu_last_sample_timestamp_seconds", help);
    for gpu in answer.gpus.iter().filter(|gpu| gpu.sampled_ns > 0) {
        sampled.with(&[("gpu", gpu.uuid.as_str())], seconds(gpu.sampled_ns));
    }
    drop(sampled);
    let is_fresh = |gpu: &Gpu| {
        let age = answer.at_ns.saturating_sub(gpu.sampled_ns);
        gpu.sampled_ns > 0 && u64::try_from(age).unwrap_or(0) < fresh_ns
    };
    for (signal, name, help, unit) in SIGNALS {
        let mut family =
            if name.ends_with("_total") { families.counters(name, help) } else { families.gauges(name, help) };
        for gpu in answer.gpus.iter().filter(|gpu| is_fresh(gpu)) {
            let fails =
                gpu.failing.iter().any(|what| what.strip_prefix(signal).is_some_and(|rest| rest.starts_with(':')));
            if let Some(reading) = gpu.readings.iter().find(|reading| reading.name == signal).filter(|_| !fails) {
                family.with(&[("gpu", gpu.uuid.as_str())], reading.value as f64 * unit);
            }
        }
    }
}

fn add_sensors(families: &mut Families, answer: &MetricsSnapshotResponse) {
    let mut up = families.gauges("failsafed_sensor_up", "Whether the sensor sees.");
    for sensor in &answer.sensors {
        up.with(&[("sensor", sensor.name.as_str())], f64::from(u8::from(sensor.sees)));
    }
    drop(up);
    let help = "When the sensor last succeeded, seconds since the epoch.";
    let mut last = families.gauges("failsafed_sensor_last_success_timestamp_seconds", help);
    for sensor in answer.sensors.iter().filter(|sensor| sensor.last_success_ns > 0) {
        last.with(&[("sensor", sensor.name.as_str())], seconds(sensor.last_success_ns));
    }
    drop(last);
    // From 0 on: the first one would be no increase otherwise.
    let mut gaps: BTreeMap<&str, GapCount> =
        answer.sensors.iter().map(|sensor| (sensor.name.as_str(), GapCount::default())).collect();
    gaps.extend(answer.gaps.iter().map(|gap| (gap.source.as_str(), gap.clone())));
    let help = "How often the sensor became blind, for the node, a GPU or a run.";
    let mut times = families.counters("failsafed_sensor_gaps_total", help);
    for (sensor, gap) in &gaps {
        times.with(&[("sensor", sensor)], gap.times as f64);
    }
    drop(times);
    let help = "Events that the sensor is known to have lost.";
    let mut lost = families.counters("failsafed_sensor_events_lost_total", help);
    for (sensor, gap) in &gaps {
        lost.with(&[("sensor", sensor)], gap.lost as f64);
    }
    drop(lost);
    let help = "Events of runs that the ring buffer of the kernel had no room for.";
    families.counter("failsafed_events_lost_total", help, answer.events_lost as f64);
}

fn add_log(families: &mut Families, answer: &MetricsSnapshotResponse) {
    let Some(log) = &answer.log else { return };
    let help = "Entries of the audit log.";
    families.gauge("failsafed_audit_log_entries", help, log.entries as f64);
    let help = "Whether the audit log is written, and nothing was found amiss with it.";
    families.gauge("failsafed_audit_log_healthy", help, f64::from(u8::from(log.healthy)));
    let help = "Findings about the audit log: entries that are missing or were replaced.";
    families.gauge("failsafed_audit_log_findings", help, log.findings as f64);
    let help = "Entries that were not written and not yet recorded as lost.";
    families.gauge("failsafed_audit_log_dropped_entries", help, log.dropped as f64);
    let help = "Entries that were summed up because the budget of a user is spent.";
    families.counter("failsafed_audit_log_summed_up_entries_total", help, log.limited as f64);
    let help = "Decisions, outcomes and gaps that are in no counter, as there was no room to note them.";
    families.counter("failsafed_uncounted_records_total", help, answer.uncounted as f64);
}

fn add_limits(families: &mut Families, answer: &MetricsSnapshotResponse) {
    let mut used = families.gauges("failsafed_limit_used", "What is used of a limit by users without a reserve.");
    for limit in &answer.limits {
        used.with(&[("limit", limit.name.as_str())], limit.used as f64);
    }
    drop(used);
    let mut most = families.gauges("failsafed_limit_maximum", "Most that users without a reserve may use.");
    for limit in &answer.limits {
        most.with(&[("limit", limit.name.as_str())], limit.total as f64);
    }
    drop(most);
    let mut refused = families.counters("failsafed_limit_refused_total", "Requests and connections that were refused.");
    for limit in &answer.limits {
        refused.with(&[("limit", limit.name.as_str())], limit.refused as f64);
    }
}

fn add_drills(families: &mut Families, answer: &MetricsSnapshotResponse) {
    let Some(drill) = &answer.drill else { return };
    if let Some(proved) = &drill.proved {
        let help = "When a drill proved last that this node stops a run, seconds since the epoch.";
        families.gauge("failsafe_stop_proved_timestamp_seconds", help, seconds(drill.proved_ns));
        if let Some(ns) = proved.stopped_in_ns {
            let help = "In the last drill that proved a stop: from the violation to the proof of the freeze.";
            families.gauge("failsafed_drill_stop_seconds", help, ns as f64 / 1e9);
        }
    }
    if let Some(last) = &drill.last {
        let help = "Result of the last drill: 1 for it, 0 for the others.";
        let mut results = families.gauges("failsafed_drill_result", help);
        for (proof, name) in DRILLS {
            results.with(&[("result", name)], f64::from(u8::from(last.proof() == proof)));
        }
        drop(results);
        families.gauge("failsafed_drill_duration_seconds", "Time that the last drill took.", last.took_ns as f64 / 1e9);
    }
    let help = "Whether by the schedule no drill has proved a stop for too long.";
    families.gauge("failsafed_drill_overdue", help, f64::from(u8::from(drill.overdue)));
    let mut done = families.counters("failsafed_drills_total", "Drills by result.");
    let counts = [drill.proved_count, drill.unproved_count, drill.not_done_count, drill.failed_count];
    for ((_, name), count) in DRILLS.iter().zip(counts) {
        done.with(&[("result", name)], count as f64);
    }
}

fn add_overhead(families: &mut Families, answer: &MetricsSnapshotResponse) {
    let Some(overhead) = &answer.overhead else { return };
    if let Some(cpu) = overhead.cpu_seconds {
        families.counter("failsafed_process_cpu_seconds_total", "CPU time that failsafed used.", cpu);
    }
    let gauges = [
        ("failsafed_process_resident_memory_bytes", "Resident memory of failsafed.", overhead.resident_bytes),
        ("failsafed_process_open_files", "Open files of failsafed.", overhead.open_files),
        ("failsafed_process_threads", "Threads of failsafed.", overhead.threads),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            families.gauge(name, help, value as f64);
        }
    }
    let help = "Fallbacks that slow down the processes of this node. failsafectl node status names them.";
    families.gauge("failsafed_costly_fallbacks", help, overhead.costs.len() as f64);
}

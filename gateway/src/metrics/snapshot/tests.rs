//! What is served of an answer, and what is not.

mod monitoring;

use super::*;
use failsafe_proto::v1::{
    ActionCount, ActionDuration, DrillProof, DrillResult, DrillState, GapCount, Gpu, HealthLevel, HealthReason,
    HealthResponse, InterventionCount, KernelCounts, Limit, LogCounts, MetricsCanary, MetricsCanarySide, MetricsRun,
    Overhead, PartHealth, Reading, RunCount, RunState, Sensor,
};
use std::{
    io::Write,
    process::{Command, Stdio},
};

const SECOND: i64 = 1_000_000_000;
const NOW: i64 = 1_800_000_000 * SECOND;

/// An answer in which every family has series, with names that users choose to do harm.
pub fn full() -> MetricsSnapshotResponse {
    let hostile = "a\"b\\c\nfailsafe_up 7\n{}";
    let reading = |name: &str, value| Reading { name: name.into(), value, text: String::new() };
    let reason =
        |code: &str| HealthReason { code: code.into(), level: HealthLevel::Degraded as i32, ..HealthReason::default() };
    let part = |gpu: &str| PartHealth {
        level: HealthLevel::Degraded as i32,
        reasons: vec![reason("xid-31"), reason("xid-31"), reason("hot")],
        gpu: gpu.into(),
        ..PartHealth::default()
    };
    let labels = [("a-b", "1"), ("a.b", "2"), ("job", hostile)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let run = MetricsRun {
        id: "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".into(),
        name: hostile.into(),
        policy_name: hostile.into(),
        policy_digest: "sha256:00".into(),
        state: RunState::Frozen as i32,
        labels: labels.into_iter().collect(),
        gpus: vec!["GPU-1".into(), "GPU-1".into()],
        frozen_ms: Some(1_500),
        registered_ns: NOW,
        ..MetricsRun::default()
    };
    MetricsSnapshotResponse {
        version: "0.1.0".into(),
        at_ns: NOW,
        started_ns: NOW - 60 * SECOND,
        health: Some(HealthResponse {
            age_ms: 100,
            fresh_ms: 10_000,
            node: Some(part("")),
            gpus: vec![part("GPU-1")],
            ..HealthResponse::default()
        }),
        gpus: vec![Gpu {
            uuid: "GPU-1".into(),
            name: "NVIDIA H100".into(),
            pci: "0000:17:00".into(),
            sampled_ns: NOW - SECOND,
            readings: vec![
                reading("gpu.utilization", 50_000),
                reading("gpu.memory_used", 1 << 30),
                reading("gpu.memory_total", 80 << 30),
                reading("gpu.temperature", 61_000),
                reading("gpu.power", 350_500),
                reading("gpu.energy", 1_000),
            ],
            ..Gpu::default()
        }],
        sensors: vec![Sensor { name: "ebpf".into(), sees: true, last_success_ns: NOW, ..Sensor::default() }],
        runs: vec![run.clone(), MetricsRun { id: "b".into(), state: RunState::Running as i32, ..run }],
        run_counts: vec![RunCount { state: RunState::Frozen as i32, count: 2 }],
        interventions: vec![
            InterventionCount { action: "freeze".into(), rule: hostile.into(), enforced: true, count: 3 },
            InterventionCount { action: "freeze".into(), rule: "r".into(), enforced: false, count: 4 },
        ],
        actions: vec![ActionCount { action: "freeze".into(), result: "proved".into(), count: 3 }],
        durations: vec![ActionDuration {
            action: "freeze".into(),
            count: 3,
            sum_ns: 30_000_000,
            counts: vec![1, 3],
            bounds_ns: vec![1_000_000, 20_000_000],
        }],
        denials: Some(KernelCounts { denied_calls: 5, ..KernelCounts::default() }),
        gaps: vec![GapCount { source: "nvml".into(), times: 1, lost: 2 }],
        log: Some(LogCounts { entries: 9, healthy: true, ..LogCounts::default() }),
        limits: vec![Limit { name: "connections".into(), total: 10, used: 1, ..Limit::default() }],
        overhead: Some(Overhead {
            cpu_seconds: Some(1.5),
            resident_bytes: Some(1),
            open_files: Some(1),
            threads: Some(1),
            costs: Vec::new(),
        }),
        drill: Some(drills()),
        shadows: 2,
        shadow_inputs_dropped: 7,
        canaries: vec![MetricsCanary {
            name: "trainer".into(),
            stage: "running".into(),
            since_ns: NOW,
            candidate: Some(MetricsCanarySide { runs: 24, live: 4, contained: 3, interventions: 5 }),
            control: Some(MetricsCanarySide { runs: 200, live: 40, contained: 2, interventions: 2 }),
            waits: true,
        }],
        ..MetricsSnapshotResponse::default()
    }
}

fn drills() -> DrillState {
    let stopped_in_ns = Some(812_000);
    let proved =
        DrillResult { proof: DrillProof::Proved as i32, stopped_in_ns, took_ns: 431_000_000, ..DrillResult::default() };
    let last = DrillResult { proof: DrillProof::Failed as i32, stopped_in_ns: None, ..proved.clone() };
    let (proved, last) = (Some(proved), Some(last));
    DrillState {
        proved,
        last,
        proved_ns: NOW,
        proved_count: 2,
        failed_count: 1,
        overdue: true,
        ..DrillState::default()
    }
}

fn own() -> Own {
    Own {
        refused: 1,
        failed: 2,
        took: Duration::from_millis(3),
        certificates: vec![("node", 1_800_000_000)],
        remote: vec![("permission", 3), ("handshake-failed", 0)],
    }
}

fn text(answer: Option<&MetricsSnapshotResponse>) -> String {
    String::from_utf8(families(answer, &own(), 1_000).text().unwrap()).unwrap()
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|it| it == line)
}

#[test]
fn the_text_has_the_values_of_the_answer() {
    let text = text(Some(&full()));
    for line in [
        "failsafe_up 1",
        "failsafed_node_health{level=\"degraded\"} 1",
        "failsafed_node_health{level=\"healthy\"} 0",
        "failsafed_gpu_health{gpu=\"GPU-1\",level=\"degraded\"} 1",
        "failsafed_gpu_utilization_ratio{gpu=\"GPU-1\"} 0.5",
        "failsafed_gpu_power_watts{gpu=\"GPU-1\"} 350.5",
        "failsafed_runs{state=\"frozen\"} 2",
        "failsafed_runs{state=\"guarded\"} 0",
        "failsafed_run_frozen_seconds_total{run=\"b\"} 1.5",
        "failsafed_denials_total{kind=\"network-call\"} 5",
        "failsafed_actions_total{action=\"freeze\",result=\"would\",mode=\"observe\"} 4",
        "failsafed_containment_duration_seconds_bucket{action=\"freeze\",stage=\"proved\",le=\"0.02\"} 3",
        "failsafed_containment_duration_seconds_bucket{action=\"freeze\",stage=\"proved\",le=\"+Inf\"} 3",
        "failsafed_containment_duration_seconds_sum{action=\"freeze\",stage=\"proved\"} 0.03",
        "failsafed_sensor_gaps_total{sensor=\"nvml\"} 1",
        "failsafed_drill_result{result=\"failed\"} 1",
        "failsafed_drill_result{result=\"proved\"} 0",
        "failsafed_drill_stop_seconds 0.000812",
        "failsafed_drill_duration_seconds 0.431",
        "failsafed_drill_overdue 1",
        "failsafed_drills_total{result=\"proved\"} 2",
        "failsafed_shadows 2",
        "failsafed_canary_stage{policy=\"trainer\",stage=\"running\"} 1",
        "failsafed_canary_stage{policy=\"trainer\",stage=\"withdrawn\"} 0",
        "failsafed_canary_runs{policy=\"trainer\",side=\"candidate\",state=\"live\"} 4",
        "failsafed_canary_runs{policy=\"trainer\",side=\"control\",state=\"ended\"} 160",
        "failsafed_canary_contained_runs{policy=\"trainer\",side=\"candidate\"} 3",
        "failsafed_canary_interventions_total{policy=\"trainer\",side=\"candidate\"} 5",
        "failsafed_canary_waits{policy=\"trainer\"} 1",
        "failsafed_canary_start_time_seconds{policy=\"trainer\"} 1800000000",
        "failsafed_shadow_inputs_dropped_total 7",
    ] {
        assert!(has(&text, line), "{line}\n--\n{text}");
    }
}

#[test]
fn a_stop_that_was_never_proved_has_no_time() {
    let stamp = "failsafe_stop_proved_timestamp_seconds";
    assert!(text(Some(&full())).contains(&format!("\n{stamp} ")));
    let mut answer = full();
    answer.drill.as_mut().unwrap().proved = None;
    assert!(!text(Some(&answer)).contains(stamp));
}

#[test]
fn names_that_users_choose_stay_within_the_value_of_a_label() {
    let text = text(Some(&full()));
    assert!(!has(&text, "failsafe_up 7"), "{text}");
    for line in text.lines().filter(|line| !line.starts_with('#') && line.contains("label_")) {
        assert!(line.starts_with("failsafe_run_info{"), "{line}");
        assert_eq!(line.matches("label_a_b=").count(), 1, "{line}");
    }
}

#[test]
fn without_an_answer_no_value_of_failsafed_is_served() {
    let text = text(None);
    assert!(has(&text, "failsafe_up 0"), "{text}");
    assert!(!text.contains("failsafed_"), "{text}");
}

#[test]
fn old_and_failing_values_of_a_gpu_have_no_series() {
    let mut answer = full();
    answer.gpus[0].failing = vec!["gpu.power: the GPU is lost".into()];
    let failing = text(Some(&answer));
    assert!(!failing.contains("failsafed_gpu_power_watts") && failing.contains("failsafed_gpu_utilization_ratio{"));
    answer.gpus[0].sampled_ns = NOW - 10 * SECOND;
    let old = text(Some(&answer));
    assert!(!old.contains("failsafed_gpu_utilization_ratio"), "{old}");
    assert!(old.contains("failsafed_gpu_last_sample_timestamp_seconds{gpu=\"GPU-1\"}"), "{old}");
}

#[test]
fn health_that_is_too_old_is_unknown() {
    let mut answer = full();
    answer.health.as_mut().unwrap().age_ms = 10_000;
    let text = text(Some(&answer));
    assert!(has(&text, "failsafed_node_health{level=\"unknown\"} 1"), "{text}");
    assert!(has(&text, "failsafed_node_health{level=\"degraded\"} 0"), "{text}");
}

#[test]
fn runs_beyond_the_limit_are_counted_and_have_no_series() {
    let text = String::from_utf8(families(Some(&full()), &own(), 1).text().unwrap()).unwrap();
    assert!(has(&text, "failsafed_runs_left_out 1"), "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("failsafe_run_info{")).count(), 1);
}

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    let Ok(promtool) = which::which("promtool") else {
        eprintln!("SKIPPED promtool_finds_nothing_to_say_about_the_metrics: promtool is not installed");
        return;
    };
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text(Some(&full())).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

//! Rules with a detector over values that a run reports: what trips, what the record says of it, and that a replay decides the same.

use anyhow::{Result, ensure};
use integration::{Launch, on_node, program, sentinel, wait_for};
use std::fs;

const POLICY: &str = r#"
[policy]
name = "detectors"
owner = "training@example.org"

[[rule]]
id = "spike"
rationale = "three of five losses far above those before them"
when = { signal = "metric.loss", detect = { method = "robust-z", window = 10 } }
actions = ["freeze", "snapshot", "notify"]
"#;

const STALL: &str = r#"
[policy]
name = "stall"
owner = "training@example.org"

[[rule]]
id = "no-step"
rationale = "values come, but the step does not change"
when = { signal = "metric.loss", detect = { method = "stall", after = "3s" } }
actions = ["freeze", "notify"]
"#;

#[test]
fn three_spikes_in_reported_values_freeze_the_run_and_their_score_is_explained() -> Result<()> {
    on_node("detectors", "", |node| {
        let gate = sentinel(node, "gate")?;
        let ctl = program("failsafectl")?.display().to_string();
        let wait = format!("until [ -s {} ]; do sleep 0.1; done", gate.display());
        let report = |values: &str| format!("for v in {values}; do {ctl} report loss $v || exit 1; done");
        let usual = report("2.31 2.28 2.35 2.30 2.27 2.33 2.29 2.32 2.26 2.34 nan 2.30 9.5");
        let script = format!("{usual}; echo reported; {wait}; {}; sleep 600", report("9.5 9.6"));
        let launch = Launch::new("spiky", POLICY).env("FAILSAFE_METRICS_SOCKET", node.metrics_socket());
        let run = launch.env("RANK", "0").start(node, ["sh", "-c", &script])?;
        run.says("reported")?;
        // What was accepted is judged soon after.
        wait_for("what the detector knows", || {
            Ok(!node.ctl(["describe", "spiky"])?.expect(0)?.out.contains("unknown:"))
        })?;
        ensure!(!integration::frozen(run.cgroup())?, "one spike alone trips nothing");

        fs::write(&gate, "go")?;
        run.freezes()?;
        let decision =
            node.wait_for_event("the decision", |e| e["body"]["decision"]["cause"]["Rule"]["rule"] == "spike")?;
        ensure!(decision["body"]["decision"]["values"][0]["value"]["Claimed"]["value"] == "9.6", "{decision}");
        let page = node.ctl(["explain", "spiky", "--full"])?.expect(0)?.out;
        ensure!(page.contains("metric.loss robust-z (limit 6, window 10,") && page.contains(": score "), "{page}");
        ensure!(node.ctl(["replay", "spiky"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}

#[test]
fn a_run_that_reports_the_same_step_again_and_again_is_frozen_as_stalled() -> Result<()> {
    on_node("stalled", "", |node| {
        let ctl = program("failsafectl")?.display().to_string();
        let script = format!("while :; do {ctl} report loss 2.31 7; sleep 0.5; done");
        let launch = Launch::new("stalled", STALL).env("FAILSAFE_METRICS_SOCKET", node.metrics_socket());
        let run = launch.env("RANK", "0").start(node, ["sh", "-c", &script])?;
        run.freezes()?;
        let trips = |e: &serde_json::Value| e["body"]["decision"]["cause"]["Rule"]["rule"] == "no-step";
        node.wait_for_event("the decision", trips)?;
        wait_for("what is explained", || {
            let page = node.ctl(["explain", "stalled", "--full"])?.expect(0)?.out;
            Ok(page.contains("metric.loss stall (after 3.0 s): score "))
        })?;
        ensure!(node.ctl(["replay", "stalled"])?.expect(0)?.out.contains("identical"));
        node.log_is_whole()
    })
}

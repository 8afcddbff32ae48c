//! `node health` and its kin: the exit codes that a scheduler's prolog acts on.

use crate::support::{Answers, Fake, bare};
use failsafe_proto::v1 as pb;

fn node(level: pb::HealthLevel, own: Vec<pb::HealthReason>) -> Answers {
    let gpu = |gpu: &str, index, level: pb::HealthLevel| pb::PartHealth {
        gpu: gpu.into(),
        name: "H100".into(),
        index,
        level: level as i32,
        ..Default::default()
    };
    Answers {
        health: pb::HealthResponse {
            node: Some(pb::PartHealth { level: level as i32, reasons: own, ..Default::default() }),
            gpus: vec![gpu("GPU-a", 0, pb::HealthLevel::Healthy), gpu("GPU-b", 1, pb::HealthLevel::Unhealthy)],
            ..Default::default()
        },
        ..Answers::default()
    }
}

fn code(fake: &Fake, args: &[&str]) -> i32 {
    fake.command().args(args).output().unwrap().status.code().unwrap()
}

#[test]
fn each_level_has_its_exit_code() {
    for (level, expected) in [
        (pb::HealthLevel::Healthy, 0),
        (pb::HealthLevel::Degraded, 10),
        (pb::HealthLevel::Draining, 11),
        (pb::HealthLevel::Unhealthy, 12),
        (pb::HealthLevel::Unknown, 13),
        (pb::HealthLevel::Unspecified, 13),
    ] {
        let fake = Fake::start(node(level, vec![]));
        assert_eq!(code(&fake, &["node", "health"]), expected, "{level:?}");
        if level == pb::HealthLevel::Degraded {
            assert_eq!(code(&fake, &["node", "health", "--accept-degraded"]), 0);
            assert_eq!(code(&fake, &["node", "health", "--gpu", "0"]), 0);
            assert_eq!(code(&fake, &["node", "health", "--gpu", "0,1"]), 12);
            assert_eq!(code(&fake, &["node", "health", "--gpu", "7"]), 6);
        }
    }
}

#[test]
fn without_a_daemon_the_health_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["health", "placeable"] {
        let out = bare(&dir.path().join("none")).args(["node", command]).output().unwrap();
        assert_eq!(out.status.code(), Some(13), "{command}: {out:?}");
    }
}

#[test]
fn placement_changes_and_orders_reach_the_daemon() {
    let fake = Fake::start(node(pb::HealthLevel::Healthy, vec![]));
    assert_eq!(code(&fake, &["node", "placeable", "--count", "3"]), 0);
    assert_eq!(code(&fake, &["node", "placeable", "--count", "4"]), 14);
    assert_eq!(code(&fake, &["node", "cordon"]), 2, "an order has a reason");
    assert_eq!(code(&fake, &["node", "cordon", "-r", "kernel update"]), 0);
    assert_eq!(code(&fake, &["gpu", "reset-health", "1", "-r", "replaced"]), 0);
    assert_eq!(code(&fake, &["gpu", "reset", "1", "-r", "xid 95"]), 1, "the tool said no");
    let asked = fake.asked.lock().unwrap();
    let orders: Vec<_> = asked.orders.iter().map(|(what, r)| (*what, r.gpu.as_str(), r.reason.as_str())).collect();
    assert_eq!(orders, [("cordon", "", "kernel update"), ("reset-health", "1", "replaced")]);
    drop(asked);
    let out = fake.ctl("gpu watch --since 4 -o json");
    let lines = String::from_utf8(out.stdout).unwrap();
    let change: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!((change["revision"].as_u64(), change["to"].as_str()), (Some(6), Some("draining")), "{lines}");
}

#[test]
fn a_file_that_cannot_be_compared_with_gets_no_answer() {
    let fake = Fake::start(node(pb::HealthLevel::Healthy, vec![]));
    let (file, of_run) = (fake.dir.path().join("broken.json"), fake.dir.path().join("run.json"));
    std::fs::write(&file, "{}").unwrap();
    let values = r#"{"factors":{"run/x":{"class":"result","value":1}},"format":1,"kind":"failsafe-reference-values",
        "leftOut":{},"regime":"seeded","scope":"run","statements":1}"#;
    std::fs::write(&of_run, values).unwrap();
    for (file, expected) in [("/nonexistent.json".as_ref(), 1), (file.as_path(), 7), (of_run.as_path(), 2)] {
        for more in [&["--count", "1"][..], &["--count", "1", "-o", "json"]] {
            let out = fake.command().args(["node", "placeable", "--like"]).arg(file).args(more).output().unwrap();
            assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(expected), &b""[..]), "{out:?}");
        }
    }
}

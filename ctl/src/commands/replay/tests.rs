//! Replays of recordings made here, whole and cut.

use super::*;
use failsafe_core::{
    RunId, State,
    input::{Contained, Input, Run},
    policy::{PolicySet, parse::parse},
    replay::Recorded,
    signal::{Kind, Real, Signal, Source, Value},
    step,
    subject::Subject,
    time::MonoTime,
};
use failsafe_journal::Recorder;
use serde_json::json;
use std::sync::Arc;

const POLICY: &str = r#"
[policy]
name = "p"
owner = "o"

[[rule]]
id = "diverged"
rationale = "x"
when = { signal = "metric.loss", above = 10.0 }
actions = ["freeze"]
"#;

fn policy(bound: &str) -> Policy {
    parse("p", &POLICY.replace("10.0", bound)).unwrap()
}

/// What a run whose loss takes these values does, second by second: inputs and decisions as the daemon records them.
fn recorded(losses: &[f64]) -> (Run, Vec<Recorded>) {
    let policy = policy("10.0");
    let id: RunId = crate::testing::RUN.parse().unwrap();
    let run = Run {
        id,
        name: "trainer".into(),
        labels: Default::default(),
        owner_uid: 1000,
        cgroup: "c".into(),
        cgroup_id: 7,
        boot_id: "b".into(),
        policy: policy.digest(),
        gpus: Default::default(),
        mig: Default::default(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Contained::default(),
    };
    let policies: PolicySet = [(policy.digest(), Arc::new(policy))].into();
    let mut state = State::default();
    let signals = (1u64..).zip(losses).map(|(seq, loss)| {
        Input::Signal(Signal {
            seq,
            at: MonoTime(seq * 1_000_000_000),
            source: Source::App,
            subject: Subject::Run(id),
            kind: Kind::Metric("loss".into()),
            value: Value::Real(Real(*loss)),
            repeats: 0,
        })
    });
    let mut out = Vec::new();
    for input in std::iter::once(Input::RunStarted(run.clone())).chain(signals) {
        let decisions = step(&policies, &mut state, &input);
        out.push(Recorded::Input(input));
        out.extend(decisions.into_iter().map(Recorded::Decision));
    }
    (run, out)
}

struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

/// Writes a recording; `finish`: with its end mark.
fn write(run: &Run, entries: &[Recorded], finish: bool) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.fsrec");
    let header = json!({
        "format": "failsafe-recording", "version": 1, "run": run, "policy": policy("10.0"), "host": { "hostname": "n1" }
    });
    let mut recorder = Recorder::create(&path, &header, 1 << 20).unwrap();
    for entry in entries {
        recorder.record(1, entry).unwrap();
    }
    if finish {
        recorder.finish().unwrap();
    } else {
        drop(recorder);
    }
    File { _dir: dir, path }
}

const LOSSES: &[f64] = &[2.0, 12.0, 3.0, f64::NAN, 15.0, 2.0];

#[test]
fn a_recording_replays_to_the_same_decisions() {
    let (run, entries) = recorded(LOSSES);
    let file = write(&run, &entries, true);
    let report = judge(&file.path, None, None).unwrap();
    assert_eq!(report.exit(), Exit::Done);
    insta::assert_snapshot!(report.text());
    let json = report.json();
    assert_eq!((json["identical"].as_bool(), json["recorded"].as_array().unwrap().len()), (Some(true), 2));
    assert_eq!(json["recorded"], json["replayed"]);
}

#[test]
fn a_changed_decision_is_found() {
    let (run, mut entries) = recorded(LOSSES);
    let changed = entries.iter_mut().filter_map(|e| if let Recorded::Decision(d) = e { Some(d) } else { None }).nth(1);
    changed.unwrap().because = vec![4];
    let file = write(&run, &entries, true);
    let report = judge(&file.path, None, None).unwrap();
    assert_eq!((report.exit(), report.json()["differs_at"].as_u64()), (Exit::Error, Some(1)));
    assert!(report.text().contains("DIFFERS at decision 2"), "{}", report.text());
    assert!(report.text().ends_with("  in        inputs\n"), "{}", report.text());
    entries.retain(|e| matches!(e, Recorded::Input(_)));
    let file = write(&run, &entries, true);
    assert_eq!(judge(&file.path, None, None).unwrap().exit(), Exit::Error, "decisions that were not recorded");
}

#[test]
fn another_policy_shows_what_it_would_have_decided() {
    let (run, entries) = recorded(LOSSES);
    let file = write(&run, &entries, true);
    let under = |bound: &str| judge(&file.path, Some(policy(bound)), Some("other.toml".into())).unwrap();
    assert_eq!(under("11.0").exit(), Exit::Done, "another digest, the same decisions");
    assert_eq!(under("14.0").exit(), Exit::Error);
    insta::assert_snapshot!(under("14.0").text());
    let stays = under("2.5").text();
    assert!(stays.contains("  +2.000 s  freeze") && stays.contains("- +5.000 s  freeze"), "{stays}");
    assert!(under("1.0").text().contains("+ +1.000 s  freeze"), "{}", under("1.0").text());
}

#[test]
fn a_recording_without_its_end_is_identical_so_far() {
    let (run, entries) = recorded(LOSSES);
    let file = write(&run, &entries, false);
    let open = judge(&file.path, None, None).unwrap();
    assert_eq!((open.exit(), open.json()["recording_end"].as_str()), (Exit::Done, Some("open")));
    // Cut anywhere behind the header, also between an input and its decision: never a difference.
    let bytes = std::fs::read(&file.path).unwrap();
    let mut torn = 0;
    for len in bytes.len() / 2..bytes.len() {
        std::fs::write(&file.path, &bytes[..len]).unwrap();
        let Ok(report) = judge(&file.path, None, None) else { continue };
        let text = report.text();
        assert!(text.contains("identical"), "cut at {len}: {text}");
        torn += usize::from(report.exit() == Exit::Partial);
    }
    assert!(torn > 100, "{torn}");
}

#[test]
fn a_recording_of_something_else_is_refused() {
    let (mut run, entries) = recorded(LOSSES);
    let failure = |run: &Run| judge(&write(run, &entries, true).path, None, None).unwrap_err();
    run.policy = policy("11.0").digest();
    assert!(failure(&run).message.contains("the run was pinned to"), "{}", failure(&run));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    std::fs::write(&path, "not a recording").unwrap();
    assert_eq!(judge(&path, None, None).unwrap_err().exit, Exit::Error);
    Recorder::create(&dir.path().join("y"), &json!({ "format": "failsafe-recording", "version": 2 }), 1 << 20).unwrap();
    assert!(judge(&dir.path().join("y"), None, None).unwrap_err().message.contains("version 2 is not known"));
}

#[test]
fn damage_is_an_error_not_an_end() {
    let (run, entries) = recorded(LOSSES);
    let file = write(&run, &entries, true);
    let mut bytes = std::fs::read(&file.path).unwrap();
    let first = failsafe_journal::RecordingReader::open(&file.path).unwrap().next().unwrap().unwrap();
    bytes[usize::try_from(first.offset).unwrap() + 20] ^= 1;
    std::fs::write(&file.path, &bytes).unwrap();
    let fail = judge(&file.path, None, None).unwrap_err();
    assert!(fail.message.contains("damaged at byte"), "{fail}");
}

#[test]
fn files_and_runs_are_told_apart() {
    assert!(local("./trainer").is_some());
    assert!(local("x.fsrec").is_some());
    assert!(local("trainer").is_none());
}

//! Replays of recordings made here, whole and cut.

use super::{judge as judge_against, *};
use crate::testing::Log;
use failsafe_core::record::{Record, RecordingSeal};
use failsafe_core::{
    RunId, State,
    event::{Assurance, Event, ExecKind, NetOp, Verdict},
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

fn judge(file: &Path, other: Option<Policy>, under: Option<String>) -> Result<Report, Fail> {
    let under = other.as_ref().zip(under.as_deref());
    judge_against(file, under, |_| Ok(Audit::skipped("there is none in this test")))
}

pub(super) const POLICY: &str = r#"
[policy]
name = "p"
owner = "o"

[[rule]]
id = "diverged"
rationale = "x"
when = { signal = "metric.loss", above = 10.0 }
actions = ["freeze"]
"#;

pub(super) fn policy(bound: &str) -> Policy {
    parse("p", &POLICY.replace("10.0", bound)).unwrap()
}

/// What a run whose loss takes these values does, second by second: inputs and decisions as the daemon records them.
pub(super) fn recorded(losses: &[f64]) -> (Run, Vec<Recorded>) {
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
    let out = decided(&run, 0, losses);
    (run, out)
}

/// What the engine does about a run whose loss takes these values, one in each second after `from`, seconds.
fn decided(run: &Run, from: u64, losses: &[f64]) -> Vec<Recorded> {
    let policies: PolicySet = [(run.policy, Arc::new(policy("10.0")))].into();
    let mut state = State::default();
    let signals = (1u64..).zip(losses).map(|(seq, loss)| {
        Input::Signal(Signal {
            seq,
            at: MonoTime((from + seq) * 1_000_000_000),
            source: Source::App,
            subject: Subject::Run(run.id),
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
    out
}

pub(super) struct File {
    _dir: tempfile::TempDir,
    pub(super) path: PathBuf,
}

/// Writes a recording; `finish`: with its end mark.
pub(super) fn write(run: &Run, entries: &[Recorded], finish: bool) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.fsrec");
    let header = json!({
        "format": "failsafe-recording", "version": 1, "engine": failsafe_core::replay::ENGINE, "run": run,
        "policy": policy("10.0"), "host": { "hostname": "n1" }
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

pub(super) const LOSSES: &[f64] = &[2.0, 12.0, 3.0, f64::NAN, 15.0, 2.0];

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
fn a_log_that_the_caller_named_and_that_has_nothing_of_the_run_is_no_whole_result() {
    let (run, entries) = recorded(LOSSES);
    let file = write(&run, &entries, true);
    for (named, expected) in [(false, Exit::Done), (true, Exit::Partial)] {
        let audit = || Audit { named, ..Audit::skipped("the audit log has no beginning of the run") };
        assert_eq!(judge_against(&file.path, None, |_| Ok(audit())).unwrap().exit(), expected);
    }
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
fn another_policy_judges_destinations_and_programs_anew() {
    let (run, mut entries) = recorded(&[]);
    let (verdict, assurance) = (Verdict::Allowed, Assurance::Observed);
    let connect = |address: [u8; 4]| {
        let (op, address) = (NetOp::Connect, address.into());
        Event::Net { op, protocol: 6, address, port: 443, family: 2, verdict, assurance }
    };
    let (path, argv, kind) = ("/tmp/x".to_owned(), "x".to_owned(), ExecKind::File);
    let exec = Event::Exec { path, known_as: Vec::new(), argv, kind, verdict, assurance };
    let events = [connect([10, 0, 0, 1]), connect([192, 0, 2, 1]), exec, Event::Fork { child: 2, verdict }];
    entries.extend((2..).zip(events).map(|(seq, event)| {
        Recorded::Input(Input::Signal(Signal {
            seq,
            at: MonoTime(seq * 1_000_000_000),
            source: Source::Ebpf,
            subject: Subject::Run(run.id),
            kind: Kind::Event,
            value: Value::Event(event),
            repeats: 0,
        }))
    }));
    let file = write(&run, &entries, true);
    let rule = |id: &str, event: &str| {
        format!(
            "[[rule]]\nid = \"{id}\"\nrationale = \"x\"\nwhen = {{ event = \"{event}\", verdict = \"denied\" }}\n\
             actions = [\"notify\"]\n"
        )
    };
    let lists = "[egress]\nallow = [{ cidr = \"10.0.0.0/8\" }]\n[exec]\nallow = [\"/usr/bin/*\"]\n";
    let text = format!("{POLICY}{}{}{lists}", rule("out", "connect"), rule("program", "exec"));
    let stricter = judge(&file.path, Some(parse("p", &text).unwrap()), Some("stricter.toml".into())).unwrap();
    assert_eq!(stricter.json()["verdicts"]["changed"], 2);
    insta::assert_snapshot!(stricter.text());
    assert!(judge(&file.path, None, None).unwrap().json()["verdicts"].is_null());
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

/// The log of a run that began with `run` and decided what is in `entries`; `seal`: as the daemon closed the recording.
fn logged(run: &Run, entries: &[Recorded], seal: Option<RecordingSeal>) -> Vec<Logged> {
    let mut log = Log::default();
    let (policy_name, broken, repair) = ("p v1".to_owned(), Vec::new(), Vec::new());
    log.add(0, Record::RunStarted { run: run.clone(), policy_name, broken, repair });
    for entry in entries {
        if let Recorded::Decision(decision) = entry {
            log.add(
                decision.at.0 / 1_000,
                Record::Decision { decision: decision.clone(), rule: None, blind: None, drill: false },
            );
        }
    }
    if let Some(seal) = seal {
        log.add(
            99_000_000,
            Record::RunEnded {
                run: run.id,
                name: run.name.clone(),
                recording: Some(seal),
                suppressed: Vec::new(),
                unwatched: None,
                frozen_ns: None,
            },
        );
    }
    log.entries
}

fn seal(file: &File) -> RecordingSeal {
    let mut reader = failsafe_journal::RecordingReader::open(&file.path).unwrap();
    let frames = reader.by_ref().count() as u64;
    let hash = reader.hash().map(hex::encode);
    RecordingSeal { part: 0, frames, hash, complete: true, problem: None }
}

fn against(file: &File, log: &[Logged]) -> Report {
    judge_against(&file.path, None, |given| Audit::of(given, log)).unwrap()
}

#[test]
fn a_recording_is_compared_with_the_audit_log() {
    let (run, entries) = recorded(LOSSES);
    let file = write(&run, &entries, true);
    let whole = logged(&run, &entries, Some(seal(&file)));
    let report = against(&file, &whole);
    assert_eq!(report.exit(), Exit::Done);
    assert!(report.text().contains("audit log  2 decisions the same, the same hash\n"), "{}", report.text());
    assert!(report.text().ends_with("\nidentical\n"));

    // Whoever drops a decision with its cause, and chains the frames anew, has a recording that replays to itself.
    let found = |entries: &[Recorded], finish: bool, log: &[Logged], problem: &str| {
        let file = write(&run, entries, finish);
        assert_eq!(judge(&file.path, None, None).unwrap().exit(), Exit::Done, "by itself it is in order");
        let report = against(&file, log);
        assert_eq!(report.exit() as u8, 7, "{}", report.text());
        assert!(
            report.text().contains(problem) && !report.text().contains("identical"),
            "{problem}: {}",
            report.text()
        );
        assert_eq!(report.json()["audit_log"]["problems"].as_array().map(Vec::is_empty), Some(false));
    };
    let without = |dropped: &[usize]| -> Vec<Recorded> {
        entries.iter().enumerate().filter(|(n, _)| !dropped.contains(n)).map(|(_, e)| e.clone()).collect()
    };
    let causes: Vec<usize> = (1..entries.len()).filter(|n| matches!(entries[*n], Recorded::Decision(_))).collect();
    let all: Vec<usize> = causes.iter().flat_map(|n| [n - 1, *n]).collect();
    let unsealed = logged(&run, &entries, None);
    for log in [&whole, &unsealed] {
        found(&without(&all), true, log, "decision 2 because of rule diverged");
    }
    let last = causes[causes.len() - 1];
    found(&entries[..last - 1], true, &whole, "decision 2 because of rule diverged");
    found(&entries[..last - 1], false, &whole, "frames that it had when it was closed: it was cut off");
    // A frame that caused nothing leaves all decisions as they are.
    found(&without(&[1]), true, &whole, "it was cut off, or frames were removed");
    let mut other = entries.clone();
    other.swap(1, entries.len() - 1);
    found(&other[..entries.len() - 1], true, &whole, "it was cut off, or frames were removed");
}

#[test]
fn a_recording_of_another_run_or_of_an_earlier_time_is_found() {
    let (run, entries) = recorded(LOSSES);
    let file = write(&run, &entries, true);
    let renamed = Run { name: "other".into(), ..run.clone() };
    let report = against(&file, &logged(&renamed, &entries, Some(seal(&file))));
    assert!(
        report.exit() == Exit::Tampered && report.text().contains("no beginning of recording"),
        "{}",
        report.text()
    );

    // A restarted daemon has begun recording 1; the file is recording 0.
    let mut log = logged(&run, &entries, None);
    let adopted = Run { decisions: 2, incidents: 2, ..run.clone() };
    let mut later = Log::default();
    later
        .add(100_000_000, Record::RunAdopted { run: adopted, found: "running".into(), part: 1, frozen_until_ns: None });
    log.extend(later.entries);
    let path = file.path.clone();
    let latest = judge_against(&path, None, |given| {
        given.recordings[0].part = Some(0);
        given.latest = true;
        Audit::of(given, &log)
    });
    let latest = latest.unwrap();
    assert!(
        latest.text().contains("recording of the run is 0, but the audit log has recording 1"),
        "{}",
        latest.text()
    );
    assert_eq!(latest.exit(), Exit::Tampered);
    let named = against(&file, &log);
    assert_eq!(named.exit(), Exit::Done, "{}", named.text());
    assert!(named.text().contains("ended without closing it"), "{}", named.text());
}

#[test]
fn what_a_crash_or_a_full_disk_leaves_is_no_tampering() {
    let (run, entries) = recorded(LOSSES);
    let whole = write(&run, &entries, true);
    let cut = write(&run, &entries[..entries.len() - 4], false);
    // The daemon could not write the end.
    let failed = RecordingSeal { problem: Some("no space".into()), ..seal(&whole) };
    let report = against(&cut, &logged(&run, &entries, Some(failed)));
    assert_eq!(report.exit(), Exit::Partial, "{}", report.text());
    assert!(report.text().contains("no space") && report.text().contains("its end was lost"), "{}", report.text());
    // A live run: the log is read after the recording.
    let live = against(&cut, &logged(&run, &entries, None));
    assert!(live.exit() == Exit::Partial && live.is_behind(), "{}", live.text());
    assert!(live.text().contains("no hash; the run lives"), "{}", live.text());
    assert!(live.text().contains("not covered by the replay:\n  decision 2 because"), "{}", live.text());
    let live = against(&whole, &logged(&run, &entries, None));
    assert!(live.exit() == Exit::Done && !live.is_behind(), "{}", live.text());
    // A decision that the log does not have.
    let shorter = logged(&run, &entries[..3], None);
    let ahead = against(&whole, &shorter);
    assert!(ahead.exit() == Exit::Tampered && ahead.text().contains("missing in the audit log"), "{}", ahead.text());
    assert!(against(&whole, &[]).text().contains("not compared: the audit log has no beginning"));
}

#[test]
fn files_and_runs_are_distinguished() {
    assert!(local("./trainer").is_some());
    assert!(local("x.fsrec").is_some());
    assert!(local("trainer").is_none());
}

/// Writes a recording with this header.
fn with_header(header: &serde_json::Value, entries: &[Recorded]) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.fsrec");
    let mut recorder = Recorder::create(&path, header, 1 << 20).unwrap();
    for entry in entries {
        recorder.record(1, entry).unwrap();
    }
    recorder.finish().unwrap();
    File { _dir: dir, path }
}

#[test]
fn a_difference_that_an_earlier_engine_explains_is_no_tampering() {
    let text = POLICY.replace("metric.loss", "gpu.utilization").replace("10.0", "\"90 %\"");
    let policy = parse("p", &text).unwrap();
    let (run, _) = recorded(&[]);
    let gpu = failsafe_core::GpuId("GPU-1".into());
    let mig = [(gpu.clone(), ["MIG-1".to_owned()].into())].into();
    let run = Run { policy: policy.digest(), gpus: [gpu.clone()].into(), mig, ..run };
    let signal = Signal {
        seq: 1,
        at: MonoTime(1_000_000_000),
        source: Source::Nvml,
        subject: Subject::Gpu(gpu),
        kind: Kind::GpuUtilization,
        value: Value::Integer(99_000),
        repeats: 0,
    };
    // As the engine decides of a run that has the whole GPU, which an early engine 5 did here too.
    let policies: PolicySet = [(policy.digest(), Arc::new(policy.clone()))].into();
    let mut state = State::default();
    let whole = Run { mig: Default::default(), ..run.clone() };
    step(&policies, &mut state, &Input::RunStarted(whole));
    let decisions = step(&policies, &mut state, &Input::Signal(signal.clone()));
    assert_eq!(decisions.len(), 1);
    let inputs = [Input::RunStarted(run.clone()), Input::Signal(signal)].map(Recorded::Input);
    let entries: Vec<Recorded> = inputs.into_iter().chain(decisions.into_iter().map(Recorded::Decision)).collect();
    let report = |engine: Option<u32>| {
        let mut header = json!({ "format": "failsafe-recording", "version": 1, "run": run, "policy": policy });
        if let Some(engine) = engine {
            header["engine"] = engine.into();
        }
        judge(&with_header(&header, &entries).path, None, None).unwrap()
    };
    let old = report(Some(5));
    assert_eq!(old.exit(), Exit::Partial);
    let text = old.text();
    assert!(text.contains("DIFFERS at decision 1") && text.contains("engine 6: a run with MIG devices"), "{text}");
    assert!(text.contains("it is no sign that the recording was changed"), "{text}");
    assert_eq!(old.json()["engine_changes"].as_array().map(Vec::len), Some(1));

    let newer = report(Some(99));
    assert!(newer.exit() == Exit::Partial && newer.text().contains("use the failsafectl of"), "{}", newer.text());
    let unexplained = report(Some(7));
    assert!(
        unexplained.exit() == Exit::Error && unexplained.text().contains("no known change"),
        "{}",
        unexplained.text()
    );
    let own = report(Some(failsafe_core::replay::ENGINE));
    assert!(own.exit() == Exit::Error && !own.text().contains("engine"), "{}", own.text());
}

#[test]
fn a_policy_with_parts_that_are_not_known_is_no_tampering() {
    let (run, entries) = recorded(LOSSES);
    let mut written = json!(policy("10.0"));
    written["a_later_field"] = json!({ "policy": "x" });
    let digest = failsafe_core::PolicyDigest::of_content(&serde_json::to_vec(&written).unwrap());
    let run = Run { policy: digest, name: "\"policy\":{".into(), ..run };
    let header = |policy: &serde_json::Value| json!({ "format": "failsafe-recording", "version": 1, "run": run, "policy": policy });
    let fail = judge(&with_header(&header(&written), &entries).path, None, None).unwrap_err();
    assert!(fail.exit == Exit::Error && fail.message.contains("parts that this program does not know"), "{fail}");
    written["owner"] = json!("somebody else");
    let fail = judge(&with_header(&header(&written), &entries).path, None, None).unwrap_err();
    assert!(fail.exit == Exit::Tampered && fail.message.contains("the recording was changed"), "{fail}");
}

mod several;

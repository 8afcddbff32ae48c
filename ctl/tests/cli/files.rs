//! What works on files: the log and recordings, with the daemon and without.

use crate::{
    fixtures::*,
    support::{Answers, Fake, bare, err, out},
};
use failsafe_core::{input::Input, replay::Recorded, time::MonoTime};
use failsafe_journal::Recorder;
use failsafe_proto::v1 as pb;
use std::os::unix::fs::PermissionsExt;
use std::{path::Path, process::Output};

/// Runs failsafectl on this state folder while no daemon answers.
fn without_a_daemon(state: &Path) -> impl Fn(&str) -> Output {
    move |line| {
        let mut command = bare(Path::new("/nonexistent"));
        command.arg("--state-dir").arg(state).args(line.split_whitespace()).output().unwrap()
    }
}

#[test]
fn events_are_the_logs_own_bytes_with_or_without_the_daemon() {
    let state = tempfile::tempdir().unwrap();
    let records = write_log(state.path());
    let fake = Fake::start(Answers { run: core_like(), records: records.clone(), ..Default::default() });
    let expected: String = records.iter().map(|r| format!("{}\n", String::from_utf8_lossy(&r.entry))).collect();
    assert_eq!(out(&fake.ctl("events -o json")), expected);
    let offline = without_a_daemon(state.path());
    assert_eq!(out(&offline("events --offline -o json")), expected);
    let (online, from_file) = (out(&fake.ctl("events")), out(&offline("events --offline")));
    assert_eq!(online, from_file);
    assert!(online.contains("freeze because user 0 (root, admin) asked: looks wrong"), "{online}");
    assert_eq!(out(&offline("events --offline --from 2 --run train")).lines().count(), 1);
    assert_eq!(out(&offline("events --offline --incident inc-5f0c9a1b2c3d-1")).lines().count(), 2);
    assert_eq!(offline("events --offline --run other").status.code(), Some(6));
    // A reader that goes away is not an error.
    let head = format!(
        "{} --state-dir {} events --offline | head -n1",
        env!("CARGO_BIN_EXE_failsafectl"),
        state.path().display()
    );
    let piped = std::process::Command::new("bash").args(["-c", &format!("set -o pipefail; {head}")]).output().unwrap();
    assert_eq!((piped.status.code(), err(&piped).as_str()), (Some(0), ""));
}

#[test]
fn explain_is_the_same_page_with_or_without_the_daemon() {
    let state = tempfile::tempdir().unwrap();
    let records = write_log(state.path());
    let fake = Fake::start(Answers { run: core_like(), records, ..Default::default() });
    let offline = without_a_daemon(state.path());
    let page = out(&fake.ctl("explain inc-5f0c9a1b2c3d-1"));
    assert!(page.contains("Run trainer was frozen by user 0 (root, admin): looks wrong."), "{page}");
    assert!(page.contains("In force and verified: freeze."), "{page}");
    assert_eq!(out(&fake.ctl("explain trainer")), page);
    assert_eq!(out(&offline("explain --offline trainer")), page);
    assert_eq!(out(&offline("explain --offline 01936f2e")), page);
    let value = json(&offline("explain --offline inc-5f0c9a1b2c3d-1 -o json"));
    assert_eq!((value["standing"].as_str(), value["run_id"].as_str()), (Some("contained"), Some(RUN)));
    assert_eq!(fake.ctl("explain inc-5f0c9a1b2c3d-9").status.code(), Some(6));
    assert_eq!(offline("explain --offline nobody").status.code(), Some(6));
}

#[test]
fn incidents_are_listed_with_or_without_the_daemon() {
    let state = tempfile::tempdir().unwrap();
    let records = write_log(state.path());
    let fake = Fake::start(Answers { run: core_like(), records, ..Default::default() });
    let offline = without_a_daemon(state.path());
    let list = out(&fake.ctl("incidents"));
    assert_eq!(list.lines().count(), 2, "{list}");
    for text in
        ["inc-5f0c9a1b2c3d-1", "2026-11-23", "trainer", "contained", "freeze: user 0 (root, admin): looks wrong"]
    {
        assert!(list.contains(text), "{text}\n{list}");
    }
    let copy = state.path().join("copy.log");
    std::fs::copy(state.path().join("audit/audit.log"), &copy).unwrap();
    let copied = format!("incidents --file {}", copy.display());
    for line in ["incidents --offline", "incidents --offline --run trainer --since 2026-11-01", copied.as_str()] {
        assert_eq!(out(&offline(line)), list, "{line}");
    }
    assert!(out(&offline("incidents --offline --since 2027-01-01")).is_empty());
    assert_eq!(offline("incidents --offline --run nobody").status.code(), Some(6));
    assert_eq!(offline("incidents --offline --since soon").status.code(), Some(2));
    let value = json(&offline("incidents --offline -o json"));
    assert_eq!((value[0]["standing"].as_str(), value[0]["run_id"].as_str()), (Some("contained"), Some(RUN)));
}

#[test]
fn an_incident_stands_for_its_run() {
    let state = tempfile::tempdir().unwrap();
    let records = write_log(state.path());
    let recording = vec![7; 100];
    let fake = Fake::start(Answers { run: core_like(), records, recording, ..Default::default() });
    let incident = "inc-5f0c9a1b2c3d-1";
    assert!(out(&fake.ctl(&format!("describe {incident}"))).contains("trainer"));
    assert_eq!(fake.ctl(&format!("export {incident} -o r.fsrec")).status.code(), Some(0));
    assert_eq!(
        out(&fake.ctl(&format!("events --run {incident}"))),
        out(&fake.ctl(&format!("events --incident {incident}")))
    );
    for line in ["describe inc-5f0c9a1b2c3d-9", "export inc-5f0c9a1b2c3d-9 -o x"] {
        assert_eq!(fake.ctl(line).status.code(), Some(6), "{line}");
    }
}

#[test]
fn an_incident_that_the_log_does_not_have_is_no_empty_result() {
    let state = tempfile::tempdir().unwrap();
    let records = write_log(state.path());
    let fake = Fake::start(Answers { run: core_like(), records, ..Default::default() });
    let offline = format!("--state-dir {} events --offline", state.path().display());
    for events in ["events", "events -o json --kind gap", "events --follow", &offline] {
        for (what, message) in [
            ("--incident inc-5f0c9a1b2c3d-9", "no incident `inc-5f0c9a1b2c3d-9` in the audit log"),
            ("--run inc-5f0c9a1b2c3d-9", "no incident `inc-5f0c9a1b2c3d-9` in the audit log"),
            ("--incident inc-x", "`inc-x` is no incident id such as"),
        ] {
            let output = fake.ctl(&format!("{events} {what}"));
            assert_eq!(output.status.code(), Some(6), "{events} {what}: {}", err(&output));
            assert!(err(&output).contains(message) && out(&output).is_empty(), "{events} {what}: {}", err(&output));
        }
    }
    // Nothing fits the other filters: that is an answer.
    let output = fake.ctl("events --incident inc-5f0c9a1b2c3d-1 --from 1000");
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(0), ""));
}

#[test]
fn an_ended_run_is_described_with_what_ended_it() {
    let state = tempfile::tempdir().unwrap();
    let records = write_log(state.path());
    let ended = failsafe_proto::v1::RunState::Ended.into();
    let run = failsafe_proto::v1::Run { state: ended, ended_ns: 1_795_469_700_000_000_000, ..core_like() };
    let fake = Fake::start(Answers { run, records, ..Default::default() });
    let page = out(&fake.ctl("describe trainer"));
    // An operator had frozen it, and it ended while it was frozen.
    assert!(page.contains("not failsafe: it ended while it was contained (freeze: user 0 (root, admin)"), "{page}");
    assert!(page.contains("2026-11-23 21:35:00"), "{page}");
    let value = json(&fake.ctl("describe trainer -o json"));
    assert_eq!(
        (value["ended_by_failsafe"].as_bool(), value["ended_incident"].as_str()),
        (Some(false), Some("inc-5f0c9a1b2c3d-1"))
    );
}

#[test]
fn a_run_that_ended_with_its_boot_was_ended_by_nobody() {
    let state = tempfile::tempdir().unwrap();
    let mut records = write_log(state.path());
    let mut last = records.last().unwrap().clone();
    let text = String::from_utf8(last.entry).unwrap();
    let (head, _) = text.split_once("\"body\":").unwrap();
    let head = head.replace(&format!("\"kind\":\"{}\"", last.kind), "\"kind\":\"run\"");
    let body = serde_json::json!({
        "type": "run-ended", "run": RUN, "name": "trainer", "recording": null,
        "unwatched": { "last_seen_ns": null, "noticed_ns": 9, "found": "it was of an earlier boot" },
    });
    (last.index, last.kind, last.entry) =
        (last.index + 1, "run".into(), format!("{head}\"body\":{body}}}").into_bytes());
    records.push(last);
    let ended = failsafe_proto::v1::RunState::Ended.into();
    let run = failsafe_proto::v1::Run { state: ended, ended_ns: 1_795_469_700_000_000_000, ..core_like() };
    let fake = Fake::start(Answers { run, records, ..Default::default() });
    let said = fake.ctl("describe trainer");
    assert!(said.status.success(), "{said:?}");
    let page = out(&said);
    assert!(page.contains("the end of the boot: the machine was restarted or lost power"), "{page}");
    assert!(!page.contains("somebody else ended it"), "{page}");
}

#[test]
fn log_verify_finds_what_was_changed() {
    let state = tempfile::tempdir().unwrap();
    write_log(state.path());
    let verify = |more: &[&str]| {
        let mut command = bare(Path::new("/nonexistent"));
        command.args(["log", "verify"]).args(more).env("FAILSAFE_STATE_DIR", state.path()).output().unwrap()
    };
    let good = verify(&["-o", "json"]);
    assert_eq!((good.status.code(), json(&good)["entries"].as_u64()), (Some(0), Some(3)));
    assert!(out(&verify(&[])).contains("entries  3"), "{}", out(&verify(&[])));
    let file = state.path().join("audit/audit.log");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let bad = verify(&[]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        out(&bad).contains("TAMPERED WITH") && out(&bad).contains("at byte 16, entry 0: checksum mismatch"),
        "{}",
        out(&bad)
    );
    let bad = json(&verify(&["-o", "json"]));
    assert_eq!((bad["verdict"].as_str(), bad["problem"]["offset"].as_u64()), (Some("tampered"), Some(16)));
    bytes[100] ^= 1;
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&file, &bytes).unwrap();
    let torn = verify(&["-o", "json"]);
    assert_eq!((torn.status.code(), json(&torn)["verdict"].as_str()), (Some(1), Some("torn")));
    assert_eq!(
        bare(Path::new("/x")).args(["log", "verify", "--file", "/none"]).output().unwrap().status.code(),
        Some(1)
    );
}

/// A log that cannot be read to its end: what can be read is shown, and that it is not all.
#[test]
fn the_valid_entries_of_a_damaged_log_are_shown_with_a_warning() {
    let state = tempfile::tempdir().unwrap();
    let records = write_log(state.path());
    let offline = without_a_daemon(state.path());
    let file = state.path().join("audit/audit.log");
    let whole = std::fs::read(&file).unwrap();
    let (decision, outcome) = (whole.windows(11).position(|w| w == b"looks wrong").unwrap(), whole.len() - 5);
    let mut changed = whole.clone();
    changed[outcome - 20] ^= 1;
    changed.extend_from_slice(&whole[16..16 + 8 + records[0].entry.len()]);
    for (bytes, why) in [(changed.as_slice(), "checksum mismatch"), (&whole[..outcome], "entry 2 is incomplete")] {
        std::fs::write(&file, bytes).unwrap();
        let copy = state.path().join("copy.log");
        std::fs::write(&copy, bytes).unwrap();
        for source in ["--offline".to_owned(), format!("--file {}", copy.display())] {
            for (line, shows) in
                [("events", "looks wrong"), ("incidents", "PENDING"), ("explain trainer", "looks wrong")]
            {
                let output = offline(&format!("{line} {source}"));
                assert!(out(&output).contains(shows), "{line} {source}: {}{}", out(&output), err(&output));
                assert_eq!(output.status.code(), Some(3), "{line} {source}: {}", err(&output));
                assert!(
                    err(&output).contains("not all entries could be read") && err(&output).contains(why),
                    "{}",
                    err(&output)
                );
            }
        }
    }
    // Nothing of the incident can be read: that is not "nothing was decided".
    let mut changed = whole.clone();
    changed[decision] ^= 1;
    std::fs::write(&file, changed).unwrap();
    let output = offline("explain trainer --offline");
    assert_eq!(output.status.code(), Some(6));
    assert!(err(&output).contains("not all entries could be read"), "{}", err(&output));
}

#[test]
fn a_run_without_records_in_a_log_that_was_begun_anew_is_not_one_that_nothing_was_decided_about() {
    let aside = "/s/audit/audit.log.aside-17";
    let finding = format!("the audit log was tampered with at entry 9, byte 700 (x); it is kept as {aside}");
    let status =
        pb::StatusResponse { log_findings: vec![finding], log_asides: vec![aside.into()], ..Default::default() };
    let run = pb::Run {
        state: pb::RunState::Ended.into(),
        ended_ns: 9,
        decisions: 5,
        unverified: "the audit log has no record of its start".into(),
        ..core_like()
    };
    let fake = Fake::start(Answers { run, status, ..Default::default() });
    let explained = fake.ctl("explain trainer");
    assert_eq!(explained.status.code(), Some(6));
    let text = err(&explained);
    assert!(text.contains("no record of the 5 decisions") && text.contains("tampered with at entry 9"), "{text}");
    assert!(text.contains(&format!("failsafectl explain trainer --file {aside}")), "{text}");
    let listed = err(&fake.ctl("incidents"));
    assert!(listed.contains("no incidents in the audit log") && listed.contains(aside), "{listed}");
    let page = out(&fake.ctl("describe trainer"));
    assert!(page.contains("not known: the audit log does not have all that was decided"), "{page}");
    assert!(page.contains("none: the audit log has no entry about the run"), "{page}");
    assert!(json(&fake.ctl("describe trainer -o json"))["ended_by_failsafe"].is_null());
    // The same run in a whole log.
    let fake = Fake::start(Answers { run: core_like(), ..Default::default() });
    assert!(err(&fake.ctl("explain trainer")).contains("nothing was decided about it"));
    assert_eq!(err(&fake.ctl("incidents")), "no incidents in the audit log\n");
}

#[test]
fn an_owner_who_reads_no_decision_of_the_run_does_not_get_the_answer_that_the_log_lost_it() {
    let run = pb::Run { decisions: 1, ..core_like() };
    let fake = Fake::start(Answers { run: run.clone(), denies: true, ..Default::default() });
    let explained = fake.ctl("explain trainer");
    assert_eq!(explained.status.code(), Some(6));
    let text = err(&explained);
    assert!(text.contains("no entry about that is among those that you may read") && !text.contains("lost"), "{text}");
    assert!(!text.contains("no record") && text.contains("root and the administrators' group"), "{text}");
    // An administrator reads all there is.
    let fake = Fake::start(Answers { run, ..Default::default() });
    assert!(err(&fake.ctl("explain trainer")).contains("no record of the decision"));
}

#[test]
fn replay_takes_a_run_or_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.fsrec");
    let policy = failsafe_core::policy::parse::parse("p", POLICY).unwrap();
    let run = core_run(policy.digest());
    let header =
        serde_json::json!({ "format": "failsafe-recording", "version": 1, "run": run, "policy": policy, "host": {} });
    let mut recorder = Recorder::create(&file, &header, 1 << 20).unwrap();
    recorder.record(1, &Recorded::Input(Input::RunStarted(run))).unwrap();
    for second in 1..100 {
        recorder.record(1, &Recorded::Input(Input::Tick(MonoTime(second * 1_000_000_000)))).unwrap();
    }
    recorder.finish().unwrap();
    let recording = std::fs::read(&file).unwrap();
    let part = Some(pb::RecordingPart { number: 0, of: 1, ..Default::default() });
    let fake = Fake::start(Answers { run: core_like(), recording: recording.clone(), part, ..Default::default() });
    let earlier = Fake::start(Answers { run: core_like(), recording: recording.clone(), ..Default::default() });
    assert_eq!(earlier.ctl("replay trainer").status.code(), Some(0), "of a daemon that does not announce recordings");
    for what in [file.to_str().unwrap(), "trainer"] {
        let output = fake.command().env("TMPDIR", dir.path()).args(["replay", what, "-o", "json"]).output().unwrap();
        let value = json(&output);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!((value["identical"].as_bool(), value["inputs"].as_u64()), (Some(true), Some(100)));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the fetched copy is gone again");
    let output = fake.ctl("export trainer -o out.fsrec --json");
    assert_eq!(json(&output)["bytes"].as_u64(), Some(recording.len() as u64));
    assert_eq!(std::fs::read(fake.path("out.fsrec")).unwrap(), recording);
    let mode = |name: &str| std::fs::metadata(fake.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("out.fsrec"), 0o600);
    // What is there stays, and a symbolic link is not followed.
    std::fs::write(fake.path("mine"), "mine").unwrap();
    std::os::unix::fs::symlink(fake.path("mine"), fake.path("link")).unwrap();
    for line in ["export trainer -o mine", "export trainer -o link", "export trainer -o link --force"] {
        assert_eq!(fake.ctl(line).status.code(), Some(1), "{line}");
        assert_eq!(std::fs::read(fake.path("mine")).unwrap(), b"mine", "{line}");
    }
    assert_eq!(fake.ctl("export trainer -o mine --force").status.code(), Some(0));
    assert_eq!((std::fs::read(fake.path("mine")).unwrap(), mode("mine")), (recording.clone(), 0o600));
    std::fs::write(fake.path("cut.fsrec"), &recording[..recording.len() - 15]).unwrap();
    assert_eq!(fake.ctl("replay cut.fsrec").status.code(), Some(3));
}

#[test]
fn an_offline_test_of_discovery_reads_the_drop_ins_as_the_daemon_does() {
    let state = tempfile::tempdir().unwrap();
    let (file, folder) = (state.path().join("node.toml"), state.path().join("node.d"));
    let rule = |name: &str| format!("[[discover]]\nname = \"{name}\"\nmatch = \"{name}/{{id}}\"\npolicy = \"p\"\n");
    std::fs::write(&file, rule("jobs")).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("50-more.toml"), rule("more")).unwrap();
    std::fs::write(folder.join(".hidden.toml"), rule("hidden")).unwrap();
    let offline = without_a_daemon(state.path());
    let test = |path: &str| offline(&format!("discover test --config {} {path} -o json", file.display()));
    for (path, rule) in [("jobs/1", "jobs"), ("more/1", "more"), ("hidden/1", "")] {
        assert_eq!(json(&test(path))["rule"], rule, "{path}");
    }
    std::fs::write(folder.join("60-none.toml"), "discover = []\n").unwrap();
    let refused = test("jobs/1");
    let said = err(&refused);
    assert!(!refused.status.success() && said.contains("node.d/60-none.toml:1:12: discover: an empty list"), "{said}");
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    let state = tempfile::tempdir().unwrap();
    let pipe = state.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for line in ["replay", "incident verify"] {
        // `timeout` ends one that waits for a writer, with 124.
        let mut command = std::process::Command::new("timeout");
        command.arg("20").arg(env!("CARGO_BIN_EXE_failsafectl")).args(line.split(' ')).arg(&pipe);
        let output = command.output().unwrap();
        assert!(!matches!(output.status.code(), Some(0 | 124)), "{line}: {output:?}");
        assert!(err(&output).contains("regular file") || err(&output).contains("is no file"), "{}", err(&output));
    }
}

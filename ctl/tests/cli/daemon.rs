//! What the daemon answers, and what becomes of it.

use crate::{
    fixtures::*,
    support::{Answers, Fake, bare, err, out},
};
use failsafe_proto::v1 as pb;
use std::{path::Path, time::Duration};
use tonic::{Code, Status};

#[test]
fn control_shows_what_is_proved_and_what_is_missing() {
    let answer = |verdict: pb::Verdict, missing: &[&str]| pb::ControlResponse {
        run_id: RUN.into(),
        run_name: "r\u{1b}[2J".into(),
        incident: "inc-5f0c9a1b2c3d-1".into(),
        verdict: verdict.into(),
        missing: missing.iter().map(ToString::to_string).collect(),
        proofs: vec!["cgroup.events frozen 1".into()],
        took_ns: 180_000,
        ..Default::default()
    };
    for (verdict, code, says) in [
        (pb::Verdict::Proved, 0, "frozen, proved in 180 us"),
        (pb::Verdict::Partial, 3, "not proved: pid 7 (D)"),
        (pb::Verdict::Failed, 1, "FAILED"),
        (pb::Verdict::Pending, 5, "no outcome within the timeout"),
    ] {
        let fake = Fake::start(Answers { control: answer(verdict, &["pid 7 (D)"]), ..Default::default() });
        let output =
            fake.command().args(["freeze", "r", "--reason", "it is late", "--timeout", "3s"]).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
        assert!(out(&output).contains(says), "{}", out(&output));
        let acted_on = format!("r\\u{{1b}}[2J {RUN} (");
        assert!(out(&output).starts_with(&acted_on), "the run that was acted on: {}", out(&output));
        let asked = fake.asked.lock().unwrap().control.clone().unwrap();
        assert_eq!((asked.reason.as_str(), asked.timeout_ms, asked.dry_run), ("it is late", 3_000, false));
        assert_eq!(asked.command(), pb::Command::Freeze);
    }
}

#[test]
fn a_dry_run_lists_whom_it_would_reach_and_what_not() {
    let process = pb::Process { pid: 42, comm: "py".into(), state: "S".into(), argv: "python3 t.py\u{1b}[2J".into() };
    let control = pb::ControlResponse {
        verdict: pb::Verdict::DryRun.into(),
        processes: vec![process],
        cgroups: vec!["/failsafe/run-1".into()],
        gpus: vec!["GPU-5a".into()],
        known_leaks: vec!["kernels already queued on a GPU run on".into()],
        ..Default::default()
    };
    let fake = Fake::start(Answers { control, ..Default::default() });
    let output = fake.ctl("kill r --dry-run");
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(out(&output));
    assert!(fake.asked.lock().unwrap().control.as_ref().unwrap().dry_run);
    let value = json(&fake.ctl("kill r --dry-run -o json"));
    assert_eq!((value["verdict"].as_str(), value["processes"][0]["pid"].as_u64()), (Some("dry_run"), Some(42)));
}

#[test]
fn a_thaw_of_a_run_that_is_not_held_is_reported_as_such() {
    let control = pb::ControlResponse {
        verdict: pb::Verdict::Proved.into(),
        run_name: "r".into(),
        run_id: RUN.into(),
        nothing_to_do: true,
        ..Default::default()
    };
    let fake = Fake::start(Answers { control, ..Default::default() });
    let output = fake.ctl("thaw r --reason x");
    assert_eq!(output.status.code(), Some(0));
    assert!(out(&output).contains("was neither frozen nor blocked; nothing to do"), "{}", out(&output));
    assert!(!out(&output).contains("proved"), "{}", out(&output));
    assert_eq!(json(&fake.ctl("thaw r --reason x -o json"))["nothing_to_do"], true);
}

#[test]
fn an_answer_that_is_repeated_is_marked_with_its_time() {
    let control = pb::ControlResponse {
        verdict: pb::Verdict::Proved.into(),
        run_name: "r".into(),
        run_id: RUN.into(),
        repeated_from_ns: 1_795_469_696_123_456_789,
        ..Default::default()
    };
    let fake = Fake::start(Answers { control: control.clone(), ..Default::default() });
    let says = "this command was first sent at 2026-11-23 21:34:56.123 and is not carried out again";
    let freeze = ["freeze", "r", "--reason", "x", "--request-id", "ticket-1:freeze"];
    let output = fake.command().args(freeze).output().unwrap();
    assert!(out(&output).contains(says), "{}", out(&output));
    assert_eq!(fake.asked.lock().unwrap().control.as_ref().unwrap().request_id, "ticket-1:freeze");
    assert_eq!(json(&fake.ctl("freeze r --reason x -o json"))["repeated_from_ns"], 1_795_469_696_123_456_789_i64);
    assert_eq!(fake.asked.lock().unwrap().control.as_ref().unwrap().request_id, "");
    let nothing = pb::ControlResponse { nothing_to_do: true, ..control };
    let fake = Fake::start(Answers { control: nothing, ..Default::default() });
    assert!(out(&fake.ctl("thaw r --reason x")).contains(says));
    let fake = Fake::start(Answers::default());
    assert!(!out(&fake.ctl("thaw r --reason x")).contains("repeated"));
    for id in ["", "a b", &"x".repeat(65)] {
        let output = fake.command().args(["thaw", "r", "--reason", "x", "--request-id", id]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{id}");
        assert!(err(&output).contains("expected 1 to 64 letters"), "{}", err(&output));
    }
}

#[test]
fn the_list_that_is_watched_has_a_line_for_each_change() {
    let run = pb::Run {
        id: RUN.into(),
        name: "r\u{1b}[2J".into(),
        state: pb::RunState::Frozen.into(),
        policy_name: "trainer".into(),
        ..Default::default()
    };
    let fake = Fake::start(Answers { run, ..Default::default() });
    let output = out(&fake.ctl("list --watch"));
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 3, "{output}");
    assert!(lines[0].starts_with("0  present    ") && lines[0].ends_with("  frozen  trainer"), "{output}");
    assert_eq!(lines[1], "watching from revision 7");
    assert!(lines[2].starts_with("8  removed    ") && !lines[2].contains("frozen"), "{output}");
    assert!(!output.contains('\u{1b}'), "{output}");
    let missed = out(&fake.ctl("list --watch --since 3"));
    assert!(missed.contains("earlier changes are no longer available: see `failsafectl list --all`"), "{missed}");
    let _selected = fake.ctl("list --watch --since 1796054161482910 -l team=a");
    let expected =
        |revision, selector: &str| pb::WatchRunsRequest { revision, follow: true, selector: selector.into() };
    assert_eq!(
        fake.asked.lock().unwrap().watch_runs,
        [expected(None, ""), expected(Some(3), ""), expected(Some(1_796_054_161_482_910), "team=a")]
    );
    let output = out(&fake.ctl("list --watch -o json"));
    let lines: Vec<serde_json::Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["change"], &lines[0]["run"]["state"]), (&"present".into(), &"frozen".into()), "{output}");
    assert!(lines[1]["run"].is_null() && lines[1]["change"].is_null() && lines[1]["revision"] == 7, "{output}");
    assert_eq!(fake.ctl("list --watch --all").status.code(), Some(2));
    assert_eq!(fake.ctl("list --since 3").status.code(), Some(2), "only with --watch");
}

#[test]
fn a_misspelt_kind_or_an_empty_interval_is_a_usage_error() {
    let fake = Fake::start(Answers::default());
    let output = fake.ctl("events --kind foo");
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("expected one of decision, outcome"), "{}", err(&output));
    let output = fake.ctl("events --since 2h --until 3h");
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("is not before --until"), "{}", err(&output));
    assert_eq!(fake.ctl("events --kind heartbeat,decision --since 3h --until 2h").status.code(), Some(0));
}

#[test]
fn what_is_not_there_is_named_by_its_kind() {
    let fails = Some(Status::new(Code::NotFound, "no run `inc-zzz`; `failsafectl list --all` shows them"));
    let fake = Fake::start(Answers { fails, ..Default::default() });
    for line in ["explain inc-zzz", "describe inc-zzz", "export inc-zzz -o f", "replay inc-zzz"] {
        let output = fake.ctl(line);
        assert_eq!(output.status.code(), Some(6), "{line}: {}", err(&output));
        assert!(err(&output).contains("`inc-zzz` is no incident id such as inc-"), "{line}: {}", err(&output));
    }
    let fails = Some(Status::new(Code::NotFound, "no run `x`; `failsafectl list --all` shows them"));
    let fake = Fake::start(Answers { fails, ..Default::default() });
    assert_eq!(err(&fake.ctl("describe x")).matches("list --all").count(), 1, "{}", err(&fake.ctl("describe x")));
}

#[test]
fn a_second_cordon_reports_that_the_first_reason_stays() {
    let fake = Fake::start(Answers::default());
    assert_eq!(err(&fake.ctl("node cordon -r fan")), "");
    let cordoned = Fake::start(Answers { cordoned: "cordoned by user 0 (admin): fan".into(), ..Default::default() });
    assert_eq!(err(&cordoned.ctl("node cordon -r fan")), "");
    let text = err(&cordoned.ctl("node cordon -r disk"));
    assert!(text.contains("it was cordoned already (cordoned by user 0 (admin): fan)"), "{text}");
}

#[test]
fn a_daemon_that_hangs_is_a_timeout() {
    let fake = Fake::start(Answers { hangs: true, ..Default::default() });
    let began = std::time::Instant::now();
    let output = fake.ctl("thaw r --reason x --timeout 1ms");
    assert_eq!(output.status.code(), Some(5));
    assert!(began.elapsed() > Duration::from_secs(4), "the daemon has some grace to answer in");
    assert!(err(&output).contains("may still be carried out"), "{}", err(&output));
}

#[test]
fn refusals_have_their_exit_codes() {
    for (code, exit) in [
        (Code::NotFound, 6),
        (Code::PermissionDenied, 4),
        (Code::InvalidArgument, 2),
        (Code::FailedPrecondition, 1),
        (Code::DeadlineExceeded, 5),
    ] {
        let fake = Fake::start(Answers { fails: Some(Status::new(code, "no\u{1b}[2J")), ..Default::default() });
        for line in ["list", "describe r", "kill r --reason x", "events", "explain r", "export r -o f", "node status"] {
            let output = fake.ctl(line);
            assert_eq!(output.status.code(), Some(exit), "{line} {code:?}: {}", err(&output));
            assert!(err(&output).starts_with("failsafectl: no\\u{1b}[2J"), "{line}: {}", err(&output));
        }
        assert!(!fake.path("f").exists());
    }
}

#[test]
fn without_a_daemon_every_command_that_asks_it_ends_with_13() {
    let dir = tempfile::tempdir().unwrap();
    for line in [
        "list",
        "describe r",
        "freeze r --reason x",
        "freeze --all --reason x",
        "thaw r --reason x",
        "kill r --reason x",
        "events",
        "node capacity",
        "node placeable",
        "node status",
        "gpu cordon 0 --reason x",
    ] {
        let output = bare(&dir.path().join("none")).args(line.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(13), "{line}: {}", err(&output));
        assert!(err(&output).contains("failsafed is not running"), "{line}: {}", err(&output));
    }
}

#[test]
fn without_a_daemon_doctor_shows_how_to_start_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = bare(&dir.path().join("none")).arg("doctor").output().unwrap();
    assert_eq!(output.status.code(), Some(13));
    assert!(err(&output).contains("failsafed is not running"), "{}", err(&output));
    assert!(err(&output).contains("systemctl start failsafed"), "{}", err(&output));
}

#[test]
fn lists_are_harmless_text_or_json() {
    let fake = Fake::start(Answers { run: pb_run(), ..Default::default() });
    let text = out(&fake.ctl("list"));
    assert!(text.contains("trainer\\u{1b}[2J  01936f2e-7b1c  frozen"), "{text}");
    assert_eq!(json(&fake.ctl("get runs -o json"))[0]["name"], "trainer\u{1b}[2J");
    assert!(out(&fake.ctl("list -o wide")).contains(RUN));
    assert_eq!(json(&fake.ctl("node status --json"))["hostname"], "n1");
}

#[test]
fn policy_check_asks_the_node_if_it_can() {
    let digest = failsafe_core::policy::parse::parse("p", POLICY).unwrap().digest().to_string();
    let check = pb::CheckResponse { digest, refusal: "ebpf is blind".into(), ..Default::default() };
    let fake = Fake::start(Answers { check, ..Default::default() });
    std::fs::write(fake.path("p.toml"), POLICY).unwrap();
    let output = fake.ctl("policy check p.toml");
    assert_eq!(output.status.code(), Some(0));
    assert!(out(&output).contains("NOT ACCEPTED by this node: ebpf is blind"), "{}", out(&output));
    assert_eq!(fake.ctl("policy check p.toml --node").status.code(), Some(1));
    assert!(!out(&fake.ctl("policy check p.toml --offline")).contains("ebpf"));
    let alone = |more: &[&str]| {
        let mut command = bare(Path::new("/nonexistent"));
        command.args(["policy", "check"]).arg(fake.path("p.toml")).args(more).output().unwrap()
    };
    assert_eq!(alone(&[]).status.code(), Some(0));
    assert_eq!(alone(&["--node"]).status.code(), Some(13));
    std::fs::write(fake.path("bad.toml"), POLICY.replace("owner", "onwer")).unwrap();
    let bad = fake.ctl("policy check bad.toml");
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        err(&bad).contains("bad.toml:3:1: policy.onwer: unknown field `onwer` in the section [policy]"),
        "{}",
        err(&bad)
    );
    assert_eq!(json(&fake.ctl("policy check bad.toml -o json"))["errors"][0]["line"], 3);
    // Whoever wrote the policy does not write on the terminal of who checks it, and does not fill it.
    let long = "x".repeat(100_000);
    let hostile = format!("{POLICY}[[rule]]\nid = \"\u{9b}2J\"\nwhen = {{ signal = \"\\u001b[2J{long}\" }}\n");
    std::fs::write(fake.path("bad.toml"), hostile).unwrap();
    let bad = fake.ctl("policy check bad.toml");
    let text = err(&bad);
    assert!(bad.status.code() == Some(1) && text.contains("\\u{1b}[2Jx"), "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert!(text.lines().all(|line| line.chars().count() < 300), "{text}");
}

#[test]
fn policy_check_prints_warnings_and_accepts_the_policy() {
    let fake = Fake::start(Answers::default());
    let egress = "[egress]\nallow = [{ cidr = \"10.0.0.1/8\" }]\n";
    std::fs::write(fake.path("p.toml"), format!("{POLICY}{egress}")).unwrap();
    let output = fake.ctl("policy check p.toml --offline");
    assert_eq!(output.status.code(), Some(0));
    for text in ["p.toml:1:1: warning: policy: the policy has no rules", "p.toml:5:19: warning: egress.allow[1].cidr: "]
    {
        assert!(err(&output).contains(text), "{}", err(&output));
    }
    let value = json(&fake.ctl("policy check p.toml --offline -o json"));
    assert_eq!(value["warnings"][1]["field"], "egress.allow[1].cidr");
    assert_eq!((value["valid"].as_bool(), value["errors"].as_array().map(Vec::len)), (Some(true), Some(0)));
}

#[test]
fn a_refusal_that_the_kernel_does_not_keep_fails_the_check_of_a_node() {
    let digest = failsafe_core::policy::parse::parse("p", POLICY).unwrap().digest().to_string();
    let judged = |broken| pb::RuleAssurance {
        rule: "no-shadow".into(),
        effect: "deny".into(),
        assurance: if broken { "observed" } else { "blocked-in-kernel" }.into(),
        detail: if broken { "open: no lsm/file_open\u{1b}[2J" } else { "" }.into(),
        broken,
    };
    for (broken, code) in [(true, 1), (false, 0)] {
        let check =
            pb::CheckResponse { digest: digest.clone(), assurances: vec![judged(broken)], ..Default::default() };
        let fake = Fake::start(Answers { check, ..Default::default() });
        std::fs::write(fake.path("p.toml"), POLICY).unwrap();
        let output = fake.ctl("policy check p.toml --node");
        assert_eq!(output.status.code(), Some(code), "{}", err(&output));
        let text = out(&output);
        assert!(text.contains("no-shadow") && text.contains(&judged(broken).assurance), "{text}");
        assert_eq!(text.contains("NOT ENFORCED"), broken, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        assert!(!out(&fake.ctl("policy check p.toml")).contains("no-shadow"), "only asked for with --node");
        assert_eq!(json(&fake.ctl("policy check p.toml -o json"))["node"]["rules"][0]["broken"], broken);
    }
}

#[test]
fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = bare(Path::new("/x")).args(["completion", shell]).output().unwrap();
        assert!(out(&output).contains("explain"), "{shell}");
    }
}

//! Whole tests against small policies.

use super::*;
use crate::{
    file::read,
    judge::{self, why},
};
use failsafe_core::policy::parse::parse;

const HEAD: &str = "[policy]\nname = \"p\"\nowner = \"o\"\n";

/// Runs the only test of a file.
fn ran(policy: &str, test: &str) -> (Ran, crate::Verdict) {
    let policy = parse("p.toml", &format!("{HEAD}{policy}")).unwrap_or_else(|errors| panic!("{errors}"));
    let test = format!("[[test]]\nname = \"t\"\n{test}");
    let file = read("p.test.toml", &test, &policy).unwrap_or_else(|errors| panic!("{errors}"));
    let case = &file.cases[0];
    let ran = run(&policy, case);
    let verdict = judge::judge(case, &ran);
    (ran, verdict)
}

fn times(ran: &Ran) -> Vec<u64> {
    ran.decisions.iter().map(|decision| Ran::time(decision).0 / 1_000_000_000).collect()
}

const LOSS: &str = r#"
[[rule]]
id = "high"
rationale = "x"
when = { signal = "metric.loss", above = 20, clear = 5, for = "3s" }
actions = ["freeze", "notify"]
"#;

#[test]
fn a_value_that_lasts_makes_the_rule_match_when_the_engine_trips() {
    let step = "expect = \"none\"\n[[test.input]]\nsignal = \"metric.loss\"\nvalue = { step = [1, 80], after = \"10s\" }\n\
                every = \"1s\"\nfor = \"1m\"\n";
    let (ran, verdict) = ran(LOSS, step);
    assert_eq!(times(&ran), [13]);
    assert!(ran.held_back > 40, "a frozen run reports nothing: {}", ran.held_back);
    let [failure] = verdict.failures.as_slice() else { panic!("{verdict:?}") };
    assert_eq!(failure.expected, "no decision");
    assert_eq!(failure.happened, "rule high at 13 s: freeze, notify");
    assert!(
        failure.values.contains(&"metric.loss = 80 (claimed by rank 0 at step 14) at 13 s".to_owned()),
        "{failure:?}"
    );
}

#[test]
fn after_a_thaw_the_run_reports_again() {
    let test = "expect = \"none\"\n[[test.input]]\nsignal = \"metric.loss\"\n\
                value = { spike = [1, 80], after = \"10s\", width = \"10s\" }\nevery = \"1s\"\nfor = \"40s\"\n\
                [[test.input]]\nat = \"25s\"\noperator = \"thaw\"\n\
                [[test.input]]\nat = \"41s\"\nsignal = \"metric.loss\"\nvalue = [80, 80, 80, 80, 80]\n";
    assert_eq!(times(&ran(LOSS, test).0), [13, 44]);
}

#[test]
fn a_metric_that_does_not_come_is_reported_as_missing_and_on_blind_decides() {
    let policy = "on_blind = \"freeze\"\n".to_owned() + &LOSS.replace("for = \"3s\"", "for = \"3s\", grace = \"30s\"");
    let (ran, _) = ran(&policy, "expect = \"none\"\nlength = \"1m\"\n");
    assert_eq!(times(&ran), [31]);
    assert_eq!(judge::what(&ran.decisions[0]), "upkeep blind at 31 s: freeze, snapshot, notify");
    let why = judge::why(&ran.decisions[0], &ran);
    assert!(why.len() == 1 && why[0].starts_with("because metric.loss: "), "{why:?}");
}

#[test]
fn sensors_that_the_test_does_not_name_see() {
    let rules = r#"
[[rule]]
id = "flood"
rationale = "x"
when = { signal = "process.count", above = 100 }
actions = ["notify"]
[[rule]]
id = "hot"
rationale = "x"
when = { signal = "gpu.temperature", above = "90 C" }
actions = ["notify"]
[[rule]]
id = "oom"
rationale = "x"
when = { event = "oom" }
actions = ["notify"]
"#;
    let quiet = "expect = \"none\"\ngpus = [\"GPU-0\"]\nlength = \"2m\"\n";
    let (quiet_ran, verdict) = ran(rules, quiet);
    assert!(verdict.passed(), "{verdict:?}");
    assert!(quiet_ran.inputs > 400);
    let blind = format!("{quiet}[[test.input]]\nat = \"30s\"\nblind = \"ebpf\"\nfor = \"20s\"\n");
    let (blind_ran, _) = ran(rules, &blind);
    assert_eq!(times(&blind_ran), [30]);
}

#[test]
fn the_verdict_of_a_connect_is_that_of_the_list() {
    let policy = r#"
[egress]
allow = [{ cidr = "10.0.0.0/8", ports = 443, protocol = "tcp" }]
[[rule]]
id = "leaves"
rationale = "x"
when = { event = "connect", verdict = "denied" }
actions = ["block", "notify"]
"#;
    let connect = |at: u64, address: &str| {
        format!("[[test.input]]\nat = \"{at}s\"\nevent = \"connect\"\naddress = \"{address}\"\nport = 443\n")
    };
    let test = format!("expect = \"none\"\n{}{}", connect(1, "10.0.0.9"), connect(2, "198.51.100.7"));
    let (ran, _) = ran(policy, &test);
    assert_eq!(times(&ran), [2]);
    assert!(why(&ran.decisions[0], &ran).iter().any(|line| line.contains("connect to 198.51.100.7:443 (tcp): denied")));
}

#[test]
fn an_address_that_depends_on_names_fails_the_test_unless_an_answer_came_before() {
    let policy = r#"
[egress]
allow = [{ host = "*.example.org", ports = 443 }]
[[rule]]
id = "leaves"
rationale = "x"
when = { event = "connect", verdict = "denied" }
actions = ["notify"]
"#;
    let connect = "[[test.input]]\nat = \"5s\"\nevent = \"connect\"\naddress = \"198.51.100.7\"\nport = 443\n";
    let (_, verdict) = ran(policy, &format!("expect = \"none\"\n{connect}"));
    assert!(verdict.failures[0].happened.contains("depends on its host names"), "{verdict:?}");
    let answer = "[[test.input]]\nevent = \"dns\"\nname = \"a.example.org\"\naddress = \"198.51.100.7\"\n";
    let (_, verdict) = ran(policy, &format!("expect = \"none\"\n{answer}{connect}"));
    assert!(verdict.passed(), "{verdict:?}");
}

#[test]
fn a_kill_ends_the_run() {
    let policy = LOSS.replace("[\"freeze\", \"notify\"]", "[\"kill\", \"notify\"]");
    let test = "properties = [\"freeze-before-kill\"]\n[[test.input]]\nsignal = \"metric.loss\"\nvalue = 80\nevery = \"1s\"\nfor = \"10s\"\n";
    let (ran, verdict) = ran(&policy, test);
    assert_eq!((times(&ran), ran.held_back), (vec![3], 6));
    assert_eq!(verdict.failures[0].expected, "property freeze-before-kill");
}

#[test]
fn the_tests_of_a_condition_are_covered_by_what_they_were() {
    let policy = r#"
[[rule]]
id = "both"
rationale = "x"
when = { all = [{ signal = "metric.loss", above = 20 }, { event = "oom", within = "30s" }] }
actions = ["notify"]
"#;
    let loss = "expect = \"none\"\n[[test.input]]\nsignal = \"metric.loss\"\nvalue = [1, 80, 1]\nevery = \"10s\"\n";
    let (ran, _) = ran(policy, loss);
    let rule = &ran.coverage.rules[0];
    assert_eq!((rule.matched, rule.quiet), (0, 3));
    assert!(rule.tests[0].held && rule.tests[0].failed && !rule.tests[1].held && rule.tests[1].failed);
    assert_eq!(ran.coverage.branches(), (4, 6));
    assert_eq!(ran.coverage.missing().len(), 2);
}

#[test]
fn a_decision_that_does_not_come_is_reported_with_the_state_of_its_rule() {
    let test = "[[test.input]]\nsignal = \"metric.loss\"\nvalue = 19\nevery = \"1s\"\nfor = \"30s\"\n\
                [[test.expect]]\nrule = \"high\"\nbetween = [\"5s\", \"10s\"]\nactions = [\"freeze\", \"notify\"]\n";
    let (_, verdict) = ran(LOSS, test);
    let [failure] = verdict.failures.as_slice() else { panic!("{verdict:?}") };
    assert_eq!(failure.expected, "rule high between 5 s and 10 s: freeze, notify");
    assert_eq!(failure.happened, "no such decision");
    assert!(
        failure.values.contains(&"metric.loss = 19 (claimed by rank 0 at step 11) at 10 s".to_owned()),
        "{failure:?}"
    );
}

#[test]
fn an_unchanged_value_of_a_sensor_is_passed_on_every_4_s_as_the_daemon_does() {
    let policy = r#"
[[rule]]
id = "flood"
rationale = "x"
when = { signal = "process.count", above = 100, for = "5s" }
actions = ["notify"]
"#;
    let test =
        "expect = \"none\"\n[[test.input]]\nsignal = \"process.count\"\nvalue = 200\nevery = \"1s\"\nfor = \"30s\"\n";
    assert_eq!(times(&ran(policy, test).0), [8]);
}

#[test]
fn two_runs_of_a_test_with_noise_are_the_same() {
    let test = "seed = 7\nexpect = \"none\"\n[[test.input]]\nsignal = \"metric.loss\"\n\
                value = { ramp = [2, 40], noise = 3 }\nevery = \"100 ms\"\nfor = \"10m\"\n";
    let (a, b) = (ran(LOSS, test).0, ran(LOSS, test).0);
    assert!(!a.decisions.is_empty());
    assert_eq!(a.decisions, b.decisions);
}

/// A run that was thawed shortly before the time was over must have the time to report: no false alarm.
#[test]
fn the_time_of_absent_begins_anew_with_a_thaw() {
    let policy = "[[rule]]\nid = \"no-step\"\nrationale = \"x\"\nwhen = { signal = \"metric.step\", absent = \"5m\" }\n\
                  actions = [\"notify\"]\n";
    let operator = |at: &str, what: &str| format!("[[test.input]]\nat = \"{at}\"\noperator = \"{what}\"\n");
    let step = "[[test.input]]\nsignal = \"metric.step\"\nvalue = 1\n";
    let test =
        format!("length = \"30m\"\nexpect = \"none\"\n{step}{}{}", operator("4m", "freeze"), operator("20m", "thaw"));
    let (thawed, _) = ran(policy, &test);
    // It counts from the last tick at which the run was frozen.
    assert_eq!(times(&thawed), [25 * 60 - 1], "neither while it is frozen, nor at once after the thaw");
    let (running, _) = ran(policy, &format!("length = \"30m\"\nexpect = \"none\"\n{step}"));
    assert_eq!(times(&running), [5 * 60]);
}

#[test]
fn values_of_one_step_stall_and_values_of_many_do_not() {
    let policy = "[[rule]]\nid = \"stalls\"\nrationale = \"x\"\nactions = [\"notify\"]\n\
                  when = { signal = \"metric.loss\", detect = { method = \"stall\", after = \"1m\" } }\n";
    let test = |step: &str| {
        format!(
            "properties = [\"no-containment\"]\n[[test.input]]\nsignal = \"metric.loss\"\nvalue = {{ ramp = [3, 2] }}\n\
             every = \"1s\"\nfor = \"3m\"\n{step}\n"
        )
    };
    assert_eq!(times(&ran(policy, &test("step = 300")).0), [60]);
    assert_eq!(times(&ran(policy, &test("")).0), [0; 0]);
    assert_eq!(times(&ran(policy, &test("step = \"none\"")).0), [0; 0], "the values differ");
}

#[test]
fn steps_begin_where_the_run_continues() {
    let policy = "[[rule]]\nid = \"high\"\nrationale = \"x\"\nactions = [\"notify\"]\n\
                  when = { signal = \"metric.loss\", above = 20, warm_up = \"100 steps\" }\n";
    let test = "properties = [\"no-containment\"]\n[[test.input]]\nsignal = \"metric.loss\"\nvalue = 80\n\
                every = \"1s\"\nfor = \"1m\"\nstep = { from = 5000, by = 10 }\n";
    assert_eq!(times(&ran(policy, test).0), [10]);
}

#[test]
fn a_bound_of_the_manifest_is_unknown_until_the_test_sets_it() {
    let rule = "[[rule]]\nid = \"low\"\nrationale = \"x\"\nactions = [\"notify\"]\n\
                when = { signal = \"metric.accuracy\", below = { manifest = \"hyperparameters.base\", factor = 0.5 } }\n";
    let values = "expect = \"none\"\n[[test.input]]\nsignal = \"metric.accuracy\"\nvalue = [0.1, 0.1, 0.5, 0.3]\nevery = \"10s\"\n";
    let set = "[[test.input]]\nat = \"15s\"\nmanifest = { \"hyperparameters.base\" = 0.8 }\n";
    assert_eq!(times(&ran(rule, values).0), [0; 0]);
    assert_eq!(times(&ran(rule, &format!("{values}{set}")).0), [30], "the bound is 0.4");
}

#[test]
fn numbers_of_a_manifest_have_a_section_and_are_finite() {
    let policy = parse("p.toml", &format!("{HEAD}{LOSS}")).unwrap();
    for (manifest, expected) in [
        ("{ lr = 1 }", "a section and a name"),
        ("{ \"config.x\" = nan }", "a finite number"),
        ("{ \"config.x\" = \"1\" }", "a finite number"),
        ("{}", "at least one number"),
        ("3", "expected a table"),
    ] {
        let text = format!("[[test]]\nname = \"t\"\n[[test.input]]\nmanifest = {manifest}\n");
        let errors = read("p.test.toml", &text, &policy).unwrap_err().to_string();
        assert!(errors.contains(expected), "{manifest}: {errors}");
    }
}

//! A metric that a rule needs and nobody reports.

use super::*;
use crate::{
    input::{Contained, NAMED},
    policy::parse::parse,
};

fn policy(when: &str, metrics: &str) -> Policy {
    let text = format!(
        "[policy]\nname = \"p\"\nowner = \"o\"\n{metrics}\n[[rule]]\nid = \"r\"\nrationale = \"x\"\n\
         when = {{ signal = \"metric.loss\", above = 50{when} }}\nactions = [\"freeze\"]\n"
    );
    parse("p", &text).unwrap_or_else(|e| panic!("{e}"))
}

fn run(policy: &Policy) -> Run {
    Run {
        id: "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".parse().unwrap(),
        name: "r".into(),
        labels: BTreeMap::new(),
        owner_uid: 0,
        cgroup: "/r".into(),
        cgroup_id: 1,
        boot_id: "b".into(),
        policy: policy.digest(),
        gpus: BTreeSet::new(),
        mig: BTreeMap::new(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Contained::default(),
    }
}

fn s(seconds: u64) -> MonoTime {
    MonoTime(seconds * 1_000_000_000)
}

struct Watch {
    silence: Silence,
    id: RunId,
}

impl Watch {
    fn of(policy: &Policy) -> Watch {
        let run = run(policy);
        let mut silence = Silence::default();
        silence.started(&run, policy);
        Watch { silence, id: run.id }
    }

    fn at(&mut self, seconds: u64) -> Option<Silent> {
        match self.silence.tick(s(seconds), |_| false, |_| false).pop()? {
            Input::Silent(silent) => Some(silent),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_metric_that_never_comes_is_missing_after_the_grace_and_reported_once() {
    let mut watch = Watch::of(&policy("", ""));
    assert_eq!(watch.at(300), None, "within the grace of 5 minutes");
    watch.silence.heard(watch.id, "Loss", s(10));
    let silent = watch.at(301).unwrap();
    assert_eq!((silent.metric.as_str(), silent.rules.as_slice()), ("loss", &["r".to_owned()][..]));
    let why = silent.why.clone().unwrap();
    assert!(why.contains("the run reports `Loss`, the rule needs `loss`") && why.contains("grace 300.0 s"), "{why}");
    assert!(silent.gap().blind && silent.gap().what.contains("rule(s) r"), "{}", silent.gap().what);
    assert_eq!(watch.at(302), None, "reported once");
    let again = watch.silence.heard(watch.id, "loss", s(303)).unwrap();
    assert!(again.why.is_none() && !again.gap().blind);
    assert_eq!(watch.silence.heard(watch.id, "loss", s(304)), None);
}

#[test]
fn grace_and_stale_come_from_the_rule_or_else_from_the_policy() {
    let mut watch = Watch::of(&policy(", grace = \"2m\"", "[metrics]\ngrace = \"1m\"\nstale = \"30s\"\n"));
    assert!(watch.at(100).is_none() && watch.at(121).is_some());
    let mut watch = Watch::of(&policy("", "[metrics]\ngrace = \"1m\"\nstale = \"30s\"\n"));
    assert!(watch.at(61).is_some());
    watch.silence.heard(watch.id, "loss", s(62));
    assert!(watch.at(92).is_none());
    assert!(watch.at(93).unwrap().why.unwrap().contains("no value for 31.0 s (limit 30.0 s)"));
}

#[test]
fn a_metric_that_comes_rarely_is_missing_only_after_ten_of_its_intervals() {
    let mut watch = Watch::of(&policy(", grace = \"10s\"", ""));
    for n in 0..20 {
        watch.silence.heard(watch.id, "loss", s(60 * n));
    }
    assert!(watch.at(60 * 19 + 590).is_none());
    assert!(watch.at(60 * 19 + 601).is_some());
}

#[test]
fn a_frozen_run_is_not_asked_for_metrics() {
    let mut watch = Watch::of(&policy(", stale = \"5s\"", ""));
    watch.silence.heard(watch.id, "loss", s(1));
    for at in 2..100 {
        assert!(watch.silence.tick(s(at), |_| true, |_| false).is_empty());
    }
    assert!(watch.at(104).is_none(), "the thaw was at 99 s");
    assert!(watch.at(105).is_some());
    watch.silence.ended(watch.id);
    assert!(watch.at(1_000).is_none());
}

#[test]
fn what_a_tick_finds_of_one_run_is_one_input_with_short_texts() {
    const METRICS: usize = 256;
    let rule = |n: usize| {
        format!(
            "[[rule]]\nid = \"r{n}\"\nrationale = \"x\"\nwhen = {{ signal = \"metric.m{}\", above = 1, grace = \"2s\" }}\n\
             actions = [\"notify\"]\n",
            n % METRICS
        )
    };
    let text = "[policy]\nname = \"p\"\nowner = \"o\"\n".to_owned() + &(0..1_024).map(rule).collect::<String>();
    let policy = parse("p", &text).unwrap_or_else(|e| panic!("{e}"));
    let mut watch = Watch::of(&policy);
    watch.silence.heard(watch.id, "M1", s(1));
    let found = watch.silence.tick(s(3), |_| false, |_| false);
    let [Input::Missing(missing)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((missing.metrics.len(), missing.rules.len()), (METRICS, NAMED + 1));
    assert_eq!(missing.rules.last().unwrap(), "and 1016 more");
    assert!(missing.metrics["m1"].contains("the run reports `M1`"), "{}", missing.metrics["m1"]);
    let gap = missing.gap();
    assert!(gap.blind && gap.what.contains("and 248 more") && gap.what.len() < 1_500, "{}", gap.what);
    assert!(watch.silence.tick(s(4), |_| false, |_| false).is_empty(), "reported once");
    assert!(watch.silence.heard(watch.id, "m7", s(5)).unwrap().rules.len() <= NAMED + 1);
}

#[test]
fn a_pause_of_the_daemon_is_not_counted_and_changes_no_usual_interval() {
    let mut watch = Watch::of(&policy("", "[metrics]\ngrace = \"1m\"\nstale = \"30s\"\n"));
    watch.silence.paused(s(500), Span::from_secs(480));
    assert!(watch.at(539).is_none(), "20 s and 39 s of the grace of 60 s");
    assert!(watch.at(541).is_some());
    watch.silence.heard(watch.id, "loss", s(542));
    watch.silence.paused(s(900), Span::from_secs(350));
    assert!(watch.at(920).is_none() && watch.at(923).is_some());

    let mut watch = Watch::of(&policy(", grace = \"10s\"", ""));
    for n in 0..20 {
        watch.silence.heard(watch.id, "loss", s(n));
    }
    watch.silence.paused(s(1_019), Span::from_secs(1_000));
    watch.silence.heard(watch.id, "loss", s(1_020));
    assert!(watch.at(1_035).is_some(), "a metric that comes every second is missing after 10 of them");
}

#[test]
fn the_time_of_a_suspension_is_taken_away_and_does_not_begin_anew() {
    let mut watch = Watch::of(&policy("", "[metrics]\ngrace = \"1m\"\nstale = \"30s\"\n"));
    watch.silence.heard(watch.id, "loss", s(10));
    assert!(watch.at(10).is_none());
    // Suspended for 3 s of each 10 s.
    for at in 11..=52 {
        assert!(watch.silence.tick(s(at), |_| false, |_| at % 10 < 3).is_empty(), "{at}");
    }
    assert!(watch.at(54).is_none() && watch.at(55).is_some(), "31 s of 45 s count");
}

//! Blindness: of a sensor, of its silence, of one signal.

use super::*;
use crate::input::{Gap, Missing, NAMED, Unread};

#[test]
fn blindness_is_reported_once_until_sight_returns() {
    let mut b = Bench::new();
    let gap = |seq, blind| {
        Input::Gap(Gap { seq, at: at(1), source: Source::Ebpf, run: None, gpu: None, what: "x".into(), lost: 0, blind })
    };
    let told = b.feed(gap(1, true));
    assert_eq!((rules(&told), told[0].actions.as_slice()), (vec!["blind".to_owned()], [Action::Notify].as_slice()));
    assert!(b.feed(gap(2, true)).is_empty());
    assert!(b.feed(gap(3, false)).is_empty());
    assert_eq!(b.feed(gap(4, true)).len(), 1);
    let mut b = Bench::with(&POLICY.replace("owner = \"o\"", "owner = \"o\"\non_blind = \"freeze\""));
    assert!(b.feed(gap(1, true))[0].actions.contains(&Action::Freeze));
}

#[test]
fn a_silent_sampler_is_blind() {
    let mut b = Bench::new();
    b.egress(0, 0);
    b.signal(9_000, Subject::Gpu(GpuId("GPU-0".into())), Kind::GpuTemperature, Value::Integer(1));
    assert!(b.feed(Input::Tick(at(10_000))).is_empty());
    let told = b.feed(Input::Tick(at(10_001)));
    assert_eq!(rules(&told), ["blind"]);
    b.egress(10_500, 0);
    assert!(b.feed(Input::Tick(at(10_600))).is_empty());
}

#[test]
fn a_signal_that_is_not_read_blinds_the_rules_on_it_and_no_others() {
    let unread = |seq, gpu: &str, kind, why: Option<&str>| {
        let (gpu, why) = (GpuId(gpu.into()), why.map(str::to_owned));
        Input::Unread(Unread { seq, at: at(1), source: Source::Nvml, gpu, kind, why })
    };
    let mut b = Bench::with(&POLICY.replace("owner = \"o\"", "owner = \"o\"\non_blind = \"freeze\""));
    assert!(b.feed(unread(1, "GPU-0", Kind::GpuPower, Some("x"))).is_empty(), "no rule is on it");
    assert!(b.feed(unread(2, "GPU-9", Kind::GpuTemperature, Some("x"))).is_empty(), "it is not the run's GPU");
    let told = b.feed(unread(3, "GPU-0", Kind::GpuTemperature, Some("x")));
    assert_eq!(rules(&told), ["blind"]);
    assert!(told[0].actions.contains(&Action::Freeze) && told[0].because == [3], "{told:?}");
    // Other signals of that GPU are read all the time.
    b.signal(2, Subject::Gpu(GpuId("GPU-0".into())), Kind::GpuUtilization, Value::Integer(1));
    assert!(b.feed(unread(4, "GPU-0", Kind::GpuTemperature, Some("x"))).is_empty(), "told once");
    assert!(b.feed(unread(5, "GPU-0", Kind::GpuTemperature, None)).is_empty());
    assert_eq!(b.feed(unread(6, "GPU-0", Kind::GpuTemperature, Some("x"))).len(), 1);
}

/// A policy that was pinned before there was a limit is judged as well.
#[test]
fn many_missing_metrics_are_one_decision_and_the_rules_are_counted_not_listed() {
    const RULES: usize = 1_024;
    let mut policy = parse("p", "[policy]\nname = \"p\"\nowner = \"o\"\non_blind = \"freeze\"\n[[rule]]\nid = \"r\"\nrationale = \"x\"\nwhen = { signal = \"metric.m\", above = 1 }\nactions = [\"notify\"]\n").unwrap();
    let rule = policy.rules.remove(0);
    for n in 0..5 * RULES {
        let mut rule = rule.clone();
        rule.id = format!("r{n}");
        if let crate::policy::Condition::Threshold { kind, .. } = &mut rule.when {
            *kind = Kind::Metric(format!("m{n}"));
        }
        policy.rules.push(rule);
    }
    let digest = policy.digest();
    let mut b = Bench::of(policy);
    b.feed(Input::RunStarted(started(id(1), digest)));
    let metrics = (0..5 * RULES).map(|n| (format!("m{n}"), "no value in 3.0 s".to_owned())).collect();
    let missing = Input::Missing(Missing { seq: 7, at: at(3_000), run: id(1), metrics, rules: vec!["r0".into()] });
    let decided = b.feed(missing.clone());
    assert_eq!(rules(&decided), ["blind"]);
    assert!(decided[0].because == [7] && decided[0].actions.contains(&Action::Freeze));
    let (named, all) = b.state.blind_rules(&b.policies, id(1));
    assert_eq!((named.len(), all), (NAMED, 5 * RULES));
    assert_eq!(named[0], "rule r0: no value in 3.0 s");
    let blind = b.state.blind(id(1));
    assert_eq!((blind.len(), blind.last().unwrap().as_str()), (NAMED + 1, "and 5112 more"));
    assert!(b.feed(missing).is_empty(), "decided once");
    assert!(b.replay(ENGINE).identical());
}

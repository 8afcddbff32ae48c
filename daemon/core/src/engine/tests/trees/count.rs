//! Tests that count events within a window.

use super::*;

const DENIED: &str = "event = \"connect\", verdict = \"denied\", count = 4, within = \"30s\"";

fn denied(b: &mut Bench, ms: u64) -> Vec<Decision> {
    b.event(ms, connect(4444, Net::Denied))
}

#[test]
fn loss_above_20_and_more_than_3_denied_connects_in_30_s_trips_on_both() {
    let mut b = bench(&format!("all = [{{ signal = \"metric.loss\", above = 20 }}, {{ {DENIED} }}]"));
    assert!(b.metric(1, "loss", 30.0).is_empty());
    for ms in [1_000, 2_000, 3_000] {
        assert!(denied(&mut b, ms).is_empty());
        assert!(b.event(ms, connect(443, Net::Allowed)).is_empty(), "another verdict does not count");
    }
    assert!(b.egress(20_000, 0).is_empty(), "the sensor sees");
    assert!(denied(&mut b, 31_000).is_empty(), "the first is 30 s old");
    let trip = denied(&mut b, 31_500);
    assert_eq!(rules(&trip), ["tree"]);
    let Cause::Rule { condition, .. } = &trip[0].cause else { panic!() };
    assert_eq!(
        condition,
        "all of (metric.loss above 20; at least 4 times event connect, verdict = denied within 30.0 s) \
         [holds: metric.loss above 20; at least 4 times event connect, verdict = denied within 30.0 s: 4 counted]"
    );
    assert!(trip[0].values.iter().any(|seen| seen.event().is_some()), "{trip:?}");
    assert!(b.replay(ENGINE).identical());
}

#[test]
fn a_count_alone_is_a_condition_and_is_armed_again_when_fewer_are_left() {
    let mut b = Bench::with(&with_rule(DENIED, "cooldown = \"1s\"").replace("\"freeze\", ", ""));
    for ms in [1_000, 2_000, 3_000] {
        assert!(denied(&mut b, ms).is_empty());
    }
    assert_eq!(rules(&denied(&mut b, 4_000)), ["tree"]);
    assert!(denied(&mut b, 6_000).is_empty(), "it has tripped");
    for ms in [12_000, 20_000, 28_000, 36_500] {
        assert!(b.egress(ms, 0).is_empty());
        assert!(b.tick(ms).is_empty());
    }
    for ms in [37_000, 37_100, 37_200] {
        assert!(denied(&mut b, ms).is_empty());
    }
    assert_eq!(rules(&denied(&mut b, 37_300)), ["tree"]);
}

#[test]
fn an_event_counts_for_those_that_the_kernel_held_back() {
    let mut b = bench(DENIED);
    assert!(b.repeated(1_000, connect(4444, Net::Denied), 1).is_empty(), "two");
    let trip = b.repeated(2_000, connect(4444, Net::Denied), 90);
    assert_eq!(rules(&trip), ["tree"]);
    let Cause::Rule { condition, .. } = &trip[0].cause else { panic!() };
    assert!(condition.ends_with(": 93 counted]"), "{condition}");
}

#[test]
fn too_few_events_are_unknown_while_some_may_have_been_lost() {
    let mut b = bench(&format!("all = [{{ not = {{ {DENIED} }} }}, {{ signal = \"metric.loss\", above = 20 }}]"));
    assert!(denied(&mut b, 500).is_empty());
    assert!(b.gap(1_000, Source::Ebpf, false).is_empty());
    assert!(b.metric(2_000, "loss", 30.0).is_empty(), "more may have been lost");
    assert_eq!(
        b.unknown(2_000),
        ["rule tree (the run): event connect: events of the last 30.0 s may have been missed or cut"]
    );
    for ms in [10_000, 18_000, 26_000] {
        assert!(b.egress(ms, 0).is_empty());
    }
    assert!(b.tick(30_999).is_empty());
    assert_eq!(rules(&b.tick(31_000)), ["tree"]);

    let mut enough = bench(DENIED);
    assert!(enough.gap(1_000, Source::Ebpf, false).is_empty());
    for ms in [1_001, 1_002, 1_003] {
        assert!(denied(&mut enough, ms).is_empty());
    }
    assert_eq!(rules(&denied(&mut enough, 1_004)), ["tree"], "lost events cannot make it fewer");
}

#[test]
fn a_count_with_events_that_are_only_observed_makes_a_decision_that_is_only_observed() {
    let mut b = Bench::with(&with_rule(DENIED, OBSERVED));
    for ms in [1, 2] {
        assert!(denied(&mut b, ms).is_empty());
    }
    assert!(b.event(3, connect(443, Net::WouldDeny)).is_empty());
    let trip = b.event(4, connect(443, Net::WouldDeny));
    assert_eq!((rules(&trip), trip[0].mode), (vec!["tree".to_owned()], Mode::Observe));
    assert!(!b.state.run(b.run).unwrap().frozen);
}

const OBSERVED: &str = "[egress]\nmode = \"observe\"\nallow = [{ cidr = \"10.0.0.0/8\" }]";

fn would_be_denied(b: &mut Bench, ms: u64) -> Vec<Decision> {
    b.event(ms, connect(443, Net::WouldDeny))
}

#[test]
fn a_rule_that_tripped_with_observed_denials_trips_again_when_real_ones_are_enough() {
    let mut b = Bench::with(&with_rule(DENIED, OBSERVED));
    assert!(denied(&mut b, 1).is_empty() && denied(&mut b, 2).is_empty() && would_be_denied(&mut b, 3).is_empty());
    let observed = would_be_denied(&mut b, 4);
    assert_eq!((rules(&observed), observed[0].mode), (vec!["tree".to_owned()], Mode::Observe));
    assert!(denied(&mut b, 5).is_empty() && would_be_denied(&mut b, 6).is_empty(), "three real ones");
    let trip = denied(&mut b, 7);
    assert_eq!((rules(&trip), trip[0].mode), (vec!["tree".to_owned()], Mode::Enforce));
    assert!(b.state.run(b.run).unwrap().frozen);
    assert!(denied(&mut b, 8).is_empty(), "it has tripped");
    assert!(b.replay(ENGINE).identical());
    let before = b.replay(10).replayed;
    assert_eq!(before.iter().map(|decision| decision.mode).collect::<Vec<_>>(), [Mode::Observe]);
}

#[test]
fn a_rule_that_only_observes_does_not_trip_again_for_real_denials() {
    let mut b = Bench::with(&with_rule(DENIED, &format!("mode = \"observe\"\n{OBSERVED}")));
    let decisions: Vec<Decision> = (1..5).flat_map(|ms| would_be_denied(&mut b, ms)).collect();
    assert_eq!(decisions.len(), 1);
    assert!((5..10).all(|ms| denied(&mut b, ms).is_empty()));
}

/// The metric alone is enough: a denial that is only observed does not weaken it.
#[test]
fn a_condition_that_holds_without_the_observed_denial_is_enforced() {
    let when = "any = [{ signal = \"metric.loss\", above = 20 }, { event = \"connect\", verdict = \"denied\", within = \"10s\" }]";
    for loss_first in [true, false] {
        let mut b = Bench::with(&with_rule(when, OBSERVED));
        let mut both = Vec::new();
        let mut loss = |b: &mut Bench, ms| both.extend(b.metric(ms, "loss", 30.0));
        if loss_first {
            loss(&mut b, 1);
            assert!(would_be_denied(&mut b, 2).is_empty());
        } else {
            assert_eq!(would_be_denied(&mut b, 1)[0].mode, Mode::Observe);
            loss(&mut b, 2);
        }
        assert_eq!(both.iter().map(|decision| decision.mode).collect::<Vec<_>>(), [Mode::Enforce], "{loss_first}");
        assert!(b.state.run(b.run).unwrap().frozen && b.replay(ENGINE).identical());
    }
}

#[test]
fn a_real_event_within_the_window_is_enforced_although_the_last_one_is_only_observed() {
    let when = "all = [{ event = \"connect\", verdict = \"denied\", within = \"10s\" }, { signal = \"metric.loss\", above = 20 }]";
    let mode = |loss_at: u64| {
        let mut b = Bench::with(&with_rule(when, OBSERVED));
        assert!(denied(&mut b, 1_000).is_empty() && would_be_denied(&mut b, 9_000).is_empty());
        b.metric(loss_at, "loss", 30.0)[0].mode
    };
    assert_eq!((mode(10_000), mode(12_000)), (Mode::Enforce, Mode::Observe));
}

#[test]
fn a_real_denial_trips_within_the_cooldown_of_an_observed_one() {
    let plain = "event = \"connect\", verdict = \"denied\"";
    let mut b = Bench::with(&with_rule(plain, &format!("cooldown = \"10s\"\n{OBSERVED}")));
    assert_eq!(would_be_denied(&mut b, 1)[0].mode, Mode::Observe);
    assert!(would_be_denied(&mut b, 2).is_empty());
    assert_eq!(denied(&mut b, 3)[0].mode, Mode::Enforce);
    assert!(denied(&mut b, 4).is_empty());
    assert!(b.replay(ENGINE).identical());
    assert_eq!(b.replay(10).replayed.len(), 1);
}

#[test]
fn a_rule_that_observes_keeps_its_cooldown_after_an_observed_denial() {
    let plain = "event = \"connect\", verdict = \"denied\"";
    let mut b = Bench::with(&with_rule(plain, &format!("cooldown = \"10s\"\nmode = \"observe\"\n{OBSERVED}")));
    assert_eq!(would_be_denied(&mut b, 1)[0].mode, Mode::Observe);
    assert!(denied(&mut b, 3).is_empty(), "nothing is done for either");
}

#[test]
fn what_would_have_been_denied_does_not_count_after_observe_mode_ends() {
    let mut b = Bench::with(&with_rule(DENIED, ""));
    let mode = |b: &Bench, ms, mode| Input::Mode { run: b.run, mode, at: at(ms) };
    let observe = mode(&b, 1, Mode::Observe);
    assert!(b.feed(observe).is_empty());
    assert!(denied(&mut b, 2).is_empty());
    let mut decisions: Vec<Decision> = (3..6).flat_map(|ms| b.event(ms, connect(443, Net::WouldDeny))).collect();
    assert_eq!(decisions.pop().map(|decision| decision.mode), Some(Mode::Observe));
    let enforce = mode(&b, 10, Mode::Enforce);
    assert!(b.feed(enforce).is_empty(), "one is left");
    assert!(denied(&mut b, 11).is_empty() && denied(&mut b, 12).is_empty());
    let trip = denied(&mut b, 13);
    assert_eq!((rules(&trip), trip[0].mode), (vec!["tree".to_owned()], Mode::Enforce));
}

#[test]
fn a_count_on_a_gpu_event_is_kept_for_each_gpu() {
    let mut b = bench("event = \"xid\", code = 48, count = 2, within = \"1m\"");
    let gpus = ["GPU-0", "GPU-1"].map(|gpu| GpuId(gpu.into())).into();
    assert!(b.feed(Input::RunGpus { run: b.run, gpus, at: at(1) }).is_empty());
    let xid = |b: &mut Bench, ms, gpu: &str| {
        let event = Value::Event(Event::Xid { code: 48, slice: None });
        b.signal(ms, Subject::Gpu(GpuId(gpu.into())), Kind::Event, event)
    };
    assert!(xid(&mut b, 2, "GPU-0").is_empty() && xid(&mut b, 3, "GPU-1").is_empty());
    let trip = xid(&mut b, 4, "GPU-1");
    assert_eq!(rules(&trip), ["tree"]);
    assert_eq!(trip[0].values[0].subject, Subject::Gpu(GpuId("GPU-1".into())));
}

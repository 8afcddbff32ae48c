//! Conditions of several parts: what trips, what waits, what is unknown, and that a replay never differs.

mod compare;
mod count;
mod detect;
mod pauses;

use super::*;
use crate::{
    decision::Confidence,
    event::ExecKind,
    input::{Gap, Silent, Unread},
    signal::{Claimed, Series},
};

fn with_rule(when: &str, rest: &str) -> String {
    format!(
        "[policy]\nname = \"p\"\nowner = \"o\"\n\n[[rule]]\nid = \"tree\"\nrationale = \"x\"\nwhen = {{ {when} }}\n\
         actions = [\"freeze\", \"notify\"]\n{rest}\n"
    )
}

fn bench(when: &str) -> Bench {
    Bench::with(&with_rule(when, ""))
}

impl Bench {
    fn metric(&mut self, ms: u64, name: &str, value: f64) -> Vec<Decision> {
        self.ranked(ms, name, value, "0")
    }

    fn ranked(&mut self, ms: u64, name: &str, value: f64, rank: &str) -> Vec<Decision> {
        let series = Series::rank(rank).unwrap();
        let value = Value::Claimed(Claimed { value: Real(value), step: None, series });
        self.signal(ms, Subject::Run(self.run), Kind::Metric(name.into()), value)
    }

    fn tick(&mut self, ms: u64) -> Vec<Decision> {
        self.feed(Input::Tick(at(ms)))
    }

    fn gap(&mut self, ms: u64, source: Source, blind: bool) -> Vec<Decision> {
        self.seq += 1;
        let (seq, what) = (self.seq, "x".to_owned());
        let lost = u64::from(!blind);
        self.feed(Input::Gap(Gap { seq, at: at(ms), source, run: None, gpu: None, what, lost, blind }))
    }

    fn gpu(&mut self, ms: u64, gpu: &str, kind: Kind, value: i64) -> Vec<Decision> {
        self.signal(ms, Subject::Gpu(GpuId(gpu.into())), kind, Value::Integer(value))
    }

    fn unknown(&self, ms: u64) -> Vec<String> {
        self.state.rules(&self.policies, self.run, at(ms)).unknown
    }

    fn waiting(&self, ms: u64) -> Vec<String> {
        self.state.rules(&self.policies, self.run, at(ms)).disarmed
    }
}

fn exec(path: &str) -> Event {
    Event::Exec {
        path: path.into(),
        known_as: Vec::new(),
        argv: path.into(),
        kind: ExecKind::File,
        verdict: Net::Allowed,
        assurance: Assurance::Observed,
    }
}

const LOSS_AND_EGRESS: &str =
    "all = [{ signal = \"metric.loss\", above = 20 }, { signal = \"net.egress_bytes\", above = \"1 GB\" }]";

#[test]
fn loss_above_20_and_more_than_1_gb_sent_trips_on_both_and_shows_both_values() {
    let mut b = bench(LOSS_AND_EGRESS);
    assert!(b.metric(1, "loss", 30.0).is_empty(), "nothing is known of what was sent");
    assert!(b.egress(2, 999_000_000).is_empty());
    let trip = b.egress(3, 1_000_000_001);
    assert_eq!(rules(&trip), ["tree"]);
    assert_eq!(trip[0].because, [1, 3]);
    let values: Vec<String> = trip[0].values.iter().map(|seen| format!("{} = {}", seen.kind, seen.show())).collect();
    assert_eq!(values, ["metric.loss = 30 (claimed by rank 0)", "net.egress_bytes = 953.6 MiB"]);
    let Cause::Rule { condition, .. } = &trip[0].cause else { panic!() };
    assert_eq!(condition, "all of (metric.loss above 20; net.egress_bytes above 1 GB)");
    assert!(b.metric(4, "loss", 31.0).is_empty(), "it trips once");
    assert!(b.metric(5, "loss", 3.0).is_empty(), "and is armed again by this");
    assert!(b.metric(6_000, "loss", 32.0).is_empty(), "the cooldown");
    assert_eq!(rules(&b.metric(11_000, "loss", 32.0)), ["tree"]);
}

#[test]
fn no_step_for_five_minutes_trips_at_the_tick_after_and_not_while_the_run_is_frozen() {
    let mut b = bench("signal = \"metric.step\", absent = \"5m\"");
    assert!(b.metric(10_000, "step", 1.0).is_empty());
    assert!(b.tick(309_999).is_empty());
    let trip = b.tick(310_000);
    assert_eq!(rules(&trip), ["tree"]);
    assert_eq!((trip[0].at, trip[0].values[0].at), (at(310_000), at(10_000)), "the last value is the evidence");
    assert!(b.state.run(b.run).unwrap().frozen);
    assert!(b.tick(900_000).is_empty());
    assert_eq!(rules(&b.control(900_001, Command::Thaw)), ["operator"]);
    assert!(b.tick(900_500).is_empty(), "a frozen run reports nothing, so that time does not count");
    assert!(b.tick(1_190_000).is_empty());
    assert_eq!(rules(&b.tick(1_200_500)), ["tree"]);
}

#[test]
fn one_silent_rank_of_three_trips_a_rule_that_is_judged_over_any_and_no_other() {
    for (over, trips) in [("", false), (", over = \"all\"", false), (", over = \"any\"", true)] {
        let mut b = bench(&format!("signal = \"metric.step\", absent = \"5m\"{over}"));
        let mut decisions = Vec::new();
        for s in 0..=320 {
            for rank in ["0", "1", "2"] {
                // Rank 1 hangs after 10 s.
                if rank != "1" || s <= 10 {
                    decisions.extend(b.ranked(s * 1_000, "step", s as f64, rank));
                }
            }
            decisions.extend(b.tick(s * 1_000));
        }
        assert_eq!(rules(&decisions), if trips { vec!["tree"] } else { vec![] }, "{over}");
        if let [trip] = &decisions[..] {
            assert_eq!(trip.at, at(310_000));
            let values: Vec<String> = trip.values.iter().map(|seen| seen.show()).collect();
            assert_eq!(values, ["10 (claimed by rank 1)"], "the last value of the silent rank is the evidence");
        }
        assert!(b.replay(ENGINE).identical());
    }
}

#[test]
fn a_rank_that_ended_or_stood_still_with_its_run_is_not_silent() {
    let mut b = bench("signal = \"metric.step\", absent = \"5m\", over = \"any\"");
    assert!(b.ranked(0, "step", 1.0, "0").is_empty());
    assert!(b.ranked(0, "step", 1.0, "1").is_empty());
    let ended = Input::SeriesEnded { run: b.run, series: Series::rank("1").unwrap(), at: at(1_000) };
    assert!(b.feed(ended).is_empty());
    assert!(b.ranked(299_000, "step", 2.0, "0").is_empty());
    assert!(b.tick(301_000).is_empty(), "rank 1 has ended");
    b.control(310_000, Command::Freeze);
    assert!(b.tick(900_000).is_empty(), "the run stands still");
    b.control(900_000, Command::Thaw);
    assert!(b.tick(1_199_000).is_empty());
    assert_eq!(rules(&b.tick(1_200_000)), ["tree"]);
}

#[test]
fn a_bound_that_holds_only_during_evaluation() {
    let mut b = bench("signal = \"metric.accuracy\", below = 0.5, phase = \"evaluate\"");
    assert!(b.metric(1, "accuracy", 0.1).is_empty());
    assert_eq!(b.unknown(2), ["rule tree (the run): metric.phase: no value yet"]);
    assert!(b.metric(2, "phase", 2.0).is_empty(), "it trains");
    let trip = b.metric(3, "phase", 3.0);
    assert_eq!(rules(&trip), ["tree"]);
    let kinds: Vec<String> = trip[0].values.iter().map(|seen| seen.kind.to_string()).collect();
    assert_eq!(kinds, ["metric.accuracy", "metric.phase"]);
}

#[test]
fn a_rule_is_not_judged_during_its_warm_up() {
    let mut b = bench("signal = \"metric.loss\", above = 20, warm_up = \"10m\"");
    assert!(b.metric(1, "loss", 90.0).is_empty());
    assert!(b.tick(599_999).is_empty());
    assert_eq!(rules(&b.tick(600_000)), ["tree"]);
}

#[test]
fn an_event_holds_for_its_window() {
    let mut b = bench(
        "all = [{ event = \"exec\", path = \"/usr/bin/curl\", within = \"30s\" }, { signal = \"metric.loss\", above = 20 }]",
    );
    assert!(b.metric(0, "loss", 1.0).is_empty());
    assert!(b.event(1_000, exec("/usr/bin/curl")).is_empty());
    assert!(b.metric(31_000, "loss", 30.0).is_empty(), "the window has passed");
    assert!(b.event(31_500, exec("/bin/sh")).is_empty());
    let trip = b.event(32_000, exec("/usr/bin/curl"));
    assert_eq!(rules(&trip), ["tree"]);
    assert!(trip[0].values.iter().any(|seen| seen.event().is_some()), "{trip:?}");
    assert_eq!(rules(&b.control(33_000, Command::Thaw)), ["operator"]);
    assert!(b.egress(33_500, 0).is_empty(), "the sensor sees");
    assert!(b.tick(34_000).is_empty(), "the operator has seen it");
    assert_eq!(rules(&b.event(35_000, exec("/usr/bin/curl"))), ["tree"], "a new event is something new");
}

#[test]
fn two_of_three_and_the_tests_that_made_it_true() {
    let part = |name: &str| format!("{{ signal = \"metric.{name}\", above = 1 }}");
    let mut b = bench(&format!("at_least = 2, of = [{}, {}, {}]", part("a"), part("b"), part("c")));
    assert!(b.metric(1, "b", 2.0).is_empty());
    assert!(b.metric(2, "a", 0.0).is_empty());
    let trip = b.metric(3, "c", 2.0);
    let Cause::Rule { condition, .. } = &trip[0].cause else { panic!() };
    assert!(condition.ends_with(" [holds: metric.b above 1; metric.c above 1]"), "{condition}");
    assert_eq!(trip[0].because, [1, 3]);
}

#[test]
fn what_does_not_hold_is_evidence_too() {
    let mut b =
        bench("all = [{ not = { signal = \"process.count\", above = 4 } }, { signal = \"metric.loss\", above = 20 }]");
    assert!(b.metric(1, "loss", 30.0).is_empty(), "not of what is unknown is unknown");
    let trip = b.signal(2, Subject::Run(b.run), Kind::Processes, Value::Integer(3));
    assert_eq!(rules(&trip), ["tree"]);
    assert_eq!(trip[0].values[0].kind, Kind::Processes);
}

#[test]
fn for_waits_while_a_value_is_unknown_and_begins_anew_when_it_is_false() {
    let mut b = bench(
        "all = [{ signal = \"metric.loss\", above = 20 }, { signal = \"process.count\", above = 1 }], for = \"10s\"",
    );
    let processes = |b: &mut Bench, ms, n| b.signal(ms, Subject::Run(b.run), Kind::Processes, Value::Integer(n));
    assert!(processes(&mut b, 0, 2).is_empty());
    assert!(b.metric(0, "loss", 30.0).is_empty());
    assert!(b.metric(6_000, "loss", f64::NAN).is_empty(), "6 s have passed");
    assert!(b.tick(60_000).iter().all(|decision| !matches!(decision.cause, Cause::Rule { .. })));
    assert!(processes(&mut b, 60_500, 2).is_empty());
    assert!(b.metric(61_000, "loss", 30.0).is_empty());
    assert!(b.tick(64_999).is_empty());
    assert_eq!(rules(&b.tick(65_000)), ["tree"], "and 4 s more");

    let mut b = bench("all = [{ signal = \"metric.loss\", above = 20 }], for = \"10s\"");
    assert!(b.metric(0, "loss", 30.0).is_empty());
    assert!(b.metric(6_000, "loss", 1.0).is_empty());
    assert!(b.metric(7_000, "loss", 30.0).is_empty());
    assert!(b.tick(16_999).is_empty());
    assert_eq!(rules(&b.tick(17_000)), ["tree"]);
}

#[test]
fn for_of_a_test_is_judged_at_its_values_as_in_a_rule_of_one_test() {
    let mut b = bench("any = [{ signal = \"metric.loss\", above = 20, for = \"2s\" }]");
    assert!(b.metric(0, "loss", 30.0).is_empty());
    assert!(b.tick(5_000).is_empty(), "one value alone proves nothing");
    assert!(b.metric(5_500, "loss", 19.0).is_empty());
    assert!(b.metric(6_000, "loss", 30.0).is_empty());
    assert!(b.metric(7_000, "loss", f64::NAN).is_empty());
    assert!(b.metric(8_000, "loss", 30.0).is_empty(), "the time without a number does not count");
    assert_eq!(rules(&b.metric(10_000, "loss", 30.0)), ["tree"]);
}

#[test]
fn a_test_stays_true_until_its_value_is_back_at_clear() {
    let mut b = bench(
        "all = [{ signal = \"metric.loss\", above = 20, clear = 5 }, { signal = \"net.egress_bytes\", above = \"1 kB\" }]",
    );
    assert!(b.metric(1, "loss", 21.0).is_empty());
    assert!(b.metric(2, "loss", 6.0).is_empty());
    assert_eq!(rules(&b.egress(3, 2_000)), ["tree"]);
    let mut cleared = bench(
        "all = [{ signal = \"metric.loss\", above = 20, clear = 5 }, { signal = \"net.egress_bytes\", above = \"1 kB\" }]",
    );
    assert!(cleared.metric(1, "loss", 21.0).is_empty());
    assert!(cleared.metric(2, "loss", 5.0).is_empty());
    assert!(cleared.egress(3, 2_000).is_empty());
}

#[test]
fn a_rule_is_armed_again_only_after_keep_firing_for_without_its_condition() {
    let mut b =
        Bench::with(&with_rule("signal = \"metric.loss\", above = 20, keep_firing_for = \"1m\"", "cooldown = \"1s\""));
    assert_eq!(rules(&b.metric(0, "loss", 30.0)), ["tree"]);
    assert!(b.metric(10_000, "loss", 1.0).is_empty());
    assert!(b.metric(60_000, "loss", 30.0).is_empty(), "50 s without it");
    assert!(b.metric(61_000, "loss", 1.0).is_empty());
    assert!(b.metric(91_000, "loss", f64::NAN).is_empty(), "30 s; what is unknown does not clear");
    assert!(b.metric(150_000, "loss", 1.0).is_empty());
    assert_eq!(b.waiting(170_000).len(), 1);
    assert!(b.tick(180_000).iter().all(|d| !matches!(d.cause, Cause::Rule { .. })), "30 s more");
    assert_eq!(b.waiting(180_000).len(), 0);
    assert_eq!(rules(&b.metric(181_000, "loss", 30.0)), ["tree"]);
}

#[test]
fn a_signal_that_cannot_be_read_is_unknown_and_not_absent() {
    let mut b = bench("signal = \"gpu.temperature\", absent = \"10s\"");
    let unread = |ms, why: Option<&str>| {
        let (gpu, kind, why) = (GpuId("GPU-0".into()), Kind::GpuTemperature, why.map(str::to_owned));
        Input::Unread(Unread { seq: 9, at: at(ms), source: Source::Nvml, gpu, kind, why })
    };
    assert!(b.gpu(1_000, "GPU-0", Kind::GpuTemperature, 50_000).is_empty());
    assert_eq!(rules(&b.feed(unread(5_000, Some("timeout")))), ["blind"]);
    // The sensor is not blind: it reads other signals.
    for ms in [6_000, 15_000, 25_000] {
        b.gpu(ms, "GPU-0", Kind::GpuPower, 1);
        assert!(b.tick(ms).is_empty());
    }
    assert_eq!(b.unknown(25_000), ["rule tree (GPU-0): gpu.temperature: the signal cannot be read"]);
    assert!(b.feed(unread(25_000, None)).is_empty());
    b.gpu(34_000, "GPU-0", Kind::GpuPower, 1);
    assert!(b.tick(34_900).is_empty(), "the time in which it could not be read does not count");
    let decided = b.tick(35_000);
    assert_eq!(rules(&decided), ["tree"]);
    assert!(b.replay(ENGINE).identical());
    assert_eq!(b.replay(9).replayed.last().map(|decision| decision.at), Some(at(15_000)), "as engine 9 decided");
}

#[test]
fn a_metric_that_counts_as_missing_is_absent() {
    let text = with_rule("signal = \"metric.step\", absent = \"10s\"", "");
    let mut b = Bench::with(
        &(text
            + "[[rule]]\nid = \"slow\"\nrationale = \"x\"\nactions = [\"notify\"]\n\
                                      when = { signal = \"metric.step\", below = 1 }\n"),
    );
    assert!(b.metric(1_000, "step", 2.0).is_empty());
    let (metric, rules_on) = ("step".to_owned(), vec!["slow".to_owned()]);
    let silent = Silent { seq: 9, at: at(5_000), run: id(1), metric, rules: rules_on, why: Some("no value".into()) };
    assert_eq!(rules(&b.feed(Input::Silent(silent))), ["blind"]);
    assert_eq!(rules(&b.tick(11_000)), ["tree"], "nobody reports it: that is what the rule waits for");
}

#[test]
fn blind_silent_unread_and_lost_make_a_condition_unknown_until_a_value_comes_again() {
    let mut b =
        bench("all = [{ signal = \"metric.loss\", above = 20 }, { signal = \"net.egress_bytes\", above = \"1 kB\" }]");
    assert!(b.metric(1, "loss", 30.0).is_empty());
    let silent = |why: Option<&str>| {
        let (metric, rules) = ("loss".to_owned(), vec!["tree".to_owned()]);
        Input::Silent(Silent { seq: 9, at: at(2), run: id(1), metric, rules, why: why.map(str::to_owned) })
    };
    assert_eq!(rules(&b.feed(silent(Some("no value")))), ["blind"]);
    assert!(b.egress(3, 2_000).is_empty(), "the loss is not known");
    assert_eq!(b.unknown(3), ["rule tree (the run): metric.loss: no value since it was last not seen"]);
    assert!(b.feed(silent(None)).is_empty(), "its old value counts no more");
    assert_eq!(rules(&b.metric(4, "loss", 30.0)), ["tree"]);

    let mut b =
        bench("all = [{ signal = \"metric.loss\", above = 20 }, { signal = \"net.egress_bytes\", above = \"1 kB\" }]");
    assert!(b.egress(1, 2_000).is_empty());
    assert_eq!(rules(&b.gap(2, Source::Ebpf, true)), ["blind"]);
    assert!(b.metric(3, "loss", 30.0).is_empty());
    assert!(b.gap(4, Source::Ebpf, false).is_empty());
    assert_eq!(rules(&b.egress(5, 2_000)), ["tree"]);

    let mut b =
        bench("all = [{ not = { event = \"exec\", within = \"10s\" } }, { signal = \"metric.loss\", above = 20 }]");
    assert!(b.gap(1_000, Source::Ebpf, false).is_empty());
    assert!(b.metric(2_000, "loss", 30.0).is_empty(), "an exec may have been lost");
    assert_eq!(
        b.unknown(2_000),
        ["rule tree (the run): event exec: events of the last 10.0 s may have been missed or cut"]
    );
    assert!(b.egress(10_000, 0).is_empty(), "the sensor sees");
    assert_eq!(rules(&b.tick(11_000)), ["tree"]);
}

#[test]
fn a_condition_on_gpus_is_judged_for_each_gpu_by_itself() {
    let when = "all = [{ signal = \"gpu.temperature\", above = \"80 C\" }, { signal = \"gpu.utilization\", below = \"5 %\" }, \
                { signal = \"metric.loss\", above = 1 }]";
    let mut b = bench(when);
    let gpus = ["GPU-0", "GPU-1"].map(|gpu| GpuId(gpu.into())).into();
    assert!(b.feed(Input::RunGpus { run: b.run, gpus, at: at(1) }).is_empty());
    assert!(b.metric(2, "loss", 2.0).is_empty());
    assert!(b.gpu(3, "GPU-0", Kind::GpuTemperature, 90_000).is_empty());
    assert!(b.gpu(4, "GPU-1", Kind::GpuUtilization, 0).is_empty(), "hot is one, idle the other");
    assert!(b.gpu(5, "GPU-0", Kind::GpuUtilization, 99_000).is_empty());
    let trip = b.gpu(6, "GPU-1", Kind::GpuTemperature, 90_000);
    assert_eq!(rules(&trip), ["tree"]);
    assert_eq!(trip[0].values[0].subject, Subject::Gpu(GpuId("GPU-1".into())));
    let Cause::Rule { condition, .. } = &trip[0].cause else { panic!() };
    assert!(condition.ends_with(" on GPU-1"), "{condition}");
    let unread = Unread {
        seq: 7,
        at: at(7),
        source: Source::Nvml,
        gpu: GpuId("GPU-0".into()),
        kind: Kind::GpuUtilization,
        why: Some("gone".into()),
    };
    assert_eq!(rules(&b.feed(Input::Unread(unread))), ["blind"]);
    assert_eq!(b.unknown(7), ["rule tree (GPU-0): gpu.utilization: no value since it was last not seen"]);
}

#[test]
fn series_are_judged_one_by_one_all_together_or_by_their_mean() {
    let when = |over: &str| format!("all = [{{ signal = \"metric.loss\", above = 10, over = \"{over}\" }}]");
    let trips = |over: &str, values: &[(&str, f64)]| {
        let mut b = bench(&when(over));
        let mut n = 0;
        let mut all = values.iter().map(|(rank, value)| {
            n += 1;
            b.ranked(n, "loss", *value, rank).len()
        });
        all.by_ref().sum::<usize>() > 0
    };
    let (mixed, nan) = ([("0", 1.0), ("1", 30.0)], [("0", f64::NAN), ("1", 30.0)]);
    assert!(trips("any", &mixed) && trips("any", &nan));
    assert!(!trips("all", &mixed) && !trips("all", &nan) && trips("all", &[("0", 11.0), ("1", 30.0)]));
    assert!(trips("mean", &mixed) && !trips("mean", &nan));
    assert!(trips("max", &mixed) && trips("max", &nan), "30 is above 10 whatever the other is");
    assert!(!trips("min", &mixed) && !trips("min", &nan), "the other may be below");
}

#[test]
fn a_series_that_ended_counts_no_more() {
    let mut b = bench(
        "all = [{ signal = \"metric.loss\", above = 10, over = \"all\" }, { signal = \"net.egress_bytes\", above = \"1 kB\" }]",
    );
    assert!(b.egress(1, 2_000).is_empty());
    assert!(b.ranked(2, "loss", 1.0, "0").is_empty());
    assert!(b.ranked(3, "loss", 30.0, "1").is_empty());
    let ended = Input::SeriesEnded { run: b.run, series: Series::rank("0").unwrap(), at: at(4) };
    assert_eq!(rules(&b.feed(ended)), ["tree"]);
}

#[test]
fn a_decision_is_as_certain_as_the_tests_that_suffice() {
    let part = |name: &str, confidence: &str| {
        format!("{{ signal = \"metric.{name}\", above = 1, confidence = \"{confidence}\" }}")
    };
    let certain = |form: &str, names: &[&str]| {
        let list = [part("a", "low"), part("b", "medium"), part("c", "high")].join(", ");
        let mut b = Bench::with(&with_rule(&format!("{form} = [{list}]"), "confidence = \"high\""));
        let decisions: Vec<Decision> = names.iter().flat_map(|name| b.metric(1, name, 2.0)).collect();
        decisions[0].confidence
    };
    assert_eq!(certain("all", &["a", "b", "c"]), Confidence::Low);
    assert_eq!(certain("any", &["b"]), Confidence::Medium);
    assert_eq!(certain("at_least = 2, of", &["c", "b"]), Confidence::Medium);
    let mut b = Bench::with(&with_rule("all = [{ signal = \"metric.a\", above = 1 }]", "confidence = \"low\""));
    assert_eq!(b.metric(1, "a", 2.0)[0].confidence, Confidence::Low, "never more than the rule's own");
}

#[test]
fn a_denial_that_is_only_observed_makes_a_decision_that_is_only_observed() {
    let text = with_rule(
        "all = [{ event = \"connect\", verdict = \"denied\", within = \"10s\" }]",
        "[egress]\nmode = \"observe\"\nallow = [{ cidr = \"10.0.0.0/8\" }]",
    );
    let mut b = Bench::with(&text);
    let trip = b.event(1, connect(443, Net::WouldDeny));
    assert_eq!((rules(&trip), trip[0].mode), (vec!["tree".to_owned()], Mode::Observe));
    assert!(!b.state.run(b.run).unwrap().frozen);
}

/// Conditions that together have every test and every connective.
const MANY: &str = r#"
[policy]
name = "p"
owner = "o"
[[rule]]
id = "a"
rationale = "x"
when = { any = [{ all = [{ signal = "metric.loss", above = 10, clear = 5, for = "1s" }, { not = { event = "connect", within = "2s" } }] }, { signal = "metric.loss", is = "not-finite" }], for = "1s", keep_firing_for = "2s" }
actions = ["notify"]
[[rule]]
id = "b"
rationale = "x"
when = { at_least = 2, of = [{ signal = "net.egress_bytes", above = "1 MB/s", over = "2s" }, { signal = "metric.loss", absent = "3s" }, { signal = "metric.loss", above = 10, over = "mean" }], warm_up = "3s" }
actions = ["freeze"]
cooldown = "1s"
[[rule]]
id = "c"
rationale = "x"
when = { signal = "gpu.temperature", above = "80 C", phase = "evaluate", rearm = "after 3s" }
actions = ["notify"]
cooldown = "1s"
[[rule]]
id = "d"
rationale = "x"
when = { any = [{ event = "connect", verdict = "denied", count = 3, within = "5s" }, { not = { any = [{ event = "connect", count = 2, within = "4s" }, { signal = "metric.loss", below = 30 }] } }], keep_firing_for = "1s" }
actions = ["notify"]
cooldown = "1s"
[[rule]]
id = "e"
rationale = "x"
when = { any = [{ signal = "metric.loss", above = { first = "3s", factor = 1.5 } }, { signal = "metric.loss", above = { first = "4 steps", statistic = "mean", offset = 3 }, over = "all" }, { signal = "metric.loss", below = { signal = "metric.phase" } }], warm_up = "1s" }
actions = ["notify"]
cooldown = "1s"
"#;

fn any_input() -> impl Strategy<Value = (u64, u8, i64)> {
    (0u64..2_500, 0u8..14, prop_oneof![-5i64..40, Just(i64::MIN)])
}

/// Feeds the bench with what the numbers say; all decisions.
fn feed_all(b: &mut Bench, inputs: &[(u64, u8, i64)]) -> Vec<Decision> {
    let (mut ms, mut out) = (0, Vec::new());
    for (after, what, number) in inputs {
        // Time does not always go forward between sensors.
        ms = if *what == 13 { u64::saturating_sub(ms, *after) } else { ms + after };
        let real = if *number == i64::MIN { f64::NAN } else { *number as f64 };
        out.extend(match what {
            0 | 1 => b.ranked(ms, "loss", real, "0"),
            2 => b.ranked(ms, "loss", real, "1"),
            3 => b.metric(ms, "phase", real.clamp(1.0, 4.0).round()),
            4 => b.egress(ms, number.saturating_mul(100_000).max(0)),
            5 => b.event(ms, connect(4444, Net::Denied)),
            6 => b.gpu(ms, "GPU-0", Kind::GpuTemperature, number.saturating_mul(3_000)),
            7 => b.gap(ms, Source::Ebpf, number % 2 == 0),
            8 => b.gap(ms, Source::Nvml, number % 2 == 0),
            9 => b.control(ms, Command::Thaw),
            10 => b.feed(Input::SeriesEnded { run: b.run, series: Series::rank("1").unwrap(), at: at(ms) }),
            11 => {
                let gpus = if number % 2 == 0 { vec!["GPU-0"] } else { vec!["GPU-0", "GPU-1"] };
                let gpus = gpus.into_iter().map(|gpu| GpuId(gpu.into())).collect();
                b.feed(Input::RunGpus { run: b.run, gpus, at: at(ms) })
            }
            _ => b.tick(ms),
        });
    }
    out
}

/// How many lists of inputs are tried. `FAILSAFE_RANDOM_CASES=17000` makes a million random inputs; run it with `cargo test`, because
/// it takes longer than nextest lets a test run.
#[expect(clippy::disallowed_methods, reason = "a test that is longer on request")]
fn cases() -> u32 {
    std::env::var("FAILSAFE_RANDOM_CASES").map_or(300, |cases| cases.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn two_replays_of_random_inputs_never_differ(inputs in prop::collection::vec(any_input(), 1..120)) {
        let first = feed_all(&mut Bench::with(MANY), &inputs);
        let second = feed_all(&mut Bench::with(MANY), &inputs);
        prop_assert_eq!(&first, &second);
        let bare = first.iter().filter_map(|decision| match &decision.cause {
            Cause::Rule { condition, .. } if decision.values.is_empty() => Some(condition),
            _ => None,
        });
        let unexplained = bare.filter(|condition| !condition.contains("absent") && !condition.contains("not ")).count();
        prop_assert_eq!(unexplained, 0, "a decision keeps the values that made its condition true");
    }

    /// The first moment of a run: a rule that trips has every value that it needs, whatever else comes.
    #[test]
    fn nothing_trips_while_a_needed_value_is_missing(inputs in prop::collection::vec(any_input(), 1..80)) {
        let mut b = bench("all = [{ signal = \"metric.never\", below = 1 }, { any = [{ signal = \"metric.loss\", above = -100 }, { not = { signal = \"metric.loss\", above = -100 } }] }]");
        let decisions = feed_all(&mut b, &inputs);
        let of_rules = decisions.iter().filter(|decision| matches!(decision.cause, Cause::Rule { .. })).count();
        prop_assert_eq!(of_rules, 0);
    }
}

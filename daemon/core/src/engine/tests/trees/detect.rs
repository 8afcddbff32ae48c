//! Tests with a detector: what trips, what waits, what is unknown, and that a replay decides the same.

use super::*;
use crate::replay::ENGINE;

/// Values that differ, around 3.
fn usual(n: u64) -> f64 {
    3.0 + (n * 7 % 11) as f64 / 100.0
}

fn shown(decision: &Decision) -> &str {
    let Cause::Rule { condition, .. } = &decision.cause else { panic!("{:?}", decision.cause) };
    condition
}

#[test]
fn a_spike_trips_with_its_score_and_a_single_value_does_not() {
    let mut b = bench("signal = \"metric.loss\", detect = { method = \"robust-z\", window = 50 }");
    for n in 0..60 {
        assert!(b.metric(n, "loss", usual(n)).is_empty());
        let unknown = b.unknown(n);
        assert_eq!(unknown.is_empty(), n >= 50, "value {n}: {unknown:?}");
    }
    assert!(b.metric(60, "loss", 9.0).is_empty() && b.metric(61, "loss", usual(61)).is_empty());
    assert!(b.metric(62, "loss", 9.0).is_empty());
    let trip = b.metric(63, "loss", 9.0);
    assert_eq!(rules(&trip), ["tree"]);
    let words = shown(&trip[0]);
    let form = "metric.loss robust-z (limit 6, window 50, trips 3, of 5, side above) [holds: metric.loss robust-z";
    assert!(words.starts_with(form) && words.contains(": score 1") && words.ends_with(" in rank 0]"), "{words}");
    assert_eq!(trip[0].values[0].show(), "9 (claimed by rank 0)");
    assert!(b.replay(ENGINE).identical());
}

#[test]
fn a_value_that_is_not_finite_neither_trips_a_detector_nor_clears_it() {
    let mut b = bench("signal = \"metric.loss\", detect = { method = \"identical\", trips = 3 }, rearm = \"1s\"");
    assert!(b.metric(1, "loss", 2.0).is_empty() && b.metric(2, "loss", 2.0).is_empty());
    for (ms, value) in [(3, f64::NAN), (4, f64::NAN), (5, f64::INFINITY), (6, f64::NEG_INFINITY)] {
        assert!(b.metric(ms, "loss", value).is_empty());
        assert_eq!(b.unknown(ms), ["rule tree (the run): metric.loss: not finite"]);
    }
    assert_eq!(rules(&b.metric(7, "loss", 2.0)), ["tree"], "it is the third value");
    assert!(b.metric(20_000, "loss", f64::NAN).is_empty());
    assert_eq!(b.waiting(20_001).len(), 1, "NaN does not arm it again");
    assert!(b.metric(20_002, "loss", 2.0).is_empty());
    assert!(b.metric(20_003, "loss", 2.5).is_empty());
    assert_eq!(b.waiting(20_004).len(), 0);
}

#[test]
fn a_detector_is_unknown_while_its_sensor_is_blind_and_judges_the_next_value() {
    let mut b =
        bench("not = { signal = \"metric.loss\", detect = { method = \"identical\", trips = 3 } }, for = \"10s\"");
    assert!(b.metric(1_000, "loss", 2.0).is_empty());
    let blind = b.gap(2_000, Source::App, true);
    assert_eq!(rules(&blind), ["blind"]);
    assert!(b.tick(60_000).is_empty(), "time in which nothing is seen does not count for `for`");
    assert_eq!(b.unknown(60_000), ["rule tree (the run): metric.loss: the app sensor is blind"]);
    b.gap(61_000, Source::App, false);
    assert!(b.tick(69_900).is_empty() && b.tick(80_000).is_empty(), "no value came since");
    assert!(b.metric(81_000, "loss", 3.0).is_empty());
    assert!(b.tick(89_000).is_empty());
    assert_eq!(rules(&b.tick(90_000)), ["tree"]);
    assert!(b.replay(ENGINE).identical());
}

#[test]
fn each_series_has_a_detector_of_its_own_and_all_needs_every_one() {
    for (over, trips_at) in [("any", 3), ("all", 13)] {
        let when =
            format!("signal = \"metric.loss\", detect = {{ method = \"identical\", trips = 3 }}, over = \"{over}\"");
        let mut b = bench(&when);
        assert!(b.ranked(0, "loss", 1.0, "1").is_empty());
        let tripped = (1..20).find(|ms| {
            let of_0 = b.ranked(*ms, "loss", 5.0, "0").len();
            of_0 + b.ranked(*ms, "loss", (*ms).min(11) as f64, "1").len() > 0
        });
        assert_eq!(tripped, Some(trips_at), "over {over}");
    }
}

#[test]
fn a_stall_trips_as_time_passes_and_not_while_the_run_is_frozen_or_the_sensor_blind() {
    let mut b = bench("signal = \"metric.loss\", detect = { method = \"stall\", after = \"60s\" }");
    let stepped = |b: &mut Bench, ms, step| {
        let series = Series::rank("0").unwrap();
        let value = Value::Claimed(Claimed { value: Real(1.0), step: Some(step), series });
        b.signal(ms, Subject::Run(b.run), Kind::Metric("loss".into()), value)
    };
    assert_eq!(b.unknown(0), ["rule tree (the run): metric.loss: no value yet"]);
    assert!(stepped(&mut b, 1_000, 1).is_empty() && stepped(&mut b, 30_000, 1).is_empty());
    b.gap(31_000, Source::App, true);
    assert!(b.tick(200_000).is_empty());
    b.gap(200_500, Source::App, false);
    assert!(b.tick(259_000).is_empty(), "the time in which it was blind does not count");
    let trip = b.tick(260_500);
    assert_eq!(rules(&trip), ["tree"]);
    assert!(
        shown(&trip[0]).ends_with("(after 60.0 s) [holds: metric.loss stall (after 60.0 s): score 60.5000 in rank 0]")
    );
    assert!(b.state.run(b.run).unwrap().frozen);
    b.control(900_000, Command::Thaw);
    assert!(b.tick(901_000).is_empty() && stepped(&mut b, 902_000, 2).is_empty());
    assert_eq!(rules(&b.tick(962_000)), ["tree"]);
    assert!(b.replay(ENGINE).identical());
}

#[test]
fn a_gpu_has_a_detector_of_its_own() {
    let mut b = bench("signal = \"gpu.utilization\", detect = { method = \"collapse\", window = 10 }");
    let gpus = ["GPU-0", "GPU-1"].map(|gpu| GpuId(gpu.into()));
    b.feed(Input::RunGpus { run: b.run, gpus: gpus.into(), at: at(0) });
    for n in 0..12 {
        for gpu in ["GPU-0", "GPU-1"] {
            assert!(b.gpu(n, gpu, Kind::GpuUtilization, 90_000 + n as i64).is_empty());
        }
    }
    for n in 12..14 {
        assert!(b.gpu(n, "GPU-1", Kind::GpuUtilization, 20_000).is_empty());
        assert!(b.gpu(n, "GPU-0", Kind::GpuUtilization, 90_000).is_empty());
    }
    let trip = b.gpu(14, "GPU-1", Kind::GpuUtilization, 20_000);
    assert_eq!(rules(&trip), ["tree"]);
    assert!(shown(&trip[0]).contains(" on GPU-1 [holds: "), "{}", shown(&trip[0]));
}

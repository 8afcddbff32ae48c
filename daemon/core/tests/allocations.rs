//! That judging a value allocates nothing once everything has been seen: a run that reports much must not cost the pipeline's thread
//! more than the comparison.

use allocation_counter::measure;
use failsafe_core::{
    Input, Kind, MonoTime, PolicySet, RunId, Signal, State, Subject, Value,
    input::Run,
    policy::parse::parse,
    signal::{Claimed, Real, Series},
    step,
    subject::GpuId,
};
use std::sync::Arc;

const POLICY: &str = r#"
[policy]
name = "p"
owner = "o"
[[rule]]
id = "flat-metric"
rationale = "x"
when = { signal = "metric.loss", above = 1000, over = "max" }
actions = ["freeze"]
[[rule]]
id = "flat-gpu"
rationale = "x"
when = { signal = "gpu.temperature", above = "200 C", for = "1s" }
actions = ["freeze"]
[[rule]]
id = "flat-rate"
rationale = "x"
when = { signal = "net.egress_bytes", above = "1 TB/s", over = "1s" }
actions = ["freeze"]
[[rule]]
id = "tree"
rationale = "x"
when = { at_least = 2, of = [{ signal = "metric.loss", above = 1000, for = "1s" }, { signal = "metric.loss", above = 1000, over = "mean" }, { signal = "net.egress_bytes", above = "1 TB/s", over = "1s" }, { event = "oom", within = "1m" }, { event = "connect", count = 1000, within = "1m" }, { signal = "metric.loss", absent = "1h" }, { not = { phase = "train" } }], for = "1s", keep_firing_for = "1m" }
actions = ["freeze"]
[[rule]]
id = "detectors"
rationale = "x"
when = { all = [{ signal = "metric.loss", detect = "robust-z" }, { signal = "metric.loss", detect = "cusum" }, { signal = "metric.loss", detect = "page-hinkley", over = "all" }, { signal = "metric.loss", detect = "identical" }, { signal = "metric.loss", detect = { method = "stall", after = "1h" } }, { signal = "memory.used", detect = "collapse" }, { signal = "gpu.temperature", detect = "collapse" }] }
actions = ["freeze"]
[[rule]]
id = "more-detectors"
rationale = "x"
when = { all = [{ signal = "metric.loss", detect = "ewma-band" }, { signal = "metric.loss", detect = { method = "adwin", clock = 1 } }, { signal = "metric.loss", detect = { method = "ks", reference = 20, window = 20 } }, { signal = "metric.loss", detect = { method = "psi", reference = 20, bins = 4, window = 20, limit = 3 } }, { signal = "metric.loss", detect = { method = "plateau", window = 20 } }, { signal = "metric.loss", detect = { method = "quantile", limit = 1000, over = "1s" } }, { signal = "metric.loss", detect = { method = "burn-rate", limit = 10000, objective = 0.9, factor = 5, long = "60s", short = "1s", after = 1 } }, { signal = "metric.loss", detect = { method = "rate", limit = 1000000, over = "1s" } }, { signal = "memory.used", detect = { method = "leak", limit = "1 TB", within = "1s", over = "30s" } }] }
actions = ["freeze"]
[[rule]]
id = "baselines"
rationale = "x"
when = { all = [{ signal = "metric.loss", above = { first = "30s", factor = 1000 } }, { signal = "metric.loss", above = { first = "90 steps", statistic = "mean", factor = 1000 }, over = "all" }, { signal = "metric.loss", below = { signal = "metric.phase", factor = 0.001 } }, { signal = "gpu.temperature", above = { first = "100s", offset = "50 C" } }], warm_up = "10 steps" }
actions = ["freeze"]
[[rule]]
id = "tree-gpu"
rationale = "x"
when = { all = [{ signal = "gpu.temperature", above = "200 C" }, { signal = "metric.loss", above = 1000 }], warm_up = "10s" }
actions = ["freeze"]
"#;

/// One second of a run: two ranks report, a GPU and the network are read, and time passes.
fn second(n: u64, run: RunId) -> Vec<Input> {
    let at = MonoTime(n * 1_000_000_000);
    let signal = |subject, kind: Kind, value| {
        Input::Signal(Signal { seq: n, at, source: kind.source(), subject, kind, value, repeats: 0 })
    };
    let metric = |name: &str, rank: &str, value| {
        let series = Series::Rank(rank.to_owned());
        let value = Value::Claimed(Claimed { value: Real(value), step: Some(n), series });
        signal(Subject::Run(run), Kind::Metric(name.into()), value)
    };
    vec![
        metric("loss", "0", n as f64),
        metric("loss", "1", if n.is_multiple_of(5) { f64::NAN } else { 1.0 }),
        metric("phase", "0", 2.0),
        metric("unjudged", "0", 2.0),
        signal(Subject::Gpu(GpuId("GPU-0".into())), Kind::GpuTemperature, Value::Integer(60_000)),
        signal(Subject::Run(run), Kind::EgressBytes, Value::Integer(n as i64)),
        signal(Subject::Run(run), Kind::Memory, Value::Integer(n as i64)),
        Input::Tick(at),
    ]
}

#[test]
fn a_value_that_trips_no_rule_is_judged_without_allocation() {
    let policy = parse("p", POLICY).unwrap();
    let (digest, run) = (policy.digest(), RunId(uuid::Uuid::from_u128(1)));
    let policies: PolicySet = [(digest, Arc::new(policy))].into();
    let mut state = State::default();
    let started = Run {
        id: run,
        name: "r".into(),
        labels: Default::default(),
        owner_uid: 0,
        cgroup: "c".into(),
        cgroup_id: 1,
        boot_id: "b".into(),
        policy: digest,
        gpus: [GpuId("GPU-0".into())].into(),
        mig: Default::default(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Default::default(),
    };
    step(&policies, &mut state, &Input::RunStarted(started));
    let mut feed = |seconds: std::ops::Range<u64>| {
        let inputs: Vec<Input> = seconds.flat_map(|n| second(n, run)).collect();
        let mut decisions = 0;
        let allocated = measure(|| {
            for input in &inputs {
                decisions += step(&policies, &mut state, input).len();
            }
        });
        (allocated.count_total, decisions)
    };
    let (first, decisions) = feed(0..60);
    assert!(first > 0, "the counter counts");
    assert_eq!(decisions, 0);
    assert_eq!(feed(60..160), (0, 0));
}

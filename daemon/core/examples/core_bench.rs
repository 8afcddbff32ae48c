//! How fast the engine judges, what it allocates, and whether two replays of random inputs agree, as one line of JSON.
//!
//! `cargo run -p failsafe-core --release --example core_bench -- TRIALS`. Rules and inputs are such that no rule trips, as it is
//! nearly always: half of the rules have one test, half have three tests of different sources.
//!
//! With `instructions INPUTS` it only judges that many inputs of one run by 100 rules, and prints how many rules it evaluated:
//! `cargo xtask test` counts the instructions with callgrind.

use allocation_counter::measure;
use failsafe_core::{
    Decision, Input, Kind, MonoTime, PolicySet, RunId, Signal, State, Subject, Value,
    input::{Gap, Run},
    policy::{Policy, parse::parse},
    signal::{Claimed, Real, Series, Source},
    step,
    subject::GpuId,
};
use serde_json::{Map, json};
use std::{sync::Arc, time::Instant};

/// Inputs of each trial at most; of many rules and runs fewer, as a GPU's signal is judged for each run by each rule on it.
const INPUTS: u64 = 60_000;
/// Inputs of each trial at least, up to 100,000 rules in all runs together; of more, fewer in proportion.
const INPUTS_LEAST: u64 = 2_000;
/// Between two of them.
const STEP_NS: u64 = 10_000_000;
/// Random inputs that are replayed.
const RANDOM: u64 = 1_000_000;
const GPU: &str = "GPU-00000000-0000-0000-0000-000000000000";

fn main() -> Result<(), String> {
    if std::env::args().nth(1).as_deref() == Some("instructions") {
        let inputs =
            std::env::args().nth(2).and_then(|text| text.parse().ok()).ok_or("expected the number of inputs")?;
        println!("{}", evaluated(inputs)?);
        return Ok(());
    }
    let trials: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let mut figures = Map::new();
    for rules in [10, 100, 1_000] {
        for runs in [1, 100, 1_000] {
            let (rate, allocations) = judged(rules, runs, trials)?;
            figures.insert(format!("evaluations_per_s_{rules}_rules_{runs}_runs"), json!(rate));
            figures.insert(format!("allocations_per_input_{rules}_rules_{runs}_runs"), json!(allocations));
        }
    }
    let decisions = replayed()?;
    figures.insert("replayed_inputs".into(), json!(RANDOM));
    figures.insert("replayed_decisions".into(), json!(decisions));
    println!("{}", serde_json::Value::Object(figures));
    Ok(())
}

/// How many rules are evaluated for that many inputs of one run. Inputs are made one by one, so that the rest of the work does not
/// grow with their number otherwise than each of them does.
fn evaluated(inputs: u64) -> Result<usize, String> {
    let policy = parse("bench.toml", &policy(100)).map_err(|error| error.to_string())?;
    let (policies, mut state) = started(policy.clone(), 1);
    let of = |n: u64| signal(n, RunId(uuid::Uuid::from_u128(1)));
    let mut given = [0; 4];
    for (n, given) in (0..4).zip(&mut given) {
        *given = policy.rules.iter().filter(|rule| rule.when.signals().contains(&&of(n).kind)).count();
    }
    let mut evaluations = 0;
    for n in 0..inputs {
        if !step(&policies, &mut state, &Input::Signal(of(n))).is_empty() {
            return Err("a rule of the bench tripped".into());
        }
        evaluations += given.get((n % 4) as usize).copied().unwrap_or(0);
    }
    Ok(evaluations)
}

/// Rules judged in a second, and allocations for each input.
fn judged(rules: usize, runs: u128, trials: usize) -> Result<(f64, f64), String> {
    let policy = parse("bench.toml", &policy(rules)).map_err(|error| error.to_string())?;
    let (policies, mut state) = started(policy.clone(), runs);
    let all = rules as u64 * runs as u64;
    let count = (20_000_000 / all).clamp(INPUTS_LEAST / (all / 100_000).max(1), INPUTS);
    let mut inputs: Vec<(Input, u64)> = (0..count)
        .map(|n| {
            let signal = signal(n, RunId(uuid::Uuid::from_u128(u128::from(n) % runs + 1)));
            // A GPU's signal is judged for each run on it.
            let of = if matches!(signal.subject, Subject::Gpu(_)) { runs as u64 } else { 1 };
            let given = policy.rules.iter().filter(|rule| rule.when.signals().contains(&&signal.kind)).count() as u64;
            (Input::Signal(signal), given * of)
        })
        .collect();
    let evaluations: u64 = inputs.iter().map(|(_, given)| given).sum();
    let mut feed = |inputs: &[(Input, u64)]| -> usize {
        inputs.iter().map(|(input, _)| step(&policies, &mut state, input).len()).sum()
    };
    let mut decided = feed(&inputs);
    let mut times = Vec::new();
    for _ in 0..trials {
        later(&mut inputs);
        let began = now();
        decided += feed(&inputs);
        times.push(began.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    later(&mut inputs);
    let allocated = measure(|| decided += feed(&inputs));
    if decided > 0 {
        return Err("a rule of the bench tripped".into());
    }
    let median = times.get(times.len() / 2).copied().unwrap_or(f64::NAN);
    Ok((evaluations as f64 / median, allocated.count_total as f64 / count as f64))
}

/// The same inputs, after those before: time goes on, and totals grow.
fn later(inputs: &mut [(Input, u64)]) {
    let count = inputs.len() as u64;
    for (input, _) in inputs {
        let Input::Signal(signal) = input else { continue };
        signal.at = MonoTime(signal.at.0 + count * STEP_NS);
        if let (Kind::EgressBytes, Value::Integer(total)) = (&signal.kind, &mut signal.value) {
            *total += count as i64;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures the core from outside")]
fn now() -> Instant {
    Instant::now()
}

/// Two engines over the same random inputs; how much they decided.
fn replayed() -> Result<usize, String> {
    let text = format!("{}{}", policy(20), TRIPPING);
    let policy = parse("bench.toml", &text).map_err(|error| error.to_string())?;
    let ((policies, mut first), (_, mut second)) = (started(policy.clone(), 2), started(policy, 2));
    let (mut random, mut at, mut decided) = (0x9e37_79b9_7f4a_7c15_u64, 0, 0);
    for n in 0..RANDOM {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        at += random >> 8 & 0x3fff_ffff;
        let run = RunId(uuid::Uuid::from_u128(u128::from(random >> 40 & 1) + 1));
        let input = match random & 15 {
            0 => Input::Tick(MonoTime(at)),
            1 => {
                let (source, what, blind) = (Source::Ebpf, String::new(), random >> 41 & 1 == 0);
                Input::Gap(Gap { seq: n, at: MonoTime(at), source, run: None, gpu: None, what, lost: 0, blind })
            }
            _ => {
                let mut signal = Signal { at: MonoTime(at), ..signal(random >> 4 & 0xff, run) };
                signal.seq = n;
                if let Value::Claimed(claimed) = &mut signal.value {
                    claimed.value = Real(if random >> 20 & 7 == 0 { f64::NAN } else { (random >> 20 & 31) as f64 });
                }
                Input::Signal(signal)
            }
        };
        let pair: [Vec<Decision>; 2] = [step(&policies, &mut first, &input), step(&policies, &mut second, &input)];
        if pair[0] != pair[1] {
            return Err(format!("two replays differ at input {n}: {pair:?}"));
        }
        decided += pair[0].len();
    }
    Ok(decided)
}

/// A rule that random inputs trip.
const TRIPPING: &str = "[[rule]]\nid = \"trips\"\nrationale = \"x\"\nactions = [\"notify\"]\n\
    when = { any = [{ signal = \"metric.loss\", above = 25, for = \"1s\" }, { all = [{ not = { signal = \"metric.loss\", \
    above = 5 } }, { signal = \"metric.loss\", absent = \"2s\" }] }], keep_firing_for = \"1s\" }\n";

fn policy(rules: usize) -> String {
    let mut text = "[policy]\nname = \"bench\"\nowner = \"o\"\n".to_owned();
    for n in 0..rules {
        let when = match n % 4 {
            0 => "{ signal = \"metric.loss\", above = 1000.0, clear = 500.0, for = \"1s\" }",
            1 => "{ signal = \"gpu.temperature\", above = \"200 C\" }",
            2 => {
                "{ all = [{ signal = \"metric.loss\", above = 1000.0, clear = 500.0 }, { signal = \"net.egress_bytes\", \
                 above = \"100 TB\" }, { not = { signal = \"process.count\", above = 4 } }], for = \"1s\" }"
            }
            _ => {
                "{ at_least = 2, of = [{ signal = \"metric.loss\", absent = \"1h\" }, { signal = \"net.egress_bytes\", \
                 above = \"100 GB/s\", over = \"5s\" }, { event = \"oom\", within = \"1m\" }] }"
            }
        };
        text += &format!("[[rule]]\nid = \"r{n}\"\nrationale = \"x\"\nwhen = {when}\nactions = [\"notify\"]\n");
    }
    text
}

fn started(policy: Policy, runs: u128) -> (PolicySet, State) {
    let digest = policy.digest();
    let policies: PolicySet = [(digest, Arc::new(policy))].into();
    let mut state = State::default();
    for n in 1..=runs {
        let run = Run {
            id: RunId(uuid::Uuid::from_u128(n)),
            name: format!("run-{n}"),
            labels: Default::default(),
            owner_uid: 1000,
            cgroup: format!("failsafe/{n}"),
            cgroup_id: 7,
            boot_id: "b".into(),
            policy: digest,
            gpus: [GpuId(GPU.into())].into(),
            mig: Default::default(),
            registered: MonoTime(0),
            registered_wall_ns: 0,
            decisions: 0,
            incidents: 0,
            contained: Default::default(),
        };
        step(&policies, &mut state, &Input::RunStarted(run));
    }
    (policies, state)
}

/// The nth signal: of a metric of 8 ranks, of the network, of the processes and of a GPU, in turns. Each 10 ms.
fn signal(n: u64, run: RunId) -> Signal {
    let (kind, value) = match n % 4 {
        0 => {
            let series = Series::Rank(format!("{}", n / 4 % 8));
            let claimed = Claimed { value: Real((n % 97) as f64), step: Some(n), series };
            (Kind::Metric("loss".into()), Value::Claimed(claimed))
        }
        1 => (Kind::EgressBytes, Value::Integer(n as i64)),
        2 => (Kind::Processes, Value::Integer((n % 7) as i64 + 5)),
        _ => (Kind::GpuTemperature, Value::Integer(60_000 + (n % 100) as i64)),
    };
    let subject = if kind == Kind::GpuTemperature { Subject::Gpu(GpuId(GPU.into())) } else { Subject::Run(run) };
    Signal { seq: n, at: MonoTime(n * STEP_NS), source: kind.source(), subject, kind, value, repeats: 0 }
}

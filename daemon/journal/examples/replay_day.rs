//! The time of a replay of a recorded day: 20 runs under the shipped policy for pre-training, 8 of them on a GPU, each signal once a
//! second. Prints one line of JSON.
//!
//! `cargo run -p failsafe-journal --release --example replay_day -- FOLDER [SECONDS]`
//!
//! For each run it writes a recording as the daemon does, and then replays it as `failsafectl replay` does: every frame is verified and
//! decoded, and every input goes through the engine. Only the replay is timed. A recording is removed before the next is written.

use anyhow::{Context, Result, ensure};
use failsafe_core::{
    Input, Kind, MonoTime, Policy, PolicySet, RunId, Signal, State, Subject, Value,
    input::Run,
    policy::parse::parse,
    replay::{ENGINE, Recorded, replay},
    signal::{Claimed, Real, Series},
    step,
    subject::GpuId,
};
use failsafe_journal::{Recorder, RecordingReader};
use serde_json::json;
use std::{fs, path::Path, sync::Arc, time::Instant};

const POLICY: &str = include_str!("../../../policies/pre-training.toml");
const RUNS: u32 = 20;
const GPUS: u32 = 8;
const DAY: u64 = 86_400;
/// As the daemon writes them.
const FRAME_KIND: u8 = 1;
const MAX_BYTES: u64 = 4 << 30;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().context("expected a folder")?;
    let seconds = args.next().map_or(Ok(DAY), |text| text.parse()).context("expected a number of seconds")?;
    let policy = parse("pre-training.toml", POLICY)?;
    let (mut inputs, mut bytes, mut decisions, mut took) = (0, 0, 0, 0.0);
    for number in 1..=RUNS {
        let file = Path::new(&folder).join(format!("{number}.fsrec"));
        decisions += write(&file, number, &policy, seconds)?;
        bytes += fs::metadata(&file)?.len();
        let began = Instant::now();
        let mut reader = RecordingReader::open(&file)?;
        let recorded: Policy = serde_json::from_value(reader.header()["policy"].clone())?;
        let replayed = replay(recorded, ENGINE, reader.by_ref().map(|frame| frame?.decode::<Recorded>()))?;
        took += began.elapsed().as_secs_f64();
        ensure!(replayed.identical(), "the replay of run {number} differs");
        inputs += replayed.inputs;
        fs::remove_file(&file)?;
    }
    println!("{}", json!({ "inputs": inputs, "bytes": bytes, "decisions": decisions, "seconds": took }));
    Ok(())
}

/// Records that many seconds of a run, and what the engine decides; the number of decisions.
fn write(file: &Path, number: u32, policy: &Policy, seconds: u64) -> Result<usize> {
    let run = run(number, policy);
    let header =
        json!({ "format": "failsafe-recording", "version": 1, "engine": ENGINE, "run": run, "policy": policy });
    let mut recorder = Recorder::create(file, &header, MAX_BYTES)?;
    let policies: PolicySet = [(run.policy, Arc::new(policy.clone()))].into();
    let (mut state, mut decided) = (State::of(ENGINE), 0);
    let mut take = |input: Input| -> Result<()> {
        let decisions = step(&policies, &mut state, &input);
        recorder.record(FRAME_KIND, &Recorded::Input(input))?;
        for decision in decisions {
            decided += 1;
            recorder.record(FRAME_KIND, &Recorded::Decision(decision))?;
        }
        Ok(())
    };
    take(Input::RunStarted(run.clone()))?;
    for second in 0..seconds {
        signals(&run, second).into_iter().try_for_each(|signal| take(Input::Signal(signal)))?;
        take(Input::Tick(MonoTime(second * 1_000_000_000 + 999)))?;
    }
    recorder.finish()?;
    Ok(decided)
}

/// What is sampled in a second: a loss that falls with noise, the cgroup, the network, and the GPU.
fn signals(run: &Run, second: u64) -> Vec<Signal> {
    let noise = (second.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1u32 << 24);
    let loss = 2.0 + 9.0 / (1.0 + second as f64 / 500.0) + 0.1 * noise;
    let series = Series::Rank("0".into());
    let loss = Value::Claimed(Claimed { value: Real(loss), step: Some(second), series });
    let integer = |base: i64, spread: f64| Value::Integer(base + (spread * noise) as i64);
    let mut all = vec![
        (Kind::Metric("loss".into()), loss),
        (Kind::Memory, integer(40 << 30, 1e9)),
        (Kind::Processes, integer(40, 8.0)),
        (Kind::EgressBytes, Value::Integer(second as i64 * 1_000_000)),
    ];
    if !run.gpus.is_empty() {
        all.extend([
            (Kind::GpuTemperature, integer(60_000, 9_000.0)),
            (Kind::GpuPower, integer(500_000, 150_000.0)),
            (Kind::GpuUtilization, integer(90_000, 10_000.0)),
            (Kind::GpuEccUncorrected, Value::Integer(0)),
        ]);
    }
    let signal = |(n, (kind, value)): (usize, (Kind, Value))| {
        let gpu = run.gpus.iter().next().filter(|_| kind.is_of_a_gpu());
        let subject = gpu.map_or(Subject::Run(run.id), |gpu| Subject::Gpu(gpu.clone()));
        let at = MonoTime(second * 1_000_000_000 + n as u64);
        Signal { seq: second * 8 + n as u64, at, source: kind.source(), subject, kind, value, repeats: 0 }
    };
    all.into_iter().enumerate().map(signal).collect()
}

fn run(number: u32, policy: &Policy) -> Run {
    Run {
        id: RunId(uuid::Uuid::from_u128(u128::from(number))),
        name: format!("run-{number}"),
        labels: Default::default(),
        owner_uid: 1000,
        cgroup: format!("failsafe/{number}"),
        cgroup_id: u64::from(number),
        boot_id: "b".into(),
        policy: policy.digest(),
        gpus: (number <= GPUS).then(|| GpuId(format!("GPU-{number}"))).into_iter().collect(),
        mig: Default::default(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Default::default(),
    }
}

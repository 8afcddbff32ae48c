//! A spike of BLOOM-176B's training that healed by itself within 30 steps: what the engine decides on it.

use crate::bench::report::Report;
use anyhow::{Context, Result, ensure};
use failsafe_core::{
    Action, Decision, Input, Kind, MonoTime, PolicySet, RunId, Signal, State, Subject, Value,
    decision::Cause,
    input::Run,
    policy::parse::parse,
    signal::{Claimed, Real, Series, Source},
    step,
};
use std::{fs, path::Path, sync::Arc};

/// The public log has eleven steps. These many before them are made: as the first of them, with noise.
const BEFORE: u64 = 200;
/// The noise of both metrics, of which the log shows about as much in its quiet steps.
const NOISE: f64 = 0.02;

const POLICY: &str = r#"
[policy]
name = "spike"
owner = "bench"

[[rule]]
id = "loss"
rationale = "a spike often heals by itself"
when = { signal = "metric.loss", detect = "robust-z" }
actions = ["snapshot", "notify"]

[[rule]]
id = "grad_norm"
rationale = "gradients spike before the loss does"
when = { signal = "metric.grad_norm", detect = "robust-z" }
actions = ["snapshot", "notify"]

[[rule]]
id = "diverges"
rationale = "a loss that stays up is not a spike"
when = { signal = "metric.loss", detect = "cusum" }
actions = ["snapshot", "notify"]
"#;

/// Measures when each metric's rule trips.
///
/// # Errors
/// The run would be frozen or killed, or nothing trips.
pub fn run(report: &mut Report, folder: &Path) -> Result<()> {
    let path = folder.join("bloom-spike-2022-04-12.csv");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let number = |cell: &str| cell.parse::<f64>().with_context(|| format!("{}: `{cell}`", path.display()));
    let mut rows: Vec<Vec<f64>> = Vec::new();
    for line in text.lines().skip(1) {
        rows.push(line.split(',').map(number).collect::<Result<_>>()?);
    }
    let first = rows.first().context("the log is empty")?.clone();
    let quiet = (1..=BEFORE).rev().map(|n| {
        let noise = |by: u64| ((n * by % 41) as f64 / 20.0 - 1.0) * NOISE;
        vec![first[0] - n as f64, first[1] + noise(17), first[2] + noise(23)]
    });
    let rows: Vec<Vec<f64>> = quiet.chain(rows).collect();
    let decisions = decided(&rows)?;
    for (step, decision) in &decisions {
        let Cause::Rule { rule, .. } = &decision.cause else { continue };
        ensure!(decision.actions == [Action::Snapshot, Action::Notify], "rule {rule} does {:?}", decision.actions);
        report.figure(&format!("bloom_spike_{rule}_trips_at_step"), *step);
    }
    ensure!(!decisions.is_empty(), "the spike trips nothing");
    Ok(())
}

/// The decisions, with the step of each.
fn decided(rows: &[Vec<f64>]) -> Result<Vec<(u64, Decision)>> {
    let policy = parse("spike.toml", POLICY).map_err(|error| anyhow::anyhow!("{error}"))?;
    let (digest, run) = (policy.digest(), RunId(Default::default()));
    let policies: PolicySet = [(digest, Arc::new(policy))].into();
    let mut state = State::default();
    let started = Run {
        id: run,
        name: "bloom".into(),
        labels: Default::default(),
        owner_uid: 0,
        cgroup: "c".into(),
        cgroup_id: 1,
        boot_id: "b".into(),
        policy: digest,
        gpus: Default::default(),
        mig: Default::default(),
        registered: MonoTime(0),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Default::default(),
    };
    let mut out = Vec::new();
    step(&policies, &mut state, &Input::RunStarted(started));
    let mut seq = 0;
    for (n, row) in rows.iter().enumerate() {
        let [at_step, loss, gradient, ..] = row[..] else { anyhow::bail!("a row of {} cells", row.len()) };
        for (name, value) in [("loss", loss), ("grad_norm", gradient)] {
            seq += 1;
            let claimed =
                Claimed { value: Real(value), step: Some(at_step as u64), series: Series::Rank("0".to_owned()) };
            let signal = Signal {
                seq,
                at: MonoTime((n as u64 + 1) * 106_000_000_000),
                source: Source::App,
                subject: Subject::Run(run),
                kind: Kind::Metric(name.to_owned()),
                value: Value::Claimed(claimed),
                repeats: 0,
            };
            let decisions = step(&policies, &mut state, &Input::Signal(signal));
            out.extend(decisions.into_iter().map(|decision| (at_step as u64, decision)));
        }
    }
    Ok(out)
}

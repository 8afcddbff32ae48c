//! From the kernel's timestamp of a forbidden connect to the whole run frozen and read back, against the floor: a bare write
//! of `cgroup.freeze` and direct reads of `cgroup.events` of the same cgroup. The two are done in turns.

use super::{Args, report::Report, statistics::percentile};
use crate::{
    daemon::{Daemon, Options, cgroup2},
    interrupt, shell,
};
use anyhow::{Context, Result, bail};
use nix::{sys::stat::Mode, unistd::mkfifo};
use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

const SIZES: [usize; 4] = [1, 16, 64, 256];
/// Processes outside the run that load no core: the bound is on an otherwise idle machine.
const POLICY: &str = r#"
[policy]
name = "bench-freeze"
owner = "bench@example.org"
[egress]
allow = [{ cidr = "127.0.0.1/32" }]
[[rule]]
id = "forbidden"
rationale = "the bench's violation"
when = { event = "connect", verdict = "denied" }
actions = ["freeze"]
"#;
/// At most this many times the floor ...
const FACTOR: f64 = 2.0;
/// ... and this much more, microseconds.
const ALLOWANCE_US: f64 = 150.0;
const PATIENCE: Duration = Duration::from_secs(20);

/// Measures.
///
/// # Errors
/// The daemon or the run failed, or a freeze was not proved.
pub fn run(args: &Args) -> Result<Report> {
    let trials = args.trials.max(30);
    let mut report = Report::new("freeze", trials, args.debug);
    report.condition("processes", "sleeping, but the one that violates");
    let folder = tempfile::tempdir().context("making a folder")?;
    let policy = folder.path().join("policy.toml");
    let fifo = folder.path().join("trigger");
    fs::write(&policy, POLICY).context("writing the policy")?;
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).context("making the trigger")?;
    let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
    let daemon = Daemon::start(&options, folder)?;
    for size in SIZES {
        eprintln!("freeze: {size} process(es)");
        let (ours, floor) = measure(&daemon, &policy, &fifo, size, trials)?;
        let at = |values: &[f64], percent| percentile(values, percent).unwrap_or(f64::NAN);
        for (name, values) in [("frozen", &ours), ("floor", &floor)] {
            report.figure(&format!("{name}_{size}_p50_us"), at(values, 50.0));
            report.figure(&format!("{name}_{size}_p99_us"), at(values, 99.0));
        }
        let bound = FACTOR * at(&floor, 50.0) + ALLOWANCE_US;
        report.ratio(&format!("{size} processes: median / (2 x floor + 150 us)"), at(&ours, 50.0) / bound, Some(1.0));
        report.ratio(&format!("{size} processes: median / floor"), at(&ours, 50.0) / at(&floor, 50.0), None);
    }
    Ok(report)
}

fn measure(daemon: &Daemon, policy: &Path, fifo: &Path, size: usize, trials: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let name = format!("bench-{size}");
    let mut run = daemon.ctl(["run"]);
    run.arg("--policy").arg(policy).args(["--name", &name, "--user", "root", "--quiet", "--"]);
    run.arg(daemon.program("violator")).args(["--processes", &size.to_string(), "--trigger"]).arg(fifo);
    let mut child = run.spawn().context("starting the run")?;
    let mut trigger = File::options().write(true).open(fifo).context("opening the trigger")?;
    let described = daemon.json(["describe", &name])?;
    let cgroup = cgroup2()?.join(described["cgroup"].as_str().context("describe shows no cgroup")?);
    interrupt::wait_for("the run's processes", PATIENCE, || {
        let procs = fs::read_to_string(cgroup.join("cgroup.procs")).context("reading cgroup.procs")?;
        Ok((procs.lines().count() == size).then_some(()))
    })?;
    let mut floor = Vec::with_capacity(trials);
    for _ in 0..trials {
        interrupt::check()?;
        floor.push(bare(&cgroup)?);
        trigger.write_all(b"\n").context("pulling the trigger")?;
        interrupt::wait_for("the freeze", PATIENCE, || Ok(frozen(&cgroup)?.then_some(())))?;
        shell::read(daemon.ctl(["thaw", &name, "--reason", "next trial"]).args(["--timeout", "10s"]))?;
    }
    drop(trigger);
    let _ = child.wait();
    let ours = took(daemon, &name)?;
    if ours.len() != trials {
        bail!("{trials} violations, but {} freezes are on record as proved", ours.len());
    }
    Ok((ours, floor))
}

/// The proved freezes of the run, by the daemon's own record: from the event's kernel timestamp to the last proof read.
fn took(daemon: &Daemon, run: &str) -> Result<Vec<f64>> {
    let text = shell::read(daemon.ctl(["events", "--run", run]).args(["-o", "json"]))?;
    let mut took = Vec::new();
    for line in text.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).context("reading an entry of the log")?;
        let body = &entry["body"];
        if entry["kind"] == "outcome" && body["action"] == "freeze" && body["verdict"] == "proved" {
            took.push(body["took"].as_f64().context("an outcome without its time")? / 1_000.0);
        }
    }
    Ok(took)
}

/// One bare freeze and thaw; microseconds until the freeze read back.
fn bare(cgroup: &Path) -> Result<f64> {
    let freeze = cgroup.join("cgroup.freeze");
    let write = |value: &str| fs::write(&freeze, value).with_context(|| format!("writing {}", freeze.display()));
    let began = Instant::now();
    write("1")?;
    while !frozen(cgroup)? {
        if began.elapsed() > PATIENCE {
            bail!("{} did not freeze", cgroup.display());
        }
    }
    let took = began.elapsed();
    write("0")?;
    while frozen(cgroup)? {
        interrupt::check()?;
    }
    Ok(took.as_secs_f64() * 1e6)
}

fn frozen(cgroup: &Path) -> Result<bool> {
    Ok(fs::read_to_string(cgroup.join("cgroup.events")).context("reading cgroup.events")?.contains("frozen 1"))
}

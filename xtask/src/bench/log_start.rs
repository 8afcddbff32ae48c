//! How long a start takes with a log of 10^3, 10^5 and 10^6 entries: opening the log as the daemon does, two queries, and the daemon
//! until it answers. Each size is measured in turns with the others.

use super::{Args, report::Report, statistics::median};
use crate::{
    daemon::{Daemon, Options},
    shell,
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{path::Path, time::Instant};

const SIZES: [(u64, &str); 3] = [(1_000, "1e3"), (100_000, "1e5"), (1_000_000, "1e6")];
/// Between the smallest and the largest log. A log of 10^3 entries has 0.6 MiB, and up to 4 MiB are read of each larger one.
const FLAT: f64 = 1.5;

/// Measures.
///
/// # Errors
/// A log cannot be written or read, or the daemon does not start.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("log-start", args.trials, args.debug);
    let mut ready = Vec::new();
    for (entries, name) in SIZES {
        eprintln!("log-start: {entries} entries");
        let folder = tempfile::tempdir().context("making a folder")?;
        let measured = example(args, entries, &folder.path().join("state"))?;
        report.figure(&format!("log_{name}_mib"), measured["bytes"].as_f64().unwrap_or(f64::NAN) / f64::from(1 << 20));
        for figure in ["open_ms", "tail_ms", "run_ms"] {
            report.figure(&format!("{figure}_{name}"), measured[figure].clone());
        }
        let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
        let mut daemon = Daemon::start(&options, folder)?;
        let mut times = Vec::new();
        for _ in 0..args.trials {
            let began = Instant::now();
            daemon.crash()?;
            daemon.wait_until_it_answers()?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let median = median(&times);
        report.figure(&format!("daemon_ready_ms_{name}"), median);
        ready.push((measured, median));
    }
    if let [(small, ready_small), (middle, _), (large, ready_large)] = ready.as_slice() {
        let ratio =
            |a: &Value, b: &Value, what: &str| a[what].as_f64().zip(b[what].as_f64()).map_or(f64::NAN, |(a, b)| a / b);
        report.ratio("daemon until it answers, 1e6 : 1e3", ready_large / ready_small, Some(FLAT));
        report.ratio("open, 1e6 : 1e5", ratio(large, middle, "open_ms"), Some(FLAT));
        report.ratio("open, 1e6 : 1e3", ratio(large, small, "open_ms"), None);
        report.ratio("last entries, 1e6 : 1e5", ratio(large, middle, "tail_ms"), Some(FLAT));
        report.ratio("entries of a run, 1e6 : 1e5", ratio(large, middle, "run_ms"), Some(FLAT));
    }
    Ok(report)
}

fn example(args: &Args, entries: u64, state: &Path) -> Result<Value> {
    let mut cargo = shell::cargo();
    cargo.args(["run", "-q", "--locked", "-p", "failsafe-journal", "--example", "log_start"]);
    if !args.debug {
        cargo.arg("--release");
    }
    cargo.arg("--").arg(entries.to_string()).arg(state).arg(args.trials.to_string());
    let text = shell::read(&mut cargo)?;
    let line = text.lines().last().context("the example printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("the example printed no JSON: {line}"))
}

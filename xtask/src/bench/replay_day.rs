//! The time of a replay of a recorded day: 8 GPUs, 20 runs, each signal once a second.

use super::{Args, report::Report, statistics::median};
use crate::shell;
use anyhow::{Context, Result};
use serde_json::Value;

/// Seconds that the replay of the day may take.
const GOAL: f64 = 10.0;

/// Measures.
///
/// # Errors
/// A recording cannot be written or read, or its replay differs.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("replay-day", args.trials, args.debug);
    let mut build = shell::cargo();
    build.args(["build", "-q", "--locked", "-p", "failsafe-journal", "--example", "replay_day"]);
    if !args.debug {
        build.arg("--release");
    }
    shell::run(&mut build)?;
    // Not in /tmp, which may be in memory.
    let target = shell::built(!args.debug);
    let folder = tempfile::tempdir_in(&target).context("making a folder")?;
    let mut times = Vec::new();
    for trial in 0..args.trials {
        eprintln!("replay-day: turn {} of {}", trial + 1, args.trials);
        let mut example = std::process::Command::new(target.join("examples/replay_day"));
        let text = shell::read(example.arg(folder.path()))?;
        let day: Value = serde_json::from_str(text.trim()).with_context(|| format!("no JSON: {text}"))?;
        times.push(day["seconds"].as_f64().context("no time")?);
        for figure in ["inputs", "bytes", "decisions"] {
            report.figure(figure, day[figure].clone());
        }
    }
    let seconds = median(&times);
    report.figure("seconds", seconds);
    report.ratio("replay of a day, seconds : 10", seconds / GOAL, Some(1.0));
    Ok(report)
}

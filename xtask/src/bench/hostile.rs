//! From the begin of a forbidden connect until the kernel says that the whole run is frozen, for victims of 1, 16 and 64 processes
//! that compute without a pause: alone, and while each attack of `tests/hostile` holds. The floor is a bare write of
//! `cgroup.freeze` of the same cgroup, read back in the same way. Attack and no attack take turns: alone, under, alone.

use super::{Args, report::Report, statistics::at};
use crate::shell;
use anyhow::{Context, Result};
use serde::Deserialize;

/// Strikes at each size, alone and under each attack.
const TRIALS: usize = 40;
/// A freeze under attack takes at most this many times as long as alone.
const FACTOR: f64 = 2.0;
/// Of one process, alone: the median is at most this many times the floor and so much more, microseconds.
const MEDIAN: (f64, f64) = (2.0, 150.0);
/// Of any size, alone: the 99th percentile against the floor's.
const TAIL: (f64, f64) = (2.0, 500.0);

/// A line of `hostile-bench`; times in microseconds.
#[derive(Deserialize)]
struct Row {
    attack: String,
    size: usize,
    floor: Vec<f64>,
    alone: Vec<f64>,
    under: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// An attack could not be made, or a victim was not frozen.
pub fn run(args: &Args) -> Result<Report> {
    let trials = args.trials.max(if args.debug { 1 } else { TRIALS });
    let mut report = Report::new("hostile", trials, args.debug);
    report.condition("processes", "busy, but the one that violates");
    report.condition("frozen", "seen from outside in cgroup.events, looked at every 50 us or more");
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "-p", "hostile", "-p", "integration", "-p", "workloads"]);
    if !args.debug {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)?;
    let mut bench = std::process::Command::new(shell::built(!args.debug).join("hostile-bench"));
    let text = shell::read(bench.args(["--trials", &trials.to_string()]))?;
    let rows: Vec<Row> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).context("a line of hostile-bench"))
        .collect::<Result<_>>()?;
    let mut sizes: Vec<usize> = rows.iter().map(|row| row.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let all = |times: fn(&Row) -> &Vec<f64>| -> Vec<f64> {
            rows.iter().filter(|row| row.size == size).flat_map(|row| times(row).iter().copied()).collect()
        };
        let (floor, alone) = (all(|row| &row.floor), all(|row| &row.alone));
        figures(&mut report, &format!("floor_{size}"), &floor);
        figures(&mut report, &format!("alone_{size}"), &alone);
        let bound = |(factor, more): (f64, f64), percent| factor * at(&floor, percent) + more;
        if size == 1 {
            report.ratio(
                "1 process, alone: median / (2 x floor + 150 us)",
                at(&alone, 50.0) / bound(MEDIAN, 50.0),
                Some(1.0),
            );
        }
        let tail = at(&alone, 99.0) / bound(TAIL, 99.0);
        report.ratio(&format!("{size} processes, alone: p99 / (2 x floor's p99 + 500 us)"), tail, Some(1.0));
    }
    for row in &rows {
        figures(&mut report, &format!("{}_{}", row.attack, row.size), &row.under);
        for percent in [50.0, 99.0] {
            let name = format!("{}, {} processes: p{percent} / alone", row.attack, row.size);
            report.ratio(&name, at(&row.under, percent) / at(&row.alone, percent), Some(FACTOR));
        }
    }
    Ok(report)
}

fn figures(report: &mut Report, name: &str, times: &[f64]) {
    report.figure(&format!("{name}_p50_us"), at(times, 50.0));
    report.figure(&format!("{name}_p99_us"), at(times, 99.0));
}

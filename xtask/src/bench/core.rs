//! How many rules the engine judges in a second, what it allocates for each input, and whether two replays of a million random inputs
//! agree.

use super::{Args, report::Report};
use crate::shell;
use anyhow::{Context, Result};
use serde_json::Value;

/// Allocations for an input that trips no rule.
const ALLOCATIONS: f64 = 0.0;

/// Measures.
///
/// # Errors
/// A rule tripped that must not, or two replays differ.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("core", args.trials, args.debug);
    let mut cargo = shell::cargo();
    cargo.args(["run", "-q", "--locked", "-p", "failsafe-core", "--example", "core_bench"]);
    if !args.debug {
        cargo.arg("--release");
    }
    cargo.arg("--").arg(args.trials.to_string());
    let text = shell::read(&mut cargo)?;
    let line = text.lines().last().context("the example printed nothing")?;
    let Value::Object(figures) = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))? else {
        anyhow::bail!("the example printed no figures: {line}");
    };
    for (name, value) in figures {
        match name.starts_with("allocations") {
            true => report.ratio(&name, value.as_f64().unwrap_or(f64::NAN), Some(ALLOCATIONS)),
            false => report.figure(&name, value),
        }
    }
    Ok(report)
}

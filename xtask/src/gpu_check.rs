//! `cargo xtask gpu-check`: what every NVML function says on this machine, as a report that can be committed as a fixture.
//!
//! The calls are made by `failsafed nvml-check`; this builds it, runs it, counts, and says whether it was a GPU at all.

use crate::shell;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What to check, and where the report goes.
#[derive(clap::Args)]
pub struct Args {
    /// The NVML library; without it the loader finds libnvidia-ml.so.1
    #[arg(long, value_name = "PATH", conflicts_with = "scenario")]
    library: Option<PathBuf>,
    /// Check the simulated library on this scenario, such as tests/scenarios/gpu/healthy.toml
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Write the report here, and not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep UUIDs, serial numbers and PCI addresses in it
    #[arg(long)]
    identity: bool,
}

/// Checks and reports.
///
/// # Errors
/// A build failed, or there is no NVML that initialises.
pub fn run(args: &Args) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--locked", "-p", "failsafed"]);
    if args.scenario.is_some() {
        cargo.args(["-p", "nvml-sim"]);
    }
    shell::run(&mut cargo)?;
    let folder = tempfile::tempdir().context("making a folder")?;
    let mut command = Command::new(shell::built(false).join("failsafed"));
    command.arg("nvml-check");
    if let Some(scenario) = &args.scenario {
        command.arg("--library").arg(simulated_library(folder.path(), false)?);
        let scenario = scenario.canonicalize().with_context(|| format!("finding {}", scenario.display()))?;
        command.env("FAILSAFE_NVML_SCENARIO", scenario);
    } else if let Some(library) = &args.library {
        command.arg("--library").arg(library);
    }
    if args.identity {
        command.arg("--identity");
    }
    let text = read(&mut command)?;
    let report: Value = serde_json::from_str(&text).context("the report is no JSON")?;
    eprintln!("{}", summary(&report));
    match &args.output {
        Some(path) => fs::write(path, &text).with_context(|| format!("writing {}", path.display())),
        None => {
            println!("{text}");
            Ok(())
        }
    }
}

/// A copy of the simulated library that only its owner may write: no other is loaded, and what cargo builds may be the group's.
///
/// # Errors
/// It is not built, or the copy fails.
pub fn simulated_library(folder: &Path, release: bool) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let (from, to) = (shell::built(release).join("libnvidia_ml.so"), folder.join("libnvidia-ml.so.1"));
    fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(0o644)).context("changing the copy's mode")?;
    Ok(to)
}

fn read(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context("starting failsafed")?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{why}\nno GPU here? `--scenario tests/scenarios/gpu/healthy.toml` checks the simulated library");
    }
    String::from_utf8(output.stdout).context("the report is no text")
}

fn summary(report: &Value) -> String {
    let kind =
        if report["simulated"] == true { "simulated: this says nothing of a GPU" } else { "a GPU of this machine" };
    let word = |name: &str| report[name].as_str().unwrap_or("?").to_owned();
    let mut lines = vec![format!("gpu-check: {kind}; driver {}, NVML {}", word("driver"), word("nvml"))];
    for gpu in report["gpus"].as_array().into_iter().flatten() {
        let calls: Vec<&Value> = gpu["calls"].as_array().into_iter().flatten().chain(gpu.get("fields")).collect();
        let name =
            calls.iter().find(|call| call["function"] == "nvmlDeviceGetName").and_then(|call| call["value"].as_str());
        let slowest = calls.iter().max_by_key(|call| call["us"].as_u64());
        let slowest = slowest.map_or(String::new(), |call| format!("; slowest {} {} us", call["function"], call["us"]));
        let good = calls.iter().filter(|call| call["answer"] == "Success").count();
        let fields = gpu["fields"]["values"].as_object().map_or(0, serde_json::Map::len);
        let name = name.unwrap_or("?");
        lines.push(format!(
            "  GPU {} {name}: {good} of {} calls answered, {fields} fields{slowest}",
            gpu["index"],
            calls.len()
        ));
    }
    for (answer, count) in report["answers"].as_object().into_iter().flatten() {
        lines.push(format!("  {count:>6} x {answer}"));
    }
    let absent = report["functions"]["absent"].as_array().map_or(0, Vec::len);
    lines.push(format!("  {absent} of {} known functions are not in the library", report["functions"]["known"]));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_and_marks_simulated() {
        let report = serde_json::json!({
            "simulated": true, "driver": "1.2", "nvml": "3", "answers": { "Success": 1, "Not Supported": 1 },
            "functions": { "known": 9, "absent": ["a"], "not_called": [] },
            "gpus": [{ "index": 0, "fields": { "function": "nvmlDeviceGetFieldValues", "answer": "Success", "values": { "1": 0 } }, "calls": [
                { "function": "nvmlDeviceGetName", "answer": "Success", "value": "X1", "us": 5 },
                { "function": "nvmlDeviceGetFanSpeed", "answer": "Not Supported", "us": 9 },
            ] }],
        });
        let text = summary(&report);
        assert!(
            text.contains("simulated: this says nothing of a GPU")
                && text.contains("X1: 2 of 3 calls answered, 1 fields")
        );
        assert!(text.contains("slowest \"nvmlDeviceGetFanSpeed\" 9 us") && text.contains("1 of 9 known functions"));
    }
}

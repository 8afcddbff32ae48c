//! What watching costs: loops of an unwatched call, a watched call and a connect, in a run, outside any run beside it, and
//! with no daemon at all. Outside a run the hooks that sit on the run's cgroup must cost nothing.
//!
//! The three places are visited in turns. Times are those of the fastest batch of a loop, since a disturbance only ever
//! adds.

use super::Args;
use super::report::Report;
use super::statistics::median;
use crate::daemon::{Daemon, Options};
use crate::{interrupt, shell};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Nobody outside a run may lose more than this where hooks are per cgroup.
const OUTSIDE: f64 = 1.01;

/// A loop, and whether its hook sits on the run's own cgroup (a watched call's may be the host-wide fallback).
const LOOPS: [(&str, &[&str], bool); 3] = [
    ("getppid", &["syscall-loop", "--call", "getppid"], false),
    ("memfd_create", &["syscall-loop", "--call", "memfd_create"], false),
    ("connect", &["connect-loop"], true),
];

/// Two policies: only the network is bounded; a call is watched too.
const POLICIES: [(&str, &str); 2] = [
    (
        "network",
        "[policy]\nname = \"network\"\nowner = \"bench@example.org\"\n[egress]\nallow = [{ cidr = \"127.0.0.0/8\" }]\n",
    ),
    (
        "syscalls",
        "[policy]\nname = \"syscalls\"\nowner = \"bench@example.org\"\n[egress]\nallow = [{ cidr = \"127.0.0.0/8\" }]\n[syscalls]\nwatch = [\"memfd_create\"]\n",
    ),
];

/// Measures.
///
/// # Errors
/// The daemon or a loop failed.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("overhead", args.trials, args.debug);
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for trial in 1..=args.trials {
        eprintln!("overhead: trial {trial} of {}", args.trials);
        let programs = shell::built(!args.debug);
        for (call, argv, _) in LOOPS {
            note(&mut times, call, "no_daemon", plain(&programs, argv)?);
        }
        for (policy, text) in POLICIES {
            let folder = tempfile::tempdir().context("making a folder")?;
            let file = folder.path().join("policy.toml");
            std::fs::write(&file, text).context("writing the policy")?;
            let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
            let daemon = Daemon::start(&options, folder)?;
            // A run that lasts, so that the hooks stay attached while others are measured.
            let mut held = daemon.ctl(["run"]);
            held.arg("--policy").arg(&file).args(["--name", "held", "--user", "root", "--quiet", "--", "sleep", "600"]);
            let mut held = held.spawn().context("starting the held run")?;
            let registered = interrupt::wait_for("the held run", std::time::Duration::from_secs(10), || {
                Ok(daemon.json(["describe", "held"]).ok())
            });
            let measured = registered.and_then(|run| {
                report.condition(&format!("syscalls_via_under_{policy}"), run["syscalls_via"].clone());
                for (call, argv, _) in LOOPS {
                    note(&mut times, call, &format!("outside_under_{policy}"), plain(&programs, argv)?);
                    note(&mut times, call, &format!("in_run_under_{policy}"), in_run(&daemon, &file, argv)?);
                }
                Ok(())
            });
            let _ = held.kill();
            let _ = held.wait();
            measured?;
        }
    }
    for (name, values) in &times {
        report.figure(&format!("{name}_ns"), median(values));
    }
    for (call, _, per_cgroup) in LOOPS {
        let at = |place: &str| median(times.get(&format!("{call}_{place}")).map_or(&[], Vec::as_slice));
        for (policy, _) in POLICIES {
            let bound = (per_cgroup || policy == "network").then_some(OUTSIDE);
            let outside = at(&format!("outside_under_{policy}")) / at("no_daemon");
            report.ratio(&format!("{call}: outside, {policy} / no daemon"), outside, bound);
            let inside = at(&format!("in_run_under_{policy}")) / at("no_daemon");
            report.ratio(&format!("{call}: in run, {policy} / no daemon"), inside, None);
        }
    }
    Ok(report)
}

fn note(times: &mut BTreeMap<String, Vec<f64>>, call: &str, place: &str, ns: f64) {
    times.entry(format!("{call}_{place}")).or_default().push(ns);
}

fn plain(programs: &Path, argv: &[&str]) -> Result<f64> {
    let (program, args) = argv.split_first().context("an empty loop")?;
    let mut command = Command::new(programs.join(program));
    timed(command.args(args).args(["--seconds", "0.3"]))
}

fn in_run(daemon: &Daemon, policy: &Path, argv: &[&str]) -> Result<f64> {
    let (program, args) = argv.split_first().context("an empty loop")?;
    let mut command = daemon.ctl(["run"]);
    command.arg("--policy").arg(policy).args(["--user", "root", "--quiet", "--"]).arg(daemon.program(program));
    timed(command.args(args).args(["--seconds", "0.3"]))
}

fn timed(command: &mut Command) -> Result<f64> {
    interrupt::check()?;
    let text = shell::read(command)?;
    let figure: Value = serde_json::from_str(&text).with_context(|| format!("reading the loop's figure: {text}"))?;
    figure["ns_min"].as_f64().context("the loop printed no ns_min")
}

//! From a violation to its end, in four stages, for 1 to 256 processes:
//!
//! ```text
//!  denied    the forbidden connect itself, as the caller sees it: from the call to EPERM
//!  latched   from the event's kernel timestamp to the run's latch read back: nothing leaves the run any more
//!  frozen    from the same timestamp to the whole run frozen and read back
//!  floor     a bare write of cgroup.freeze and direct reads of cgroup.events of the same cgroup
//! ```
//! Floor and violation are done in turns. Latched and frozen are the daemon's own record, whose last word is what it read
//! back from the kernel; denied is timed by the caller.

use super::{
    Args,
    report::Report,
    run::{Run, policy},
    statistics::percentile,
};
use crate::{
    daemon::{Daemon, Options},
    interrupt, shell,
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const SIZES: [usize; 4] = [1, 16, 64, 256];
const TRIALS: usize = 500;
/// What the rule does with the run. With kernel-side effects this becomes `effect = "stop"`.
const EFFECT: &str = r#"actions = ["block", "freeze"]"#;
/// The action whose outcome says that the latch is on.
const LATCH: &str = "block";
/// Where the rule looks, and a forbidden place at which it does not: refused, and nothing more.
const VIOLATION: &str = "127.0.0.9:4444";
const DENIED: &str = "127.0.0.8:4444";
const ALLOWED: &str = "127.0.0.1:4444";
/// Frozen at most this many times the floor ...
const FACTOR: f64 = 2.0;
/// ... and this much more, microseconds.
const ALLOWANCE_US: f64 = 150.0;
const PATIENCE: Duration = Duration::from_secs(20);

/// Times of one size, microseconds (the calls': nanoseconds).
#[derive(Default)]
struct Times {
    allowed_ns: Vec<f64>,
    denied_ns: Vec<f64>,
    latched: Vec<f64>,
    frozen: Vec<f64>,
    floor: Vec<f64>,
}

/// Measures.
///
/// # Errors
/// The daemon or the run failed, or a latch or freeze was not proved.
pub fn run(args: &Args) -> Result<Report> {
    let trials = args.trials.max(if args.debug { 1 } else { TRIALS });
    let mut report = Report::new("reaction", trials, args.debug);
    report.condition("processes", "sleeping, but the one that violates");
    report.condition("effect", EFFECT);
    let folder = tempfile::tempdir().context("making a folder")?;
    let text = format!(
        "[policy]\nname = \"bench-reaction\"\nowner = \"bench@example.org\"\n\
         [egress]\nallow = [{{ cidr = \"127.0.0.1/32\" }}]\n\
         [[rule]]\nid = \"forbidden\"\nrationale = \"the bench's violation\"\n\
         when = {{ event = \"connect\", verdict = \"denied\", address = \"127.0.0.9/32\" }}\n{EFFECT}\n"
    );
    let policy = policy(folder.path(), &text)?;
    let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
    let daemon = Daemon::start(&options, folder)?;
    let at = |values: &[f64], percent| percentile(values, percent).unwrap_or(f64::NAN);
    // The same call, asked for in the same way, by a process in no run: what of its time is not failsafe's.
    let mut outside = Run::outside(&daemon.program("violator"), &["--ask"])?;
    let calls: Vec<f64> = (0..trials).map(|_| call(&mut outside, ALLOWED, "ok")).collect::<Result<_>>()?;
    outside.end()?;
    report.figure("call_outside_any_run_p50_ns", at(&calls, 50.0));
    report.figure("call_outside_any_run_p99_ns", at(&calls, 99.0));
    for size in SIZES {
        eprintln!("reaction: {size} process(es)");
        let times = measure(&daemon, &policy, size, trials)?;
        for (name, unit, values) in [
            ("allowed_call", "ns", &times.allowed_ns),
            ("denied_in_the_call", "ns", &times.denied_ns),
            ("latched", "us", &times.latched),
            ("frozen", "us", &times.frozen),
            ("floor", "us", &times.floor),
        ] {
            report.figure(&format!("{name}_{size}_p50_{unit}"), at(values, 50.0));
            report.figure(&format!("{name}_{size}_p99_{unit}"), at(values, 99.0));
        }
        let (frozen, floor) = (at(&times.frozen, 50.0), at(&times.floor, 50.0));
        let bound = FACTOR * floor + ALLOWANCE_US;
        report.ratio(&format!("{size} processes: median / (2 x floor + 150 us)"), frozen / bound, Some(1.0));
        report.ratio(&format!("{size} processes: median / floor"), frozen / floor, None);
    }
    Ok(report)
}

fn measure(daemon: &Daemon, policy: &Path, size: usize, trials: usize) -> Result<Times> {
    let name = format!("reaction-{size}");
    let processes = size.to_string();
    let mut run =
        Run::start(daemon, policy, &name, &daemon.program("violator"), &["--processes", &processes, "--ask"])?;
    let cgroup = run.cgroup(daemon)?;
    interrupt::wait_for("the run's processes", PATIENCE, || {
        let procs = fs::read_to_string(cgroup.join("cgroup.procs")).context("reading cgroup.procs")?;
        Ok((procs.lines().count() == size).then_some(()))
    })?;
    let mut times = Times::default();
    // A call that no rule stops: its caller is never frozen in the middle of it.
    for (to, expected, into) in [(ALLOWED, "ok", &mut times.allowed_ns), (DENIED, "EPERM", &mut times.denied_ns)] {
        for _ in 0..trials {
            into.push(call(&mut run, to, expected)?);
        }
    }
    for _ in 0..trials {
        interrupt::check()?;
        times.floor.push(bare(&cgroup)?);
        run.tell(VIOLATION)?;
        // By the daemon's word, not the cgroup's: a thaw while it still verifies would be outrun by the freeze.
        interrupt::wait_for("the proved freeze", PATIENCE, || {
            Ok((run.described(daemon)?["state"] == "frozen").then_some(()))
        })?;
        shell::read(daemon.ctl(["thaw", &name, "--reason", "next trial"]).args(["--timeout", "10s"]))?;
        refused(&run.line()?, "EPERM")?;
    }
    run.end()?;
    times.latched = took(daemon, &name, LATCH)?;
    times.frozen = took(daemon, &name, "freeze")?;
    for (what, values) in [("latches", &times.latched), ("freezes", &times.frozen)] {
        if values.len() != trials {
            bail!("{trials} violations, but {} {what} are on record as proved", values.len());
        }
    }
    Ok(times)
}

/// One connect of the run; nanoseconds that it took.
fn call(run: &mut Run, to: &str, expected: &str) -> Result<f64> {
    run.tell(to)?;
    refused(&run.line()?, expected)
}

/// The violator answers `ERRNO NANOSECONDS`.
fn refused(line: &str, expected: &str) -> Result<f64> {
    match line.split_once(' ') {
        Some((answer, ns)) if answer == expected => ns.parse().with_context(|| format!("no time in {line:?}")),
        _ => bail!("expected {expected}, the violator says {line:?}"),
    }
}

/// How long the run's proved outcomes of `action` took, microseconds, by the daemon's record: from the event's kernel
/// timestamp to the last proof read.
fn took(daemon: &Daemon, run: &str, action: &str) -> Result<Vec<f64>> {
    let text = shell::read(daemon.ctl(["events", "--run", run]).args(["-o", "json"]))?;
    let mut took = Vec::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).context("reading an entry of the log")?;
        let body = &entry["body"];
        if entry["kind"] == "outcome" && body["action"] == action && body["verdict"] == "proved" {
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

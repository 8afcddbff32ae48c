//! From a violation to its end, in four stages, for 1 to 256 processes:
//!
//! ```text
//!  denied    the forbidden connect itself, as the caller sees it: from the call to EPERM
//!  latched   from the start of that call until another process of the run is refused what it may do otherwise
//!  frozen    from the event's kernel timestamp to the whole run frozen and read back, by the daemon's record
//!  floor     a bare write of cgroup.freeze and direct reads of cgroup.events of the same cgroup
//! ```
//! Each stage has a run of its own: the calls one that no rule stops, as a caller that is frozen in the middle times nothing;
//! the latch one with a process more, which makes allowed calls one after the other and so is refused at most one call late.
//! Floor and freeze are done in turns.

use super::{Args, report::Report, run::Run, statistics::at};
use crate::{
    daemon::{Daemon, Options},
    interrupt, shell,
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const SIZES: [usize; 4] = [1, 16, 64, 256];
const TRIALS: usize = 500;
const HEAD: &str = r#"
[policy]
name = "bench-reaction"
owner = "bench@example.org"
[egress]
allow = [{ cidr = "127.0.0.1/32" }]
"#;
/// What the rule does with the run: in the kernel; `actions = ["block", "freeze"]` is the same by the daemon alone.
const EFFECT: &str = r#"effect = "stop"
actions = ["freeze"]"#;
const FORBIDDEN: &str = "tcp 127.0.0.9:4444";
const ALLOWED: &str = "127.0.0.1:4444";
/// Frozen at most this many times the floor ...
const FACTOR: f64 = 2.0;
/// ... and this much more, microseconds.
const ALLOWANCE_US: f64 = 150.0;
const PATIENCE: Duration = Duration::from_secs(20);

/// The trials of one size.
struct Bench<'a> {
    daemon: &'a Daemon,
    size: usize,
    trials: usize,
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
    let rule = format!(
        "[[rule]]\nid = \"forbidden\"\nrationale = \"the bench's violation\"\n\
         when = {{ event = \"connect\", verdict = \"denied\" }}\n{EFFECT}\n"
    );
    let (only_denies, stops) = (folder.path().join("denies.toml"), folder.path().join("stops.toml"));
    fs::write(&only_denies, HEAD).context("writing a policy")?;
    fs::write(&stops, format!("{HEAD}{rule}")).context("writing a policy")?;
    let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
    let daemon = Daemon::start(&options, folder)?;
    // The same call, asked for in the same way, by a process in no run: what of its time is not failsafe's.
    let mut outside = Run::outside(&daemon.program("violator"), &["--ask"])?;
    let calls: Vec<f64> = (0..trials).map(|_| call(&mut outside, ALLOWED, "ok")).collect::<Result<_>>()?;
    outside.end()?;
    report.figure("call_outside_any_run_p50_ns", at(&calls, 50.0));
    report.figure("call_outside_any_run_p99_ns", at(&calls, 99.0));
    for size in SIZES {
        eprintln!("reaction: {size} process(es)");
        let bench = Bench { daemon: &daemon, size, trials };
        let (allowed, denied) = bench.calls(&only_denies)?;
        let (floor, frozen) = bench.freezes(&stops)?;
        let (latched, missed) = bench.latches(&stops)?;
        report.figure(&format!("latched_{size}_missed_trials"), missed);
        for (name, unit, values) in [
            ("allowed_call", "ns", &allowed),
            ("denied_in_the_call", "ns", &denied),
            ("latched", "us", &latched),
            ("frozen", "us", &frozen),
            ("floor", "us", &floor),
        ] {
            report.figure(&format!("{name}_{size}_p50_{unit}"), at(values, 50.0));
            report.figure(&format!("{name}_{size}_p99_{unit}"), at(values, 99.0));
        }
        let (frozen, floor) = (at(&frozen, 50.0), at(&floor, 50.0));
        let bound = FACTOR * floor + ALLOWANCE_US;
        report.ratio(&format!("{size} processes: median / (2 x floor + 150 us)"), frozen / bound, Some(1.0));
        report.ratio(&format!("{size} processes: median / floor"), frozen / floor, None);
    }
    Ok(report)
}

impl Bench<'_> {
    /// Nanoseconds of allowed and of denied calls.
    fn calls(&self, policy: &Path) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut run, _) = self.start("calls", policy, &[])?;
        let mut calls =
            |to, expected| (0..self.trials).map(|_| call(&mut run, to, expected)).collect::<Result<Vec<_>>>();
        let times = (calls(ALLOWED, "ok")?, calls(FORBIDDEN, "EPERM")?);
        run.end()?;
        Ok(times)
    }

    /// Microseconds of bare freezes, and from violations to proved freezes.
    fn freezes(&self, policy: &Path) -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut run, cgroup) = self.start("freezes", policy, &[])?;
        let mut floor = Vec::with_capacity(self.trials);
        for _ in 0..self.trials {
            floor.push(bare(&cgroup)?);
            self.violate(&mut run)?;
            answered(&run.line()?, "EPERM")?;
        }
        let name = run.name.clone();
        run.end()?;
        let frozen = took(self.daemon, &name, "freeze")?;
        if frozen.len() != self.trials {
            bail!("{} violations, but {} freezes are on record as proved", self.trials, frozen.len());
        }
        Ok((floor, frozen))
    }

    /// Microseconds from violations to the latch, and how often the freeze came before the watcher had met it.
    fn latches(&self, policy: &Path) -> Result<(Vec<f64>, usize)> {
        let (mut run, _) = self.start("latches", policy, &["--watch", ALLOWED])?;
        let (mut latched, mut missed) = (Vec::with_capacity(self.trials), 0);
        for _ in 0..self.trials {
            self.violate(&mut run)?;
            // The two processes answer in any order.
            for line in [run.line()?, run.line()?] {
                match line.strip_prefix("latched ") {
                    Some("missed") => missed += 1,
                    Some(ns) => latched.push(ns.parse::<f64>().context("no time of a latch")? / 1e3),
                    None => _ = answered(&line, "EPERM")?,
                }
            }
        }
        run.end()?;
        Ok((latched, missed))
    }

    /// A run of the violator, with all its processes.
    fn start(&self, what: &str, policy: &Path, more: &[&str]) -> Result<(Run, PathBuf)> {
        let name = format!("{what}-{}", self.size);
        let size = self.size.to_string();
        let args = [&["--ask", "--processes", &size], more].concat();
        let run = Run::start(self.daemon, policy, &name, &self.daemon.program("violator"), &args)?;
        let cgroup = run.cgroup(self.daemon)?;
        let wanted = self.size + usize::from(!more.is_empty());
        interrupt::wait_for("the run's processes", PATIENCE, || {
            let procs = fs::read_to_string(cgroup.join("cgroup.procs")).context("reading cgroup.procs")?;
            Ok((procs.lines().count() == wanted).then_some(()))
        })?;
        Ok((run, cgroup))
    }

    /// One violation, waited for until the run is frozen, and thawed again.
    fn violate(&self, run: &mut Run) -> Result<()> {
        interrupt::check()?;
        run.tell(FORBIDDEN)?;
        // By the daemon's word, not the cgroup's: a thaw while it still verifies would be outrun by the freeze.
        interrupt::wait_for("the proved freeze", PATIENCE, || {
            Ok((run.described(self.daemon)?["state"] == "frozen").then_some(()))
        })?;
        shell::read(self.daemon.ctl(["thaw", &run.name, "--reason", "next trial"]).args(["--timeout", "10s"]))
            .map(|_| ())
    }
}

/// One connect of the run; nanoseconds that it took.
fn call(run: &mut Run, to: &str, expected: &str) -> Result<f64> {
    run.tell(to)?;
    answered(&run.line()?, expected)
}

/// The violator answers `ERRNO NANOSECONDS`.
fn answered(line: &str, expected: &str) -> Result<f64> {
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

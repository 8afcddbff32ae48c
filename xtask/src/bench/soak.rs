//! Many short runs, one after the other: memory, descriptors, threads, pins and cgroups of the daemon after each tenth of them. All
//! of them must stay flat.

use super::{Args, crowd::POLICY, footprint::rss_mib, report::Report};
use crate::{
    daemon::{Daemon, Options},
    interrupt,
};
use anyhow::{Context, Result, anyhow, ensure};
use std::{
    fs,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Commands that start runs at the same time.
const STARTERS: usize = 8;
/// Figures are taken this often.
const MARKS: usize = 10;
/// What ended runs leave is tidied up by then.
const PATIENCE: Duration = Duration::from_secs(60);
/// Times that descriptors are counted.
const SETTLED: usize = 10;

/// What the daemon holds while it has no run.
#[derive(Debug, Clone, Copy)]
struct Held {
    rss_mib: f64,
    descriptors: usize,
    threads: usize,
    pins: usize,
    cgroups: usize,
    state_mib: f64,
}

/// Measures.
///
/// # Errors
/// The daemon or a run failed, or what ended runs hold is not given back.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("soak", 1, args.debug);
    report.condition("runs", args.runs);
    report.condition("starters", STARTERS);
    report.condition("run", "`failsafectl run -- true` under a policy with egress and one rule");
    let options = Options { name: "soak", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
    let mut daemon = Daemon::start(&options, tempfile::tempdir().context("making a folder")?)?;
    let policy = daemon.folder().join("idle.toml");
    fs::write(&policy, POLICY).context("writing the policy")?;
    // Of the first runs: what is made once is made by then.
    start(&daemon, &policy, 0..args.runs.div_ceil(MARKS))?;
    let first = held(&daemon)?;
    let (mut most, began) = (first, Instant::now());
    for mark in 1..MARKS {
        let tenth = |n: usize| (args.runs * n).div_ceil(MARKS);
        start(&daemon, &policy, tenth(mark)..tenth(mark + 1))?;
        let now = held(&daemon)?;
        eprintln!("soak: {} runs: {now:?}", tenth(mark + 1));
        most = Held {
            rss_mib: most.rss_mib.max(now.rss_mib),
            descriptors: most.descriptors.max(now.descriptors),
            threads: most.threads.max(now.threads),
            pins: most.pins.max(now.pins),
            cgroups: most.cgroups.max(now.cgroups),
            state_mib: most.state_mib.max(now.state_mib),
        };
    }
    let after_first = args.runs - args.runs.div_ceil(MARKS);
    report.figure("runs_per_s", after_first as f64 / began.elapsed().as_secs_f64());
    report.figure("rss_mib", most.rss_mib);
    report.figure("descriptors", most.descriptors);
    report.figure("threads", most.threads);
    report.figure("pins", most.pins);
    report.figure("cgroups", most.cgroups);
    report.figure("state_mib", most.state_mib);
    let of = |most: usize, first: usize| most as f64 / first.max(1) as f64;
    report.ratio("resident memory, most / after the first tenth", most.rss_mib / first.rss_mib, Some(1.25));
    report.ratio("descriptors, most / after the first tenth", of(most.descriptors, first.descriptors), Some(1.1));
    report.ratio("threads, most / after the first tenth", of(most.threads, first.threads), Some(1.25));
    report.ratio("pins, most / after the first tenth", of(most.pins, first.pins), Some(1.0));
    report.ratio("cgroups, most / after the first tenth", of(most.cgroups, first.cgroups), Some(1.0));
    let verified = daemon.ctl(["log", "verify"]).stdout(Stdio::null()).status().context("verifying the log")?;
    ensure!(verified.success(), "the log is not whole");
    daemon.wait_until_it_answers()?;
    Ok(report)
}

/// Starts these runs, several at a time, and waits for the end of each.
fn start(daemon: &Daemon, policy: &Path, runs: std::ops::Range<usize>) -> Result<()> {
    let next = AtomicUsize::new(runs.start);
    let work = || -> Result<()> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= runs.end {
                return Ok(());
            }
            interrupt::check()?;
            let name = format!("soak-{n}");
            let mut command = daemon.ctl(["run", "--user", "root", "--name", &name, "--policy"]);
            command.arg(policy).args(["--", "true"]).stdin(Stdio::null()).stdout(Stdio::null());
            let output = command.stderr(Stdio::piped()).output().context("starting failsafectl")?;
            ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
    };
    thread::scope(|scope| {
        let starters: Vec<_> = (0..STARTERS).map(|_| scope.spawn(work)).collect();
        starters
            .into_iter()
            .try_for_each(|starter| starter.join().unwrap_or_else(|_| Err(anyhow!("a starter panicked"))))
    })
}

/// What the daemon holds once no run is left.
fn held(daemon: &Daemon) -> Result<Held> {
    interrupt::wait_for("the end of all runs", PATIENCE, || {
        let none = daemon.json(["list"])?.as_array().is_some_and(Vec::is_empty);
        Ok((none && count(daemon.cgroup(), true) == 0).then_some(()))
    })?;
    let of = |what: &str| -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/{what}", daemon.pid())).context("looking at the daemon")?.count())
    };
    // Those of requests and of ended processes are closed a moment later.
    let mut descriptors = of("fd")?;
    for _ in 0..SETTLED {
        thread::sleep(Duration::from_millis(200));
        descriptors = descriptors.min(of("fd")?);
    }
    Ok(Held {
        rss_mib: rss_mib(daemon.pid())?,
        descriptors,
        threads: of("task")?,
        pins: count(daemon.bpffs(), false),
        cgroups: count(daemon.cgroup(), true),
        state_mib: bytes(&daemon.folder().join("state")) as f64 / f64::from(1 << 20),
    })
}

/// Folders, or files, below a folder; what vanishes meanwhile is not counted.
fn count(folder: &Path, folders: bool) -> usize {
    let mut sum = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sum += usize::from(folders) + count(&entry.path(), folders);
        } else {
            sum += usize::from(!folders);
        }
    }
    sum
}

fn bytes(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(file) if file.is_dir() => sum += bytes(&entry.path()),
            Ok(file) => sum += file.len(),
            // It was removed meanwhile.
            Err(_) => {}
        }
    }
    sum
}

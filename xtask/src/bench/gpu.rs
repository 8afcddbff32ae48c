//! What sampling GPUs costs, beside the Python tools that people run for it, all on the same simulated NVML; how long a pass
//! takes when calls are slow; and from a GPU's event to the run frozen.
//!
//! Everything here is simulated: a call into the stand-in costs what its model costs, and no GPU was asked. Where CPU is
//! taken the stand-in reads its scenario once, for all programs alike.

mod event;
mod others;

use super::{Args, footprint, report::Report, statistics::at};
use crate::{
    daemon::{Daemon, Options},
    gpu_check::simulated_library,
    interrupt, shell,
};
use anyhow::{Context, Result};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const GPUS: usize = 8;
const RATES_HZ: [u64; 2] = [1, 10];
const COUNTS: [usize; 5] = [1, 2, 4, 8, 16];
const LATENCIES_US: [u64; 3] = [0, 50, 1_000];
/// Programs settle for this long before.
const SETTLE: Duration = Duration::from_secs(2);
/// Of the Python tools' CPU time, this much is allowed.
const SHARE: f64 = 0.1;

/// Where the simulated library and its scenarios lie.
struct Stage {
    folder: PathBuf,
    library: PathBuf,
    failsafed: PathBuf,
    /// Figures of CPU are taken over this long.
    window: Duration,
}

/// Measures.
///
/// # Errors
/// A program could not be started, or ended before its time.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("gpu", args.trials, args.debug);
    report.condition("nvml", "simulated");
    report.condition("window_s", args.window);
    let folder = tempfile::tempdir().context("making a folder")?;
    let library = simulated_library(folder.path(), !args.debug)?;
    let failsafed = shell::built(!args.debug).join("failsafed");
    let window = Duration::from_secs(args.window);
    let stage = Stage { folder: folder.path().to_owned(), library, failsafed, window };
    passes(&stage, args.trials, &mut report)?;
    event::measure(&stage, args, &mut report)?;
    counts(&stage, &mut report)?;
    cost(&stage, args, &mut report)?;
    Ok(report)
}

/// A busy machine: values that change with every reading, and processes.
fn scenario(gpus: usize, more: &str) -> String {
    let me = std::process::id();
    format!(
        "[[gpu]]\nmodel = \"H100\"\ncount = {gpus}\ntemperature = {{ value = 62, noise = 2, seed = 1, step = 0.1 }}\n\
         power = {{ value = 600, noise = 30, seed = 2, step = 0.1 }}\nutilization = {{ value = 95, noise = 4, step = 0.1 }}\n\
         memory_used = \"61 GiB\"\n[gpu.nvlink]\nsent = [[0, 0], [1000, \"90000 GB\"]]\n\
         [[gpu.process]]\npid = {me}\nmemory = \"60 GiB\"\n{more}"
    )
}

/// The same, and the stand-in does not look at the file in every call, which no driver does.
fn still(gpus: usize, more: &str) -> String {
    format!("live = false\n{}", scenario(gpus, more))
}

impl Stage {
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let (path, fresh) = (self.folder.join(name), self.folder.join("fresh"));
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path)).with_context(|| format!("writing {name}"))?;
        Ok(path)
    }

    fn sampler(&self, scenario: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(&self.failsafed);
        command.arg("nvml-sampler").arg("--library").arg(&self.library).args(args);
        command.env("FAILSAFE_NVML_SCENARIO", scenario);
        command
    }
}

/// A program that is measured, ended when dropped.
struct Running {
    child: Child,
    /// Bytes that it has printed: one for each look of a Python tool.
    printed: Arc<AtomicU64>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts it; what it prints is counted and thrown away.
    fn start(command: &mut Command) -> Result<Running> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let out = child.stdout.take().context("no standard output")?;
        let printed = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&printed);
        thread::spawn(move || {
            let mut out = out;
            let mut bytes = [0; 1 << 16];
            while let Ok(n @ 1..) = out.read(&mut bytes) {
                count.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
        Ok(Running { child, printed })
    }

    fn pids(&self) -> Vec<u32> {
        vec![self.child.id()]
    }
}

/// CPU milliseconds per second, and resident MiB at the end, of these processes together.
fn usage(pids: &[u32], window: Duration) -> Result<(f64, f64)> {
    wait(SETTLE)?;
    let used = || pids.iter().map(|pid| cpu_ns(*pid)).sum::<Result<u64>>();
    let (before, began) = (used()?, Instant::now());
    wait(window)?;
    let cpu = used()?.saturating_sub(before) as f64 / 1e6 / began.elapsed().as_secs_f64();
    let rss = pids.iter().map(|pid| footprint::rss_mib(*pid)).sum::<Result<f64>>()?;
    Ok((cpu, rss))
}

/// CPU time of a process's threads by the scheduler's own clock: the ticks of `stat` are 10 ms, which is more than some of
/// these use in a second. What a thread had used that has ended since is missing; none of these programs' threads come and go.
fn cpu_ns(pid: u32) -> Result<u64> {
    let tasks = shell::process(pid)?.tasks().context("listing a process's threads")?.flatten();
    let times: Vec<u64> = tasks.filter_map(|task| Some(task.schedstat().ok()?.sum_exec_runtime)).collect();
    anyhow::ensure!(!times.is_empty(), "no thread of {pid} has a schedstat");
    Ok(times.into_iter().sum())
}

fn wait(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        interrupt::check()?;
        thread::sleep(Duration::from_millis(100).min(until.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

/// One pass of one GPU, eight at once, with so much latency in every call.
fn passes(stage: &Stage, trials: usize, report: &mut Report) -> Result<()> {
    for latency in LATENCIES_US {
        let fault = match latency {
            0 => String::new(),
            us => format!("[[fault]]\nfunction = \"*\"\nlatency_us = {us}\n"),
        };
        let file = stage.write("passes.toml", &still(GPUS, &fault))?;
        let text = shell::read(&mut stage.sampler(&file, &["--time", &trials.max(20).to_string()]))?;
        let times: serde_json::Value = serde_json::from_str(&text).context("the sampler printed no times")?;
        for kind in ["fast", "whole"] {
            let list = times[format!("{kind}_us")].as_array().context("no times")?;
            let list: Vec<f64> = list.iter().filter_map(serde_json::Value::as_f64).collect();
            for percent in [50.0, 99.0] {
                let value = at(&list, percent);
                report.figure(&format!("pass_{kind}_latency_{latency}us_p{percent}_us"), value);
            }
        }
    }
    Ok(())
}

/// The sampler alone, by the number of GPUs.
fn counts(stage: &Stage, report: &mut Report) -> Result<()> {
    for gpus in COUNTS {
        eprintln!("gpu: the sampler with {gpus} GPU(s) at 1 Hz");
        let file = stage.write("counts.toml", &still(gpus, ""))?;
        let sampler = Running::start(&mut stage.sampler(&file, &["--interval-ms", "1000"]))?;
        let (cpu, rss) = usage(&sampler.pids(), stage.window)?;
        report.figure(&format!("sampler_{gpus}_gpus_1hz_cpu_ms_per_s"), cpu);
        report.figure(&format!("sampler_{gpus}_gpus_1hz_rss_mib"), rss);
    }
    Ok(())
}

/// The daemon with its sampler, the same daemon without, and the others. What sampling costs is the difference of the two.
fn cost(stage: &Stage, args: &Args, report: &mut Report) -> Result<()> {
    let file = stage.write("cost.toml", &still(GPUS, ""))?;
    for hz in RATES_HZ {
        let start = |nvml| {
            let options = Options { name: "bench-gpu", release: !args.debug, sample_interval_ms: 1_000 / hz, nvml };
            Daemon::start(&options, tempfile::tempdir().context("making a folder")?)
        };
        eprintln!("gpu: failsafed without GPUs at {hz} Hz");
        let bare = start(None)?;
        let (bare_cpu, bare_rss) = usage(&[bare.pid()], stage.window)?;
        drop(bare);
        eprintln!("gpu: failsafed with {GPUS} GPUs at {hz} Hz");
        let daemon = start(Some((stage.library.clone(), file.clone())))?;
        let sampler = child_of(daemon.pid())?;
        let (cpu, rss) = usage(&[daemon.pid(), sampler], stage.window)?;
        let (sampler_cpu, sampler_rss) = usage(&[sampler], stage.window)?;
        drop(daemon);
        for (what, cpu, rss) in [
            ("failsafed_without_gpus", bare_cpu, bare_rss),
            ("failsafed_and_sampler", cpu, rss),
            ("sampler", sampler_cpu, sampler_rss),
        ] {
            report.figure(&format!("{what}_{hz}hz_cpu_ms_per_s"), cpu);
            report.figure(&format!("{what}_{hz}hz_rss_mib"), rss);
        }
        let sampling = (cpu - bare_cpu).max(sampler_cpu);
        for other in others::all(&stage.folder, &stage.library, hz)? {
            eprintln!("gpu: {} at {hz} Hz", other.name);
            let seen = other.usage(&file, stage.window)?;
            report.figure(&format!("{}_{hz}hz_cpu_ms_per_s", other.name), seen.cpu);
            report.figure(&format!("{}_{hz}hz_rss_mib", other.name), seen.rss);
            report.figure(&format!("{}_{hz}hz_looks_per_s", other.name), seen.looks);
            // By the look: a tool that waits inside one makes fewer of them than it is asked for.
            let (each, bound) = (seen.cpu / seen.looks, other.polls_gpus.then_some(SHARE));
            let name = other.name;
            report.ratio(&format!("{hz} Hz: CPU of a look, sampler / {name}"), sampler_cpu / hz as f64 / each, bound);
            report.ratio(
                &format!("{hz} Hz: CPU of a look, sampling in all / {name}"),
                sampling / hz as f64 / each,
                None,
            );
        }
    }
    Ok(())
}

/// The sampler that the daemon has started.
fn child_of(pid: u32) -> Result<u32> {
    interrupt::wait_for("the sampler", Duration::from_secs(10), || {
        let tasks = shell::process(pid)?.tasks().context("listing a process's threads")?.flatten();
        Ok(tasks.filter_map(|task| task.children().ok()).flatten().next())
    })
}

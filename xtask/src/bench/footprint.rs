//! Resident memory and CPU of the idle daemon with 8 simulated GPUs and 1, 20 and 1,000 runs, and of the gateway that serves its
//! metrics, beside Prometheus's node exporter in the same run.

use super::{
    Args,
    crowd::{Crowd, UNPACED, family, rss_mib as rss_of},
    report::Report,
};
use crate::{
    daemon::{Daemon, Options},
    gpu_check::simulated_library,
    interrupt, shell,
};
use anyhow::{Context, Result};
use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Runs, and how much memory the daemon may hold with them.
const RUNS: [(usize, Option<f64>); 3] = [(1, None), (20, Some(20.0)), (1_000, Some(40.0))];
/// Percent of a core that the daemon may take with 20 runs.
const BOUND_CPU: f64 = 0.3;
const GPUS: usize = 8;
/// Figures are taken over this long.
const WINDOW: Duration = Duration::from_secs(20);
/// What a new run costs is over by then.
const SETTLE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);

/// The node exporter, ended when dropped.
pub(super) struct Exporter {
    child: Child,
    port: u16,
}

impl Exporter {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures.
///
/// # Errors
/// The daemon, a run or the exporter failed.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("footprint", 1, args.debug);
    report.condition("gpus", format!("{GPUS} H100, simulated, sampled once a second by a process of its own"));
    report.condition("window_s", WINDOW.as_secs());
    report.condition("scrapes", "the gateway and the node exporter, once a second");
    let folder = tempfile::tempdir().context("making a folder")?;
    let library = simulated_library(folder.path(), !args.debug)?;
    let scenario = folder.path().join("scenario.toml");
    fs::write(&scenario, format!("live = false\n[[gpu]]\nmodel = \"H100\"\ncount = {GPUS}\n"))?;
    let nvml = Some((library, scenario));
    let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml };
    let own = tempfile::tempdir().context("making a folder")?;
    let mut daemon = Daemon::start(&options, own)?;
    let mut crowd = Crowd::new()?;
    crowd.configure(&mut daemon, None, UNPACED)?;
    let mut gateway = crowd.gateway(&daemon, folder.path(), "[metrics]\naddress = \"127.0.0.1:0\"\n")?;
    let port = gateway.address("metrics are served")?.port();
    let exporter = exporter()?;
    for (runs, bound) in RUNS {
        crowd.grow(&daemon, runs)?;
        eprintln!("footprint: {runs} run(s), {} s", WINDOW.as_secs());
        // The daemon has one child, which asks NVML.
        let sampler: Vec<u32> = family(daemon.pid())?.into_iter().filter(|pid| *pid != daemon.pid()).collect();
        let all = [vec![daemon.pid()], sampler, vec![gateway.pid()], vec![exporter.pid()]];
        let cpu = idle(&all, &[port, exporter.port()])?;
        let names = ["failsafed", "sampler", "gateway", "node_exporter"];
        let mut rss = Vec::new();
        for ((name, pids), cpu) in names.iter().zip(&all).zip(&cpu) {
            rss.push(rss_of(pids)?);
            report.figure(&format!("{name}_{runs}_runs_rss_mib"), rss.last().copied().unwrap_or(f64::NAN));
            report.figure(&format!("{name}_{runs}_runs_cpu_percent_of_a_core"), *cpu);
        }
        if let Some(bound) = bound {
            report.ratio(&format!("{runs} runs: resident MiB / {bound}"), rss[0] / bound, Some(1.0));
        }
        if runs == 20 {
            report.ratio(&format!("{runs} runs: percent of a core / {BOUND_CPU}"), cpu[0] / BOUND_CPU, Some(1.0));
        }
        report.ratio(&format!("{runs} runs: resident, failsafed / node exporter"), rss[0] / rss[3], None);
    }
    drop(gateway);
    drop(crowd);
    Ok(report)
}

/// CPU of each group of processes over the window, percent of a core. These ports are scraped once a second, as the daemon samples.
fn idle<const N: usize>(groups: &[Vec<u32>; N], ports: &[u16]) -> Result<[f64; N]> {
    thread::sleep(SETTLE);
    let used = || -> Result<Vec<u64>> {
        groups.iter().map(|pids| pids.iter().map(|pid| ticks(*pid)).sum::<Result<u64>>()).collect()
    };
    let before = used()?;
    let began = Instant::now();
    while began.elapsed() < WINDOW {
        interrupt::check()?;
        for port in ports {
            scrape(*port)?;
        }
        thread::sleep(Duration::from_secs(1));
    }
    let (after, window) = (used()?, began.elapsed().as_secs_f64());
    // USER_HZ is 100 on every Linux that this is built for.
    Ok(std::array::from_fn(|at| after[at].saturating_sub(before[at]) as f64 / window))
}

fn ticks(pid: u32) -> Result<u64> {
    let stat = shell::process(pid)?.stat().context("reading a process's stat")?;
    Ok(stat.utime + stat.stime)
}

pub(super) fn rss_mib(pid: u32) -> Result<f64> {
    let status = shell::process(pid)?.status().context("reading a process's status")?;
    Ok(status.vmrss.context("no VmRSS")? as f64 / 1_024.0)
}

pub(super) fn exporter() -> Result<Exporter> {
    const PROGRAM: &str = "prometheus-node-exporter";
    if shell::which(PROGRAM).is_none() {
        eprintln!("footprint: installing {PROGRAM} to measure beside it");
        shell::run(Command::new("apt-get").args(["install", "-y", "--no-install-recommends", PROGRAM]))?;
    }
    let port = TcpListener::bind("127.0.0.1:0").context("finding a free port")?.local_addr()?.port();
    let mut command = Command::new(PROGRAM);
    command.arg(format!("--web.listen-address=127.0.0.1:{port}")).stdout(Stdio::null()).stderr(Stdio::null());
    let exporter = Exporter { child: command.spawn().context("starting the node exporter")?, port };
    interrupt::wait_for("the node exporter", PATIENCE, || Ok(scrape(port).ok()))?;
    Ok(exporter)
}

pub(super) fn scrape(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connecting for metrics")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").context("asking for metrics")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("reading metrics")?;
    anyhow::ensure!(answer.len() > 1_000, "port {port} answered {} bytes", answer.len());
    Ok(())
}

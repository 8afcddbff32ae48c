//! Resident memory and CPU of the idle daemon with 1 and with 100 runs, beside Prometheus's node exporter in the same run.

use super::{Args, report::Report};
use crate::{
    daemon::{Daemon, Options},
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

/// The daemon may hold this much.
const BOUND_MIB: f64 = 20.0;
/// Figures are taken over this long.
const WINDOW: Duration = Duration::from_secs(10);
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
    report.condition("nvml", "disabled: no sampler process");
    report.condition("window_s", WINDOW.as_secs());
    let folder = tempfile::tempdir().context("making a folder")?;
    let policy = folder.path().join("policy.toml");
    let text = "[policy]\nname = \"idle\"\nowner = \"bench@example.org\"\n[egress]\nallow = [{ cidr = \"127.0.0.0/8\" }]\n[[rule]]\nid = \"memory\"\nrationale = \"bench\"\nwhen = { signal = \"memory.used\", above = \"1 TiB\" }\nactions = [\"notify\"]\n";
    fs::write(&policy, text).context("writing the policy")?;
    let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
    let daemon = Daemon::start(&options, folder)?;
    let exporter = exporter()?;
    let mut children = Vec::new();
    for runs in [1usize, 100] {
        while children.len() < runs {
            interrupt::check()?;
            let name = format!("idle-{}", children.len());
            let mut run = daemon.ctl(["run", "--no-watch"]);
            run.arg("--policy").arg(&policy).args(["--name", &name, "--user", "root", "--quiet", "--", "sleep", "600"]);
            children.push(run.spawn().context("starting a run")?);
            interrupt::wait_for("the run", PATIENCE, || Ok(shell::read(&mut daemon.ctl(["describe", &name])).ok()))?;
        }
        eprintln!("footprint: {runs} run(s), {} s", WINDOW.as_secs());
        let (cpu, exporter_cpu) = idle(daemon.pid(), &exporter)?;
        let (rss, exporter_rss) = (rss_mib(daemon.pid())?, rss_mib(exporter.child.id())?);
        report.figure(&format!("failsafed_{runs}_runs_rss_mib"), rss);
        report.figure(&format!("failsafed_{runs}_runs_cpu_percent_of_a_core"), cpu);
        report.figure(&format!("node_exporter_beside_{runs}_runs_rss_mib"), exporter_rss);
        report.figure(&format!("node_exporter_beside_{runs}_runs_cpu_percent_of_a_core"), exporter_cpu);
        report.ratio(&format!("{runs} runs: resident MiB / 20"), rss / BOUND_MIB, Some(1.0));
        report.ratio(&format!("{runs} runs: resident, failsafed / node exporter"), rss / exporter_rss, None);
    }
    for mut child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
    Ok(report)
}

/// CPU of both over the window, percent of a core; the exporter is scraped once a second, as the daemon samples.
fn idle(pid: u32, exporter: &Exporter) -> Result<(f64, f64)> {
    let before = (ticks(pid)?, ticks(exporter.child.id())?);
    let began = Instant::now();
    while began.elapsed() < WINDOW {
        interrupt::check()?;
        scrape(exporter.port)?;
        thread::sleep(Duration::from_secs(1));
    }
    let window = began.elapsed().as_secs_f64();
    // USER_HZ is 100 on every Linux that this is built for.
    let percent = |now: u64, then: u64| now.saturating_sub(then) as f64 / window;
    Ok((percent(ticks(pid)?, before.0), percent(ticks(exporter.child.id())?, before.1)))
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
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connecting to the node exporter")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").context("asking the node exporter")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("reading the node exporter")?;
    anyhow::ensure!(answer.len() > 1_000, "the node exporter answered {} bytes", answer.len());
    Ok(())
}

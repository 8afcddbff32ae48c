//! Attestation: time and bytes of the statement of a node and of a run with 500 libraries and 256 processes, the CPU time that
//! following these libraries takes, and the time of a quote of a software TPM.

use super::{Args, report::Report, statistics::median};
use crate::{
    daemon::{Daemon, Options},
    interrupt, shell,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const SOURCE: &str = include_str!("attest_run.c");
const LIBRARIES: usize = 500;
const PROCESSES: usize = 256;
const PATIENCE: Duration = Duration::from_secs(60);
/// Following loaded libraries may take this much of a core, percent.
const BOUND_PERCENT: f64 = 0.2;
/// CPU time is taken over this long, once with and once without following. A live run is read every 60 s at least.
const WINDOW: Duration = Duration::from_secs(130);
const POLICY: &str = "[policy]\nname = \"plain\"\nowner = \"bench@example.org\"\n";

/// Measures.
///
/// # Errors
/// A compiler or swtpm is missing, or the daemon or the run failed.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("attest", args.trials, args.debug);
    report.condition("libraries", LIBRARIES);
    report.condition("processes", PROCESSES);
    report.condition("window_s", WINDOW.as_secs());
    let folder = tempfile::tempdir().context("making a folder")?;
    let program = make(folder.path())?;
    quote(args, folder.path(), &mut report)?;
    let mut cpu = Vec::new();
    for disabled in [false, true] {
        let bench = Bench::start(args, &program, folder.path(), disabled)?;
        if !disabled {
            statements(args, &bench, &mut report)?;
        }
        cpu.push(bench.cpu_percent()?);
    }
    let following = (cpu[0] - cpu[1]).max(0.0);
    report.figure("daemon_cpu_percent_of_a_core_with_following", cpu[0]);
    report.figure("daemon_cpu_percent_of_a_core_without", cpu[1]);
    report.ratio("following libraries, percent of a core : 0.2", following / BOUND_PERCENT, Some(1.0));
    Ok(report)
}

/// The program of the run and its libraries, each with a build-id of its own.
fn make(folder: &Path) -> Result<PathBuf> {
    let libraries = folder.join("libraries");
    fs::create_dir(&libraries).context("making a folder")?;
    let (source, program) = (folder.join("run.c"), folder.join("attest-run"));
    fs::write(&source, SOURCE).context("writing the program")?;
    shell::read(Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(&source).arg("-ldl"))?;
    eprintln!("attest: {LIBRARIES} libraries");
    let empty = folder.join("library.c");
    for n in 0..LIBRARIES {
        interrupt::check()?;
        fs::write(&empty, format!("int library_{n};\n")).context("writing a library")?;
        let id = format!("-Wl,--build-id=0x{n:040x}");
        let to = libraries.join(format!("libfs{n:03}.so"));
        shell::read(Command::new("cc").args(["-shared", "-fPIC", "-nostdlib", &id, "-o"]).arg(to).arg(&empty))?;
    }
    Ok(program)
}

/// A daemon with a run that has everything loaded.
struct Bench {
    daemon: Daemon,
    run: Child,
    folder: TempDir,
}

impl Bench {
    fn start(args: &Args, program: &Path, folder: &Path, disabled: bool) -> Result<Bench> {
        let options = Options { name: "bench", release: !args.debug, sample_interval_ms: 1_000, nvml: None };
        let more = format!("\n[drift]\ndisabled = {disabled}\n[tpm]\ndisabled = true\n");
        let daemon = Daemon::start_with(&options, tempfile::tempdir().context("making a folder")?, &more)?;
        let own = tempfile::tempdir().context("making a folder")?;
        let policy = own.path().join("plain.toml");
        fs::write(&policy, POLICY).context("writing the policy")?;
        let mut command = daemon.ctl(["run", "--no-watch", "--quiet", "--name", "many", "--user", "root", "--policy"]);
        command.arg(&policy).arg("--").arg(program).arg(folder.join("libraries")).arg(PROCESSES.to_string());
        let mut run = command.stdout(Stdio::piped()).spawn().context("starting the run")?;
        let line = BufReader::new(run.stdout.take().context("stdout")?).lines().next().transpose()?;
        ensure!(line.as_deref() == Some(&format!("loaded {LIBRARIES}")), "the run printed {line:?}");
        Ok(Bench { daemon, run, folder: own })
    }

    /// CPU time of the whole daemon, those of its threads that ended included, percent of a core.
    fn cpu_percent(&self) -> Result<f64> {
        // The statement of the start is made within 10 s.
        wait(Duration::from_secs(15))?;
        let before = self.ticks()?;
        let began = Instant::now();
        wait(WINDOW)?;
        // USER_HZ is 100 on every Linux that this is built for.
        Ok(self.ticks()?.saturating_sub(before) as f64 / began.elapsed().as_secs_f64())
    }

    fn ticks(&self) -> Result<u64> {
        let stat = shell::process(self.daemon.pid())?.stat().context("reading the daemon's stat")?;
        Ok(stat.utime + stat.stime)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.run.kill();
        let _ = self.run.wait();
    }
}

fn wait(time: Duration) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < time {
        interrupt::check()?;
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn statements(args: &Args, bench: &Bench, report: &mut Report) -> Result<()> {
    for (name, what) in [("node", &["attest", "node"][..]), ("run", &["attest", "run", "many"])] {
        let to = bench.folder.path().join(format!("{name}.json"));
        let mut times = Vec::new();
        for _ in 0..args.trials {
            interrupt::check()?;
            let began = Instant::now();
            shell::read(bench.daemon.ctl(what).arg("-o").arg(&to).arg("--force"))?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        report.figure(&format!("{name}_ms"), median(&times));
        report.figure(&format!("{name}_bytes"), fs::metadata(&to).context("reading the statement")?.len());
    }
    Ok(())
}

/// A software TPM, ended when dropped.
struct Swtpm(Child);

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn quote(args: &Args, folder: &Path, report: &mut Report) -> Result<()> {
    let (state, server) = (folder.join("tpm"), folder.join("tpm.socket"));
    fs::create_dir(&state).context("making a folder")?;
    let child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", server.display()))
        .args(["--ctrl".to_owned(), format!("type=unixio,path={}.ctrl", server.display())])
        .stdout(Stdio::null())
        .spawn()
        .context("starting swtpm (apt-get install swtpm)")?;
    let _swtpm = Swtpm(child);
    interrupt::wait_for("swtpm", PATIENCE, || Ok(UnixStream::connect(&server).ok()))?;
    let mut cargo = shell::cargo();
    cargo.args(["run", "-q", "--locked", "-p", "failsafe-tpm", "--example", "quote_bench"]);
    if !args.debug {
        cargo.arg("--release");
    }
    let text = shell::read(cargo.arg("--").arg(&server).arg(args.trials.to_string()))?;
    let line = text.lines().last().context("the example printed nothing")?;
    let measured: Value = serde_json::from_str(line).with_context(|| format!("the example printed no JSON: {line}"))?;
    for (figure, of) in [("tpm_key_ms", "key_ms"), ("tpm_quote_ms", "quote_ms"), ("tpm_quote_bytes", "bytes")] {
        report.figure(figure, measured[of].clone());
    }
    Ok(())
}

//! A failsafed of its own for the demo and the benches: private configuration, state, sockets, cgroup and pins, so that it
//! disturbs no installed one; all of it is gone when the value is dropped.

use crate::{interrupt, shell};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the daemon may take to answer for the first time, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the daemon is to be started.
pub struct Options {
    /// A short word for its cgroup and pins.
    pub name: &'static str,
    /// The release build.
    pub release: bool,
    /// Time between samples, milliseconds.
    pub sample_interval_ms: u64,
    /// NVML's library and the scenario of the simulated one; without it GPUs are not looked at.
    pub nvml: Option<(PathBuf, PathBuf)>,
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    folder: TempDir,
    programs: PathBuf,
    scenario: Option<PathBuf>,
    cgroup: PathBuf,
    bpffs: PathBuf,
}

impl Daemon {
    /// Starts it and waits until it answers. `folder` becomes its own: sockets, state and log lie there.
    ///
    /// # Errors
    /// Not root, no cgroup2, or the daemon does not come up: then its log is in the error.
    pub fn start(options: &Options, folder: TempDir) -> Result<Daemon> {
        Daemon::start_with(options, folder, "")
    }

    /// The same with more text at the end of the configuration.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with(options: &Options, folder: TempDir, more: &str) -> Result<Daemon> {
        if !geteuid().is_root() {
            bail!("failsafed needs root: run `sudo -E cargo xtask ...`");
        }
        let unique = format!("failsafe-{}-{}", options.name, std::process::id());
        let bpffs = Path::new("/sys/fs/bpf").join(&unique);
        let config = folder.path().join("failsafed.toml");
        fs::write(&config, configuration(options, folder.path(), &unique, &bpffs) + more)
            .with_context(|| format!("writing {}", config.display()))?;
        let programs = shell::built(options.release);
        // A folder of its own in bpffs, so that what was pinned can be taken away whole.
        fs::create_dir_all(&bpffs).with_context(|| format!("making {}", bpffs.display()))?;
        let scenario = options.nvml.as_ref().map(|(_, scenario)| scenario.clone());
        let child = launch(&programs, folder.path(), scenario.as_deref())?;
        let mut daemon = Daemon { child, folder, programs, scenario, cgroup: cgroup2()?.join(&unique), bpffs };
        daemon.wait_until_it_answers()?;
        Ok(daemon)
    }

    /// Kills it where it stands (SIGKILL) and starts it again on the same state, without waiting for it to answer.
    ///
    /// # Errors
    /// It cannot be killed or started.
    pub fn crash(&mut self) -> Result<()> {
        self.child.kill().context("killing the daemon")?;
        self.child.wait().context("waiting for the daemon's end")?;
        self.child = launch(&self.programs, self.folder.path(), self.scenario.as_deref())?;
        Ok(())
    }

    /// `failsafectl` against this daemon.
    pub fn ctl<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(self.programs.join("failsafectl"));
        command.arg("--socket").arg(self.folder.path().join("failsafed.sock"));
        command.arg("--state-dir").arg(self.folder.path().join("state")).args(args);
        command
    }

    /// What `failsafectl ARGS -o json` prints.
    ///
    /// # Errors
    /// It fails, or prints something else than JSON.
    pub fn json<I: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Result<Value> {
        let mut command = self.ctl(args);
        let text = shell::read(command.args(["-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("`{}` printed no JSON: {text}", shell::shown(&command)))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder in bpffs: what it pins lies below.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The cgroup below which it makes runs.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where runs report their metrics.
    pub fn metrics_socket(&self) -> PathBuf {
        self.folder.path().join("metrics.sock")
    }

    /// A program of this build, such as `trainer`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It ended, or does not answer in time: its log is in the error.
    pub fn wait_until_it_answers(&mut self) -> Result<()> {
        let answer = interrupt::wait_for("the daemon's first answer", PATIENCE, || {
            if let Some(status) = self.child.try_wait().context("watching the daemon")? {
                bail!("failsafed ended at once: {status}");
            }
            Ok(shell::read(&mut self.ctl(["node", "status"])).ok())
        });
        answer.map(|_| ()).with_context(|| format!("failsafed's log:\n{}", self.last_log_lines(20)))
    }

    /// Its threads, each with the kernel function it waits in: what to look at when it hangs.
    fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        tasks.map(|task| format!("{} in {}", read(task.path().join("comm")), read(task.path().join("wchan")))).collect()
    }

    fn last_log_lines(&self, n: usize) -> String {
        let text = fs::read_to_string(self.folder.path().join("failsafed.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(n)..].join("\n")
    }
}

impl Drop for Daemon {
    /// First the daemon in order, then whatever is left of its runs, then its cgroups and pins.
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if !soon(|| matches!(self.child.try_wait(), Ok(Some(_)))) {
            let threads = self.threads().join(", ");
            eprintln!(
                "xtask: failsafed did not end on SIGTERM within {} s; killing it ({threads})",
                PATIENCE.as_secs()
            );
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        remove_cgroup(&self.cgroup);
        let _ = fs::remove_dir_all(&self.bpffs);
        for left in [&self.cgroup, &self.bpffs].into_iter().filter(|path| path.exists()) {
            eprintln!("xtask: {} could not be removed", left.display());
        }
    }
}

/// Starts it; its log is written on, as it may have been started before.
fn launch(programs: &Path, folder: &Path, scenario: Option<&Path>) -> Result<Child> {
    let file = folder.join("failsafed.log");
    let log = fs::File::options().create(true).append(true).open(&file).context("opening the daemon's log")?;
    let mut command = Command::new(programs.join("failsafed"));
    command.arg("--config").arg(folder.join("failsafed.toml"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if let Some(scenario) = scenario {
        command.env("FAILSAFE_NVML_SCENARIO", scenario);
    }
    // A process group of its own: a Ctrl-C at the terminal is for xtask, which then stops the daemon in order.
    command.process_group(0).spawn().with_context(|| format!("starting `{}`", shell::shown(&command)))
}

fn configuration(options: &Options, folder: &Path, cgroup: &str, bpffs: &Path) -> String {
    let path = |name: &str| format!("{:?}", folder.join(name).display().to_string());
    let nvml = match &options.nvml {
        Some((library, _)) => format!("library = {:?}", library.display().to_string()),
        None => "disabled = true".to_owned(),
    };
    format!(
        "state_dir = {}\nsocket = {}\nmetrics_socket = {}\ncgroup_parent = {cgroup:?}\nsample_interval_ms = {}\nbpffs = {:?}\n\n[nvml]\n{nvml}\n",
        path("state"),
        path("failsafed.sock"),
        path("metrics.sock"),
        options.sample_interval_ms,
        bpffs.display().to_string(),
    )
}

/// Where cgroup v2 is mounted: on hybrid hosts not at `/sys/fs/cgroup`.
pub fn cgroup2() -> Result<PathBuf> {
    let mounts = procfs::mounts().context("reading the mounts")?;
    let found = mounts.into_iter().find(|mount| mount.fs_vfstype == "cgroup2");
    Ok(found.context("no cgroup2 is mounted")?.fs_file.into())
}

/// Kills what still lives in the cgroup and removes it with all below it.
fn remove_cgroup(cgroup: &Path) {
    if !cgroup.exists() {
        return;
    }
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    soon(|| fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 0")));
    soon(|| remove_folders(cgroup).is_ok());
}

fn remove_folders(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Whether `holds` becomes true in time. For clean-up, which goes on after a Ctrl-C.
fn soon(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

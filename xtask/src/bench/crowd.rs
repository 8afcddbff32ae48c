//! Many runs: cgroups that a rule of discovery matches, each with a process that sleeps; and a gateway of the bench's own.

use crate::{
    daemon::{Daemon, cgroup2},
    interrupt, shell,
};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(120);
/// Requests per second that no load reaches.
pub const UNPACED: u32 = 100_000;
/// Those of a node whose configuration says nothing.
pub const DEFAULT_PACE: u32 = 200;
/// Of a run that does nothing: an egress list and one rule.
pub const POLICY: &str = r#"
[policy]
name = "idle"
owner = "bench@example.org"
[egress]
allow = [{ cidr = "127.0.0.0/8" }]
[[rule]]
id = "memory"
rationale = "bench"
when = { signal = "memory.used", above = "1 TiB" }
actions = ["notify"]
"#;

/// Cgroups of this bench, below which runs and the gateway are; gone with all in them when it is dropped.
pub struct Crowd {
    cgroup: PathBuf,
    name: String,
    policies: tempfile::TempDir,
    runs: usize,
}

impl Crowd {
    /// Without a run.
    ///
    /// # Errors
    /// The cgroup cannot be made.
    pub fn new() -> Result<Crowd> {
        let name = format!("failsafe-bench-crowd-{}", std::process::id());
        let policies = tempfile::tempdir().context("making a folder")?;
        fs::set_permissions(policies.path(), fs::Permissions::from_mode(0o755))?;
        let policy = policies.path().join("idle.toml");
        fs::write(&policy, POLICY)?;
        fs::set_permissions(&policy, fs::Permissions::from_mode(0o644))?;
        let cgroup = cgroup2()?.join(&name);
        for folder in [&cgroup, &cgroup.join("runs"), &cgroup.join("gateway")] {
            fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(Crowd { cgroup, name, policies, runs: 0 })
    }

    /// Has the daemon started again with this configuration: limits that the load does not reach, discovery of this crowd, and its
    /// gateway. `roles`: of remote identities. `pace`: requests per second.
    ///
    /// # Errors
    /// The daemon does not come up.
    pub fn configure(&self, daemon: &mut Daemon, roles: Option<&Path>, pace: u32) -> Result<()> {
        let (config, kept) = (daemon.folder().join("failsafed.toml"), daemon.folder().join("before.toml"));
        if !kept.exists() {
            fs::copy(&config, &kept)?;
        }
        let before = fs::read_to_string(&kept)?;
        let roles = roles.map(|path| format!("roles = {:?}\n", path.display().to_string())).unwrap_or_default();
        let wide = "{ per_user = 2000, total = 4000, reserve = 4000 }";
        let text = format!(
            "policy_dir = {:?}\n{before}\n[limits]\nconnections = {wide}\nstreams = {wide}\nrequests = {wide}\n\
             requests_per_second = {pace}\nper_connection = 1024\n\
             [gateway]\nuser = \"nobody\"\ncgroup = \"/{name}/gateway\"\n{roles}\
             [discovery]\nroot = \"{name}\"\nruns = 1000\nruns_per_owner = 1000\n\
             [[discover]]\nname = \"crowd\"\nmatch = \"runs/run-*\"\npolicy = \"idle\"\n",
            self.policies.path().display().to_string(),
            name = self.name,
        );
        fs::write(&config, text)?;
        daemon.crash()?;
        daemon.wait_until_it_answers()
    }

    /// Makes runs until there are this many, and waits until the daemon has all.
    ///
    /// # Errors
    /// A run is not registered in time.
    pub fn grow(&mut self, daemon: &Daemon, runs: usize) -> Result<()> {
        for n in self.runs..runs {
            interrupt::check()?;
            let cgroup = self.cgroup.join(format!("runs/run-{n}"));
            fs::create_dir(&cgroup)?;
            let script = "echo $$ > \"$1\"/cgroup.procs && exec sleep infinity";
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).arg(&cgroup).stdin(Stdio::null());
            // It is killed with its cgroup, and its entry with this process.
            drop(command.spawn().context("starting a process")?);
        }
        self.runs = runs;
        interrupt::wait_for("all runs", PATIENCE, || {
            let listed = daemon.json(["list"])?.as_array().map_or(0, Vec::len);
            Ok((listed == runs).then_some(()))
        })
    }

    /// Starts the gateway as `nobody`, with these lines of configuration. Its files lie in `folder`.
    ///
    /// # Errors
    /// It does not come up.
    pub fn gateway(&self, daemon: &Daemon, folder: &Path, settings: &str) -> Result<Gateway> {
        let (config, log) = (folder.join("gateway.toml"), folder.join("gateway.log"));
        let socket = daemon.folder().join("failsafed.sock");
        for folder in [folder, daemon.folder()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(&config, format!("socket = {:?}\n{settings}", socket.display().to_string()))?;
        let script = "echo $$ > \"$1\"/cgroup.procs && shift && exec setpriv --clear-groups \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(self.cgroup.join("gateway")).args(["--reuid=65534", "--regid=65534"]);
        command.arg(daemon.program("failsafe-gateway")).arg("--config").arg(&config).current_dir("/");
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        Ok(Gateway { child: command.spawn().context("starting failsafe-gateway")?, log })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _killed = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for _ in 0..500 {
            if remove(&self.cgroup).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("left behind: {}", self.cgroup.display());
    }
}

/// Removes a cgroup with all below it.
pub fn remove(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}

/// A gateway, killed when it is dropped.
pub struct Gateway {
    child: Child,
    log: PathBuf,
}

impl Gateway {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address that follows `what` in its log.
    ///
    /// # Errors
    /// It ended, or writes none.
    pub fn address(&mut self, what: &str) -> Result<SocketAddr> {
        interrupt::wait_for("the gateway", PATIENCE, || {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!("failsafe-gateway ended: {status}\n{log}");
            }
            let line = log.lines().find(|line| line.contains(what));
            let address = line.and_then(|line| line.split("address=").nth(1)?.split_whitespace().next());
            Ok(address.and_then(|address| address.parse().ok()))
        })
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of these processes together, MiB.
///
/// # Errors
/// One of them ended.
pub fn rss_mib(pids: &[u32]) -> Result<f64> {
    pids.iter().map(|pid| super::footprint::rss_mib(*pid)).sum()
}

/// A process with all that it started, such as the daemon with its sampler.
///
/// # Errors
/// It ended.
pub fn family(pid: u32) -> Result<Vec<u32>> {
    let mut all = vec![pid];
    for task in shell::process(pid)?.tasks().context("reading tasks")?.flatten() {
        all.extend(task.children().context("reading children")?);
    }
    Ok(all)
}

//! A failsafed of a test's own.

use crate::{CommandOutput, cgroup, program, skip, wait_for, wait_for_some};
use anyhow::{Context, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::{Pid, geteuid},
};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

const BPFFS: &str = "/sys/fs/bpf";

/// Starts a node and runs `test` on it; what went wrong is told with the daemon's log. `settings` are lines of the daemon's
/// configuration that replace the harness's own; a line `#! NAME=VALUE` is a variable of its environment.
///
/// # Errors
/// Those of the test, or the daemon did not start.
pub fn on_node(test: &str, settings: &str, run: impl FnOnce(&mut Node) -> Result<()>) -> Result<()> {
    if !geteuid().is_root() {
        skip("not root");
        return Ok(());
    }
    if let Err(error) = cgroup::cgroup2() {
        skip(&error.to_string());
        return Ok(());
    }
    let mut node = Node::start(test, settings)?;
    let done = run(&mut node);
    if done.is_err() {
        node.show_log();
    }
    done
}

/// The node. Dropped, nothing of it is left.
#[derive(Debug)]
pub struct Node {
    folder: TempDir,
    mount: PathBuf,
    cgroup: PathBuf,
    pins: PathBuf,
    daemon: Option<Child>,
    state_dir: PathBuf,
}

impl Node {
    fn start(test: &str, settings: &str) -> Result<Node> {
        let folder = tempfile::Builder::new().prefix("failsafe-it-").tempdir().context("making the node's folder")?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let unique = format!("failsafe-it-{}-{test}", std::process::id());
        let pins = make_pins(&unique)?;
        let mount = cgroup::cgroup2()?;
        let (cgroup, state_dir) = (mount.join(&unique), folder.path().join("state"));
        let mut node = Node { folder, mount, cgroup, pins, daemon: None, state_dir };
        let config = node.configuration(&unique, settings);
        fs::write(node.file("failsafed.toml"), config).context("writing the configuration")?;
        node.restart()?;
        Ok(node)
    }

    fn configuration(&self, unique: &str, settings: &str) -> String {
        let path = |path: &Path| format!("{:?}", path.display().to_string());
        let defaults = [
            ("state_dir", path(&self.state_dir)),
            ("socket", path(&self.file("ctl.sock"))),
            ("metrics_socket", path(&self.metrics_socket())),
            ("cgroup_parent", format!("{unique:?}")),
            ("bpffs", path(&self.pins)),
            ("sample_interval_ms", "100".to_owned()),
        ];
        // A table begins a line; elsewhere a bracket begins an array.
        let table = if settings.starts_with('[') { Some(0) } else { settings.find("\n[").map(|at| at + 1) };
        let (plain, tables) = settings.split_at(table.unwrap_or(settings.len()));
        let given = |key: &str| plain.lines().any(|line| line.split('=').next().is_some_and(|k| k.trim() == key));
        let mut text: String =
            defaults.iter().filter(|(key, _)| !given(key)).map(|(key, value)| format!("{key} = {value}\n")).collect();
        text.push_str(plain);
        text.push('\n');
        text.push_str(tables);
        if !tables.contains("[nvml]") {
            text.push_str("\n[nvml]\ndisabled = true\n");
        }
        text
    }

    /// A file of the node's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The state folder.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Tells failsafectl of another state folder, one that the settings named.
    pub fn use_state_dir(&mut self, path: &Path) {
        path.clone_into(&mut self.state_dir);
    }

    /// Where the daemon pins what outlives it.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.file("ctl.sock")
    }

    /// The metrics socket.
    pub fn metrics_socket(&self) -> PathBuf {
        self.file("metrics.sock")
    }

    /// The cgroup2 mount.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Below which cgroup the daemon makes runs.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The exit code of failsafectl, which of some commands is the answer.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn code(&self, args: &[&str]) -> Result<i32> {
        Ok(self.ctl(args.iter().copied())?.code)
    }

    /// The daemon's process id.
    ///
    /// # Errors
    /// It is not running.
    pub fn pid(&self) -> Result<i32> {
        Ok(i32::try_from(self.daemon.as_ref().context("no daemon runs")?.id())?)
    }

    /// The daemon, not yet started: for tests that start another one.
    ///
    /// # Errors
    /// The program is missing.
    pub fn daemon_command(&self) -> Result<Command> {
        // A session of its own, as systemd gives it: with autogroups it then shares the processor with its runs as a group of its own.
        let mut command = Command::new("setsid");
        command.arg(program("failsafed")?).arg("--config").arg(self.file("failsafed.toml")).stdin(Stdio::null());
        let config = fs::read_to_string(self.file("failsafed.toml")).context("reading the configuration")?;
        command.envs(config.lines().filter_map(|line| line.strip_prefix("#! ")?.split_once('=')));
        Ok(command)
    }

    /// Starts the daemon, which must not be running, and waits until it answers.
    ///
    /// # Errors
    /// It ends, or does not answer; its log is in the error.
    pub fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.answers()
    }

    /// Starts the daemon and waits for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        if self.daemon.is_some() {
            bail!("the daemon runs already");
        }
        let log = OpenOptions::new().append(true).create(true).open(self.file("failsafed.log"))?;
        let mut command = self.daemon_command()?;
        command.stdout(log.try_clone()?).stderr(log).env("NO_COLOR", "1");
        self.daemon = Some(command.spawn().context("starting failsafed")?);
        Ok(())
    }

    /// Waits until the daemon answers.
    ///
    /// # Errors
    /// As [`Node::restart`].
    pub fn answers(&mut self) -> Result<()> {
        let answered = wait_for("failsafed answers", || {
            let daemon = self.daemon.as_mut().context("it was not started")?;
            if let Some(status) = daemon.try_wait()? {
                bail!("failsafed ended at once: {status}");
            }
            Ok(self.ctl(["node", "status"])?.code == 0)
        });
        if answered.is_err() {
            self.show_log();
        }
        answered
    }

    /// Kills the daemon by SIGKILL: nothing is tidied up.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill9(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// Kills the daemon by SIGKILL while a thread of it hangs in the kernel, and waits until all others have ended. The process is
    /// reaped when that thread ends: it is the caller's to wait for.
    ///
    /// # Errors
    /// It is not running, or other threads do not end.
    pub fn kill9_with(&mut self, hanging: u32) -> Result<Child> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        daemon.kill()?;
        let threads = format!("/proc/{}/task", daemon.id());
        wait_for("only the thread that hangs is left of the daemon", || {
            let mut left = Vec::new();
            for thread in fs::read_dir(&threads)? {
                let thread = thread?;
                // A thread that ends meanwhile has no state.
                let state = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                let ended =
                    state.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']));
                if !ended {
                    left.push(thread.file_name().to_string_lossy().parse::<u32>()?);
                }
            }
            Ok(left == [hanging])
        })?;
        Ok(daemon)
    }

    /// Stops the daemon in order.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon runs")?;
        kill(Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGTERM)?;
        let ended = wait_for_some("failsafed ends", || Ok(daemon.try_wait()?));
        if ended.is_err() {
            daemon.kill()?;
            daemon.wait()?;
        }
        let status = ended?;
        if status.success() { Ok(()) } else { bail!("failsafed ended with {status}") }
    }

    /// `failsafectl` against this node, not yet started.
    pub fn ctl_command<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(program("failsafectl").unwrap_or_else(|_| "failsafectl".into()));
        command.env("FAILSAFE_SOCKET", self.socket()).env("FAILSAFE_STATE_DIR", &self.state_dir);
        command.env("FAILSAFE_METRICS_SOCKET", self.metrics_socket()).env_remove("SUDO_UID").args(args);
        command
    }

    /// What `failsafectl ARGS` says.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn ctl<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Result<CommandOutput> {
        asked(&mut self.ctl_command(args))
    }

    /// The same as another user, with that user's group alone.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn ctl_as<I: AsRef<OsStr>>(&self, uid: u32, args: impl IntoIterator<Item = I>) -> Result<CommandOutput> {
        CommandOutput::of(self.ctl_command(args).uid(uid).gid(uid).current_dir("/"))
    }

    /// What `failsafectl ARGS -o json` prints; it has to succeed.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn json<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Result<Value> {
        asked(self.ctl_command(args).args(["-o", "json"]))?.expect(0)?.json()
    }

    /// A run as it is listed, ended ones too.
    ///
    /// # Errors
    /// There is none.
    pub fn run(&self, name: &str) -> Result<Value> {
        self.json(["describe", name])
    }

    /// The audit log's entries.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn events(&self) -> Result<Vec<Value>> {
        self.entries(&["events", "-o", "json"])
    }

    /// The entries of one run. The daemon reads them through its index, so the cost does not grow with the log.
    ///
    /// # Errors
    /// The command fails, or its output is not JSON.
    pub fn events_of(&self, run: &str) -> Result<Vec<Value>> {
        self.entries(&["events", "-o", "json", "--run", run])
    }

    fn entries(&self, command: &[&str]) -> Result<Vec<Value>> {
        let output = self.ctl(command)?.expect(0)?;
        output.out.lines().map(|line| serde_json::from_str(line).context("an entry of the log")).collect()
    }

    /// Waits for an entry of the log that `is` what is wanted.
    ///
    /// # Errors
    /// It does not come; the log's kinds are in the error.
    pub fn wait_for_event(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = wait_for_some(&format!("the log has {what}"), || Ok(self.events()?.into_iter().find(|e| is(e))));
        found.with_context(|| {
            let all = self.events().unwrap_or_default();
            all.iter().map(|e| format!("{} {} {}\n", e["index"], e["kind"], e["body"])).collect::<String>()
        })
    }

    /// That the audit log is whole.
    ///
    /// # Errors
    /// It is not.
    pub fn log_is_whole(&self) -> Result<()> {
        self.ctl(["log", "verify"])?.expect(0).map(|_| ())
    }

    /// The audit log is intact, and says itself that it was continued after entries were lost.
    ///
    /// # Errors
    /// It is not, or does not.
    pub fn log_is_continued(&self) -> Result<()> {
        let verified = self.ctl(["log", "verify", "-o", "json"])?.expect(3)?.json()?;
        if verified["verdict"] == "incomplete" { Ok(()) } else { bail!("another verdict: {verified}") }
    }

    /// Writes a policy and returns its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn policy(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.file(&format!("{name}.toml"));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// The daemon's log so far.
    pub fn daemon_log(&self) -> String {
        fs::read_to_string(self.file("failsafed.log")).unwrap_or_default()
    }

    fn show_log(&self) {
        eprintln!("--- failsafed's log\n{}---", self.daemon_log());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_log();
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        cgroup::remove_tree(&self.cgroup);
        if let Err(error) = fs::remove_dir_all(&self.pins) {
            eprintln!("left behind: {}: {error}", self.pins.display());
        }
    }
}

/// Runs failsafectl. An emulated processor may take longer to the first request than the daemon waits for it and then closes the
/// connection: there the command is run once more.
fn asked(command: &mut Command) -> Result<CommandOutput> {
    let output = CommandOutput::of(command)?;
    let emulated = std::env::var("NEXTEST_PROFILE").is_ok_and(|profile| profile == "vm");
    if emulated && output.code == 1 && output.err.contains("broken pipe") {
        eprintln!("asked again, as the daemon closed the connection: {}", output.err.trim());
        return CommandOutput::of(command);
    }
    Ok(output)
}

/// A folder for the pins in bpffs, which is mounted where it is missing.
fn make_pins(unique: &str) -> Result<PathBuf> {
    let is_bpffs = || statfs(BPFFS).is_ok_and(|s| s.filesystem_type() == BPF_FS_MAGIC);
    if !is_bpffs() {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).context("mounting bpffs")?;
    }
    let pins = Path::new(BPFFS).join(unique.replace('.', "-"));
    fs::create_dir(&pins).with_context(|| format!("making {}", pins.display()))?;
    Ok(pins)
}

/// A file that unprivileged users may read and write, for tests of what a run may touch.
///
/// # Errors
/// It cannot be made.
pub fn sentinel(node: &Node, name: &str) -> Result<PathBuf> {
    let path = node.file(name);
    File::create(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    Ok(path)
}

//! The same watch by other means, to measure beside: bpftrace on tracepoints, filtered to one cgroup, and audit rules with
//! auditd, which know no cgroups. Each is what one would write in an afternoon; what it prints goes to a file.

use crate::{daemon::cgroup2, interrupt, shell};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// What both watch, as system calls: what the run's rules look at. None of them is on opens, so neither watches them.
const CALLS: [&str; 5] = ["connect", "sendto", "sendmsg", "bind", "socket"];
/// As system calls, for audit, which has no events of process life. Newer architectures know no fork and vfork.
const LIFE: &[&str] = if cfg!(target_arch = "x86_64") {
    &["execve", "execveat", "clone", "clone3", "fork", "vfork"]
} else {
    &["execve", "execveat", "clone", "clone3"]
};

/// A cgroup of one's own, removed when dropped.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create() -> Result<Cgroup> {
        let path = cgroup2()?.join(format!("failsafe-bench-beside-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Cgroup(path))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A command that will run in it.
    pub fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0"/cgroup.procs && exec "$@""#]).arg(&self.0).arg(program).args(args);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if fs::remove_dir(&self.0).is_err() {
            eprintln!("bench: {} could not be removed", self.0.display());
        }
    }
}

/// bpftrace at work; it ends when dropped.
pub struct Bpftrace {
    child: Child,
    log: PathBuf,
}

impl Bpftrace {
    /// Starts it on `cgroup`, and waits until it is attached.
    ///
    /// # Errors
    /// It is refused: the error has its words.
    pub fn start(cgroup: &Cgroup, folder: &Path) -> Result<Bpftrace> {
        tracefs()?;
        let id = fs::metadata(&cgroup.0).context("finding the cgroup's id")?.ino();
        let (script, log) = (folder.join("watch.bt"), folder.join("bpftrace.log"));
        fs::write(&script, program(id)).context("writing the bpftrace script")?;
        let out = File::create(&log).context("making bpftrace's log")?;
        let mut command = Command::new("bpftrace");
        command.arg(&script).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let mut started = Bpftrace { child: command.spawn().context("starting bpftrace")?, log };
        interrupt::wait_for("bpftrace's probes", PATIENCE, || {
            let said = fs::read_to_string(&started.log).unwrap_or_default();
            if let Some(status) = started.child.try_wait().context("watching bpftrace")? {
                bail!("bpftrace ended at once ({status}): {}", said.trim());
            }
            Ok(said.contains("watching").then_some(()))
        })?;
        Ok(started)
    }

    /// Ends it; returns how many events it printed, and how many it says it lost.
    ///
    /// # Errors
    /// Its log cannot be read.
    pub fn end(mut self) -> Result<(u64, u64)> {
        self.stop();
        let said = String::from_utf8_lossy(&fs::read(&self.log).context("reading bpftrace's log")?).into_owned();
        let lost = said.lines().filter_map(|line| line.strip_prefix("Lost ")?.split(' ').next()?.parse::<u64>().ok());
        let printed = said.lines().filter(|line| line.starts_with("event ")).count() as u64;
        Ok((printed, lost.sum()))
    }

    fn stop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

fn program(cgroup: u64) -> String {
    let mut text = String::from("BEGIN { printf(\"watching\\n\"); }\n");
    let mut probe = |point: &str, print: &str| {
        text.push_str(&format!("tracepoint:{point} /cgroup == {cgroup}/ {{ printf({print}); }}\n"));
    };
    probe("sched:sched_process_exec", r#""event exec %d %s %s\n", pid, comm, str(args->filename)"#);
    probe("sched:sched_process_fork", r#""event fork %d %d\n", pid, args->child_pid"#);
    probe("sched:sched_process_exit", r#""event exit %d %s\n", pid, comm"#);
    for call in CALLS {
        probe(&format!("syscalls:sys_enter_{call}"), &format!(r#""event {call} %d %s\n", pid, comm"#));
    }
    text
}

/// bpftrace finds its tracepoints below debugfs, where tracefs mounts itself.
fn tracefs() -> Result<()> {
    use nix::mount::{MsFlags, mount};
    let events = Path::new("/sys/kernel/debug/tracing/events");
    if events.is_dir() {
        return Ok(());
    }
    eprintln!("bench: mounting debugfs on /sys/kernel/debug, where bpftrace looks for tracepoints");
    let target = Path::new("/sys/kernel/debug");
    mount(Some("debugfs"), target, Some("debugfs"), MsFlags::empty(), None::<&str>).context("mounting debugfs")?;
    if !events.is_dir() {
        bail!("{} is not there: this kernel offers no tracepoints", events.display());
    }
    Ok(())
}

/// auditd with rules; both are gone when it is dropped.
pub struct Audit {
    child: Child,
}

impl Audit {
    /// Starts auditd on a folder of its own, switches auditing on and loads the rules.
    ///
    /// # Errors
    /// Another auditd or other rules are there, or the kernel refuses: the error has its words.
    pub fn start(folder: &Path) -> Result<Audit> {
        let status = status()?;
        if status.get("pid").is_some_and(|pid| *pid != 0) {
            bail!("an auditd is at work here: it is left alone");
        }
        let rules = shell::read(&mut auditctl(&["-l"]))?;
        if !rules.lines().all(|line| line.trim() == "No rules" || line.trim() == NO_TASKS) {
            bail!("audit rules are in force here: they are left alone");
        }
        let log = folder.join("audit.log");
        let configuration = format!(
            "local_events = yes\nwrite_logs = yes\nlog_file = {}\nlog_format = RAW\nflush = INCREMENTAL_ASYNC\nfreq = 50\n\
             max_log_file = 64\nnum_logs = 2\nmax_log_file_action = ROTATE\nspace_left = 75\nspace_left_action = IGNORE\n\
             admin_space_left = 50\nadmin_space_left_action = IGNORE\ndisk_full_action = IGNORE\n\
             disk_error_action = IGNORE\n",
            log.display()
        );
        fs::write(folder.join("auditd.conf"), configuration).context("writing auditd's configuration")?;
        let said = File::create(folder.join("auditd.out")).context("making auditd's output")?;
        let mut command = Command::new("auditd");
        command.arg("-n").arg("-c").arg(folder).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let mut started = Audit { child: command.spawn().context("starting auditd")? };
        interrupt::wait_for("auditd", PATIENCE, || {
            if let Some(ended) = started.child.try_wait().context("watching auditd")? {
                let said = fs::read_to_string(folder.join("auditd.out")).unwrap_or_default();
                bail!("auditd ended at once ({ended}): {}", said.trim());
            }
            Ok((log.is_file() && status_pid_is_set()?).then_some(()))
        })?;
        shell::read(&mut auditctl(&["-D"]))?;
        // As Debian's own rules have it.
        shell::read(&mut auditctl(&["-b", "8192", "--backlog_wait_time", "60000"]))?;
        let calls = [LIFE, &CALLS[..]].concat().join(",");
        shell::read(&mut auditctl(&["-a", "always,exit", "-F", "arch=b64", "-S", &calls, "-k", "failsafe-bench"]))?;
        shell::read(&mut auditctl(&["-e", "1"]))?;
        Ok(started)
    }

    /// Events that the kernel has lost since it booted.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn lost(&self) -> Result<u64> {
        status()?.get("lost").copied().context("auditctl shows no lost events")
    }
}

impl Drop for Audit {
    /// Once auditing has been on, the kernel gives every new process an audit context, and with it the slow way into every
    /// system call, for good; a rule that exempts all tasks is what keeps it from doing so.
    fn drop(&mut self) {
        for args in [&["-D"][..], &["-e", "0"][..], &["-a", "never,task"][..]] {
            if let Err(error) = shell::read(&mut auditctl(args)) {
                eprintln!("bench: taking audit back: {error:#}");
            }
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

/// The rule that is left in force.
const NO_TASKS: &str = "-a never,task";

fn auditctl(args: &[&str]) -> Command {
    let mut command = Command::new("auditctl");
    command.args(args);
    command
}

fn status_pid_is_set() -> Result<bool> {
    Ok(status()?.get("pid").is_some_and(|pid| *pid != 0))
}

fn status() -> Result<std::collections::BTreeMap<String, u64>> {
    let text = shell::read(&mut auditctl(&["-s"]))?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect())
}

//! Processes outside every run, for the runs to reach at.

use anyhow::{Context, Result};
use integration::NOBODY;
use procfs::process::Process;
use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A process outside every run; killed on drop.
pub struct Outsider(Child);

impl Outsider {
    /// Starts it as this user.
    pub fn start(user: &str, command: &[&str], input: Stdio) -> Result<Outsider> {
        let (program, arguments) = command.split_first().context("no command")?;
        let uid = if user == "root" { 0 } else { NOBODY };
        let mut child = Command::new(program);
        child.args(arguments).uid(uid).gid(uid).current_dir("/").stdin(input).stdout(Stdio::null());
        Ok(Outsider(child.spawn().with_context(|| format!("starting {program}"))?))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What it was started with, as everybody sees it.
    pub fn arguments(&self) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/{}/cmdline", self.pid()))?.replace('\0', " "))
    }
}

impl Drop for Outsider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process, by what the kernel shows of it.
pub fn process(pid: u32) -> Result<Process> {
    Process::new(i32::try_from(pid)?).with_context(|| format!("looking at process {pid}"))
}

/// Within this a signal has done what it does.
const SOON: Duration = Duration::from_secs(1);

/// Whether a process comes to this state soon: its threads end, or stop, one after the other.
pub fn becomes(pid: u32, state: char) -> bool {
    let is = || process(pid).is_ok_and(|it| it.stat().is_ok_and(|stat| stat.state == state));
    let end = Instant::now() + SOON;
    while !is() && Instant::now() < end {
        thread::yield_now();
    }
    is()
}

/// Which namespace of this kind a process is in.
pub fn namespace(pid: u32, kind: &str) -> Result<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).with_context(|| format!("the namespace of {pid}"))?;
    Ok(link.display().to_string())
}

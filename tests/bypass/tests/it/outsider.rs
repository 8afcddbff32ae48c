//! Processes outside every run, for the runs to reach at.

use anyhow::{Context, Result};
use integration::NOBODY;
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

    /// A line of its `/proc/PID/status`.
    pub fn status(&self, name: &str) -> Result<String> {
        status(self.pid(), name)
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

/// A line of a process's status.
pub fn status(pid: u32, name: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("the status of {pid}"))?;
    let mut lines = text.lines().filter_map(|line| line.split_once(":\t"));
    let (_, value) = lines.find(|(key, _)| *key == name).with_context(|| format!("no {name} in a status"))?;
    Ok(value.to_owned())
}

/// Within this a signal has done what it does.
const SOON: Duration = Duration::from_secs(1);

/// Whether a process comes to this state soon: its threads end, or stop, one after the other.
pub fn becomes(pid: u32, state: char) -> bool {
    let is = || status(pid, "State").is_ok_and(|s| s.starts_with(state));
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

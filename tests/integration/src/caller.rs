//! A client that keeps its connection while it becomes something else: the program `caller` of `src/bin`.

use crate::{Node, program};
use anyhow::{Context, Result};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// The program `caller`, connected. Dropped, it is killed.
#[derive(Debug)]
pub struct Caller {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Caller {
    /// Starts it as this user, and connects it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn new(node: &Node, uid: u32) -> Result<Caller> {
        let mut command = Command::new(program("caller")?);
        command.arg(node.socket()).uid(uid).gid(uid).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting caller")?;
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Caller { child, commands, answers })
    }

    /// Has it do this, without waiting.
    ///
    /// # Errors
    /// It has ended.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.commands.as_ref().context("its input")?, "{command}").context("telling caller")
    }

    /// Has it do this, and returns its answer: the status' code and what it says.
    ///
    /// # Errors
    /// It has ended.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.tell(command)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills and reaps it.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Its v2 cgroup, as `/proc/PID/cgroup` has it.
    ///
    /// # Errors
    /// It has ended.
    pub fn cgroup(&self) -> Result<String> {
        crate::cgroup_of(self.pid())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A crowd of clients at a node's control socket.

use crate::{Node, program};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// Clients of the node's control socket, see `workloads/src/bin/crowd.rs`. Dropped, they are gone.
#[derive(Debug)]
pub struct Crowd {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    first: Value,
}

impl Crowd {
    /// Starts them as this user with these arguments of `crowd`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn come(node: &Node, uid: u32, args: &[&str]) -> Result<Crowd> {
        let mut command = Command::new(program("crowd")?);
        command.uid(uid).gid(uid).current_dir("/").arg("--socket").arg(node.socket()).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting the crowd")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Crowd { child, input, output, first: Value::Null })
    }

    /// The next line that the program prints.
    ///
    /// # Errors
    /// It has ended, or the line is no JSON.
    pub fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))
    }

    /// What they got: the first line, printed once all have come.
    ///
    /// # Errors
    /// As [`Crowd::line`].
    pub fn got(&mut self) -> Result<Value> {
        if self.first.is_null() {
            self.first = self.line()?;
        }
        Ok(self.first.clone())
    }

    /// Lets them go; what they print last can still be read.
    pub fn goes(&mut self) {
        self.input = None;
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

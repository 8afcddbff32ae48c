//! Runs of a bench: a program of the workloads started under a policy, its pipes held, ended when dropped.

use crate::{
    daemon::{Daemon, cgroup2},
    interrupt,
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A run and the process that became its first one.
pub struct Run {
    /// Its name.
    pub name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Run {
    /// Starts `program` (of this build, or in PATH) as a run, and waits until the daemon shows it.
    ///
    /// # Errors
    /// The policy is refused, or the run does not come up.
    pub fn start(daemon: &Daemon, policy: &Path, name: &str, program: &Path, args: &[&str]) -> Result<Run> {
        let mut command = daemon.ctl(["run", "--no-watch"]);
        command.arg("--policy").arg(policy).args(["--name", name, "--user", "root", "--quiet", "--"]);
        let mut run = Run::spawn(command.arg(program).args(args), name)?;
        interrupt::wait_for("the run", PATIENCE, || {
            if let Some(status) = run.child.try_wait().context("watching the run")? {
                bail!("run {name} ended at once: {status}");
            }
            Ok(daemon.json(["describe", name]).ok())
        })?;
        Ok(run)
    }

    /// Starts `program` with its pipes held alike, but in no run.
    ///
    /// # Errors
    /// It does not start.
    pub fn outside(program: &Path, args: &[&str]) -> Result<Run> {
        Run::spawn(Command::new(program).args(args), "outside")
    }

    fn spawn(command: &mut Command, name: &str) -> Result<Run> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
        Ok(Run { name: name.to_owned(), child, input, lines })
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// It ended.
    pub fn line(&mut self) -> Result<String> {
        self.lines.next().with_context(|| format!("run {} has ended", self.name))?.context("reading the run's output")
    }

    /// Writes one line to it.
    ///
    /// # Errors
    /// It ended.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        input.write_all(format!("{line}\n").as_bytes()).with_context(|| format!("telling run {}", self.name))
    }

    /// What the daemon shows of it.
    ///
    /// # Errors
    /// It is gone.
    pub fn described(&self, daemon: &Daemon) -> Result<Value> {
        daemon.json(["describe", &self.name])
    }

    /// Its cgroup's folder.
    ///
    /// # Errors
    /// It is gone.
    pub fn cgroup(&self, daemon: &Daemon) -> Result<PathBuf> {
        Ok(cgroup2()?.join(self.described(daemon)?["cgroup"].as_str().context("describe shows no cgroup")?))
    }

    /// Closes its input and waits for its end; what loops for ever is to be dropped instead.
    ///
    /// # Errors
    /// It failed.
    pub fn end(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.child.wait().context("waiting for the run")?;
        if !status.success() {
            bail!("run {} failed: {status}", self.name);
        }
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes `text` as a policy in `folder`.
///
/// # Errors
/// The disk.
pub fn policy(folder: &Path, text: &str) -> Result<PathBuf> {
    let file = folder.join("policy.toml");
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

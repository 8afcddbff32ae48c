//! One run of the demo: a trainer started by `failsafectl run`, and what it prints.

use super::Stage;
use crate::interrupt::{check, wait_for};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A trainer that must make no step for this long to be believed frozen: 15 of its steps.
const STILL: Duration = Duration::from_millis(300);

/// A live run. Dropped, its process is killed.
pub struct Run {
    /// Its name.
    pub name: String,
    child: Child,
    step: Arc<AtomicU64>,
    last: Arc<Mutex<String>>,
}

impl Run {
    /// Starts the trainer with `trainer` as a run under `policies/POLICY.toml`, with `options` for `failsafectl run`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(stage: &Stage, policy: &str, options: &[&str], trainer: &[&str]) -> Result<Run> {
        let name = format!("demo-{policy}");
        let file = crate::shell::root().join("policies").join(format!("{policy}.toml"));
        let mut command = stage.daemon.ctl(["run", "--no-watch"]);
        command.arg("--policy").arg(file).args(["--name", &name, "--label", "demo=yes"]).args(options);
        command.args(["--user", &stage.user, "--quiet", "--"]).arg(stage.daemon.folder().join("trainer")).args(trainer);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting `failsafectl run`")?;
        let out = child.stdout.take().context("the trainer's output")?;
        let run = Run { name, child, step: Arc::default(), last: Arc::default() };
        let (step, last) = (run.step.clone(), run.last.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some(n) = line.strip_prefix("step ").and_then(|rest| rest.split(' ').next()?.parse().ok()) {
                    step.store(n, Ordering::Relaxed);
                }
                *last.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        });
        stage.watch.started(&stage.screen, &run.name)?;
        Ok(run)
    }

    /// Its process id: `failsafectl run` became the trainer.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last step that it printed; 0 before the first.
    pub fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    /// Its last line.
    pub fn last_line(&self) -> String {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has made `step`.
    ///
    /// # Errors
    /// It ended before, or is too slow.
    pub fn reach(&mut self, step: u64) -> Result<()> {
        wait_for(&format!("step {step} of {}", self.name), Duration::from_secs(10), || {
            if self.step() >= step {
                return Ok(Some(()));
            }
            match self.child.try_wait().context("watching the trainer")? {
                Some(status) => bail!("{} ended at step {}: {status}", self.name, self.step()),
                None => Ok(None),
            }
        })
    }

    /// Watches that it makes no step for a while; returns the step at which it stands.
    ///
    /// # Errors
    /// It made one.
    pub fn stands_still(&self) -> Result<u64> {
        // What it printed before the freeze may still be on its way through the pipe.
        std::thread::sleep(Duration::from_millis(20));
        let (at, begin) = (self.step(), Instant::now());
        while begin.elapsed() < STILL {
            check()?;
            if self.step() != at {
                bail!("{} is frozen, but went from step {at} to {}", self.name, self.step());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(at)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn wait(&mut self) -> Result<()> {
        wait_for(&format!("the end of {}", self.name), Duration::from_secs(10), || {
            Ok(self.child.try_wait().context("waiting for the trainer")?.map(|_| ()))
        })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // SIGKILL ends a frozen process too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

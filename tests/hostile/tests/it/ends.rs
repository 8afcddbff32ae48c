//! A hundred runs end at once: each end detaches programs, removes a cgroup and writes a file.

use crate::victim::withstand;
use anyhow::{Context, Result};
use integration::wait_for;
use std::process::{Child, Stdio};

const RUNS: usize = 100;

#[test]
fn a_hundred_runs_that_end_at_once_delay_no_freeze() -> Result<()> {
    withstand("ends", "", |node, strike| {
        let policy = node.policy("ending", "[policy]\nname = \"ending\"\nowner = \"tests\"\n")?;
        let start = |n: usize| {
            let mut ctl =
                node.ctl_command(["run", "--no-watch", "--user", "root", "--name", &format!("ending-{n}"), "--policy"]);
            ctl.arg(&policy).args(["--", "sleep", "300"]).stdin(Stdio::null()).stdout(Stdio::null());
            ctl.stderr(Stdio::null()).spawn().context("starting a run")
        };
        let mut children: Vec<Child> = Vec::new();
        let live = || -> Result<usize> {
            let listed = node.json(["list"])?;
            let runs = listed.as_array().or_else(|| listed["runs"].as_array()).context("no list")?;
            Ok(runs.iter().filter(|run| run["name"].as_str().is_some_and(|n| n.starts_with("ending-"))).count())
        };
        // Some at a time, so that the test's own processes do not starve the daemon.
        for begin in (0..RUNS).step_by(20) {
            for n in begin..begin + 20 {
                children.push(start(n)?);
            }
            wait_for("the runs are listed", || Ok(live()? >= begin + 20))?;
        }
        for child in &mut children {
            child.kill()?;
        }
        let struck = strike();
        for child in &mut children {
            child.wait()?;
        }
        wait_for("all have ended", || Ok(live()? == 0))?;
        struck
    })
}

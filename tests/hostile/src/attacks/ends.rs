//! Many runs end at once: each end detaches programs, removes a cgroup and writes a file.

use crate::Judge;
use anyhow::{Context, Result};
use integration::wait_for;
use std::process::{Child, Stdio};

/// Runs that are started before the first of them is listed: more at once would starve the daemon on a small machine.
const AT_ONCE: usize = 20;

/// Holds the attack while `judge` strikes.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn ends(judge: &mut dyn Judge, runs: usize) -> Result<()> {
    judge.withstand("ends", "", &mut |node, strike| {
        let policy = node.policy("ending", "[policy]\nname = \"ending\"\nowner = \"tests\"\n")?;
        let start = |n: usize| {
            let mut ctl =
                node.ctl_command(["run", "--no-watch", "--user", "root", "--name", &format!("ending-{n}"), "--policy"]);
            ctl.arg(&policy).args(["--", "sleep", "300"]).stdin(Stdio::null()).stdout(Stdio::null());
            ctl.stderr(Stdio::null()).spawn().context("starting a run")
        };
        let live = || -> Result<usize> {
            let listed = node.json(["list"])?;
            let runs = listed.as_array().or_else(|| listed["runs"].as_array()).context("no list")?;
            Ok(runs.iter().filter(|run| run["name"].as_str().is_some_and(|n| n.starts_with("ending-"))).count())
        };
        loop {
            let mut children: Vec<Child> = Vec::new();
            for begin in (0..runs).step_by(AT_ONCE) {
                for n in begin..begin + AT_ONCE {
                    children.push(start(n)?);
                }
                wait_for("the runs are listed", || Ok(live()? >= begin + AT_ONCE))?;
            }
            for child in &mut children {
                child.kill()?;
            }
            let more = strike(node);
            for child in &mut children {
                child.wait()?;
            }
            wait_for("all have ended", || Ok(live()? == 0))?;
            if !more? {
                return Ok(());
            }
        }
    })
}

//! The daemon has no descriptor left: idle connections, and a limit at its lowest free number.

use crate::{Judge, judge::all};
use anyhow::{Context, Result, bail};
use integration::wait_for;
use procfs::process::{LimitValue, Process};
use std::{fs, os::unix::net::UnixStream, process::Command};

/// Holds the attack while `judge` strikes.
///
/// # Errors
/// A victim is not frozen in time, or the attack could not be made.
pub fn descriptors(judge: &mut dyn Judge) -> Result<()> {
    judge.withstand("descriptors", "", &mut |node, strike| {
        let _idle: Vec<UnixStream> = (0..64).map_while(|_| UnixStream::connect(node.socket()).ok()).collect();
        let pid = node.pid()?;
        let before = limit(pid, None)?;
        // Until no number below the limit is free: connections are still being taken, and closed, at first. From then on the kernel
        // gives the daemon none.
        wait_for("the daemon has no descriptor left", || {
            let free = lowest_free(pid)?;
            limit(pid, Some(free))?;
            Ok(lowest_free(pid)? >= free)
        })?;
        // It stays in the listener's queue.
        let _waits = UnixStream::connect(node.socket()).context("connecting once more")?;
        let struck = all(node, strike);
        limit(pid, Some(before))?;
        struck?;
        // And with descriptors again, everything is as it should be.
        node.wait_for_event("a proved freeze", |e| e["kind"] == "outcome" && e["body"]["verdict"] == "proved")?;
        Ok(())
    })
}

/// Every descriptor below is open: the next that is asked for would be this one.
fn lowest_free(pid: i32) -> Result<u64> {
    let listed = fs::read_dir(format!("/proc/{pid}/fd")).context("listing descriptors")?;
    let open: Vec<u64> = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    (0..).find(|n| !open.contains(n)).context("all are open")
}

/// Sets the limit on descriptors, where one is given, and returns the one before.
fn limit(pid: i32, to: Option<u64>) -> Result<u64> {
    let LimitValue::Value(before) = Process::new(pid)?.limits()?.max_open_files.soft_limit else {
        bail!("the daemon has no limit on descriptors");
    };
    if let Some(to) = to {
        // The hard limit stays: root may raise the soft one again.
        let done = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={to}:")]).output()?;
        if !done.status.success() {
            bail!("prlimit: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
    Ok(before)
}

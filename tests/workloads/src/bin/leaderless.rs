//! A process whose first thread has ended while a worker goes on: `cgroup.kill` passes over it, a signal to the process does
//! not.

use anyhow::{Context, Result};
use std::time::Duration;
use workloads::say;

fn main() -> Result<()> {
    let worker = std::thread::Builder::new().spawn(|| {
        say("a worker goes on");
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    });
    drop(worker.context("starting a worker")?);
    // SAFETY: exit(2) ends the calling thread only, and takes no pointer. Nothing of this thread is used by the other.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    anyhow::bail!("the first thread has not ended")
}

//! Memory, CPU and pressure of a run, read from the running kernel.

#[expect(dead_code, reason = "the other test program uses all of it")]
mod support;

use anyhow::{Context, Result, ensure};
use failsafed::platform::ProcFs;
use failsafed::sensors::cgroup::{RunReader, UsageSource};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use support::{TestCgroup, until};

#[test]
fn usage_grows_with_the_work_and_outlives_the_processes() -> Result<()> {
    let mut run = TestCgroup::new("usage")?;
    let leaf = run.cgroup.create_child("leaf")?;
    let path = run.cgroup.path().to_owned();
    run.spinners(&path, 1)?;
    // Eight megabytes that belong to it, and a spin.
    run.sh(leaf.path(), "x=$(head -c 8000000 /dev/zero | tr '\\0' x); while :; do :; done")?;
    let mut reader = RunReader::new();
    until("both processes have settled", || {
        let usage = reader.read(&run.cgroup)?;
        Ok(usage.processes == 2 && usage.memory_bytes.is_some_and(|b| b > 8_000_000))
    })?;
    let first = reader.read(&run.cgroup)?;
    ensure!(first.memory_bytes.is_some_and(|b| b < 100_000_000), "{first:?}");
    // Every v2 cgroup has cpu.stat.
    ensure!(first.cpu_source == UsageSource::CgroupFiles);
    let memory =
        if run.cgroup.path().join("memory.current").exists() { UsageSource::CgroupFiles } else { UsageSource::Proc };
    ensure!(first.memory_source == memory);
    ensure!(first.psi.cpu.is_some() == run.cgroup.path().join("cpu.pressure").exists());
    let start = first.cpu_usec.context("no cpu time")?;
    until("the run has used 100 ms more", || {
        Ok(reader.read(&run.cgroup)?.cpu_usec.context("no cpu time")? > start + 100_000)
    })?;
    let busy = reader.read(&run.cgroup)?.cpu_usec;

    run.cgroup.write_file("cgroup.kill", b"1")?;
    run.reap();
    until("the run is empty", || Ok(!run.cgroup.events()?.populated))?;
    let last = reader.read(&run.cgroup)?;
    ensure!(last.processes == 0 && last.cpu_usec >= busy, "{last:?}");
    Ok(())
}

#[test]
fn an_idle_run_is_read_in_full_every_few_seconds_and_an_active_one_each_time() -> Result<()> {
    let mut run = TestCgroup::new("usage-idle")?;
    let mut other = TestCgroup::new("usage-moved")?;
    let (path, other_path) = (run.cgroup.path().to_owned(), other.cgroup.path().to_owned());
    // No process of the run: no CPU time is used in it.
    let (mut reader, now) = (RunReader::new(), Instant::now());
    ensure!(reader.sample(&run.cgroup, now)?.processes == 0);
    other.spinners(&other_path, 1)?;
    let pid = other.pid(0)?;
    let signal = |signal| kill(Pid::from_raw(i32::try_from(pid)?), signal).context("signalling the other process");
    signal(Signal::SIGSTOP)?;
    until("the other process has stopped", || Ok(ProcFs::default().stat(pid)?.is_some_and(|stat| stat.state == 'T')))?;
    // A stopped process comes in: the run still uses no CPU time.
    run.cgroup.write_file("cgroup.procs", pid.to_string().as_bytes())?;
    ensure!(reader.sample(&run.cgroup, now + Duration::from_secs(1))?.processes == 0, "an idle run was read in full");
    ensure!(reader.sample(&run.cgroup, now + Duration::from_secs(4))?.processes == 1, "the change is never seen");
    signal(Signal::SIGCONT)?;
    run.spinners(&path, 1)?;
    until("the other process is seen at once", || {
        Ok(reader.sample(&run.cgroup, now + Duration::from_secs(4))?.processes == 2)
    })
}

#[test]
fn a_run_is_suspended_while_it_is_frozen_or_each_of_its_processes_is_stopped() -> Result<()> {
    let mut run = TestCgroup::new("usage-suspended")?;
    let path = run.cgroup.path().to_owned();
    run.spinners(&path, 2)?;
    let pids = [run.pid(0)?, run.pid(1)?];
    let signal = |pid: u32, signal| kill(Pid::from_raw(i32::try_from(pid)?), signal).context("signalling a process");
    let stopped = |pid| Ok(ProcFs::default().stat(pid)?.is_some_and(|stat| stat.is_stopped()));
    let (mut reader, mut now) = (RunReader::new(), Instant::now());
    let mut suspended = || {
        now += Duration::from_secs(1);
        Ok(reader.sample(&run.cgroup, now)?.suspended)
    };
    ensure!(!suspended()? && !suspended()?, "it works");
    signal(pids[0], Signal::SIGSTOP)?;
    until("the first has stopped", || stopped(pids[0]))?;
    ensure!(!suspended()? && !suspended()?, "the other one works");
    signal(pids[1], Signal::SIGSTOP)?;
    until("the second has stopped", || stopped(pids[1]))?;
    until("it is seen", &mut suspended)?;
    for pid in pids {
        signal(pid, Signal::SIGCONT)?;
    }
    until("it goes on", || Ok(!suspended()?))?;
    run.cgroup.write_file("cgroup.freeze", b"1")?;
    until("the kernel has frozen it", || Ok(run.cgroup.events()?.frozen))?;
    until("it is seen", &mut suspended)?;
    run.cgroup.write_file("cgroup.freeze", b"0")?;
    until("it goes on again", || Ok(!suspended()?))
}

#[test]
fn a_vanished_run_is_an_error_of_its_own() -> Result<()> {
    let run = TestCgroup::new("usage-gone")?;
    run.cgroup.remove_tree()?;
    ensure!(RunReader::new().read(&run.cgroup).is_err_and(|e| e.is_vanished()));
    ensure!(RunReader::new().sample(&run.cgroup, Instant::now()).is_err_and(|e| e.is_vanished()));
    Ok(())
}

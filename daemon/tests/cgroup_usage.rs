//! Memory, CPU and pressure of a run, read from the running kernel.

#[expect(dead_code, reason = "the other test program uses all of it")]
mod support;

use anyhow::{Context, Result, ensure};
use failsafed::sensors::cgroup::{RunReader, UsageSource};
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
fn a_vanished_run_is_an_error_that_says_so() -> Result<()> {
    let run = TestCgroup::new("usage-gone")?;
    run.cgroup.remove_tree()?;
    ensure!(RunReader::new().read(&run.cgroup).is_err_and(|e| e.is_vanished()));
    Ok(())
}

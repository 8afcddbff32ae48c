//! Freezing without free descriptors, and with thousands of levels. Each test lowers its own process's limits: nextest runs
//! each in a process of its own.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};
use failsafed::actuators::cgroup::freeze::{start, sweep, verify};
use failsafed::actuators::cgroup::{FreezeOutcome, Hold, ThawOutcome, freeze, is_still_frozen, thaw};
use failsafed::sensors::cgroup::RunReader;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::support::{TestCgroup, ensure_still, within};

/// More than the descriptors that are left; an emulated processor takes minutes for many more.
const LEVELS: u64 = 600;

/// Until it is dropped, no more than `spare` descriptors can be opened besides those that are.
struct Few(u64, u64);

impl Few {
    fn spare(spare: usize) -> Result<Few> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // The kernel gives the lowest free number: whoever opens so many sees where they end.
        let next: Vec<File> = (0..=spare).map(|_| File::open("/dev/null")).collect::<Result<_, _>>()?;
        let limit = u64::try_from(next.last().context("none was opened")?.as_raw_fd())?;
        drop(next);
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
        Ok(Few(soft, hard))
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, self.0, self.1);
    }
}

#[test]
fn a_run_that_is_held_open_is_frozen_without_a_free_descriptor() -> Result<()> {
    let mut run = TestCgroup::new("no-descriptor")?;
    let below = run.cgroup.create_child("below")?;
    let counters = run.spinners(below.path(), 1)?;
    run.cgroup.hold_open()?;
    let few = Few::spare(0)?;
    ensure!(File::open("/dev/null").is_err(), "descriptors are left");
    let outcome = verify(&run.cgroup, start(&run.cgroup)?, within(5_000));
    drop(few);
    let FreezeOutcome::Frozen { unswept: Some(why), levels: 1, .. } = outcome else { bail!("{outcome:?}") };
    ensure!(why.contains("EMFILE"), "{why}");
    ensure_still(&counters)?;
    // With descriptors again the levels below follow.
    ensure!(sweep(&run.cgroup, None, &|| true).unfinished.is_none());
    ensure!(below.freeze_requested()? && is_still_frozen(&run.cgroup)? == Hold::Frozen);
    Ok(())
}

#[test]
fn without_being_held_open_the_same_freeze_fails_with_the_reason() -> Result<()> {
    let run = TestCgroup::new("not-held")?;
    let few = Few::spare(0)?;
    let outcome = freeze(&run.cgroup, within(1_000));
    drop(few);
    ensure!(matches!(&outcome, FreezeOutcome::Failed { cause, .. } if cause.contains("EMFILE")), "{outcome:?}");
    Ok(())
}

#[test]
fn many_levels_take_few_descriptors_and_the_root_is_the_proof() -> Result<()> {
    let mut run = TestCgroup::new("many-levels")?;
    for n in 0..LEVELS {
        std::fs::create_dir(run.cgroup.path().join(format!("level-{n}")))?;
    }
    let path = run.cgroup.path().to_owned();
    let counters = run.spinners(&path.join("level-7"), 2)?;
    run.cgroup.hold_open()?;
    let few = Few::spare(8)?;
    let outcome = freeze(&run.cgroup, within(10_000));
    ensure!(matches!(outcome, FreezeOutcome::Frozen { .. }), "{outcome:?}");
    let swept = sweep(&run.cgroup, None, &|| true);
    ensure!(swept.unfinished.is_none() && swept.levels == LEVELS + 1, "{:?} of {}", swept.unfinished, swept.levels);
    ensure!(is_still_frozen(&run.cgroup)? == Hold::Frozen);
    let usage = RunReader::new().read(&run.cgroup)?;
    ensure!(usage.processes <= 2);
    drop(few);
    ensure_still(&counters)?;
    ensure!(matches!(thaw(&run.cgroup, &[], within(20_000)), ThawOutcome::Thawed { .. }));
    Ok(())
}

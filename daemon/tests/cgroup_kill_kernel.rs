//! Kill and recapture on the running kernel, with real processes.

#[expect(dead_code, reason = "another test program uses all of it")]
mod support;

#[path = "../../tests/skip.rs"]
mod skip;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use failsafed::actuators::cgroup::guard::escaped;
use failsafed::actuators::cgroup::kill::kill_with;
use failsafed::actuators::cgroup::{
    FreezeOutcome, Hold, KillMethod, KillOutcome, Recapture, freeze, is_still_frozen, kill, recapture,
};
use failsafed::platform::{Cgroup, CgroupRoot, ProcFs};
use nix::errno::Errno;
use support::{TestCgroup, ensure_all_run, ensure_still, until, within};

fn freeze_all(cgroup: &Cgroup) -> Result<()> {
    match freeze(cgroup, within(5000)) {
        FreezeOutcome::Frozen { .. } => Ok(()),
        other => bail!("not frozen: {other:?}"),
    }
}

fn kills_forkers(name: &str, method: KillMethod) -> Result<()> {
    let mut run = TestCgroup::new(name)?;
    let path = run.cgroup.path().to_owned();
    // Forty lines of descent, each process starting its child and ending: numbers change all the time.
    let script = run.dir.path().join("hop.sh");
    std::fs::write(&script, "sh \"$0\" &\n")?;
    let mut entered = Vec::new();
    for _ in 0..40 {
        entered.push(run.sh(&path, &format!(": > \"$2\"; exec sh {}", script.display()))?);
    }
    // And a few that fork without ending.
    for _ in 0..4 {
        entered.push(run.sh(&path, ": > \"$2\"; while :; do (:) & (sleep 1) & wait $!; done")?);
    }
    // A shell that enters the cgroup after the kill would be found there.
    until("every shell is in the cgroup", || Ok(entered.iter().all(|file| file.exists())))?;
    until("the lines of descent run", || Ok(run.cgroup.all_procs()?.len() > 20))?;
    let outcome = kill_with(&run.cgroup, method, within(10_000));
    ensure!(matches!(outcome, KillOutcome::Killed { method: m, .. } if m == method), "{outcome:?}");
    ensure!(!run.cgroup.events()?.populated);
    ensure!(run.cgroup.all_procs()?.is_empty());
    Ok(())
}

#[test]
fn a_fork_bomb_dies_by_cgroup_kill() -> Result<()> {
    kills_forkers("bomb-kill", KillMethod::CgroupKill)
}

#[test]
fn a_fork_bomb_dies_by_the_loop() -> Result<()> {
    kills_forkers("bomb-loop", KillMethod::PidLoop)
}

#[test]
fn a_frozen_run_can_be_killed() -> Result<()> {
    for (name, method) in [("frozen-kill", KillMethod::CgroupKill), ("frozen-loop", KillMethod::PidLoop)] {
        let mut run = TestCgroup::new(name)?;
        let path = run.cgroup.path().to_owned();
        run.spinners(&path, 4)?;
        freeze_all(&run.cgroup)?;
        let outcome = kill_with(&run.cgroup, method, within(5000));
        ensure!(matches!(outcome, KillOutcome::Killed { .. }), "{outcome:?}");
    }
    Ok(())
}

#[test]
fn a_threaded_cgroup_refuses_cgroup_kill_and_dies_by_the_loop() -> Result<()> {
    let mut run = TestCgroup::new("threaded")?;
    let threaded = run.cgroup.create_child("threaded")?;
    threaded.write_file("cgroup.type", b"threaded")?;
    let path = run.cgroup.path().to_owned();
    run.spinners(&path, 2)?;
    // A thread-wise move needs the process in the domain first: this is a single-threaded one.
    let pid = run.pid(0)?;
    threaded.write_file("cgroup.threads", pid.to_string().as_bytes())?;
    ensure!(threaded.procs()? == [pid]);
    let outcome = kill(&threaded, within(5000));
    ensure!(matches!(outcome, KillOutcome::Killed { method: KillMethod::PidLoop, .. }), "{outcome:?}");
    ensure!(run.cgroup.events()?.populated, "the other process is not of that cgroup");
    Ok(())
}

#[test]
fn an_escaped_process_is_found_and_brought_back() -> Result<()> {
    let mut run = TestCgroup::new("escape")?;
    let elsewhere = TestCgroup::new("elsewhere")?;
    let path = run.cgroup.path().to_owned();
    let counters = run.spinners(&path, 2)?;
    let proc = ProcFs::default();
    let (stays, leaves) = (run.pid(0)?, run.pid(1)?);
    let known = [proc.identity(stays)?.context("gone")?, proc.identity(leaves)?.context("gone")?];
    freeze_all(&run.cgroup)?;
    elsewhere.cgroup.attach(leaves)?;
    ensure_all_run(&counters[1..])?;

    let out = escaped(&run.cgroup, &known)?;
    ensure!(out.len() == 1 && out[0].who == known[1], "{out:?}");
    ensure!(out[0].to == elsewhere.cgroup.cgroup_path());

    // Another process with that number but another start is not touched.
    let mut stranger = known[1];
    stranger.start_time += 1;
    ensure!(recapture(&run.cgroup, stranger)? == Recapture::Gone);
    ensure!(recapture(&run.cgroup, known[0])? == Recapture::Inside);
    let back = recapture(&run.cgroup, known[1])?;
    let expected = Recapture::Returned { from: elsewhere.cgroup.cgroup_path(), to: run.cgroup.cgroup_path() };
    ensure!(back == expected, "{back:?}");
    freeze_all(&run.cgroup)?;
    ensure_still(&counters)?;
    ensure!(escaped(&run.cgroup, &known)?.is_empty());

    ensure!(matches!(kill(&run.cgroup, within(5000)), KillOutcome::Killed { .. }));
    run.reap();
    ensure!(recapture(&run.cgroup, known[1])? == Recapture::Gone);
    Ok(())
}

/// These may be given on by a cgroup that has processes of its own; the others take them from it.
const THREADED: [&str; 4] = ["cpu", "cpuset", "pids", "perf_event"];

/// Gives a controller on from the root of the hierarchy for the time of a test, unless it already is.
struct Given(Option<(PathBuf, String)>);

impl Given {
    fn first(root: &CgroupRoot) -> Result<Option<(Self, String)>> {
        let file = root.mount().join("cgroup.subtree_control");
        let wanted = |controller: &&str| !THREADED.contains(controller);
        if let Some(already) = std::fs::read_to_string(&file)?.split_whitespace().find(wanted) {
            return Ok(Some((Self(None), already.to_owned())));
        }
        let all = std::fs::read_to_string(root.mount().join("cgroup.controllers"))?;
        let Some(controller) = all.split_whitespace().find(wanted) else { return Ok(None) };
        std::fs::write(&file, format!("+{controller}"))?;
        Ok(Some((Self(Some((file, controller.to_owned()))), controller.to_owned())))
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some((file, controller)) = &self.0 {
            let _ = std::fs::write(file, format!("-{controller}"));
        }
    }
}

#[test]
fn a_run_that_gives_controllers_on_gets_its_process_back_in_a_leaf() -> Result<()> {
    let Some((_given, controller)) = Given::first(&CgroupRoot::find()?)? else {
        skip::skip("this kernel has no controller on cgroup v2 that takes the processes of who gives it on");
        return Ok(());
    };
    // Made after the controller was given, dropped before it is taken back.
    let mut run = TestCgroup::new("escape-leaf")?;
    let elsewhere = TestCgroup::new("escape-leaf-out")?;
    run.cgroup.write_file("cgroup.subtree_control", format!("+{controller}").as_bytes())?;
    let counters = run.spinners(elsewhere.cgroup.path(), 1)?;
    let who = ProcFs::default().identity(run.pid(0)?)?.context("gone")?;
    ensure!(run.cgroup.attach(who.pid).is_err_and(|e| e.errno() == Some(Errno::EBUSY)));
    run.cgroup.write_file("cgroup.freeze", b"1")?;
    let back = recapture(&run.cgroup, who)?;
    ensure!(matches!(&back, Recapture::Returned { to, .. } if run.cgroup.contains(to)), "{back:?}");
    freeze_all(&run.cgroup)?;
    ensure!(is_still_frozen(&run.cgroup)? == Hold::Frozen);
    ensure_still(&counters)?;
    // And once more, now that the leaf is there.
    elsewhere.cgroup.attach(who.pid)?;
    ensure!(matches!(recapture(&run.cgroup, who)?, Recapture::Returned { .. }));
    Ok(())
}

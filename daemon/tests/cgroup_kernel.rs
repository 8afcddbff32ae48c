//! Freeze, thaw and what is seen of a run, on the running kernel, with real processes.

#[path = "cgroup_kernel/limits.rs"]
mod limits;
mod support;

#[path = "../../tests/skip.rs"]
mod skip;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use failsafed::actuators::cgroup::freeze::{start, verify};
use failsafed::actuators::cgroup::{
    FreezeOutcome, Hold, KillOutcome, ThawOutcome, dry_run, freeze, is_still_frozen, kill, snapshot, thaw,
};
use failsafed::platform::cgroup::CgroupError;
use failsafed::platform::pidfd::PidFd;
use failsafed::platform::{CgroupRoot, ProcFs};
use nix::errno::Errno;
use support::{TestCgroup, ensure_all_run, ensure_still, until, within};

/// Sleeps in state D: reads its own memory, on a page whose fault nobody will serve (userfaultfd(2)), by
/// process_vm_readv(2), whose wait only a fatal signal ends.
const UNINTERRUPTIBLE: &str = r#"
import ctypes, fcntl, mmap, os, platform, struct
libc = ctypes.CDLL(None, use_errno=True)
number = {"x86_64": 323, "aarch64": 282}[platform.machine()]
fd = libc.syscall(number, os.O_CLOEXEC)
fcntl.ioctl(fd, 0xC018AA3F, struct.pack("QQQ", 0xAA, 0, 0))
page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
fcntl.ioctl(fd, 0xC020AA00, struct.pack("QQQQ", address, 4096, 1, 0))
to = ctypes.create_string_buffer(8)
local = (ctypes.c_size_t * 2)(ctypes.addressof(to), 8)
remote = (ctypes.c_size_t * 2)(address, 8)
libc.process_vm_readv(os.getpid(), local, 1, remote, 1, 0)
"#;

fn frozen(outcome: &FreezeOutcome) -> Result<(u64, u64, Vec<u64>)> {
    match outcome {
        FreezeOutcome::Frozen { processes, levels, already_frozen, at_ns, took, unswept } => {
            ensure!(unswept.is_none(), "{unswept:?}");
            ensure!(*at_ns > 0 && *took < Duration::from_secs(5));
            Ok((*processes, *levels, already_frozen.clone()))
        }
        other => bail!("not frozen: {other:?}"),
    }
}

fn thawed(outcome: &ThawOutcome) -> Result<()> {
    ensure!(matches!(outcome, ThawOutcome::Thawed { .. }), "not thawed: {outcome:?}");
    Ok(())
}

fn freeze_and_thaw(name: &str, count: usize) -> Result<()> {
    let mut run = TestCgroup::new(name)?;
    let path = run.cgroup.path().to_owned();
    let counters = run.spinners(&path, count)?;
    let (processes, levels, before) = frozen(&freeze(&run.cgroup, within(5000)))?;
    ensure!(processes == count as u64 && levels == 1 && before.is_empty());
    ensure_still(&counters)?;
    ensure!(is_still_frozen(&run.cgroup)? == Hold::Frozen);
    thawed(&thaw(&run.cgroup, &[], within(5000)))?;
    ensure_all_run(&counters)
}

#[test]
fn one_process_stops_and_goes_on() -> Result<()> {
    freeze_and_thaw("one", 1)
}

#[test]
fn sixty_four_processes_stop_and_go_on() -> Result<()> {
    freeze_and_thaw("many", 64)
}

#[test]
fn every_level_is_frozen_and_a_foreign_thaw_of_a_leaf_frees_nobody() -> Result<()> {
    let mut run = TestCgroup::new("levels")?;
    let path = run.cgroup.path().to_owned();
    let middle = run.cgroup.create_child("middle")?;
    let leaf = middle.create_child("leaf")?;
    run.cgroup.create_child("side")?;
    let mut counters = run.spinners(leaf.path(), 2)?;
    counters.extend(run.spinners(&path, 1)?);
    let (processes, levels, _) = frozen(&freeze(&run.cgroup, within(5000)))?;
    ensure!((processes, levels) == (3, 4), "{processes} processes, {levels} levels");
    for level in run.cgroup.descendants()? {
        ensure!(level.freeze_requested()?, "{} is not told to freeze", level.path().display());
    }

    leaf.write_file("cgroup.freeze", b"0")?;
    ensure_still(&counters)?;
    let seen = is_still_frozen(&run.cgroup)?;
    ensure!(seen == Hold::Loose { levels: vec![leaf.path().to_owned()], running: false }, "{seen:?}");
    frozen(&freeze(&run.cgroup, within(5000)))?;
    ensure!(is_still_frozen(&run.cgroup)? == Hold::Frozen);

    // A thaw at the root alone leaves those of the leaves stopped, and is seen as well.
    run.cgroup.write_file("cgroup.freeze", b"0")?;
    until("the root's own process runs", || Ok(!run.cgroup.events()?.frozen))?;
    let seen = is_still_frozen(&run.cgroup)?;
    ensure!(seen == Hold::Loose { levels: vec![run.cgroup.path().to_owned()], running: true }, "{seen:?}");
    ensure_still(&counters[..2])?;
    frozen(&freeze(&run.cgroup, within(5000)))?;
    ensure_still(&counters)?;
    thawed(&thaw(&run.cgroup, &[], within(5000)))?;
    ensure_all_run(&counters)
}

#[test]
fn a_level_made_between_start_and_verify_is_frozen_too() -> Result<()> {
    let mut run = TestCgroup::new("late-level")?;
    let path = run.cgroup.path().to_owned();
    let counters = run.spinners(&path, 2)?;
    let started = start(&run.cgroup)?;
    let late = run.cgroup.create_child("late")?;
    ensure!(!late.freeze_requested()?);
    let (_, levels, already) = frozen(&verify(&run.cgroup, started, within(5000)))?;
    ensure!(levels == 2 && already.is_empty());
    ensure!(late.freeze_requested()?);
    // And one made later is seen by the guard, for a foreign process in it could be let loose with one write.
    let later = run.cgroup.create_child("later")?;
    let seen = is_still_frozen(&run.cgroup)?;
    ensure!(seen == Hold::Loose { levels: vec![later.path().to_owned()], running: false }, "{seen:?}");
    ensure_still(&counters)
}

#[test]
fn the_thaw_of_an_ancestor_does_not_free_the_run_and_its_freeze_holds_a_thaw_up() -> Result<()> {
    let mut outer = TestCgroup::new("ancestor")?;
    let inner = outer.cgroup.create_child("run")?;
    let counters = outer.spinners(inner.path(), 2)?;
    outer.cgroup.write_file("cgroup.freeze", b"1")?;
    frozen(&freeze(&inner, within(5000)))?;
    outer.cgroup.write_file("cgroup.freeze", b"0")?;
    ensure_still(&counters)?;
    ensure!(is_still_frozen(&inner)? == Hold::Frozen);

    outer.cgroup.write_file("cgroup.freeze", b"1")?;
    let held = thaw(&inner, &[], within(2000));
    ensure!(held == ThawOutcome::HeldByAncestor { path: outer.cgroup.path().to_owned() }, "{held:?}");
    outer.cgroup.write_file("cgroup.freeze", b"0")?;
    ensure_all_run(&counters)
}

#[test]
fn a_level_that_was_frozen_before_the_run_can_be_kept_so() -> Result<()> {
    let mut run = TestCgroup::new("keep")?;
    let path = run.cgroup.path().to_owned();
    let paused = run.cgroup.create_child("paused")?;
    let held = run.spinners(paused.path(), 1)?;
    let free = run.spinners(&path, 1)?;
    paused.write_file("cgroup.freeze", b"1")?;
    let (_, _, already) = frozen(&freeze(&run.cgroup, within(5000)))?;
    ensure!(already == [paused.id()], "{already:?}");
    thawed(&thaw(&run.cgroup, &already, within(5000)))?;
    ensure_all_run(&free)?;
    ensure_still(&held)?;
    thawed(&thaw(&run.cgroup, &[], within(5000)))?;
    ensure_all_run(&held)
}

#[test]
fn an_empty_cgroup_is_never_called_frozen() -> Result<()> {
    let run = TestCgroup::new("empty")?;
    ensure!(freeze(&run.cgroup, within(1000)) == FreezeOutcome::Empty);
    // The trap this guards against:
    ensure!(run.cgroup.events()?.frozen);
    ensure!(is_still_frozen(&run.cgroup)? == Hold::Empty);
    ensure!(kill(&run.cgroup, within(1000)) == KillOutcome::AlreadyEmpty);
    thawed(&thaw(&run.cgroup, &[], within(1000)))
}

#[test]
fn a_cgroup_that_vanishes_mid_freeze_is_reported_as_vanished() -> Result<()> {
    let mut run = TestCgroup::new("vanish")?;
    let path = run.cgroup.path().to_owned();
    run.spinners(&path, 1)?;
    let started = start(&run.cgroup)?;
    run.cgroup.write_file("cgroup.kill", b"1")?;
    run.reap();
    until("the cgroup can be removed", || Ok(run.cgroup.remove_tree().is_ok()))?;
    ensure!(verify(&run.cgroup, started, within(1000)) == FreezeOutcome::Vanished);
    ensure!(freeze(&run.cgroup, within(1000)) == FreezeOutcome::Vanished);
    ensure!(thaw(&run.cgroup, &[], within(1000)) == ThawOutcome::Vanished);
    ensure!(kill(&run.cgroup, within(1000)) == KillOutcome::Vanished);
    ensure!(is_still_frozen(&run.cgroup)? == Hold::Vanished);

    // A new cgroup at the same path is not the run, and is not touched.
    std::fs::create_dir(&path)?;
    let outcome = freeze(&run.cgroup, within(1000));
    let touched = std::fs::read_to_string(path.join("cgroup.freeze"))?;
    let same = run.cgroup.is_same(run.cgroup.id());
    run.cgroup.remove_tree()?;
    let kept = path.exists();
    std::fs::remove_dir(&path)?;
    ensure!(outcome == FreezeOutcome::Vanished && touched == "0\n" && !same && kept);
    Ok(())
}

/// A cgroup of the v1 freezer that is this test's own; dropped, it is thawed and removed.
struct V1Freezer(std::path::PathBuf);

impl V1Freezer {
    /// `None`: this host has no such hierarchy.
    fn make() -> Result<Option<V1Freezer>> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let of_freezer = |line: &&str| {
            let mut words = line.split(' ').skip(2);
            words.next() == Some("cgroup") && words.next().is_some_and(|o| o.split(',').any(|o| o == "freezer"))
        };
        let Some(mount) = mounts.lines().find(of_freezer).and_then(|line| line.split(' ').nth(1)) else {
            return Ok(None);
        };
        let path = Path::new(mount).join(format!("failsafe-test-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Some(V1Freezer(path)))
    }

    fn set(&self, state: &str) -> Result<()> {
        std::fs::write(self.0.join("freezer.state"), state)?;
        until(state, || Ok(std::fs::read_to_string(self.0.join("freezer.state"))?.trim() == state))
    }
}

impl Drop for V1Freezer {
    fn drop(&mut self) {
        // Its process goes home first, so that the folder can be removed.
        let home = self.0.parent().unwrap_or(&self.0).join("cgroup.procs");
        let _thawed = self.set("THAWED");
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _moved = std::fs::write(&home, pid);
        }
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("left behind: {}: {error}", self.0.display());
        }
    }
}

#[test]
fn a_task_that_a_v1_freezer_holds_is_named_with_that_freezer() -> Result<()> {
    let mut run = TestCgroup::new("v1-freezer")?;
    let Some(freezer) = V1Freezer::make()? else {
        skip::skip("this host has no cgroup v1 freezer");
        return Ok(());
    };
    let path = run.cgroup.path().to_owned();
    run.spinners(&path, 2)?;
    let pid = run.pid(0)?;
    std::fs::write(freezer.0.join("cgroup.procs"), pid.to_string())?;
    freezer.set("FROZEN")?;
    let name = format!("/failsafe-test-{}", std::process::id());
    until("nobody else holds the freeze up", || {
        let outcome = freeze(&run.cgroup, within(100));
        let FreezeOutcome::Partial { culprits, .. } = &outcome else { bail!("{outcome:?}") };
        let first = culprits.first().context("nobody is named")?;
        Ok(culprits.len() == 1 && first.pid == pid && first.freezer.as_ref() == Some(&name))
    })?;
    freezer.set("THAWED")?;
    until("it is frozen by this freeze", || Ok(frozen(&freeze(&run.cgroup, within(1000))).is_ok()))
}

#[test]
fn a_task_in_state_d_makes_the_freeze_partial_and_is_named() -> Result<()> {
    if std::process::Command::new("python3").arg("-V").output().is_err() {
        skip::skip("python3 is not here to make a task in state D");
        return Ok(());
    }
    let mut run = TestCgroup::new("dstate")?;
    let path = run.cgroup.path().to_owned();
    let counters = run.spinners(&path, 3)?;
    run.python(UNINTERRUPTIBLE)?;
    let pid = run.pid(3)?;
    let proc = ProcFs::default();
    // Loading a program sleeps in state D for moments too: only this sleep lasts.
    until("the task sleeps in the fault nobody serves", || {
        proc.stat(pid)?.context("it ended early")?;
        Ok(proc.wchan(pid, pid).is_some_and(|w| w.contains("userfault")))
    })?;

    // On a starved machine the others need their turn on a processor to reach the trap: until then they are named too.
    until("nobody else holds the freeze up", || {
        let outcome = freeze(&run.cgroup, within(100));
        let FreezeOutcome::Partial { culprits, took } = &outcome else { bail!("{outcome:?}") };
        ensure!(*took >= Duration::from_millis(99));
        let first = culprits.first().context("nobody is named")?;
        ensure!((first.pid, first.tid, first.state) == (pid, pid, 'D'), "{culprits:?}");
        ensure!(first.comm == "python3", "{culprits:?}");
        Ok(culprits.len() == 1)
    })?;
    // Everybody else is contained, and the guard does not call it loose.
    ensure_still(&counters)?;
    ensure!(is_still_frozen(&run.cgroup)? == Hold::Settling);
    // Its arguments are not asked for: it might hold the lock that needs.
    let evidence = snapshot(&run.cgroup, Duration::from_secs(5))?;
    let process = evidence.processes.iter().find(|p| p.pid == pid).context("not in the snapshot")?;
    ensure!(evidence.complete && process.state == 'D' && process.argv.is_none());

    let killed = kill(&run.cgroup, within(5000));
    ensure!(matches!(killed, KillOutcome::Killed { .. }), "{killed:?}");
    Ok(())
}

#[test]
fn a_dry_run_lists_exactly_whom_it_would_touch() -> Result<()> {
    let mut run = TestCgroup::new("dry")?;
    let leaf = run.cgroup.create_child("leaf")?;
    let path = run.cgroup.path().to_owned();
    let counters = [run.spinners(&path, 1)?, run.spinners(leaf.path(), 1)?].concat();
    let plan = dry_run(&run.cgroup)?;
    ensure!(plan.levels == [run.cgroup.cgroup_path(), leaf.cgroup_path()]);
    let listed: Vec<_> = plan.processes.iter().map(|p| (p.id.pid, p.level.clone())).collect();
    ensure!(listed == [(run.pid(0)?, run.cgroup.cgroup_path()), (run.pid(1)?, leaf.cgroup_path())]);
    ensure!(plan.processes.iter().all(|p| p.comm == "sh" && p.id.start_time > 0));
    ensure_all_run(&counters)
}

#[test]
fn a_snapshot_shows_the_tree_and_is_marked_when_it_is_cut() -> Result<()> {
    let mut run = TestCgroup::new("snapshot")?;
    let leaf = run.cgroup.create_child("leaf")?;
    let path = run.cgroup.path().to_owned();
    run.spinners(&path, 1)?;
    run.spinners(leaf.path(), 2)?;
    let whole = snapshot(&run.cgroup, Duration::from_secs(10))?;
    ensure!(whole.complete && whole.levels == 2 && whole.processes.len() == 3, "{whole:?}");
    for process in &whole.processes {
        ensure!(process.ppid == std::process::id() && process.comm == "sh");
        let argv = process.argv.as_ref().context("no arguments")?;
        ensure!(argv.first().is_some_and(|a| a == "sh") && argv.get(1).is_some_and(|a| a == "-c"), "{argv:?}");
    }
    ensure!(whole.processes.iter().filter(|p| p.level == "leaf").count() == 2);
    let again: failsafed::actuators::cgroup::RunSnapshot = serde_json::from_str(&serde_json::to_string(&whole)?)?;
    ensure!(again == whole);
    let cut = snapshot(&run.cgroup, Duration::ZERO)?;
    ensure!(!cut.complete && cut.processes.is_empty() && (1..=2).contains(&cut.levels), "{cut:?}");
    Ok(())
}

#[test]
fn paths_that_could_lead_astray_are_refused() -> Result<()> {
    let run = TestCgroup::new("paths")?;
    let root = CgroupRoot::find()?;
    let name = run.cgroup.path().file_name().context("no name")?;
    let again = root.open_path(Path::new(name))?;
    ensure!(again.id() == run.cgroup.id() && again.level() == 1);
    ensure!(root.open_path(run.cgroup.path())?.id() == again.id());
    ensure!(again.create_child("leaf")?.level() == 2);
    ensure!(again.is_same(run.cgroup.id()) && !again.is_same(run.cgroup.id() + 1));

    let refused = |path: &Path| root.open_path(path).err();
    ensure!(matches!(refused(&run.cgroup.path().join("../x")), Some(CgroupError::ParentDir { .. })));
    ensure!(matches!(refused(Path::new("a/../../etc")), Some(CgroupError::ParentDir { .. })));
    ensure!(matches!(refused(root.mount()), Some(CgroupError::IsRoot { .. })));
    ensure!(matches!(refused(Path::new("./.")), Some(CgroupError::IsRoot { .. })));
    ensure!(matches!(refused(Path::new("/etc")), Some(CgroupError::Outside { .. })));
    ensure!(matches!(refused(Path::new("/sys/fs/cgroup-not/x")), Some(CgroupError::Outside { .. })));
    ensure!(refused(Path::new("failsafe-no-such")).is_some_and(|e| e.is_vanished()));
    // A file this kernel does not have is no sign that the cgroup went.
    let missing = run.cgroup.read_file("cgroup.no-such-file").err().context("read")?;
    ensure!(matches!(missing, CgroupError::NoSuchFile { .. }) && !missing.is_vanished());
    // A file is no cgroup.
    ensure!(refused(&run.cgroup.path().join("cgroup.procs")).is_some());
    ensure!(matches!(CgroupRoot::open(Path::new("/tmp")), Err(CgroupError::Outside { .. })));
    // Part of the hierarchy is not the hierarchy.
    ensure!(matches!(CgroupRoot::open(run.cgroup.path()), Err(CgroupError::Outside { .. })));
    ensure!(root.create(Path::new(name)).is_err_and(|e| e.errno() == Some(Errno::EEXIST)));
    ensure!(run.cgroup.create_child("../out").is_err() && run.cgroup.create_child("..").is_err());
    ensure!(matches!(root.of_pid(u32::MAX), Err(CgroupError::NoProcess { .. })));
    Ok(())
}

#[test]
fn the_id_by_pidfd_is_the_folders_inode() -> Result<()> {
    let mut run = TestCgroup::new("pidfd-id")?;
    let path = run.cgroup.path().to_owned();
    run.spinners(&path, 1)?;
    match PidFd::open(run.pid(0)?)?.cgroup_id() {
        Ok(id) => ensure!(id == run.cgroup.id()),
        Err(Errno::ENOTTY | Errno::EINVAL) => skip::skip("this kernel does not tell a cgroup id by pidfd"),
        Err(e) => bail!("{e}"),
    }
    Ok(())
}

/// Puts the test process itself back where it was.
struct Return(std::path::PathBuf);

impl Drop for Return {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.procs"), std::process::id().to_string());
    }
}

#[test]
fn the_callers_own_cgroup_is_refused_even_when_it_was_moved_in_later() -> Result<()> {
    let run = TestCgroup::new("own")?;
    let leaf = run.cgroup.create_child("leaf")?;
    let root = CgroupRoot::find()?;
    let own = ProcFs::default().own_cgroup()?.context("no cgroup v2 path")?;
    let _back = Return(root.mount().join(own.strip_prefix("/")?));
    leaf.attach(std::process::id())?;
    for path in [run.cgroup.path(), leaf.path()] {
        ensure!(matches!(root.open_path(path), Err(CgroupError::HoldsDaemon { .. })));
    }
    ensure!(matches!(root.of_pid(std::process::id()), Err(CgroupError::HoldsDaemon { .. })));
    let outcome = freeze(&run.cgroup, within(1000));
    ensure!(matches!(&outcome, FreezeOutcome::Failed { op: "checking", .. }), "{outcome:?}");
    let outcome = kill(&run.cgroup, within(1000));
    ensure!(matches!(&outcome, KillOutcome::Failed { op: "checking", .. }), "{outcome:?}");
    ensure!(!run.cgroup.freeze_requested()?);
    ensure!(dry_run(&run.cgroup).is_err());
    Ok(())
}

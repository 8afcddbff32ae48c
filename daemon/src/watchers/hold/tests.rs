//! The guard on the real kernel, looked at step by step.

use super::*;
use crate::{
    guard::kernel::Kernel,
    pipeline,
    platform::CgroupRoot,
    runs::{start::Place, store::Store},
    testing::{until, wanted},
};
use failsafe_core::{MonoTime, input::Contained};
use std::path::Path;

/// A live run with a process in it.
struct Bench {
    _state: tempfile::TempDir,
    registry: Arc<Registry>,
    parent: String,
    child: std::process::Child,
    run: Arc<LiveRun>,
}

impl Bench {
    /// `None` where there is no cgroup2, or it may not be changed.
    fn new() -> Option<Bench> {
        let root = CgroupRoot::find().ok()?;
        if !nix::unistd::geteuid().is_root() {
            crate::skip::skip("needs root");
            return None;
        }
        let state = tempfile::tempdir().unwrap();
        let kernel = Kernel::new(Err("none".into()));
        let registry = Arc::new(Registry::new(root, kernel, Store::open(state.path()).unwrap()));
        let parent = format!("failsafe-guard-{}", std::process::id());
        let run = registry.make(wanted("job"), Place::Below(parent.clone().into()), "boot").unwrap();
        let child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        run.cgroup.attach(child.id()).unwrap();
        run.enter();
        Some(Bench { _state: state, registry, parent, child, run })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.run.cgroup.write_file("cgroup.freeze", b"0");
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.run.cgroup.remove_tree();
        let _ = std::fs::remove_dir(self.registry.root().mount().join(Path::new(&self.parent)));
    }
}

fn error(run: &LiveRun) -> Option<String> {
    run.status().containment_error.clone()
}

#[test]
fn the_error_of_a_failed_freeze_stays_while_somebody_has_the_gate_and_until_the_freeze_is_proved() {
    let Some(bench) = Bench::new() else { return };
    let run = &bench.run;
    let (pipeline, _queue) = pipeline::queue::channel(8);
    let mut guard = Guard::new(bench.registry.clone(), pipeline);
    let held = Contained { frozen: true, ..Contained::default() };
    run.status().containment = Containment::of(held, MonoTime(1));
    let held = Held::of(&run.status().containment);
    assert_eq!(held, Held { frozen: true, latched: false });
    // As after a write that the kernel refused.
    guard.retries.failed(run.run.id, Instant::now() - Duration::from_secs(2));
    run.status().containment_error = Some("writing cgroup.freeze: EIO".into());

    let gate = run.gate.lock().unwrap();
    guard.look(run, held);
    assert_eq!(error(run).as_deref(), Some("writing cgroup.freeze: EIO"), "nothing was looked at");
    assert!(guard.retries.next(Instant::now()).is_some_and(|wait| wait > Duration::ZERO), "and it is tried again");
    drop(gate);

    until("the error goes", || {
        guard.look(run, held);
        error(run).is_none()
    });
    let events = run.cgroup.events().unwrap();
    assert!(events.frozen && events.populated, "the error went before the freeze was proved: {events:?}");
}

#[test]
fn of_two_looks_the_worse_counts() {
    let failed = || Look::Failed("why".into());
    for (one, other, worse) in [
        (Look::Holds, Look::Holds, Look::Holds),
        (Look::Holds, Look::Busy, Look::Busy),
        (Look::Busy, Look::Unproved("frozen 0"), Look::Busy),
        (Look::Unproved("frozen 0"), Look::Holds, Look::Unproved("frozen 0")),
        (failed(), Look::Busy, failed()),
        (Look::Busy, failed(), failed()),
    ] {
        assert_eq!(one.and(other), worse);
    }
}

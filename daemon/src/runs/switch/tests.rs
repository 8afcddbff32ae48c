//! Runs that follow orders, on a kernel that a test has fail.

use super::*;
use crate::{
    guard::kernel::Kernel,
    platform::CgroupRoot,
    runs::{modes::Moment, start::Place, store::Store},
    testing::wanted,
};
use failsafe_core::Actor;
use std::{path::PathBuf, sync::mpsc, time::Duration};

/// A registry with a part of the cgroup hierarchy.
struct Bench {
    registry: Arc<Registry>,
    parent: PathBuf,
    _state: tempfile::TempDir,
}

impl Bench {
    /// `None` where there is no cgroup2, or it may not be changed.
    fn new(name: &str) -> Option<Bench> {
        let root = CgroupRoot::find().ok().filter(|_| nix::unistd::geteuid().is_root())?;
        let state = tempfile::tempdir().unwrap();
        let parent = PathBuf::from(format!("failsafe-switch-{}-{name}", std::process::id()));
        root.create(&parent).ok()?;
        let store = Store::open(state.path()).unwrap();
        let registry = Arc::new(Registry::new(root, Kernel::new(Err("a test's".into())), store));
        Some(Bench { registry, parent, _state: state })
    }

    fn make(&self, name: &str) -> Arc<LiveRun> {
        self.registry.make(wanted(name), Place::Below(self.parent.clone()), "boot").unwrap()
    }

    fn order(&self) -> Option<Temporary> {
        Some(Temporary::new(&Moment::now(""), 3_600_000_000_000, "a test".into(), Actor::Daemon))
    }

    fn refuse(&self, on: bool) {
        self.registry.kernel().refuses.store(on, Ordering::Relaxed);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Ok(cgroup) = self.registry.root().open_path(&self.parent) {
            let _gone = cgroup.remove_tree();
        }
    }
}

#[test]
fn a_run_that_the_kernel_only_observes_is_not_shown_as_enforced_and_is_tried_again() {
    let Some(bench) = Bench::new("behind") else { return };
    let live = bench.make("job");
    let registry = &bench.registry;
    assert_eq!(registry.change_mode(bench.order(), |_, _| {}).unwrap(), (1, Vec::new()));
    assert_eq!((live.mode(), live.behind()), (Mode::Observe, None));
    bench.refuse(true);
    let mut told = Vec::new();
    let (runs, failed) = registry.change_mode(None, |_, mode| told.push(mode)).unwrap();
    assert_eq!((runs, told, live.mode()), (1, vec![Mode::Enforce], Mode::Enforce));
    let behind = live.behind().unwrap();
    assert_eq!(behind.kernel, Mode::Observe);
    assert!(failed[0].contains("job") && failed[0].contains("enforce is wanted, the kernel observes"), "{failed:?}");
    assert!(failed[0].contains("a test has it fail"), "{failed:?}");
    assert!(registry.unbounded_note().unwrap().contains("1 (job (cannot attach"), "{:?}", registry.unbounded_note());
    assert!(registry.catch_up(|_, _| {}, || false).is_empty() && live.behind().is_some());
    bench.refuse(false);
    assert!(registry.catch_up(|_, _| {}, || true).is_empty(), "it stops");
    assert_eq!(registry.catch_up(|_, _| {}, || false).len(), 1);
    assert_eq!((live.mode(), live.behind(), registry.unbounded_note()), (Mode::Enforce, None, None));
}

#[test]
fn what_bounds_a_run_is_ready_while_it_is_watched_and_its_files_are_not_asked_again() {
    let Some(bench) = Bench::new("ready") else { return };
    let (before, registry) = (bench.make("before"), &bench.registry);
    registry.change_mode(bench.order(), |_, _| {}).unwrap();
    let during = bench.make("during");
    assert_eq!(during.mode(), Mode::Observe);
    // A file system that the policies name hangs from here on.
    registry.kernel().compiles_not.store(true, Ordering::Relaxed);
    assert_eq!(registry.change_mode(None, |_, _| {}).unwrap(), (2, Vec::new()));
    for run in [before, during] {
        assert_eq!((run.mode(), run.behind()), (Mode::Enforce, None), "{}", run.run.name);
    }
}

#[test]
fn a_kernel_that_does_not_take_the_tables_of_an_order_to_observe_is_named() {
    let Some(bench) = Bench::new("order") else { return };
    let live = bench.make("job");
    bench.registry.kernel().compiles_not.store(true, Ordering::Relaxed);
    let (_, failed) = bench.registry.change_mode(bench.order(), |_, _| {}).unwrap();
    assert!(failed[0].contains("observe is wanted, the kernel enforces"), "{failed:?}");
    assert_eq!((live.mode(), live.behind().unwrap().kernel), (Mode::Observe, Mode::Enforce));
    assert_eq!(bench.registry.unbounded_note(), None);
    bench.registry.kernel().compiles_not.store(false, Ordering::Relaxed);
    assert_eq!(bench.registry.catch_up(|_, _| {}, || false).len(), 1);
    assert_eq!(live.behind(), None);
}

#[test]
fn runs_are_made_while_others_change_their_mode() {
    let Some(bench) = Bench::new("making") else { return };
    let _live = bench.make("job");
    let made = |_: &Arc<LiveRun>, _| {
        let (registry, parent) = (bench.registry.clone(), bench.parent.clone());
        let (done, wait) = mpsc::channel();
        std::thread::spawn(move || done.send(registry.make(wanted(""), Place::Below(parent), "boot").unwrap().mode()));
        let made = wait.recv_timeout(Duration::from_secs(10)).expect("it waits for the change of the mode");
        assert_eq!(made, Mode::Observe);
    };
    bench.registry.change_mode(bench.order(), made).unwrap();
}

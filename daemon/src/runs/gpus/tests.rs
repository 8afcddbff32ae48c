//! Which GPUs runs get and lose, and what the log states of it.

use super::*;
use crate::{
    guard::kernel::Kernel,
    platform::CgroupRoot,
    runs::{start::Place, store::Store},
    testing::wanted,
};

fn gpu(name: &str) -> GpuId {
    GpuId(name.into())
}

fn id(n: u128) -> RunId {
    RunId(uuid::Uuid::from_u128(n))
}

fn open(gpus: &[&str]) -> Opened {
    Opened { open: gpus.iter().map(|name| (gpu(name), 7)).collect(), closed: BTreeSet::new() }
}

fn closed(gpus: &[&str]) -> Opened {
    Opened { open: BTreeMap::new(), closed: gpus.iter().map(|name| gpu(name)).collect() }
}

/// Runs 1, 2, … with these states.
fn settled(all: &[Mutex<Status>], opened: &[(u128, Opened)]) -> Vec<u128> {
    let all: Vec<_> = (1..).zip(all).map(|(n, status)| (id(n), status)).collect();
    let changed = settle(&all, &opened.iter().map(|(n, opened)| (id(*n), opened.clone())).collect());
    changed.into_iter().map(|run| run.0.as_u128()).collect()
}

fn names(status: &Mutex<Status>) -> Vec<String> {
    lock(status).gpus.iter().map(|gpu| gpu.0.clone()).collect()
}

#[test]
fn a_gpu_that_is_used_ends_those_that_are_only_opened() {
    let all = [Mutex::new(Status::default())];
    assert_eq!(settled(&all, &[(1, open(&["a", "b"]))]), [1]);
    assert!(settled(&all, &[(1, open(&["a", "b"]))]).is_empty(), "they are its already");
    assert!(lock(&all[0]).uses_gpu(&gpu("b"), 8));
    assert_eq!(names(&all[0]), ["b"]);
    assert!(settled(&all, &[(1, open(&["a"]))]).is_empty(), "which GPUs it uses is known");
    assert!(!lock(&all[0]).uses_gpu(&gpu("b"), 9) && lock(&all[0]).uses_gpu(&gpu("c"), 9));
    assert_eq!(names(&all[0]), ["b", "c"]);
}

#[test]
fn a_gpu_that_is_not_open_any_more_is_withdrawn() {
    let all = [Mutex::new(Status::default())];
    assert_eq!(settled(&all, &[(1, open(&["a", "b"]))]), [1]);
    assert!(settled(&all, &[]).is_empty(), "a run that the pass did not get to keeps them");
    assert!(settled(&all, &[(1, Opened::default())]).is_empty(), "of one that is not known nothing changes");
    assert_eq!(settled(&all, &[(1, closed(&["a"]))]), [1]);
    assert_eq!(names(&all[0]), ["b"]);
    assert!(settled(&all, &[(1, closed(&["a"]))]).is_empty());
}

#[test]
fn a_gpu_that_another_run_uses_is_withdrawn_from_the_run_that_has_it_open() {
    let all = [Mutex::new(Status::default()), Mutex::new(Status::default())];
    assert_eq!(settled(&all, &[(1, open(&["a", "b"]))]), [1]);
    assert!(lock(&all[1]).uses_gpu(&gpu("a"), 9));
    assert_eq!(settled(&all, &[(1, open(&["a", "b"]))]), [1]);
    assert_eq!((names(&all[0]), names(&all[1])), (vec!["b".into()], vec!["a".into()]));
    // Also where the pass did not get to the run.
    lock(&all[1]).gpus.insert(gpu("b"));
    assert_eq!(settled(&all, &[]), [1], "it declared b");
    assert!(names(&all[0]).is_empty());
}

#[test]
fn a_gpu_that_two_runs_only_have_open_is_of_neither() {
    let all = [Mutex::new(Status::default()), Mutex::new(Status::default())];
    let both = [(1, open(&["a", "b"])), (2, open(&["a"]))];
    assert_eq!(settled(&all, &both), [1]);
    assert_eq!((names(&all[0]), names(&all[1])), (vec!["b".into()], vec![]));
    assert_eq!(settled(&all, &[(2, open(&["b"]))]), [1], "the run that had it loses it");
    assert!(names(&all[0]).is_empty() && names(&all[1]).is_empty());
    assert!(settled(&all, &[(1, open(&["a", "b"]))]).is_empty(), "also where the pass did not get to the other run");
    assert_eq!(settled(&all, &[(1, open(&["a", "b"])), (2, closed(&["a"]))]), [1], "it is closed in the other run");
    assert_eq!(names(&all[0]), ["a"]);
    assert!(lock(&all[1]).uses_gpu(&gpu("c"), 9));
    assert_eq!(settled(&all, &[(1, open(&["a", "b"]))]), [1], "it is known which GPU the other run uses");
    assert_eq!((names(&all[0]), names(&all[1])), (vec!["a".into(), "b".into()], vec!["c".into()]));
}

#[test]
fn a_gpu_that_the_run_declared_or_uses_is_never_withdrawn() {
    let declared = Status { gpus: [gpu("a")].into(), ..Status::default() };
    let all = [Mutex::new(declared), Mutex::new(Status::default())];
    assert!(!lock(&all[0]).uses_gpu(&gpu("a"), 7), "it is its already");
    assert!(lock(&all[0]).uses_gpu(&gpu("b"), 7));
    assert!(lock(&all[1]).uses_gpu(&gpu("a"), 8) && lock(&all[1]).uses_gpu(&gpu("b"), 8));
    assert!(settled(&all, &[(1, closed(&["a", "b"])), (2, closed(&["a", "b"]))]).is_empty());
    assert!(!lock(&all[0]).loses_open(|_| true));
    assert_eq!((names(&all[0]), names(&all[1])), (vec!["a".into(), "b".into()], vec!["a".into(), "b".into()]));
}

#[test]
fn each_change_is_stated_once_also_that_an_open_gpu_is_used() {
    let all = [Mutex::new(Status { gpus: [gpu("declared")].into(), ..Status::default() })];
    let stated = || {
        let (found, removed) = lock(&all[0]).state_gpus();
        let found: Vec<_> = found.into_iter().map(|found| (found.gpu.0, found.by, found.pid)).collect();
        (found, removed.into_iter().map(|gpu| gpu.0).collect::<Vec<_>>())
    };
    assert_eq!(stated(), (vec![], vec![]));
    settled(&all, &[(1, open(&["a", "b"]))]);
    assert_eq!(stated(), (vec![("a".into(), GpuBy::Open, 7), ("b".into(), GpuBy::Open, 7)], vec![]));
    assert_eq!(stated(), (vec![], vec![]));
    settled(&all, &[(1, closed(&["b"]))]);
    assert_eq!(stated(), (vec![], vec!["b".into()]));
    assert!(lock(&all[0]).uses_gpu(&gpu("a"), 8), "the same GPUs, but why it is its has changed");
    assert_eq!(stated(), (vec![("a".into(), GpuBy::Process, 8)], vec![]));
}

#[test]
fn the_use_of_a_gpu_withdraws_it_at_once_from_the_run_that_has_it_open() {
    let Ok(root) = CgroupRoot::find() else { return };
    if !nix::unistd::geteuid().is_root() {
        crate::skip::skip("needs root");
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let registry = Registry::new(root, Kernel::new(Err("none".into())), Store::open(state.path()).unwrap());
    let parent = format!("failsafe-run-gpus-{}", std::process::id());
    let make = |name| registry.make(wanted(name), Place::Below(parent.clone().into()), "boot").unwrap();
    let (holds, uses) = (make("holds"), make("uses"));
    let ids = |changed: Vec<Arc<LiveRun>>| changed.into_iter().map(|live| live.run.id).collect::<Vec<_>>();
    let given = registry.settle_open_gpus(&[(holds.run.id, open(&["a", "b"]))].into());
    assert_eq!(ids(given), [holds.run.id]);
    assert_eq!(ids(registry.uses_gpu(&uses, &gpu("a"), 9)), [uses.run.id, holds.run.id]);
    assert_eq!(holds.status().gpus, [gpu("b")].into());
    assert!(registry.uses_gpu(&uses, &gpu("a"), 9).is_empty());
    for run in [&holds, &uses] {
        run.cgroup.remove_tree().unwrap();
    }
    let _empty = std::fs::remove_dir(registry.root().mount().join(&parent));
}

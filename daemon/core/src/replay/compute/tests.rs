//! The time that another policy would have stopped a run.

use super::*;
use crate::{
    actor::{Actor, Request},
    decision::{Cause, Confidence, DecisionId, IncidentId, Severity},
    digest::PolicyDigest,
    input::{Contained, Run},
    subject::{GpuId, RunId},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const S: u64 = 1_000_000_000;

fn id() -> RunId {
    RunId(uuid::Uuid::from_u128(1))
}

fn gpus(count: usize) -> BTreeSet<GpuId> {
    (0..count).map(|n| GpuId(format!("GPU-{n}"))).collect()
}

fn started(at: u64, count: usize, frozen: bool) -> Input {
    Input::RunStarted(Run {
        id: id(),
        name: "job".into(),
        labels: BTreeMap::new(),
        owner_uid: 0,
        cgroup: "/x".into(),
        cgroup_id: 1,
        boot_id: "b".into(),
        policy: PolicyDigest::of_content(b"x"),
        gpus: gpus(count),
        mig: BTreeMap::new(),
        registered: MonoTime(at * S),
        registered_wall_ns: 0,
        decisions: 0,
        incidents: 0,
        contained: Contained { frozen, ..Contained::default() },
    })
}

fn tick(at: u64) -> Input {
    Input::Tick(MonoTime(at * S))
}

fn ended(at: u64) -> Input {
    Input::RunEnded { run: id(), at: MonoTime(at * S) }
}

fn decision(at: u64, action: Action, mode: Mode) -> Decision {
    let request =
        Request { actor: Actor::Schedule { name: "test".into() }, role: String::new(), reason: String::new() };
    Decision {
        id: DecisionId { run: id(), n: 1 },
        incident: IncidentId::new(id(), 1),
        at: MonoTime(at * S),
        cause: Cause::Operator(request),
        actions: vec![action, Action::Notify],
        because: Vec::new(),
        values: Vec::new(),
        confidence: Confidence::High,
        severity: Severity::Critical,
        mode,
        policy: PolicyDigest::of_content(b"x"),
    }
}

fn replay(recorded: &[(u64, Action)], replayed: &[(u64, Action)]) -> Replay {
    let all = |list: &[(u64, Action)]| list.iter().map(|(at, action)| decision(*at, *action, Mode::Enforce)).collect();
    Replay { inputs: 0, recorded: all(recorded), replayed: all(replayed), differs_at: None }
}

fn course(count: usize, end: Input, recorded: &[(u64, Action)], replayed: &[(u64, Action)]) -> Compute {
    let mut compute = Compute::default();
    compute.input(&started(0, count, false));
    compute.input(&end);
    compute.replayed(&replay(recorded, replayed));
    compute
}

/// Kind, beginning, seconds, GPU-seconds, and what ends it.
fn found(compute: &Compute) -> Vec<(StopKind, u64, u64, u64, Until)> {
    let one = |found: StopDifference| {
        let gpu_seconds = u64::try_from(found.gpu_ns / u128::from(S)).unwrap();
        (found.kind, found.from.0 / S, found.ns / S, gpu_seconds, found.until)
    };
    compute.differences().into_iter().map(one).collect()
}

use Action::{Block, Freeze, Kill, Thaw};

#[test]
fn a_stop_that_both_make_saves_or_loses_the_time_between_the_two() {
    let earlier = course(8, ended(100), &[(50, Freeze)], &[(40, Freeze)]);
    assert_eq!(found(&earlier), [(StopKind::Earlier, 40, 10, 80, Until::Stopped)]);
    let later = course(8, ended(100), &[(40, Freeze)], &[(50, Kill)]);
    assert_eq!(found(&later), [(StopKind::Later, 40, 10, 80, Until::Stopped)]);
    assert!(found(&course(8, ended(100), &[(40, Freeze)], &[(40, Freeze)])).is_empty());
    assert!(!earlier.would_go_on() && !later.would_go_on());
}

#[test]
fn a_stop_of_one_policy_only_counts_until_the_thaw_or_the_end() {
    let added = course(2, ended(100), &[], &[(40, Freeze)]);
    assert_eq!(found(&added), [(StopKind::Added, 40, 60, 120, Until::RunEnded)]);
    let open = course(2, tick(90), &[], &[(40, Freeze)]);
    assert_eq!(found(&open), [(StopKind::Added, 40, 50, 100, Until::RecordingEnded)]);
    let thawed = course(2, ended(100), &[(70, Thaw)], &[(40, Freeze), (70, Thaw)]);
    assert_eq!(found(&thawed), [(StopKind::Added, 40, 30, 60, Until::Thawed)]);
    let removed = course(2, ended(100), &[(40, Freeze), (70, Thaw)], &[(70, Thaw)]);
    assert_eq!(found(&removed), [(StopKind::Removed, 40, 30, 60, Until::Thawed)]);
    assert!(!removed.would_go_on());
    let to_the_end = course(2, tick(100), &[(40, Freeze)], &[]);
    assert_eq!(found(&to_the_end), [(StopKind::Removed, 40, 60, 120, Until::RecordingEnded)]);
    assert!(to_the_end.would_go_on());
}

#[test]
fn a_killed_run_is_not_thawed_and_what_bounds_a_run_otherwise_stops_nothing() {
    let killed = course(1, ended(100), &[(40, Freeze), (60, Thaw)], &[(40, Kill), (60, Thaw)]);
    assert_eq!(found(&killed), [(StopKind::Added, 60, 40, 40, Until::RunEnded)]);
    assert!(found(&course(1, ended(100), &[], &[(40, Block)])).is_empty());
    let mut observed = Compute::default();
    observed.input(&started(0, 1, false));
    observed.input(&ended(100));
    let mut would = replay(&[], &[]);
    would.replayed.push(decision(40, Freeze, Mode::Observe));
    observed.replayed(&would);
    assert!(found(&observed).is_empty());
}

#[test]
fn gpus_count_from_when_the_run_has_them() {
    let mut compute = Compute::default();
    compute.input(&started(0, 2, false));
    compute.input(&Input::RunGpus { run: id(), gpus: gpus(4), at: MonoTime(50 * S) });
    compute.input(&ended(100));
    compute.replayed(&replay(&[], &[(40, Freeze)]));
    let [difference] = &compute.differences()[..] else { panic!("{compute:?}") };
    assert_eq!((difference.gpus, difference.gpu_ns / u128::from(S)), (4, 2 * 10 + 4 * 50));
    let without = course(0, ended(100), &[], &[(40, Freeze)]);
    assert_eq!(found(&without), [(StopKind::Added, 40, 60, 0, Until::RunEnded)]);
}

#[test]
fn a_stop_lasts_into_the_next_recording_of_the_run() {
    let mut compute = Compute::default();
    compute.input(&started(0, 1, false));
    compute.input(&tick(50));
    compute.replayed(&replay(&[], &[(40, Freeze)]));
    compute.input(&started(60, 1, false));
    compute.input(&ended(100));
    compute.replayed(&replay(&[], &[]));
    assert_eq!(found(&compute), [(StopKind::Added, 40, 60, 60, Until::RunEnded)]);

    // Somebody froze it while no daemon ran: both begin from what is really so.
    let mut compute = Compute::default();
    compute.input(&started(0, 1, false));
    compute.replayed(&replay(&[], &[]));
    compute.input(&started(60, 1, true));
    compute.input(&ended(100));
    compute.replayed(&replay(&[(80, Thaw)], &[(80, Thaw)]));
    assert!(found(&compute).is_empty());
    assert_eq!((compute.counted_ns() / S, compute.gpus()), (100, 1));
}

proptest! {
    #[test]
    fn the_differences_are_exactly_the_seconds_in_which_one_policy_stops_and_the_other_does_not(
        recorded in proptest::collection::btree_map(1..99u64, 0..3usize, 0..8),
        replayed in proptest::collection::btree_map(1..99u64, 0..3usize, 0..8),
    ) {
        let actions = |map: &BTreeMap<u64, usize>| -> Vec<(u64, Action)> {
            map.iter().map(|(at, n)| (*at, [Freeze, Thaw, Kill][*n])).collect()
        };
        let (recorded, replayed) = (actions(&recorded), actions(&replayed));
        let compute = course(3, ended(100), &recorded, &replayed);
        // Second by second, without intervals.
        let stopped = |list: &[(u64, Action)], second: u64| {
            let before: Vec<Action> = list.iter().filter(|(at, _)| *at <= second).map(|(_, action)| *action).collect();
            before.contains(&Kill) || before.last() == Some(&Freeze)
        };
        let differ = |is: bool| {
            (0..100).filter(|s| (stopped(&recorded, *s), stopped(&replayed, *s)) == (!is, is)).count() as u64
        };
        let (mut more, mut less) = (0, 0);
        for (kind, _, seconds, gpu_seconds, _) in found(&compute) {
            prop_assert_eq!(gpu_seconds, 3 * seconds);
            match kind {
                StopKind::Earlier | StopKind::Added => more += seconds,
                StopKind::Later | StopKind::Removed => less += seconds,
            }
        }
        prop_assert_eq!((more, less), (differ(true), differ(false)));
    }
}

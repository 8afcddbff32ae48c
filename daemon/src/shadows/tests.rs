//! Limits, what is dropped, and that nothing outlives a run.

use super::*;
use crate::{
    log::{Bounds, Budget, LogOwner},
    testing,
};
use failsafe_core::{Input, MonoTime, policy::parse::parse};
use failsafe_journal::storage::Retention;

fn policy(name: &str) -> Arc<Policy> {
    Arc::new(parse("p", &format!("[policy]\nname = \"{name}\"\nowner = \"o\"\n")).unwrap())
}

fn asked(run: u32, policy_name: &str, by: By) -> Asked {
    let enforced = policy("in-force");
    let run = testing::run(&format!("00000000-0000-0000-0000-{run:012}"), 1000, enforced.digest());
    Asked { run, enforced, policy: policy(policy_name), by, actor: Actor::Daemon }
}

fn user(uid: u32) -> By {
    By::User(uid)
}

/// A log, and the folder that it is in.
fn log() -> (LogOwner, tempfile::TempDir) {
    let state = tempfile::tempdir().unwrap();
    let bounds = Bounds { retention: Retention::default(), budget: Budget { per_user: 1 << 20, total: 1 << 24 } };
    let (owner, _) = LogOwner::open(state.path(), &state.path().join("second"), "boot", bounds, None).unwrap();
    (owner, state)
}

#[test]
fn a_run_a_user_and_the_node_have_a_limit_and_a_dropped_place_is_free() {
    let list = List::default();
    let mut places: Vec<Place> =
        (0..PER_RUN).map(|n| list.take(&asked(1, &format!("p{n}"), user(7))).unwrap()).collect();
    assert_eq!(list.take(&asked(1, "more", user(8))).unwrap_err(), Refused::Run);
    assert_eq!(list.take(&asked(1, "p0", user(8))).unwrap_err(), Refused::Twice);
    assert_eq!(list.take(&asked(1, "in-force", user(8))).unwrap_err(), Refused::InForce);
    for n in PER_RUN..PER_USER {
        places.push(list.take(&asked(n as u32 + 10, "p", user(7))).unwrap());
    }
    assert_eq!(list.take(&asked(99, "p", user(7))).unwrap_err(), Refused::User(7));
    places.push(list.take(&asked(99, "p", By::Rule("slurm".into()))).unwrap());
    assert!(list.has_of_rule("00000000-0000-0000-0000-000000000099".parse().unwrap(), "slurm"));
    for n in places.len()..PER_NODE {
        places.push(list.take(&asked(n as u32 + 1_000, "p", By::Rule("slurm".into()))).unwrap());
    }
    assert_eq!(list.take(&asked(5_000, "p", By::Rule("slurm".into()))).unwrap_err(), Refused::Node);
    places.clear();
    assert_eq!(list.len(), 0);
}

/// Shadows of which the thread begins to work when the returned end is dropped.
fn held() -> (Shadows, Feed, std::sync::mpsc::Sender<()>, (LogOwner, tempfile::TempDir)) {
    let (owner, state) = log();
    let (queue, receiver) = mpsc::channel();
    let (list, dropped) = (List::default(), Arc::new(AtomicU64::new(0)));
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let judge = judge::Judge::new(owner.log());
    let feed = Feed::spawn(queue.clone(), dropped.clone(), move |waiting, stop| {
        let _dropped = held.recv();
        judge.work(&receiver, &waiting, &stop);
    });
    (Shadows { list, queue, dropped }, feed.unwrap(), hold, (owner, state))
}

fn begin(shadows: &Shadows, feed: &mut Feed, asked: Asked) {
    let (order, _wait) = shadows.add(asked).unwrap();
    let Order::Begin(beginning) = order else { panic!() };
    feed.begin(beginning, BTreeSet::new());
}

fn tick(n: usize) -> Input {
    Input::Tick(MonoTime(n as u64))
}

#[test]
fn what_a_slow_shadow_cannot_take_is_dropped_counted_and_reported() {
    let (shadows, mut feed, hold, _log) = held();
    let slow = asked(1, "p", user(7));
    let (run, other) = (slow.run.id, asked(2, "p", user(7)));
    let other_run = other.run.id;
    feed.entry(run, &tick(0), &[]);
    begin(&shadows, &mut feed, slow);
    begin(&shadows, &mut feed, other);
    (0..feed::PER_RUN + 5).for_each(|n| feed.entry(run, &tick(n), &[]));
    feed.entry(other_run, &tick(0), &[]);
    assert_eq!(shadows.counts(), (2, 5));
    feed.run_ended(run);
    drop(hold);
    let groups = shadows.report(None).unwrap().blocking_recv().unwrap();
    assert_eq!(groups.len(), 1, "both are of the same two policies");
    let tally = &groups[0].tally;
    assert_eq!((tally.dropped, tally.inputs, tally.runs), (5, feed::PER_RUN as u64 + 1, 2));
    assert!(!tally.is_complete());
    assert_eq!(groups[0].live, 1);
    let live = shadows.report(Some(other_run)).unwrap().blocking_recv().unwrap();
    assert!(live[0].tally.is_complete(), "one run's flood drops nothing of another");
    assert_eq!(shadows.list().len(), 1, "the place of the ended run is free");
}

#[test]
fn after_the_last_shadow_of_a_run_nothing_is_handed_on() {
    let (shadows, mut feed, hold, _log) = held();
    let asked = asked(1, "p", user(7));
    let (run, digest) = (asked.run.id, asked.policy.digest());
    begin(&shadows, &mut feed, asked.clone());
    let (order, ended) = shadows.remove(run, digest, Actor::Daemon);
    let Order::End(ending) = order else { panic!() };
    feed.end(ending);
    drop(hold);
    assert_eq!(ended.blocking_recv().unwrap().live, 0);
    // The answer to a report comes after all before it.
    let _settled = shadows.report(None).unwrap().blocking_recv();
    feed.entry(run, &tick(1), &[]);
    assert!(shadows.list().is_empty());
    begin(&shadows, &mut feed, asked);
    feed.entry(run, &tick(2), &[]);
    feed.hand_on();
    let groups = shadows.report(Some(run)).unwrap().blocking_recv().unwrap();
    assert_eq!(groups[0].tally.inputs, 1, "it begins anew");
}

#[test]
fn a_stopped_daemon_judges_no_backlog_and_the_places_are_free() {
    let (shadows, mut feed, hold, _log) = held();
    let asked = asked(1, "p", user(7));
    let run = asked.run.id;
    begin(&shadows, &mut feed, asked);
    (0..100).for_each(|n| feed.entry(run, &tick(n), &[]));
    drop(hold);
    drop(feed);
    assert!(shadows.list().is_empty());
    assert_eq!(shadows.report(None).unwrap_err(), Refused::Ended);
}

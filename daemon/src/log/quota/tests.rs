//! What users get of the log when they write too much.

use super::*;
use crate::testing;
use failsafe_core::{PolicyDigest, record::Totals};
use failsafe_journal::Stamp;

const ID: &str = "00000000-0000-0000-0000-000000000001";

fn meter() -> Meter {
    Meter::new(Budget { per_user: 64 << 10, total: 1 << 20 }, 0)
}

/// Has an entry of this many bytes admitted at this second.
fn admit(meter: &mut Meter, record: &Record, bytes: usize, at: u64) -> bool {
    let stamp = Stamp { wall_ns: 1, mono_ns: 1, boot_id: "b".into() };
    let draft = Draft::new(record.kind(), stamp, serde_json::json!({}));
    meter.admit(record, Some(ID.parse().unwrap()), &draft, bytes, at * SECOND).itself
}

fn started(uid: u32) -> Record {
    let run = testing::run(ID, uid, PolicyDigest([1; 32]));
    Record::RunStarted { run, policy_name: "p".into(), broken: Vec::new(), repair: Vec::new() }
}

fn evidence() -> Record {
    let snapshot =
        failsafe_core::record::Snapshot { processes: vec![], complete: true, signals: vec![], frozen: false };
    Record::Evidence { decision: 1, snapshot }
}

#[test]
fn entries_about_a_run_that_has_ended_count_for_its_owner() {
    let mut meter = meter();
    let run: RunId = ID.parse().unwrap();
    admit(&mut meter, &started(1_000), 100, 0);
    let (name, recording, suppressed) = ("job".to_owned(), None, Vec::new());
    admit(
        &mut meter,
        &Record::RunEnded { run, name: name.clone(), recording, suppressed, unwatched: None, frozen_ns: None },
        100,
        1,
    );
    let late = Record::RunTotals { run, name, totals: Totals::default() };
    assert!((0..70).all(|_| admit(&mut meter, &late, 1 << 10, 2)), "what a restart needs is always written");
    assert!(meter.spent(1_000, 2 * SECOND).is_some(), "and counts for the owner");
    assert!(!admit(&mut meter, &evidence(), 1 << 10, 2), "a late entry finds no budget");
    assert!(meter.spent(0, 2 * SECOND).is_none());
    let used = meter.used(2 * SECOND);
    assert!(matches!(used.users[..], [(1_000, bytes)] if bytes >= 70 << 10), "{used:?}");
    assert_eq!(used.summed, 1);
}

#[test]
fn entries_about_a_run_that_an_earlier_daemon_started_count_for_its_owner() {
    let mut meter = meter();
    meter.owned(ID.parse().unwrap(), 1_000);
    let admitted = (0..100).filter(|_| admit(&mut meter, &evidence(), 1 << 10, 2)).count();
    assert_eq!(admitted, 64, "the budget is 64 KiB");
}

fn decided(n: u32, action: Action) -> Record {
    let mut decision = testing::decision(action);
    decision.id.n = n;
    Record::Decision { decision, rule: None, blind: None, drill: false }
}

fn discovered() -> Record {
    let Record::RunStarted { mut run, policy_name, broken, repair } = started(1_000) else { panic!() };
    run.labels.insert(failsafe_core::discover::LABEL.into(), "slurm".into());
    Record::RunStarted { run, policy_name, broken, repair }
}

/// A meter with a user who has spent the budget, and a discovered run of this user that begins.
fn unlisted() -> Meter {
    let mut meter = meter();
    meter.owned(ID.parse().unwrap(), 1_000);
    while admit(&mut meter, &evidence(), 4 << 10, 0) {}
    meter.summaries(0, true);
    assert!(!admit(&mut meter, &discovered(), 500, 0));
    meter
}

/// In memory it would be lost with the daemon.
#[test]
fn the_beginning_of_a_run_that_is_not_written_is_in_the_next_summary() {
    let summaries = unlisted().summaries(7_200 * SECOND, false);
    let summed: Vec<_> = summaries.iter().map(|it| (it.uid, it.run, it.entries, it.bytes)).collect();
    assert_eq!(summed, [(1_000, None, 1, 500)]);
}

#[test]
fn what_rules_only_notify_is_summed_up_until_the_beginning_of_the_run_is_written() {
    let (mut meter, run) = (unlisted(), Some(ID.parse().unwrap()));
    // A day later there is a budget again.
    let later = 86_400;
    assert!(!admit(&mut meter, &decided(1, Action::Notify), 100, later));
    assert!(!admit(&mut meter, &evidence(), 100, later));
    let summaries = meter.summaries(later * SECOND, true);
    assert!(summaries.iter().any(|it| it.run == run && it.decisions == [1]), "{summaries:?}");
    let freeze = decided(2, Action::Freeze);
    let stamp = Stamp { wall_ns: 1, mono_ns: 1, boot_id: "b".into() };
    let draft = Draft::new(freeze.kind(), stamp, serde_json::json!({}));
    let admitted = meter.admit(&freeze, run, &draft, 100, later * SECOND);
    assert!(admitted.itself && admitted.first.is_some());
    assert!(admit(&mut meter, &decided(3, Action::Notify), 100, later));
}

#[test]
fn an_owner_that_becomes_known_is_counted_and_is_in_the_beginning_that_is_written_later() {
    let (mut meter, id) = (meter(), ID.parse().unwrap());
    meter.owned(id, u32::MAX);
    while admit(&mut meter, &evidence(), 4 << 10, 0) {}
    let Record::RunStarted { mut run, policy_name, broken, repair } = discovered() else { panic!() };
    run.owner_uid = u32::MAX;
    let started = Record::RunStarted { run, policy_name, broken, repair };
    let stamp = Stamp { wall_ns: 1, mono_ns: 1, boot_id: "b".into() };
    let draft = |record: &Record| Draft::new(record.kind(), stamp.clone(), serde_json::to_value(record).unwrap());
    assert!(!meter.admit(&started, Some(id), &draft(&started), 500, 0).itself);
    let learnt = Record::RunOwner { run: id, owner_uid: 1_000, by: failsafe_core::record::OwnerBy::Processes };
    assert!(!admit(&mut meter, &learnt, 100, 0), "the log does not have the beginning of the run");
    let freeze = decided(2, Action::Freeze);
    let first = meter.admit(&freeze, Some(id), &draft(&freeze), 100, SECOND).first.unwrap();
    assert_eq!(first.body["run"]["owner_uid"], 1_000);
    assert!(meter.used(SECOND).users.iter().any(|(uid, bytes)| (*uid, *bytes) == (1_000, 600)));
}

#[test]
fn owners_of_ended_runs_are_remembered_up_to_a_bound() {
    let mut meter = meter();
    for n in 0..u128::try_from(ENDED).unwrap() + 10 {
        let run = RunId(uuid::Uuid::from_u128(n));
        meter.owned(run, 1_000);
        meter.forget_later(run);
    }
    assert_eq!((meter.owners.len(), meter.ended.len()), (ENDED, ENDED));
}

/// A summary counts for no budget: a user who goes on would fill the log with summaries.
#[test]
fn summaries_of_a_user_who_goes_on_become_rare() {
    let mut meter = meter();
    admit(&mut meter, &started(1_000), 100, 0);
    while admit(&mut meter, &evidence(), 4 << 10, 0) {}
    let mut summaries = 0;
    for at in 0..86_400 {
        // More than fills up again.
        admit(&mut meter, &evidence(), 4 << 10, at);
        summaries += meter.summaries(at * SECOND, false).len();
    }
    assert!((10..=35).contains(&summaries), "{summaries} summaries in a day");
    assert_eq!(meter.summaries(86_400 * SECOND, true).len(), 1, "what is left is written in the end");
}

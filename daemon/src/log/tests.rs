//! One user's flood beside another user's decision.

use super::*;
use crate::testing;
use failsafe_core::{
    Action, Actor, Decision, Mode, MonoTime,
    actor::{LocalPeer, Request},
    decision::{Cause, Confidence, DecisionId, Severity},
    policy::PolicyDigest,
};
use failsafe_journal::{Entry, Query, Search};

const FLOODER: &str = "00000000-0000-0000-0000-000000000001";
const VICTIM: &str = "00000000-0000-0000-0000-000000000002";
const ADMIN: &str = "00000000-0000-0000-0000-000000000003";

fn user(uid: u32) -> Actor {
    Actor::Local(LocalPeer { uid, gid: Some(uid), pid: Some(1), start_ticks: Some(1), cgroup: Some("/".into()) })
}

fn decision(id: &str, n: u32, action: Action) -> Record {
    let run: RunId = id.parse().unwrap();
    let decision = Decision {
        id: DecisionId { run, n },
        incident: IncidentId::new(run, n),
        at: MonoTime(u64::from(n)),
        policy: PolicyDigest([1; 32]),
        cause: Cause::Operator(Request { actor: user(0), role: "admin".into(), reason: "x".repeat(300) }),
        actions: vec![action],
        because: Vec::new(),
        values: Vec::new(),
        confidence: Confidence::High,
        severity: Severity::Warning,
        mode: Mode::Enforce,
    };
    Record::Decision { decision, rule: None, blind: None }
}

fn small() -> Bounds {
    let budget = Budget { per_user: 64 << 10, total: 1 << 20 };
    Bounds { retention: Retention::default(), budget }
}

/// Writes by `work`, and gives what the log has then.
fn logged(bounds: Bounds, work: impl FnOnce(&Log)) -> Vec<Entry> {
    let folder = tempfile::tempdir().unwrap();
    let (owner, _) = LogOwner::open(folder.path(), &folder.path().join("second"), "b", bounds, None).unwrap();
    let log = owner.log();
    work(&log);
    let path = log.path().to_owned();
    owner.close();
    Search::open(&path, Query::default()).unwrap().map(Result::unwrap).collect()
}

fn start(log: &Log, id: &str, uid: u32) {
    let run = testing::run(id, uid, PolicyDigest([1; 32]));
    let id = Some(run.id);
    log.record(
        &Record::RunStarted { run, policy_name: "p v1".into(), broken: Vec::new(), repair: Vec::new() },
        id,
        None,
    );
}

fn record(log: &Log, id: &str, n: u32, action: Action) {
    log.record(&decision(id, n, action), Some(id.parse().unwrap()), None);
}

fn of(entries: &[Entry], id: &str) -> Vec<Record> {
    let of = entries.iter().filter(|entry| entry.run.as_deref() == Some(id));
    of.filter_map(|entry| serde_json::from_value(entry.body.clone()).ok()).collect()
}

#[test]
fn one_users_flood_does_not_keep_another_users_decision_from_the_log() {
    let entries = logged(small(), |log| {
        start(log, FLOODER, 1000);
        start(log, VICTIM, 1001);
        start(log, ADMIN, 0);
        (1..=2_000).for_each(|n| record(log, FLOODER, n, Action::Notify));
        record(log, VICTIM, 1, Action::Notify);
        (1..=500).for_each(|n| record(log, ADMIN, n, Action::Notify));
        // What is about the flooder's own containment is written all the same.
        record(log, FLOODER, 2_001, Action::Freeze);
        assert_eq!((log.spent(1000), log.spent(1001), log.spent(0)), (Some(64 << 10), None, None));
    });
    let decisions = |id: &str| -> Vec<u32> {
        let number = |record| match record {
            Record::Decision { decision, .. } => Some(decision.id.n),
            _ => None,
        };
        of(&entries, id).into_iter().filter_map(number).collect()
    };
    assert_eq!((decisions(VICTIM), decisions(ADMIN).len()), (vec![1], 500));
    let written = decisions(FLOODER);
    assert!(written.len() < 200 && written.last() == Some(&2_001), "{written:?}");
    // Each decision is either there or named by a summary.
    let limited: Vec<Limited> = of(&entries, FLOODER)
        .into_iter()
        .filter_map(|record| if let Record::Limited(limited) = record { Some(limited) } else { None })
        .collect();
    assert!((1..=4).contains(&limited.len()), "summaries are few: {}", limited.len());
    let summed: u64 = limited.iter().map(|limited| limited.entries).sum();
    assert_eq!(summed + written.len() as u64, 2_001);
    assert!(limited.iter().all(|limited| limited.uid == 1000 && limited.sha256.len() == 64));
    assert_eq!(limited.iter().map(|limited| limited.last_decision).max(), Some(2_000));
}

#[test]
fn a_flood_of_interventions_ends_too_and_refusals_are_few() {
    let entries = logged(small(), |log| {
        start(log, FLOODER, 1000);
        start(log, VICTIM, 1001);
        (1..=2_000).for_each(|n| record(log, FLOODER, n, Action::Freeze));
        for _ in 0..2_000 {
            let why = "a rule cannot be kept".to_owned();
            let actor = Some(user(1002));
            log.record(&Record::PolicyRefused { policy: PolicyDigest([2; 32]), why, actor }, None, None);
        }
        record(log, VICTIM, 1, Action::Freeze);
    });
    let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
    assert!(bytes < 200 << 10, "{bytes} bytes");
    assert!(of(&entries, VICTIM).iter().any(|record| matches!(record, Record::Decision { .. })));
    let refused = entries.iter().filter(|entry| entry.kind == "policy").count();
    assert_eq!(refused, 20);
    let limited = entries.iter().filter_map(|entry| serde_json::from_value::<Record>(entry.body.clone()).ok());
    let of_refusals: u64 = limited
        .filter_map(|record| match record {
            Record::Limited(limited) if limited.uid == 1002 => Some(limited.entries),
            _ => None,
        })
        .sum();
    assert_eq!(of_refusals, 1_980);
}

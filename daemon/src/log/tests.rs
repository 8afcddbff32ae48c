//! One user's flood beside another user's decision.

use super::*;
use crate::testing;
use failsafe_core::{
    Action, Actor, Decision, Mode, MonoTime,
    actor::{LocalPeer, Request},
    decision::{Cause, Confidence, DecisionId, Severity},
    input::{Command, Control},
    policy::PolicyDigest,
};
use failsafe_journal::{Entry, Filter, Query, Search};

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
    Record::Decision { decision, rule: None, blind: None, drill: false }
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

/// The id of a discovered run.
fn job(n: u32) -> String {
    format!("00000000-0000-0000-0001-{n:012x}")
}

/// A job of a scheduler, from its beginning on.
fn begins(log: &Log, n: u32, uid: u32, labels: &[(&str, &str)]) {
    let mut run = testing::run(&job(n), uid, PolicyDigest([1; 32]));
    run.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let id = Some(run.id);
    log.record(&Record::RunStarted { run, policy_name: "p".into(), broken: Vec::new(), repair: Vec::new() }, id, None);
}

/// What is written about its end, and after it.
fn ends(log: &Log, n: u32) {
    let run: RunId = job(n).parse().unwrap();
    let (recording, suppressed, name) = (None, Vec::new(), "trainer".to_owned());
    log.record(
        &Record::RunEnded { run, name: name.clone(), recording, suppressed, unwatched: None, frozen_ns: None },
        Some(run),
        None,
    );
    log.record(&Record::RunTotals { run, name, totals: Default::default() }, Some(run), None);
}

const DISCOVERED: [(&str, &str); 1] = [(failsafe_core::discover::LABEL, "slurm")];

#[test]
fn discovered_runs_of_a_user_beyond_the_budget_are_summed_up_together() {
    const RUNS: u32 = 2_000;
    let entries = logged(small(), |log| {
        (1..=RUNS).for_each(|n| {
            begins(log, n, 1000, &DISCOVERED);
            ends(log, n);
        });
        begins(log, RUNS + 1, 1000, &DISCOVERED);
        begins(log, RUNS + 2, 1001, &DISCOVERED);
        begins(log, RUNS + 3, 0, &DISCOVERED);
    });
    let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
    assert!(bytes < 128 << 10, "{bytes} bytes");
    let records = || entries.iter().filter_map(|entry| serde_json::from_value::<Record>(entry.body.clone()).ok());
    let started: Vec<u32> = records()
        .filter_map(|it| if let Record::RunStarted { run, .. } = it { Some(run.owner_uid) } else { None })
        .collect();
    assert!(started.ends_with(&[1001, 0]), "users with a budget, and root, are not concerned: {started:?}");
    let ended = records().filter(|it| matches!(it, Record::RunEnded { .. })).count();
    assert_eq!(started.len() - 2, ended, "a run is written from its beginning to its end, or not at all");
    let limited: Vec<Limited> =
        records().filter_map(|it| if let Record::Limited(limited) = it { Some(limited) } else { None }).collect();
    assert!((1..=3).contains(&limited.len()), "summaries are few: {}", limited.len());
    assert!(limited.iter().all(|it| it.uid == 1000 && it.run.is_none()));
    let summed: u64 = limited.iter().map(|it| it.entries).sum();
    assert_eq!(summed, u64::from(RUNS) * 3 + 1 - ended as u64 * 3, "each entry is written or summed up");
    let beginnings: u64 = limited.iter().map(|it| it.beginnings).sum();
    assert_eq!(beginnings, u64::from(RUNS) + 1 - ended as u64, "these may be written later");
}

#[test]
fn a_discovered_run_beyond_the_budget_is_written_from_its_beginning_on_when_it_is_frozen() {
    let entries = logged(small(), |log| {
        (1..=500).for_each(|n| {
            begins(log, n, 1000, &DISCOVERED);
            ends(log, n);
        });
        begins(log, 501, 1000, &DISCOVERED);
        record(log, &job(501), 1, Action::Notify);
        record(log, &job(501), 2, Action::Freeze);
        ends(log, 501);
        begins(log, 502, 1000, &DISCOVERED);
        let (run, reason) = (job(502).parse().unwrap(), "by an administrator".to_owned());
        let (at, command, role) = (MonoTime(1), Command::Freeze, "admin".to_owned());
        log.record(
            &Record::Control(Control { seq: 0, at, run, command, actor: user(0), role, reason }),
            Some(run),
            None,
        );
        // The user's own runs are refused beyond the budget; one that began is written.
        begins(log, 503, 1000, &[]);
    });
    let kinds = |n: u32| -> Vec<String> {
        let kind = |record: Record| serde_json::to_value(record).unwrap()["type"].as_str().unwrap().to_owned();
        of(&entries, &job(n)).into_iter().map(kind).filter(|kind| kind != "limited").collect()
    };
    assert!(kinds(500).is_empty(), "the budget is spent");
    assert_eq!(kinds(501), ["run-started", "decision", "run-ended", "run-totals"]);
    assert_eq!(kinds(502), ["run-started", "control"]);
    assert_eq!(kinds(503), ["run-started"]);
}

#[test]
fn each_file_of_the_log_begins_with_the_runs_that_are_open() {
    let entries = logged(small(), |log| {
        let seal = || {
            // The file is sealed behind the commit of the first, and before that of the second.
            for bytes in [5 << 20, 1] {
                let body = serde_json::json!({ "text": "x".repeat(bytes) });
                let ticket = log.submit(&Draft::new("test", log.stamp(), body));
                ticket.wait(std::time::Duration::from_secs(60)).unwrap();
            }
        };
        start(log, ADMIN, 0);
        seal();
        // What earlier daemons left is known from here on.
        log.know_open([VICTIM.parse().unwrap()]);
        start(log, FLOODER, 1_000);
        let (sender, durable) = std::sync::mpsc::channel();
        let ended = Record::RunEnded {
            run: ADMIN.parse().unwrap(),
            name: "trainer".into(),
            recording: None,
            suppressed: Vec::new(),
            unwatched: None,
            frozen_ns: None,
        };
        log.record_then(&ended, Some(ADMIN.parse().unwrap()), None, move |done| sender.send(done).unwrap());
        durable.recv().unwrap().unwrap();
        seal();
    });
    let stated: Vec<_> = entries.iter().filter(|entry| entry.kind == failsafe_journal::kind::SEGMENT).collect();
    assert_eq!(stated[0].body.get(OPEN_RUNS), None, "not known yet");
    assert_eq!(stated[1].body[OPEN_RUNS], serde_json::json!([FLOODER, VICTIM]));
}

/// Waits until so many entries about the run are durable.
fn durable(log: &Log, entries: usize) {
    let of_run = |entry: &Entry| entry.run.as_deref() == Some(VICTIM);
    let count = || log.search(Query::default()).unwrap().map(Result::unwrap).filter(of_run).count();
    testing::until("the entries are durable", || count() == entries);
}

#[test]
fn what_is_behind_the_durable_entries_is_read_when_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, _) = LogOwner::open(folder.path(), &folder.path().join("second"), "b", small(), None).unwrap();
    let log = owner.log();
    start(&log, VICTIM, 1001);
    record(&log, VICTIM, 1, Action::Notify);
    durable(&log, 2);
    let (path, end) = (log.path().to_owned(), *log.latest().borrow());
    let whole = std::fs::read(&path).unwrap();
    let last = Search::open(&path, Query::default()).unwrap().last().unwrap().unwrap();
    let at = whole.windows(last.bytes.len()).position(|window| window == &*last.bytes).unwrap();
    // As a full disk leaves it: a part of an entry that is written again when there is room. Its length comes before its bytes.
    let mut torn = whole[at - failsafe_journal::frame::FRAME_HEADER_BYTES..].to_vec();
    let changed = torn.len() - 2;
    torn[changed] ^= 1;
    std::fs::write(&path, [whole.as_slice(), &torn].concat()).unwrap();
    let all = Query::default();
    assert!(Search::open(&path, all.clone()).unwrap().any(|entry| entry.is_err()), "it looks damaged");
    let of_run = Filter { run: Some(VICTIM.to_owned()), ..Filter::default() };
    let queries = [
        all.clone(),
        Query { tail: Some(1), ..all.clone() },
        Query { tail: Some(0), ..all.clone() },
        Query { filter: of_run, from: 1, ..all },
    ];
    let mut readers = queries.map(|query| log.search(query).unwrap());
    let mut read =
        || readers.each_mut().map(|reader| reader.by_ref().map(|entry| entry.unwrap().index).collect::<Vec<u64>>());
    let before = read();
    assert_eq!(before[0], (0..end).collect::<Vec<_>>());
    assert!(before[2].is_empty());
    assert_eq!(read(), [(); 4].map(|()| Vec::<u64>::new()), "nothing more is durable");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(whole.len() as u64).unwrap();
    record(&log, VICTIM, 2, Action::Notify);
    durable(&log, 3);
    assert_eq!(read(), [(); 4].map(|()| vec![end]), "each reads it once");
    owner.close();
}

#[test]
fn a_durable_entry_that_is_damaged_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, _) = LogOwner::open(folder.path(), &folder.path().join("second"), "b", small(), None).unwrap();
    let log = owner.log();
    start(&log, VICTIM, 1001);
    durable(&log, 1);
    let mut bytes = std::fs::read(log.path()).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(log.path(), bytes).unwrap();
    let end = *log.latest().borrow();
    let error = log.search(Query::default()).unwrap().find_map(Result::err).unwrap();
    assert_eq!(damaged(&error), Some(end - 1));
    owner.close();
}

/// An order to observe, or its end.
fn mode(until_ns: Option<i64>, begins: bool) -> Record {
    Record::Mode {
        mode: if until_ns.is_some() { Mode::Observe } else { Mode::Enforce },
        rule: None,
        until_ns,
        reason: "rollout".into(),
        actor: Actor::Daemon,
        runs: 0,
        failed: Vec::new(),
        begins,
    }
}

#[test]
fn the_orders_of_earlier_daemons_are_read_from_the_last_entry_that_states_them() {
    use failsafe_core::record::BornOut;
    let folder = tempfile::tempdir().unwrap();
    let open = || LogOwner::open(folder.path(), &folder.path().join("second"), "b", small(), None).unwrap().0;
    let seal = |log: &Log| {
        for bytes in [5 << 20, 1] {
            let body = serde_json::json!({ "text": "x".repeat(bytes) });
            log.submit(&Draft::new("test", log.stamp(), body)).wait(Duration::from_secs(60)).unwrap();
        }
    };
    let in_force = |log: &Log| {
        let logged = log.logged_orders();
        (logged.orders.bear_out(7, "rollout", &Actor::Daemon), logged.may_lack)
    };
    let begins = |log: &Log| {
        let (version, kernel) = ("1".to_owned(), "6".to_owned());
        let started = Record::DaemonStarted { version, kernel, blind: Vec::new(), orders: log.orders() };
        log.record_durably(&started, None).unwrap();
    };
    let owner = open();
    assert_eq!(in_force(&owner.log()), (BornOut::No, false), "an empty log has no orders");
    begins(&owner.log());
    owner.log().record_durably(&mode(Some(7), true), None).unwrap();
    owner.log().record_durably(&mode(Some(7), false), None).unwrap();
    assert_eq!(in_force(&owner.log()), (BornOut::InForce, false));
    // A file that begins with the order, and has no other entry about it.
    seal(&owner.log());
    owner.close();
    let owner = open();
    assert_eq!(in_force(&owner.log()), (BornOut::InForce, false));
    begins(&owner.log());
    owner.log().record_durably(&mode(None, false), None).unwrap();
    owner.close();
    let owner = open();
    assert_eq!(in_force(&owner.log()), (BornOut::Ended, false));
    owner.close();
}

#[test]
fn the_orders_of_a_log_of_an_earlier_version_are_read_from_all_entries() {
    use failsafe_core::record::BornOut;
    let folder = tempfile::tempdir().unwrap();
    let (owner, _) = LogOwner::open(folder.path(), &folder.path().join("second"), "b", small(), None).unwrap();
    let log = owner.log();
    // That daemon does not read the orders, and states none.
    log.record_durably(&mode(Some(7), true), None).unwrap();
    for n in 0..200 {
        let gap = serde_json::json!({ "n": n });
        log.submit(&Draft::new("daemon", log.stamp(), gap)).wait(Duration::from_secs(60)).unwrap();
    }
    let logged = log.logged_orders();
    assert_eq!(logged.orders.bear_out(7, "rollout", &Actor::Daemon), BornOut::InForce);
    assert!(!logged.may_lack, "nothing was removed");
    let path = log.path().to_owned();
    owner.close();
    assert_eq!(orders::LoggedOrders::read(&path.with_file_name("none.log"), true), LoggedOrders::default());
}

//! What is read of a log that is long, damaged or of a later version.

use super::*;
use crate::{
    config::AuditLog, guard::kernel::Kernel, log::LogOwner, platform::CgroupRoot, runs::store::Store, testing,
};
use failsafe_core::{
    Action,
    decision::{DecisionId, IncidentId, Outcome, Verdict},
    time::{MonoTime, Span},
};
use std::{fs, path::Path};

static GO_ON: AtomicBool = AtomicBool::new(false);

fn run(n: u128) -> RunId {
    RunId(uuid::Uuid::from_u128(n))
}

/// The log has a frozen run, then `notes` decisions about another run.
fn logged(folder: &Path, notes: u32) -> (LogOwner, Following) {
    let (owner, _) = LogOwner::open(folder, &folder.join("second"), "b", AuditLog::default().bounds(), None).unwrap();
    let log = owner.log();
    frozen(&log, run(1));
    for n in 1..=notes {
        decided(&log, run(2), n, Action::Notify);
    }
    let store = Store::open(folder).unwrap();
    let registry = Registry::new(CgroupRoot::find().unwrap(), Kernel::new(Err("a test's".into())), store);
    let following = Following { registry: Arc::new(registry), log: log.clone(), shared: Arc::default() };
    durable(&log, u64::from(notes) + 2);
    (owner, following)
}

fn durable(log: &Log, entries: u64) {
    testing::until("the entries are durable", || *log.latest().borrow() >= entries);
}

fn decided(log: &Log, run: RunId, n: u32, action: Action) {
    let mut decision = testing::decision(action);
    (decision.id, decision.incident) = (DecisionId { run, n }, IncidentId::new(run, n));
    let incident = Some(decision.incident);
    log.record(&Record::Decision { decision, rule: None, blind: None, drill: false }, Some(run), incident);
}

fn frozen(log: &Log, run: RunId) {
    decided(log, run, 1, Action::Freeze);
    let incident = IncidentId::new(run, 1);
    let outcome = Outcome {
        decision: DecisionId { run, n: 1 },
        incident,
        action: Action::Freeze,
        verdict: Verdict::Proved,
        proofs: Vec::new(),
        at: MonoTime(1),
        took: Span(1),
    };
    log.record(&Record::Outcome(outcome), Some(run), Some(incident));
}

fn has(following: &Following, of: RunId) -> bool {
    following.shared.list().of(of).next().is_some()
}

#[test]
fn all_incidents_of_a_log_within_the_tail_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, following) = logged(folder.path(), 8);
    assert_eq!(following.look(&mut Place::new(100), &GO_ON), Then::Wait);
    assert!(has(&following, run(1)) && has(&following, run(2)));
    assert_eq!(*following.shared.list().incomplete(), Default::default());
    assert!(following.shared.progress().borrow().complete && *following.shared.read().borrow() >= 10);
    owner.close();
}

#[test]
fn the_incident_of_a_contained_run_is_read_however_much_is_decided_about_others() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, following) = logged(folder.path(), 40);
    let mut place = Place::new(8);
    assert_eq!(following.look(&mut place, &GO_ON), Then::Wait);
    assert!(!has(&following, run(1)), "the registry has no contained run");
    assert!(following.shared.list().incomplete().in_log_only);
    let following = Following { shared: Arc::default(), ..following };
    following.seed(&[run(1)], 34);
    assert_eq!(following.look(&mut Place::new(8), &GO_ON), Then::Wait);
    let list = following.shared.list();
    let incident = list.of(run(1)).next().unwrap();
    assert!(incident.is_open() && !incident.beginning_unknown && incident.standing_name() == "contained");
    assert_eq!(list.of(run(2)).count(), 8, "the tail");
    drop(list);
    owner.close();
}

#[test]
fn a_damaged_entry_is_counted_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, following) = logged(folder.path(), 8);
    let path = following.log.path().to_owned();
    let sixth = Search::open(&path, Query { from: 6, ..Query::default() }).unwrap().next().unwrap().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(sixth.bytes.len()).position(|window| window == &*sixth.bytes).unwrap();
    bytes[at + sixth.bytes.len() / 2] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut place = Place::new(100);
    assert_eq!(following.look(&mut place, &GO_ON), Then::Again);
    assert!(has(&following, run(1)));
    assert_eq!((following.shared.list().of(run(2)).count(), following.shared.list().incomplete().unreadable), (4, 1));
    let revision = following.shared.list().revision();
    assert!(following.shared.list().since(revision - 1, 9).missed, "whoever watches misses the entry");
    assert_eq!(following.look(&mut place, &GO_ON), Then::Wait);
    assert_eq!((following.shared.list().of(run(2)).count(), following.shared.list().incomplete().unreadable), (7, 1));
    assert_eq!(following.shared.progress().borrow().problem, None);
    owner.close();
}

/// As a full disk leaves it: the beginning of an entry that is written again when there is room.
#[test]
fn what_is_behind_the_durable_entries_is_neither_damaged_nor_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, following) = logged(folder.path(), 8);
    let path = following.log.path().to_owned();
    let mut place = Place::new(100);
    assert_eq!(following.look(&mut place, &GO_ON), Then::Wait);
    let whole = fs::read(&path).unwrap();
    let ends = Search::open(&path, Query::default()).unwrap().map(|entry| {
        let bytes = entry.unwrap().bytes;
        whole.windows(bytes.len()).position(|window| window == &*bytes).unwrap() + bytes.len()
    });
    let ends: Vec<usize> = ends.collect();
    let mut torn = whole[ends[ends.len() - 2]..ends[ends.len() - 1]].to_vec();
    let last = torn.len() - 2;
    torn[last] ^= 1;
    fs::write(&path, [whole.as_slice(), &torn].concat()).unwrap();
    for _ in 0..2 {
        assert_eq!(following.look(&mut place, &GO_ON), Then::Wait);
    }
    assert_eq!(following.shared.progress().borrow().problem, None);
    fs::File::options().write(true).open(&path).unwrap().set_len(whole.len() as u64).unwrap();
    frozen(&following.log, run(3));
    durable(&following.log, 12);
    assert_eq!(following.look(&mut place, &GO_ON), Then::Wait);
    assert!(has(&following, run(3)), "it is written again, and is read");
    assert_eq!(following.shared.list().incomplete().unreadable, 0);
    owner.close();
}

#[test]
fn a_log_that_is_not_there_is_a_problem_without_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, following) = logged(folder.path(), 1);
    owner.close();
    fs::remove_file(following.log.path()).unwrap();
    assert_eq!(following.look(&mut Place::new(100), &GO_ON), Then::Pause);
    let problem = following.shared.progress().borrow().problem.clone().unwrap();
    assert!(!problem.is_damaged, "{problem:?}");
    let progress = following.shared.progress();
    assert_eq!(following.look(&mut Place::new(100), &GO_ON), Then::Pause);
    assert!(!progress.has_changed().unwrap(), "the same problem is reported once");
}

#[test]
fn an_entry_of_a_later_version_is_counted_and_hides_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, following) = logged(folder.path(), 2);
    let mut entries: Vec<_> =
        Search::open(following.log.path(), Query::default()).unwrap().map(Result::unwrap).collect();
    entries[0].body = serde_json::json!({"type": "of-a-later-version"});
    following.take(entries);
    let list = following.shared.list();
    assert_eq!((list.incomplete().unreadable, list.of(run(2)).count()), (1, 2));
    drop(list);
    owner.close();
}

#[test]
fn whoever_watches_is_woken_when_the_log_cannot_be_written_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, following) = logged(folder.path(), 1);
    let mut progress = following.shared.progress();
    following.note_writing();
    assert!(!progress.has_changed().unwrap() && !progress.borrow().unwritten);
    owner.close();
    following.note_writing();
    assert!(progress.has_changed().unwrap() && progress.borrow_and_update().unwritten);
    following.note_writing();
    assert!(!progress.has_changed().unwrap(), "once");
    assert_eq!(following.look(&mut Place::new(100), &GO_ON), Then::Wait);
    assert!(progress.borrow().complete && progress.borrow().unwritten, "what is read does not change that");
}

#[test]
fn a_gap_of_the_log_itself_is_missed_only_where_entries_about_incidents_were_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (owner, following) = logged(folder.path(), 2);
    assert_eq!(following.look(&mut Place::new(100), &GO_ON), Then::Wait);
    let last = Search::open(following.log.path(), Query::default()).unwrap().last().unwrap().unwrap();
    let revision = following.shared.list().revision();
    let takes = |body: serde_json::Value| {
        following.take(vec![failsafe_journal::Entry {
            index: last.index + 1,
            kind: "gap".into(),
            body,
            ..last.clone()
        }]);
        let list = following.shared.list();
        (list.incomplete().unreadable, list.since(revision, 9).missed)
    };
    assert_eq!(takes(serde_json::json!({"cause": "storage", "error": "disk full", "delayed": 7})), (0, false));
    assert_eq!(takes(serde_json::json!({"cause": "overflow", "dropped_by_kind": {"statement": 3}})), (0, false));
    assert_eq!(takes(serde_json::json!({"cause": "overflow", "dropped_by_kind": {"decision": 3}})), (1, true));
    owner.close();
}

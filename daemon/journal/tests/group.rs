//! The writer thread: order, group commit, full and hanging disks, and what is said about them afterwards.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use failsafe_journal::clock::Stamp;
use failsafe_journal::storage::sim::SimStorage;
use failsafe_journal::walk::Ending;
use failsafe_journal::{AuditWriter, Draft, Entry, Options, Status, WaitError, kind, parse_frames, verify};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

fn draft(n: u64) -> Draft {
    Draft::new(kind::CONTROL, Stamp { wall_ns: n, mono_ns: n, boot_id: "b".into() }, json!({ "n": n }))
}

fn entries(sim: &SimStorage) -> Vec<Entry> {
    let (entries, ending) = parse_frames(&sim.image());
    assert_eq!(ending, Ending::Clean);
    entries
}

/// The `n` of each entry; gaps as -1.
fn numbers(entries: &[Entry]) -> Vec<i64> {
    entries.iter().map(|e| if e.kind == kind::GAP { -1 } else { e.body["n"].as_i64().unwrap() }).collect()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn durable_means_synced_and_observers_come_first() {
    let dir = tempfile::tempdir().unwrap();
    let (send, seen) = mpsc::channel();
    let observer = Box::new(move |index, bytes: std::sync::Arc<[u8]>| send.send((index, bytes)).unwrap());
    let writer = AuditWriter::spawn(dir.path(), Options { observer: Some(observer), ..Options::default() }).unwrap();
    let handle = writer.handle();
    for n in 0..10 {
        let durable = handle.submit(&draft(n)).wait(SOON).unwrap();
        assert_eq!(durable.index, n);
        let (index, bytes) = seen.try_recv().expect("observed before the ticket resolves");
        assert_eq!((index, failsafe_journal::leaf_hash(&bytes)), (n, durable.leaf_hash));
    }
    let report = verify(dir.path()).unwrap();
    assert!(report.is_ok() && report.entries == 10);
    assert_eq!(handle.status(), Status::Healthy);
    writer.shutdown(SOON).unwrap();
    assert_eq!(handle.status(), Status::Stopped);
    assert_eq!(handle.submit(&draft(0)).wait(SOON), Err(WaitError::Closed));
}

#[test]
fn everything_queued_during_a_sync_shares_the_next() {
    let sim = SimStorage::new();
    let writer = AuditWriter::spawn_on(sim.clone(), Options::default()).unwrap();
    let handle = writer.handle();
    let opened = sim.syncs();
    sim.hold();
    let first = handle.submit(&draft(0));
    sim.await_held_sync();
    let rest: Vec<_> = (1..200).map(|n| handle.submit(&draft(n))).collect();
    assert!(first.poll().is_none() && rest.iter().all(|ticket| ticket.poll().is_none()));
    sim.release();
    for (n, ticket) in rest.iter().enumerate() {
        assert_eq!(ticket.wait(SOON).unwrap().index, n as u64 + 1);
    }
    assert_eq!(first.wait(SOON).unwrap().index, 0);
    assert_eq!(sim.syncs() - opened, 2);
    assert_eq!(numbers(&entries(&sim)), (0..200).collect::<Vec<_>>());
}

#[test]
fn order_of_each_submitter_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (send, seen) = mpsc::channel();
    let observer = Box::new(move |index, _| send.send(index).unwrap());
    let writer = AuditWriter::spawn(dir.path(), Options { observer: Some(observer), ..Options::default() }).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let handle = writer.handle();
            scope.spawn(move || {
                let tickets: Vec<_> = (0..250).map(|n| handle.submit(&draft(thread * 1000 + n))).collect();
                let indices: Vec<u64> = tickets.iter().map(|ticket| ticket.wait(SOON).unwrap().index).collect();
                assert!(indices.is_sorted());
            });
        }
    });
    writer.shutdown(SOON).unwrap();
    assert_eq!(seen.iter().collect::<Vec<u64>>(), (0..1000).collect::<Vec<_>>());
    let reader = failsafe_journal::LogReader::open(&dir.path().join("audit.log")).unwrap();
    let all: Vec<Entry> = reader.map(Result::unwrap).collect();
    for thread in 0..4 {
        let own: Vec<i64> = numbers(&all).into_iter().filter(|n| n / 1000 == thread).collect();
        assert_eq!(own, (0..250).map(|n| thread * 1000 + n).collect::<Vec<_>>());
    }
}

#[test]
fn overflow_is_counted_where_it_happened() {
    let sim = SimStorage::new();
    let writer = AuditWriter::spawn_on(sim.clone(), Options { max_entries: 3, ..Options::default() }).unwrap();
    let handle = writer.handle();
    sim.hold();
    let mut tickets = vec![handle.submit(&draft(0))];
    sim.await_held_sync();
    tickets.extend((1..10).map(|n| handle.submit(&draft(n))));
    assert!(tickets[..3].iter().all(|ticket| ticket.poll().is_none()));
    assert!(tickets[3..].iter().all(|ticket| ticket.poll() == Some(Err(WaitError::Full))));
    let Status::Degraded { pending: 3, dropped: 7, since, error } = handle.status() else {
        panic!("{:?}", handle.status())
    };
    assert_eq!((since.mono_ns, error.as_str()), (3, "audit queue was full"));
    sim.release();
    for ticket in &tickets[..3] {
        ticket.wait(SOON).unwrap();
    }
    until("space and the gap on record", || handle.status() == Status::Healthy);
    handle.submit(&draft(10)).wait(SOON).unwrap();
    let found = entries(&sim);
    assert_eq!(numbers(&found), [0, 1, 2, -1, 10]);
    let gap = &found[3].body;
    assert_eq!((&gap["cause"], &gap["dropped"]), (&json!("overflow"), &json!(7)));
    assert_eq!(gap["dropped_by_kind"], json!({"control": 7}));
    assert_eq!((&gap["first"]["mono_ns"], &gap["last"]["mono_ns"]), (&json!(3), &json!(9)));
    assert_eq!(handle.stats().dropped, 7);
}

#[test]
fn overflow_by_bytes() {
    let sim = SimStorage::new();
    let writer = AuditWriter::spawn_on(sim.clone(), Options { max_bytes: 2000, ..Options::default() }).unwrap();
    let handle = writer.handle();
    let big = Draft::new("run", Stamp::default(), json!({"x": "x".repeat(1500)}));
    sim.hold();
    let first = handle.submit(&big);
    assert_eq!(handle.submit(&big).wait(SOON), Err(WaitError::Full));
    let small = handle.submit(&draft(5));
    assert_eq!(handle.submit(&big).wait(SOON), Err(WaitError::Full));
    sim.release();
    first.wait(SOON).unwrap();
    small.wait(SOON).unwrap();
    writer.shutdown(SOON).unwrap();
    let kinds: Vec<String> = entries(&sim).into_iter().map(|e| e.kind).collect();
    assert_eq!(kinds, ["run", "gap", "control", "gap"]);
}

#[test]
fn full_disk_is_waited_out_and_reported() {
    let sim = SimStorage::new();
    let options = Options { retry_after: Duration::from_millis(30), max_entries: 20, ..Options::default() };
    let writer = AuditWriter::spawn_on(sim.clone(), options).unwrap();
    let handle = writer.handle();
    handle.submit(&draft(0)).wait(SOON).unwrap();
    sim.set_capacity(Some(sim.image().len() + 100));
    let tickets: Vec<_> = (1..30).map(|n| handle.submit(&draft(n))).collect();
    until("degraded", || matches!(&handle.status(), Status::Degraded { error, .. } if error.contains("No space left")));
    let Status::Degraded { pending: 20, dropped: 9, .. } = handle.status() else { panic!("{:?}", handle.status()) };
    assert_eq!(tickets[0].wait(Duration::from_millis(1)), Err(WaitError::Timeout));
    let failed = handle.stats().failed_commits;
    until("tried again by itself", || handle.stats().failed_commits > failed + 2);
    assert_eq!(entries(&sim).len(), 1, "nothing half written");
    sim.set_capacity(None);
    for (ticket, n) in tickets[..20].iter().zip(1..) {
        assert_eq!(ticket.wait(SOON).unwrap().index, n);
    }
    until("healthy", || handle.status() == Status::Healthy);
    handle.submit(&draft(30)).wait(SOON).unwrap();
    let found = entries(&sim);
    assert_eq!(numbers(&found[..21]), (0..21).collect::<Vec<_>>());
    let dropped: u64 = found.iter().filter_map(|e| e.body["dropped"].as_u64()).sum();
    assert_eq!((found[21].body["cause"].as_str(), dropped), (Some("overflow"), 9));
    let storage = found.iter().position(|e| e.body["cause"] == "storage").unwrap();
    assert!(storage > 21 && found.last().unwrap().body["n"] == 30);
    let gap = &found[storage].body;
    assert!(
        gap["error"].as_str().unwrap().contains("No space left") && gap["duration_ns"].as_u64().unwrap() > 30_000_000
    );
    assert_eq!(gap["delayed_first"], json!(1));
    assert!(gap["failed_commits"].as_u64().unwrap() >= 3 && gap["delayed"].as_u64().unwrap() >= 20);
}

#[test]
fn hanging_disk_shows_as_degraded_and_blocks_no_submitter() {
    let sim = SimStorage::new();
    let options = Options { stall_after: Duration::from_millis(20), ..Options::default() };
    let writer = AuditWriter::spawn_on(sim.clone(), options).unwrap();
    let handle = writer.handle();
    sim.hold();
    let first = handle.submit(&draft(0));
    sim.await_held_sync();
    until(
        "stall seen",
        || matches!(&handle.status(), Status::Degraded { error, .. } if error.contains("not returned")),
    );
    let began = Instant::now();
    let second = handle.submit(&draft(1));
    assert!(began.elapsed() < Duration::from_secs(1));
    let lost = writer.shutdown(Duration::from_millis(10)).unwrap_err();
    assert_eq!(lost.lost, 2);
    sim.release();
    assert_eq!(first.wait(SOON).unwrap().index, 0);
    // Past its deadline the writer may end before the second: but it must say which.
    match second.wait(SOON) {
        Ok(durable) => assert_eq!(durable.index, 1),
        Err(error) => assert_eq!(error, WaitError::Closed),
    }
}

#[test]
fn shutdown_on_a_full_disk_says_what_is_lost() {
    let sim = SimStorage::new();
    let writer = AuditWriter::spawn_on(sim.clone(), Options::default()).unwrap();
    let handle = writer.handle();
    sim.set_capacity(Some(sim.image().len()));
    let ticket = handle.submit(&draft(0));
    assert_eq!(writer.shutdown(Duration::from_millis(50)).unwrap_err().lost, 1);
    assert_eq!(ticket.wait(SOON), Err(WaitError::Closed));
}

#[test]
fn recovery_is_reported_and_observed() {
    let sim = SimStorage::new();
    AuditWriter::spawn_on(sim.clone(), Options::default()).unwrap().shutdown(SOON).unwrap();
    sim.tamper(|image| image.extend_from_slice(&[1, 2, 3]));
    let (send, seen) = mpsc::channel();
    let observer = Box::new(move |index, _| send.send(index).unwrap());
    let writer =
        AuditWriter::spawn_on(sim.clone(), Options { observer: Some(observer), ..Options::default() }).unwrap();
    assert_eq!(writer.recovery().dropped.as_ref().unwrap().bytes, 3);
    assert_eq!(seen.recv_timeout(SOON).unwrap(), 0);
    assert_eq!(entries(&sim)[0].kind, kind::RECOVERED);
}

#[test]
fn callbacks_are_called_once_with_the_outcome() {
    let sim = SimStorage::new();
    let writer = AuditWriter::spawn_on(sim, Options::default()).unwrap();
    let (send, outcomes) = mpsc::channel();
    let bad = Draft { body: json!(null), ..draft(0) };
    for draft in [draft(0), bad, draft(1)] {
        let send = send.clone();
        writer.handle().submit_then(&draft, move |outcome| send.send(outcome).unwrap());
    }
    drop(send);
    writer.shutdown(SOON).unwrap();
    let mut outcomes: Vec<_> =
        outcomes.iter().map(|outcome| outcome.map(|durable| durable.index).map_err(|e| e.to_string())).collect();
    outcomes.sort();
    assert_eq!(outcomes, [Ok(0), Ok(1), Err("audit draft refused: body is not a JSON object".to_owned())]);
}

//! Retention: segments are removed from the log's beginning by size and age, never those of a live run, and never without an
//! entry that has their hashes.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use failsafe_journal::segments::{REMOVED_FILE, sealed};
use failsafe_journal::storage::{LOG_FILE, Layout, LogFolder, Retention};
use failsafe_journal::verify::{Verdict, verify_folder};
use failsafe_journal::{AuditWriter, Draft, Entry, Options, Query, Search, Stamp, kind};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

fn layout(retention: Retention) -> Layout {
    Layout { segment_bytes: 4 << 10, reserve_bytes: 0, retention, ..Layout::default() }
}

/// Writes `n` entries about `run`, one after the other, at second `at`.
fn write(dir: &Path, retention: Retention, live: Option<&[&str]>, run: &str, n: usize, at: u64) {
    write_at(dir, retention, live, run, n, Stamp { wall_ns: at * SECOND, mono_ns: 1, boot_id: "b".into() });
}

fn write_at(dir: &Path, retention: Retention, live: Option<&[&str]>, run: &str, n: usize, stamp: Stamp) {
    let live = live.map(|runs| runs.iter().map(|run| (*run).to_owned()).collect::<BTreeSet<String>>());
    let shared = Arc::new(Mutex::new(live));
    let asked = Arc::clone(&shared);
    let options = Options {
        live: Some(Box::new(move || asked.lock().unwrap().clone())),
        clock: Box::new(stamp.clone()),
        ..Options::default()
    };
    let writer = AuditWriter::spawn_on(LogFolder::open(dir, layout(retention)).unwrap(), options).unwrap();
    for at in 0..n {
        let body = json!({ "n": at, "text": "x".repeat(200) });
        let ticket = writer.handle().submit(&Draft::new(kind::DECISION, stamp.clone(), body).run(run));
        ticket.wait(Duration::from_secs(10)).unwrap();
    }
    writer.shutdown(Duration::from_secs(10)).unwrap();
}

fn read(dir: &Path) -> Vec<Entry> {
    Search::open(&dir.join(LOG_FILE), Query::default()).unwrap().map(Result::unwrap).collect()
}

fn bytes(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

const SMALL: Retention = Retention { max_bytes: 20 << 10, max_age_ns: u64::MAX };

#[test]
fn a_log_stays_within_its_size_and_names_what_was_removed_by_its_hash() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, SMALL, Some(&[]), "flood", 400, 1);
    // Indices and summaries lie beside the segments.
    assert!(bytes(dir) < 60 << 10, "{} bytes", bytes(dir));
    let report = verify_folder(dir, None).unwrap();
    assert_eq!(report.verdict, Verdict::Ok);
    let removed = report.removed.unwrap();
    assert!(removed.entries > 100 && report.first == removed.entries, "{removed:?}");
    let entries = read(dir);
    assert_eq!(entries.first().map(|entry| (entry.index, entry.prev)), Some((removed.entries, removed.head)));
    let named: Vec<&Entry> = entries.iter().filter(|entry| entry.body.get("removed").is_some()).collect();
    let last = &named.last().unwrap().body["removed"];
    assert_eq!(last["head"], hex::encode(removed.head));
    assert_eq!(
        last["segments"].as_array().unwrap().last().unwrap()["summary_sha256"],
        hex::encode(removed.last_summary)
    );
    assert!(last["kinds"]["decision"].as_u64() > Some(0), "{last}");
    // The next daemon goes on behind it.
    write(dir, SMALL, Some(&[]), "later", 5, 2);
    assert_eq!(verify_folder(dir, None).unwrap().verdict, Verdict::Ok);
    assert_eq!(read(dir).last().unwrap().run.as_deref(), Some("later"));
}

#[test]
fn nothing_of_a_live_run_is_removed_and_nothing_while_the_live_runs_are_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, SMALL, Some(&["victim"]), "early", 40, 1);
    write(dir, SMALL, Some(&["victim"]), "victim", 3, 2);
    write(dir, SMALL, Some(&["victim"]), "flood", 300, 3);
    let of = |run: &str| read(dir).iter().filter(|entry| entry.run.as_deref() == Some(run)).count();
    assert_eq!(of("victim"), 3, "a flood does not push out what a live run needs");
    assert!(of("early") < 40);
    let before = sealed(dir);
    write(dir, SMALL, None, "flood", 50, 4);
    assert_eq!(sealed(dir)[..before.len()], before[..], "not known yet: nothing is removed");
    write(dir, SMALL, Some(&[]), "flood", 50, 5);
    assert_eq!(of("victim"), 0, "it has ended");
    assert!(bytes(dir) < 60 << 10);
}

#[test]
fn old_segments_are_removed_and_an_interrupted_removal_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let old = Retention { max_bytes: u64::MAX, max_age_ns: 100 * SECOND };
    write(dir, old, Some(&[]), "old", 100, 1);
    let kept: Vec<(std::path::PathBuf, Vec<u8>)> = sealed(dir)
        .iter()
        .map(|first| failsafe_journal::segments::segment_path(dir, *first))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    assert!(kept.len() > 3);
    write(dir, old, Some(&[]), "new", 1, 102);
    assert!(dir.join(REMOVED_FILE).exists() && sealed(dir).is_empty());
    assert!(read(dir).iter().all(|entry| entry.index >= 90), "only the last file is left");
    // A crash between removed.json and the last file.
    let (path, bytes) = kept.last().unwrap();
    std::fs::write(path, bytes).unwrap();
    write(dir, old, Some(&[]), "new", 1, 103);
    assert!(sealed(dir).is_empty());
    assert_eq!(verify_folder(dir, None).unwrap().verdict, Verdict::Ok);
}

#[test]
fn a_clock_that_jumps_removes_nothing_because_of_its_age_and_is_recorded_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let old = Retention { max_bytes: u64::MAX, max_age_ns: 365 * 86_400 * SECOND };
    write(dir, old, Some(&[]), "new", 100, 1);
    let before = sealed(dir);
    let years = 2 * 366 * 86_400;
    let wrong = |mono: u64| Stamp { wall_ns: (years + mono) * SECOND, mono_ns: mono * SECOND, boot_id: "b".into() };
    // Each is a start of the daemon.
    write_at(dir, old, Some(&[]), "wrong", 2, wrong(10));
    write_at(dir, old, Some(&[]), "wrong", 2, wrong(20));
    assert_eq!(sealed(dir), before);
    let gaps = |dir: &Path| read(dir).iter().filter(|entry| entry.body["cause"] == "clock").count();
    assert_eq!(gaps(dir), 1, "it is recorded once");
    // The size counts as before.
    let small = Retention { max_bytes: bytes(dir) / 2, ..old };
    write_at(dir, small, Some(&[]), "wrong", 2, wrong(30));
    assert!(sealed(dir).len() < before.len() && !sealed(dir).is_empty());
    let left = sealed(dir);
    write(dir, old, Some(&[]), "right", 2, 40);
    assert_eq!((sealed(dir)[0], gaps(dir)), (left[0], 1));
    // A day later it is the time.
    write_at(dir, old, Some(&[]), "late", 2, wrong(50));
    assert_eq!(sealed(dir)[0], left[0]);
    write_at(dir, old, Some(&[]), "late", 2, wrong(86_500));
    assert!(sealed(dir).first() > left.first(), "{:?}", sealed(dir));
    assert_eq!(verify_folder(dir, None).unwrap().verdict, Verdict::Ok);
}

#[test]
fn a_handle_tells_whether_the_wall_clock_can_be_right_now() {
    let dir = tempfile::tempdir().unwrap();
    let stamp = |wall: u64, mono: u64| Stamp { wall_ns: wall * SECOND, mono_ns: mono * SECOND, boot_id: "b".into() };
    let options = Options {
        live: Some(Box::new(|| Some(BTreeSet::new()))),
        clock: Box::new(stamp(1_000, 10)),
        ..Options::default()
    };
    let writer = AuditWriter::spawn_on(LogFolder::open(dir.path(), layout(SMALL)).unwrap(), options).unwrap();
    let handle = writer.handle();
    let draft = Draft::new(kind::DECISION, stamp(1_000, 10), json!({}));
    handle.submit(&draft).wait(Duration::from_secs(10)).unwrap();
    writer.shutdown(Duration::from_secs(10)).unwrap();
    let day = 86_400;
    assert!(handle.believes_clock(&stamp(1_000 + day, 10)), "a correction of less than a day");
    assert!(handle.believes_clock(&stamp(1_000 + 9 * day, 10 + 9 * day)), "the clock that goes on");
    assert!(!handle.believes_clock(&stamp(1_001 + day, 10)), "a jump");
    // Asking changes nothing.
    assert!(!handle.believes_clock(&stamp(1_002 + day, 11)));
    assert!(handle.believes_clock(&stamp(1_001, 11)));
}

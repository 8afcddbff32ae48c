//! `removed.json` counts only as far as an entry of the log states the removal: who can write to the folder can write it too.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests; a failed unwrap is a failed test")]

mod support;

use failsafe_journal::segments::{Catalog, REMOVED_FILE, Removed, sealed, segment_path};
use failsafe_journal::storage::{LOG_FILE, Layout, LogFolder, Retention};
use failsafe_journal::verify::verify_folder;
use failsafe_journal::{AuditLog, Draft, Query, Recovery, Search, Verdict};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use support::{signer, stamp};

const ALL: Retention = Retention { max_bytes: u64::MAX, max_age_ns: u64::MAX };
const SMALL: Retention = Retention { max_bytes: 20 << 10, max_age_ns: u64::MAX };

fn open(dir: &Path, retention: Retention) -> (AuditLog<LogFolder>, Recovery) {
    let latest = dir.with_extension("checkpoint");
    let checkpoint = Some((latest, failsafe_tlog::Keys::of(vec![signer().1])));
    let heads = vec![dir.with_extension("head.json")];
    let layout = Layout { segment_bytes: 4 << 10, reserve_bytes: 0, retention, checkpoint, heads, ..Layout::default() };
    AuditLog::open(LogFolder::open(dir, layout).unwrap(), &stamp(0)).unwrap()
}

fn write(log: &mut AuditLog<LogFolder>, entries: u64) {
    for n in 0..entries {
        log.append(&Draft::new("decision", stamp(n), json!({ "n": n, "text": "x".repeat(200) }))).unwrap();
        log.commit().unwrap();
        if log.seal_if_due(stamp(n)) {
            log.sign(&signer(), true).unwrap();
            log.commit().unwrap();
            log.retain(stamp(n), &|_| false).unwrap();
        }
    }
    log.sign(&signer(), false).unwrap();
}

/// A log of which nothing, or its beginning, was removed.
fn filled(retention: Retention) -> (tempfile::TempDir, PathBuf) {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("audit");
    write(&mut open(&dir, retention).0, 120);
    assert_eq!(verify_folder(&dir, None).unwrap().verdict, Verdict::Ok);
    (keep, dir)
}

/// What somebody writes who read the summaries: with everything of it right, but for the entry.
fn forged(dir: &Path, segments: usize) -> Removed {
    let catalog = Catalog::load(dir);
    let last = catalog.segments[segments - 1].summary.as_ref().unwrap();
    Removed {
        segments: segments as u64,
        entries: last.end().next_index,
        head: last.head,
        last_summary: last.hash,
        wall_ns: 1,
        why: "older than 31536000 s".into(),
        entry: Some(last.end().next_index + 1),
    }
}

fn plant(dir: &Path, removed: &Removed) {
    fs::write(dir.join(REMOVED_FILE), serde_json::to_vec(removed).unwrap()).unwrap();
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| !path.ends_with(LOG_FILE)).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn tampered(dir: &Path) -> String {
    match verify_folder(dir, None).unwrap().verdict {
        Verdict::Segment(why) => why,
        Verdict::Tampered(problem) => problem.to_string(),
        other => panic!("{other:?}"),
    }
}

fn integrity(dir: &Path) -> Vec<String> {
    let entries = Search::open(&dir.join(LOG_FILE), Query::default()).unwrap().map(Result::unwrap);
    let gaps = entries.filter(|entry| entry.kind == "gap" && entry.body["cause"] == "integrity");
    gaps.map(|entry| entry.body["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_removal_that_no_entry_states_removes_nothing_and_is_reported() {
    let at_a_border = |dir: &Path| forged(dir, 3);
    let elsewhere = |dir: &Path| Removed { entries: forged(dir, 3).entries - 1, ..forged(dir, 3) };
    let behind_all = |dir: &Path| Removed { entries: u64::MAX, entry: None, ..forged(dir, 3) };
    type Forge = fn(&Path) -> Removed;
    let cases: [(&str, Forge); 3] = [("border", at_a_border), ("elsewhere", elsewhere), ("behind all", behind_all)];
    for (what, forge) in cases {
        let (_keep, dir) = filled(ALL);
        let before = files(&dir);
        let removed = forge(&dir);
        plant(&dir, &removed);
        tampered(&dir);
        let recovery = open(&dir, ALL).1;
        assert!(recovery.findings.iter().any(|f| f.contains("the daemon did not write it")), "{what}: {recovery:?}");
        assert_eq!(recovery.findings, integrity(&dir), "{what}");
        let mut after = files(&dir);
        let aside = after.remove(&dir.join(format!("{REMOVED_FILE}.aside-1")));
        assert_eq!(serde_json::from_slice::<Removed>(&aside.unwrap()).unwrap(), removed, "{what}: evidence is kept");
        assert_eq!(after, before, "{what}");
        assert_eq!(verify_folder(&dir, None).unwrap().verdict, Verdict::Ok, "{what}: the log is whole");
        assert_eq!(open(&dir, ALL).1.findings, [""; 0], "{what}: it is reported once");
    }
}

#[test]
fn segments_that_somebody_else_deleted_are_missed() {
    let (_keep, dir) = filled(ALL);
    let removed = forged(&dir, 1);
    plant(&dir, &removed);
    fs::remove_file(segment_path(&dir, 0)).unwrap();
    assert!(tampered(&dir).contains("no entry of the log states that"));
    let (mut log, recovery) = open(&dir, ALL);
    assert!(recovery.findings[0].contains("the entries before it are missing"), "{recovery:?}");
    assert_eq!(integrity(&dir), recovery.findings);
    // What is left stays readable, and the finding stays.
    write(&mut log, 10);
    drop(log);
    assert!(tampered(&dir).contains("no entry of the log states that"));
    assert!(open(&dir, ALL).1.findings[0].contains("are missing"));
}

#[test]
fn every_field_of_a_removal_is_that_of_its_entry() {
    let (_keep, dir) = filled(SMALL);
    let text = fs::read_to_string(dir.join(REMOVED_FILE)).unwrap();
    let whole: Value = serde_json::from_str(&text).unwrap();
    let changed = [
        ("segments", json!(99)),
        ("last_summary", json!("00".repeat(32))),
        ("wall_ns", json!(5)),
        ("why", json!("other")),
        ("entry", json!(whole["entry"].as_u64().unwrap() - 1)),
    ];
    for (field, value) in changed {
        let mut other = whole.clone();
        other[field] = value;
        fs::write(dir.join(REMOVED_FILE), other.to_string()).unwrap();
        let before = sealed(&dir);
        if field != "entry" {
            tampered(&dir);
        }
        let recovery = open(&dir, ALL).1;
        assert!(recovery.findings.iter().any(|f| f.contains("no entry of the log states")), "{field}: {recovery:?}");
        assert_eq!(sealed(&dir), before, "{field}");
    }
    // A file of the versions before it named the entry.
    let mut earlier = whole;
    earlier.as_object_mut().unwrap().remove("entry");
    fs::write(dir.join(REMOVED_FILE), earlier.to_string()).unwrap();
    assert_eq!(open(&dir, ALL).1.findings, [""; 0]);
    assert_eq!(verify_folder(&dir, None).unwrap().verdict, Verdict::Ok);
}

#[test]
fn a_removal_that_was_planted_while_the_daemon_runs_is_not_followed() {
    let (_keep, dir) = filled(ALL);
    let (mut log, _) = open(&dir, SMALL);
    let all = sealed(&dir).len();
    let planted = forged(&dir, sealed(&dir).len() - 1);
    plant(&dir, &planted);
    write(&mut log, 1);
    log.retain(stamp(500), &|_| false).unwrap();
    let named: Vec<Value> = Search::open(&dir.join(LOG_FILE), Query::default())
        .unwrap()
        .filter_map(|entry| entry.unwrap().body["removed"]["segments"].as_array().cloned())
        .flatten()
        .collect();
    let left = sealed(&dir);
    assert!(left.len() < all && left.len() > 1, "{left:?}");
    assert_eq!(named.len(), all - left.len(), "each is named by an entry");
    assert_eq!(verify_folder(&dir, None).unwrap().verdict, Verdict::Ok);
}

#[test]
fn an_interrupted_removal_is_finished_only_if_the_log_is_in_order() {
    let (keep, dir) = filled(ALL);
    let copy = keep.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for first in sealed(&dir) {
        fs::copy(segment_path(&dir, first), segment_path(&copy, first)).unwrap();
    }
    open(&dir, SMALL).0.retain(stamp(500), &|_| false).unwrap();
    let begin = sealed(&dir)[0];
    let restore = || {
        for first in sealed(&copy).into_iter().filter(|first| *first < begin) {
            fs::copy(segment_path(&copy, first), segment_path(&dir, first)).unwrap();
        }
    };
    restore();
    let head = dir.with_extension("head.json");
    let noted = fs::read_to_string(&head).unwrap();
    fs::write(&head, noted.replacen("\"entries\":", "\"entries\":1", 1)).unwrap();
    let recovery = open(&dir, SMALL).1;
    assert!(!recovery.findings.is_empty());
    assert_eq!(sealed(&dir)[0], 0, "evidence is not removed: {recovery:?}");
    assert_eq!(open(&dir, SMALL).1.findings, [""; 0]);
    assert_eq!(sealed(&dir)[0], begin, "the removal is finished");
    // The entry is in a sealed segment by now.
    write(&mut open(&dir, ALL).0, 60);
    restore();
    assert_eq!(open(&dir, ALL).1.findings, [""; 0]);
    assert_eq!(sealed(&dir)[0], begin);
    assert_eq!(verify_folder(&dir, None).unwrap().verdict, Verdict::Ok);
}

//! The log's folder: sealing, the index, reading across segments, crashes between the steps, and a log that is not the one that
//! was written last.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use failsafe_journal::head::HeadFile;
use failsafe_journal::segments::{self, CATALOG_FILE, Catalog, index_path, segment_path, summary_path};
use failsafe_journal::storage::{LOG_FILE, Layout, LogFolder};
use failsafe_journal::verify::verify_folder;
use failsafe_journal::{AuditLog, Draft, Entry, Filter, Query, Search, Stamp, Verdict, verify};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

fn stamp(n: u64) -> Stamp {
    Stamp { wall_ns: 1_000 + n, mono_ns: n, boot_id: "b".into() }
}

fn layout(dir: &Path) -> Layout {
    Layout { segment_bytes: 4_096, heads: vec![head(dir)], fresh: None, reserve_bytes: 0, ..Layout::default() }
}

fn head(dir: &Path) -> PathBuf {
    dir.with_extension("head.json")
}

fn open(dir: &Path) -> AuditLog<LogFolder> {
    AuditLog::open(LogFolder::open(dir, layout(dir)).unwrap(), &stamp(0)).unwrap().0
}

/// Entry n is about run n % 7, and every tenth about an incident.
fn write(log: &mut AuditLog<LogFolder>, from: u64, to: u64) {
    for n in from..to {
        let mut draft = Draft::new(if n.is_multiple_of(2) { "gap" } else { "outcome" }, stamp(n), json!({ "n": n }));
        draft.run = Some(format!("run-{}", n % 7));
        draft.incident = n.is_multiple_of(10).then(|| format!("inc-{n}"));
        log.append(&draft).unwrap();
        log.commit().unwrap();
        if log.seal_if_due(stamp(n)) {
            log.commit().unwrap();
        }
    }
}

fn found(dir: &Path, query: Query) -> Vec<Entry> {
    Search::open(&dir.join(LOG_FILE), query).unwrap().map(Result::unwrap).collect()
}

/// The `n` of entries that [`write`] made.
fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().filter_map(|e| e.body.get("n")?.as_u64()).collect()
}

fn filled(entries: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit");
    write(&mut open(&log), 0, entries);
    (dir, log)
}

#[test]
fn every_entry_is_read_in_order_across_segments() {
    let (_keep, dir) = filled(300);
    assert!(segments::sealed(&dir).len() > 5);
    assert!(Catalog::load(&dir).problems.is_empty());
    let all = found(&dir, Query::default());
    assert_eq!(numbers(&all), (0..300).collect::<Vec<_>>());
    assert_eq!(all.iter().map(|e| e.index).collect::<Vec<_>>(), (0..all.len() as u64).collect::<Vec<_>>());
    let report = verify(&dir).unwrap();
    assert_eq!((report.verdict, report.entries), (Verdict::Ok, all.len() as u64));
    for from in [0, 1, 57, 200, all.len() as u64 - 1] {
        assert_eq!(found(&dir, Query { from, ..Query::default() }).first().map(|e| e.index), Some(from));
    }
}

#[test]
fn what_is_about_a_run_or_an_incident_is_found_by_the_index() {
    let (_keep, dir) = filled(300);
    let of = |filter: Filter| numbers(&found(&dir, Query { filter, ..Query::default() }));
    let run = Filter { run: Some("run-3".into()), ..Filter::default() };
    assert_eq!(of(run.clone()), (0..300).filter(|n| n % 7 == 3).collect::<Vec<_>>());
    assert_eq!(of(Filter { incident: Some("inc-40".into()), ..Filter::default() }), [40]);
    let time = Filter { since_ns: Some(1_100), until_ns: Some(1_103), kinds: vec!["gap".into()], ..Filter::default() };
    assert_eq!(of(time), [100, 102]);
    let tail = |tail, filter| numbers(&found(&dir, Query { tail: Some(tail), filter, ..Query::default() }));
    assert_eq!(tail(3, Filter::default()), [297, 298, 299]);
    assert_eq!(tail(2, run.clone()), [290, 297]);
    assert_eq!(tail(30, run.clone()).len(), 30, "from several segments");
    assert_eq!(tail(9_999, run).len(), 43);
    assert_eq!(tail(0, Filter::default()), [0; 0]);
}

#[test]
fn segments_that_have_nothing_of_a_run_are_not_opened() {
    let (_keep, dir) = filled(300);
    let mut log = open(&dir);
    let draft = Draft::new("run", stamp(1), json!({ "n": 7_777 })).run("late");
    log.append(&draft).unwrap();
    log.commit().unwrap();
    for first in segments::sealed(&dir) {
        // Of the same size, so that the summary still fits: who opens it finds zeros.
        let len = fs::metadata(segment_path(&dir, first)).unwrap().len();
        fs::write(segment_path(&dir, first), vec![0; usize::try_from(len).unwrap()]).unwrap();
    }
    let filter = Filter { run: Some("late".into()), ..Filter::default() };
    assert_eq!(numbers(&found(&dir, Query { filter: filter.clone(), ..Query::default() })), [7_777]);
    assert_eq!(numbers(&found(&dir, Query { filter, tail: Some(1), ..Query::default() })), [7_777]);
    assert_eq!(numbers(&found(&dir, Query { tail: Some(1), ..Query::default() })), [7_777]);
    assert!(matches!(verify(&dir).unwrap().verdict, Verdict::Segment(_)));
    // Nor does opening the log read them.
    drop(log);
    let (_log, recovery) = AuditLog::open(LogFolder::open(&dir, layout(&dir)).unwrap(), &stamp(0)).unwrap();
    assert_eq!(recovery.findings, [""; 0]);
}

#[test]
fn an_index_that_was_changed_hides_nothing() {
    let (_keep, dir) = filled(300);
    let wanted: Vec<u64> = (0..300).filter(|n| n % 7 == 3).collect();
    let query = || Query { filter: Filter { run: Some("run-3".into()), ..Filter::default() }, ..Query::default() };
    let [a, b, c] = segments::sealed(&dir)[..3] else { panic!() };
    fs::copy(index_path(&dir, b), index_path(&dir, a)).unwrap();
    fs::remove_file(index_path(&dir, b)).unwrap();
    let path = summary_path(&dir, c);
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("run-3", "run-9")).unwrap();
    // By the catalog, and by the summaries alone.
    let catalog = fs::read(dir.join(CATALOG_FILE)).unwrap();
    for by_summaries in [false, true] {
        if by_summaries {
            fs::remove_file(dir.join(CATALOG_FILE)).unwrap();
        }
        assert_eq!(numbers(&found(&dir, query())), wanted);
        assert_eq!(found(&dir, Query { tail: Some(40), ..query() }).len(), 40);
        assert_eq!(Catalog::load(&dir).problems.is_empty(), !by_summaries);
    }
    fs::write(dir.join(CATALOG_FILE), catalog).unwrap();
    assert!(matches!(verify(&dir).unwrap().verdict, Verdict::Segment(_)));
    // The next start makes them again.
    let (_log, recovery) = AuditLog::open(LogFolder::open(&dir, layout(&dir)).unwrap(), &stamp(0)).unwrap();
    assert!(recovery.findings.iter().any(|f| f.contains("made again")), "{:?}", recovery.findings);
    assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok);
    assert_eq!(numbers(&found(&dir, query())), wanted);
}

/// A log of the versions before segments: one file of any size.
#[test]
fn a_log_in_one_file_becomes_the_first_segment_as_it_is() {
    let (_keep, dir) = {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("audit");
        let whole = Layout { segment_bytes: u64::MAX, ..layout(&log) };
        let mut file = AuditLog::open(LogFolder::open(&log, whole).unwrap(), &stamp(0)).unwrap().0;
        write(&mut file, 0, 300);
        (dir, log)
    };
    let before = fs::read(dir.join(LOG_FILE)).unwrap();
    write(&mut open(&dir), 300, 310);
    let sealed = fs::read(segment_path(&dir, 0)).unwrap();
    assert!(sealed.starts_with(&before), "not a byte is rewritten");
    assert_eq!(numbers(&found(&dir, Query::default())), (0..310).collect::<Vec<_>>());
    assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok);
}

#[test]
fn a_crash_between_the_steps_of_sealing_loses_nothing() {
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    let (keep, dir) = filled(200);
    let (last, begin) = (*segments::sealed(&dir).last().unwrap(), boundary(&dir));
    type Step = fn(&Path, u64);
    let steps: [(&str, Step); 4] = [
        ("before the first rename", |dir, last| {
            fs::remove_file(dir.join(LOG_FILE)).unwrap();
            fs::rename(segment_path(dir, last), dir.join(LOG_FILE)).unwrap();
        }),
        ("with the next file written", |dir, last| {
            fs::rename(dir.join(LOG_FILE), dir.join("audit.log.next")).unwrap();
            fs::rename(segment_path(dir, last), dir.join(LOG_FILE)).unwrap();
        }),
        ("between the renames", |dir, _| fs::remove_file(dir.join(LOG_FILE)).unwrap()),
        ("without summary and index", |dir, last| {
            fs::remove_file(summary_path(dir, last)).unwrap();
            fs::remove_file(index_path(dir, last)).unwrap();
        }),
    ];
    for (what, step) in steps {
        let crashed = keep.path().join(what.replace(' ', "-"));
        copy(&dir, &crashed);
        step(&crashed, last);
        let kept = match what {
            "without summary and index" => 200,
            // What was written behind the boundary is in no state before it.
            _ => {
                let mut entries = found(&dir, Query::default());
                entries.retain(|entry| entry.index < begin);
                numbers(&entries).len() as u64
            }
        };
        write(&mut open(&crashed), kept, 260);
        assert_eq!(numbers(&found(&crashed, Query::default())), (0..260).collect::<Vec<_>>(), "{what}");
        assert_eq!(verify(&crashed).unwrap().verdict, Verdict::Ok, "{what}");
        assert!(Catalog::load(&crashed).problems.is_empty(), "{what}");
    }
}

/// Index of the first entry of `audit.log`.
fn boundary(dir: &Path) -> u64 {
    Catalog::load(dir).end().unwrap().next_index
}

#[test]
fn a_reader_goes_on_when_the_file_is_sealed_under_it() {
    let (_keep, dir) = filled(10);
    let mut all = Search::open(&dir.join(LOG_FILE), Query::default()).unwrap();
    let filter = Filter { run: Some("run-3".into()), ..Filter::default() };
    let mut of_run = Search::open(&dir.join(LOG_FILE), Query { filter, ..Query::default() }).unwrap();
    let mut log = open(&dir);
    let (mut seen, mut seen_of_run) = (Vec::new(), Vec::new());
    for to in [10, 20, 90, 91, 400] {
        let from = seen.len() as u64;
        write(&mut log, from.max(10), to);
        seen.extend(numbers(&all.by_ref().map(Result::unwrap).collect::<Vec<_>>()));
        seen_of_run.extend(numbers(&of_run.by_ref().map(Result::unwrap).collect::<Vec<_>>()));
        assert_eq!(seen, (0..to).collect::<Vec<_>>());
        assert_eq!(seen_of_run, (0..to).filter(|n| n % 7 == 3).collect::<Vec<_>>());
    }
}

/// M4: each of these is a valid log in itself.
#[test]
fn a_log_that_is_not_the_last_one_is_reported_in_the_first_new_entry() {
    type Change = fn(&Path, &[u8]);
    let cases: [(&str, Change, &str); 4] = [
        ("emptied", |dir, _| fs::write(dir.join(LOG_FILE), "").unwrap(), "last 4"),
        ("deleted", |dir, _| fs::remove_file(dir.join(LOG_FILE)).unwrap(), "last 4"),
        ("an older copy", |dir, older| fs::write(dir.join(LOG_FILE), older).unwrap(), "last 2 entries are missing"),
        ("all deleted", |dir, _| fs::remove_dir_all(dir).unwrap(), "empty or was deleted"),
    ];
    for (what, change, words) in cases {
        let (_keep, dir) = filled(100);
        let mut log = open(&dir);
        let begin = boundary(&dir);
        let held = found(&dir, Query { from: begin, ..Query::default() }).len();
        write(&mut log, 100, 102);
        let older = fs::read(dir.join(LOG_FILE)).unwrap();
        write(&mut log, 102, 104);
        assert_eq!(boundary(&dir), begin, "no sealing in between");
        drop(log);
        change(&dir, &older);
        let noted = HeadFile::read(&head(&dir)).unwrap();
        assert!(noted.is_some());
        match verify_folder(&dir, noted).map(|r| r.verdict) {
            Ok(Verdict::Shortened(_) | Verdict::Empty) | Err(_) => {}
            other => panic!("{what}: {other:?}"),
        }
        let (_log, recovery) = AuditLog::open(LogFolder::open(&dir, layout(&dir)).unwrap(), &stamp(0)).unwrap();
        let words = words.replace("last 4", &format!("last {} entries are missing", held + 4));
        assert!(recovery.findings.iter().any(|f| f.contains(&words)), "{what}: {:?}", recovery.findings);
        let first = found(&dir, Query { from: recovery.entries, ..Query::default() }).remove(0);
        assert_eq!((first.kind.as_str(), first.body["cause"].as_str()), ("gap", Some("integrity")), "{what}");
        assert!(first.body["what"].as_str().unwrap().contains(&words), "{what}");
    }
}

#[test]
fn a_log_that_is_longer_than_the_noted_head_is_in_order() {
    let (_keep, dir) = filled(50);
    let noted = fs::read(head(&dir)).unwrap();
    write(&mut open(&dir), 50, 150);
    fs::write(head(&dir), noted).unwrap();
    let (_log, recovery) = AuditLog::open(LogFolder::open(&dir, layout(&dir)).unwrap(), &stamp(0)).unwrap();
    assert_eq!(recovery.findings, [""; 0]);
}

#[test]
fn other_files_are_not_called_tampered_logs() {
    let (keep, dir) = filled(20);
    let json = keep.path().join("events.json");
    let lines: Vec<String> =
        found(&dir, Query::default()).iter().map(|e| String::from_utf8(e.bytes.to_vec()).unwrap()).collect();
    fs::write(&json, lines.join("\n")).unwrap();
    let verdict = |path: &Path| failsafe_journal::verify::verify_file(path).unwrap().verdict;
    assert!(matches!(verdict(&json), Verdict::NotALog(what) if what.contains("events -o json")));
    fs::write(&json, "").unwrap();
    assert_eq!(verdict(&json), Verdict::Empty);
    fs::write(&json, "something else").unwrap();
    assert!(matches!(verdict(&json), Verdict::NotALog(_)));
    let mut log = fs::read(dir.join(LOG_FILE)).unwrap();
    log[0] ^= 1;
    fs::write(&json, log).unwrap();
    assert!(matches!(verdict(&json), Verdict::Tampered(_)), "its entries show what it was");
}

//! What a start and a query read, and catalogs that somebody made to hide entries.

use super::catalog_file::{CATALOG_FILE, CatalogFile};
use super::{Catalog, sealed, summary_path};
use crate::storage::bounded::counted;
use crate::storage::{LOG_FILE, Layout, LogFolder};
use crate::{AuditLog, Draft, Filter, Query, Recovery, Search, Stamp};
use serde_json::json;
use std::fs;
use std::path::Path;

const EACH: u64 = 4;

fn stamp(n: u64) -> Stamp {
    Stamp { wall_ns: 1_000 + n, mono_ns: n, boot_id: "b".into() }
}

fn open(dir: &Path) -> (AuditLog<LogFolder>, Recovery) {
    let layout = Layout { segment_bytes: 1, reserve_bytes: 0, ..Layout::default() };
    AuditLog::open(LogFolder::open(dir, layout).unwrap(), &stamp(0)).unwrap()
}

/// Each segment has four entries about a run of its own, one of them about an incident.
fn filled(segments: u64) -> tempfile::TempDir {
    // Where syncing costs nothing, if there is such a place.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (mut log, _) = open(dir.path());
    for n in 0..(segments + 1) * EACH {
        let run = n / EACH;
        let mut draft = Draft::new("decision", stamp(n), json!({ "n": n })).run(format!("run-{run}"));
        draft.incident = n.is_multiple_of(EACH).then(|| format!("incident-{run}"));
        log.append(&draft).unwrap();
        if n % EACH == EACH - 1 {
            log.commit().unwrap();
            if run < segments {
                assert!(log.seal_if_due(stamp(n)));
            }
        }
    }
    assert_eq!(sealed(dir.path()).len() as u64, segments);
    dir
}

/// Files and bytes that are read by a start of the daemon and by several queries.
fn costs(dir: &Path) -> Vec<(&'static str, (u64, u64))> {
    let query = |query: Query| {
        counted::take();
        let found = Search::open(&dir.join(LOG_FILE), query).unwrap().map(Result::unwrap).count();
        (found, counted::take())
    };
    let of = |filter: Filter| query(Query { filter, ..Query::default() });
    counted::take();
    let (log, recovery) = open(dir);
    let start = counted::take();
    assert_eq!(recovery.findings, [""; 0]);
    drop(log);
    let tail = query(Query { tail: Some(10), ..Query::default() });
    let run = of(Filter { run: Some("run-3".into()), ..Filter::default() });
    let runs = of(Filter { runs: Some(["run-3", "run-5", "none"].map(str::to_owned).into()), ..Filter::default() });
    let incident = of(Filter { incident: Some("incident-2".into()), ..Filter::default() });
    let time = of(Filter { since_ns: Some(1_003), until_ns: Some(1_007), ..Filter::default() });
    let none = of(Filter { kinds: vec!["drill".into()], ..Filter::default() });
    let from = query(Query { from: u64::MAX, ..Query::default() });
    let found = [tail.0, run.0, runs.0, incident.0, time.0, none.0, from.0];
    assert_eq!(found, [10, 4, 8, 1, 5, 0, 0]);
    vec![
        ("start", start),
        ("tail", tail.1),
        ("run", run.1),
        ("runs", runs.1),
        ("incident", incident.1),
        ("time", time.1),
        ("none", none.1),
        ("from", from.1),
    ]
}

#[test]
fn a_start_and_a_query_read_no_more_of_a_thousand_segments_than_of_ten_but_the_catalog() {
    let (small, large) = (filled(10), filled(1_000));
    let catalog = |dir: &Path| fs::metadata(dir.join(CATALOG_FILE)).unwrap().len();
    let grown = catalog(large.path()) - catalog(small.path());
    // Four marks of names: run, incident, and two kinds.
    assert_eq!(grown, 990 * (4 + 144 + 1 + 4 * 4));
    for ((what, (files, bytes)), (_, (more_files, more_bytes))) in
        costs(small.path()).into_iter().zip(costs(large.path()))
    {
        assert_eq!(more_files, files, "files that {what} opens");
        // Indices and names have more digits.
        assert!(more_bytes <= bytes + grown + 1_024, "{what} reads {more_bytes} bytes, and {bytes} of ten segments");
        assert!(more_bytes >= bytes + grown, "{what}: the catalog is read");
    }
}

#[test]
fn a_catalog_that_is_made_without_a_run_or_a_segment_does_not_hide_it() {
    let dir = filled(10);
    let dir = dir.path();
    let of_run = || {
        let filter = Filter { run: Some("run-3".into()), ..Filter::default() };
        Search::open(&dir.join(LOG_FILE), Query { filter, ..Query::default() }).unwrap().flatten().count()
    };
    assert_eq!(of_run(), 4);
    let catalog = Catalog::load(dir);
    let briefs = catalog.briefs().unwrap();
    // Another run in place of the third, all links as they must be.
    let mut summary = briefs[3].summary(dir).unwrap();
    summary.runs = [("run-0".to_owned(), 4)].into();
    let mut head = summary.clone();
    head.runs.clear();
    let names = super::Names::of(&summary);
    let other = super::Brief::listed(&head, (briefs[3].hash, briefs[3].summary_bytes), names);
    let mut changed = briefs.clone();
    changed[3] = &other;
    CatalogFile::make(dir, &changed).unwrap();
    assert_eq!(of_run(), 4, "without the run");
    for left_out in [0, 3, 9] {
        let mut fewer = briefs.clone();
        fewer.remove(left_out);
        CatalogFile::make(dir, &fewer).unwrap();
        assert_eq!(of_run(), 4, "without segment {left_out}");
        assert_eq!(Search::open(&dir.join(LOG_FILE), Query::default()).unwrap().flatten().count(), 54);
    }
    // The next start finds it out.
    let (log, recovery) = open(dir);
    assert!(recovery.findings.iter().any(|found| found.contains(CATALOG_FILE)), "{:?}", recovery.findings);
    drop(log);
    assert_eq!(of_run(), 4);
}

#[test]
fn a_segment_with_too_many_names_is_looked_up_in_its_summary() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (mut log, _) = open(dir);
    for n in 0..1_500 {
        log.append(&Draft::new("decision", stamp(n), json!({})).run(format!("run-{n}"))).unwrap();
    }
    log.commit().unwrap();
    assert!(log.seal_if_due(stamp(0)));
    log.commit().unwrap();
    assert!(fs::metadata(dir.join(CATALOG_FILE)).unwrap().len() < 200);
    let found = |run: &str| {
        let filter = Filter { run: Some(run.into()), ..Filter::default() };
        counted::take();
        let found = Search::open(&dir.join(LOG_FILE), Query { filter, ..Query::default() }).unwrap().flatten().count();
        (found, counted::take().0)
    };
    let (none, files) = found("none");
    let (one, more) = found("run-1400");
    assert_eq!((none, one), (0, 1));
    assert_eq!(more, files + 2, "the index and the segment");
    // Without the summary the index decides.
    fs::remove_file(summary_path(dir, 0)).unwrap();
    assert_eq!(found("run-1400").0, 1);
}

#[test]
fn a_catalog_over_its_limit_is_not_written() {
    let dir = filled(3);
    let path = dir.path().join(CATALOG_FILE);
    let whole = fs::read(&path).unwrap();
    let catalog = Catalog::load(dir.path());
    let briefs = catalog.briefs().unwrap();
    let limit = whole.len() as u64;
    let file = CatalogFile::make_within(dir.path(), &briefs, limit).unwrap();
    let too_large = |error: std::io::Error| assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    too_large(CatalogFile::make_within(dir.path(), &briefs, limit - 1).unwrap_err());
    too_large(file.with_within(briefs[2], limit).unwrap_err());
    assert_eq!(fs::read(&path).unwrap(), whole);
}

//! The file of the catalog: whatever becomes of it, a query finds what it finds without it, and the next start makes it again.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use failsafe_journal::frame::{header_at, push_frame};
use failsafe_journal::segments::{CATALOG_FILE, Catalog, REMOVED_FILE, Summary, sealed, segment_path, summary_path};
use failsafe_journal::storage::{LOG_FILE, Layout, LogFolder, Retention};
use failsafe_journal::{AuditLog, Draft, Entry, Filter, Query, Recovery, Search, Stamp, Verdict, kind, verify};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

fn stamp(n: u64) -> Stamp {
    Stamp { wall_ns: 1_000 + n, mono_ns: n, boot_id: "b".into() }
}

/// A file is sealed whenever it is asked for.
fn layout() -> Layout {
    Layout { segment_bytes: 1, reserve_bytes: 0, ..Layout::default() }
}

fn open(dir: &Path) -> (AuditLog<LogFolder>, Recovery) {
    AuditLog::open(LogFolder::open(dir, layout()).unwrap(), &stamp(0)).unwrap()
}

/// Entry n is about run n % 7. Each file gets `each` entries, and the last one is not sealed.
fn write(log: &mut AuditLog<LogFolder>, from: u64, to: u64, each: u64) {
    for n in from..to {
        let draft = Draft::new("decision", stamp(n), json!({ "n": n })).run(format!("run-{}", n % 7));
        log.append(&draft).unwrap();
        log.commit().unwrap();
        if n % each == each - 1 && n + 1 < to {
            assert!(log.seal_if_due(stamp(n)));
            log.commit().unwrap();
        }
    }
}

fn filled(entries: u64) -> (tempfile::TempDir, PathBuf) {
    // Where syncing costs nothing, if there is such a place.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let log = dir.path().join("audit");
    write(&mut open(&log).0, 0, entries, 3);
    (dir, log)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn found(dir: &Path, query: Query) -> Vec<Entry> {
    Search::open(&dir.join(LOG_FILE), query).unwrap().map(Result::unwrap).collect()
}

/// What the queries of [`answers`] give.
type Answers = Vec<Vec<u64>>;

/// The `n` of the entries that several queries find.
fn answers(dir: &Path) -> Answers {
    let run = |run: &str| Filter { run: Some(run.into()), ..Filter::default() };
    let runs = Filter { runs: Some(["run-1", "run-5"].map(str::to_owned).into()), ..Filter::default() };
    let time = Filter { since_ns: Some(1_010), until_ns: Some(1_020), ..Filter::default() };
    let kinds = Filter { kinds: vec!["decision".into()], ..Filter::default() };
    let queries = [kinds, run("run-3"), run("run-9"), runs, time].map(|filter| {
        [
            Query { filter: filter.clone(), ..Query::default() },
            Query { filter: filter.clone(), tail: Some(4), ..Query::default() },
            Query { filter, from: 17, ..Query::default() },
        ]
    });
    let all = [Query::default(), Query { from: 17, ..Query::default() }];
    let number = |entry: &Entry| entry.body.get("n")?.as_u64();
    all.into_iter()
        .chain(queries.into_iter().flatten())
        .map(|query| found(dir, query).iter().filter_map(number).collect())
        .collect()
}

fn uses_the_file(dir: &Path) -> bool {
    // Without the summaries only the file has anything.
    let copied = tempfile::tempdir().unwrap();
    copy(dir, copied.path());
    sealed(dir).iter().for_each(|first| fs::remove_file(summary_path(copied.path(), *first)).unwrap());
    Catalog::load(copied.path()).problems.is_empty()
}

#[test]
fn a_log_states_its_catalog_from_the_first_segment_on() {
    let (_keep, dir) = filled(7);
    assert_eq!(sealed(&dir).len(), 2);
    assert!(uses_the_file(&dir));
    let first = found(&dir, Query { from: 7, ..Query::default() }).remove(0);
    assert_eq!((first.kind.as_str(), first.body["catalog"].as_str().map(str::len)), (kind::SEGMENT, Some(64)));
}

#[test]
fn a_catalog_that_is_missing_torn_stale_or_changed_hides_nothing_and_is_made_again() {
    let (keep, dir) = filled(40);
    let path = dir.join(CATALOG_FILE);
    let whole = fs::read(&path).unwrap();
    let expected = answers(&dir);
    assert_eq!(expected[0], (0..40).collect::<Vec<_>>());
    let (_other, another) = filled(25);
    let mut cases: Vec<(String, Option<Vec<u8>>)> = vec![
        ("missing".into(), None),
        ("empty".into(), Some(Vec::new())),
        ("of another log".into(), Some(fs::read(another.join(CATALOG_FILE)).unwrap())),
    ];
    cases.extend((0..whole.len()).step_by(151).map(|at| (format!("torn at {at}"), Some(whole[..at].to_vec()))));
    cases.extend((0..whole.len()).step_by(163).map(|at| {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        (format!("changed at {at}"), Some(changed))
    }));
    for (what, bytes) in cases {
        let case = keep.path().join(what.replace(' ', "-"));
        copy(&dir, &case);
        match bytes {
            Some(bytes) => fs::write(case.join(CATALOG_FILE), bytes).unwrap(),
            None => fs::remove_file(case.join(CATALOG_FILE)).unwrap(),
        }
        assert_eq!(answers(&case), expected, "{what}");
        let problems = Search::open(&case.join(LOG_FILE), Query::default()).unwrap().problems().to_vec();
        assert!(problems.iter().any(|problem| problem.contains(CATALOG_FILE)), "{what}: {problems:?}");
        let (log, recovery) = open(&case);
        let stated = |found: &String| found.contains(CATALOG_FILE) && found.contains("made again");
        assert!(recovery.findings.iter().any(stated), "{what}: {:?}", recovery.findings);
        assert_eq!(recovery.findings.len(), 1, "{what}: {:?}", recovery.findings);
        assert_eq!(
            fs::read(case.join(CATALOG_FILE)).unwrap(),
            whole,
            "{what}: the same segments have the same catalog"
        );
        drop(log);
        let (_log, recovery) = open(&case);
        assert_eq!(recovery.findings, [""; 0], "{what}: once");
        assert_eq!(answers(&case), expected, "{what}");
        assert_eq!(verify(&case).unwrap().verdict, Verdict::Ok, "{what}");
        fs::remove_dir_all(case).unwrap();
    }
}

#[test]
fn something_else_at_the_path_of_the_catalog_is_replaced() {
    let (keep, dir) = filled(20);
    let expected = answers(&dir);
    type Put = fn(&Path);
    let cases: [(&str, Put); 3] = [
        ("a folder", |path| fs::create_dir(path).unwrap()),
        ("a link", |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()),
        ("a pipe", |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
    ];
    for (what, put) in cases {
        let case = keep.path().join(what.replace(' ', "-"));
        copy(&dir, &case);
        fs::remove_file(case.join(CATALOG_FILE)).unwrap();
        put(&case.join(CATALOG_FILE));
        assert_eq!(answers(&case), expected, "{what}");
        let (mut log, recovery) = open(&case);
        assert!(recovery.findings.iter().any(|found| found.contains(CATALOG_FILE)), "{what}");
        assert!(uses_the_file(&case), "{what}");
        // And while the daemon runs.
        fs::remove_file(case.join(CATALOG_FILE)).unwrap();
        put(&case.join(CATALOG_FILE));
        write(&mut log, 20, 40, 3);
        let again =
            found(&case, Query::default()).iter().filter(|e| e.body.get("catalog_made_again").is_some()).count();
        assert_eq!(again, 1, "{what}: it is stated once");
        assert!(uses_the_file(&case), "{what}");
        assert_eq!(answers(&case)[0], (0..40).collect::<Vec<_>>(), "{what}");
        drop(log);
        assert_eq!(open(&case).1.findings, [""; 0], "{what}");
    }
}

#[test]
fn a_crash_at_each_step_of_sealing_leaves_a_catalog_that_the_next_start_continues() {
    let (keep, before) = filled(20);
    let after = keep.path().join("after");
    copy(&before, &after);
    let mut log = open(&after).0;
    assert!(log.seal_if_due(stamp(19)));
    // The entry that states the catalog is not committed.
    drop(log);
    let last = *sealed(&after).last().unwrap();
    assert!(!sealed(&before).contains(&last));
    let catalog = fs::read(after.join(CATALOG_FILE)).unwrap();
    let old = fs::read(before.join(CATALOG_FILE)).unwrap();
    assert!(catalog.starts_with(&old));
    type Step<'a> = &'a dyn Fn(&Path);
    let steps: [(&str, &Path, Step<'_>); 5] = [
        ("a part of the record", &before, &|dir| {
            fs::write(dir.join(CATALOG_FILE), &catalog[..old.len() + 70]).unwrap();
        }),
        ("the record", &before, &|dir| fs::write(dir.join(CATALOG_FILE), &catalog).unwrap()),
        ("the next file", &before, &|dir| {
            fs::write(dir.join(CATALOG_FILE), &catalog).unwrap();
            fs::copy(after.join(LOG_FILE), dir.join("audit.log.next")).unwrap();
        }),
        ("the first rename", &after, &|dir| fs::rename(dir.join(LOG_FILE), dir.join("audit.log.next")).unwrap()),
        ("the second rename", &after, &|_| {}),
    ];
    for (what, from, step) in steps {
        let case = keep.path().join(what.replace(' ', "-"));
        copy(from, &case);
        step(&case);
        let (mut log, recovery) = open(&case);
        assert_eq!(recovery.findings, [""; 0], "{what}");
        assert!(uses_the_file(&case), "{what}");
        assert_eq!(answers(&case)[0], (0..20).collect::<Vec<_>>(), "{what}");
        write(&mut log, 20, 40, 3);
        drop(log);
        assert_eq!(answers(&case)[0], (0..40).collect::<Vec<_>>(), "{what}");
        assert_eq!(verify(&case).unwrap().verdict, Verdict::Ok, "{what}");
        assert_eq!(open(&case).1.findings, [""; 0], "{what}");
        assert!(uses_the_file(&case), "{what}");
    }
}

/// Writes `audit.log` as versions before the catalog did: its entries as they are, without the link.
fn without_statement(dir: &Path) {
    rewritten(dir, |body| drop(body.remove("catalog")));
    let _none = fs::remove_file(dir.join(CATALOG_FILE));
}

/// Writes `audit.log` anew with other bodies of its entries.
fn rewritten(dir: &Path, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = dir.join(LOG_FILE);
    let entries: Vec<Entry> = failsafe_journal::LogReader::open(&path).unwrap().map(Result::unwrap).collect();
    let mut chain = Catalog::load(dir).end().unwrap();
    let mut file = header_at(&chain);
    for mut entry in entries {
        change(entry.body.as_object_mut().unwrap());
        let stamp = Stamp { wall_ns: entry.wall_ns, mono_ns: entry.mono_ns, boot_id: entry.boot_id };
        let mut draft = Draft::new(entry.kind, stamp, entry.body);
        (draft.run, draft.incident) = (entry.run, entry.incident);
        let sealed = draft.prepare().unwrap().seal(chain.next_index, &chain.head);
        push_frame(&mut file, &sealed.bytes);
        (chain.next_index, chain.head) = (sealed.index + 1, sealed.leaf_hash);
    }
    fs::write(path, file).unwrap();
}

/// Renames a run in the record of a segment, and makes the log state the new link: what a daemon does that makes the catalog of a
/// forged summary. Gives the first entry of the segment.
fn stated_of_forged(dir: &Path, segment: usize, run: &str) -> u64 {
    let mut bytes = fs::read(dir.join(CATALOG_FILE)).unwrap();
    let mark = |name: &str| crc32c::crc32c(&[&[1], name.as_bytes()].concat());
    let (mut at, mut link) = (40, <[u8; 32]>::try_from(&bytes[8..40]).unwrap());
    for n in 0.. {
        let Some(length) = bytes.get(at..at + 4) else { break };
        let end = at + 4 + u32::from_le_bytes(length.try_into().unwrap()) as usize;
        if n == segment {
            let marks = (at + 4 + 145..end).step_by(4);
            let is_of_run = |at: &usize| bytes[*at..*at + 4] == mark(run).to_le_bytes();
            let found = marks.into_iter().find(is_of_run).unwrap();
            // The next number keeps the order.
            bytes[found..found + 4].copy_from_slice(&(mark(run) + 1).to_le_bytes());
        }
        link = Sha256::new().chain_update(link).chain_update(&bytes[at..end]).finalize().into();
        at = end;
    }
    fs::write(dir.join(CATALOG_FILE), &bytes).unwrap();
    rewritten(dir, |body| {
        if let Some(stated) = body.get_mut("catalog") {
            *stated = json!(hex::encode(link));
        }
    });
    sealed(dir)[segment]
}

#[test]
fn a_log_without_a_catalog_gets_one_when_its_file_is_sealed() {
    let (_keep, dir) = filled(20);
    without_statement(&dir);
    let expected = answers(&dir);
    let search = Search::open(&dir.join(LOG_FILE), Query::default()).unwrap();
    assert_eq!((expected[0].len(), search.problems()), (20, [].as_slice()));
    assert!(!uses_the_file(&dir));
    let segments = sealed(&dir).len();
    let (mut log, recovery) = open(&dir);
    assert_eq!(recovery.findings, [""; 0]);
    assert_eq!(answers(&dir), expected);
    assert!(log.seal_if_due(stamp(20)), "at once, whatever the size of a file is");
    log.commit().unwrap();
    assert_eq!(sealed(&dir).len(), segments + 1);
    assert!(uses_the_file(&dir));
    assert_eq!(answers(&dir), expected);
    drop(log);
    assert_eq!(open(&dir).1.findings, [""; 0]);
    assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok);
}

/// The daemon of an earlier version went on with a log that has a catalog.
#[test]
fn a_catalog_that_an_earlier_version_did_not_continue_is_made_again() {
    let (_keep, dir) = filled(20);
    let stale = fs::read(dir.join(CATALOG_FILE)).unwrap();
    write(&mut open(&dir).0, 20, 40, 3);
    without_statement(&dir);
    fs::write(dir.join(CATALOG_FILE), stale).unwrap();
    let expected = answers(&dir);
    assert_eq!(expected[0], (0..40).collect::<Vec<_>>());
    let (mut log, recovery) = open(&dir);
    assert_eq!(recovery.findings, [""; 0]);
    write(&mut log, 40, 60, 3);
    assert!(uses_the_file(&dir));
    assert_eq!(answers(&dir)[0], (0..60).collect::<Vec<_>>());
}

#[test]
fn a_segment_that_is_missing_or_was_cut_is_reported_with_a_catalog_too() {
    type Change = fn(&Path);
    let cases: [(&str, Change); 2] = [
        ("missing", |path| fs::remove_file(path).unwrap()),
        ("cut", |path| fs::write(path, &fs::read(path).unwrap()[1..]).unwrap()),
    ];
    for (what, change) in cases {
        let (_keep, dir) = filled(20);
        change(&segment_path(&dir, sealed(&dir)[2]));
        let (_log, recovery) = open(&dir);
        assert!(!recovery.findings.is_empty(), "{what}");
        assert!(matches!(verify(&dir).unwrap().verdict, Verdict::Segment(_)), "{what}");
    }
}

/// A read of a folder: the `n` of the entries, what is missing, and whether a problem was found.
fn read(dir: &Path, query: Query) -> (Vec<u64>, Vec<std::ops::Range<u64>>, bool) {
    let mut search = Search::open(&dir.join(LOG_FILE), query).unwrap();
    let numbers = search.by_ref().map(Result::unwrap).filter_map(|entry| entry.body.get("n")?.as_u64()).collect();
    (numbers, search.missing().to_vec(), !search.problems().is_empty())
}

/// Cuts the last entry off a file of frames, at its border.
fn cut_one_entry(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let mut reader = failsafe_journal::LogReader::open(path).unwrap();
    let mut offset = reader.offset();
    while reader.next().map(Result::unwrap).is_some() {
        if reader.offset() < bytes.len() as u64 {
            offset = reader.offset();
        }
    }
    assert!(offset > 0 && offset < bytes.len() as u64);
    fs::write(path, &bytes[..usize::try_from(offset).unwrap()]).unwrap();
}

#[test]
fn a_query_states_what_is_missing_of_a_segment_that_was_cut_or_removed() {
    type Change = fn(&Path);
    let cases: [(&str, Change); 4] = [
        ("one entry cut off", cut_one_entry),
        ("a part of an entry cut off", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("cut to its header", |path| fs::write(path, &fs::read(path).unwrap()[..60]).unwrap()),
        ("removed", |path| fs::remove_file(path).unwrap()),
    ];
    for ((what, change), at) in cases.into_iter().flat_map(|case| [2, 12].map(|at| (case, at))) {
        let (_keep, dir) = filled(40);
        let firsts = sealed(&dir);
        let end = firsts.get(at + 1).copied().unwrap_or_else(|| {
            failsafe_journal::LogReader::open(&dir.join(LOG_FILE)).unwrap().map(Result::unwrap).next().unwrap().index
        });
        let segment = segment_path(&dir, firsts[at]);
        let lost: Vec<(u64, u64)> = failsafe_journal::LogReader::open(&segment)
            .unwrap()
            .map(Result::unwrap)
            .map(|entry| (entry.index, entry.body.get("n").and_then(serde_json::Value::as_u64).unwrap_or(u64::MAX)))
            .collect();
        change(&segment);
        let begin = if what.contains("cut off") { end - 1 } else { firsts[at] };
        let lost: Vec<u64> = lost.into_iter().filter(|(index, _)| *index >= begin).map(|(_, n)| n).collect();
        // By the catalog, by the summaries, and after a start of the daemon, which makes these again. A start sets a log aside that
        // does not end where its file begins.
        let hows: [(&str, Change); 3] = [
            ("catalog", |_| {}),
            ("summaries", |dir| fs::remove_file(dir.join(CATALOG_FILE)).unwrap()),
            ("restart", |dir| drop(open(dir))),
        ];
        for (how, prepare) in hows.into_iter().filter(|(how, _)| at == 2 || *how != "restart") {
            prepare(&dir);
            let left: Vec<u64> = (0..40).filter(|n| !lost.contains(n)).collect();
            let (numbers, missing, _) = read(&dir, Query::default());
            let gap = begin..end;
            assert_eq!((numbers, missing), (left.clone(), vec![gap]), "{what} {at} {how}");
            // The index leads to an entry that is not there.
            let run = Filter { run: Some(format!("run-{}", lost[lost.len() - 1] % 7)), ..Filter::default() };
            let (_, missing, _) = read(&dir, Query { filter: run, ..Query::default() });
            let is_named = missing.iter().all(|gap| gap.start >= begin && gap.end == end);
            assert!(is_named && (how == "restart" || !missing.is_empty()), "{what} {at} {how}: {missing:?}");
            // What is not read is not missed.
            let (_, missing, _) = read(&dir, Query { from: end, ..Query::default() });
            assert_eq!(missing, [], "{what} {at} {how}");
        }
    }
}

#[test]
fn a_log_of_which_all_segments_were_removed_lacks_them() {
    let (_keep, dir) = filled(40);
    let begin = Catalog::load(&dir).end().unwrap().next_index;
    sealed(&dir).iter().for_each(|first| fs::remove_file(segment_path(&dir, *first)).unwrap());
    let search = Search::open(&dir.join(LOG_FILE), Query::default()).unwrap();
    assert_eq!(
        (search.missing(), search.missing_in_words()),
        (std::slice::from_ref(&(0..begin)), Some(format!("entries 0 to {} are missing", begin - 1)))
    );
}

#[test]
fn a_whole_log_lacks_nothing_whatever_is_looked_for_and_removed_by_retention() {
    let (_keep, dir) = filled(40);
    for from in [0, 3, 17, 39, u64::MAX] {
        for tail in [None, Some(0), Some(7)] {
            let (_, missing, problem) = read(&dir, Query { from, tail, ..Query::default() });
            assert_eq!((missing, problem), (vec![], false), "{from} {tail:?}");
        }
    }
    let retention = Retention { max_bytes: 5_000, ..Retention::default() };
    let mut log =
        AuditLog::open(LogFolder::open(&dir, Layout { retention, ..layout() }).unwrap(), &stamp(60)).unwrap().0;
    log.retain(stamp(60), &|_| false).unwrap();
    log.commit().unwrap();
    assert!(sealed(&dir)[0] > 0);
    assert_eq!(read(&dir, Query::default()).1, []);
}

#[test]
fn verification_compares_the_catalog_with_the_segments() {
    let (_keep, dir) = filled(40);
    let whole = fs::read(dir.join(CATALOG_FILE)).unwrap();
    assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok);
    // What is behind the stated link is of an interrupted sealing.
    fs::write(dir.join(CATALOG_FILE), [&whole, &[7; 20][..]].concat()).unwrap();
    assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok);
    for bad in [whole[..whole.len() - 1].to_vec(), Vec::new(), b"x".to_vec()] {
        fs::write(dir.join(CATALOG_FILE), bad).unwrap();
        let verdict = verify(&dir).unwrap().verdict;
        assert!(
            matches!(&verdict, Verdict::Segment(why) if why.contains("is not the one that the log states")),
            "{verdict:?}"
        );
    }
    fs::remove_file(dir.join(CATALOG_FILE)).unwrap();
    assert!(matches!(verify(&dir).unwrap().verdict, Verdict::Segment(_)));
    // An archive has neither the file nor what states it.
    without_statement(&dir);
    assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok);
}

#[test]
fn verification_finds_a_catalog_that_the_log_states_and_that_hides_entries() {
    let (_keep, dir) = filled(40);
    let forged = stated_of_forged(&dir, 1, "run-3");
    let filter = Filter { run: Some("run-3".into()), ..Filter::default() };
    let of_run = || found(&dir, Query { filter: filter.clone(), ..Query::default() }).len();
    assert_eq!(of_run(), 5, "the catalog hides an entry");
    let verdict = verify(&dir).unwrap().verdict;
    let named = format!("does not match the segment that begins at entry {forged}");
    assert!(matches!(&verdict, Verdict::Segment(why) if why.contains(&named)), "{verdict:?}");
    // As the message says.
    fs::remove_file(dir.join(CATALOG_FILE)).unwrap();
    let (mut log, _) = open(&dir);
    log.seal_if_due(stamp(40));
    log.commit().unwrap();
    drop(log);
    assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok);
    assert_eq!(of_run(), 6);
}

#[test]
fn retention_leaves_a_catalog_that_has_what_is_left() {
    let (_keep, dir) = filled(60);
    let bytes = fs::metadata(dir.join(CATALOG_FILE)).unwrap().len();
    let reopen = |keep: u64| {
        let retention = Retention { max_bytes: keep, ..Retention::default() };
        AuditLog::open(LogFolder::open(&dir, Layout { retention, ..layout() }).unwrap(), &stamp(60)).unwrap()
    };
    let sizes = sealed(&dir).into_iter().map(|first| fs::metadata(segment_path(&dir, first)).unwrap().len());
    let total: u64 = sizes.sum();
    // The first ones, then all but a few, and then all.
    for (keep, left) in [(total * 9 / 10, 14..19), (total / 4, 2..6), (1, 0..1)] {
        let (mut log, recovery) = reopen(keep);
        assert_eq!(recovery.findings, [""; 0], "{left:?}");
        log.retain(stamp(60), &|_| false).unwrap();
        assert!(left.contains(&sealed(&dir).len()), "{left:?}: {}", sealed(&dir).len());
        assert!(uses_the_file(&dir), "{left:?}");
        let first = found(&dir, Query::default()).first().map(|entry| entry.index);
        assert_eq!(first, Catalog::load(&dir).removed.map(|removed| removed.entries), "{left:?}");
    }
    assert!(fs::metadata(dir.join(CATALOG_FILE)).unwrap().len() < bytes / 2, "its records are removed too");
    assert!(dir.join(REMOVED_FILE).exists());
    write(&mut reopen(u64::MAX).0, 60, 80, 3);
    assert!(uses_the_file(&dir));
    assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok);
    // What is made again begins where the log begins, and is stated by the next file.
    fs::remove_file(dir.join(CATALOG_FILE)).unwrap();
    let expected = answers(&dir);
    let (mut log, recovery) = reopen(u64::MAX);
    assert_eq!(recovery.findings.len(), 1);
    assert_eq!(answers(&dir), expected);
    assert!(log.seal_if_due(stamp(80)));
    log.commit().unwrap();
    assert!(uses_the_file(&dir));
    drop(log);
    assert_eq!(reopen(u64::MAX).1.findings, [""; 0]);
    assert_eq!(answers(&dir), expected);
}

/// Changes the names of the runs in the summary of a segment. Its size stays.
fn forge(dir: &Path, first: u64) {
    let path = summary_path(dir, first);
    let text = fs::read_to_string(&path).unwrap();
    let forged = text.replace("\"run-", "\"ran-");
    assert!(forged != text && forged.len() == text.len());
    fs::write(path, forged).unwrap();
}

/// Forges the summary of a segment, and changes those behind it so that each names the one before.
fn forge_to_the_end(dir: &Path, from: usize) {
    let firsts = sealed(dir).split_off(from);
    forge(dir, firsts[0]);
    let read =
        |first: u64| -> Summary { serde_json::from_slice(&fs::read(summary_path(dir, first)).unwrap()).unwrap() };
    for pair in firsts.windows(2) {
        let mut next = read(pair[1]);
        next.previous_summary = read(pair[0]).hash();
        fs::write(summary_path(dir, pair[1]), next.encode()).unwrap();
    }
}

#[test]
fn a_catalog_that_is_made_again_while_the_log_is_written_has_no_forged_summary() {
    for from in [12, 3] {
        let (_keep, dir) = filled(40);
        let mut log = open(&dir).0;
        fs::remove_file(dir.join(CATALOG_FILE)).unwrap();
        assert_eq!(sealed(&dir).len(), 13);
        forge_to_the_end(&dir, from);
        write(&mut log, 40, 46, 3);
        drop(log);
        let said = found(&dir, Query::default());
        let said: Vec<&str> = said.iter().filter_map(|entry| entry.body["catalog_made_again"].as_str()).collect();
        assert!(said[0].contains("is not the one that the log states"), "{from}: {said:?}");
        // The newest is made again at once, all of them by the next start.
        assert_eq!((said.len() == 1, said[0].contains("until the next start")), (from == 12, from == 3), "{said:?}");
        drop(open(&dir));
        assert_eq!(answers(&dir)[0], (0..46).collect::<Vec<_>>(), "{from}");
        let run = Filter { run: Some("run-3".into()), ..Filter::default() };
        let of_run: Vec<u64> = found(&dir, Query { filter: run, ..Query::default() })
            .iter()
            .filter_map(|entry| entry.body["n"].as_u64())
            .collect();
        assert_eq!(of_run, (0..46).filter(|n| n % 7 == 3).collect::<Vec<_>>(), "{from}");
        assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok, "{from}");
    }
}

#[test]
fn a_start_without_the_catalog_compares_the_summaries_with_what_the_log_states() {
    for from in [12, 3] {
        let (_keep, dir) = filled(40);
        let expected = answers(&dir);
        let whole = fs::read(dir.join(CATALOG_FILE)).unwrap();
        fs::remove_file(dir.join(CATALOG_FILE)).unwrap();
        forge_to_the_end(&dir, from);
        let (log, recovery) = open(&dir);
        let changed = |found: &String| found.contains("is not the one that the log states");
        assert!(recovery.findings.iter().any(changed), "{from}: {:?}", recovery.findings);
        drop(log);
        assert_eq!(answers(&dir), expected, "{from}");
        assert_eq!(fs::read(dir.join(CATALOG_FILE)).unwrap(), whole, "{from}");
        assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok, "{from}");
        assert_eq!(open(&dir).1.findings, [""; 0], "{from}");
    }
}

/// The texts of what was found amiss.
fn reported(dir: &Path) -> Vec<String> {
    let since = found(dir, Query { from: 52, ..Query::default() });
    since.iter().filter(|e| e.kind == kind::GAP).filter_map(|e| e.body["what"].as_str().map(str::to_owned)).collect()
}

fn small(dir: &Path) -> AuditLog<LogFolder> {
    let retention = Retention { max_bytes: 1, ..Retention::default() };
    AuditLog::open(LogFolder::open(dir, Layout { retention, ..layout() }).unwrap(), &stamp(60)).unwrap().0
}

#[test]
fn a_changed_summary_is_made_again_when_its_segment_is_removed() {
    let (_keep, dir) = filled(40);
    forge(&dir, sealed(&dir)[4]);
    let before = verify(&dir).unwrap().verdict;
    assert!(matches!(&before, Verdict::Segment(why) if why.contains("does not rely on it")), "{before:?}");
    let mut log = small(&dir);
    log.retain(stamp(60), &|_| false).unwrap();
    assert_eq!(sealed(&dir).len(), 0, "each segment is removed");
    let reported = reported(&dir);
    assert!(reported.len() == 1 && reported[0].contains("was changed: it was made again"), "{reported:?}");
    assert_eq!(verify(&dir).unwrap().verdict, Verdict::Ok);
}

#[test]
fn a_segment_that_is_not_the_one_of_its_summary_stops_the_removal_and_is_reported_once() {
    let (_keep, dir) = filled(40);
    let mut log = small(&dir);
    let first = sealed(&dir)[0];
    forge(&dir, first);
    let segment = segment_path(&dir, first);
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    for _ in 0..3 {
        log.retain(stamp(60), &|_| false).unwrap();
    }
    assert_eq!(sealed(&dir).len(), 13, "evidence stays");
    let reported = reported(&dir);
    assert!(reported.len() == 1 && reported[0].contains("cannot go on"), "{reported:?}");
}

#[test]
fn a_catalog_that_is_too_large_is_not_called_changed() {
    let (_keep, dir) = filled(20);
    fs::OpenOptions::new().write(true).open(dir.join(CATALOG_FILE)).unwrap().set_len((256 << 20) + 1).unwrap();
    let (_log, recovery) = open(&dir);
    assert_eq!(recovery.findings.len(), 1, "{:?}", recovery.findings);
    let found = &recovery.findings[0];
    assert!(found.contains("cannot be read: it has more than") && !found.contains("changed"), "{found}");
    assert!(uses_the_file(&dir));
}

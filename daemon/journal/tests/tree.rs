//! The tree over a log: what is signed of it, what the next start compares, crashes between the steps, and proofs.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

mod support;

use failsafe_journal::segments::{sealed, segment_path};
use failsafe_journal::storage::{LOG_FILE, Layout, LogFolder, Retention};
use failsafe_journal::tree::signed::{CHECKPOINT_FILE, SignedTree, checkpoint_path};
use failsafe_journal::tree::{edge, prove};
use failsafe_journal::verify::{Claim, verify_claims};
use failsafe_journal::{AuditLog, AuditWriter, Draft, Options, Query, Recovery, Search, Signing, Verdict};
use failsafe_tlog::{Checkpoint, Frontier, Keys, VerifierKey, leaf_hash};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{signer, stamp};

fn keys() -> Keys {
    Keys::of(vec![signer().1])
}

/// A state folder.
struct State(tempfile::TempDir);

impl State {
    fn new() -> State {
        State(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("audit")
    }

    fn latest(&self) -> PathBuf {
        self.0.path().join(CHECKPOINT_FILE)
    }

    fn layout(&self, retention: Retention) -> Layout {
        let checkpoint = Some((self.latest(), keys()));
        Layout { segment_bytes: 4_096, reserve_bytes: 0, retention, checkpoint, ..Layout::default() }
    }

    fn open(&self) -> (AuditLog<LogFolder>, Recovery) {
        let folder = LogFolder::open(&self.dir(), self.layout(Retention::default())).unwrap();
        AuditLog::open(folder, &stamp(0)).unwrap()
    }

    /// What a start finds.
    fn findings(&self) -> Vec<String> {
        self.open().1.findings
    }

    /// A log of entries `from` to `to`, signed at each border and at the end.
    fn write(&self, from: u64, to: u64) {
        let mut log = self.open().0;
        write(&mut log, from, to);
        log.sign(&signer(), false).unwrap();
    }

    fn copy(&self) -> State {
        let copy = State::new();
        copy_dir(self.0.path(), copy.0.path());
        copy
    }

    fn signed(&self) -> SignedTree {
        read_signed(&self.latest())
    }

    fn entries(&self) -> u64 {
        Search::open(&self.dir().join(LOG_FILE), Query::default()).unwrap().count() as u64
    }

    /// All checkpoints, as claims.
    fn claims(&self) -> Vec<Claim> {
        let borders = fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().path());
        let borders = borders.filter(|path| path.extension().is_some_and(|extension| extension == "checkpoint"));
        let all = borders.chain([self.latest()]).filter(|path| path.exists());
        all.map(|path| Claim { source: path.display().to_string(), tree: read_signed(&path), named: false }).collect()
    }

    fn verdict(&self) -> Verdict {
        verify_claims(&self.dir(), None, &self.claims()).unwrap().verdict
    }
}

fn read_signed(path: &Path) -> SignedTree {
    SignedTree::of(Checkpoint::open(&fs::read(path).unwrap(), &keys()).unwrap().0).unwrap()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        match entry.path().is_dir() {
            true => copy_dir(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn write(log: &mut AuditLog<LogFolder>, from: u64, to: u64) {
    for n in from..to {
        log.append(&Draft::new("run", stamp(n), json!({ "n": n, "text": "x".repeat(200) }))).unwrap();
        log.commit().unwrap();
        if log.seal_if_due(stamp(n)) {
            log.sign(&signer(), true).unwrap();
            log.commit().unwrap();
        }
    }
}

/// The tree as RFC 6962 defines it, over the entries that a reader sees.
fn naive(dir: &Path, size: u64) -> [u8; 32] {
    let mut frontier = Frontier::new();
    for entry in Search::open(&dir.join(LOG_FILE), Query::default()).unwrap().take(usize::try_from(size).unwrap()) {
        frontier.push(leaf_hash(&entry.unwrap().bytes));
    }
    frontier.root()
}

#[test]
fn what_is_signed_is_the_tree_of_the_stored_entries_and_goes_on_after_a_restart() {
    let state = State::new();
    state.write(0, 50);
    let first = state.signed();
    assert_eq!((first.first, first.size), (0, state.entries()));
    assert_eq!(first.root, naive(&state.dir(), first.size));
    assert!(first.origin.starts_with("failsafe.test/node/log/"));
    let borders = sealed(&state.dir());
    assert!(borders.len() > 3);
    for border in &borders[1..] {
        let at_border = read_signed(&checkpoint_path(&state.dir(), *border));
        assert_eq!((at_border.size, at_border.root), (*border, naive(&state.dir(), *border)));
    }
    state.write(50, 120);
    let second = state.signed();
    assert_eq!(second.origin, first.origin);
    assert_eq!((second.size, second.root), (state.entries(), naive(&state.dir(), second.size)));
    let report = verify_claims(&state.dir(), None, &state.claims()).unwrap();
    let tree = report.tree.unwrap();
    assert_eq!((report.verdict, tree.size, tree.root, tree.removed), (Verdict::Ok, second.size, second.root, 0));
    assert_eq!(tree.contained, state.claims().len());
    assert_eq!(state.findings(), [""; 0]);
}

#[test]
fn a_log_of_an_earlier_version_gets_a_tree_and_the_second_start_reads_no_sealed_segment() {
    let state = State::new();
    {
        let layout = Layout { checkpoint: None, ..state.layout(Retention::default()) };
        let mut log = AuditLog::open(LogFolder::open(&state.dir(), layout).unwrap(), &stamp(0)).unwrap().0;
        write_unsigned(&mut log, 120);
    }
    for path in fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "tree") {
            fs::remove_file(path).unwrap();
        }
    }
    let before: Vec<Vec<u8>> =
        sealed(&state.dir()).iter().map(|at| fs::read(segment_path(&state.dir(), *at)).unwrap()).collect();
    state.write(120, 121);
    assert_eq!(state.signed().root, naive(&state.dir(), state.entries()));
    assert_eq!(state.verdict(), Verdict::Ok);
    for (at, bytes) in sealed(&state.dir()).into_iter().zip(before) {
        assert_eq!(fs::read(segment_path(&state.dir(), at)).unwrap(), bytes, "not a byte of an entry is rewritten");
        // Of the same size, so that the summary still fits: who reads it finds zeros.
        fs::write(segment_path(&state.dir(), at), vec![0; bytes.len()]).unwrap();
    }
    assert_eq!(state.findings(), [""; 0]);
    let mut log = state.open().0;
    assert!(!log.is_building_tree() && log.sign(&signer(), false).is_ok());
}

fn write_unsigned(log: &mut AuditLog<LogFolder>, to: u64) {
    for n in 0..to {
        log.append(&Draft::new("run", stamp(n), json!({ "n": n, "text": "x".repeat(200) }))).unwrap();
        log.commit().unwrap();
        if log.seal_if_due(stamp(n)) {
            log.commit().unwrap();
        }
    }
}

/// A log that says something else and is valid in itself: chain, checksums, summaries.
fn forged(entries: u64) -> State {
    let state = State::new();
    let layout = Layout { checkpoint: None, ..state.layout(Retention::default()) };
    let mut log = AuditLog::open(LogFolder::open(&state.dir(), layout).unwrap(), &stamp(0)).unwrap().0;
    for n in 0..entries {
        log.append(&Draft::new("run", stamp(n), json!({ "n": n, "text": "y".repeat(200) }))).unwrap();
        log.commit().unwrap();
        if log.seal_if_due(stamp(n)) {
            log.commit().unwrap();
        }
    }
    state
}

#[test]
fn a_log_that_does_not_contain_what_was_signed_is_reported_and_kept_as_evidence() {
    type Change = fn(&State);
    let cases: [(&str, Change, &str); 4] = [
        (
            "cut at the border of an entry",
            |state| {
                let older = State::new();
                older.write(0, 60);
                fs::remove_dir_all(state.dir()).unwrap();
                copy_dir(&older.dir(), &state.dir());
            },
            "rolled back",
        ),
        ("deleted", |state| fs::remove_dir_all(state.dir()).unwrap(), "rolled back"),
        (
            "replaced by another log",
            |state| {
                fs::remove_dir_all(state.dir()).unwrap();
                copy_dir(&forged(200).dir(), &state.dir());
            },
            "does not contain what was signed",
        ),
        (
            "the last file replaced",
            |state| {
                // Sealed segments and edges stay; the entries behind them are others.
                let border = fs::read_dir(state.dir()).unwrap().flatten();
                let border = border.filter_map(|e| e.path().file_stem()?.to_str()?.parse::<u64>().ok()).max().unwrap();
                let log = fs::read(state.dir().join(LOG_FILE)).unwrap();
                fs::remove_file(state.dir().join(LOG_FILE)).unwrap();
                let latest = fs::read(state.latest()).unwrap();
                let mut other = state.open_without_checkpoint();
                while other.durable_bytes() < log.len() as u64 {
                    other.append(&Draft::new("run", stamp(9), json!({ "n": border, "text": "forged" }))).unwrap();
                    other.commit().unwrap();
                }
                fs::write(state.latest(), latest).unwrap();
            },
            "does not contain what was signed",
        ),
    ];
    for (what, change, words) in cases {
        let state = State::new();
        state.write(0, 100);
        let (claims, origin) = (state.claims(), state.signed().origin);
        change(&state);
        match verify_claims(&state.dir(), None, &claims).map(|report| report.verdict) {
            Ok(Verdict::Shortened(_) | Verdict::Forked(_)) | Err(_) => {}
            other => panic!("{what}: {other:?}"),
        }
        let (mut log, recovery) = state.open();
        assert!(recovery.findings.iter().any(|f| f.contains(words)), "{what}: {:?}", recovery.findings);
        let all: Vec<_> = Search::open(&state.dir().join(LOG_FILE), Query::default()).unwrap().flatten().collect();
        let gap = all.iter().rev().find(|entry| entry.kind == "gap").unwrap();
        assert_eq!(gap.body["cause"], "integrity", "{what}");
        // It goes on, and never under the origin of the other tree.
        write(&mut log, 100, 130);
        log.sign(&signer(), false).unwrap();
        assert_ne!(state.signed().origin, origin, "{what}");
        assert_eq!(state.signed().root, naive(&state.dir(), state.entries()), "{what}");
        let aside: Vec<PathBuf> = fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let aside = aside.iter().find(|p| p.file_name().unwrap().to_str().unwrap().starts_with("checkpoints.aside-"));
        let kept = read_signed(&aside.unwrap().join(CHECKPOINT_FILE));
        assert_eq!(kept.origin, origin, "{what}: the checkpoint is evidence");
        drop(log);
        assert_eq!(state.findings(), [""; 0], "{what}: reported once");
        assert_eq!(state.verdict(), Verdict::Ok, "{what}");
    }
}

impl State {
    fn open_without_checkpoint(&self) -> AuditLog<LogFolder> {
        let layout = Layout { checkpoint: None, ..self.layout(Retention::default()) };
        AuditLog::open(LogFolder::open(&self.dir(), layout).unwrap(), &stamp(0)).unwrap().0
    }
}

#[test]
fn a_checkpoint_that_was_replaced_or_removed_is_reported() {
    let state = State::new();
    state.write(0, 20);
    let old = fs::read(state.latest()).unwrap();
    state.write(20, 100);
    let with = |content: Option<&[u8]>| {
        let copy = state.copy();
        match content {
            Some(bytes) => fs::write(copy.latest(), bytes).unwrap(),
            None => fs::remove_file(copy.latest()).unwrap(),
        }
        copy.findings().join("; ")
    };
    assert_eq!(with(Some(&fs::read(state.latest()).unwrap())), "");
    assert!(with(Some(&old)).contains("replaced by an older one"), "{}", with(Some(&old)));
    assert!(with(None).contains("is missing"));
    let mut changed = fs::read(state.latest()).unwrap();
    changed[30] ^= 1;
    assert!(with(Some(&changed)).contains("not verified"), "{}", with(Some(&changed)));
    // Signed by another key.
    let other = state.copy();
    let folder = || {
        let keys = Keys::of(vec![VerifierKey::new("other", &signer().1.public()).unwrap()]);
        let layout = Layout { checkpoint: Some((other.latest(), keys)), ..other.layout(Retention::default()) };
        LogFolder::open(&other.dir(), layout).unwrap()
    };
    let (log, recovery) = AuditLog::open(folder(), &stamp(0)).unwrap();
    assert!(recovery.findings.iter().all(|finding| finding.contains("no signature is by a known key")));
    assert_eq!((log.signed(), recovery.findings.len()), (0, 2), "the latest one and that of the last border");
    assert_eq!(AuditLog::open(folder(), &stamp(0)).unwrap().1.findings, [""; 0], "reported once");
}

/// A power cut at each step of keeping a checkpoint and an edge.
#[test]
fn a_crash_while_a_checkpoint_is_written_loses_none() {
    let state = State::new();
    state.write(0, 40);
    let (before, old) = (state.signed(), fs::read(state.latest()).unwrap());
    let mut log = state.open().0;
    let borders = sealed(&state.dir()).len();
    let mut n = 40;
    while sealed(&state.dir()).len() == borders {
        write(&mut log, n, n + 1);
        n += 1;
    }
    log.sign(&signer(), false).unwrap();
    drop(log);
    let border = fs::read_dir(state.dir()).unwrap().flatten();
    let border = border.filter_map(|e| e.path().file_stem()?.to_str()?.parse::<u64>().ok()).max().unwrap();
    let new = fs::read(state.latest()).unwrap();
    let part = |path: &Path| PathBuf::from(format!("{}.part", path.display()));
    // Written in part, next to the old one.
    for cut in (0..new.len()).step_by(7) {
        let crashed = state.copy();
        fs::write(crashed.latest(), &old).unwrap();
        fs::write(part(&crashed.latest()), &new[..cut]).unwrap();
        fs::remove_file(checkpoint_path(&crashed.dir(), border)).unwrap();
        let (mut log, recovery) = crashed.open();
        assert_eq!(recovery.findings, [""; 0], "cut at {cut}");
        assert_eq!(log.signed(), before.entries());
        assert!(log.sign(&signer(), false).unwrap());
        assert_eq!(crashed.signed().root, naive(&crashed.dir(), crashed.entries()));
    }
    // Without the edge, the checkpoint of the border, or both; with a part of each.
    for missing in 0..4 {
        let crashed = state.copy();
        for (at, path) in
            [edge::edge_path(&crashed.dir(), border), checkpoint_path(&crashed.dir(), border)].iter().enumerate()
        {
            if missing & (1 << at) != 0 {
                let bytes = fs::read(path).unwrap();
                fs::remove_file(path).unwrap();
                fs::write(part(path), &bytes[..bytes.len() / 2]).unwrap();
            }
        }
        crashed.write(n, n + 30);
        assert_eq!(crashed.findings(), [""; 0], "missing {missing}");
        assert_eq!(crashed.signed().root, naive(&crashed.dir(), crashed.entries()));
        assert_eq!(crashed.verdict(), Verdict::Ok);
    }
}

#[test]
fn every_entry_is_proved_and_nothing_else() {
    let state = State::new();
    state.write(0, 60);
    let entries = state.entries();
    let note = fs::read(state.latest()).unwrap();
    let checkpoint = || Checkpoint::open(&note, &keys()).unwrap().0;
    for (index, entry) in Search::open(&state.dir().join(LOG_FILE), Query::default()).unwrap().enumerate() {
        let proof = prove::prove(&state.dir(), index as u64, checkpoint(), note.clone()).unwrap();
        assert_eq!(proof.verify(&keys()).unwrap().entry, *entry.unwrap().bytes);
    }
    let text = |index: u64, state: &State| {
        prove::prove(&state.dir(), index, checkpoint(), note.clone()).unwrap_err().to_string()
    };
    assert!(text(entries, &state).contains("not covered by the checkpoint"));
    let other = State::new();
    copy_dir(&forged(200).dir(), &other.dir());
    assert!(text(3, &other).contains("does not fit the checkpoint"));
}

#[test]
fn every_changed_byte_of_a_small_log_is_detected() {
    let state = State::new();
    state.write(0, 3);
    let path = state.dir().join(LOG_FILE);
    let (good, claims) = (fs::read(&path).unwrap(), state.claims());
    let verdict = || verify_claims(&state.dir(), None, &claims).unwrap().verdict;
    assert_eq!(verdict(), Verdict::Ok);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, bad).unwrap();
        assert_ne!(verdict(), Verdict::Ok, "byte {at}");
        fs::write(&path, &good[..at]).unwrap();
        assert_ne!(verdict(), Verdict::Ok, "cut off at byte {at}");
    }
}

const SMALL: Retention = Retention { max_bytes: 20 << 10, max_age_ns: u64::MAX };

/// What retention removed stays part of the tree; what is left is proved against it.
#[test]
fn entries_behind_a_removal_are_proved_in_the_same_tree() {
    let state = State::new();
    let spawn = |retention| {
        let options = Options {
            live: Some(Box::new(|| Some(std::collections::BTreeSet::new()))),
            signing: Some(Signing {
                name: "failsafe.test/node".into(),
                signer: Box::new(|_| Ok(Box::new(signer()))),
                every: Duration::from_secs(3600),
            }),
            clock: Box::new(stamp(0)),
            ..Options::default()
        };
        let folder = LogFolder::open(&state.dir(), state.layout(retention)).unwrap();
        AuditWriter::spawn_on(folder, options).unwrap()
    };
    let fill = |writer: AuditWriter, n: u64| {
        for n in 0..n {
            let draft = Draft::new("run", stamp(n), json!({ "n": n, "text": "x".repeat(200) }));
            writer.handle().submit(&draft).wait(Duration::from_secs(10)).unwrap();
        }
        writer.shutdown(Duration::from_secs(10)).unwrap();
    };
    fill(spawn(Retention::default()), 100);
    let origin = state.signed().origin;
    // All entries, as they were before the removal.
    let mut leaves: Vec<[u8; 32]> = Search::open(&state.dir().join(LOG_FILE), Query::default())
        .unwrap()
        .map(|entry| entry.unwrap().leaf_hash)
        .collect();
    fill(spawn(SMALL), 1);
    fill(spawn(SMALL), 1);
    let all: Vec<_> = Search::open(&state.dir().join(LOG_FILE), Query::default()).unwrap().flatten().collect();
    let first = all.first().unwrap().index;
    assert!(first > 20, "{first}");
    let known = leaves.len() as u64;
    leaves.extend(all.iter().filter(|entry| entry.index >= known).map(|entry| entry.leaf_hash));
    let mut whole = Frontier::new();
    leaves.iter().for_each(|leaf| whole.push(*leaf));
    let signed = state.signed();
    assert_eq!((&signed.origin, signed.first, signed.size, signed.root), (&origin, 0, whole.size(), whole.root()));
    assert_eq!(state.verdict(), Verdict::Ok);
    let note = fs::read(state.latest()).unwrap();
    let prove =
        |index: u64| prove::prove(&state.dir(), index, Checkpoint::open(&note, &keys()).unwrap().0, note.clone());
    for entry in &all {
        assert_eq!(prove(entry.index).unwrap().verify(&keys()).unwrap().entry, *entry.bytes);
    }
    assert!(prove(first - 1).unwrap_err().to_string().contains("removed by retention"));
    // Without the edge there the tree cannot be continued, which is reported.
    fs::remove_file(edge::edge_path(&state.dir(), first)).unwrap();
    for path in fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "tree") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(matches!(state.verdict(), Verdict::Segment(why) if why.contains("cannot be continued")));
    assert!(state.findings().iter().any(|finding| finding.contains("missing or damaged")));
}

#[test]
fn a_silent_log_has_a_heartbeat_and_a_checkpoint_of_it() {
    let state = State::new();
    let options = Options {
        signing: Some(Signing {
            name: "failsafe.test/node".into(),
            signer: Box::new(|_| Ok(Box::new(signer()))),
            every: Duration::from_millis(1),
        }),
        heartbeat: Some(Duration::from_millis(20)),
        ..Options::default()
    };
    let folder = LogFolder::open(&state.dir(), state.layout(Retention::default())).unwrap();
    let writer = AuditWriter::spawn_on(folder, options).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while writer.handle().tree().signed < 3 {
        assert!(std::time::Instant::now() < deadline, "{:?}", writer.handle().tree());
        std::thread::sleep(Duration::from_millis(5));
    }
    writer.shutdown(Duration::from_secs(10)).unwrap();
    let all: Vec<_> = Search::open(&state.dir().join(LOG_FILE), Query::default()).unwrap().flatten().collect();
    assert!(all.iter().all(|entry| entry.kind == "heartbeat" && entry.body["silent_ms"].as_u64() >= Some(20)));
    assert!(all.iter().any(|entry| entry.body["signed"].as_u64() > Some(0)), "{all:?}");
    assert_eq!(state.signed().entries(), all.len() as u64, "the last checkpoint is of the whole log");
}

/// A log without a sealed segment: no checkpoint is kept beside the latest one, and only the log's own entries show that there was one.
#[test]
fn a_short_log_shows_that_its_checkpoint_was_deleted_or_replaced_by_an_older_one() {
    let state = State::new();
    let options = || Options {
        signing: Some(Signing {
            name: "failsafe.test/node".into(),
            signer: Box::new(|_| Ok(Box::new(signer()))),
            every: Duration::from_millis(1),
        }),
        // Shorter than the time between two entries: a heartbeat comes all the same.
        heartbeat: Some(Duration::from_millis(40)),
        ..Options::default()
    };
    let until_stated = |at_least: u64| {
        let layout = Layout { segment_bytes: 1 << 20, ..state.layout(Retention::default()) };
        let folder = LogFolder::open(&state.dir(), layout).unwrap();
        let writer = AuditWriter::spawn_on(folder, options()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let stated = || {
            let all = Search::open(&state.dir().join(LOG_FILE), Query::default()).unwrap().flatten();
            all.filter_map(|entry| entry.body["signed"].as_u64()).max().unwrap_or(0)
        };
        while stated() < at_least {
            assert!(std::time::Instant::now() < deadline, "{}", stated());
            writer.handle().submit(&Draft::new("test", stamp(1), json!({}))).wait(Duration::from_secs(10)).unwrap();
        }
        writer.shutdown(Duration::from_secs(10)).unwrap();
        fs::read(state.latest()).unwrap()
    };
    let old = until_stated(1);
    assert_eq!(state.copy().findings(), [""; 0]);
    until_stated(state.entries() + 1);
    assert!(sealed(&state.dir()).is_empty(), "no border has a checkpoint");
    for (content, words) in [(None, "is missing"), (Some(&old), "replaced by an older one")] {
        let copy = state.copy();
        match content {
            Some(bytes) => fs::write(copy.latest(), bytes).unwrap(),
            None => fs::remove_file(copy.latest()).unwrap(),
        }
        let (mut log, Recovery { findings, .. }) = copy.open();
        assert!(matches!(&findings[..], [one] if one.contains(words)), "{findings:?}");
        log.sign(&signer(), false).unwrap();
        drop(log);
        assert_eq!(copy.findings(), [""; 0], "reported once");
    }
    // What was put aside is stated no longer: the log with a new tree is signed for fewer entries.
    let other = state.copy();
    fs::write(other.latest(), "damaged").unwrap();
    assert!(matches!(&other.findings()[..], [_]));
    assert_eq!(other.findings(), [""; 0], "reported once, though nothing was signed since");
}

/// Bytes that this thread has read from files.
fn bytes_read() -> u64 {
    let io = fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn the_second_start_of_a_log_with_100000_entries_reads_the_last_file_only() {
    let state = State::new();
    let layout = |checkpoint| Layout { reserve_bytes: 0, checkpoint, ..Layout::default() };
    let open = |checkpoint| {
        let before = bytes_read();
        let folder = LogFolder::open(&state.dir(), layout(checkpoint)).unwrap();
        let log = AuditLog::open(folder, &stamp(0)).unwrap().0;
        (log, bytes_read() - before)
    };
    let mut log = open(None).0;
    for n in 0..100_000 {
        log.append(&Draft::new("run", stamp(n), json!({ "n": n, "text": "x".repeat(100) }))).unwrap();
        if n % 500 == 499 {
            log.commit().unwrap();
            if log.seal_if_due(stamp(n)) {
                log.commit().unwrap();
            }
        }
    }
    drop(log);
    // As a version without a tree left it.
    for path in fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "tree") {
            fs::remove_file(path).unwrap();
        }
    }
    let all: u64 = fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    let last = fs::metadata(state.dir().join(LOG_FILE)).unwrap().len();
    let signed = || Some((state.latest(), keys()));
    let (mut log, first) = open(signed());
    assert!(log.is_building_tree() && first < 22 << 20, "the first start reads {first} of {all} bytes");
    let mut steps = 0;
    while log.is_building_tree() {
        let before = bytes_read();
        log.build_tree(stamp(1));
        steps += 1;
        assert!(bytes_read() - before < 6 << 20, "step {steps}");
    }
    assert!(log.sign(&signer(), false).unwrap());
    drop(log);
    let (mut log, second) = open(signed());
    assert!(
        second < last + (1 << 20) && last < 5 << 20,
        "the second start reads {second} of {all} bytes; the last file has {last}"
    );
    assert!(!log.is_building_tree() && !log.sign(&signer(), false).unwrap());
}

/// Nothing can be signed: the limit of age waits for it, that of size does not.
#[test]
fn retention_behind_the_last_checkpoint_is_by_size_only_and_the_next_start_says_so() {
    let old = Retention { max_bytes: u64::MAX, max_age_ns: 10 };
    let state = State::new();
    state.write(0, 2);
    let open = |retention| {
        let folder = LogFolder::open(&state.dir(), state.layout(retention)).unwrap();
        AuditLog::open(folder, &stamp(0)).unwrap().0
    };
    let mut log = open(old);
    write_unsigned(&mut log, 100);
    let segments = sealed(&state.dir()).len();
    assert!(segments > 5);
    assert!(log.retain(stamp(5_000), &|_| false).unwrap().is_empty(), "nobody could tell what was removed");
    assert_eq!(sealed(&state.dir()).len(), segments);
    drop(log);
    let mut log = open(SMALL);
    let written = log.retain(stamp(5_000), &|_| false).unwrap();
    let entry = failsafe_journal::Entry::parse(&written[0].bytes).unwrap();
    let why = entry.body["removed"]["why"].as_str().unwrap().to_owned();
    assert!(why.contains("more than 20480 bytes; no checkpoint was signed of entries from 2 on"), "{why}");
    drop(log);
    let findings = state.findings();
    assert!(findings.len() == 1 && findings[0].contains("cannot be compared with its last checkpoint"), "{findings:?}");
    assert_eq!(state.findings(), [""; 0], "reported once");
    // What is signed is removed by its age.
    let mut log = open(old);
    log.sign(&signer(), false).unwrap();
    assert!(!log.retain(stamp(5_000), &|_| false).unwrap().is_empty());
    assert!(sealed(&state.dir()).is_empty());
}

#[test]
fn evidence_that_was_put_aside_is_never_replaced() {
    let state = State::new();
    let asides = || {
        let all = fs::read_dir(state.dir()).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<PathBuf> = all.filter(|path| path.to_string_lossy().contains("checkpoints.aside-")).collect();
        all.sort();
        all
    };
    let content = |path: &Path| {
        let all = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = all.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        all.sort();
        all
    };
    let unknown = || {
        fs::remove_file(state.latest()).unwrap();
        let keys = Keys::of(vec![VerifierKey::new("other", &signer().1.public()).unwrap()]);
        let layout = Layout { checkpoint: Some((state.latest(), keys)), ..state.layout(Retention::default()) };
        drop(AuditLog::open(LogFolder::open(&state.dir(), layout).unwrap(), &stamp(0)).unwrap());
    };
    state.write(0, 40);
    unknown();
    let first = asides();
    assert_eq!(first.len(), 1);
    let before = content(&first[0]);
    state.write(40, 80);
    unknown();
    assert_eq!(asides().len(), 2);
    assert_eq!(content(&first[0]), before);
}

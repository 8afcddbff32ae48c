//! A log that does not contain what was signed of it is reported, and what was signed is kept.

use super::*;

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

//! A head of the log that is damaged or gone: a finding, because without it nothing shows that the log was cut.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

mod support;

use failsafe_journal::head::HeadFile;
use failsafe_journal::segments::sealed;
use failsafe_journal::storage::{LOG_FILE, Layout, LogFolder};
use failsafe_journal::tree::signed::checkpoint_path;
use failsafe_journal::{AuditLog, Draft, Query, Search};
use failsafe_tlog::Keys;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use support::{signer, stamp};

struct State(tempfile::TempDir);

impl State {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn layout(&self) -> Layout {
        let heads = vec![self.path("head.json"), self.path("second.json")];
        let checkpoint = Some((self.path("log.checkpoint"), Keys::of(vec![signer().1])));
        Layout { segment_bytes: 4 << 10, reserve_bytes: 0, heads, checkpoint, ..Layout::default() }
    }

    fn open(&self, layout: Layout) -> (AuditLog<LogFolder>, Vec<String>) {
        let folder = LogFolder::open(&self.path("audit"), layout).unwrap();
        let (log, recovery) = AuditLog::open(folder, &stamp(0)).unwrap();
        (log, recovery.findings)
    }

    /// What a start finds.
    fn findings(&self) -> Vec<String> {
        self.open(self.layout()).1
    }

    fn write(&self, layout: Layout, sign: bool) {
        let mut log = self.open(layout).0;
        for n in 0..60 {
            log.append(&Draft::new("run", stamp(n), json!({ "n": n, "text": "x".repeat(200) }))).unwrap();
            log.commit().unwrap();
            if log.seal_if_due(stamp(n)) {
                if sign {
                    log.sign(&signer(), true).unwrap();
                }
                log.commit().unwrap();
            }
        }
        if sign {
            log.sign(&signer(), false).unwrap();
        }
    }

    fn filled() -> State {
        let state = State(tempfile::tempdir().unwrap());
        state.write(state.layout(), true);
        state
    }

    fn integrity(&self) -> Vec<String> {
        let entries = Search::open(&self.path("audit").join(LOG_FILE), Query::default()).unwrap().map(Result::unwrap);
        let gaps = entries.filter(|entry| entry.kind == "gap" && entry.body["cause"] == "integrity");
        gaps.map(|entry| entry.body["what"].as_str().unwrap().to_owned()).collect()
    }
}

fn remove(path: &Path) {
    fs::remove_file(path).unwrap();
}

#[test]
fn a_damaged_head_is_reported_once_and_kept() {
    for name in ["head.json", "second.json"] {
        for bytes in ["x\n", "", "{\"entries\":5}", "\0\0\0\0"] {
            let state = State::filled();
            fs::write(state.path(name), bytes).unwrap();
            assert!(HeadFile::read(&state.path(name)).is_err());
            let findings = state.findings();
            assert_eq!(findings.len(), 1, "{name} {bytes:?}: {findings:?}");
            assert!(
                findings[0].contains("cannot be compared with its head") && findings[0].contains(name),
                "{findings:?}"
            );
            assert_eq!(state.integrity(), findings);
            assert_eq!(fs::read_to_string(state.path(&format!("{name}.aside-1"))).unwrap(), bytes, "evidence is kept");
            assert!(HeadFile::read(&state.path(name)).unwrap().unwrap().entries > 60, "it is kept again");
            assert_eq!(state.findings(), [""; 0], "{name} {bytes:?}");
        }
    }
}

#[test]
fn a_head_that_was_removed_is_reported_where_anything_shows_that_there_was_one() {
    let state = State::filled();
    remove(&state.path("head.json"));
    assert!(state.findings()[0].contains("another copy of it is of"));
    assert_eq!(state.findings(), [""; 0]);
    remove(&state.path("head.json"));
    remove(&state.path("second.json"));
    assert!(state.findings()[0].contains("though the log has checkpoints"));
    // Entries about sealed segments state how far the log is signed.
    for entry in fs::read_dir(state.path("audit")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|extension| extension == "checkpoint") {
            remove(&entry);
        }
    }
    ["head.json", "second.json", "log.checkpoint"].into_iter().for_each(|name| remove(&state.path(name)));
    let findings = state.findings();
    assert!(findings.iter().any(|f| f.contains("though the log states that")), "{findings:?}");
}

/// Back to the border of two segments, with the checkpoint of the border as the latest one.
#[test]
fn a_log_that_was_rolled_back_to_a_border_is_reported_if_its_heads_are_gone_or_damaged() {
    for garbage in [None, Some("x\n")] {
        let state = State::filled();
        let audit = state.path("audit");
        let border = sealed(&audit)[2];
        fs::copy(checkpoint_path(&audit, border), state.path("log.checkpoint")).unwrap();
        remove(&audit.join(LOG_FILE));
        for path in fs::read_dir(&audit).unwrap().map(|entry| entry.unwrap().path()) {
            let Ok(at) = path.file_stem().unwrap().to_str().unwrap().parse::<u64>() else { continue };
            let ends_there = path.extension().is_some_and(|extension| extension == "checkpoint" || extension == "tree");
            if at > border || (at == border && !ends_there) {
                remove(&path);
            }
        }
        ["head.json", "second.json"].into_iter().for_each(|name| remove(&state.path(name)));
        if let Some(garbage) = garbage {
            fs::write(state.path("head.json"), garbage).unwrap();
        }
        let findings = state.findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("head"), "{findings:?}");
        assert_eq!(state.integrity(), findings);
    }
}

#[test]
fn a_new_node_a_reboot_a_crash_and_an_upgrade_find_nothing() {
    let new = State(tempfile::tempdir().unwrap());
    assert_eq!(new.findings(), [""; 0]);
    assert_eq!(new.findings(), [""; 0], "and nothing was written yet");
    // The second head does not outlive a boot.
    let state = State::filled();
    remove(&state.path("second.json"));
    assert_eq!(state.findings(), [""; 0]);
    // A version before heads and checkpoints.
    let earlier = State(tempfile::tempdir().unwrap());
    earlier.write(Layout { heads: Vec::new(), checkpoint: None, ..earlier.layout() }, false);
    assert_eq!(earlier.findings(), [""; 0]);
    // A crash before the first head was in place.
    let crashed = State(tempfile::tempdir().unwrap());
    let (mut log, _) = crashed.open(Layout { heads: Vec::new(), ..crashed.layout() });
    log.append(&Draft::new("run", stamp(1), json!({}))).unwrap();
    log.commit().unwrap();
    drop(log);
    fs::write(crashed.path("head.json.part"), "").unwrap();
    assert_eq!(crashed.findings(), [""; 0]);
    crashed.write(crashed.layout(), false);
    assert!(HeadFile::read(&crashed.path("head.json")).unwrap().unwrap().entries > 60);
}

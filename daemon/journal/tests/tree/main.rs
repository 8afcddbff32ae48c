//! The tree over a log: what is signed of it, what the next start compares, crashes between the steps, and proofs.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

mod evidence;
mod proofs;
mod signed;
mod start;
#[path = "../support/mod.rs"]
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

const SMALL: Retention = Retention { max_bytes: 20 << 10, max_age_ns: u64::MAX };

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

//! Whether the log of one checkpoint extends another: what shows it, and each way in which it does not.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

mod support;

use failsafe_journal::segments::{sealed, segment_path};
use failsafe_journal::storage::{LOG_FILE, Layout, LogFolder};
use failsafe_journal::tree::signed::{CHECKPOINT_FILE, SignedTree, checkpoint_path};
use failsafe_journal::tree::{edge, extends::NotExtended, extends::extends, prove};
use failsafe_journal::{AuditLog, Draft};
use failsafe_tlog::proof::verify_consistency;
use failsafe_tlog::{Checkpoint, Keys};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use support::{signer, stamp};

struct State(tempfile::TempDir);

impl State {
    fn new() -> State {
        State(tempfile::tempdir().unwrap())
    }

    fn dir(&self) -> PathBuf {
        self.0.path().join("audit")
    }

    /// Writes entries and signs the tree. The same `text` gives the same entries.
    fn write(&self, text: &str, entries: u64) -> SignedTree {
        let checkpoint = Some((self.0.path().join(CHECKPOINT_FILE), Keys::of(vec![signer().1])));
        let layout = Layout { segment_bytes: 4_096, reserve_bytes: 0, checkpoint, ..Layout::default() };
        let folder = LogFolder::open(&self.dir(), layout).unwrap();
        let mut log = AuditLog::open(folder, &stamp(0)).unwrap().0;
        for n in 0..entries {
            log.append(&Draft::new("run", stamp(n), json!({ "n": n, "text": text.repeat(50) }))).unwrap();
            log.commit().unwrap();
            if log.seal_if_due(stamp(n)) {
                log.sign(&signer(), true).unwrap();
                log.commit().unwrap();
            }
        }
        log.sign(&signer(), false).unwrap();
        signed(&self.0.path().join(CHECKPOINT_FILE))
    }

    /// All checkpoints, those of borders first.
    fn all(&self) -> Vec<SignedTree> {
        let files = fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "checkpoint"));
        let mut all: Vec<SignedTree> = files.chain([self.0.path().join(CHECKPOINT_FILE)]).map(|p| signed(&p)).collect();
        all.sort_by_key(|tree| tree.size);
        all
    }
}

fn signed(path: &Path) -> SignedTree {
    SignedTree::of(Checkpoint::open(&fs::read(path).unwrap(), &Keys::of(vec![signer().1])).unwrap().0).unwrap()
}

#[test]
fn each_checkpoint_is_extended_by_each_later_one() {
    let state = State::new();
    state.write("text", 30);
    state.write("more", 30);
    let all = state.all();
    assert!(all.len() > 5, "{all:?}");
    for (at, old) in all.iter().enumerate() {
        for new in &all[at..] {
            let proof = extends(&state.dir(), old, new).unwrap();
            verify_consistency((old.size, &old.root), (new.size, &new.root), &proof).unwrap();
            if old.size < new.size {
                assert!(matches!(extends(&state.dir(), new, old), Err(NotExtended::Stale { .. })));
            }
        }
    }
}

#[test]
fn a_fork_is_reported_for_the_checkpoint_that_the_log_does_not_contain() {
    let state = State::new();
    let old = state.write("text", 30);
    let new = state.write("more", 5);
    let other = SignedTree { root: [7; 32], ..old.clone() };
    let error = extends(&state.dir(), &other, &new).unwrap_err();
    assert!(matches!(error, NotExtended::Forked { which: "earlier", .. }), "{error}");
    let error = extends(&state.dir(), &old, &SignedTree { root: [7; 32], ..new.clone() }).unwrap_err();
    assert!(matches!(error, NotExtended::Forked { which: "newer", .. }), "{error}");
    // A checkpoint with fewer entries that the log does not contain is a fork, not an old one.
    let error = extends(&state.dir(), &new, &other).unwrap_err();
    assert!(matches!(error, NotExtended::Forked { which: "newer", .. }), "{error}");
    let another = SignedTree { origin: "failsafe/log/0000".to_owned(), ..new };
    assert!(matches!(extends(&state.dir(), &old, &another), Err(NotExtended::OtherLog { .. })));
}

#[test]
fn a_log_that_was_cut_is_reported_as_shortened_wherever_it_ends() {
    let state = State::new();
    let old = state.write("text", 30);
    let new = state.write("more", 30);
    let log = state.dir().join(LOG_FILE);
    let whole = fs::read(&log).unwrap();
    fs::write(&log, &whole[..whole.len() / 2]).unwrap();
    let error = extends(&state.dir(), &old, &new).unwrap_err();
    assert!(matches!(error, NotExtended::Shortened { which: "newer", .. }), "{error}");
    // Behind a border that both checkpoints are behind: the edges there are still in the folder.
    let first = sealed(&state.dir())[1];
    fs::copy(segment_path(&state.dir(), first), &log).unwrap();
    for segment in sealed(&state.dir()).into_iter().filter(|at| *at >= first) {
        fs::remove_file(segment_path(&state.dir(), segment)).unwrap();
    }
    let error = extends(&state.dir(), &old, &new).unwrap_err();
    assert!(matches!(error, NotExtended::Shortened { which: "earlier", .. }), "{error}");
}

/// Changes a hash of each.
fn damage_edges(state: &State, borders: &[u64]) {
    for border in borders {
        let path = edge::edge_path(&state.dir(), *border);
        let mut text = fs::read_to_string(&path).unwrap();
        let at = text.rfind("\"]").unwrap() - 1;
        text.replace_range(at..=at, if text.as_bytes()[at] == b'0' { "1" } else { "0" });
        fs::write(&path, text).unwrap();
    }
}

#[test]
fn entries_behind_a_damaged_edge_are_proved_by_the_entries_in_front_of_it() {
    let state = State::new();
    let tree = state.write("text", 60);
    let borders = sealed(&state.dir());
    damage_edges(&state, &borders[1..]);
    let note = fs::read(state.0.path().join(CHECKPOINT_FILE)).unwrap();
    let keys = Keys::of(vec![signer().1]);
    let prove = |index| {
        let checkpoint = Checkpoint::open(&note, &keys).unwrap().0;
        prove::prove(&state.dir(), index, checkpoint, note.clone())
    };
    for index in [borders[1] - 1, borders[1], borders[2] + 1, tree.entries() - 1] {
        prove(index).unwrap().verify(&keys).unwrap();
    }
    // The entries in front of it decide: where they are missing, nothing is proved.
    fs::remove_file(segment_path(&state.dir(), borders[1])).unwrap();
    assert!(prove(borders[2] + 1).is_err());
}

#[test]
fn a_damaged_edge_is_no_fork_and_a_missing_segment_is_no_shortened_log() {
    let state = State::new();
    let old = state.write("text", 30);
    let new = state.write("more", 30);
    let borders = sealed(&state.dir());
    damage_edges(&state, &borders[1..]);
    extends(&state.dir(), &old, &new).unwrap();
    fs::remove_file(segment_path(&state.dir(), borders[2])).unwrap();
    let error = extends(&state.dir(), &signed(&checkpoint_path(&state.dir(), borders[1])), &new).unwrap_err();
    assert!(matches!(error, NotExtended::Read(_)), "{error}");
}

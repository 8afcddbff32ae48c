//! Checkpoints and proofs of a log, and each way in which it is not the one that was signed.

use crate::support::{bare, err, out};
use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_attest::PublicKey;
use failsafe_journal::{
    AuditLog, Draft, Stamp,
    frame::{header_at, push_frame},
    segments::{REMOVED_FILE, Removed, sealed, segment_path},
    storage::{Layout, LogFolder, Retention},
};
use failsafe_tlog::{Checkpoint, Keys, Signer, VerifierKey};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

struct TestSigner(SigningKey, VerifierKey);

impl Signer for TestSigner {
    fn key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn signer(seed: u8) -> TestSigner {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = VerifierKey::new("failsafe", &key.verifying_key().to_bytes()).unwrap();
    TestSigner(key, public)
}

fn now() -> Stamp {
    Stamp { wall_ns: 1, mono_ns: 2, boot_id: "b".into() }
}

pub struct State(tempfile::TempDir);

impl State {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A state folder as a daemon leaves it.
    pub fn new(text: &str, entries: u64) -> State {
        let state = State(tempfile::tempdir().unwrap());
        fs::write(state.path("log.keys"), format!("# this node\n{}\n", signer(1).1)).unwrap();
        state.write(text, entries);
        state
    }

    fn open(&self, retention: Retention) -> AuditLog<LogFolder> {
        let checkpoint = Some((self.path("log.checkpoint"), Keys::of(vec![signer(1).1])));
        let layout = Layout {
            segment_bytes: 4_096,
            reserve_bytes: 0,
            heads: vec![self.path("head.json")],
            retention,
            checkpoint,
            ..Layout::default()
        };
        AuditLog::open(LogFolder::open(&self.path("audit"), layout).unwrap(), &now()).unwrap().0
    }

    /// Has retention remove this many segments.
    pub fn remove_segments(&self, n: usize) {
        let segments: Vec<u64> = sealed(&self.path("audit"))
            .into_iter()
            .map(|first| fs::metadata(segment_path(&self.path("audit"), first)).unwrap().len())
            .collect();
        let log = fs::metadata(self.path("audit/audit.log")).unwrap().len();
        let max_bytes = segments[n..].iter().sum::<u64>() + log;
        let mut log = self.open(Retention { max_bytes, max_age_ns: u64::MAX });
        log.retain(now(), &|_| false).unwrap();
        log.sign(&signer(1), false).unwrap();
        assert_eq!(sealed(&self.path("audit")).len(), segments.len() - n);
    }

    pub fn write(&self, text: &str, entries: u64) {
        let now = now();
        let mut log = self.open(Retention::default());
        for n in 0..entries {
            log.append(&Draft::new("run", now.clone(), serde_json::json!({ "n": n, "text": text }))).unwrap();
            log.commit().unwrap();
            if log.seal_if_due(now.clone()) {
                log.sign(&signer(1), true).unwrap();
                log.commit().unwrap();
            }
        }
        log.sign(&signer(1), false).unwrap();
    }

    /// The checkpoint `name`, signed by the node's key with another root.
    pub fn fork(&self, name: &str, root: u8) -> Vec<u8> {
        let checkpoint = Checkpoint::unverified(&fs::read(self.path(name)).unwrap()).unwrap();
        Checkpoint { root: [root; 32], ..checkpoint }.sign(&signer(1)).encode()
    }

    pub fn ctl(&self, line: &str) -> Output {
        let mut command = bare(Path::new("/nonexistent"));
        command.current_dir(self.0.path()).arg("--state-dir").arg(self.0.path());
        command.args(line.split_whitespace()).output().unwrap()
    }

    pub fn ok(&self, line: &str) -> String {
        let output = self.ctl(line);
        assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""), "{line}: {}", out(&output));
        out(&output)
    }

    /// What the command prints where it fails.
    pub fn fails(&self, line: &str) -> String {
        let output = self.ctl(line);
        assert_eq!(output.status.code(), Some(1), "{line}: {}{}", out(&output), err(&output));
        format!("{}{}", out(&output), err(&output))
    }
}

#[test]
fn an_entry_is_proved_with_a_file_and_a_key_alone() {
    let state = State::new("text", 60);
    assert!(state.ok("log verify").contains("checkpoints, all contained"), "{}", state.ok("log verify"));
    state.ok("log checkpoint -o c");
    assert_eq!(fs::read(state.path("c")).unwrap(), fs::read(state.path("log.checkpoint")).unwrap());
    assert!(state.ok("log checkpoint").contains(&signer(1).1.to_string()));
    state.ok("log prove 23 -o p");
    assert!(state.fails("log prove 23 -o p").contains("exists"));
    state.ok("log prove 24 -o p --force --checkpoint c");
    let none = state.fails("log prove 9999");
    assert!(none.contains("there is no entry 9999: the log has ") && !none.contains("try again"), "{none}");

    let elsewhere = State(tempfile::tempdir().unwrap());
    fs::copy(state.path("p"), elsewhere.path("p")).unwrap();
    assert!(elsewhere.fails("log verify-proof p").contains("--keys FILE"));
    fs::write(elsewhere.path("keys"), signer(1).1.to_string()).unwrap();
    let text = elsewhere.ok("log verify-proof p --keys keys");
    assert!(text.contains("proved: entry 24 is in the log") && text.contains("{\"index\":24,"), "{text}");
    // A list of the keys of all nodes: it says whose log the entry is in.
    let line = |seed: u8, comment: &str| {
        let public = PublicKey::from_bytes(&signer(seed).1.public()).unwrap();
        format!("{} {} {comment}\n", public.id(), public.base64())
    };
    fs::write(elsewhere.path("keys"), line(2, "node b") + &line(1, "node a")).unwrap();
    let text = elsewhere.ok("log verify-proof p --keys keys");
    let id = PublicKey::from_bytes(&signer(1).1.public()).unwrap().id();
    assert!(text.contains(&format!("  of       {id}, `node a`")) && !text.contains("node b"), "{text}");
    assert!(elsewhere.ok("log verify-proof p --keys keys --json").contains("\"key_comment\": \"node a\""));
    fs::write(elsewhere.path("keys"), signer(2).1.to_string()).unwrap();
    let text = elsewhere.fails("log verify-proof p --keys keys");
    assert!(text.contains("no signature is by a known key") && text.contains("get the proof again"), "{text}");
    fs::write(elsewhere.path("keys"), "").unwrap();
    let output = elsewhere.ctl("log verify-proof p --keys keys");
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("it has no key") && err(&output).contains("NAME+ID+KEY"), "{}", err(&output));
}

#[test]
fn a_log_that_does_not_extend_an_earlier_checkpoint_is_reported_by_its_kind() {
    let state = State::new("text", 30);
    state.ok("log checkpoint -o early");
    let audit = |state: &State| state.path("audit");
    let older = State::new("text", 30);
    state.write("text", 30);
    state.ok("log checkpoint -o late");
    state.ok("log verify --checkpoint early --checkpoint late");
    for name in ["early", "late"] {
        fs::copy(state.path(name), older.path(name)).unwrap();
    }
    // An older copy of everything, with its own head and checkpoint: only the checkpoint from elsewhere shows it.
    older.ok("log verify --checkpoint early");
    let text = older.fails("log verify --checkpoint late");
    assert!(text.contains("SHORTENED OR REPLACED") && text.contains("late was signed for"), "{text}");
    // Another log, valid in itself, signed with the same key.
    let fork = State::new("fork", 90);
    fs::copy(state.path("early"), fork.path("early")).unwrap();
    fork.ok("log verify");
    let text = fork.fails("log verify --checkpoint early");
    assert!(text.contains("NOT THE LOG THAT WAS SIGNED") && text.contains("have root hash"), "{text}");
    // By another key.
    let other = State::new("text", 30);
    fs::write(other.path("keys"), signer(2).1.to_string()).unwrap();
    assert!(other.fails("log verify --keys keys").contains("no signature is by a known key"));
    // A checkpoint that was changed, and one that is replaced by an older one.
    let stored = state.path("log.checkpoint");
    let good = fs::read(&stored).unwrap();
    let mut bad = good.clone();
    bad[30] ^= 1;
    fs::write(&stored, bad).unwrap();
    assert!(
        state.fails("log verify").contains("the text or the signature was changed"),
        "{}",
        state.fails("log verify")
    );
    fs::write(&stored, good).unwrap();
    // An edge of the tree.
    let edge = fs::read_dir(audit(&state)).unwrap().map(|entry| entry.unwrap().path());
    let edge = edge.filter(|path| path.extension().is_some_and(|extension| extension == "tree")).min().unwrap();
    let text = fs::read_to_string(&edge).unwrap();
    let flipped = if text.contains("\"hashes\":[\"0") { ("[\"0", "[\"1") } else { ("[\"", "[\"0") };
    fs::write(&edge, text.replacen(flipped.0, flipped.1, 1)).unwrap();
    assert!(state.fails("log verify").contains("the edge of the tree"), "{}", state.fails("log verify"));
}

/// Whoever forges a log can say that retention removed everything that the checkpoint is of.
#[test]
fn a_log_that_was_never_compared_with_the_checkpoint_does_not_pass() {
    let state = State::new("text", 60);
    state.ok("log checkpoint -o early");
    let forged = State(tempfile::tempdir().unwrap());
    fs::create_dir(forged.path("audit")).unwrap();
    let why = "older than 365 days".to_owned();
    let entry = Some(500);
    let removed = Removed { segments: 9, entries: 500, head: [7; 32], last_summary: [8; 32], wall_ns: 1, why, entry };
    fs::write(forged.path("audit").join(REMOVED_FILE), serde_json::to_vec(&removed).unwrap()).unwrap();
    // With the entry that a removal has.
    let stated = serde_json::json!({ "entries": 500, "head": hex::encode([7; 32]), "why": removed.why });
    let stamp = Stamp { wall_ns: 1, mono_ns: 2, boot_id: "b".into() };
    let entry = Draft::new("segment", stamp, serde_json::json!({ "removed": stated })).prepare().unwrap();
    let mut log = header_at(&removed.end());
    push_frame(&mut log, &entry.seal(500, &removed.head).bytes);
    fs::write(forged.path("audit/audit.log"), log).unwrap();
    forged.write("forged", 30);
    for name in ["early", "log.keys"] {
        fs::copy(state.path(name), forged.path(name)).unwrap();
    }
    let text = forged.ok("log verify");
    assert!(text.contains("intact") && text.contains("nothing that links it to the removed entries"), "{text}");
    let output = forged.ctl("log verify --checkpoint early");
    let text = out(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("NOT COMPARED WITH THE CHECKPOINT") && !text.contains("no entry was changed"), "{text}");
    let json = out(&forged.ctl("log verify --checkpoint early -o json"));
    assert!(json.contains("\"not-compared\"") && json.contains("\"continues_removed_entries\": false"), "{json}");
    assert!(!state.ok("log verify --checkpoint early").contains("nothing that links"));
}

/// The daemon continues a log that was rolled back, and says so in it: it is intact, and not all that was written.
#[test]
fn a_log_that_was_continued_after_a_rollback_does_not_pass_as_whole() {
    let state = State::new("text", 10);
    let early = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(state.path("audit")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), early.path().join(entry.file_name())).unwrap();
    }
    state.write("text", 10);
    assert!(state.ok("log verify").contains("intact: no entry was changed"));
    fs::remove_dir_all(state.path("audit")).unwrap();
    fs::create_dir(state.path("audit")).unwrap();
    for entry in fs::read_dir(early.path()).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), state.path("audit").join(entry.file_name())).unwrap();
    }
    assert!(state.fails("log verify").contains("NOT CONTAINED"), "{}", state.fails("log verify"));
    state.write("text", 3);
    let output = state.ctl("log verify");
    let text = out(&output);
    assert_eq!(output.status.code(), Some(3), "{text}{}", err(&output));
    for part in ["INTACT, BUT NOT ALL THAT WAS WRITTEN", "entry 10 of", "set aside from an earlier log", "aside-"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let value: serde_json::Value = serde_json::from_str(&out(&state.ctl("log verify -o json"))).unwrap();
    assert_eq!((value["verdict"].as_str(), value["findings"][0]["entry"].as_u64()), (Some("incomplete"), Some(10)));
    assert!(value["aside"][0].as_str().unwrap().contains("checkpoints.aside-"), "{value}");
    // A copy of the file has the entry too.
    fs::copy(state.path("audit/audit.log"), state.path("copy.log")).unwrap();
    let output = state.ctl("log verify --file copy.log");
    assert_eq!(output.status.code(), Some(3), "{}", out(&output));
}

#[test]
fn a_signed_log_without_a_head_does_not_pass() {
    let state = State::new("text", 20);
    let head = fs::read(state.path("head.json")).unwrap();
    for damage in ["garbage", ""] {
        fs::write(state.path("head.json"), damage).unwrap();
        assert!(state.fails("log verify").contains("HEAD WAS REMOVED OR DAMAGED"));
    }
    fs::remove_file(state.path("head.json")).unwrap();
    assert!(state.fails("log verify -o json").contains("\"head-lost\""));
    fs::write(state.path("head.json"), head).unwrap();
    state.ok("log verify");
}

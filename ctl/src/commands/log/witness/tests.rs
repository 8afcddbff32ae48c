//! A witness of one log that grows, and of one that misbehaves.

use super::*;
use crate::{args::LogCommand, client::Target};
use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_tlog::{Collector, Frontier, Note, Signer, VerifierKey, WitnessKey, leaf_hash};
use jiff::tz::TimeZone;
use std::{fs, os::unix::fs::PermissionsExt};
use tempfile::TempDir;

struct Log(SigningKey, VerifierKey);

impl Signer for Log {
    fn key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn log() -> Log {
    let key = SigningKey::from_bytes(&[5; 32]);
    let public = VerifierKey::new("failsafe", key.verifying_key().as_bytes()).unwrap();
    Log(key, public)
}

fn leaf(n: u64, fork: bool) -> [u8; 32] {
    leaf_hash(format!("{n} {}", fork && n >= 2).as_bytes())
}

pub(super) fn checkpoint(size: u64, fork: bool) -> Vec<u8> {
    let mut frontier = Frontier::new();
    (0..size).for_each(|n| frontier.push(leaf(n, fork)));
    let origin = "failsafe/log/00".to_owned();
    Checkpoint { origin, size, root: frontier.root(), extensions: Vec::new() }.sign(&log()).encode()
}

pub(super) fn proof(old: u64, new: u64, fork: bool) -> Vec<u8> {
    let mut collector = Collector::consistency(&Frontier::new(), old, new).unwrap();
    (0..new).for_each(|n| collector.push(leaf(n, fork)));
    let hashes = collector.finish().unwrap().0.remove(0);
    ConsistencyFile { old, hashes, checkpoint: checkpoint(new, fork) }.encode()
}

/// A witness, and files that are given to it.
pub(super) struct Bench(TempDir);

impl Bench {
    pub(super) fn new() -> Bench {
        let bench = Bench(tempfile::tempdir().unwrap());
        bench.write("keys", format!("{}\n", log().1).as_bytes());
        bench.key(Some("witness.example/w1")).unwrap();
        bench
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn run(&self, what: LogCommand) -> Result<Exit, Fail> {
        let daemon = &Target::Socket("/nowhere".into());
        super::super::log(&Place { daemon, state_dir: self.0.path(), zone: TimeZone::UTC }, &what)
    }

    fn key(&self, name: Option<&str>) -> Result<Exit, Fail> {
        let (dir, name) = (self.path("witness"), name.map(str::to_owned));
        self.run(LogCommand::Witness { what: WitnessCommand::Key { dir, name, json: false } })
    }

    pub(super) fn public(&self) -> WitnessKey {
        WitnessSigner::read(&self.path("witness")).map_err(|fail| fail.message).unwrap().public().clone()
    }

    /// Asks for a cosignature; returns the cosigned checkpoint.
    fn cosign(&self, request: &[u8]) -> Result<Vec<u8>, Fail> {
        let (request, output) = (self.write("request", request), self.path("cosigned"));
        let out = LogOut { output: Some(output.clone()), force: true, json: false };
        let (dir, keys) = (self.path("witness"), self.path("keys"));
        self.run(LogCommand::Witness { what: WitnessCommand::Cosign { dir, request, keys, out } })?;
        Ok(fs::read(output).unwrap())
    }

    pub(super) fn kept(&self) -> PathBuf {
        Folder::open(&self.path("witness")).map_err(|fail| fail.message).unwrap().path("failsafe/log/00")
    }
}

#[test]
fn a_witness_cosigns_each_extension_and_keeps_the_last_one() {
    let bench = Bench::new();
    for request in [checkpoint(3, false), proof(3, 3, false), proof(3, 7, false)] {
        let cosigned = bench.cosign(&request).unwrap();
        let note = Note::parse(&cosigned).unwrap();
        assert!(bench.public().cosigned(&note).unwrap().is_some());
        assert_eq!(fs::read(bench.kept()).unwrap(), cosigned);
    }
    assert_eq!(bench.kept().metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_witness_refuses_a_fork_an_older_tree_and_a_second_beginning() {
    let bench = Bench::new();
    bench.cosign(&checkpoint(3, false)).unwrap();
    let kept = fs::read(bench.kept()).unwrap();
    let exit = |request: &[u8]| bench.cosign(request).unwrap_err().exit;
    assert_eq!(exit(&proof(3, 7, true)), Exit::Forked);
    assert_eq!(exit(&proof(2, 2, false)), Exit::Stale);
    assert_eq!(exit(&checkpoint(7, false)), Exit::Error);
    let again = bench.cosign(&checkpoint(3, false)).unwrap_err();
    assert!(again.message.contains("cosigned 3 last"), "{again}");
    assert!(again.advice.as_ref().is_some_and(|advice| advice.contains(".checkpoint")), "{again}");
    assert_eq!(exit(b"text"), Exit::Error);
    assert_eq!(fs::read(bench.kept()).unwrap(), kept);
}

#[test]
fn a_name_with_a_scheme_is_refused_before_a_key_is_made() {
    let bench = Bench::new();
    let dir = bench.path("other");
    let name = Some("https://witness.example.org/w1".to_owned());
    let what = WitnessCommand::Key { dir: dir.clone(), name, json: false };
    let refused = bench.run(LogCommand::Witness { what }).unwrap_err();
    assert!(refused.exit == Exit::Usage && refused.message.contains("no scheme"), "{refused}");
    assert!(!dir.exists());
}

#[test]
fn a_witness_with_a_damaged_memory_cosigns_nothing() {
    let bench = Bench::new();
    bench.cosign(&checkpoint(3, false)).unwrap();
    let kept = bench.kept();
    let good = fs::read(&kept).unwrap();
    // Cut, by another witness, or of nobody.
    let cut = good[..good.len() - 10].to_vec();
    for damaged in [Vec::new(), cut, checkpoint(2, false)] {
        fs::write(&kept, damaged).unwrap();
        let fail = bench.cosign(&proof(3, 7, false)).unwrap_err();
        assert!(fail.message.contains("is damaged"), "{fail}");
    }
    fs::write(&kept, good).unwrap();
    bench.cosign(&proof(3, 7, false)).unwrap();
}

#[test]
fn one_request_is_judged_at_a_time() {
    let bench = Bench::new();
    let _held = Folder::open(&bench.path("witness")).map_err(|fail| fail.message).unwrap();
    let fail = bench.cosign(&checkpoint(3, false)).unwrap_err();
    assert!(fail.message.contains("the witness is in use"), "{fail}");
}

#[test]
fn the_key_of_a_witness_is_made_once_and_only_its_owner_may_read_it() {
    let bench = Bench::new();
    let key = bench.public();
    bench.key(Some("witness.example/w1")).unwrap();
    assert_eq!(bench.public(), key);
    assert!(bench.key(Some("other")).unwrap_err().message.contains("has the name witness.example/w1, not other"));
    let path = bench.path("witness/witness.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(bench.key(None).unwrap_err().message.contains("others may read it"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "failsafe-witness-key 1\nname AAAA\n").unwrap();
    assert!(bench.key(None).unwrap_err().message.contains("damaged: line 2"));
    fs::remove_file(&path).unwrap();
    assert!(bench.key(None).unwrap_err().advice.unwrap().contains("--name"));
    assert_eq!(bench.key(Some("a b")).unwrap_err().exit, Exit::Usage);
}

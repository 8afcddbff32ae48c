//! A program by others reads what this project writes: `aics-tlog`, an implementation of the C2SP specifications in Python, verifies
//! an archive's tiles and entry bundles, its checkpoint, a cosignature, and proofs.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_journal::archive::archive;
use failsafe_journal::storage::{Layout, LogFolder};
use failsafe_journal::tree::{SignedTree, extends::extends, prove::prove};
use failsafe_journal::{AuditLog, Draft, kind};
use failsafe_tlog::witness::judge;
use failsafe_tlog::{Checkpoint, ConsistencyFile, Cosigner, Keys, WitnessKey};
use serde_json::json;

use support::{signer, stamp};

mod support;

#[path = "../../../tests/skip.rs"]
mod skip;

/// Takes the folder; exits with 0 if all of it is as it should be.
const READER: &str = r#"
import base64, json, pathlib, sys
import aics_tlog as t
from aics_tlog.cosign import verify_cosignature
from aics_tlog.note import parse_vkey
from aics_tlog.tiles import FileSystemTileReader, read_entry
from aics_tlog.verified import audit_tiles

dir = pathlib.Path(sys.argv[1])
keys = json.loads((dir / "keys.json").read_text())
key, witness = parse_vkey(keys["log"]), parse_vkey(keys["witness"])
note = t.parse_note((dir / "cosigned").read_bytes())
result = t.verify_checkpoint(note, key, [witness], quorum=1)
assert result.ok, result
checkpoint = t.parse_checkpoint(note.text)
report = audit_tiles(FileSystemTileReader(dir / "archive"), checkpoint.size, checkpoint.root)
entries = [read_entry(FileSystemTileReader(dir / "archive"), n, checkpoint.size) for n in range(checkpoint.size)]
assert [json.loads(entry)["index"] for entry in entries] == list(range(checkpoint.size))

lines = (dir / "proof").read_text().split("\n\n", 1)[0].split("\n")
assert lines[0] == "c2sp.org/tlog-proof@v1", lines[0]
extra, index = base64.b64decode(lines[1].removeprefix("extra ")), int(lines[2].removeprefix("index "))
proof = [base64.b64decode(line) for line in lines[3:]]
assert extra == entries[index]
assert t.verify_leaf_inclusion(extra, index, checkpoint.size, proof, checkpoint.root)

first = t.parse_checkpoint(t.parse_note((dir / "first").read_bytes()).text)
lines = (dir / "consistency").read_text().split("\n\n", 1)[0].split("\n")
assert int(lines[0].removeprefix("old ")) == first.size
proof = [base64.b64decode(line) for line in lines[1:]]
assert t.verify_consistency(first.size, checkpoint.size, first.root, checkpoint.root, proof)
print(report.tiles, report.bundles)
"#;

struct Witness(SigningKey, WitnessKey);

impl Cosigner for Witness {
    fn key(&self) -> &WitnessKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

/// The interpreter that has the module.
fn python() -> Option<String> {
    let python = std::env::var("FAILSAFE_TLOG_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import aics_tlog"]).output();
    if has.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skip::skip(&format!(
        "{python} has no aics-tlog (pip install aics-tlog, with Python 3.12; FAILSAFE_TLOG_PYTHON names it)"
    ));
    None
}

/// A log of more entries than a tile has, archived and cosigned, with proofs.
fn write(dir: &Path) {
    let log_key = signer();
    fs::write(dir.join("log.keys"), log_key.1.to_string()).unwrap();
    let secret = SigningKey::from_bytes(&[2; 32]);
    let public = WitnessKey::new("witness.example/w1", secret.verifying_key().as_bytes()).unwrap();
    let witness = Witness(secret, public);
    let keys = Keys::of(vec![log_key.1.clone()]);
    let latest = dir.join("log.checkpoint");
    let checkpoint = Some((latest.clone(), keys.clone()));
    let layout = Layout { segment_bytes: 64 << 10, reserve_bytes: 0, checkpoint, ..Layout::default() };
    let audit = dir.join("audit");
    let (mut log, _) = AuditLog::open(LogFolder::open(&audit, layout).unwrap(), &stamp(0)).unwrap();
    for n in 0..700 {
        log.append(&Draft::new(kind::RUN, stamp(n), json!({ "n": n, "text": "é\n\"" }))).unwrap();
        log.commit().unwrap();
        if n == 200 {
            log.sign(&log_key, false).unwrap();
            fs::copy(&latest, dir.join("first")).unwrap();
        }
        if log.seal_if_due(stamp(n)) {
            log.sign(&log_key, true).unwrap();
            log.commit().unwrap();
        }
    }
    drop(log);
    let open = |path: &Path| {
        let checkpoint = Checkpoint::open(&fs::read(path).unwrap(), &keys).map_err(|error| error.to_string())?.0;
        SignedTree::of(checkpoint).ok_or_else(|| "an origin".to_owned())
    };
    let archived = archive(&audit, &dir.join("log.keys"), &dir.join("archive"), &open).unwrap().unwrap();
    assert!(archived.tiles && archived.signed.size > 512, "{archived:?}");
    let note = fs::read(dir.join("archive/checkpoint")).unwrap();
    let new = Checkpoint::unverified(&note).unwrap();
    let request = ConsistencyFile { old: 0, hashes: Vec::new(), checkpoint: note.clone() };
    let cosigned = judge(&request, None, &keys, 1_700_000_000, &witness).unwrap();
    fs::write(dir.join("cosigned"), cosigned.note).unwrap();
    fs::write(dir.join("proof"), prove(&audit, 300, new, note.clone()).unwrap().encode()).unwrap();
    let (first, last) = (open(&dir.join("first")).unwrap(), open(&dir.join("archive/checkpoint")).unwrap());
    let hashes = extends(&audit, &first, &last).unwrap();
    let consistency = ConsistencyFile { old: first.size, hashes, checkpoint: note };
    fs::write(dir.join("consistency"), consistency.encode()).unwrap();
    let names = json!({ "log": log_key.1.to_string(), "witness": witness.1.to_string() });
    fs::write(dir.join("keys.json"), names.to_string()).unwrap();
}

fn read(python: &str, dir: &Path) -> Result<String, String> {
    let output = Command::new(python).args(["-c", READER]).arg(dir).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

#[test]
fn another_implementation_reads_tiles_notes_cosignatures_and_proofs() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let report = read(&python, dir.path()).unwrap();
    assert_ne!(report.trim(), "0 0");
    // It does look: one changed bit in each of them is refused.
    for name in ["archive/tile/0/000", "archive/tile/entries/001", "cosigned", "proof", "consistency"] {
        let path = dir.path().join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let at = bad.len() / 3;
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(read(&python, dir.path()).is_err(), "{name} was accepted with a changed bit");
        fs::write(&path, good).unwrap();
    }
}

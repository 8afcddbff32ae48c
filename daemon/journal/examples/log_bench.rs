//! What the log costs while it is written, and what it costs to verify and prove, each as one line of JSON:
//!
//! ```text
//! log_bench append FOLDER N      N entries through the group commit, 256 at a time waiting; and as many bytes, in as many pieces,
//!                                by bare write and fdatasync
//! log_bench grow FOLDER N        a signed log of N entries, if there is none: its size, and its proofs
//! log_bench verify FOLDER        the time of its verification, and the memory of the process
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ed25519_dalek::{Signer as _, SigningKey};
use failsafe_journal::storage::LogFolder;
use failsafe_journal::tree::{SignedTree, extends::extends, prove::prove, signed::CHECKPOINT_FILE};
use failsafe_journal::verify::{Claim, verify_claims};
use failsafe_journal::{AuditLog, AuditWriter, Options};
use failsafe_tlog::{Checkpoint, ConsistencyFile, Keys, Signer, VerifierKey};
use serde_json::{Value, json};
use support::{entry, layout, stamp, write};

mod support;

/// Entries that wait to be durable at the same time.
const WAITING: u64 = 256;

struct Key(SigningKey, VerifierKey);

impl Signer for Key {
    fn key(&self) -> &VerifierKey {
        &self.1
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn key() -> Result<Key> {
    let secret = SigningKey::from_bytes(&[1; 32]);
    let public = VerifierKey::new("failsafe", secret.verifying_key().as_bytes())?;
    Ok(Key(secret, public))
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = match args.as_slice() {
        ["append", folder, entries] => append(Path::new(folder), entries.parse()?)?,
        ["grow", folder, entries] => grow(Path::new(folder), entries.parse()?)?,
        ["verify", folder] => verify(Path::new(folder))?,
        _ => bail!("expected append FOLDER N, grow FOLDER N, or verify FOLDER"),
    };
    println!("{out}");
    Ok(())
}

fn append(folder: &Path, entries: u64) -> Result<Value> {
    let dir = folder.join("audit");
    let writer = AuditWriter::spawn_in(&dir, layout(), Options::default())?;
    let handle = writer.handle();
    let (done, durable) = mpsc::channel();
    let drafts: Vec<_> = (0..entries).map(entry).collect();
    let began = Instant::now();
    let mut waiting = 0;
    for draft in &drafts {
        if waiting == WAITING {
            durable.recv()??;
            waiting -= 1;
        }
        let done = done.clone();
        handle.submit_then(draft, move |result| drop(done.send(result)));
        waiting += 1;
    }
    for _ in 0..waiting {
        durable.recv()??;
    }
    let group = began.elapsed();
    let commits = handle.stats().commits;
    writer.shutdown(std::time::Duration::from_secs(60))?;
    let bytes = size_of(&dir, |name| name.ends_with(".segment") || name == "audit.log")?;

    let piece = vec![0x5a; usize::try_from(bytes / commits)?];
    let mut file = File::create(folder.join("bare"))?;
    let began = Instant::now();
    for _ in 0..commits {
        file.write_all(&piece)?;
        file.sync_data()?;
    }
    let bare = began.elapsed();
    Ok(json!({
        "entries": entries, "bytes": bytes, "commits": commits,
        "group_s": group.as_secs_f64(), "bare_s": bare.as_secs_f64(),
    }))
}

fn grow(folder: &Path, entries: u64) -> Result<Value> {
    let (dir, latest) = (folder.join("audit"), folder.join(CHECKPOINT_FILE));
    let key = key()?;
    if !dir.exists() {
        write(&dir, entries / 2)?;
        let checkpoint = Some((latest.clone(), Keys::of(vec![key.1.clone()])));
        let layout = failsafe_journal::storage::Layout { checkpoint, ..layout() };
        let (mut log, _) = AuditLog::open(LogFolder::open(&dir, layout)?, &stamp(0))?;
        while log.build_tree(stamp(0)).0 {}
        ensure!(log.sign(&key, false)?, "the first half was not signed");
        fs::copy(&latest, folder.join("half"))?;
        for n in entries / 2..entries {
            log.append(&entry(n))?;
            if n % 500 == 499 || n + 1 == entries {
                log.commit()?;
                if log.seal_if_due(stamp(n)) {
                    log.commit()?;
                }
            }
        }
        ensure!(log.sign(&key, false)?, "the log was not signed");
    }
    let note = fs::read(&latest)?;
    let open = |note: &[u8]| Checkpoint::unverified(note).context("a checkpoint");
    let tree = |note: &[u8]| SignedTree::of(open(note)?).context("an origin");
    // The oldest entry is the farthest from the edges that are kept, and its proof the longest.
    let began = Instant::now();
    let proof = prove(&dir, 0, open(&note)?, note.clone())?;
    let prove_ms = began.elapsed().as_secs_f64() * 1e3;
    let half = fs::read(folder.join("half"))?;
    let (old, new) = (tree(&half)?, tree(&note)?);
    let hashes = extends(&dir, &old, &new)?;
    let consistency = ConsistencyFile { old: old.size, hashes, checkpoint: note };
    Ok(json!({
        "entries": new.entries(),
        "bytes": size_of(&dir, |name| name.ends_with(".segment") || name == "audit.log")?,
        "beside_bytes": size_of(&dir, |name| !name.ends_with(".segment") && name != "audit.log")?,
        "proof_bytes": proof.encode().len(),
        "proof_hashes": proof.hashes.len(),
        "prove_ms": prove_ms,
        "consistency_bytes": consistency.encode().len(),
        "consistency_hashes": consistency.hashes.len(),
    }))
}

fn verify(folder: &Path) -> Result<Value> {
    let note = fs::read(folder.join(CHECKPOINT_FILE))?;
    let tree = Checkpoint::open(&note, &Keys::of(vec![key()?.1]))?.0;
    let tree = SignedTree::of(tree).context("an origin")?;
    let before = high_water_kib()?;
    let began = cpu_ns()?;
    let claim = Claim { source: "the last checkpoint".into(), tree, named: true };
    let report = verify_claims(&folder.join("audit"), None, &[claim])?;
    // One thread verifies, so this is the time of one core, whatever else the machine does.
    let seconds = (cpu_ns()? - began) as f64 / 1e9;
    ensure!(report.is_ok(), "{report:?}");
    Ok(json!({
        "entries": report.entries, "bytes": report.bytes, "seconds": seconds,
        "rss_before_kib": before, "rss_kib": high_water_kib()?,
    }))
}

/// CPU time of the process's only thread.
fn cpu_ns() -> Result<u64> {
    let stat = fs::read_to_string("/proc/self/schedstat").context("reading the CPU time")?;
    Ok(stat.split_whitespace().next().context("schedstat")?.parse()?)
}

/// The most memory that this process had.
fn high_water_kib() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn size_of(dir: &Path, counts: impl Fn(&str) -> bool) -> Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(dir)? {
        let file = file?;
        if counts(&file.file_name().to_string_lossy()) {
            bytes += file.metadata()?.len();
        }
    }
    Ok(bytes)
}

//! `log witness`: cosign checkpoints of other nodes, from files or by HTTP.

mod folder;
mod serve;

use super::{super::Place, keys};
use crate::{
    args::{LogOut, WitnessCommand},
    commands::file,
    exit::{Exit, Fail},
    render::{clean, json, print, time},
};
use failsafe_tlog::{
    Checkpoint, ConsistencyFile, Keys, consistency_file,
    witness::{Cosigned, Refusal, judge, origin},
};
use folder::{Folder, WitnessSigner};
use serde_json::json;
use std::path::{Path, PathBuf};

pub(super) fn witness(place: &Place<'_>, what: &WitnessCommand) -> Result<Exit, Fail> {
    match what {
        WitnessCommand::Key { dir, name, json } => key(dir, name.as_deref(), *json),
        WitnessCommand::Cosign { dir, request, keys, out } => cosign(dir, request, keys, out),
        WitnessCommand::Serve { dir, keys, listen } => serve::serve(dir, keys, *listen, &place.zone),
    }
}

fn key(dir: &Path, name: Option<&str>, as_json: bool) -> Result<Exit, Fail> {
    let signer = match name {
        Some(name) => WitnessSigner::make(dir, name)?,
        None => WitnessSigner::read(dir)?,
    };
    let key = signer.public();
    print(&match as_json {
        true => json::text(&json!({ "name": key.name(), "key": key.to_string() })),
        false => format!("{}\n", clean(&key.to_string())),
    })?;
    Ok(Exit::Done)
}

fn cosign(dir: &Path, request: &Path, trusted: &Path, out: &LogOut) -> Result<Exit, Fail> {
    if let Some(output) = &out.output {
        file::free(output, out.force)?;
    }
    let known = keys::named(trusted)?;
    let shown = clean(&request.display().to_string());
    let bytes = super::read(request, "request", consistency_file::MAX_BYTES)?;
    let done = decide(dir, &known.keys, &bytes).map_err(|not| match not {
        NotDone::Failed(fail) => fail,
        NotDone::Refused { refusal, size, kept } => {
            let fail = Fail::because(format!("{shown} is not cosigned"), &*refusal);
            let fail = match &kept {
                Some(kept) => fail.advise(advice(&refusal, kept)),
                None => fail,
            };
            Fail { exit: exit(&refusal, size), ..fail }
        }
    })?;
    let Cosigned { checkpoint, note, .. } = &done.cosigned;
    let text = match out.json {
        true => json::text(&json!({
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root_hash": hex::encode(checkpoint.root),
            "witness": done.witness,
            "time": done.time,
            "before": done.before,
            "note": String::from_utf8_lossy(note),
        })),
        false => String::from_utf8_lossy(note).lines().map(|line| format!("{}\n", clean(line))).collect(),
    };
    super::put(out, note, &text)?;
    Ok(Exit::Done)
}

/// A checkpoint that was cosigned and kept.
struct Done {
    cosigned: Cosigned,
    /// The tree that was cosigned before, in entries.
    before: Option<u64>,
    /// The public key of the witness.
    witness: String,
    /// Seconds since the epoch.
    time: u64,
}

/// Why nothing was cosigned.
enum NotDone {
    /// The witness cannot work.
    Failed(Fail),
    /// The request: `size` is that of its checkpoint, and `kept` the file with what was cosigned last of the log.
    Refused { refusal: Box<Refusal>, size: u64, kept: Option<PathBuf> },
}

impl From<Fail> for NotDone {
    fn from(fail: Fail) -> NotDone {
        NotDone::Failed(fail)
    }
}

/// Judges a request, and keeps its checkpoint if it is cosigned.
fn decide(dir: &Path, keys: &Keys, request: &[u8]) -> Result<Done, NotDone> {
    let refused = |refusal: Refusal, size, kept| NotDone::Refused { refusal: Box::new(refusal), size, kept };
    let asked = parse(request).map_err(|refusal| refused(refusal, 0, None))?;
    let size = Checkpoint::unverified(&asked.checkpoint).map_or(0, |checkpoint| checkpoint.size);
    let origin = origin(&asked).map_err(|refusal| refused(refusal, size, None))?;
    // From here on nobody else cosigns with this key: what was cosigned last is read, judged and replaced at once.
    let folder = Folder::open(dir)?;
    let last = folder.last(&origin)?;
    let time = u64::try_from(time::now() / 1_000_000_000).unwrap_or_default();
    let cosigned = judge(&asked, last.as_ref(), keys, time, folder.signer())
        .map_err(|refusal| refused(refusal, size, Some(folder.path(&origin))))?;
    folder.keep(&cosigned)?;
    let witness = folder.signer().public().to_string();
    Ok(Done { cosigned, before: last.map(|last| last.size), witness, time })
}

/// A request; a checkpoint alone is a request to begin with.
fn parse(bytes: &[u8]) -> Result<ConsistencyFile, Refusal> {
    if bytes.starts_with(b"old ") {
        return Ok(ConsistencyFile::parse(bytes)?);
    }
    Ok(ConsistencyFile { old: 0, hashes: Vec::new(), checkpoint: bytes.to_vec() })
}

fn exit(refusal: &Refusal, size: u64) -> Exit {
    match refusal {
        Refusal::Inconsistent(_) => Exit::Forked,
        Refusal::Conflict { cosigned, .. } if size < *cosigned => Exit::Stale,
        _ => Exit::Error,
    }
}

fn advice(refusal: &Refusal, kept: &Path) -> String {
    let kept = clean(&kept.display().to_string());
    match refusal {
        Refusal::Conflict { cosigned: 0, .. } => "the first time, name a checkpoint instead of a proof".to_owned(),
        Refusal::Conflict { .. } => format!(
            "{kept} is the checkpoint that was cosigned last; on the node: `failsafectl log consistency THIS-CHECKPOINT -o FILE`"
        ),
        Refusal::Inconsistent(_) => format!(
            "get the request again; if it is refused again, the log was changed: keep both checkpoints, this one and {kept}"
        ),
        Refusal::UnknownLog(_) | Refusal::NotSigned(_) => {
            "compare the keys of --keys with the line `key` of `failsafectl log checkpoint` on the node, and get the request \
             again: a witness takes NAME+ID+KEY"
                .to_owned()
        }
        _ => "get the request again".to_owned(),
    }
}

#[cfg(test)]
mod tests;

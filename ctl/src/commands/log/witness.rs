//! `log witness`: cosign checkpoints of other nodes. It works on files; how they get to the witness and back is the operator's matter.

mod folder;

use super::{super::Place, keys};
use crate::{
    args::{LogOut, WitnessCommand},
    commands::file,
    exit::{Exit, Fail},
    render::{clean, json, print, time},
};
use failsafe_tlog::{
    Checkpoint, ConsistencyFile, consistency_file,
    witness::{Cosigned, Refusal, judge, origin},
};
use folder::{Folder, WitnessSigner};
use serde_json::json;
use std::path::Path;

pub(super) fn witness(place: &Place<'_>, what: &WitnessCommand) -> Result<Exit, Fail> {
    match what {
        WitnessCommand::Key { dir, name, json } => key(dir, name.as_deref(), *json),
        WitnessCommand::Cosign { dir, request, keys, out } => cosign(place, dir, request, keys, out),
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

fn cosign(place: &Place<'_>, dir: &Path, request: &Path, trusted: &Path, out: &LogOut) -> Result<Exit, Fail> {
    if let Some(output) = &out.output {
        file::free(output, out.force)?;
    }
    let known = keys::known(place, Some(trusted))?;
    let shown = clean(&request.display().to_string());
    let bytes = super::read(request, "request", consistency_file::MAX_BYTES)?;
    let refused = |refusal: &Refusal| Fail::because(format!("{shown} is not cosigned"), refusal);
    let asked = parse(&bytes).map_err(|refusal| refused(&refusal))?;
    let origin = origin(&asked).map_err(|refusal| refused(&refusal))?;
    // From here on nobody else cosigns with this key: what was cosigned last is read, judged and replaced at once.
    let folder = Folder::open(dir)?;
    let last = folder.last(&origin)?;
    let now = u64::try_from(time::now() / 1_000_000_000).unwrap_or_default();
    let cosigned = judge(&asked, last.as_ref(), &known.keys, now, folder.signer()).map_err(|refusal| {
        let kept = folder.path(&origin);
        Fail { exit: exit(&refusal, &asked), ..refused(&refusal).advise(advice(&refusal, &kept)) }
    })?;
    folder.keep(&cosigned)?;
    let Cosigned { checkpoint, note, .. } = &cosigned;
    let text = match out.json {
        true => json::text(&json!({
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root_hash": hex::encode(checkpoint.root),
            "witness": folder.signer().public().to_string(),
            "time": now,
            "before": last.map(|last| last.size),
            "note": String::from_utf8_lossy(note),
        })),
        false => String::from_utf8_lossy(note).lines().map(|line| format!("{}\n", clean(line))).collect(),
    };
    super::put(out, note, &text)?;
    Ok(Exit::Done)
}

/// A request; a checkpoint alone is a request to begin with.
fn parse(bytes: &[u8]) -> Result<ConsistencyFile, Refusal> {
    if bytes.starts_with(b"old ") {
        return Ok(ConsistencyFile::parse(bytes)?);
    }
    Ok(ConsistencyFile { old: 0, hashes: Vec::new(), checkpoint: bytes.to_vec() })
}

fn exit(refusal: &Refusal, asked: &ConsistencyFile) -> Exit {
    let size = Checkpoint::unverified(&asked.checkpoint).map_or(0, |checkpoint| checkpoint.size);
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
            "compare the keys of --keys with `failsafectl attest key show` on the node, and get the request again"
                .to_owned()
        }
        _ => "get the request again".to_owned(),
    }
}

#[cfg(test)]
mod tests;

//! `log prove` and `log verify-proof`: one file that shows, without the log, that an entry is in it.

use super::{
    super::Place,
    daemon,
    policy::{Cosigned, Trust},
};
use crate::{
    args::LogOut,
    client::Target,
    entry::log_file,
    exit::{Exit, Fail},
    render::{clean, json, print},
};
use failsafe_journal::{
    Entry,
    head::{HEAD_FILE, HeadFile},
    tree::{prove as journal, signed::CHECKPOINT_FILE, signed::SignedTree},
};
use failsafe_tlog::{ProofFile, proof_file};
use serde_json::json;
use std::path::Path;

pub(super) fn prove(
    place: &Place<'_>,
    entry: u64,
    checkpoint: Option<&Path>,
    out: &LogOut,
    from_daemon: bool,
) -> Result<Exit, Fail> {
    let elsewhere = matches!(place.daemon, Target::Node(_));
    if elsewhere && checkpoint.is_some() {
        return Err(Fail::usage("--checkpoint: another node proves an entry in its latest checkpoint only"));
    }
    let asked = checkpoint.is_none() && daemon::is_asked(place, from_daemon)?;
    let proof = match asked {
        true => daemon::prove(place, entry)?,
        false => by_files(place, entry, checkpoint)?,
    };
    let bytes = proof.encode();
    let text = match out.json {
        true => json::text(&json!({
            "entry": entry, "index": proof.index, "hashes": proof.hashes.len(), "bytes": bytes.len(),
            "source": daemon::source(asked),
        })),
        false => String::from_utf8_lossy(&bytes).into_owned(),
    };
    super::put(out, &bytes, &text)?;
    Ok(Exit::Done)
}

fn by_files(place: &Place<'_>, entry: u64, checkpoint: Option<&Path>) -> Result<ProofFile, Fail> {
    let latest = place.state_dir.join(CHECKPOINT_FILE);
    let path = checkpoint.unwrap_or(&latest);
    let note = super::read(path, "checkpoint", failsafe_tlog::note::MAX_BYTES)?;
    let shown = clean(&path.display().to_string());
    // Who may sign it, is for the reader of the proof to say.
    let parsed = failsafe_tlog::Checkpoint::unverified(&note).map_err(|error| Fail::because(&shown, &error))?;
    let log = log_file(place.state_dir);
    let dir = log.parent().unwrap_or(place.state_dir);
    journal::prove(dir, entry, parsed, note).map_err(|error| {
        let entries = HeadFile::read(&place.state_dir.join(HEAD_FILE)).ok().flatten().map(|head| head.entries);
        if let (journal::ProveError::NotCovered { .. }, Some(entries)) = (&error, entries.filter(|n| entry >= *n)) {
            let last = entries.saturating_sub(1);
            return Fail::new(
                Exit::Error,
                format!("there is no entry {entry}: the log has {entries} entries, 0 to {last}"),
            );
        }
        Fail::because(format!("cannot prove entry {entry}"), &error).advise(match error {
            journal::ProveError::NotCovered { .. } => {
                "failsafed signs a checkpoint at the interval `audit_log.checkpoint`: try again after it"
            }
            _ => "`failsafectl log verify` says whether the log is intact",
        })
    })
}

pub(super) fn verify(place: &Place<'_>, file: &Path, trust: &Trust<'_>, as_json: bool) -> Result<Exit, Fail> {
    let (known, policy) = (trust.known(place)?, trust.policy()?);
    let shown = clean(&file.display().to_string());
    let not_proved = |why: &dyn std::error::Error| Fail::because(format!("{shown} proves nothing"), why);
    let bytes = super::read(file, "proof", proof_file::MAX_BYTES)?;
    let proof = ProofFile::parse(&bytes).map_err(|error| not_proved(&error))?;
    let proved = proof.verify(&known.keys).map_err(|error| not_proved(&error).advise(known.advice("proof")))?;
    let cosigned = policy.map(|policy| policy.cosigned(&proof.checkpoint, &shown)).transpose()?;
    let entry = Entry::parse(&proved.entry).map_err(|error| not_proved(&error))?;
    let tree = SignedTree::of(proved.checkpoint);
    let Some(tree) = tree.filter(|tree| tree.first.checked_add(proof.index) == Some(entry.index)) else {
        return Err(Fail::new(
            Exit::Error,
            format!(
                "{shown} proves nothing: the entry says that it is entry {}, but leaf {} is another",
                entry.index, proof.index
            ),
        ));
    };
    let text = String::from_utf8_lossy(&proved.entry);
    let about = known.about(&proved.key);
    if as_json {
        let value = json!({
            "proved": true,
            "entry": entry.index,
            "origin": tree.origin,
            "entries": tree.entries(),
            "root_hash": hex::encode(tree.root),
            "key": proved.key.to_string(),
            "key_id": about.id,
            "key_comment": about.comment,
            "own_key": known.own,
            "cosigned": cosigned.as_ref().map(Cosigned::json),
            "text": text,
        });
        print(&json::text(&value))?;
        return Ok(Exit::Done);
    }
    let trust = match known.own {
        true => {
            "\n  the key is the one in the state folder of this node; to trust the proof elsewhere, use --keys FILE"
        }
        false => "",
    };
    print(&format!(
        "{shown}: proved: entry {} is in the log\n  log      {}\n  entries  {} when the checkpoint was signed\n  key      {}\n  of       {}{trust}\n{}  entry    {}\n",
        entry.index,
        clean(&tree.origin),
        tree.entries(),
        clean(&proved.key.to_string()),
        about.text(),
        cosigned.map_or_else(String::new, |cosigned| format!("  cosigned {}\n", cosigned.text(&place.zone))),
        clean(&text)
    ))?;
    Ok(Exit::Done)
}

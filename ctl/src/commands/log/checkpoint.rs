//! `log checkpoint`: the latest signed checkpoint of the log.

use super::{super::Place, daemon, keys::Known};
use crate::{
    args::LogOut,
    exit::{Exit, Fail},
    render::{clean, json},
};
use failsafe_journal::tree::signed::{CHECKPOINT_FILE, SignedTree};
use failsafe_tlog::{Checkpoint, VerifierKey, note};
use serde_json::json;
use std::path::Path;

/// A checkpoint that was read and verified.
pub(super) struct Opened {
    pub note: Vec<u8>,
    pub checkpoint: Checkpoint,
    pub tree: SignedTree,
    pub key: VerifierKey,
}

/// Reads a checkpoint and verifies it.
pub(super) fn open(path: &Path, known: &Known) -> Result<Opened, Fail> {
    let note = super::read(path, "checkpoint", note::MAX_BYTES)?;
    of_note(note, &clean(&path.display().to_string()), known)
}

/// Verifies a checkpoint that is part of the file `shown`.
pub(super) fn of_note(note: Vec<u8>, shown: &str, known: &Known) -> Result<Opened, Fail> {
    let (checkpoint, key) = Checkpoint::open(&note, &known.keys)
        .map_err(|error| Fail::because(shown, &error).advise(known.advice("checkpoint")))?;
    let tree = SignedTree::of(checkpoint.clone())
        .ok_or_else(|| Fail::new(Exit::Error, format!("{shown}: the origin names no first entry of the log")))?;
    Ok(Opened { note, checkpoint, tree, key })
}

pub(super) fn checkpoint(
    place: &Place<'_>,
    out: &LogOut,
    keys: Option<&Path>,
    from_daemon: bool,
) -> Result<Exit, Fail> {
    let asked = daemon::is_asked(place, from_daemon)?;
    let known = daemon::known(place, keys, asked)?;
    let opened = match asked {
        true => of_note(daemon::checkpoint(place)?, daemon::SENT, &known)?,
        false => open(&place.state_dir.join(CHECKPOINT_FILE), &known)?,
    };
    let Opened { note, checkpoint, tree, key } = &opened;
    let about = known.about(key);
    let text = match out.json {
        true => json::text(&json!({
            "origin": checkpoint.origin,
            "entries": tree.entries(),
            "first": tree.first,
            "size": tree.size,
            "root_hash": hex::encode(tree.root),
            "key": key.to_string(),
            "key_id": about.id,
            "key_comment": about.comment,
            "note": String::from_utf8_lossy(note),
            "source": daemon::source(asked),
        })),
        false => format!("{}\nkey {key}\nof  {}\n", clean_lines(&String::from_utf8_lossy(note)), about.text()),
    };
    super::put(out, note, &text)?;
    Ok(Exit::Done)
}

fn clean_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", clean(line))).collect()
}

//! `log archive`: a copy of the sealed part of the log that an auditor verifies without the node.

use super::{
    super::Place,
    checkpoint,
    keys::{self, Known},
};
use crate::{
    args::ArchiveArgs,
    entry::log_file,
    exit::{Exit, Fail, chain},
    render::{clean, count, json, print, table},
};
use failsafe_journal::{
    archive::{ArchiveError, Archived, archive as journal},
    tree::signed::{KEYS_FILE, SignedTree},
};
use serde_json::json;
use std::path::Path;

pub(super) fn archive(place: &Place<'_>, args: &ArchiveArgs) -> Result<Exit, Fail> {
    let known = keys::known(place, args.keys.as_deref())?;
    let log = log_file(place.state_dir);
    let dir = log.parent().unwrap_or(place.state_dir);
    let shown = clean(&args.dir.display().to_string());
    let made = journal(dir, &place.state_dir.join(KEYS_FILE), &args.dir, &|path| open(path, &known)).map_err(|error| {
        let advice = match &error {
            ArchiveError::Differs(_) | ArchiveError::Archive(_) | ArchiveError::Missing(_) => {
                "keep the folder, and verify it with `failsafectl log verify --archive DIR`; archive to another folder"
            }
            ArchiveError::OtherLog { .. } | ArchiveError::Gap { .. } => "the earlier archive stays valid",
            ArchiveError::Log(_) | ArchiveError::Older { .. } => {
                "`failsafectl log verify` says whether the log is intact; the archive was not changed"
            }
            ArchiveError::Io { .. } => "run the command again when the cause is removed: it goes on where it stopped",
        };
        Fail::because(format!("cannot archive the log to {shown}"), &error).advise(advice)
    })?;
    print(&match (args.json, &made) {
        (true, made) => json::text(&made.as_ref().map_or_else(
            || json!({ "archive": args.dir, "segments": 0, "files_written": 0 }),
            |made| as_json(&args.dir, made),
        )),
        (false, Some(made)) => as_text(&shown, made),
        (false, None) => format!("{shown}: nothing to archive: no segment of the log is sealed and signed yet\n"),
    })?;
    Ok(Exit::Done)
}

/// Reads and verifies a checkpoint, with the reason in words.
pub(super) fn open(path: &Path, known: &Known) -> Result<SignedTree, String> {
    checkpoint::open(path, known).map(|opened| opened.tree).map_err(|fail| fail.message)
}

/// Why an archive is not what it should be, in words.
pub(super) fn why(error: &ArchiveError) -> String {
    chain(error)
}

fn as_text(shown: &str, made: &Archived) -> String {
    let Archived { signed, first, segments, files, bytes, tiles, no_bundle } = made;
    let mut text = format!(
        "{shown}: entries {first} to {} of {}, in {}\n  written  {}, {}\n",
        signed.entries().saturating_sub(1),
        clean(&signed.origin),
        count(*segments, "segment", "segments"),
        count(*files, "file", "files"),
        table::bytes(*bytes)
    );
    if !tiles {
        text.push_str("  tiles    none: retention had removed entries before the archive was begun\n");
    }
    if *no_bundle > 0 {
        let many = count(usize::try_from(*no_bundle).unwrap_or(usize::MAX), "entry bundle", "entry bundles");
        text.push_str(&format!(
            "  tiles    {many} not written: an entry has more than 65535 bytes; the segments have all entries\n"
        ));
    }
    text
}

fn as_json(dir: &Path, made: &Archived) -> serde_json::Value {
    let Archived { signed, first, segments, files, bytes, tiles, no_bundle } = made;
    json!({
        "archive": dir,
        "origin": signed.origin,
        "first": first,
        "entries": signed.entries(),
        "root_hash": hex::encode(signed.root),
        "segments": segments,
        "files_written": files,
        "bytes_written": bytes,
        "tiles": tiles,
        "entry_bundles_left_out": no_bundle,
    })
}

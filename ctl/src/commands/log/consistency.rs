//! `log consistency`: whether the log of a newer checkpoint extends an older one, by the log itself or by a proof of it.

use super::{
    super::{Place, file},
    checkpoint::{self, Opened},
    daemon,
    keys::Known,
};
use crate::{
    args::ConsistencyArgs,
    entry::log_file,
    exit::{Exit, Fail, chain},
    render::{clean, count, json, print},
};
use failsafe_journal::tree::{
    extends::{NotExtended, extends},
    signed::CHECKPOINT_FILE,
};
use failsafe_proto::ErrorReason;
use failsafe_tlog::{
    Checkpoint, ConsistencyFile,
    consistency_file::{self, BadConsistency},
    proof::Wrong,
};
use serde_json::json;
use std::path::Path;
use tonic::Status;

/// What was found, for scripts and in words.
struct Found {
    exit: Exit,
    /// Stable name.
    verdict: &'static str,
    /// The first line.
    title: &'static str,
    why: String,
    advice: &'static str,
    /// Only the daemon says so.
    is_claim: bool,
}

const CONSISTENT: &str = "extended: the log of the newer checkpoint contains all entries of the earlier one, unchanged";
/// Exit code, name, title and advice of a finding.
type Kind = (Exit, &'static str, &'static str, &'static str);
const OTHER_LOG: Kind = (
    Exit::Forked,
    "other-log",
    "NOT EXTENDED: ANOTHER LOG",
    "the log was begun anew, or a checkpoint is of another node: an entry about it, and what was set aside, must exist",
);
const FORKED: Kind = (Exit::Forked, "forked", "NOT EXTENDED: FORKED", KEEP);
const SHORTENED: Kind = (Exit::Shortened, "shortened", "NOT EXTENDED: SHORTENED", KEEP);
const STALE: Kind = (
    Exit::Stale,
    "stale",
    "NOT EXTENDED: AN OLD CHECKPOINT IS PRESENTED AS NEW",
    "get the latest checkpoint again; if it is log.checkpoint of the state folder, it was replaced by an older one",
);
const NOT_COMPARED: Kind = (
    Exit::Partial,
    "not-compared",
    "NOT COMPARED",
    "the proof needs entries that retention removed: compare a later checkpoint, or verify an archive of the log with it",
);
const KEEP: &str = "keep the folder and both checkpoints, and compare them with copies made earlier";

pub(super) fn consistency(place: &Place<'_>, args: &ConsistencyArgs) -> Result<Exit, Fail> {
    if let Some(output) = &args.output {
        file::free(output, args.force)?;
    }
    let asked = args.proof.is_none() && daemon::is_asked(place, args.from_daemon)?;
    let known = daemon::known(place, args.keys.as_deref(), asked)?;
    let old = checkpoint::open(&args.old, &known)?;
    let (new, compared) = match &args.proof {
        Some(path) => by_proof(path, &old, &known)?,
        None if asked => by_daemon(place, args.new.as_deref(), &old, &known)?,
        None => by_log(place, args.new.as_deref(), &old, &known)?,
    };
    let (found, hashes) = match compared {
        Ok(hashes) => (None, hashes),
        Err(found) => (Some(found), Vec::new()),
    };
    if let (Some(output), None) = (&args.output, &found) {
        let proof =
            ConsistencyFile { old: old.checkpoint.size, hashes: hashes.clone(), checkpoint: new.note.clone() }.encode();
        file::save(output, args.force, &proof)?;
    }
    let written = args.output.as_ref().filter(|_| found.is_none());
    if args.json {
        print(&json::text(&json!({
            "verdict": found.as_ref().map_or("extended", |found| found.verdict),
            "reason": found.as_ref().map(|found| &found.why),
            "claimed_by_daemon": found.as_ref().is_some_and(|found| found.is_claim),
            "origin": old.checkpoint.origin,
            "old": as_json(&old, &known),
            "new": as_json(&new, &known),
            "own_key": known.own,
            "hashes": hashes.iter().map(hex::encode).collect::<Vec<_>>(),
            "proof_file": written,
        })))?;
    } else {
        print(&as_text(args, &old, &new, &known, found.as_ref(), hashes.len()))?;
    }
    Ok(found.map_or(Exit::Done, |found| found.exit))
}

type Compared = Result<Vec<failsafe_tlog::Hash>, Found>;

fn by_log(place: &Place<'_>, new: Option<&Path>, old: &Opened, known: &Known) -> Result<(Opened, Compared), Fail> {
    let latest = place.state_dir.join(CHECKPOINT_FILE);
    let new = checkpoint::open(new.unwrap_or(&latest), known)?;
    let log = log_file(place.state_dir);
    let dir = log.parent().unwrap_or(place.state_dir);
    let compared = match extends(dir, &old.tree, &new.tree) {
        Err(why @ (NotExtended::Read(_) | NotExtended::Tree(_))) => {
            return Err(Fail::because("cannot compare the checkpoints", &why).advise(
                "name the state folder with --state-dir or FAILSAFE_STATE_DIR; `failsafectl log verify` says whether the log is intact",
            ));
        }
        compared => compared.map_err(|why| found(&why)),
    };
    Ok((new, compared))
}

/// What the daemon proves, or finds. Its proof is verified here; a refusal has none.
fn by_daemon(place: &Place<'_>, new: Option<&Path>, old: &Opened, known: &Known) -> Result<(Opened, Compared), Fail> {
    // The daemon may sign another checkpoint at any time: what it compares with is named to it, so that a finding is about that one.
    let new = match new {
        Some(path) => checkpoint::open(path, known)?,
        None => checkpoint::of_note(daemon::checkpoint(place)?, daemon::SENT, known)?,
    };
    let (hashes, note) = match daemon::extends(place, &old.note, &new.note)? {
        Ok(proved) => proved,
        Err(status) => {
            let found = refused(&status).ok_or_else(|| Fail::from(status))?;
            return Ok((new, Err(found)));
        }
    };
    if new.note != note {
        return Err(Fail::new(Exit::Error, "the daemon compared with another checkpoint than the given one"));
    }
    let proof = ConsistencyFile { old: old.checkpoint.size, hashes, checkpoint: note };
    let compared = match proof.verify(&old.checkpoint, &new.checkpoint) {
        Ok(()) => Ok(proof.hashes),
        Err(why) => Err(not_proved(&why)),
    };
    Ok((new, compared))
}

/// What a refusal of the daemon says about the log; `None`: nothing.
fn refused(status: &Status) -> Option<Found> {
    let (exit, verdict, title, advice) = match ErrorReason::of(status)? {
        ErrorReason::OtherLog => OTHER_LOG,
        ErrorReason::LogForked => FORKED,
        ErrorReason::LogShortened => SHORTENED,
        ErrorReason::CheckpointStale => STALE,
        ErrorReason::NotCompared => NOT_COMPARED,
        _ => return None,
    };
    let why = format!("the daemon says so, and gave no proof: {}", status.message());
    Some(Found { exit, verdict, title, why, advice, is_claim: true })
}

fn found(why: &NotExtended) -> Found {
    let (exit, verdict, title, advice) = match why {
        NotExtended::OtherLog { .. } => OTHER_LOG,
        NotExtended::Forked { .. } => FORKED,
        NotExtended::Shortened { .. } => SHORTENED,
        NotExtended::Stale { .. } => STALE,
        // The others are no finding about the log.
        NotExtended::Removed(_) | NotExtended::Tree(_) | NotExtended::Read(_) => NOT_COMPARED,
    };
    Found { exit, verdict, title, why: chain(why), advice, is_claim: false }
}

fn by_proof(path: &Path, old: &Opened, known: &Known) -> Result<(Opened, Compared), Fail> {
    let shown = clean(&path.display().to_string());
    let nothing = |why: &dyn std::error::Error| Fail::because(format!("{shown} proves nothing"), why);
    let bytes = super::read(path, "consistency proof", consistency_file::MAX_BYTES)?;
    let proof = ConsistencyFile::parse(&bytes).map_err(|error| nothing(&error))?;
    let new = checkpoint::of_note(proof.checkpoint.clone(), &shown, known)?;
    let compared = match proof.verify(&old.checkpoint, &new.checkpoint) {
        Ok(()) => Ok(proof.hashes),
        Err(why) => Err(not_proved(&why)),
    };
    Ok((new, compared))
}

fn not_proved(why: &BadConsistency) -> Found {
    let (exit, verdict, title, advice) = match why {
        BadConsistency::OtherLog { .. } => (Exit::Forked, "other-log", "NOT EXTENDED: ANOTHER LOG", KEEP),
        BadConsistency::Wrong(Wrong::Smaller { .. }) => (
            Exit::Stale,
            "stale",
            "NOT EXTENDED: AN OLD CHECKPOINT IS PRESENTED AS NEW",
            "get a new proof; if there is none, the log was shortened",
        ),
        _ => (
            Exit::Forked,
            "forked",
            "NOT EXTENDED: FORKED, OR THE PROOF WAS CHANGED",
            "get the proof again; a node that cannot give a valid one has another log",
        ),
    };
    Found { exit, verdict, title, why: chain(why), advice, is_claim: false }
}

fn as_json(opened: &Opened, known: &Known) -> serde_json::Value {
    let Checkpoint { origin, size, root, .. } = &opened.checkpoint;
    json!({
        "origin": origin,
        "entries": opened.tree.entries(),
        "size": size,
        "root_hash": hex::encode(root),
        "key_id": known.about(&opened.key).id,
    })
}

fn as_text(
    args: &ConsistencyArgs,
    old: &Opened,
    new: &Opened,
    known: &Known,
    found: Option<&Found>,
    hashes: usize,
) -> String {
    let one = |name: &str, opened: &Opened| {
        let entries = count(usize::try_from(opened.tree.entries()).unwrap_or(usize::MAX), "entry", "entries");
        let root = hex::encode(opened.checkpoint.root);
        format!("  {name}  {entries}, root hash {root}\n           key {}\n", known.about(&opened.key).text())
    };
    let title = found.map_or(CONSISTENT, |found| found.title);
    let mut text = format!(
        "{}: {title}\n  log      {}\n{}{}",
        clean(&args.old.display().to_string()),
        clean(&old.checkpoint.origin),
        one("earlier", old),
        one("newer  ", new)
    );
    match (found, &args.output) {
        (Some(found), _) => text.push_str(&format!("  {}\n  {}\n", clean(&found.why), found.advice)),
        (None, Some(file)) => {
            let hashes = count(hashes, "hash", "hashes");
            text.push_str(&format!("  proof    {}, {hashes}\n", clean(&file.display().to_string())));
        }
        (None, None) => text.push_str(&format!("  proof    {}\n", count(hashes, "hash", "hashes"))),
    }
    if found.is_none() && known.own {
        text.push_str(
            "  the keys are those that this node names itself; to trust the result elsewhere, use --keys FILE\n",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_daemon_is_shown_as_its_claim() {
        let found = refused(&ErrorReason::LogForked.status("entry 5 is another one")).unwrap();
        assert_eq!((found.exit, found.verdict, found.is_claim), (Exit::Forked, "forked", true));
        assert_eq!(found.why, "the daemon says so, and gave no proof: entry 5 is another one");
        assert!(refused(&ErrorReason::LimitReached.status("x")).is_none());
    }
}

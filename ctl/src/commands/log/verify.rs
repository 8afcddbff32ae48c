//! `log verify`: the whole audit log, without the daemon.

use super::{
    super::Place,
    checkpoint,
    keys::Known,
    policy::{Cosigned, Trust},
};
use crate::{
    args::Output,
    entry::log_file,
    exit::{Exit, Fail},
    render::{clean, count, json, print, time},
};
use failsafe_journal::{
    Report, Verdict,
    archive::{CHECKPOINT, SEGMENTS, check_tiles},
    head::{HEAD_FILE, Head, HeadFile},
    storage::file::asides,
    tree::signed::{CHECKPOINT_FILE, checkpoint_path},
    verify::{Claim, Finding, verify_archive, verify_claims, verify_file},
};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(super) fn verify(
    place: &Place<'_>,
    file: Option<&Path>,
    earlier: &[PathBuf],
    trust: &Trust<'_>,
    output: Output,
) -> Result<Exit, Fail> {
    let path = file.map_or_else(|| log_file(place.state_dir), Path::to_owned);
    let cosigned = trust.cosigned(earlier)?;
    let report = match file {
        Some(file) => verify_file(file),
        None => {
            let dir = path.parent().unwrap_or(place.state_dir);
            // Before the log, which may grow meanwhile.
            let head = HeadFile::read(&place.state_dir.join(HEAD_FILE));
            let claims = claims(place, dir, earlier, trust)?;
            let report = verify_claims(dir, head.clone().unwrap_or_default(), &claims);
            report.map(|report| {
                let verdict = with_latest(place, &report, &claims, trust);
                Report { verdict: with_head(place, &head, verdict, &report, &claims), ..report }
            })
        }
    };
    let report = report.map_err(|error| {
        Fail::because("cannot verify the audit log", &error)
            .advise("name the state folder with --state-dir or FAILSAFE_STATE_DIR, or the file with --file")
    })?;
    let aside = file.is_none().then(|| path.parent().map(asides)).flatten().unwrap_or_default();
    print(&if output.json() {
        json::text(&as_json(&path, &report, &aside, &cosigned))
    } else {
        as_text(&path, &report, &aside, &cosigned, &place.zone)
    })?;
    Ok(exit(&report, &aside))
}

/// An archive: its segments, its checkpoints, and its tiles.
pub(super) fn archive(
    place: &Place<'_>,
    archive: &Path,
    earlier: &[PathBuf],
    trust: &Trust<'_>,
    output: Output,
) -> Result<Exit, Fail> {
    let dir = archive.join(SEGMENTS);
    // Those in the archive are no better than those in the state folder: whoever can change it can change them too.
    let in_archive = Place { daemon: place.daemon, state_dir: archive, zone: place.zone.clone() };
    let (known, cosigned) = (trust.known(&in_archive)?, trust.cosigned(earlier)?);
    let latest = archive.join(CHECKPOINT);
    let borders = failsafe_journal::segments::sealed(&dir).into_iter().map(|at| checkpoint_path(&dir, at));
    let borders = borders.chain(last_border(&dir)).filter(|path| path.exists());
    let mut paths: Vec<PathBuf> = borders.chain([latest]).collect();
    paths.extend(earlier.iter().cloned());
    let claims = paths.iter().map(|path| claim(path, earlier.contains(path), &known)).collect::<Result<Vec<_>, _>>()?;
    let report = verify_archive(&dir, &claims).map_err(|error| Fail::because("cannot verify the archive", &error))?;
    let report = match report.verdict {
        Verdict::Ok => match check_tiles(archive, &|path| super::archive::open(path, &known)) {
            Ok(_) => report,
            Err(error) => Report { verdict: Verdict::Segment(super::archive::why(&error)), ..report },
        },
        _ => report,
    };
    print(&if output.json() {
        json::text(&as_json(archive, &report, &[], &cosigned))
    } else {
        as_text(archive, &report, &[], &cosigned, &place.zone)
    })?;
    Ok(exit(&report, &[]))
}

fn exit(report: &Report, aside: &[PathBuf]) -> Exit {
    match report.verdict {
        Verdict::Ok if is_whole(report, aside) => Exit::Done,
        Verdict::Ok | Verdict::NotCompared(_) => Exit::Partial,
        _ => Exit::Error,
    }
}

/// Whether nothing shows that entries are missing: neither an entry, nor what was set aside from an earlier log.
fn is_whole(report: &Report, aside: &[PathBuf]) -> bool {
    report.findings.is_empty() && aside.is_empty()
}

/// The verdict, with regard to the checkpoint that the log states: the latest one, or one that was named, must reach as far.
fn with_latest(place: &Place<'_>, report: &Report, claims: &[Claim], trust: &Trust<'_>) -> Verdict {
    let stated = report.tree.as_ref().map_or(0, |tree| tree.stated);
    if report.verdict != Verdict::Ok || stated == 0 {
        return report.verdict.clone();
    }
    // Read once more: a log in use may have been signed meanwhile.
    let latest = place.state_dir.join(CHECKPOINT_FILE);
    let found = trust.known(place).and_then(|known| claim(&latest, false, &known));
    let found = claims.iter().chain(found.as_ref().ok()).map(|claim| claim.tree.entries()).max().unwrap_or(0);
    if found >= stated {
        return Verdict::Ok;
    }
    let latest = latest.display();
    let stated = format!("the log states that a checkpoint of {stated} entries was signed");
    Verdict::CheckpointLost(match found {
        0 => format!("{stated}, but {latest} is missing or cannot be read"),
        found => format!("{stated}, but the last one found is of {found} entries; look at {latest}"),
    })
}

/// The verdict, with regard to the head: a log that was signed has one.
fn with_head(
    place: &Place<'_>,
    head: &Result<Option<Head>, String>,
    verdict: Verdict,
    report: &Report,
    claims: &[Claim],
) -> Verdict {
    let signed = report.tree.as_ref().is_some_and(|tree| tree.stated > 0) || claims.iter().any(|claim| !claim.named);
    match (verdict, head) {
        (Verdict::Ok, Err(why)) => Verdict::HeadLost(why.clone()),
        (Verdict::Ok, Ok(None)) if signed => Verdict::HeadLost(format!(
            "{} is missing, though the log was signed",
            place.state_dir.join(HEAD_FILE).display()
        )),
        (verdict, _) => verdict,
    }
}

/// The checkpoints that the log must contain: those that are kept with it, and those that were named. Each must be signed by a
/// known key. A log that was never signed has none.
fn claims(place: &Place<'_>, dir: &Path, earlier: &[PathBuf], trust: &Trust<'_>) -> Result<Vec<Claim>, Fail> {
    let latest = place.state_dir.join(CHECKPOINT_FILE);
    let borders = failsafe_journal::segments::sealed(dir).into_iter().map(|at| checkpoint_path(dir, at));
    let begin = std::iter::once(latest).chain(last_border(dir)).chain(borders);
    let mut paths: Vec<PathBuf> = begin.filter(|path| path.exists()).collect();
    paths.extend(earlier.iter().cloned());
    paths.sort();
    paths.dedup();
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let known = trust.known(place)?;
    paths.iter().map(|path| claim(path, earlier.contains(path), &known)).collect()
}

/// The checkpoint in front of the file that is being written.
fn last_border(dir: &Path) -> Option<PathBuf> {
    let end = failsafe_journal::segments::Catalog::load(dir).end()?;
    Some(checkpoint_path(dir, end.next_index))
}

fn claim(path: &Path, named: bool, known: &Known) -> Result<Claim, Fail> {
    Ok(Claim { source: path.display().to_string(), tree: checkpoint::open(path, known)?.tree, named })
}

fn as_text(path: &Path, report: &Report, aside: &[PathBuf], cosigned: &[Cosigned], zone: &TimeZone) -> String {
    let head = hex::encode(report.head_hash);
    let mut counted = format!("  entries  {}\n  bytes    {}\n  head     {head}\n", report.entries, report.bytes);
    if report.segments > 0 {
        counted.push_str(&format!("  sealed   {}\n", count(report.segments, "segment", "segments")));
    }
    if let Some(tree) = &report.tree {
        counted.push_str(&format!(
            "  root     {} of the tree of {}\n",
            hex::encode(tree.root),
            match tree.size {
                1 => "1 entry".to_owned(),
                size => format!("{size} entries"),
            }
        ));
        let checkpoints = |n| count(n, "checkpoint", "checkpoints");
        counted.push_str(&match (tree.contained, tree.not_contained, tree.removed) {
            (0, 0, 0) => "  signed   no checkpoint that the log contains\n".to_owned(),
            (contained, 0, 0) => format!("  signed   {}, all contained\n", checkpoints(contained)),
            (contained, 0, removed) => {
                format!(
                    "  signed   {} contained; {removed} of removed entries cannot be compared\n",
                    checkpoints(contained)
                )
            }
            (contained, not, _) => {
                format!("  signed   {} contained, {} NOT CONTAINED\n", checkpoints(contained), checkpoints(not))
            }
        });
    }
    for cosigned in cosigned {
        counted.push_str(&format!("  cosigned {}: {}\n", clean(&cosigned.source), cosigned.text(zone)));
    }
    match &report.removed {
        Some(removed) => counted.push_str(&format!(
            "  segments 1-{} (entries 0 to {}) removed by retention on {}, head hash {}: {}\n",
            removed.segments,
            removed.entries.saturating_sub(1),
            time::wall(i128::from(removed.wall_ns), zone),
            hex::encode(removed.head),
            clean(&removed.why)
        )),
        None if report.first > 0 => {
            counted.push_str(&format!(
                "  begins   at entry {}: earlier segments are not part of the file\n",
                report.first
            ));
        }
        None => {}
    }
    if report.tree.as_ref().is_some_and(|tree| !tree.continued) {
        counted.push_str(
            "  begins   with nothing that links it to the removed entries: no signed checkpoint that the log contains covers them\n",
        );
    }
    for Finding { index, wall_ns, what } in &report.findings {
        let when = time::wall(i128::from(*wall_ns), zone);
        counted.push_str(&format!("  entry {index} of {when} records: {}\n", clean(what)));
    }
    for aside in aside {
        counted.push_str(&format!("  set aside from an earlier log: {}\n", clean(&aside.display().to_string())));
    }
    let whole = is_whole(report, aside);
    let path = path.display();
    match &report.verdict {
        Verdict::Ok if !whole => format!(
            "{path}: INTACT, BUT NOT ALL THAT WAS WRITTEN\n{counted}  the entries that are here were not changed; others were lost or \
             replaced before the daemon continued the log or began it anew: look for them in what was set aside and in copies made \
             earlier\n"
        ),
        Verdict::Ok => format!(
            "{path}: intact: no entry was changed, removed, inserted or moved\n{counted}  compare entries and head \
             with a copy on another machine: only that shows whether the whole log was replaced\n"
        ),
        Verdict::Segment(why) => {
            format!(
                "{path}: TAMPERED WITH\n{counted}  {}\n  keep the folder, and compare it with copies made earlier\n",
                clean(why)
            )
        }
        Verdict::Shortened(why) => format!(
            "{path}: SHORTENED OR REPLACED\n{counted}  {}\n  entries at its end are missing or were replaced; look \
             for the missing entries in copies made earlier\n",
            clean(why)
        ),
        Verdict::Forked(why) => format!(
            "{path}: NOT THE LOG THAT WAS SIGNED\n{counted}  {}\n  an entry was replaced, or this is another log; keep the folder, and \
             compare it with copies made earlier\n",
            clean(why)
        ),
        Verdict::NotCompared(why) => format!(
            "{path}: NOT COMPARED WITH THE CHECKPOINT: its entries were removed by retention\n{counted}  {}\n  what is left is intact in itself, \
             but may be another log; compare it with a later checkpoint\n",
            clean(why)
        ),
        Verdict::HeadLost(why) => format!(
            "{path}: INTACT, BUT ITS HEAD WAS REMOVED OR DAMAGED\n{counted}  {}\n  entries that were written after the last one \
             here may be missing; compare the log with a checkpoint that was copied elsewhere\n",
            clean(why)
        ),
        Verdict::CheckpointLost(why) => format!(
            "{path}: INTACT, BUT ITS LAST CHECKPOINT WAS REMOVED OR REPLACED\n{counted}  {}\n  entries that were written after \
             the last one here may be missing; compare the log with a checkpoint that was copied elsewhere\n",
            clean(why)
        ),
        Verdict::Empty => {
            format!("{path}: EMPTY: there is no entry in it. A log that a daemon has opened has at least one\n")
        }
        Verdict::NotALog(what) => format!(
            "{path}: not an audit log: {what}\n  verify the log's own file: audit/audit.log in the state folder, or a copy of it\n"
        ),
        Verdict::Torn { offset, index, bytes, reason } => format!(
            "{path}: incomplete last entry (after a crash or with a full disk); all earlier entries are intact\n{counted}  at byte {offset}, entry {index}: \
             {reason} ({bytes} bytes)\n  the next start of failsafed removes it and records that in the log\n"
        ),
        Verdict::Tampered(problem) => format!(
            "{path}: TAMPERED WITH\n{counted}  {problem}\n  the entries before it are valid; keep the file, and compare it with \
             copies made earlier\n"
        ),
    }
}

fn as_json(path: &Path, report: &Report, aside: &[PathBuf], cosigned: &[Cosigned]) -> Value {
    let why = |why: &str| json!({ "reason": why });
    let (verdict, problem) = match &report.verdict {
        Verdict::Ok if is_whole(report, aside) => ("ok", Value::Null),
        Verdict::Ok => ("incomplete", why("entries were lost or replaced: see `findings` and `aside`")),
        Verdict::Segment(text) => ("tampered", why(text)),
        Verdict::Shortened(text) => ("shortened", why(text)),
        Verdict::Forked(text) => ("forked", why(text)),
        Verdict::NotCompared(text) => ("not-compared", why(text)),
        Verdict::CheckpointLost(text) => ("checkpoint-lost", why(text)),
        Verdict::HeadLost(text) => ("head-lost", why(text)),
        Verdict::Empty => ("empty", Value::Null),
        Verdict::NotALog(text) => ("not-a-log", why(text)),
        Verdict::Torn { offset, index, bytes, reason } => {
            ("torn", json!({ "offset": offset, "index": index, "bytes": bytes, "reason": reason.to_string() }))
        }
        Verdict::Tampered(p) => {
            ("tampered", json!({ "offset": p.offset, "index": p.index, "reason": p.why.to_string() }))
        }
    };
    json!({
        "file": path,
        "verdict": verdict,
        "first": report.first,
        "entries": report.entries,
        "segments": report.segments,
        "removed": report.removed,
        "bytes": report.bytes,
        "head_hash": hex::encode(report.head_hash),
        "tree": report.tree.as_ref().map(|tree| json!({
            "first": tree.first,
            "size": tree.size,
            "root_hash": hex::encode(tree.root),
            "checkpoints_contained": tree.contained,
            "checkpoints_not_contained": tree.not_contained,
            "checkpoints_of_removed_entries": tree.removed,
            "continues_removed_entries": tree.continued,
        })),
        "findings": report.findings.iter().map(finding).collect::<Value>(),
        "aside": aside,
        "cosigned": cosigned.iter().map(Cosigned::json).collect::<Value>(),
        "problem": problem,
    })
}

fn finding(Finding { index, wall_ns, what }: &Finding) -> Value {
    json!({ "entry": index, "wall_ns": wall_ns, "what": what })
}

//! `log verify`: the whole audit log, without the daemon.

use super::Place;
use crate::{
    args::Output,
    entry::log_file,
    exit::{Exit, Fail},
    render::{clean, count, json, print, time},
};
use failsafe_journal::{
    Report, Verdict,
    head::{HEAD_FILE, HeadFile},
    verify::{verify_file, verify_folder},
};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn verify(place: &Place<'_>, file: Option<&Path>, output: Output) -> Result<Exit, Fail> {
    let path = file.map_or_else(|| log_file(place.state_dir), Path::to_owned);
    let report = match file {
        Some(file) => verify_file(file),
        None => {
            // Before the log, which may grow meanwhile.
            let head = HeadFile::read(&place.state_dir.join(HEAD_FILE));
            verify_folder(path.parent().unwrap_or(place.state_dir), head)
        }
    };
    let report = report.map_err(|error| {
        Fail::because("cannot verify the audit log", &error)
            .advise("name the state folder with --state-dir or FAILSAFE_STATE_DIR, or the file with --file")
    })?;
    print(&if output.json() { json::text(&as_json(&path, &report)) } else { as_text(&path, &report, &place.zone) })?;
    Ok(if report.is_ok() { Exit::Done } else { Exit::Error })
}

fn as_text(path: &Path, report: &Report, zone: &TimeZone) -> String {
    let head = hex::encode(report.head_hash);
    let mut counted = format!("  entries  {}\n  bytes    {}\n  head     {head}\n", report.entries, report.bytes);
    if report.segments > 0 {
        counted.push_str(&format!("  sealed   {}\n", count(report.segments, "segment", "segments")));
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
    let path = path.display();
    match &report.verdict {
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

fn as_json(path: &Path, report: &Report) -> Value {
    let why = |why: &str| json!({ "reason": why });
    let (verdict, problem) = match &report.verdict {
        Verdict::Ok => ("ok", Value::Null),
        Verdict::Segment(text) => ("tampered", why(text)),
        Verdict::Shortened(text) => ("shortened", why(text)),
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
        "problem": problem,
    })
}

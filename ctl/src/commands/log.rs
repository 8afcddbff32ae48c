//! `log verify`: the whole audit log, without the daemon.

use super::Place;
use crate::{
    args::Output,
    entry::log_file,
    exit::{Exit, Fail},
    render::{json, print},
};
use failsafe_journal::{Report, Verdict, verify::verify_file};
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn verify(place: &Place<'_>, file: Option<&Path>, output: Output) -> Result<Exit, Fail> {
    let path = file.map_or_else(|| log_file(place.state_dir), Path::to_owned);
    let report = verify_file(&path).map_err(|error| {
        Fail::because("cannot verify the audit log", &error)
            .advise("name the state folder with --state-dir or FAILSAFE_STATE_DIR, or the file with --file")
    })?;
    print(&if output.json() { json::text(&as_json(&path, &report)) } else { as_text(&path, &report) })?;
    Ok(if report.is_ok() { Exit::Done } else { Exit::Error })
}

fn as_text(path: &Path, report: &Report) -> String {
    let head = hex::encode(report.head_hash);
    let counted = format!("  entries  {}\n  bytes    {}\n  head     {head}\n", report.entries, report.bytes);
    let path = path.display();
    match &report.verdict {
        Verdict::Ok => format!(
            "{path}: nothing was changed, removed, inserted or moved within it\n{counted}  compare head with what was noted \
             elsewhere to see that nothing is missing at the end\n"
        ),
        Verdict::Torn { offset, index, bytes, reason } => format!(
            "{path}: its end is torn, as a crash or a full disk leaves it\n{counted}  at byte {offset}, entry {index}: \
             {reason} ({bytes} bytes)\n  the next start of failsafed cuts it off and says so in the log\n"
        ),
        Verdict::Tampered(problem) => format!(
            "{path}: TAMPERED WITH\n{counted}  {problem}\n  the entries before it are valid; keep the file, and compare it with \
             copies made earlier\n"
        ),
    }
}

fn as_json(path: &Path, report: &Report) -> Value {
    let (verdict, problem) = match &report.verdict {
        Verdict::Ok => ("ok", Value::Null),
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
        "entries": report.entries,
        "bytes": report.bytes,
        "head_hash": hex::encode(report.head_hash),
        "problem": problem,
    })
}

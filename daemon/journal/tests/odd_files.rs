//! Pipes, devices, folders and huge files in the place of the log's files: no start waits for them, or ends at them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests; a failed unwrap is a failed test")]

mod support;

use failsafe_journal::segments::{CATALOG_FILE, index_path, sealed, segment_path, summary_path};
use failsafe_journal::storage::folder::RESERVE_FILE;
use failsafe_journal::storage::{LOG_FILE, Layout, LogFolder, Retention};
use failsafe_journal::{AuditLog, Draft};
use failsafe_tlog::Keys;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;
use support::{signer, stamp};

fn open(state: &Path) -> Result<(AuditLog<LogFolder>, Vec<String>), String> {
    let layout = Layout {
        segment_bytes: 4 << 10,
        reserve_bytes: 64 << 10,
        heads: vec![state.join("head.json"), state.join("second.json")],
        checkpoint: Some((state.join("log.checkpoint"), Keys::of(vec![signer().1]))),
        retention: Retention { max_bytes: 20 << 10, max_age_ns: u64::MAX },
        ..Layout::default()
    };
    let folder = LogFolder::open(&state.join("audit"), layout).map_err(|e| e.to_string())?;
    AuditLog::open(folder, &stamp(0)).map(|(log, found)| (log, found.findings)).map_err(|e| e.to_string())
}

fn filled() -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    let mut log = open(state.path()).unwrap().0;
    for n in 0..120 {
        log.append(&Draft::new("decision", stamp(n), json!({ "n": n, "text": "x".repeat(200) }))).unwrap();
        log.commit().unwrap();
        if log.seal_if_due(stamp(n)) {
            log.sign(&signer(), true).unwrap();
            log.commit().unwrap();
            log.retain(stamp(n), &|_| false).unwrap();
        }
    }
    log.sign(&signer(), false).unwrap();
    state
}

fn put(kind: &str, path: &Path) {
    let _absent = fs::remove_file(path);
    match kind {
        "pipe" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "device" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        "folder" => fs::create_dir(path).unwrap(),
        "huge" => fs::File::create(path).unwrap().set_len(6 << 30).unwrap(),
        _ => panic!("{kind}"),
    }
}

#[test]
fn no_file_of_another_kind_stops_a_start() {
    let whole = filled();
    let dir = whole.path().join("audit");
    let first = sealed(&dir)[0];
    let borders = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let border = borders.filter(|path| path.extension().is_some_and(|e| e == "checkpoint")).max().unwrap();
    let inside = |path: PathBuf| path.strip_prefix(whole.path()).unwrap().to_owned();
    let quiet = [
        inside(index_path(&dir, first)),
        inside(dir.join(RESERVE_FILE)),
        inside(dir.join("audit.log.next")),
        inside(dir.join("head.json.part")),
    ];
    let reported = [
        "head.json".into(),
        "second.json".into(),
        "log.checkpoint".into(),
        "audit/removed.json".into(),
        inside(dir.join(CATALOG_FILE)),
        inside(dir.join(LOG_FILE)),
        inside(border),
        inside(summary_path(&dir, first)),
        inside(segment_path(&dir, first)),
    ];
    for path in quiet.iter().chain(&reported) {
        for kind in ["pipe", "device", "folder", "huge"] {
            let what = format!("{} is a {kind}", path.display());
            if kind == "huge" && (path.ends_with(LOG_FILE) || path.extension().is_some_and(|e| e == "segment")) {
                continue;
            }
            let state = tempfile::tempdir().unwrap();
            assert!(
                Command::new("cp").arg("-a").arg(whole.path().join(".")).arg(state.path()).status().unwrap().success()
            );
            put(kind, &state.path().join(path));
            let (sender, done) = mpsc::channel();
            let of = state.path().to_owned();
            std::thread::spawn(move || sender.send(open(&of).map(|(_, findings)| findings)));
            let findings = done.recv_timeout(Duration::from_secs(60)).expect(&what);
            let findings = findings.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(!findings.is_empty() || quiet.contains(path), "{what}: it is reported");
        }
    }
}

//! A log for the benches: entries of the size of a decision, 20 of each run.

use anyhow::Result;
use failsafe_journal::storage::{Layout, LogFolder};
use failsafe_journal::{AuditLog, Draft, Stamp, kind};
use serde_json::json;
use std::path::Path;

/// Entries of each run, and of each commit.
pub const OF_A_RUN: u64 = 20;
const TOGETHER: u64 = 500;

/// Without the reserve for a full disk.
pub fn layout() -> Layout {
    Layout { reserve_bytes: 0, ..Layout::default() }
}

/// The time of entry `n`.
pub fn stamp(n: u64) -> Stamp {
    Stamp { wall_ns: 1_700_000_000_000_000_000 + n * 1_000_000, mono_ns: n, boot_id: "bench".into() }
}

/// The id of a run.
pub fn name(run: u64) -> String {
    format!("00000000-0000-0000-0000-{run:012}")
}

/// What is behind the last sealed segment is about half a segment.
pub fn write(dir: &Path, entries: u64) -> Result<()> {
    let (mut log, _) = AuditLog::open(LogFolder::open(dir, layout())?, &stamp(0))?;
    for n in 0..entries {
        log.append(&entry(n))?;
        if n % TOGETHER == TOGETHER - 1 || n + 1 == entries {
            log.commit()?;
            if log.seal_if_due(stamp(n)) {
                log.commit()?;
            }
        }
    }
    Ok(())
}

/// Entry `n`.
pub fn entry(n: u64) -> Draft {
    let body = json!({ "type": "bench", "n": n, "text": "x".repeat(400) });
    Draft::new(kind::DECISION, stamp(n), body).run(name(n / OF_A_RUN))
}

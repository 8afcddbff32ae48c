//! What a log of N entries costs at the daemon's start and at a query, as one line of JSON.
//!
//! `cargo run -p failsafe-journal --release --example log_start -- N FOLDER TRIALS` writes a log into FOLDER/audit, unless there is one, and
//! measures: opening it as the daemon does, the last 10 entries of all, and all entries of one of its oldest runs.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use failsafe_journal::storage::{LOG_FILE, LogFolder};
use failsafe_journal::{AuditLog, Filter, Query, Search};
use serde_json::json;
use support::{OF_A_RUN, layout, name, stamp, write};

mod support;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let entries: u64 = args.next().context("N")?.parse()?;
    let dir = Path::new(&args.next().context("FOLDER")?).join("audit");
    let trials: usize = args.next().context("TRIALS")?.parse()?;
    if !dir.join(LOG_FILE).exists() {
        write(&dir, entries)?;
    }
    let query = |filter: Filter, tail: Option<usize>| -> Result<usize> {
        let query = Query { filter, tail, ..Query::default() };
        Ok(Search::open(&dir.join(LOG_FILE), query)?
            .map(|entry| entry.map(drop))
            .collect::<Result<Vec<()>, _>>()?
            .len())
    };
    let (mut open, mut tail, mut run) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..trials {
        let began = Instant::now();
        let (log, recovery) = AuditLog::open(LogFolder::open(&dir, layout())?, &stamp(0))?;
        open.push(began.elapsed());
        ensure!(recovery.entries >= entries && recovery.findings.is_empty(), "{recovery:?}");
        drop(log);
        let began = Instant::now();
        ensure!(query(Filter::default(), Some(10))? == 10, "the last entries");
        tail.push(began.elapsed());
        let began = Instant::now();
        let filter = Filter { run: Some(name(1)), ..Filter::default() };
        ensure!(query(filter, None)? as u64 == OF_A_RUN, "the entries of a run");
        run.push(began.elapsed());
    }
    let median = |mut times: Vec<std::time::Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    let bytes: u64 = std::fs::read_dir(&dir)?.flatten().filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    let out = json!({
        "entries": entries, "bytes": bytes, "open_ms": median(open), "tail_ms": median(tail), "run_ms": median(run),
    });
    println!("{out}");
    Ok(())
}

//! The audit log: entries made durable by the group commit beside bare fdatasync of the same bytes, verified entries a second with
//! the memory that this takes, and the size of the log and of its proofs at 10^4, 10^5 and 10^6 entries.

use super::{Args, report::Report, statistics::median};
use crate::shell;
use anyhow::{Context, Result};
use serde_json::Value;
use std::{fs, path::Path};

const SIZES: [(u64, &str); 3] = [(10_000, "1e4"), (100_000, "1e5"), (1_000_000, "1e6")];
/// Entries of each turn of writing.
const APPENDS: u64 = 50_000;
/// The group commit makes durable at least 0.8 of what bare fdatasync does.
const SLOWER: f64 = 1.0 / 0.8;
/// A million entries a second.
const NS_EACH: f64 = 1_000.0;
/// Memory of verification, the largest log beside the smallest.
const FLAT: f64 = 1.5;

/// Measures.
///
/// # Errors
/// A log cannot be written, verified or proved.
pub fn run(args: &Args) -> Result<Report> {
    let mut report = Report::new("log", args.trials, args.debug);
    build(args)?;
    // Not in /tmp, which may be in memory.
    let target = shell::built(!args.debug);
    let folder = tempfile::tempdir_in(&target).context("making a folder")?;
    report.condition("appends_each", APPENDS);
    report.condition("waiting", 256);
    durable(args, folder.path(), &mut report)?;
    let (mut ns, mut memory) = (f64::NAN, Vec::new());
    for (entries, name) in SIZES {
        eprintln!("log: {entries} entries");
        let log = folder.path().join(name);
        fs::create_dir(&log).context("making a folder")?;
        let (log, count) = (log.display().to_string(), entries.to_string());
        let grown = example(args, &["grow", &log, &count])?;
        for figure in ["proof_bytes", "proof_hashes", "prove_ms", "consistency_bytes", "consistency_hashes"] {
            report.figure(&format!("{figure}_{name}"), grown[figure].clone());
        }
        for figure in ["bytes", "beside_bytes"] {
            report.figure(&format!("{figure}_an_entry_{name}"), number(&grown, figure) / entries as f64);
        }
        let mut times = Vec::new();
        let mut kib = Vec::new();
        for _ in 0..args.trials {
            let verified = example(args, &["verify", &log])?;
            times.push(number(&verified, "seconds") * 1e9 / entries as f64);
            kib.push(number(&verified, "rss_kib"));
        }
        ns = median(&times);
        report.figure(&format!("verified_entries_a_second_{name}"), (1e9 / ns).round());
        report.figure(&format!("verify_rss_kib_{name}"), median(&kib));
        memory.push(median(&kib));
    }
    report.ratio("verification, ns of an entry : 1000", ns / NS_EACH, Some(1.0));
    if let [small, _, large] = memory.as_slice() {
        report.ratio("memory of verification, 1e6 : 1e4", large / small, Some(FLAT));
    }
    Ok(report)
}

/// Both ways to write in turns: each turn is one process.
fn durable(args: &Args, folder: &Path, report: &mut Report) -> Result<()> {
    let (mut ratios, mut group, mut bare, mut together) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in 0..args.trials {
        eprintln!("log: {APPENDS} durable entries, turn {}", turn + 1);
        let to = folder.join(format!("append-{turn}"));
        fs::create_dir(&to).context("making a folder")?;
        let measured = example(args, &["append", &to.display().to_string(), &APPENDS.to_string()])?;
        fs::remove_dir_all(&to).context("removing a folder")?;
        let (with, without) = (number(&measured, "group_s"), number(&measured, "bare_s"));
        ratios.push(with / without);
        group.push(APPENDS as f64 / with);
        bare.push(APPENDS as f64 / without);
        together.push(APPENDS as f64 / number(&measured, "commits"));
    }
    report.figure("durable_entries_a_second", median(&group).round());
    report.figure("bare_fdatasync_entries_a_second", median(&bare).round());
    report.figure("entries_a_commit", median(&together).round());
    report.ratio("time of group commit : bare fdatasync", median(&ratios), Some(SLOWER));
    Ok(())
}

fn number(value: &Value, name: &str) -> f64 {
    value[name].as_f64().unwrap_or(f64::NAN)
}

fn build(args: &Args) -> Result<()> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "-q", "--locked", "-p", "failsafe-journal", "--example", "log_bench"]);
    if !args.debug {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)
}

/// One process of the example, so that its memory is its own.
fn example(args: &Args, what: &[&str]) -> Result<Value> {
    let program = shell::built(!args.debug).join("examples/log_bench");
    let text = shell::read(std::process::Command::new(program).args(what))?;
    let line = text.lines().last().context("the example printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("the example printed no JSON: {line}"))
}

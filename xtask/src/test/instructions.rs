//! How many instructions the engine takes to evaluate a rule, counted by callgrind: other work on the machine does not change it.
//!
//! The example `core_bench` judges 1,000 and then 2,000 inputs by 100 rules. The difference has no start in it, and its instructions
//! are divided by the rules that were evaluated.

use crate::shell;
use anyhow::{Context, Result, bail};
use std::{fs, path::Path, process::Command};

/// Instructions for one evaluation at most, with what makes its input. 1,583 were counted on 2026-11-30 (rustc 1.95, x86-64). Raise it
/// with a reason, or find what became slower.
const MOST: f64 = 1_800.0;
/// Inputs of the shorter run, and of the longer one.
const INPUTS: [u64; 2] = [1_000, 2_000];
/// Only the core is optimized: with its dependencies the build would take minutes.
const OPTIMIZED: [&str; 3] = ["opt-level=3", "debug-assertions=false", "overflow-checks=false"];

/// What came of it.
#[derive(Debug, PartialEq)]
pub enum Counted {
    /// It was not counted, and why.
    Skipped(String),
    /// As few as they may be.
    Good(f64),
    /// Too many: what to say.
    TooMany(String),
}

/// Counts them; files come into `folder`.
///
/// # Errors
/// The example cannot be built, or does not run under callgrind.
pub fn count(folder: &Path) -> Result<Counted> {
    if shell::which("valgrind").is_none() {
        return Ok(Counted::Skipped("valgrind is not here (apt-get install valgrind)".to_owned()));
    }
    if !cfg!(target_arch = "x86_64") {
        return Ok(Counted::Skipped("the bound is for x86-64".to_owned()));
    }
    let mut cargo = shell::cargo();
    cargo.args(["build", "-q", "--locked", "-p", "failsafe-core", "--example", "core_bench"]);
    for setting in OPTIMIZED {
        cargo.arg("--config").arg(format!("profile.dev.package.failsafe-core.{setting}"));
    }
    shell::run(&mut cargo)?;
    let mut runs = Vec::new();
    for inputs in INPUTS {
        runs.push(run(folder, inputs)?);
    }
    match runs[..] {
        [shorter, longer] => judged(shorter, longer),
        _ => bail!("two runs are compared"),
    }
}

/// The rules that were evaluated, and the instructions of all.
fn run(folder: &Path, inputs: u64) -> Result<(u64, u64)> {
    let out = folder.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "-q"]).arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(shell::built(false).join("examples/core_bench")).args(["instructions", &inputs.to_string()]);
    let printed = shell::read(&mut valgrind)?;
    let evaluated = printed.trim().parse().with_context(|| format!("core_bench printed `{}`", printed.trim()))?;
    let text = fs::read_to_string(&out).with_context(|| format!("reading {}", out.display()))?;
    Ok((evaluated, instructions(&text).with_context(|| format!("{} has no summary", out.display()))?))
}

/// All instructions, of a file of callgrind.
fn instructions(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("summary: "))?.trim().parse().ok()
}

/// Compares two runs with what one evaluation may take.
fn judged(shorter: (u64, u64), longer: (u64, u64)) -> Result<Counted> {
    let (evaluated, instructions) = (longer.0.saturating_sub(shorter.0), longer.1.saturating_sub(shorter.1));
    if evaluated == 0 || instructions == 0 {
        bail!("the longer run evaluated no more rules than the shorter one: {shorter:?}, {longer:?}");
    }
    let each = instructions as f64 / evaluated as f64;
    Ok(if each > MOST {
        Counted::TooMany(format!("{each:.0} instructions for one evaluation of a rule (limit {MOST:.0})"))
    } else {
        Counted::Good(each)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_file_of_callgrind_is_read() {
        let text = "# callgrind format\nevents: Ir\n\nfn=(1) main\n3 7\nsummary: 88256054\ntotals: 88256054\n";
        assert_eq!(instructions(text), Some(88_256_054));
        assert_eq!(instructions("events: Ir\n"), None);
    }

    #[test]
    fn the_start_does_not_count_and_what_is_above_the_bound_fails() {
        let Counted::Good(each) = judged((1_000, 50_000_000), (2_000, 51_500_000)).unwrap() else { panic!() };
        assert!((each - 1_500.0).abs() < 1e-9);
        let Counted::TooMany(text) = judged((1_000, 0), (2_000, 1_801_000)).unwrap() else { panic!() };
        assert_eq!(text, "1801 instructions for one evaluation of a rule (limit 1800)");
        judged((1_000, 10), (1_000, 20)).unwrap_err();
        judged((1_000, 10), (2_000, 10)).unwrap_err();
    }
}

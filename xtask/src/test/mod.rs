//! `cargo xtask test`: sets up, builds what the tests start, runs every test, and ends with one line,
//! `N passed, N failed, N skipped`, taken from the runners' own results.
//!
//! A test that cannot run on this machine appends `SKIP <test>: <reason>` to the file named by `FAILSAFE_SKIP_LOG` and
//! returns. Its runner knows no better than that it passed; here it is counted as skipped and its reason is printed.

pub mod failures;
pub mod instructions;
pub mod skips;
pub mod tally;

use crate::{setup, shell, vm};
use anyhow::{Context, Result, bail};
use failures::Failure;
use instructions::Counted;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;
use tally::Tally;

/// Which tests.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the virtual machines, which run the kernel-facing tests on other kernels
    #[arg(long)]
    no_vm: bool,
    /// Arguments for `cargo nextest run` in place of `--workspace`, e.g. `-- -p failsafe-core`; without doctests and machines
    #[arg(last = true)]
    only: Vec<String>,
}

/// Where `.ci/run` finds the closing line.
const SUMMARY: &str = "summary.txt";

/// Runs the tests.
///
/// # Errors
/// Set-up or build failed, or a test did.
pub fn run(args: &Args) -> Result<()> {
    let folder = shell::built(false).with_file_name("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let _ = fs::remove_file(folder.join(SUMMARY));
    let skip_log = folder.join("skipped.txt");
    fs::write(&skip_log, "").with_context(|| format!("emptying {}", skip_log.display()))?;

    step("set-up", || {
        setup::run()?;
        setup::nvml_references();
        setup::monitoring();
        setup::schedulers();
        setup::containers();
        setup::kubernetes();
        setup::mypy();
        setup::tpm();
        setup::counting();
        Ok(())
    })?;
    // Tests start these programs and load this library; a build of everything shares its work with the tests' own.
    step("build", || shell::run(shell::cargo().args(["build", "--workspace", "--locked"])))?;
    let (mut tally, mut failures) = step("tests", || nextest(args, &skip_log))?;
    if args.only.is_empty() {
        tally = tally + step("doctests", doctests)?;
    }
    let mut skipped = skips::read(&skip_log)?;
    tally = tally.with_skipped(skipped.len() as u64);
    if args.only.is_empty() {
        tally = tally + step("instructions", || counted(&folder, &mut skipped, &mut failures))?;
        tally = tally + step("machines", || machines(args.no_vm, &mut skipped, &mut failures))?;
    }
    if !skipped.is_empty() {
        println!("\nnot run on this machine:");
        skipped.iter().for_each(|(test, reason)| println!("  SKIP {test}: {reason}"));
    }
    let ignored = skips::ignored()?;
    if !ignored.is_empty() {
        println!("\nnever run by themselves (the runners count them as skipped):");
        ignored.iter().for_each(|test| println!("  {test}"));
    }
    for (what, flaky) in
        [("flaky: failed, and passed when tried once more; each is a fault to be found", true), ("failed", false)]
    {
        let told: Vec<&Failure> = failures.iter().filter(|failure| failure.flaky == flaky).collect();
        if !told.is_empty() {
            println!("\n{what}:");
            told.iter().for_each(|failure| println!("{failure}"));
        }
    }
    // Once more by name alone: of a long log only the last lines may be kept.
    failures.iter().filter(|failure| !failure.flaky).for_each(|failure| println!("\nfailed: {}", failure.first_line()));
    fs::write(folder.join(SUMMARY), format!("{tally}\n")).context("writing the summary")?;
    println!("\n{tally}");
    if tally.failed > 0 {
        bail!("{} test(s) failed", tally.failed);
    }
    Ok(())
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    let result = work();
    eprintln!("-- {name}: {:.1} s", begin.elapsed().as_secs_f64());
    result
}

fn nextest(args: &Args, skip_log: &PathBuf) -> Result<(Tally, Vec<Failure>)> {
    let mut command = shell::cargo();
    command
        .args(["nextest", "run", "--locked", "--no-fail-fast", "--color", "never"])
        .env("FAILSAFE_SKIP_LOG", skip_log);
    if args.only.is_empty() {
        command.arg("--workspace");
    }
    let (status, text) = watched(command.args(&args.only))?;
    let tally = judged("nextest", status, text.lines().find_map(tally::of_nextest))?;
    Ok((tally, failures::of_nextest(&text)))
}

/// The instructions for one evaluation of a rule: one test.
fn counted(folder: &Path, skipped: &mut BTreeMap<String, String>, failures: &mut Vec<Failure>) -> Result<Tally> {
    match instructions::count(folder)? {
        Counted::Good(each) => {
            println!("{each:.0} instructions for one evaluation of a rule");
            Ok(Tally { passed: 1, ..Tally::default() })
        }
        Counted::TooMany(why) => {
            failures.push(Failure::other(why));
            Ok(Tally { failed: 1, ..Tally::default() })
        }
        Counted::Skipped(why) => {
            skipped.insert("the instructions for one evaluation".to_owned(), why);
            Ok(Tally { skipped: 1, ..Tally::default() })
        }
    }
}

/// The same on other kernels. A table in the docs that is not what the kernels gave counts as a failure.
fn machines(left_out: bool, skipped: &mut BTreeMap<String, String>, failures: &mut Vec<Failure>) -> Result<Tally> {
    if let Some(why) = if left_out { Some("--no-vm was given".to_owned()) } else { vm::impossible() } {
        skipped.insert("the virtual machines".to_owned(), why);
        return Ok(Tally { skipped: 1, ..Tally::default() });
    }
    let reports = vm::run_usual()?;
    let mut tally = Tally::default();
    for report in &reports {
        report.show();
        tally = tally + report.tally;
        failures.extend(report.failures());
        let named = |(test, why): (&String, &String)| (format!("{test} on {}", report.kernel.name()), why.clone());
        skipped.extend(report.skipped.iter().map(named));
    }
    if let Err(wrong) = vm::settle(&reports, false) {
        failures.push(Failure::other(format!("{wrong:#}")));
        tally.failed += 1;
    }
    Ok(tally)
}

fn doctests() -> Result<Tally> {
    let mut command = shell::cargo();
    let (status, text) = watched(command.args(["test", "--doc", "--workspace", "--locked", "--no-fail-fast"]))?;
    judged("the doctests", status, text.lines().filter_map(tally::of_libtest).reduce(|a, b| a + b))
}

/// A runner that failed without counting a failure (its build broke, say) is an error of its own.
fn judged(runner: &str, status: ExitStatus, tally: Option<Tally>) -> Result<Tally> {
    match tally {
        Some(tally) if status.success() || tally.failed > 0 => Ok(tally),
        Some(tally) => bail!("{runner} failed ({status}) though it counted {tally}"),
        None => bail!("{runner} gave no result ({status})"),
    }
}

/// Runs the command; what it says is passed on as it comes, and returned.
fn watched(command: &mut Command) -> Result<(ExitStatus, String)> {
    eprintln!("$ {}", shell::shown(command));
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let second = writer.try_clone().context("making a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(second)
        .spawn()
        .with_context(|| format!("starting `{}`", shell::shown(command)))?;
    // The command holds the pipe's other end open as long as it lives.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut all = String::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("reading what the tests say")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        all.push_str(&line);
        all.push('\n');
    }
    Ok((child.wait().context("waiting for the tests")?, all))
}

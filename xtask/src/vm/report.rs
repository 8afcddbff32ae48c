//! What a machine brought back.

use super::Kernel;
use super::table::{Column, Program};
use crate::test::failures::{self, Failure};
use crate::test::skips;
use crate::test::tally::{self, Tally};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// One machine's results.
pub struct Report {
    /// The kernel it ran.
    pub kernel: Kernel,
    /// How its tests ended. A machine that broke counts as one failure.
    pub tally: Tally,
    /// Tests that said they cannot run there, and why.
    pub skipped: BTreeMap<String, String>,
    /// What its kernel took of the eBPF object.
    pub probe: Option<Column>,
    /// What went wrong with the machine itself.
    pub problem: Option<String>,
    failed: Vec<Failure>,
    /// From start to end.
    pub took: Duration,
}

impl Report {
    /// Reads the results that were unpacked to `folder`.
    ///
    /// # Errors
    /// They are there but cannot be read.
    pub fn read(kernel: Kernel, folder: &Path, problem: Option<String>, took: Duration) -> Result<Report> {
        let (tally, skipped, failed) = (Tally::default(), BTreeMap::new(), Vec::new());
        let mut report = Report { kernel, tally, skipped, probe: None, problem, failed, took };
        if report.problem.is_none() {
            let text = fs::read_to_string(folder.join("nextest.txt")).context("reading what nextest said")?;
            report.skipped = skips::read(&folder.join("skipped.txt"))?;
            report.problem = report.count(&text);
            report.failed = failures::of_nextest(&text);
            let read = |name: &str| fs::read_to_string(folder.join(name)).with_context(|| format!("reading {name}"));
            let (release, programs) = (read("release")?.trim().to_owned(), Program::all(read("probe.jsonl")?.lines())?);
            if programs.is_empty() {
                report.problem.get_or_insert_with(|| "kernel_probe said nothing".to_owned());
            }
            report.probe = Some(Column { release, programs });
        }
        report.tally.failed += u64::from(report.problem.is_some());
        Ok(report)
    }

    /// What a machine found that ran no tests but asked its kernel, which counts as one.
    pub fn of_probe(kernel: Kernel, found: Result<Column, String>, took: Duration) -> Report {
        let (probe, problem) = match found {
            Ok(column) => (Some(column), None),
            Err(problem) => (None, Some(problem)),
        };
        let (passed, failed) = (u64::from(probe.is_some()), u64::from(problem.is_some()));
        let tally = Tally { passed, failed, ..Tally::default() };
        Report { kernel, tally, skipped: BTreeMap::new(), probe, problem, failed: Vec::new(), took }
    }

    /// Of a machine that cannot be had: its one test, and why it does not run.
    pub fn skipped(kernel: Kernel, test: &str, why: String) -> Report {
        let tally = Tally { skipped: 1, ..Tally::default() };
        let skipped = BTreeMap::from([(test.to_owned(), why)]);
        let (failed, took) = (Vec::new(), Duration::ZERO);
        Report { kernel, tally, skipped, probe: None, problem: None, failed, took }
    }

    /// Takes the closing line of nextest over; `Some` says what is wrong with it.
    fn count(&mut self, text: &str) -> Option<String> {
        let Some(found) = text.lines().find_map(tally::of_nextest) else {
            return Some(format!("nextest gave no result:\n{text}"));
        };
        // Tests of the same binaries that were not asked for are nobody's skips.
        self.tally = Tally { skipped: 0, ..found }.with_skipped(self.skipped.len() as u64);
        let well = text.lines().any(|line| line == "nextest's exit status: 0");
        (!well && found.failed == 0).then(|| "nextest failed though no test did".to_owned())
    }

    /// What failed, by the kernel's name.
    pub fn failures(&self) -> Vec<Failure> {
        let machine = |problem: &String| Failure::other(format!("the machine: {problem}"));
        let named =
            |failure: Failure| Failure { test: format!("{} on {}", failure.test, self.kernel.name()), ..failure };
        self.problem.iter().map(machine).chain(self.failed.iter().cloned()).map(named).collect()
    }

    /// Prints what its counts do not tell.
    pub fn show(&self) {
        let name = self.kernel.name();
        println!("\nkernel {name}: {} in {:.0} s", self.tally, self.took.as_secs_f64());
        if let Some(problem) = &self.problem {
            println!("  the machine: {problem}");
        }
        for (test, reason) in &self.skipped {
            println!("  SKIP {test}: {reason}");
        }
    }
}

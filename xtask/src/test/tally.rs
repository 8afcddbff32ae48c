//! How many tests passed, failed and were skipped, read from the runners' closing lines.

use std::fmt;
use std::ops::Add;

/// Results of one or more runners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ran and held.
    pub passed: u64,
    /// Failed, timed out, or could not be started.
    pub failed: u64,
    /// Ignored, filtered out, or not possible on this machine.
    pub skipped: u64,
}

impl Tally {
    /// The same tests, of which `n` that counted as passed said that they could not run here.
    pub fn with_skipped(self, n: u64) -> Tally {
        let n = n.min(self.passed);
        Tally { passed: self.passed - n, skipped: self.skipped + n, ..self }
    }

    fn count(mut self, n: u64, what: &str) -> Tally {
        match what {
            "passed" => self.passed += n,
            "skipped" | "ignored" => self.skipped += n,
            "measured" | "filtered out" => {}
            // `failed`, `timed out`, `exec failed`, and any word a later runner invents.
            _ => self.failed += n,
        }
        self
    }
}

impl Add for Tally {
    type Output = Tally;
    fn add(self, other: Tally) -> Tally {
        Tally {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// nextest's `Summary [   1.278s] 14 tests run: 12 passed (1 slow), 1 failed, 1 timed out, 0 skipped`.
pub fn of_nextest(line: &str) -> Option<Tally> {
    let (_, counts) = line.trim_start().strip_prefix("Summary [")?.split_once(" run: ")?;
    parts(&without_brackets(counts), ',')
}

/// libtest's `test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.04s`.
pub fn of_libtest(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    parts(counts.split_once("; finished").map_or(counts, |(counts, _)| counts), ';')
}

fn parts(counts: &str, between: char) -> Option<Tally> {
    counts.split(between).try_fold(Tally::default(), |tally, part| {
        let (n, what) = part.trim().split_once(' ')?;
        Some(tally.count(n.parse().ok()?, what.trim()))
    })
}

fn without_brackets(text: &str) -> String {
    let mut depth = 0;
    let outside = |c: &char| {
        depth += i32::from(*c == '(');
        let keep = depth == 0;
        depth -= i32::from(*c == ')');
        keep
    };
    text.chars().filter(outside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nextest_lines_are_counted() {
        let tally = |line| of_nextest(line).unwrap().to_string();
        assert_eq!(
            tally("     Summary [   1.278s] 14 tests run: 14 passed, 0 skipped"),
            "14 passed, 0 failed, 0 skipped"
        );
        assert_eq!(
            tally("Summary [1.2s] 1 test run: 0 passed, 1 exec failed, 3 skipped"),
            "0 passed, 1 failed, 3 skipped"
        );
        let mixed = "     Summary [  61.0s] 9 tests run: 6 passed (1 slow, 2 leaky), 2 failed (1 due to being leaky), 1 timed out, 2 skipped";
        assert_eq!(tally(mixed), "6 passed, 3 failed, 2 skipped");
        assert_eq!(of_nextest("    Starting 14 tests across 10 binaries"), None);
    }

    #[test]
    fn libtest_lines_are_counted() {
        let line = "test result: FAILED. 2 passed; 1 failed; 4 ignored; 0 measured; 5 filtered out; finished in 0.04s";
        assert_eq!(of_libtest(line), Some(Tally { passed: 2, failed: 1, skipped: 4 }));
        assert_eq!(of_libtest("running 3 tests"), None);
    }

    #[test]
    fn a_test_that_was_skipped_did_not_pass() {
        let tally = Tally { passed: 5, failed: 1, skipped: 2 };
        assert_eq!(tally.with_skipped(2), Tally { passed: 3, failed: 1, skipped: 4 });
    }
}

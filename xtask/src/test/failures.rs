//! The tests that failed, from what nextest printed: shown once more before the closing line, where whoever sees only the
//! end of a log finds them.

use std::fmt;

/// Of what a failed test said, as many lines from the end.
const LINES: usize = 14;

/// One failed test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How it ended, how long it took and its name, as nextest puts it.
    pub test: String,
    /// The end of what it said.
    pub said: Vec<String>,
    /// Tried once more, it passed.
    pub flaky: bool,
}

impl Failure {
    /// What is no test's: a machine, a table.
    pub fn other(what: String) -> Failure {
        Failure { test: what, said: Vec::new(), flaky: false }
    }

    /// How it ended and its name, without what it printed.
    pub fn first_line(&self) -> &str {
        self.test.lines().next().unwrap_or_default()
    }

    /// The test's own name, without how it ended.
    fn name(&self) -> &str {
        name(&self.test)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  {}", self.test)?;
        self.said.iter().try_for_each(|line| write!(f, "\n      {line}"))
    }
}

/// The failures up to nextest's summary, each with the block that follows it.
pub fn of_nextest(text: &str) -> Vec<Failure> {
    let mut found: Vec<Failure> = Vec::new();
    let mut open = false;
    for line in text.lines().take_while(|line| !line.trim_start().starts_with("Summary [")) {
        match ending(line) {
            Some(ending) => {
                open = failed(ending);
                // Of a test that failed twice the last time is told.
                let before = found.iter().position(|failure| failure.name() == name(line));
                if open {
                    before.map(|at| found.remove(at));
                    found.push(Failure { test: line.trim().to_owned(), said: Vec::new(), flaky: false });
                } else if let (Some(at), true) = (before, ending.ends_with("PASS")) {
                    found[at].flaky = true;
                }
            }
            None => {
                if let (true, Some(last)) = (open, found.last_mut()) {
                    last.said.push(line.trim().to_owned());
                }
            }
        }
    }
    found.iter_mut().for_each(|failure| failure.said = shortened(&failure.said));
    found
}

/// The word of a line such as `        FAIL [  34.500s] (424/587) package::binary test`.
fn ending(line: &str) -> Option<&str> {
    let (word, rest) = line.strip_prefix(" ")?.trim_start().split_once(" [")?;
    let time = rest.split_once("s]")?.0.trim_start_matches(['>', ' ']);
    let all_capitals = word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "-+/ ".contains(c));
    (all_capitals && time.parse::<f64>().is_ok()).then_some(word)
}

fn failed(ending: &str) -> bool {
    // Of a try: `TRY 1 FAIL`.
    !["PASS", "SLOW", "LEAK", "SKIP", "TERMINATING", "DELAY", "RETRY"].iter().any(|fine| ending.contains(fine))
}

/// What follows the time and the number in a status line.
fn name(line: &str) -> &str {
    line.split_once("] ").and_then(|(_, rest)| rest.split_once(") ")).map_or(line, |(_, name)| name)
}

/// The end of it, without what tells nothing: frames of a backtrace, headings, empty lines.
fn shortened(said: &[String]) -> Vec<String> {
    let frame = |line: &str| {
        let number = line.split_once(": ").is_some_and(|(before, _)| before.parse::<u32>().is_ok());
        number || line.starts_with("at /") || line.starts_with("at ./") || line == "stack backtrace:"
    };
    let heading = |line: &str| ["note: ", "stdout ─", "stderr ─"].iter().any(|start| line.starts_with(start));
    let said: Vec<_> = said.iter().filter(|line| !line.is_empty() && !frame(line) && !heading(line)).cloned().collect();
    said[said.len().saturating_sub(LINES)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_named_with_the_end_of_its_output() {
        let text = "\
        PASS [   0.004s] (1/3) core a::b
        FAIL [   1.400s] (2/3) core c::d
  stdout ───

    running 1 test
  stderr ───
    thread 'c::d' panicked at core/src/c.rs:1:1:
    left is not right
    stack backtrace:
       0: rust_begin_unwind
                 at /rustc/library/std/src/panicking.rs:689:5
    note: Some details are omitted

        SLOW [> 30.000s] (─────────) core e::f
     TIMEOUT [ 120.000s] (3/3) core e::f
────────────
     Summary [   1.278s] 3 tests run: 1 passed, 1 failed, 1 timed out, 0 skipped
        FAIL [   1.400s] (2/3) core c::d
";
        let failures = of_nextest(text);
        let said = ["running 1 test", "thread 'c::d' panicked at core/src/c.rs:1:1:", "left is not right"];
        assert_eq!(failures.len(), 2, "{failures:?}");
        assert_eq!(failures[0].test, "FAIL [   1.400s] (2/3) core c::d");
        assert_eq!(failures[0].said, said);
        assert_eq!(failures[1].test, "TIMEOUT [ 120.000s] (3/3) core e::f");
    }

    #[test]
    fn a_test_that_passes_when_tried_again_is_flaky_and_one_that_does_not_has_failed() {
        let text = "
  TRY 1 FAIL [   1.000s] (1/2) it a
    it was late
  TRY 1 FAIL [   1.000s] (─────) it b
    once
  TRY 2 PASS [   2.000s] (1/2) it a
  TRY 2 FAIL [   2.000s] (2/2) it b
    twice
     Summary [   3.0s] 2 tests run: 1 passed (1 flaky), 1 failed, 0 skipped
";
        let told: Vec<_> =
            of_nextest(text).into_iter().map(|f| (f.name().to_owned(), f.said[0].clone(), f.flaky)).collect();
        let expected = [("it a", "it was late", true), ("it b", "twice", false)];
        assert_eq!(told, expected.map(|(name, said, flaky)| (name.to_owned(), said.to_owned(), flaky)));
    }

    #[test]
    fn only_the_end_of_a_long_word_is_kept() {
        let long: String = (0..99).map(|n| format!("    line {n}\n")).collect();
        let failures = of_nextest(&format!("     SIGABRT [   0.010s] (1/1) core a\n{long}"));
        assert_eq!(failures[0].said.len(), LINES);
        assert_eq!(failures[0].said[LINES - 1], "line 98");
    }
}

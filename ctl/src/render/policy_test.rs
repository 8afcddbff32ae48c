//! The result of `policy test`.

use super::{clean, count};
use failsafe_trial::{Coverage, Failure, Verdict};
use serde_json::{Value, json as object};
use std::fmt::Write;

/// Lines of the coverage that are shown of one file.
const MISSING: usize = 20;

/// The tests of one file.
pub struct File {
    /// The test file.
    pub name: String,
    /// The policy's name.
    pub policy: String,
    /// The policy's digest.
    pub digest: String,
    /// The tests that ran.
    pub tests: Vec<Tested>,
    /// What they reached.
    pub coverage: Coverage,
}

/// One test that ran.
pub struct Tested {
    /// Its name.
    pub name: String,
    /// Its line.
    pub line: usize,
    /// How it ended.
    pub verdict: Verdict,
    /// Inputs that were stepped.
    pub inputs: u64,
    /// Inputs that did not come.
    pub held_back: u64,
}

impl File {
    /// Whether every test passed.
    pub fn passed(&self) -> bool {
        self.tests.iter().all(|test| test.verdict.passed())
    }
}

/// For people.
pub fn text(files: &[File], required: bool) -> String {
    let mut out = String::new();
    for file in files {
        let _ = writeln!(out, "{}  policy {} {}", clean(&file.name), clean(&file.policy), file.digest);
        for test in &file.tests {
            let _ = writeln!(out, "  {}  {}", if test.verdict.passed() { "ok  " } else { "FAIL" }, clean(&test.name));
            for failure in &test.verdict.failures {
                failed(&mut out, &file.name, failure);
            }
            if !test.verdict.passed() && test.held_back > 0 {
                let n = usize::try_from(test.held_back).unwrap_or(usize::MAX);
                let inputs = count(n, "input", "inputs");
                let _ = writeln!(
                    out,
                    "        note      {inputs} did not come: the run was frozen or had ended, or the sensor was blind"
                );
            }
        }
        let (reached, all) = file.coverage.branches();
        let _ = writeln!(out, "  coverage  {reached} of {all} branches of rules and conditions");
        let missing = file.coverage.missing();
        for line in missing.iter().take(MISSING) {
            let _ = writeln!(out, "    {}", clean(line));
        }
        if missing.len() > MISSING {
            let _ = writeln!(out, "    and {} more, see -o json", missing.len() - MISSING);
        }
        out.push('\n');
    }
    let all = || files.iter().flat_map(|file| &file.tests);
    let failed = all().filter(|test| !test.verdict.passed()).count();
    let _ =
        writeln!(out, "{}, {} passed, {failed} failed", count(all().count(), "test", "tests"), all().count() - failed);
    if required && files.iter().any(|file| !file.coverage.missing().is_empty()) {
        out.push_str("FAILED: --require-coverage, and not every branch is reached\n");
    }
    out
}

fn failed(out: &mut String, file: &str, failure: &Failure) {
    let _ = writeln!(out, "        {}:{}", clean(file), failure.line);
    let _ = writeln!(out, "        expected  {}", clean(&failure.expected));
    let _ = writeln!(out, "        happened  {}", clean(&failure.happened));
    for value in &failure.values {
        let _ = writeln!(out, "                  {}", clean(value));
    }
}

/// For programs.
pub fn json(files: &[File], passed: bool, covered: Option<bool>) -> Value {
    let failure = |failure: &Failure| {
        object!({
            "line": failure.line,
            "expected": failure.expected,
            "happened": failure.happened,
            "values": failure.values,
        })
    };
    let test = |test: &Tested| {
        object!({
            "name": test.name,
            "line": test.line,
            "passed": test.verdict.passed(),
            "inputs": test.inputs,
            "held_back": test.held_back,
            "failures": test.verdict.failures.iter().map(failure).collect::<Vec<_>>(),
        })
    };
    let rules = |coverage: &Coverage| {
        let tests = |rule: &failsafe_trial::coverage::RuleCoverage| {
            let one = |t: &failsafe_trial::coverage::TestCoverage| object!({ "test": t.test, "true": t.held, "false": t.failed, "unknown": t.unknown });
            rule.tests.iter().map(one).collect::<Vec<_>>()
        };
        let rule = |rule: &failsafe_trial::coverage::RuleCoverage| object!({ "rule": rule.id, "matched": rule.matched, "not_matched": rule.quiet, "tests": tests(rule) });
        coverage.rules.iter().map(rule).collect::<Vec<_>>()
    };
    let file = |file: &File| {
        let (reached, all) = file.coverage.branches();
        object!({
            "file": file.name,
            "policy": file.policy,
            "digest": file.digest,
            "tests": file.tests.iter().map(test).collect::<Vec<_>>(),
            "coverage": {
                "reached": reached,
                "branches": all,
                "missing": file.coverage.missing(),
                "rules": rules(&file.coverage),
            },
        })
    };
    object!({ "passed": passed, "coverage_required": covered, "files": files.iter().map(file).collect::<Vec<_>>() })
}

/// As JUnit XML, for build servers.
pub fn junit(files: &[File]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for file in files {
        let failures = file.tests.iter().filter(|test| !test.verdict.passed()).count();
        let name = escaped(&file.name);
        let _ = writeln!(out, "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\">", file.tests.len());
        for test in &file.tests {
            let case = format!("<testcase classname=\"{name}\" name=\"{}\"", escaped(&test.name));
            if test.verdict.passed() {
                let _ = writeln!(out, "    {case}/>");
                continue;
            }
            let _ = writeln!(out, "    {case}>");
            for failure in &test.verdict.failures {
                let message = escaped(&format!("expected {}; happened {}", failure.expected, failure.happened));
                let body = escaped(&format!("{}:{}\n{}", file.name, failure.line, failure.values.join("\n")));
                let _ = writeln!(out, "      <failure message=\"{message}\">{body}</failure>");
            }
            out.push_str("    </testcase>\n");
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

/// Text for XML 1.0, which has no control characters.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push('\n'),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::policy::parse::parse;

    fn files() -> Vec<File> {
        let policy = parse(
            "p.toml",
            "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"r\"\nrationale = \"x\"\n\
             when = { signal = \"metric.loss\", above = 20 }\nactions = [\"notify\"]\n",
        )
        .unwrap();
        let failure = Failure {
            line: 7,
            expected: "rule r at 3 s".into(),
            happened: "no such decision".into(),
            values: vec!["metric.loss = 19 < 20 at 2 s".into()],
        };
        let test = |name: &str, failures| Tested {
            name: name.into(),
            line: 3,
            verdict: Verdict { failures },
            inputs: 9,
            held_back: 2,
        };
        let tests = vec![test("good", Vec::new()), test("bad \"\u{1b}[1m", vec![failure])];
        let (name, coverage) = ("p.test.toml".to_owned(), Coverage::of(&policy));
        vec![File { name, policy: "p".into(), digest: "sha256:0".into(), tests, coverage }]
    }

    #[test]
    fn a_failure_shows_what_was_expected_what_happened_and_the_values() {
        insta::assert_snapshot!(text(&files(), true));
    }

    #[test]
    fn junit_is_xml_whatever_the_names_contain() {
        insta::assert_snapshot!(junit(&files()));
    }

    #[test]
    fn json_has_each_test_and_the_coverage() {
        let value = json(&files(), false, Some(false));
        assert_eq!(value["passed"], false);
        assert_eq!(value["files"][0]["tests"][1]["failures"][0]["line"], 7);
        assert_eq!(value["files"][0]["coverage"]["branches"], 2);
    }
}

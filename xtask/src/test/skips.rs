//! The log of tests that could not run on this machine.

use crate::shell;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Tests and their reasons; one that says so twice counts once.
pub fn read(log: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `SKIP <test>: <reason>`; a test's name may hold `::`.
fn parse(line: &str) -> Option<(String, String)> {
    let (test, reason) = line.strip_prefix("SKIP ")?.split_once(": ")?;
    Some((test.to_owned(), reason.to_owned()))
}

/// The tests that their own source takes out of every run, as `FILE:LINE: reason`.
///
/// # Errors
/// git cannot be run.
pub fn ignored() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(shell::root()).args(["grep", "-n", "-E", "^ *#\\[ignore = ", "--", "*.rs"]);
    let said = git.output().context("looking for ignored tests")?;
    let line = |line: &str| {
        let (place, rest) = line.split_once(":    ").or_else(|| line.split_once(":#")).unwrap_or((line, ""));
        format!("{place}: {}", rest.split('"').nth(1).unwrap_or("no reason"))
    };
    Ok(String::from_utf8_lossy(&said.stdout).lines().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_colons_and_repeats_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "SKIP a::b: no GPU: really\nnoise\nSKIP a::b: no GPU: really\nSKIP c: no systemd\n")
            .unwrap();
        let skips: Vec<_> = read(&log).unwrap().into_iter().collect();
        let expected = [("a::b", "no GPU: really"), ("c", "no systemd")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(skips, expected);
    }
}

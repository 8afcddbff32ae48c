//! What every source file must be: opened by its `//!`, finished, and free of unsafe code outside the few places where it
//! belongs.

use super::Findings;
use crate::shell;
use anyhow::{Context, Result};
use std::path::Path;

/// Beyond this many lines a file usually holds two ideas.
const LONG: usize = 400;

/// Where unsafe code may stand, beside tests: the eBPF ABI, the kernel's edge, NVML's C ABI, and workloads and attempts that
/// make raw system calls.
const UNSAFE: [&str; 6] = [
    "ebpf/",
    "daemon/src/platform/",
    "daemon/src/sensors/nvml/",
    "tests/nvml-sim/",
    "tests/workloads/",
    "tests/bypass/src/sys/",
];

/// Words of unfinished work, in two halves so that this file does not hold them.
const UNFINISHED: [(&str, &str); 3] = [("TO", "DO"), ("FIX", "ME"), ("XX", "X")];

/// Endings of the files that are read.
const READ: [&str; 9] = ["rs", "c", "h", "py", "toml", "sh", "service", "proto", "conf"];

/// Reads every file that git knows or would take.
///
/// # Errors
/// git cannot list the files, or one cannot be read.
pub fn check(findings: &mut Findings) -> Result<()> {
    let root = shell::root();
    for name in super::files(&[])? {
        let path = root.join(&name);
        let ending = Path::new(&name).extension().and_then(|e| e.to_str()).unwrap_or_default();
        if !READ.contains(&ending) {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        judge(&name, &text, findings);
    }
    Ok(())
}

fn judge(name: &str, text: &str, findings: &mut Findings) {
    let lines = text.lines().count();
    if lines > LONG && !name.ends_with(".toml") && !name.ends_with(".proto") {
        findings.look.push(format!("{name} has {lines} lines, of {LONG} that a file should have at most"));
    }
    for (number, line) in text.lines().enumerate() {
        if let Some((a, b)) = UNFINISHED.iter().find(|(a, b)| words(line).any(|word| word.strip_prefix(a) == Some(*b)))
        {
            findings.wrong.push(format!("{name}:{}: {a}{b}: do it, or open an issue", number + 1));
        }
    }
    if !name.ends_with(".rs") {
        return;
    }
    if !opens_with_doc(text) {
        findings.wrong.push(format!("{name}: does not open with `//!`: what is it for?"));
    }
    if !UNSAFE.iter().any(|place| name.starts_with(place)) && !name.contains("/tests/") {
        let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
        let keyword = |line: &str| words(&code(line)).any(|word| word == "unsafe") && !line.contains('"');
        if let Some((number, _)) = text.lines().enumerate().find(|(_, line)| keyword(line)) {
            findings.wrong.push(format!("{name}:{}: unsafe code does not belong here", number + 1));
        }
    }
}

/// Whether the first line that is not blank is a `//!`; inner attributes may stand before it.
fn opens_with_doc(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("#!["));
    lines.next().is_some_and(|line| line.starts_with("//!"))
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(name: &str, text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        judge(name, text, &mut findings);
        findings.wrong
    }

    #[test]
    fn good_files_pass() {
        for (name, text) in [
            ("daemon/src/main.rs", "//! The daemon.\nfn main() {}\n"),
            ("ctl/tests/a.rs", "#![expect(clippy::unwrap_used)]\n//! Tests.\n// nothing unsafe here\n"),
            ("ebpf/src/abi.rs", "//! Mirror.\nunsafe impl Sync for X {}\n"),
            ("ctl/src/main.rs", "//! The tool.\n#![forbid(unsafe_code)]\n"),
        ] {
            assert_eq!(wrong(name, text), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn each_broken_rule_is_named_with_its_place() {
        let unfinished = format!("//! x\n// {}{}: later\n", "TO", "DO");
        for (name, text, expected) in [
            ("a.rs", "fn f() {}\n", "a.rs: does not open"),
            ("a.rs", unfinished.as_str(), "a.rs:2: "),
            ("daemon/core/src/a.rs", "//! x\nunsafe { f() }\n", "daemon/core/src/a.rs:2: unsafe"),
        ] {
            let wrong = wrong(name, text);
            assert!(wrong.len() == 1 && wrong[0].contains(expected), "{wrong:?}");
        }
    }

    #[test]
    fn long_files_are_worth_a_look_only() {
        let mut findings = Findings::default();
        judge("a.rs", &format!("//! x\n{}", "\n".repeat(LONG)), &mut findings);
        assert_eq!((findings.wrong.len(), findings.look.len()), (0, 1));
    }
}

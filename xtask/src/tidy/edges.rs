//! Which crate may depend on which, from cargo's metadata. The table is the design's: an edge that is not in it is wrong
//! until the design says otherwise, and a crate without a row is wrong too.

use super::Findings;
use crate::shell;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeSet;

/// One crate of the workspace.
struct Row {
    name: &'static str,
    /// Workspace crates that it may depend on, in its product.
    may: &'static [&'static str],
    /// Workspace crates that its tests may use beside those.
    tests_may: &'static [&'static str],
    /// Foreign crates that it must not depend on.
    never: &'static [&'static str],
}

/// Runtimes, the kernel and clocks: what the pure core knows nothing of.
const IMPURE: &[&str] = &[
    "async-std",
    "aya",
    "aya-obj",
    "chrono",
    "getrandom",
    "jiff",
    "libc",
    "mio",
    "nix",
    "nvml-wrapper",
    "procfs",
    "rand",
    "rustix",
    "smol",
    "time",
    "tokio",
    "tokio-stream",
    "tonic",
    "tracing",
];

const TABLE: &[Row] = &[
    Row { name: "failsafe-core", may: &[], tests_may: &[], never: IMPURE },
    Row { name: "failsafe-attest", may: &["failsafe-core", "failsafe-tpm"], tests_may: &[], never: IMPURE },
    Row { name: "failsafe-files", may: &["failsafe-core"], tests_may: &[], never: IMPURE },
    Row { name: "failsafe-tlog", may: &[], tests_may: &[], never: IMPURE },
    Row { name: "failsafe-tpm", may: &[], tests_may: &[], never: IMPURE },
    Row {
        name: "failsafe-journal",
        may: &["failsafe-core", "failsafe-tlog"],
        tests_may: &[],
        never: &["aya", "tokio", "tonic"],
    },
    Row { name: "failsafe-proto", may: &[], tests_may: &[], never: &["aya", "nix"] },
    Row { name: "failsafe-ebpf", may: &[], tests_may: &[], never: &["tokio", "tonic"] },
    Row {
        name: "failsafe-matchers",
        may: &["failsafe-core", "failsafe-ebpf"],
        tests_may: &[],
        never: &["aya", "libc", "nix", "tokio"],
    },
    Row { name: "failsafe-trial", may: &["failsafe-core", "failsafe-matchers"], tests_may: &[], never: IMPURE },
    Row {
        name: "failsafed",
        may: &[
            "failsafe-attest",
            "failsafe-core",
            "failsafe-ebpf",
            "failsafe-files",
            "failsafe-journal",
            "failsafe-matchers",
            "failsafe-proto",
            "failsafe-tlog",
            "failsafe-tpm",
        ],
        tests_may: &["nvml-sim", "parity", "workloads"],
        never: &[],
    },
    Row {
        name: "failsafectl",
        may: &[
            "failsafe-attest",
            "failsafe-core",
            "failsafe-files",
            "failsafe-intake",
            "failsafe-journal",
            "failsafe-matchers",
            "failsafe-proto",
            "failsafe-tlog",
            "failsafe-trial",
        ],
        tests_may: &[],
        never: &["aya", "nvml-wrapper"],
    },
    // It speaks to strangers: what it links is what they can reach.
    Row {
        name: "failsafe-gateway",
        may: &["failsafe-core", "failsafe-files", "failsafe-intake", "failsafe-proto"],
        tests_may: &[],
        never: &["aya", "nvml-wrapper"],
    },
    Row { name: "failsafe-intake", may: &["failsafe-core"], tests_may: &[], never: IMPURE },
    Row { name: "nvml-sim", may: &[], tests_may: &[], never: &["tokio"] },
    Row { name: "parity", may: &[], tests_may: &[], never: &["tokio"] },
    // It includes a file of the daemon by path, with other threads and atomics.
    Row { name: "models", may: &[], tests_may: &[], never: &["aya", "tokio"] },
    // One of them is a crowd of clients of the control socket.
    Row { name: "workloads", may: &["failsafe-proto"], tests_may: &[], never: &["aya"] },
    // End to end: it may look into the formats and start everything, but links neither the daemon nor the tool.
    Row {
        name: "integration",
        may: &["failsafe-core", "failsafe-ebpf", "failsafe-journal", "failsafe-proto", "nvml-sim", "workloads"],
        tests_may: &["failsafe-tlog"],
        never: &[],
    },
    // What runs inside knows nothing of failsafe; its tests start nodes.
    Row { name: "bypass", may: &[], tests_may: &["integration"], never: &["tokio"] },
    Row { name: "hostile", may: &["integration"], tests_may: &[], never: &["tokio"] },
    Row { name: "ordinary", may: &[], tests_may: &["integration"], never: &["tokio"] },
    Row { name: "xtask", may: &["failsafe-core"], tests_may: &[], never: &["aya", "tonic"] },
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// Holds the workspace against the table.
///
/// # Errors
/// cargo cannot tell.
pub fn check(findings: &mut Findings) -> Result<()> {
    let text = shell::read(shell::cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo's metadata")?;
    findings.wrong.extend(judge(&metadata, TABLE));
    Ok(())
}

fn judge(metadata: &Metadata, table: &[Row]) -> Vec<String> {
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some(row) = table.iter().find(|row| row.name == package.name) else {
            wrong.push(format!("crate {} has no row in xtask/src/tidy/edges.rs", package.name));
            continue;
        };
        for Dependency { name, kind } in &package.dependencies {
            let in_tests = kind.as_deref() == Some("dev");
            let name = name.as_str();
            let allowed = row.may.contains(&name) || (in_tests && row.tests_may.contains(&name));
            if ours.contains(name) && !allowed {
                wrong.push(format!("{} depends on {name}: the design has no such edge", row.name));
            }
            if !in_tests && row.never.contains(&name) {
                wrong.push(format!("{} depends on {name}: the design keeps it free of that", row.name));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packages written as `name: dependency dependency/dev`.
    fn judged(packages: &[&str]) -> Vec<String> {
        let dependency = |text: &str| match text.split_once('/') {
            Some((name, kind)) => Dependency { name: name.to_owned(), kind: Some(kind.to_owned()) },
            None => Dependency { name: text.to_owned(), kind: None },
        };
        let package = |text: &&str| {
            let (name, list) = text.split_once(':').unwrap();
            Package { name: name.to_owned(), dependencies: list.split_whitespace().map(dependency).collect() }
        };
        judge(&Metadata { packages: packages.iter().map(package).collect() }, TABLE)
    }

    #[test]
    fn edges_of_the_design_pass_and_others_do_not() {
        let good = ["failsafe-core: serde tempfile/dev", "failsafed: failsafe-core nvml-sim/dev", "nvml-sim:"];
        assert_eq!(judged(&good), Vec::<String>::new());
        for (package, expected) in [
            ("failsafe-core: tokio", "failsafe-core depends on tokio"),
            ("failsafectl: failsafed/dev", "failsafectl depends on failsafed"),
            ("failsafed: nvml-sim", "failsafed depends on nvml-sim"),
            ("newcomer:", "crate newcomer has no row"),
        ] {
            let wrong = judged(&[package, "failsafed:", "nvml-sim:"]);
            assert!(wrong.len() == 1 && wrong[0].contains(expected), "{wrong:?}");
        }
    }
}

//! What a machine is given: the test binaries, the programs they start, the workspace's sources, and nextest, on one disk. All
//! keep their paths, since tests were compiled with them. Binaries are stripped copies: most of a debug build is debug
//! information, which nobody reads there.

use super::image;
use crate::shell;
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GUEST: &str = include_str!("guest.sh");

/// The disk.
pub struct Payload {
    /// Its image.
    pub disk: PathBuf,
}

impl Payload {
    /// Builds the tests that `nextest list ARGUMENTS` names and makes the disk.
    ///
    /// # Errors
    /// The build or a tool failed, or no test is named.
    pub fn make(cache: &Path, arguments: &[String]) -> Result<Payload> {
        let folder = cache.join("payload");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
        }
        let (tree, vm) = (folder.join("tree"), folder.join("vm"));
        fs::create_dir_all(&tree).and_then(|()| fs::create_dir_all(&vm)).context("making the payload's folder")?;

        shell::run(shell::cargo().args(["build", "--workspace", "--locked", "--example", PROBE]))?;
        let listed = listed(arguments)?;
        let mut programs = programs(&listed)?;
        let probe = shell::built(false).join("examples").join(PROBE);
        programs.insert(probe.clone());
        for program in &programs {
            strip(program, &tree)?;
        }
        sources(&tree)?;

        let target =
            listed["rust-build-meta"]["target-directory"].as_str().context("nextest names no target folder")?;
        let workspace = shell::root().display().to_string();
        let write = |name: &str, text: &str| fs::write(vm.join(name), text).with_context(|| format!("writing {name}"));
        write("guest.sh", GUEST)?;
        if arguments == super::usual() {
            write("halved", "")?;
        }
        write("workspace", &workspace)?;
        write("binds", &format!("{workspace}\n{target}\n"))?;
        write("probe", &probe.display().to_string())?;
        let chosen = within(arguments);
        write("arguments", &chosen.iter().map(|argument| format!("{argument}\n")).collect::<String>())?;
        write("binaries.json", &binaries(&listed)?.to_string())?;
        let metadata = ["metadata", "--format-version", "1", "--no-deps", "--locked"];
        write("cargo.json", &shell::read(shell::cargo().args(metadata))?)?;
        strip_to(&nextest()?, &vm.join("cargo-nextest"))?;

        let disk = cache.join("payload.ext4");
        let _ = fs::remove_file(&disk);
        image::disk(&folder, &disk, 512)?;
        fs::remove_dir_all(&folder).context("removing what is on the disk now")?;
        Ok(Payload { disk })
    }
}

const PROBE: &str = "kernel_probe";

/// What of the arguments says what is built: of packages and their binaries the machine has those that were chosen, and nextest takes
/// no such word there.
const BUILD: [&str; 6] = ["-p", "--package", "--test", "--lib", "--bins", "--tests"];

/// The arguments without what says what is built.
fn within(arguments: &[String]) -> Vec<&String> {
    let mut out = Vec::new();
    let mut all = arguments.iter();
    while let Some(argument) = all.next() {
        let name = argument.split('=').next().unwrap_or_default();
        if !BUILD.contains(&name) {
            out.push(argument);
        } else if argument == name && matches!(name, "-p" | "--package" | "--test") {
            // Its value.
            all.next();
        }
    }
    out
}

/// nextest's list of suites and tests.
fn listed(arguments: &[String]) -> Result<Value> {
    let mut command = shell::cargo();
    command.args(["nextest", "list", "--locked", "--message-format", "json"]).args(arguments);
    if within(arguments).len() == arguments.len() {
        command.arg("--workspace");
    }
    eprintln!("$ {}", shell::shown(&command));
    serde_json::from_str(&shell::read(&mut command)?).context("nextest's list")
}

/// The suites that hold a chosen test.
fn chosen(listed: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let matches = |test: &Value| test["filter-match"]["status"] == "matches";
    let suites = listed["rust-suites"].as_object().into_iter().flatten();
    suites.filter(move |(_, suite)| suite["testcases"].as_object().is_some_and(|tests| tests.values().any(matches)))
}

/// nextest's description of the binaries that go along.
fn binaries(listed: &Value) -> Result<Value> {
    let binaries: Map<String, Value> = chosen(listed)
        .map(|(id, suite)| {
            let mut suite = suite.clone();
            if let Some(suite) = suite.as_object_mut() {
                suite.remove("testcases");
            }
            (id.clone(), suite)
        })
        .collect();
    if binaries.is_empty() {
        bail!("no test is chosen");
    }
    Ok(json!({ "rust-build-meta": listed["rust-build-meta"], "rust-binaries": binaries }))
}

/// The chosen suites' binaries and every program and library of the workspace that a test may start or load.
fn programs(listed: &Value) -> Result<BTreeSet<PathBuf>> {
    let target = Path::new(listed["rust-build-meta"]["target-directory"].as_str().context("no target folder")?);
    let mut all: BTreeSet<PathBuf> =
        chosen(listed).filter_map(|(_, suite)| suite["binary-path"].as_str()).map(PathBuf::from).collect();
    let others = listed["rust-build-meta"]["non-test-binaries"].as_object().into_iter().flatten();
    for program in others.flat_map(|(_, programs)| programs.as_array().into_iter().flatten()) {
        let Some(path) = program["path"].as_str().filter(|path| !path.ends_with(".rlib")) else { continue };
        if program["name"] != "xtask" {
            // A library lies in `deps`; who loads it takes it from the folder above.
            all.insert(target.join(path.replace("/deps/", "/")));
        }
    }
    Ok(all)
}

/// The workspace's files as git knows them, those not yet added too.
fn sources(tree: &Path) -> Result<()> {
    let to = below(tree, &shell::root());
    fs::create_dir_all(&to).context("making the workspace's folder")?;
    let script =
        "git ls-files -z -co --exclude-standard | tar --null -T - --ignore-failed-read -cf - | tar -xf - -C \"$1\"";
    shell::run(Command::new("sh").args(["-c", script, "sh"]).arg(&to).current_dir(shell::root()))
}

fn strip(program: &Path, tree: &Path) -> Result<()> {
    strip_to(program, &below(tree, program))
}

fn strip_to(program: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().with_context(|| format!("{} lies in no folder", to.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    shell::read(Command::new("strip").arg("-o").arg(to).arg(program)).map(|_| ())
}

fn nextest() -> Result<PathBuf> {
    let name = "cargo-nextest";
    let home = std::env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin").join(name));
    shell::which(name).or(home).filter(|file| file.is_file()).context("cargo-nextest is missing")
}

/// An absolute path, as seen from another root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_gets_the_tests_and_not_what_was_built() {
        let told = |line: &str| {
            let all: Vec<String> = line.split(' ').map(str::to_owned).collect();
            within(&all).into_iter().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told("-p failsafed --test cgroup freeze"), "freeze");
        assert_eq!(told("--package=failsafed --lib -E test(/x/)"), "-E test(/x/)");
        assert_eq!(told("egress --no-capture"), "egress --no-capture");
    }
}

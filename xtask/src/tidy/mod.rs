//! `cargo xtask tidy`: the rules that no compiler holds. Every finding is printed before the command fails; findings that
//! are only worth a look (long files) are printed and do not fail it.

mod edges;
mod layers;
mod phrases;
mod policies;
mod prose;
mod proto;
mod sources;

use crate::shell;
use anyhow::{Result, bail};
use std::process::Command;

/// What the checks found.
#[derive(Default)]
struct Findings {
    /// Each breaks a rule.
    wrong: Vec<String>,
    /// Each is worth a look.
    look: Vec<String>,
}

/// Runs every check.
///
/// # Errors
/// A rule is broken, or a check could not run.
pub fn run() -> Result<()> {
    let mut findings = Findings::default();
    edges::check(&mut findings)?;
    layers::check(&mut findings)?;
    sources::check(&mut findings)?;
    policies::check(&mut findings)?;
    prose::check(&mut findings)?;
    phrases::check(&mut findings)?;
    proto::check(&mut findings)?;
    findings.look.iter().for_each(|line| println!("tidy: worth a look: {line}"));
    findings.wrong.iter().for_each(|line| println!("tidy: {line}"));
    if !findings.wrong.is_empty() {
        bail!("tidy found {} broken rule(s)", findings.wrong.len());
    }
    println!("tidy: crate edges, layers, sources, policies, documents and the interface are in order");
    Ok(())
}

/// The files that git knows or would take, by their names from the root; `pattern` limits them. A deleted file is listed until its
/// deletion is committed, so those that are not there are left out.
fn files(pattern: &[&str]) -> Result<Vec<String>> {
    let root = shell::root();
    let mut git = Command::new("git");
    git.current_dir(&root).args(["ls-files", "--cached", "--others", "--exclude-standard"]).args(pattern);
    Ok(shell::read(&mut git)?.lines().filter(|name| root.join(name).is_file()).map(str::to_owned).collect())
}

//! `cargo xtask dist`: what is shipped, in `target/dist`: a Debian package, its debug symbols, an archive with the same files
//! for other systems, the Python client, and `SHA256SUMS`.
//!
//! ```text
//!  programs (cargo zigbuild) ─► glibc (needed versions) ─┐
//!  generated (manual, completions, wheel) ───────────────┼─► package (cargo deb) ─► archive ─► SHA256SUMS ─► trial (--try)
//!  daemon/Cargo.toml [package.metadata.deb] ─────────────┘
//! ```
//! The list of files in `daemon/Cargo.toml` is the only one: the archive is made of the package.

mod archive;
mod generated;
mod glibc;
#[cfg(test)]
mod manifest;
mod package;
mod programs;
mod trial;

use crate::{setup, shell};
use anyhow::{Context, Result};
use programs::Programs;
use std::{fs, path::PathBuf};

/// Installed scripts that others execute by their path.
const SCRIPTS: [&str; 4] = [
    "/usr/share/failsafe/kubernetes/failsafe-plugin.sh",
    "/usr/share/failsafe/slurm/prolog",
    "/usr/share/failsafe/slurm/epilog",
    "/usr/share/failsafe/slurm/health-check",
];

/// Whether an installed file is a program.
fn is_executable(path: &str) -> bool {
    path.starts_with("/usr/bin/") || path.starts_with("/usr/lib/failsafe/bin/") || SCRIPTS.contains(&path)
}

/// How to build.
#[derive(clap::Args)]
pub struct Args {
    /// Package the debug build, for tests: quicker, larger, without debug symbols of its own, and for this machine's glibc
    #[arg(long)]
    debug: bool,
    /// Revision of the package, the part of its version after the `-`
    #[arg(long, default_value = "1")]
    revision: String,
    /// Install the package into a Debian 12 root, run its programs there, remove and purge it; needs root
    #[arg(long = "try")]
    trial: bool,
}

/// `cargo xtask dist`.
///
/// # Errors
/// A build or a tool failed, a program needs a newer glibc, or the package is not what it must be.
pub fn command(args: &Args) -> Result<()> {
    setup::run()?;
    let built = build(args.debug, &args.revision)?;
    if args.trial {
        trial::run(&built.package)?;
    }
    println!("\nin {}:", folder().display());
    for name in &built.names {
        println!("  {name}");
    }
    Ok(())
}

/// What was built.
pub struct Built {
    /// The Debian package.
    pub package: PathBuf,
    /// All files in [`folder`].
    names: Vec<String>,
}

/// Builds everything into [`folder`], which is emptied before.
///
/// # Errors
/// As [`command`].
pub fn build(debug: bool, revision: &str) -> Result<Built> {
    let programs = Programs::build(debug)?;
    let needed = glibc::check(&programs)?;
    println!("the programs need glibc {needed}");
    let wheel = generated::make(&programs)?;
    let folder = folder();
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("emptying {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let package = package::make(&programs, revision, &folder)?;
    archive::make(&package, &folder)?;
    let copy = folder.join(wheel.file_name().context("the wheel has no name")?);
    fs::copy(&wheel, &copy).with_context(|| format!("copying the wheel to {}", copy.display()))?;
    let names = archive::sums(&folder)?;
    Ok(Built { package, names })
}

/// Where the results lie.
fn folder() -> PathBuf {
    shell::built(false).with_file_name("dist")
}

//! The programs of this build: they lie beside the tests' own folder. They are built when they are missing, never when they
//! are only old: `cargo xtask test` builds all before it tests.

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

const PACKAGES: [&str; 6] = ["failsafed", "failsafectl", "failsafe-gateway", "workloads", "nvml-sim", "integration"];

/// The path of a program (or library) of this build.
///
/// # Errors
/// It is not there and could not be built.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = folder()?;
    let path = folder.join(name);
    // Only this one: the machines of `cargo xtask vm` have some of the programs, and no cargo.
    if !path.is_file() {
        build(&folder, &path)?;
    }
    if !path.is_file() {
        bail!("{} is missing after a build", path.display());
    }
    Ok(path)
}

/// `target/debug`, from `target/debug/deps/TEST`; of a program in `target/release`, that folder.
fn folder() -> Result<PathBuf> {
    let this = std::env::current_exe().context("finding this program's file")?;
    let folder = this.parent().context("this program lies in no folder")?;
    let outer = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    Ok(outer.context("this test does not lie in target/debug/deps")?.to_owned())
}

/// One test builds, the others wait for it.
fn build(folder: &Path, wanted: &Path) -> Result<()> {
    let lock = File::create(folder.join("integration-build.lock")).context("making the build's lock")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).context("locking the build")?;
    if wanted.is_file() {
        return Ok(());
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg("build").current_dir(env!("CARGO_MANIFEST_DIR"));
    for package in PACKAGES {
        cargo.args(["-p", package]);
    }
    let status = cargo.status().context("starting cargo")?;
    if status.success() { Ok(()) } else { bail!("the programs could not be built: {status}") }
}

//! The Debian package, made by cargo-deb from `[package.metadata.deb]` in `daemon/Cargo.toml`. cargo-deb takes what is built
//! from `release` in the target folder, which here is a stage: so it packages either build.

use super::programs::Programs;
use crate::{setup, shell};
use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Makes the package, and with a release the one with debug symbols.
///
/// # Errors
/// cargo-deb cannot be had or fails.
pub fn make(programs: &Programs, revision: &str, folder: &Path) -> Result<PathBuf> {
    setup::cargo_tool("cargo-deb", "makes the Debian package")?;
    let mut command = shell::cargo();
    command.args(["deb", "--no-build", "--locked", "-p", "failsafed", "--deb-revision", revision, "--output"]);
    command.arg(folder).env("CARGO_TARGET_DIR", &programs.stage);
    if programs.debug {
        command.args(["--no-dbgsym", "--strip", "--fast"]);
    } else {
        command.args(["--dbgsym", "--compress-debug-symbols=zlib"]);
    }
    shell::run(&mut command)?;
    let made = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut packages = made.iter().map(fs::DirEntry::path).filter(|path| is_package(path));
    let package = packages.next().context("cargo-deb made no package")?;
    ensure!(packages.next().is_none(), "cargo-deb made more than one package");
    Ok(package)
}

/// Whether it is the package, and not its debug symbols.
fn is_package(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("failsafe_") && name.ends_with(".deb")
}

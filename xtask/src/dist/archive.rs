//! The archive for systems without dpkg: the files of the package below one folder; and the checksums of everything.

use crate::shell;
use anyhow::{Context, Result};
use std::{fs, path::Path, process::Command};

/// Packs the package's files.
///
/// # Errors
/// A tool fails.
pub fn make(package: &Path, folder: &Path) -> Result<()> {
    let name = format!("failsafe-{}-{}-linux-gnu", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    let work = tempfile::tempdir().context("making a folder for the archive")?;
    let top = work.path().join(&name);
    shell::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&top))?;
    let archive = folder.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "-czf"]).arg(&archive);
    shell::run(tar.arg("-C").arg(work.path()).arg(&name))
}

/// Writes `SHA256SUMS` of all files in the folder; their names, and its own.
///
/// # Errors
/// A file cannot be read or written.
pub fn sums(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let name = |entry: std::io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
    let mut names = entries.map(name).collect::<Result<Vec<_>>>()?;
    names.sort();
    let sums = shell::read(Command::new("sha256sum").arg("--").args(&names).current_dir(folder))?;
    let file = folder.join("SHA256SUMS");
    fs::write(&file, sums).with_context(|| format!("writing {}", file.display()))?;
    names.push("SHA256SUMS".to_owned());
    Ok(names)
}

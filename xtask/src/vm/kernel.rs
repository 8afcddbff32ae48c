//! Debian's kernels: the newest package of a series, fetched by apt and unpacked, never installed.

use crate::shell;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A series of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kernel {
    /// Debian 12's own.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backport.
    #[value(name = "6.12")]
    V6_12,
    /// The same on arm64, which no test program is built for: it is asked what it takes of the eBPF object, no more.
    #[value(name = "6.12-arm64")]
    V6_12Arm64,
}

/// A kernel's package, unpacked.
pub struct Unpacked {
    /// As `uname -r` will say.
    pub release: String,
    /// Its files, as from `/`.
    pub folder: PathBuf,
}

impl Kernel {
    /// Every series that is tested.
    pub const ALL: [Kernel; 3] = [Kernel::V6_1, Kernel::V6_12, Kernel::V6_12Arm64];

    /// The series.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 => "6.12",
            Kernel::V6_12Arm64 => "6.12-arm64",
        }
    }

    /// Whether the tests run on it.
    pub fn runs_tests(self) -> bool {
        self != Kernel::V6_12Arm64
    }

    /// The newest amd64 kernel of the series, fetched where it is not yet there.
    ///
    /// # Errors
    /// apt knows none, or cannot fetch it.
    pub fn unpacked(self, cache: &Path) -> Result<Unpacked> {
        let release = self.release()?;
        let package = format!("linux-image-{release}");
        let folder = cache.join("kernels").join(&release);
        if !folder.is_dir() {
            fetch(&package, &folder)?;
        }
        Ok(Unpacked { release, folder })
    }

    /// The newest amd64 kernel of the series, as `uname -r` will say.
    ///
    /// # Errors
    /// apt knows none.
    pub fn release(self) -> Result<String> {
        if let Some(release) = self.newest()? {
            return Ok(release);
        }
        shell::run(Command::new("apt-get").arg("update"))?;
        self.newest()?.with_context(|| format!("apt offers no cloud kernel {} for amd64", self.series()))
    }

    fn series(self) -> &'static str {
        match self {
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 | Kernel::V6_12Arm64 => "6.12",
        }
    }

    fn newest(self) -> Result<Option<String>> {
        let prefix = format!("linux-image-{}.", self.series());
        let names = shell::read(Command::new("apt-cache").args(["pkgnames", &prefix]))?;
        let kernels = names.lines().filter(|name| name.ends_with("-cloud-amd64"));
        let newest = kernels.max_by_key(|name| numbers(name));
        Ok(newest.map(|package| package.trim_start_matches("linux-image-").to_owned()))
    }
}

impl Unpacked {
    /// The kernel itself.
    ///
    /// # Errors
    /// The package has none.
    pub fn boot(&self) -> Result<PathBuf> {
        let file = self.folder.join("boot").join(format!("vmlinuz-{}", self.release));
        if file.is_file() { Ok(file) } else { bail!("{} is missing", file.display()) }
    }
}

/// The numbers in a name, by which versions are ordered.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

fn fetch(package: &str, folder: &Path) -> Result<()> {
    let parent = folder.parent().context("a folder for kernels")?;
    fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    let work = tempfile::tempdir_in(parent).context("making a folder for the download")?;
    let download = || shell::run(Command::new("apt-get").args(["download", "-q", package]).current_dir(work.path()));
    // A list that is not fresh names packages that the mirror no longer has.
    if download().is_err() {
        shell::run(Command::new("apt-get").arg("update"))?;
        download()?;
    }
    let files = fs::read_dir(work.path()).context("reading what was downloaded")?;
    let deb =
        files.filter_map(|file| Some(file.ok()?.path())).find(|file| file.extension().is_some_and(|e| e == "deb"));
    let unpacked = work.path().join("unpacked");
    shell::run(
        Command::new("dpkg-deb").arg("-x").arg(deb.context("apt-get download left no package")?).arg(&unpacked),
    )?;
    fs::rename(&unpacked, folder).with_context(|| format!("moving the kernel to {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let mut names =
            ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64", "linux-image-6.1.0-55-cloud-amd64"];
        names.sort_by_key(|name| numbers(name));
        assert_eq!(names.last(), Some(&"linux-image-6.1.0-56-cloud-amd64"));
        assert!(numbers("linux-image-6.12.117+deb12-cloud-amd64") > numbers("linux-image-6.12.95+deb13-cloud-amd64"));
    }
}

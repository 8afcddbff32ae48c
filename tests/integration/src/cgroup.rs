//! cgroup v2 as the tests see it: with their own eyes, not through the daemon's code.

use crate::wait::soon;
use anyhow::{Context, Result};
use procfs::process::Process;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where cgroup v2 is mounted; on hybrid hosts not at `/sys/fs/cgroup`.
///
/// # Errors
/// It is not mounted.
pub fn cgroup2() -> Result<PathBuf> {
    let mounts = procfs::mounts().context("reading the mounts")?;
    let found = mounts.into_iter().find(|mount| mount.fs_vfstype == "cgroup2");
    Ok(found.context("cgroup2 is not mounted")?.fs_file.into())
}

/// The v2 cgroup of a process, as `/proc/PID/cgroup` has it.
///
/// # Errors
/// There is no such process.
pub fn cgroup_of(pid: u32) -> Result<String> {
    let cgroups = Process::new(i32::try_from(pid)?)?.cgroups()?;
    let v2 = cgroups.into_iter().find(|cgroup| cgroup.hierarchy == 0);
    Ok(v2.context("no v2 cgroup")?.pathname)
}

/// Whether the kernel says that all of the cgroup is frozen.
///
/// # Errors
/// `cgroup.events` cannot be read.
pub fn frozen(cgroup: &Path) -> Result<bool> {
    event(cgroup, "frozen 1")
}

/// Whether anybody lives in it or below.
///
/// # Errors
/// As [`frozen`].
pub fn populated(cgroup: &Path) -> Result<bool> {
    event(cgroup, "populated 1")
}

fn event(cgroup: &Path, line: &str) -> Result<bool> {
    let path = cgroup.join("cgroup.events");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.lines().any(|l| l == line))
}

/// The processes of the cgroup itself.
///
/// # Errors
/// `cgroup.procs` cannot be read.
pub fn members(cgroup: &Path) -> Result<Vec<u32>> {
    let path = cgroup.join("cgroup.procs");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.lines().map(|pid| pid.parse().with_context(|| format!("{}: {pid}", path.display()))).collect()
}

/// Kills what lives in the cgroup, thawed or not, and removes it with all below it.
pub fn remove_tree(cgroup: &Path) {
    let gone = soon(|| {
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        remove(cgroup).is_ok()
    });
    if !gone {
        eprintln!("left behind: {}", cgroup.display());
    }
}

fn remove(cgroup: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A cgroup of the test's own, outside those of the node.
#[derive(Debug)]
pub struct TestCgroup(PathBuf);

impl TestCgroup {
    /// Makes it; `name` is made unique.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(name: &str) -> Result<TestCgroup> {
        let path = cgroup2()?.join(format!("failsafe-it-{}-{name}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(TestCgroup(path))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        remove_tree(&self.0);
    }
}

//! A disk that stops answering: an ext4 image on a loop device, frozen by `fsfreeze`. Every write and fsync on it then waits
//! in the kernel until it is thawed, as on a storage that hangs.

use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// The mounted file system. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Disk {
    /// Holds the image and the mount point; removed last.
    folder: TempDir,
}

/// While it lives, nothing is written to the disk.
#[derive(Debug)]
pub struct Hang<'a>(&'a Path);

impl Disk {
    /// Makes and mounts one of `mib` MiB.
    ///
    /// # Errors
    /// This machine has no loop devices, or not the programs for it.
    pub fn new(mib: u32) -> Result<Disk> {
        let folder = tempfile::Builder::new().prefix("failsafe-hostile-disk-").tempdir().context("making a folder")?;
        let disk = Disk { folder };
        let image = disk.folder.path().join("image");
        let file = std::fs::File::create(&image).context("making the image")?;
        file.set_len(u64::from(mib) << 20).context("sizing the image")?;
        std::fs::create_dir(disk.path()).context("making the mount point")?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Lets it hang until the answer is dropped.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn hang<'a>(&self, at: &'a Path) -> Result<Hang<'a>> {
        run(Command::new("fsfreeze").arg("-f").arg(at))?;
        Ok(Hang(at))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg("-l").arg(self.path())) {
            eprintln!("left mounted: {error:#}");
        }
    }
}

impl Drop for Hang<'_> {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("fsfreeze").arg("-u").arg(self.0)) {
            eprintln!("left frozen: {error:#}");
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("starting {command:?}"))?;
    if !done.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

//! Mounts of a test's own: a small file system to be filled up, and a file that cannot be written.

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};

/// A mounted tmpfs; unmounted on drop.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one of `kib` KiB at `at`, which is made.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mount(at: &Path, kib: u32) -> Result<Tmpfs> {
        std::fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
        let options = format!("size={kib}k,mode=755");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("mounting a tmpfs at {}", at.display()))?;
        Ok(Tmpfs(at.to_owned()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: whoever still holds a file of it keeps that file and nothing else.
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("left mounted: {}: {error}", self.0.display());
        }
    }
}

/// A file that reads as `text` and cannot be written, in the place of another; unmounted on drop.
#[derive(Debug)]
pub struct Unwritable(PathBuf);

impl Unwritable {
    /// Puts it in the place of `at`. `source`, which is made, has its content.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn mount(at: &Path, source: &Path, text: &str) -> Result<Unwritable> {
        std::fs::write(source, text).with_context(|| format!("writing {}", source.display()))?;
        let context = || format!("mounting {} at {}", source.display(), at.display());
        mount(Some(source), at, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(context)?;
        let mounted = Unwritable(at.to_owned());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, at, None::<&str>, flags, None::<&str>).with_context(context)?;
        Ok(mounted)
    }
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("left mounted: {}: {error}", self.0.display());
        }
    }
}

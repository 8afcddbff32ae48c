//! The levels of a cgroup: gathering over them, making and removing them.
//!
//! Owns nothing beyond the descriptors of the levels it returns. A level that vanishes during a walk is left out.

use std::ffi::OsStr;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{OpenHow, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::error::{CgroupError, Result, io};
use super::handle::{Cgroup, beneath, dir_flags};

/// Numbers of processes or threads, and whether they are all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// Each once.
    pub ids: Vec<u32>,
    /// False when the time was over before every level was read.
    pub complete: bool,
}

impl Cgroup {
    /// Numbers of the processes here and below, each once.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed; descendants that vanish are skipped.
    pub fn all_procs(&self) -> Result<Vec<u32>> {
        Ok(self.gather(None, Cgroup::procs)?.ids)
    }

    /// The same, as far as they can be read until `limit`.
    ///
    /// # Errors
    /// As [`Cgroup::all_procs`].
    pub fn procs_until(&self, limit: Instant) -> Result<Members> {
        self.gather(Some(limit), Cgroup::procs)
    }

    /// Numbers of the threads here and below, each once.
    ///
    /// # Errors
    /// As [`Cgroup::all_procs`].
    pub fn all_threads(&self) -> Result<Vec<u32>> {
        Ok(self.gather(None, Cgroup::threads)?.ids)
    }

    fn gather(&self, limit: Option<Instant>, of: impl Fn(&Cgroup) -> Result<Vec<u32>>) -> Result<Members> {
        let mut ids = of(self)?;
        let walk = self.walk(limit, |level| {
            ids.extend(of(level)?);
            Ok(())
        })?;
        ids.sort_unstable();
        ids.dedup();
        Ok(Members { ids, complete: walk.complete })
    }

    /// Every cgroup below, parents before children, each with a descriptor: for tests, where they are few.
    ///
    /// # Errors
    /// Vanished when this cgroup was removed; descendants that vanish are skipped.
    pub fn descendants(&self) -> Result<Vec<Cgroup>> {
        let mut found = Vec::new();
        let _walk = self.walk(None, |level| {
            found.push(level.try_clone()?);
            Ok(())
        })?;
        Ok(found)
    }

    /// Opens a cgroup directly below by name.
    ///
    /// # Errors
    /// Vanished when there is none.
    pub fn child(&self, name: &OsStr) -> Result<Cgroup> {
        let path = self.path.join(name);
        let how = OpenHow::new().flags(dir_flags()).resolve(beneath());
        let fd = openat2(&self.fd, name, how).map_err(|source| io("opening", &path, source))?;
        Cgroup::from_fd(self.root.clone(), self.relative.join(name), path, fd)
    }

    /// Creates a cgroup directly below.
    ///
    /// # Errors
    /// `EEXIST` when it exists, vanished when this cgroup was removed.
    pub fn create_child(&self, name: &str) -> Result<Cgroup> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(CgroupError::ParentDir { path: self.path.join(name) });
        }
        mkdirat(&self.fd, name, Mode::from_bits_truncate(0o755))
            .map_err(|source| io("creating", &self.path.join(name), source))?;
        self.child(OsStr::new(name))
    }

    /// Removes this cgroup and everything below, leaves first. Live processes keep it in place.
    ///
    /// # Errors
    /// `EBUSY` while a process lives in it. An already removed one is no error.
    pub fn remove_tree(&self) -> Result<()> {
        let below = match self.paths_below() {
            Ok(below) => below,
            Err(e) if e.is_vanished() => return Ok(()),
            Err(e) => return Err(e),
        };
        for relative in below.iter().rev() {
            match unlinkat(&self.fd, relative, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(source) => return Err(io("removing", &self.path.join(relative), source)),
            }
        }
        self.remove()
    }

    fn remove(&self) -> Result<()> {
        // A path is all rmdir takes; a new cgroup at the same path is not ours to remove.
        if !self.is_same(self.id) {
            return Ok(());
        }
        match unlinkat(self.root.fd(), &self.relative, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(source) => Err(io("removing", &self.path, source)),
        }
    }
}

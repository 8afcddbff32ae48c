//! The levels of a cgroup: walking, gathering over them, making and removing them.
//!
//! Owns nothing beyond the descriptors of the levels it returns. A level that vanishes during a walk is left out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OpenHow, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::error::{CgroupError, Result, io};
use super::handle::{Cgroup, beneath, dir_flags};

impl Cgroup {
    /// Numbers of the processes here and below, each once.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed; descendants that vanish are skipped.
    pub fn all_procs(&self) -> Result<Vec<u32>> {
        self.gather(Cgroup::procs)
    }

    /// Numbers of the threads here and below, each once.
    ///
    /// # Errors
    /// As [`Cgroup::all_procs`].
    pub fn all_threads(&self) -> Result<Vec<u32>> {
        self.gather(Cgroup::threads)
    }

    fn gather(&self, of: impl Fn(&Cgroup) -> Result<Vec<u32>>) -> Result<Vec<u32>> {
        let mut pids = of(self)?;
        for level in self.descendants()? {
            match of(&level) {
                Ok(more) => pids.extend(more),
                Err(e) if e.is_vanished() => {}
                Err(e) => return Err(e),
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// The cgroups directly below.
    ///
    /// # Errors
    /// Vanished when this cgroup was removed; children that vanish are skipped.
    pub fn children(&self) -> Result<Vec<Cgroup>> {
        // kernfs counts sub-folders in the link count: 2 means none, and saves listing the interface files.
        let links = fstat(&self.fd).map_err(|source| io("stat of", &self.path, source))?.st_nlink;
        if links == 2 {
            return Ok(Vec::new());
        }
        let mut dir = nix::dir::Dir::openat(&self.fd, ".", dir_flags(), Mode::empty())
            .map_err(|source| io("listing", &self.path, source))?;
        let mut children = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|source| io("listing", &self.path, source))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let is_dir = entry.file_type() == Some(nix::dir::Type::Directory);
            if !is_dir || name == "." || name == ".." {
                continue;
            }
            match self.child(name) {
                Ok(child) => children.push(child),
                Err(e) if e.is_vanished() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(children)
    }

    /// Every cgroup below, parents before children.
    ///
    /// # Errors
    /// Vanished when this cgroup was removed; descendants that vanish are skipped.
    pub fn descendants(&self) -> Result<Vec<Cgroup>> {
        let mut found = self.children()?;
        let mut next = 0;
        while let Some(level) = found.get(next) {
            match level.children() {
                Ok(more) => found.extend(more),
                Err(e) if e.is_vanished() => {}
                Err(e) => return Err(e),
            }
            next += 1;
        }
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
        match self.descendants() {
            Ok(levels) => {
                for level in levels.iter().rev() {
                    level.remove()?;
                }
            }
            Err(e) if e.is_vanished() => return Ok(()),
            Err(e) => return Err(e),
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

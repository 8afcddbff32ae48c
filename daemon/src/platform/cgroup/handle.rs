//! One cgroup, held by descriptor, and its interface files.
//!
//! Owns the descriptor of the folder, and after [`Cgroup::hold_open`] those of the files that containment uses. Every
//! read and write goes through them, so none can reach another cgroup that was made later at the same path.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag, openat};
use nix::sys::stat::{Mode, fstat, stat};
use nix::unistd::read;

use super::control::{self, Control};
use super::error::{CgroupError, Result, io};
use super::events::{self, Events};
use super::root::CgroupRoot;

/// One cgroup, held by a descriptor of its folder.
#[derive(Debug)]
pub struct Cgroup {
    pub(super) root: CgroupRoot,
    pub(super) relative: PathBuf,
    pub(super) path: PathBuf,
    pub(super) id: u64,
    pub(super) fd: OwnedFd,
    /// Open files, of a run's root.
    control: Option<Control>,
}

impl Cgroup {
    pub(super) fn from_fd(root: CgroupRoot, relative: PathBuf, path: PathBuf, fd: OwnedFd) -> Result<Self> {
        let id = fstat(&fd).map_err(|source| io("stat of", &path, source))?.st_ino;
        Ok(Self { root, relative, path, id, fd, control: None })
    }

    /// Opens `cgroup.freeze`, `cgroup.events` and `cgroup.kill` and keeps them open: from here on freezing and killing
    /// need no descriptor and no path.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed; else when no descriptor is left, or the kernel has no freezer.
    pub fn hold_open(&mut self) -> Result<()> {
        let freeze = self.open_file("cgroup.freeze", OFlag::O_RDWR)?;
        let events = self.open_file("cgroup.events", OFlag::O_RDONLY)?;
        let kill = match self.open_file("cgroup.kill", OFlag::O_WRONLY) {
            Ok(fd) => Some(fd),
            Err(CgroupError::NoSuchFile { .. }) => None,
            Err(error) => return Err(error),
        };
        self.control = Some(Control { freeze, events, kill });
        Ok(())
    }

    fn held(&self, name: &str) -> Option<&OwnedFd> {
        self.control.as_ref()?.file(name)
    }

    /// The folder's absolute path when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cgroup id: the folder's inode number, never reused within a boot.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The user that the folder belongs to: the kernel lets this user freeze and kill what is in it.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn owner(&self) -> Result<u32> {
        Ok(fstat(&self.fd).map_err(|source| io("stat of", &self.path, source))?.st_uid)
    }

    /// The mount it belongs to.
    #[must_use]
    pub fn root(&self) -> &CgroupRoot {
        &self.root
    }

    /// Depth below the root of the hierarchy, which is level 0; what `bpf_get_current_ancestor_cgroup_id` counts,
    /// provided the daemon is in the initial cgroup namespace.
    #[must_use]
    pub fn level(&self) -> usize {
        self.relative.components().count()
    }

    /// The path as `/proc/PID/cgroup` shows it.
    #[must_use]
    pub fn cgroup_path(&self) -> PathBuf {
        Path::new("/").join(&self.relative)
    }

    /// Whether a path of `/proc/PID/cgroup` is this cgroup or below it.
    #[must_use]
    pub fn contains(&self, cgroup_path: &Path) -> bool {
        cgroup_path.strip_prefix("/").is_ok_and(|p| p.starts_with(&self.relative))
    }

    /// Refuses when the calling process is in this cgroup or below it now: asked right before acting, for it may
    /// have been moved in since the cgroup was opened.
    ///
    /// # Errors
    /// [`CgroupError::HoldsDaemon`], or when `/proc/self/cgroup` cannot be read.
    pub fn refuse_if_own(&self) -> Result<()> {
        self.root.check_not_own(&self.path, &self.relative)
    }

    /// The cgroup above this one, nearest to the root, that is told to freeze.
    ///
    /// # Errors
    /// When an ancestor's `cgroup.freeze` cannot be read; vanished when one was removed.
    pub fn frozen_ancestor(&self) -> Result<Option<PathBuf>> {
        let mut above: Vec<&Path> = self.relative.ancestors().skip(1).collect();
        above.reverse();
        // The first is the root itself, which has no such file.
        for relative in above.into_iter().skip(1) {
            let file = relative.join("cgroup.freeze");
            let path = self.root.mount().join(&file);
            let fd = openat(self.root.fd(), &file, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|source| io("opening", &path, source))?;
            let mut byte = [0u8; 1];
            read(&fd, &mut byte).map_err(|source| io("reading", &path, source))?;
            if &byte == b"1" {
                return Ok(Some(self.root.mount().join(relative)));
            }
        }
        Ok(None)
    }

    /// Whether the cgroup at this path is still the one with this id.
    #[must_use]
    pub fn is_same(&self, id: u64) -> bool {
        stat(&self.path).is_ok_and(|s| s.st_ino == id)
    }

    /// `cgroup.events`. Read, never polled: the kernel holds its notification back by up to 10 ms.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed.
    pub fn events(&self) -> Result<Events> {
        let bytes = self.read_file("cgroup.events")?;
        events::parse(&bytes)
            .ok_or_else(|| CgroupError::Parse { path: self.path.join("cgroup.events"), what: "populated and frozen" })
    }

    /// Whether `cgroup.freeze` of this very level is 1 (an ancestor's does not show here).
    ///
    /// # Errors
    /// Vanished when the cgroup was removed.
    pub fn freeze_requested(&self) -> Result<bool> {
        Ok(self.read_file("cgroup.freeze")?.first() == Some(&b'1'))
    }

    /// The bytes of an interface file.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed; [`CgroupError::NoSuchFile`] when the kernel has none.
    pub fn read_file(&self, name: &str) -> Result<Vec<u8>> {
        if let Some(fd) = self.held(name) {
            return control::read(fd).map_err(|source| io("reading", &self.path.join(name), source));
        }
        let fd = self.open_file(name, OFlag::O_RDONLY)?;
        let mut bytes = Vec::new();
        let mut chunk = [0u8; 4096];
        loop {
            match read(&fd, &mut chunk) {
                Ok(0) => return Ok(bytes),
                Ok(n) => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                Err(source) => return Err(io("reading", &self.path.join(name), source)),
            }
        }
    }

    /// Writes an interface file in one call.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed; [`CgroupError::NoSuchFile`] when the kernel has none; else what it said.
    pub fn write_file(&self, name: &str, value: &[u8]) -> Result<()> {
        let written = match self.held(name) {
            Some(fd) => control::write(fd, value),
            None => control::write(&self.open_file(name, OFlag::O_WRONLY)?, value),
        };
        written.map_err(|source| io("writing", &self.path.join(name), source))
    }

    /// Numbers of the processes in this very level. In a threaded cgroup, where the kernel refuses `cgroup.procs`,
    /// those of its threads' processes. A pid of 0 (outside our pid namespace) is left out.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed.
    pub fn procs(&self) -> Result<Vec<u32>> {
        match self.read_file("cgroup.procs") {
            Ok(bytes) => Ok(parse_pids(&bytes)),
            Err(e) if e.errno() == Some(Errno::EOPNOTSUPP) => {
                let mut pids: Vec<u32> = self.threads()?.into_iter().filter_map(|t| self.thread_group(t)).collect();
                pids.sort_unstable();
                pids.dedup();
                Ok(pids)
            }
            Err(e) => Err(e),
        }
    }

    /// Numbers of the threads in this very level.
    ///
    /// # Errors
    /// Vanished when the cgroup was removed.
    pub fn threads(&self) -> Result<Vec<u32>> {
        Ok(parse_pids(&self.read_file("cgroup.threads")?))
    }

    /// Opens the same cgroup once more, with a descriptor of its own.
    ///
    /// # Errors
    /// When no descriptor is to be had.
    pub fn try_clone(&self) -> Result<Cgroup> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|e| io("duplicating descriptor of", &self.path, Errno::from_raw(e.raw_os_error().unwrap_or(0))))?;
        Ok(Cgroup {
            root: self.root.clone(),
            relative: self.relative.clone(),
            path: self.path.clone(),
            id: self.id,
            fd,
            control: None,
        })
    }

    /// Moves a process with all its threads into this very level.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, `EBUSY` when controllers are given on to children, vanished when removed.
    pub fn attach(&self, pid: u32) -> Result<()> {
        self.write_file("cgroup.procs", pid.to_string().as_bytes())
    }

    /// The process a thread belongs to; `None` when it is gone.
    #[must_use]
    pub fn thread_group(&self, tid: u32) -> Option<u32> {
        let status = self.root.proc().read(tid, "status").ok()??;
        String::from_utf8_lossy(&status).lines().find_map(|l| l.strip_prefix("Tgid:")?.trim().parse().ok())
    }

    fn open_file(&self, name: &str, flags: OFlag) -> Result<OwnedFd> {
        let path = || self.path.join(name);
        openat(&self.fd, name, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()).map_err(|source| {
            // Of a removed cgroup every file is missing; of a live one, those the kernel lacks.
            if source == Errno::ENOENT && self.is_same(self.id) {
                CgroupError::NoSuchFile { path: path() }
            } else {
                io("opening", &path(), source)
            }
        })
    }
}

impl AsFd for Cgroup {
    /// The folder, for attaching BPF programs and `clone3(CLONE_INTO_CGROUP)`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) fn dir_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC
}

/// A folder mounted over, or linked from, the hierarchy is not a cgroup.
pub(super) fn beneath() -> ResolveFlag {
    ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV
}

fn parse_pids(bytes: &[u8]) -> Vec<u32> {
    bytes
        .split(|b| *b == b'\n')
        .filter_map(|l| std::str::from_utf8(l).ok()?.parse().ok())
        .filter(|pid| *pid != 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_of_other_namespaces_are_left_out() {
        assert_eq!(parse_pids(b"12\n0\n7\n"), [12, 7]);
        assert!(parse_pids(b"").is_empty());
    }
}

//! The cgroup v2 mount: finding it, and turning paths and pids into cgroups safely.
//!
//! Owns a descriptor of the mount's root folder. Every path is checked before it is opened, and opened beneath that
//! descriptor.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OpenHow, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use super::error::{CgroupError, Result, io};
use super::handle::{Cgroup, beneath, dir_flags};
use super::own::OwnCgroup;
use crate::platform::mounts::{Mount, Mounts};
use crate::platform::proc::ProcFs;

/// The cgroup v2 mount.
#[derive(Debug, Clone)]
pub struct CgroupRoot {
    inner: Arc<RootInner>,
}

#[derive(Debug)]
struct RootInner {
    mount: PathBuf,
    fd: OwnedFd,
    proc: ProcFs,
    own: OwnCgroup,
}

impl CgroupRoot {
    /// Finds the mount through `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub fn find() -> Result<Self> {
        let mounts = mounts()?;
        let none = || CgroupError::NoMount { path: ProcFs::default().root().join("self/mountinfo") };
        Self::open(&mounts.cgroup2().ok_or_else(none)?.target)
    }

    /// Opens a known mount point.
    ///
    /// # Errors
    /// When it cannot be opened, or is not where the whole cgroup2 hierarchy is mounted: below any other folder,
    /// paths would not be those of `/proc/PID/cgroup`, and the daemon would not know its own.
    pub fn open(mount: &Path) -> Result<Self> {
        let whole = |m: &Mount| m.target == mount && m.fs_type == "cgroup2" && m.root == Path::new("/");
        let outside = || CgroupError::Outside { path: mount.to_owned(), mount: mount.to_owned() };
        if !mounts()?.all.iter().any(whole) {
            return Err(outside());
        }
        let fd = nix::fcntl::open(mount, dir_flags(), Mode::empty()).map_err(|source| io("opening", mount, source))?;
        let kind = fstatfs(&fd).map_err(|source| io("statfs of", mount, source))?;
        // Another file system may have been mounted over it.
        if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
            return Err(outside());
        }
        let proc = ProcFs::default();
        let own = OwnCgroup::new(&proc);
        Ok(Self { inner: Arc::new(RootInner { mount: mount.to_owned(), fd, proc, own }) })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.inner.mount
    }

    /// Opens a cgroup by its folder's absolute path, or by a path relative to the mount.
    ///
    /// # Errors
    /// When the path is not one this module's invariants allow, or does not exist.
    pub fn open_path(&self, path: &Path) -> Result<Cgroup> {
        let relative = self.relative(path)?;
        self.check_not_own(path, &relative)?;
        self.open_relative(relative)
    }

    /// Opens the cgroup of a process.
    ///
    /// # Errors
    /// As [`CgroupRoot::open_path`], and when the process is gone.
    pub fn of_pid(&self, pid: u32) -> Result<Cgroup> {
        let path = self.inner.proc.cgroup(pid)?.ok_or(CgroupError::NoProcess { pid })?;
        let relative = path.strip_prefix("/").map_err(|_| CgroupError::NoProcess { pid })?;
        // "/.." leads a path outside this cgroup namespace: refused by open_path like any other.
        if relative.as_os_str().is_empty() {
            return Err(CgroupError::IsRoot { path: self.inner.mount.clone() });
        }
        self.open_path(relative)
    }

    /// Creates a cgroup at a path relative to the mount, with the parents it lacks. The last part must be new.
    ///
    /// # Errors
    /// `EEXIST` when it exists; else as [`CgroupRoot::open_path`].
    pub fn create(&self, path: &Path) -> Result<Cgroup> {
        let relative = self.relative(path)?;
        self.check_not_own(path, &relative)?;
        let mut partial = PathBuf::new();
        let mut parts = relative.components().peekable();
        while let Some(part) = parts.next() {
            partial.push(part);
            match mkdirat(&self.inner.fd, &partial, Mode::from_bits_truncate(0o755)) {
                Ok(()) => {}
                Err(Errno::EEXIST) if parts.peek().is_some() => {}
                Err(source) => return Err(io("creating", &self.inner.mount.join(&partial), source)),
            }
        }
        self.open_relative(relative)
    }

    /// Whether threads of one process can be in other cgroups than this one, given as `/proc/PID/cgroup` has it. What cannot be
    /// read counts as such.
    #[must_use]
    pub fn is_threaded(&self, cgroup_path: &Path) -> bool {
        let Ok(relative) = cgroup_path.strip_prefix("/") else { return true };
        // The root has no such file; all threads of a process can leave it only as far as threaded cgroups go, which no run is in.
        if relative.as_os_str().is_empty() {
            return false;
        }
        let kind = std::fs::read(self.inner.mount.join(relative).join("cgroup.type"));
        kind.map_or(true, |kind| kind.trim_ascii() != b"domain")
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.inner.fd
    }

    pub(super) fn proc(&self) -> &ProcFs {
        &self.inner.proc
    }

    pub(super) fn check_not_own(&self, path: &Path, relative: &Path) -> Result<()> {
        match self.inner.own.path()? {
            Some(own) if own.strip_prefix("/").is_ok_and(|own| own.starts_with(relative)) => {
                Err(CgroupError::HoldsDaemon { path: path.to_owned(), own })
            }
            _ => Ok(()),
        }
    }

    /// Reduces a path to its parts below the mount, refusing what could leave it.
    fn relative(&self, path: &Path) -> Result<PathBuf> {
        if path.components().any(|c| c == Component::ParentDir) {
            return Err(CgroupError::ParentDir { path: path.to_owned() });
        }
        let below = if path.is_absolute() {
            path.strip_prefix(&self.inner.mount)
                .map_err(|_| CgroupError::Outside { path: path.to_owned(), mount: self.inner.mount.clone() })?
        } else {
            path
        };
        let relative: PathBuf = below.components().filter(|c| *c != Component::CurDir).collect();
        if relative.as_os_str().is_empty() {
            return Err(CgroupError::IsRoot { path: path.to_owned() });
        }
        Ok(relative)
    }

    fn open_relative(&self, relative: PathBuf) -> Result<Cgroup> {
        let path = self.inner.mount.join(&relative);
        let how = OpenHow::new().flags(dir_flags()).resolve(beneath());
        let fd = openat2(&self.inner.fd, &relative, how).map_err(|source| io("opening", &path, source))?;
        Cgroup::from_fd(self.clone(), relative, path, fd)
    }
}

fn mounts() -> Result<Mounts> {
    Mounts::read(ProcFs::default().root()).map_err(|e| CgroupError::Lookup { path: e.path, source: e.source })
}

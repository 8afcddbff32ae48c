//! What can go wrong with a cgroup: each error carries the operation and the path.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::platform::proc::ProcError;

/// A cgroup could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A system call failed.
    #[error("{op} {path}")]
    Io {
        /// What was being done, e.g. `writing`.
        op: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The cgroup is there, but this kernel (or this cgroup's controllers) gives it no such file.
    #[error("no such file {path}")]
    NoSuchFile {
        /// The file.
        path: PathBuf,
    },
    /// A file does not read as the kernel's documentation says.
    #[error("parsing {path}: {what}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// No cgroup v2 hierarchy is mounted.
    #[error("no cgroup2 mount in {path}")]
    NoMount {
        /// The mountinfo that was read.
        path: PathBuf,
    },
    /// The path is not that of a cgroup v2 folder.
    #[error("{path} is not inside the cgroup2 mount {mount}")]
    Outside {
        /// The path asked for.
        path: PathBuf,
        /// The mount it should be inside.
        mount: PathBuf,
    },
    /// The path holds `..`.
    #[error("{path} contains '..'")]
    ParentDir {
        /// The path asked for.
        path: PathBuf,
    },
    /// The path is the root of the hierarchy, which can be neither frozen nor killed.
    #[error("{path} is the root of the cgroup2 hierarchy")]
    IsRoot {
        /// The path asked for.
        path: PathBuf,
    },
    /// The cgroup holds this daemon: freezing it would stop the one who could thaw it.
    #[error("{path} holds this daemon ({own})")]
    HoldsDaemon {
        /// The path asked for.
        path: PathBuf,
        /// The daemon's own cgroup.
        own: PathBuf,
    },
    /// More cgroups are below than a walk remembers.
    #[error("too many cgroups below {path}")]
    TooManyLevels {
        /// The cgroup.
        path: PathBuf,
    },
    /// The process has no cgroup v2 path, or has ended.
    #[error("process {pid} is gone or has no cgroup v2 path")]
    NoProcess {
        /// Its number.
        pid: u32,
    },
    /// `/proc` or the mounts could not be read.
    #[error("looking up cgroups in {path}")]
    Lookup {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

impl CgroupError {
    /// Whether the cgroup (or what was looked for in it) no longer exists.
    #[must_use]
    pub fn is_vanished(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENOENT | Errno::ENODEV)) || matches!(self, Self::NoProcess { .. })
    }

    /// The operation and the path, for an outcome's record.
    #[must_use]
    pub fn place(&self) -> (&'static str, PathBuf) {
        match self {
            Self::Io { op, path, .. } => (op, path.clone()),
            Self::NoSuchFile { path } => ("opening", path.clone()),
            Self::Parse { path, .. } => ("parsing", path.clone()),
            Self::NoMount { path } | Self::Lookup { path, .. } => ("looking up cgroups in", path.clone()),
            Self::Outside { path, .. }
            | Self::ParentDir { path }
            | Self::IsRoot { path }
            | Self::TooManyLevels { path }
            | Self::HoldsDaemon { path, .. } => ("checking", path.clone()),
            Self::NoProcess { pid } => ("looking up process", PathBuf::from(pid.to_string())),
        }
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            line.push_str(": ");
            line.push_str(&cause.to_string());
            next = cause.source();
        }
        line
    }

    /// What the kernel said, where a system call failed.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Io { source, .. } => Some(*source),
            _ => None,
        }
    }
}

impl From<ProcError> for CgroupError {
    fn from(e: ProcError) -> Self {
        Self::Lookup { path: e.path, source: e.source }
    }
}

/// Shorthand of this module.
pub type Result<T> = std::result::Result<T, CgroupError>;

pub(super) fn io(op: &'static str, path: &Path, source: Errno) -> CgroupError {
    CgroupError::Io { op, path: path.to_owned(), source }
}

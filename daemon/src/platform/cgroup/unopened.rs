//! A cgroup that a thread opens for itself: one with a table of descriptors of its own (see [`crate::platform::apart`]).

use std::path::PathBuf;

use nix::errno::Errno;

use super::error::{Result, io};
use super::handle::Cgroup;
use super::root::CgroupRoot;

/// Names one cgroup, by path and id, and holds no descriptor.
#[derive(Debug, Clone)]
pub struct Unopened {
    mount: PathBuf,
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// Names it for another thread.
    #[must_use]
    pub fn unopened(&self) -> Unopened {
        Unopened { mount: self.root.mount().to_owned(), path: self.path.clone(), id: self.id }
    }
}

impl Unopened {
    /// Opens it.
    ///
    /// # Errors
    /// Vanished when it was removed, also if another one is at its path now; else as [`CgroupRoot::open_path`].
    pub fn open(&self) -> Result<Cgroup> {
        let cgroup = CgroupRoot::open(&self.mount)?.open_path(&self.path)?;
        if cgroup.id() == self.id { Ok(cgroup) } else { Err(io("opening", &self.path, Errno::ENOENT)) }
    }
}

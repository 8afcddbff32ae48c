//! A cgroup by its id alone: for one of which no path is known, or the path that is known cannot be trusted.
//!
//! A walk over the whole hierarchy: `open_by_handle_at` would need a capability that the daemon has no other use for.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirEntryExt;

use super::error::{CgroupError, Result};
use super::handle::Cgroup;
use super::root::CgroupRoot;

impl CgroupRoot {
    /// Opens the cgroup of that id, wherever it is. `None`: there is none. An id is given once in a boot, and a cgroup never moves.
    ///
    /// # Errors
    /// A level could not be listed: then it is not known whether there is one. As [`CgroupRoot::open_path`].
    pub fn open_id(&self, id: u64) -> Result<Option<Cgroup>> {
        let mut levels = vec![self.mount().to_owned()];
        while let Some(level) = levels.pop() {
            let fail = |source| CgroupError::Lookup { path: level.clone(), source };
            let entries = match fs::read_dir(&level) {
                // Removed since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries.map_err(fail)?,
            };
            for entry in entries {
                let entry = match entry {
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => break,
                    entry => entry.map_err(fail)?,
                };
                if !entry.file_type().map_err(fail)?.is_dir() {
                    continue;
                }
                if entry.ino() != id {
                    levels.push(entry.path());
                    continue;
                }
                return match self.open_path(&entry.path()) {
                    Ok(cgroup) => Ok((cgroup.id() == id).then_some(cgroup)),
                    Err(error) if error.is_vanished() => Ok(None),
                    Err(error) => Err(error),
                };
            }
        }
        Ok(None)
    }
}

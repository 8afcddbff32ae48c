//! Walking the levels of a cgroup without collecting them: at any moment one level is open, however many there are.
//!
//! Owns the names of the levels still to be visited, up to [`MAX_LEVELS`]. A run in a delegated subtree may make tens of
//! thousands of levels; holding a descriptor for each would leave none for a freeze.
//!
//! Invariants: parents come before children; a level that vanishes during the walk is left out; a walk ends at its time
//! limit and says so.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::fcntl::{OpenHow, openat2};
use nix::sys::stat::{Mode, fstat};

use super::error::{CgroupError, Result, io};
use super::handle::{Cgroup, beneath, dir_flags};

/// Levels whose names are remembered at once. A walk that meets more is incomplete.
const MAX_LEVELS: usize = 131_072;

/// How far a walk got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Walk {
    /// Levels visited below the cgroup.
    pub levels: u64,
    /// Whether these were all.
    pub complete: bool,
}

impl Cgroup {
    /// Visits every cgroup below, parents before children, until the time `limit`.
    ///
    /// # Errors
    /// Vanished when this cgroup was removed; the first error of `visit` or of opening a level that is not a vanished
    /// level.
    pub fn walk(&self, limit: Option<Instant>, mut visit: impl FnMut(&Cgroup) -> Result<()>) -> Result<Walk> {
        let mut walk = Walk { levels: 0, complete: true };
        let mut next = VecDeque::new();
        walk.complete &= self.names_below(Path::new(""), &mut next)?;
        while let Some(below) = next.pop_front() {
            if limit.is_some_and(|limit| Instant::now() >= limit) {
                walk.complete = false;
                break;
            }
            let seen = self.below(&below).and_then(|level| {
                visit(&level)?;
                level.names_below(&below, &mut next)
            });
            match seen {
                Ok(all) => walk.complete &= all,
                Err(e) if e.is_vanished() => continue,
                Err(e) => return Err(e),
            }
            walk.levels += 1;
        }
        Ok(walk)
    }

    /// Whether there is no cgroup below.
    ///
    /// # Errors
    /// Vanished when this cgroup was removed.
    pub fn is_leaf(&self) -> Result<bool> {
        let mut names = VecDeque::new();
        self.names_below(Path::new(""), &mut names)?;
        Ok(names.is_empty())
    }

    /// Opens a level below by its path relative to this one.
    fn below(&self, relative: &Path) -> Result<Cgroup> {
        let path = self.path.join(relative);
        let how = OpenHow::new().flags(dir_flags()).resolve(beneath());
        let fd = openat2(&self.fd, relative, how).map_err(|source| io("opening", &path, source))?;
        Cgroup::from_fd(self.root.clone(), self.relative.join(relative), path, fd)
    }

    /// Appends the paths of the cgroups directly below, each begun with `here`. False when there was no room for all.
    fn names_below(&self, here: &Path, into: &mut VecDeque<PathBuf>) -> Result<bool> {
        // kernfs counts sub-folders in the link count: 2 means none, and saves listing the interface files.
        let links = fstat(&self.fd).map_err(|source| io("stat of", &self.path, source))?.st_nlink;
        if links == 2 {
            return Ok(true);
        }
        let listing = |source| io("listing", &self.path, source);
        let mut dir = nix::dir::Dir::openat(&self.fd, ".", dir_flags(), Mode::empty()).map_err(listing)?;
        for entry in dir.iter() {
            let entry = entry.map_err(listing)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if entry.file_type() != Some(nix::dir::Type::Directory) || name == "." || name == ".." {
                continue;
            }
            if into.len() >= MAX_LEVELS {
                return Ok(false);
            }
            into.push_back(here.join(name));
        }
        Ok(true)
    }

    /// The paths of all levels below, relative to this one, parents before children.
    pub(super) fn paths_below(&self) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        let walk = self.walk(None, |level| {
            paths.extend(level.path.strip_prefix(&self.path).map(Path::to_owned));
            Ok(())
        })?;
        if walk.complete { Ok(paths) } else { Err(CgroupError::TooManyLevels { path: self.path.clone() }) }
    }
}

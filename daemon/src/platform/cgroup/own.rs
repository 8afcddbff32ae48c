//! The calling process's own cgroup, asked again before every action, so it must be cheap.
//!
//! Owns the answer of the last time. `/proc/self/cgroup` takes the kernel's cgroup lock and lists every hierarchy
//! (70 us measured on a hybrid host, more than a freeze), so newer kernels are asked for the id by pidfd (6 us) and
//! the path is read again only when the id has changed: a v2 cgroup is never renamed, and ids are not reused.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::error::Result;
use crate::platform::pidfd::PidFd;
use crate::platform::proc::ProcFs;

#[derive(Debug)]
pub(super) struct OwnCgroup {
    proc: ProcFs,
    /// Absent where the kernel cannot tell the id: then the path is read each time.
    pidfd: Option<PidFd>,
    last: Mutex<Option<(u64, PathBuf)>>,
}

impl OwnCgroup {
    pub(super) fn new(proc: &ProcFs) -> Self {
        let pidfd = PidFd::open(std::process::id()).ok().filter(|fd| fd.cgroup_id().is_ok());
        Self { proc: proc.clone(), pidfd, last: Mutex::new(None) }
    }

    /// The path as in `/proc/self/cgroup`.
    pub(super) fn path(&self) -> Result<Option<PathBuf>> {
        let id = || self.pidfd.as_ref().and_then(|fd| fd.cgroup_id().ok());
        let before = id();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(now), Some((then, path))) = (before, last.as_ref())
            && now == *then
        {
            return Ok(Some(path.clone()));
        }
        let path = self.proc.own_cgroup()?;
        // Remembered only if the id was the same on both sides of reading the path.
        *last = match (before, &path) {
            (Some(now), Some(path)) if id() == before => Some((now, path.clone())),
            _ => None,
        };
        Ok(path)
    }
}

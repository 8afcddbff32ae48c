//! The calling process's own cgroup, asked again before every action, so it must be cheap and need no new descriptor.
//!
//! Owns the answer of the last time and an open `/proc/self/cgroup`. That file takes the kernel's cgroup lock and lists
//! every hierarchy (70 us measured on a hybrid host, more than a freeze), so newer kernels are asked for the id by pidfd
//! (6 us) and the path is read again only when the id has changed: a v2 cgroup is never renamed, and ids are not reused.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::error::{CgroupError, Result};
use crate::platform::pidfd::PidFd;
use crate::platform::proc::{ProcFs, parse_cgroup};

#[derive(Debug)]
pub(super) struct OwnCgroup {
    path: PathBuf,
    /// Absent where it could not be opened: then the error of each look says so.
    file: std::io::Result<File>,
    /// Absent where the kernel cannot tell the id: then the path is read each time.
    pidfd: Option<PidFd>,
    last: Mutex<Option<(u64, PathBuf)>>,
}

impl OwnCgroup {
    pub(super) fn new(proc: &ProcFs) -> Self {
        let pidfd = PidFd::open(std::process::id()).ok().filter(|fd| fd.cgroup_id().is_ok());
        let path = proc.root().join("self/cgroup");
        Self { file: File::open(&path), path, pidfd, last: Mutex::new(None) }
    }

    /// The path as in `/proc/self/cgroup`.
    pub(super) fn path(&self) -> Result<Option<PathBuf>> {
        let id = || self.pidfd.as_ref().and_then(|fd| fd.cgroup_id().ok());
        let before = id();
        if let (Some(now), Some((then, path))) = (before, self.last().as_ref())
            && now == *then
        {
            return Ok(Some(path.clone()));
        }
        // Not under the lock: whoever freezes meanwhile must not wait for this read.
        let path = parse_cgroup(&self.read()?);
        // Remembered only if the id was the same on both sides of reading the path.
        if let (Some(now), Some(path)) = (before, &path)
            && id() == before
        {
            *self.last() = Some((now, path.clone()));
        }
        Ok(path)
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(u64, PathBuf)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<Vec<u8>> {
        let lookup = |source: std::io::Error| CgroupError::Lookup { path: self.path.clone(), source };
        let file = self.file.as_ref().map_err(|e| lookup(std::io::Error::new(e.kind(), e.to_string())))?;
        let (mut bytes, mut chunk) = (Vec::new(), [0u8; 4096]);
        loop {
            match file.read_at(&mut chunk, bytes.len() as u64) {
                Ok(0) => return Ok(bytes),
                Ok(n) => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(lookup(e)),
            }
        }
    }
}

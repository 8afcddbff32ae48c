//! One daemon per state directory: an exclusive `flock` on `lock` in it, with the holder's pid inside for whoever is refused.
//!
//! The kernel releases the lock when the holder ends, however it ends; the file stays, and its pid means nothing then. The
//! descriptor is close-on-exec, so no child keeps the lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Name of the lock file in the state directory.
pub const LOCK_FILE: &str = "lock";

/// Holds the lock until dropped.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
    path: PathBuf,
}

impl StateLock {
    /// Takes the lock of `dir`, which must exist, without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] if another process, or another part of this one, has it.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_FILE);
        let fail = |operation| {
            let path = path.clone();
            move |source| LockError::Io { operation, path, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(&path)
            .map_err(fail("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held { pid: holder(&mut file), path }),
            Err(TryLockError::Error(source)) => return Err(fail("lock")(source)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(fail("write"))?;
        Ok(Self { _file: file, path })
    }

    /// The lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A lock that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Someone else holds it.
    #[error("{} is locked by {}", path.display(), describe(*pid))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The holder, if it could be read.
        pid: Option<u32>,
    },
    /// The lock file could not be used.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn describe(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("pid {pid}"))
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_refused_and_told_the_first() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOCK_FILE), "4194304999\nleft by a dead daemon\n").unwrap();
        let first = StateLock::acquire(dir.path()).unwrap();
        let error = StateLock::acquire(dir.path()).unwrap_err();
        assert!(matches!(error, LockError::Held { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        assert!(error.to_string().ends_with(&format!("is locked by pid {}", std::process::id())));
        drop(first);
        StateLock::acquire(dir.path()).unwrap();
    }

    /// Another process, through `flock(1)` of util-linux.
    #[test]
    fn holds_against_other_processes() {
        let dir = tempfile::tempdir().unwrap();
        let lock = StateLock::acquire(dir.path()).unwrap();
        let try_it = || std::process::Command::new("flock").args(["--nonblock"]).arg(lock.path()).arg("true").status();
        let Ok(status) = try_it() else {
            println!("SKIPPED: no flock command on this machine");
            return;
        };
        assert!(!status.success());
        let path = lock.path().to_owned();
        drop(lock);
        assert!(
            std::process::Command::new("flock").arg("--nonblock").arg(path).arg("true").status().unwrap().success()
        );
    }
}

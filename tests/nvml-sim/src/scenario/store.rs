//! The scenario in force, re-read when its file changes, so that a test can drive
//! it live. Replace the file by rename: two writes in place within one tick of the
//! file system's clock cannot be told apart.

use super::{Scenario, ScenarioError};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Owns the file's path and the last good scenario in it.
#[derive(Debug)]
pub(crate) struct ScenarioStore {
    path: PathBuf,
    seen: Option<Stamp>,
    current: Arc<Scenario>,
}

/// What tells one state of the file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        Some(Self { device: meta.dev(), inode: meta.ino(), size: meta.size(), modified })
    }
}

impl ScenarioStore {
    /// Reads `path` for the first time.
    pub(crate) fn open(path: PathBuf) -> Result<Self, ScenarioError> {
        let seen = Stamp::of(&path);
        let current = Arc::new(Scenario::load(&path)?);
        Ok(Self { path, seen, current })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The scenario in force. A file that turned bad or vanished keeps the last good one;
    /// the error is given once for each state of the file.
    pub(crate) fn current(&mut self) -> (Arc<Scenario>, Option<ScenarioError>) {
        if !self.current.live {
            return (Arc::clone(&self.current), None);
        }
        let stamp = Stamp::of(&self.path);
        let mut error = None;
        if stamp.is_some() && stamp != self.seen {
            self.seen = stamp;
            match Scenario::load(&self.path) {
                Ok(scenario) => self.current = Arc::new(scenario),
                Err(bad) => error = Some(bad),
            }
        }
        (Arc::clone(&self.current), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(path: &Path, text: &str) {
        let fresh = path.with_extension("new");
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, path).unwrap();
    }

    #[test]
    fn a_change_is_seen_and_a_bad_one_keeps_the_last_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        replace(&path, "[[gpu]]\nmodel = \"H100\"\n");
        let mut store = ScenarioStore::open(path.clone()).unwrap();
        assert_eq!(store.current().0.gpu_count(), 1);
        replace(&path, "[[gpu]]\nmodel = \"H100\"\ncount = 4\n");
        assert_eq!(store.current().0.gpu_count(), 4);

        replace(&path, "[[gpu]\n");
        let (scenario, error) = store.current();
        assert_eq!(scenario.gpu_count(), 4);
        assert!(error.unwrap().to_string().contains("s.toml:1:"));
        assert!(store.current().1.is_none(), "said once");

        fs::remove_file(&path).unwrap();
        assert_eq!(store.current().0.gpu_count(), 4);
        replace(&path, "");
        assert_eq!(store.current().0.gpu_count(), 0);
    }

    #[test]
    fn a_scenario_that_is_not_live_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        replace(&path, "live = false\n[[gpu]]\nmodel = \"H100\"\n");
        let mut store = ScenarioStore::open(path.clone()).unwrap();
        replace(&path, "[[gpu]]\nmodel = \"H100\"\ncount = 4\n");
        assert_eq!(store.current().0.gpu_count(), 1);
    }

    #[test]
    fn no_file_is_an_error_that_names_it() {
        let error = ScenarioStore::open("/nonexistent/s.toml".into()).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the scenario /nonexistent/s.toml");
    }
}

//! What of the runs outlives the daemon: `runs/ID/run.json`, the recordings beside it, and `policies/DIGEST.json`.
//!
//! Files are written whole to a temporary name, synced, and renamed: a reader sees the old or the new one.

use failsafe_core::{Policy, PolicyDigest, RunId, input::Run};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Ended runs that are kept in memory; older ones are on disk and in the audit log.
pub const ENDED_KEPT: usize = 1_000;

/// A live run as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptRun {
    /// As registered.
    pub run: Run,
    /// Whether the daemon made its cgroup.
    pub made: bool,
    /// How many daemons have looked after it.
    pub part: u32,
    /// When it ended, ns since the epoch; `None` while it lives.
    pub ended_ns: Option<i64>,
    /// Name of its policy.
    pub policy_name: String,
    /// Decisions made by its end.
    pub decisions: u32,
}

/// A run that ended.
#[derive(Debug, Clone)]
pub struct EndedRun {
    /// As registered.
    pub run: Run,
    /// Name of its policy.
    pub policy_name: String,
    /// When, ns since the epoch.
    pub ended_ns: i64,
    /// Decisions made about it.
    pub decisions: u32,
    /// Its last recording's number.
    pub part: u32,
}

/// A file of the store that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {path}")]
pub struct StoreError {
    op: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl StoreError {
    /// Whether there is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }

    /// The error with its cause.
    pub(crate) fn chain(&self) -> String {
        format!("{self}: {}", self.source)
    }
}

/// The store, below the state folder.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens it, making its folders.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be made.
    pub fn open(state_dir: &Path) -> Result<Store, StoreError> {
        for folder in ["runs", "policies"] {
            let path = state_dir.join(folder);
            // What ran with which arguments is not for everybody, whatever the state folder's own mode.
            let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(&path);
            made.map_err(|source| StoreError { op: "make", path, source })?;
        }
        Ok(Store { root: state_dir.to_owned() })
    }

    /// Keeps a live run.
    ///
    /// # Errors
    /// [`StoreError`]; the old file then still stands.
    pub fn keep(&self, kept: &KeptRun) -> Result<(), StoreError> {
        let folder = self.run_dir(kept.run.id);
        fs::create_dir_all(&folder).map_err(|source| StoreError { op: "make", path: folder.clone(), source })?;
        write_json(&folder.join("run.json"), kept)
    }

    /// Marks a run's end.
    ///
    /// # Errors
    /// As [`Store::keep`].
    pub fn mark_ended(&self, ended: &EndedRun) -> Result<(), StoreError> {
        let path = self.run_dir(ended.run.id).join("run.json");
        let mut kept: KeptRun = read_json(&path)?;
        kept.ended_ns = Some(ended.ended_ns);
        kept.decisions = ended.decisions;
        write_json(&path, &kept)
    }

    /// Takes back a run that was kept but never started.
    pub fn forget(&self, id: RunId) {
        let _gone = fs::remove_dir_all(self.run_dir(id));
    }

    /// Every kept run that has not ended; what cannot be read is said and passed over.
    pub fn unended(&self) -> Vec<KeptRun> {
        self.all().into_iter().filter(|kept| kept.ended_ns.is_none()).collect()
    }

    /// The latest ended runs, oldest first.
    pub fn ended(&self) -> Vec<EndedRun> {
        let mut ended: Vec<EndedRun> = self
            .all()
            .into_iter()
            .filter_map(|k| {
                let KeptRun { run, part, ended_ns, policy_name, decisions, .. } = k;
                Some(EndedRun { run, policy_name, ended_ns: ended_ns?, decisions, part })
            })
            .collect();
        ended.sort_by_key(|e| e.ended_ns);
        ended.split_off(ended.len().saturating_sub(ENDED_KEPT))
    }

    fn all(&self) -> Vec<KeptRun> {
        let folder = self.root.join("runs");
        let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
        let mut kept = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path().join("run.json");
            match read_json::<KeptRun>(&path) {
                Ok(run) => kept.push(run),
                Err(error) => tracing::warn!(%error, cause = ?error.source, "a kept run cannot be read"),
            }
        }
        kept
    }

    /// Keeps a policy under its digest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep_policy(&self, policy: &Policy) -> Result<(), StoreError> {
        write_json(&self.policy_path(&policy.digest()), policy)
    }

    /// The policy of that digest.
    ///
    /// # Errors
    /// [`StoreError`], also when the content no longer has that digest.
    pub fn policy(&self, digest: &PolicyDigest) -> Result<Policy, StoreError> {
        let path = self.policy_path(digest);
        let policy: Policy = read_json(&path)?;
        if policy.digest() != *digest {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "its content has another digest");
            return Err(StoreError { op: "read", path, source });
        }
        Ok(policy)
    }

    /// The recording of a run's `part`th daemon.
    pub fn recording(&self, id: RunId, part: u32) -> PathBuf {
        self.run_dir(id).join(format!("{part:04}.fsrec"))
    }

    fn run_dir(&self, id: RunId) -> PathBuf {
        self.root.join("runs").join(id.to_string())
    }

    fn policy_path(&self, digest: &PolicyDigest) -> PathBuf {
        self.root.join("policies").join(format!("{}.json", hex::encode(digest.0)))
    }
}

/// Writes a file whole, or leaves the old one.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let write = || -> std::io::Result<()> {
        let bytes = serde_json::to_vec(value)?;
        let temporary = path.with_extension("json.new");
        let mut file = File::create(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(|source| StoreError { op: "write", path: path.to_owned(), source })
}

/// Reads a file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let read = || -> std::io::Result<T> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    read().map_err(|source| StoreError { op: "read", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_whose_content_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let text = "[policy]\nname = \"p\"\nowner = \"o\"\n";
        let policy = failsafe_core::policy::parse::parse("p", text).unwrap();
        store.keep_policy(&policy).unwrap();
        assert_eq!(store.policy(&policy.digest()).unwrap(), policy);
        let path = store.policy_path(&policy.digest());
        let changed = fs::read_to_string(&path).unwrap().replace("\"o\"", "\"x\"");
        fs::write(&path, changed).unwrap();
        assert!(store.policy(&policy.digest()).is_err());
    }
}

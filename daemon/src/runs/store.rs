//! What of the runs outlives the daemon: `runs/ID/run.json`, the recordings beside it, and `policies/DIGEST.json`.
//!
//! Files are written whole to a temporary name, synced, and renamed: a reader sees the old or the new one.

use super::{
    disk::{Disk, Files},
    past::Past,
    retain::Kept,
};
use failsafe_core::{
    Containment, Policy, PolicyDigest, RunId,
    input::Run,
    record::{Totals, Unwatched},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeSet,
    fs,
    io::{Error, ErrorKind},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Ended runs that are kept in memory; older ones are on disk and in the audit log.
pub const ENDED_KEPT: usize = 1_000;

/// The largest number of a recording that is believed: a larger one is damage.
pub const MOST_PARTS: u32 = 1_000_000;
/// A `run.json` may be this many recordings ahead of the audit log and of the files: each start that failed after the file was written
/// is one.
const PARTS_AHEAD: u32 = 10_000;

/// The name of a `run.json` that is being written, see [`Disk::write`].
const UNFINISHED: &str = "run.json.new";

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
    /// What the kernel counted, once it has ended; none in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<Totals>,
    /// Between which times it ended, where no daemon watched the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwatched: Option<Unwatched>,
    /// How it was contained when this was written: at its start, when it was taken up, and at its end. While it lives the
    /// audit log has what came later. None in files of earlier versions: see [`KeptRun::containment`].
    #[serde(default, skip_serializing_if = "Containment::is_empty")]
    pub containment: Containment,
}

impl KeptRun {
    /// How it was contained when this was written; files of earlier versions have two booleans.
    pub fn containment(&self) -> Containment {
        match self.containment.is_empty() {
            true => Containment::of(self.run.contained, self.run.registered),
            false => self.containment.clone(),
        }
    }

    /// What else than the run itself is not as the audit log has it; `part` is the number of its last recording by the log and the files.
    pub(super) fn differs(&self, past: &Past, part: u32, made: bool) -> Option<String> {
        if self.made != made {
            return Some(format!("made: run.json has {}, the name of the cgroup shows {made}", self.made));
        }
        if self.part < past.part || self.part > part.saturating_add(PARTS_AHEAD) {
            return Some(format!("recording: run.json has {}, the audit log has {}", self.part, past.part));
        }
        None
    }
}

/// A run that ended.
#[derive(Debug, Clone)]
pub struct EndedRun {
    /// As registered.
    pub run: Run,
    /// Name of its policy.
    pub policy_name: String,
    /// When, ns since the epoch; where no daemon watched the end, when it was noticed.
    pub ended_ns: i64,
    /// Between which times it ended, where no daemon watched the end.
    pub unwatched: Option<Unwatched>,
    /// Decisions made about it.
    pub decisions: u32,
    /// Its last recording's number.
    pub part: u32,
    /// What the kernel counted; none where no daemon watched the end.
    pub totals: Option<Totals>,
    /// For how long it was frozen, ns; none where it ended frozen and no daemon watched the end, and where that is not on record.
    pub frozen_ns: Option<u64>,
    /// How it was contained at its end.
    pub containment: Containment,
    /// Why this is not verified by the audit log; none: it is.
    pub unverified: Option<String>,
}

/// A file of the store that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {path}")]
pub struct StoreError {
    op: &'static str,
    path: PathBuf,
    #[source]
    source: Error,
}

impl StoreError {
    /// Whether there is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        self.source.kind() == ErrorKind::NotFound
    }

    /// Whether there was no room for it: it may be tried again as soon as there is.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
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
    disk: Arc<dyn Disk>,
}

/// What the folder of a run holds.
#[derive(Debug)]
pub(super) enum Folder {
    /// Its `run.json`.
    Kept(Box<KeptRun>),
    /// A `run.json` that cannot be read, or a folder that has other files and no `run.json`.
    Unreadable(String),
    /// There is no such folder, or nothing in it: a daemon that is killed while it starts a run leaves that.
    Missing,
}

impl Store {
    /// Opens it, making its folders.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be made.
    pub fn open(state_dir: &Path) -> Result<Store, StoreError> {
        Store::on(state_dir, Arc::new(Files))
    }

    /// The same on another disk.
    pub(super) fn on(state_dir: &Path, disk: Arc<dyn Disk>) -> Result<Store, StoreError> {
        for folder in ["runs", "policies"] {
            let path = state_dir.join(folder);
            // What ran with which arguments is not for everybody, whatever the state folder's own mode.
            let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(&path);
            made.map_err(|source| StoreError { op: "make", path, source })?;
        }
        Ok(Store { root: state_dir.to_owned(), disk })
    }

    /// Keeps a live run.
    ///
    /// # Errors
    /// [`StoreError`]; the old file then still stands.
    pub fn keep(&self, kept: &KeptRun) -> Result<(), StoreError> {
        let folder = self.run_dir(kept.run.id);
        self.disk.make(&folder).map_err(|source| StoreError { op: "make", path: folder.clone(), source })?;
        self.write(&folder.join("run.json"), kept)
    }

    /// Marks a run's end.
    ///
    /// # Errors
    /// As [`Store::keep`].
    pub fn mark_ended(&self, ended: &EndedRun) -> Result<(), StoreError> {
        let path = self.run_dir(ended.run.id).join("run.json");
        let (part, decisions, totals) = (ended.part, ended.decisions, ended.totals);
        let (ended_ns, unwatched) = (Some(ended.ended_ns), ended.unwatched.clone());
        // What the file has meanwhile is not asked: somebody may have changed it.
        let (run, policy_name, made) = (ended.run.clone(), ended.policy_name.clone(), is_made(&ended.run));
        let folder = self.run_dir(ended.run.id);
        self.disk.make(&folder).map_err(|source| StoreError { op: "make", path: folder, source })?;
        let containment = ended.containment.clone();
        let kept = KeptRun { run, made, part, ended_ns, policy_name, decisions, totals, unwatched, containment };
        self.write(&path, &kept)
    }

    /// Takes back a run that was kept but never started.
    pub fn forget(&self, id: RunId) {
        let _gone = self.disk.remove(&self.run_dir(id));
    }

    /// The folders of runs with what each holds, ended runs too.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(super) fn folders(&self) -> Result<Vec<(RunId, Folder)>, StoreError> {
        let path = self.root.join("runs");
        let entries = self.disk.list(&path).map_err(|source| StoreError { op: "list", path, source })?;
        let id = |path: &PathBuf| path.file_name()?.to_str()?.parse::<RunId>().ok();
        Ok(entries.iter().filter_map(id).map(|id| (id, self.folder(id))).collect())
    }

    /// What the folder of a run holds. A `run.json` of another run is none of this one.
    pub(super) fn folder(&self, id: RunId) -> Folder {
        let folder = self.run_dir(id);
        match self.read::<KeptRun>(&folder.join("run.json")) {
            Ok(kept) if kept.run.id == id => Folder::Kept(Box::new(kept)),
            Ok(kept) => Folder::Unreadable(format!("{}/run.json is of run {}", folder.display(), kept.run.id)),
            Err(error) if error.is_missing() && self.is_bare(&folder) => Folder::Missing,
            Err(error) => Folder::Unreadable(error.chain()),
        }
    }

    /// Removes what a start that was never finished left of a run. What holds a file that was written whole stays.
    pub(super) fn forget_bare(&self, id: RunId) {
        let folder = self.run_dir(id);
        if self.is_bare(&folder) {
            let _missing = self.disk.remove(&folder);
        }
    }

    /// Whether no file was ever written whole in a run's folder. The `run.json` of a run is its first file.
    fn is_bare(&self, folder: &Path) -> bool {
        match self.disk.list(folder) {
            Ok(files) => files.iter().all(|file| file.file_name().is_some_and(|name| name == UNFINISHED)),
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }

    /// The number of a run's last recording, by the files: none is to be overwritten, whatever `run.json` has.
    pub(super) fn last_part(&self, id: RunId) -> u32 {
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u32>().ok();
        let parts = self.disk.list(&self.run_dir(id)).unwrap_or_default();
        parts.iter().filter_map(number).filter(|part| *part <= MOST_PARTS).max().unwrap_or(0)
    }

    /// What is kept of all runs, and of how many folders nobody knows what they are.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(super) fn kept(&self) -> Result<(Vec<Kept>, usize), StoreError> {
        let (mut kept, mut unreadable) = (Vec::new(), 0);
        for (id, folder) in self.folders()? {
            match folder {
                Folder::Kept(found) => {
                    let files = self.disk.list(&self.run_dir(id)).unwrap_or_default();
                    // Room on the disk, not length: a file may have holes.
                    let size = |path: &PathBuf| fs::symlink_metadata(path).map_or(0, |file| file.blocks() * 512);
                    let bytes = files.iter().map(size).sum();
                    let KeptRun { run, ended_ns, .. } = *found;
                    kept.push(Kept { id, uid: run.owner_uid, policy: run.policy, ended_ns, bytes });
                }
                Folder::Unreadable(_) => unreadable += 1,
                Folder::Missing => {}
            }
        }
        Ok((kept, unreadable))
    }

    /// Removes the copies of policies that are not `needed` and were not written for `rest`.
    pub(super) fn drop_policies(&self, needed: &BTreeSet<PolicyDigest>, rest: Duration) {
        let needed: BTreeSet<PathBuf> = needed.iter().map(|digest| self.policy_path(digest)).collect();
        for path in self.disk.list(&self.root.join("policies")).unwrap_or_default() {
            let written = fs::symlink_metadata(&path).and_then(|file| file.modified());
            let rests = written.is_ok_and(|at| at.elapsed().is_ok_and(|since| since >= rest));
            if rests && !needed.contains(&path) && path.extension().is_some_and(|end| end == "json") {
                let _kept = fs::remove_file(&path);
            }
        }
    }

    /// Keeps a policy under its digest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep_policy(&self, policy: &Policy) -> Result<(), StoreError> {
        self.write(&self.policy_path(&policy.digest()), policy)
    }

    /// The policy of that digest.
    ///
    /// # Errors
    /// [`StoreError`], also when the content no longer has that digest.
    pub fn policy(&self, digest: &PolicyDigest) -> Result<Policy, StoreError> {
        let path = self.policy_path(digest);
        let policy: Policy = self.read(&path)?;
        if policy.digest() != *digest {
            let source = Error::new(ErrorKind::InvalidData, "its content has another digest");
            return Err(StoreError { op: "read", path, source });
        }
        Ok(policy)
    }

    /// The recording of a run's `part`th daemon.
    pub fn recording(&self, id: RunId, part: u32) -> PathBuf {
        self.run_dir(id).join(format!("{part:04}.fsrec"))
    }

    /// A file beside a run's recordings.
    pub(crate) fn beside(&self, id: RunId, name: &str) -> PathBuf {
        self.run_dir(id).join(name)
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<T, StoreError> {
        from_json(self.disk.as_ref(), path)
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
        to_json(self.disk.as_ref(), path, value)
    }

    fn run_dir(&self, id: RunId) -> PathBuf {
        self.root.join("runs").join(id.to_string())
    }

    fn policy_path(&self, digest: &PolicyDigest) -> PathBuf {
        self.root.join("policies").join(format!("{}.json", hex::encode(digest.0)))
    }
}

/// Whether the daemon made the run's cgroup.
pub(super) fn is_made(run: &Run) -> bool {
    made_for(Path::new(&run.cgroup)) == Some(run.id)
}

/// The run that a cgroup was made for, by its name. No other cgroup has such a name: the id is made together with the cgroup.
pub(super) fn made_for(cgroup: &Path) -> Option<RunId> {
    cgroup.file_name()?.to_str()?.strip_prefix("run-")?.parse().ok()
}

/// Writes a file whole, or leaves the old one.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    to_json(&Files, path, value)
}

/// Reads a file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    from_json(&Files, path)
}

fn to_json(disk: &dyn Disk, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let write = || disk.write(path, &serde_json::to_vec(value)?);
    write().map_err(|source| StoreError { op: "write", path: path.to_owned(), source })
}

fn from_json<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<T, StoreError> {
    let read = || Ok(serde_json::from_slice(&disk.read(path)?)?);
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

    #[test]
    fn a_folder_that_a_start_left_unfinished_is_no_run_and_one_with_a_recording_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [empty, unfinished, recorded] =
            [1, 2, 3].map(|n| format!("00000000-0000-4000-8000-{n:012}").parse::<RunId>().unwrap());
        for id in [empty, unfinished, recorded] {
            fs::create_dir_all(store.run_dir(id)).unwrap();
        }
        fs::write(store.run_dir(unfinished).join("run.json").with_extension("json.new"), "{").unwrap();
        fs::write(store.recording(recorded, 1), "").unwrap();
        assert!(matches!(store.folder(empty), Folder::Missing));
        assert!(matches!(store.folder(unfinished), Folder::Missing));
        assert!(matches!(store.folder(recorded), Folder::Unreadable(_)), "somebody removed its run.json");
        [empty, unfinished, recorded].into_iter().for_each(|id| store.forget_bare(id));
        let left: Vec<RunId> = store.folders().unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(left, [recorded]);
    }

    #[test]
    fn a_run_json_with_two_booleans_and_one_with_steps_are_read() {
        let text = r#"{"run":{"id":"00000000-0000-4000-8000-000000000001","name":"job","labels":{},"owner_uid":1000,
            "cgroup":"c","cgroup_id":7,"boot_id":"b","policy":[DIGEST],"gpus":[],"mig":{},"registered":5,
            "registered_wall_ns":9,"decisions":2,"incidents":1,
            "contained":{"frozen":true,"blocked":true,"unexplained":false}},
            "made":true,"part":1,"ended_ns":null,"policy_name":"p","decisions":2}"#;
        let text = text.replace("[DIGEST]", &serde_json::to_string(&PolicyDigest([1; 32])).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id: RunId = "00000000-0000-4000-8000-000000000001".parse().unwrap();
        fs::create_dir_all(store.run_dir(id)).unwrap();
        fs::write(store.run_dir(id).join("run.json"), text).unwrap();
        let Folder::Kept(old) = store.folder(id) else { panic!("not read") };
        assert!(old.containment().is_frozen() && old.containment().is_latched());
        let steps = old.containment();
        let new = KeptRun { containment: steps.clone(), ..*old };
        store.keep(&new).unwrap();
        let Folder::Kept(read) = store.folder(id) else { panic!("not read") };
        assert_eq!(read.containment, steps);
    }
}

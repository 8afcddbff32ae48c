//! Lineages: which run of a user continues which, and how a restart differs from its predecessor.
//!
//! ```text
//! STATE_DIR/lineages/UID/NAME.json   the predecessor of the next start, and the last start
//! STATE_DIR/runs/ID/lineage.json     what the run continues, with what it was started, and how that differs
//! STATE_DIR/runs/ID/unreported       the differences are not on record yet
//! ```
//! Invariants: a predecessor has the same owner and has ended; a run that was started and never read (it was held, or ended at
//! once) does not become one while an earlier run was; one start of a lineage at a time; the number of a user's lineages is bounded.

use super::{
    Registry,
    factors::KeptFactors,
    store::{Store, StoreError, read_json, write_json},
};
use failsafe_attest::Known;
use failsafe_core::{RunId, record::FactorChange};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

/// Lineages of one user; beyond it the one that was used longest ago is forgotten.
pub const LINEAGES_OF_USER: usize = 256;
/// Longest name.
const NAME: usize = 64;

/// Why a lineage cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// Not a name.
    #[error("lineage `{0}`: expected 1 to {NAME} of letters, digits, `-`, `_`, `.`, not beginning with `.`")]
    BadName(String),
    /// Another start of it is under way.
    #[error("another run of lineage `{0}` is being started: try again")]
    Starting(String),
    /// Its last run lives.
    #[error(
        "run {run} of lineage `{name}` still lives: a restart continues a run that has ended. Wait for its end, or kill it"
    )]
    Lives {
        /// The lineage.
        name: String,
        /// The run.
        run: RunId,
    },
    /// The store.
    #[error("the lineage cannot be kept: {}", .0.chain())]
    Store(#[from] StoreError),
    /// The folder.
    #[error("cannot make {path}: {source}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// `lineages/UID/NAME.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Runs {
    /// The oldest first.
    runs: Vec<RunId>,
}

/// The lineages of all users.
#[derive(Debug)]
pub struct Lineages {
    folder: PathBuf,
    /// Those of which a start is under way.
    starting: Arc<Mutex<BTreeSet<(u32, String)>>>,
}

/// A start of a lineage. Until it is dropped, no other start of it begins.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    key: (u32, String),
    starting: Arc<Mutex<BTreeSet<(u32, String)>>>,
    /// The run that is continued, with what it was started and what is known of it.
    pub predecessor: Option<(Restart, Option<KeptFactors>)>,
    /// Runs of the lineage are on record, and nothing of them can be read.
    pub lost: Vec<RunId>,
}

/// `lineage.json` of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// The run.
    pub run: RunId,
    /// Its owner.
    pub uid: u32,
    /// The lineage; empty: the run was started again by its id.
    pub lineage: String,
    /// The run that it continues.
    pub predecessor: Option<RunId>,
    /// What was known of the run before its command was executed.
    #[serde(default)]
    pub start: Known,
    /// What of that was otherwise in the predecessor, or of the node.
    #[serde(default)]
    pub changes: Vec<FactorChange>,
}

impl Lineages {
    /// Below the state folder.
    pub fn new(state_dir: &std::path::Path) -> Lineages {
        Lineages { folder: state_dir.join("lineages"), starting: Arc::default() }
    }

    /// Begins a start of a user's lineage. May wait for the disk.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn claim(&self, registry: &Registry, uid: u32, name: &str) -> Result<Claim, LineageError> {
        if !is_name(name) {
            return Err(LineageError::BadName(name.chars().take(NAME).collect()));
        }
        let key = (uid, name.to_owned());
        if !self.starting.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return Err(LineageError::Starting(name.to_owned()));
        }
        let folder = self.folder.join(uid.to_string());
        let mut claim = Claim { folder, key, starting: self.starting.clone(), predecessor: None, lost: Vec::new() };
        let runs = match read_json::<Runs>(&claim.path()) {
            Ok(file) => file.runs,
            Err(error) if error.is_missing() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        if let Some(run) = runs.iter().copied().find(|id| registry.is_held(*id)) {
            return Err(LineageError::Lives { name: name.to_owned(), run });
        }
        claim.choose(registry.store(), &runs);
        Ok(claim)
    }

    /// The live run of a user's lineage. May wait for the disk.
    pub fn living(&self, registry: &Registry, uid: u32, name: &str) -> Option<RunId> {
        let path = self.folder.join(uid.to_string()).join(format!("{name}.json"));
        let runs = if is_name(name) { read_json::<Runs>(&path).ok()?.runs } else { Vec::new() };
        runs.into_iter().find(|id| registry.is_held(*id))
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !name.starts_with('.')
}

impl Claim {
    /// The lineage's name.
    pub fn name(&self) -> &str {
        &self.key.1
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.key.1))
    }

    fn choose(&mut self, store: &Store, runs: &[RunId]) {
        let of_user = |restart: &Restart| restart.uid == self.key.0;
        let known = runs.iter().rev().filter_map(|id| Some((Restart::read(store, *id).filter(of_user)?, *id)));
        let known: Vec<_> = known.map(|(restart, id)| (restart, KeptFactors::read(store, id))).collect();
        let was_read =
            |(_, kept): &&(Restart, Option<KeptFactors>)| kept.as_ref().is_some_and(|kept| kept.first_ns != 0);
        self.predecessor = known.iter().find(was_read).or_else(|| known.last()).cloned();
        self.lost = if self.predecessor.is_none() { runs.to_vec() } else { Vec::new() };
    }

    /// Keeps the run as the last one of the lineage, and `restart` beside its recording.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn keep(&self, store: &Store, restart: &Restart) -> Result<(), LineageError> {
        restart.keep(store)?;
        let path = self.folder.clone();
        let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(&path);
        made.map_err(|source| LineageError::Folder { path, source })?;
        self.forget_oldest();
        let runs = restart.predecessor.into_iter().chain([restart.run]).collect();
        Ok(write_json(&self.path(), &Runs { runs })?)
    }

    /// Takes back a run that was not started after all.
    pub fn take_back(&self) {
        let runs: Vec<RunId> = self.predecessor.iter().map(|(restart, _)| restart.run).collect();
        let done = match runs.is_empty() {
            true => fs::remove_file(self.path()).map_err(|error| error.to_string()),
            false => write_json(&self.path(), &Runs { runs }).map_err(|error| error.chain()),
        };
        if let Err(error) = done {
            tracing::warn!(lineage = self.key.1, error, "a run that was not started stays in its lineage");
        }
    }

    /// Makes room for one more.
    fn forget_oldest(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let own = self.path();
        let used = |path: &PathBuf| fs::metadata(path).and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let others = entries.flatten().map(|entry| entry.path()).filter(|path| *path != own);
        let mut others: Vec<(SystemTime, PathBuf)> = others.map(|path| (used(&path), path)).collect();
        others.sort();
        let most = LINEAGES_OF_USER - 1;
        for (_, path) in others.iter().take(others.len().saturating_sub(most)) {
            let _stays = fs::remove_file(path);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

const LINEAGE: &str = "lineage.json";
const UNREPORTED: &str = "unreported.json";

impl Restart {
    /// Of a run. `None`: it is of no lineage, or what is kept of that cannot be read.
    pub fn read(store: &Store, run: RunId) -> Option<Restart> {
        match read_json::<Restart>(&store.beside(run, LINEAGE)) {
            Ok(restart) if restart.run == run => Some(restart),
            Ok(_) => None,
            Err(error) if error.is_missing() => None,
            Err(error) => {
                tracing::warn!(%run, error = error.chain(), "it cannot be read which run this one continues");
                None
            }
        }
    }

    /// Keeps it beside the run's recording. Its differences count as not on record yet.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn keep(&self, store: &Store) -> Result<(), LineageError> {
        write_json(&store.beside(self.run, LINEAGE), self)?;
        if !self.changes.is_empty() {
            write_json(&store.beside(self.run, UNREPORTED), &())?;
        }
        Ok(())
    }

    /// The same, where its differences are not on record yet.
    pub fn unreported(store: &Store, run: RunId) -> Option<Restart> {
        if store.beside(run, UNREPORTED).exists() { Restart::read(store, run) } else { None }
    }

    /// Its differences are on record, and judged.
    pub fn reported(store: &Store, run: RunId) {
        // One that stays is reported twice.
        let _stays = fs::remove_file(store.beside(run, UNREPORTED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_attest::{Fact, Json, Table};

    fn restart(run: RunId, predecessor: Option<RunId>) -> Restart {
        let lineage = "bert".to_owned();
        Restart { run, uid: 1000, lineage, predecessor, start: Known::default(), changes: Vec::new() }
    }

    fn claim(folder: &std::path::Path, name: &str) -> Claim {
        let key = (1000, name.to_owned());
        Claim { folder: folder.to_owned(), key, starting: Arc::default(), predecessor: None, lost: Vec::new() }
    }

    fn run(store: &Store) -> RunId {
        let id = RunId(uuid::Uuid::now_v7());
        fs::create_dir_all(store.beside(id, "x").parent().unwrap()).unwrap();
        id
    }

    fn was_read(store: &Store, run: RunId) {
        let mut kept = KeptFactors::new(run);
        kept.first_ns = 1;
        let facts = [Fact::measured("run/cpu/count", "a test", Ok(Json::Int(4)))];
        kept.known.take(&facts, &Table::built_in().unwrap(), |_| true);
        kept.write(store).unwrap();
    }

    fn runs(claim: &Claim) -> Vec<RunId> {
        read_json::<Runs>(&claim.path()).map(|file| file.runs).unwrap_or_default()
    }

    #[test]
    fn a_run_that_was_held_and_killed_does_not_become_the_predecessor() {
        let dir = tempfile::tempdir().unwrap();
        let (store, folder) = (Store::open(dir.path()).unwrap(), dir.path().join("lineages/1000"));
        let (first, held, next) = (run(&store), run(&store), run(&store));
        let mut start = claim(&folder, "bert");
        start.keep(&store, &restart(first, None)).unwrap();
        was_read(&store, first);
        start.choose(&store, &runs(&start));
        assert_eq!(start.predecessor.as_ref().unwrap().0.run, first);
        start.keep(&store, &restart(held, Some(first))).unwrap();
        // It ended without a reading.
        start.choose(&store, &runs(&start));
        assert_eq!(start.predecessor.as_ref().unwrap().0.run, first);
        start.keep(&store, &restart(next, Some(first))).unwrap();
        was_read(&store, next);
        start.choose(&store, &runs(&start));
        assert_eq!((start.predecessor.as_ref().unwrap().0.run, runs(&start)), (next, vec![first, next]));
        start.take_back();
        assert_eq!(runs(&start), [next]);
    }

    #[test]
    fn a_run_of_another_user_and_one_that_is_lost_are_no_predecessors() {
        let dir = tempfile::tempdir().unwrap();
        let (store, folder) = (Store::open(dir.path()).unwrap(), dir.path().join("lineages/1000"));
        let mut start = claim(&folder, "bert");
        let (foreign, lost) = (run(&store), RunId(uuid::Uuid::now_v7()));
        start.keep(&store, &Restart { uid: 1001, ..restart(foreign, None) }).unwrap();
        was_read(&store, foreign);
        start.choose(&store, &[foreign, lost]);
        assert!(start.predecessor.is_none());
        assert_eq!(start.lost, [foreign, lost]);
    }

    #[test]
    fn what_is_not_on_record_yet_is_known_after_a_restart_of_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let (store, folder) = (Store::open(dir.path()).unwrap(), dir.path().join("lineages/1000"));
        let id = run(&store);
        let class = failsafe_core::event::FactorClass::Result;
        let change = FactorChange { path: "run/cpu/count".into(), old: Some("4".into()), new: None, class };
        let differs = Restart { changes: vec![change], ..restart(id, None) };
        claim(&folder, "bert").keep(&store, &differs).unwrap();
        assert_eq!(Restart::unreported(&store, id), Some(differs.clone()));
        Restart::reported(&store, id);
        assert_eq!((Restart::unreported(&store, id), Restart::read(&store, id)), (None, Some(differs)));
    }

    #[test]
    fn the_lineages_of_a_user_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let (store, folder) = (Store::open(dir.path()).unwrap(), dir.path().join("lineages/1000"));
        let id = run(&store);
        fs::create_dir_all(&folder).unwrap();
        for n in 0..LINEAGES_OF_USER + 3 {
            fs::write(folder.join(format!("{n}.json")), "{}").unwrap();
        }
        claim(&folder, "new").keep(&store, &restart(id, None)).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), LINEAGES_OF_USER);
        assert!(folder.join("new.json").exists());
    }
}

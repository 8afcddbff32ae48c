//! The live runs, by id and by the path of their cgroup. The run of a path is found by looking its ancestors up, so that the
//! time does not grow with the number of runs.

use super::LiveRun;
use failsafe_core::RunId;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

/// See the module.
#[derive(Default)]
pub(super) struct Live {
    runs: BTreeMap<RunId, Arc<LiveRun>>,
    /// Paths as `/proc/PID/cgroup` shows them. Two runs have the same one while the run of a cgroup that was removed ends.
    by_path: HashMap<PathBuf, Vec<RunId>>,
}

impl Live {
    pub fn insert(&mut self, run: Arc<LiveRun>) {
        self.remove(run.run.id);
        self.by_path.entry(run.cgroup.cgroup_path()).or_default().push(run.run.id);
        self.runs.insert(run.run.id, run);
    }

    pub fn remove(&mut self, id: RunId) {
        let Some(run) = self.runs.remove(&id) else { return };
        let path = run.cgroup.cgroup_path();
        if let Some(ids) = self.by_path.get_mut(&path) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_path.remove(&path);
            }
        }
    }

    pub fn get(&self, id: RunId) -> Option<&Arc<LiveRun>> {
        self.runs.get(&id)
    }

    pub fn ids(&self) -> impl Iterator<Item = RunId> + '_ {
        self.runs.keys().copied()
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<LiveRun>> {
        self.runs.values()
    }

    /// The run whose cgroup is this path or holds it; the innermost where runs are nested, the newest where two have one path.
    pub fn of_cgroup(&self, path: &Path) -> Option<&Arc<LiveRun>> {
        let id = path.ancestors().find_map(|ancestor| self.by_path.get(ancestor)?.last())?;
        self.runs.get(id)
    }
}

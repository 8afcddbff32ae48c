//! Which runs may have to be taken up, and what the records and the cgroups show of each.

use super::{Candidate, Known};
use crate::{
    platform::{Cgroup, CgroupError},
    runs::{
        Registry,
        adoption::{Kept, Logged, Place},
        checked,
        past::{History, differs, without_version},
        store::{ENDED_KEPT, Folder, KeptRun, MOST_PARTS, is_made, made_for},
    },
};
use failsafe_core::{Containment, RunId, input::Run};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, PoisonError},
};

impl Registry {
    /// Every run that the state folder has as not ended, that the audit log has as started and not ended, or that the kernel bounds.
    pub(super) fn candidates(
        &self,
        folders: &[(RunId, Folder)],
        roots: &BTreeSet<u64>,
        history: &History,
        boot_id: &str,
    ) -> Vec<Candidate> {
        let mut all: BTreeMap<RunId, Option<u64>> = BTreeMap::new();
        // Which run a bounded cgroup is of, by each of the records.
        let mut of_root: BTreeMap<u64, RunId> = BTreeMap::new();
        for (id, folder) in folders {
            match folder {
                Folder::Kept(kept) if kept.ended_ns.is_some() => {}
                Folder::Kept(kept) => {
                    all.insert(*id, None);
                    if kept.run.boot_id == boot_id {
                        of_root.insert(kept.run.cgroup_id, *id);
                    }
                }
                Folder::Unreadable(_) if history.of(*id).end.is_some() => {}
                Folder::Unreadable(_) | Folder::Missing => drop(all.insert(*id, None)),
            }
        }
        all.extend(history.open().filter(|run| run.boot_id == boot_id).map(|run| (run.id, None)));
        // The audit log counts before run.json.
        of_root.extend(roots.iter().filter_map(|root| Some((*root, history.of_cgroup(boot_id, *root)?.id))));
        let mut paths = BTreeMap::new();
        for root in roots {
            let id = of_root.get(root).copied().unwrap_or_else(|| {
                let path = self.root.open_id(*root).ok().flatten().map(|cgroup| cgroup.path().to_owned());
                let id = path.as_deref().and_then(made_for).unwrap_or_else(|| unknown(*root));
                paths.extend(path.map(|path| (id, path)));
                id
            });
            all.insert(id, Some(*root));
        }
        let candidate =
            |(id, root)| Candidate { id, root, path: paths.get(&id).cloned(), past: history.of(id), before: None };
        all.into_iter().map(candidate).collect()
    }

    /// Lists the runs that ended before, as the audit log has them; the result is what was found changed, in words.
    pub(super) fn list_ended(
        &self,
        folders: &[(RunId, Folder)],
        history: &History,
        candidates: &[Candidate],
    ) -> Vec<String> {
        let lives: BTreeSet<RunId> = candidates.iter().map(|candidate| candidate.id).collect();
        let (mut all, mut found) = (Vec::new(), Vec::new());
        for (id, folder) in folders.iter().filter(|(id, _)| !lives.contains(id)) {
            let Some((run, changed)) = checked::ended(*id, folder, &history.of(*id)) else { continue };
            if let Some(why) = run.unverified.as_ref().filter(|_| changed) {
                tracing::error!(run = %id, why, "the record of an ended run was changed");
                found.push(format!("{} ({id}): {why}", run.run.name));
            }
            all.push(run);
        }
        all.sort_by_key(|run| run.ended_ns);
        let older = all.len().saturating_sub(ENDED_KEPT);
        let all: Vec<_> = all.split_off(older).into_iter().map(Arc::new).collect();
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = all;
        found
    }

    /// What the records have of a candidate, and the one that counts.
    pub(super) fn known(&self, candidate: &Candidate) -> (Kept, Logged, Option<Known>) {
        let folder = self.store.folder(candidate.id);
        let past = &candidate.past;
        let start = past.start.as_ref();
        let part = self.store.last_part(candidate.id).max(past.part);
        let logged = |run: &Run| Known {
            run: run.clone(),
            part,
            policy_name: past.policy_name.as_deref().map(without_version).unwrap_or_default(),
            containment: Containment::default(),
        };
        match (folder, start) {
            (Folder::Kept(kept), Some(start)) => {
                match differs(&kept.run, start).or_else(|| kept.differs(past, part, is_made(start))) {
                    Some(what) => (Kept::Read, Logged::Differs(what), Some(logged(start))),
                    None => {
                        let known = Known { policy_name: kept.policy_name, ..logged(start) };
                        (Kept::Read, Logged::Present, Some(known))
                    }
                }
            }
            (Folder::Kept(kept), None) => {
                let (containment, part) = (kept.containment(), part.max(kept.part.min(MOST_PARTS)));
                let KeptRun { run, policy_name, .. } = *kept;
                (Kept::Read, Logged::Absent, Some(Known { run, part, policy_name, containment }))
            }
            (other, start) => {
                let kept = match other {
                    Folder::Unreadable(why) => Kept::Unreadable(why),
                    _ => Kept::Missing,
                };
                let known = start.map(logged);
                let logged = if known.is_some() { Logged::Present } else { Logged::Absent };
                (kept, logged, known)
            }
        }
    }

    /// The candidate's cgroup. With `certain`, the path that two records have for the id counts: a cgroup never moves.
    pub(super) fn locate(&self, candidate: &Candidate, run: Option<&Run>, certain: bool) -> (Place, Option<Cgroup>) {
        let Some(id) = candidate.root.or(run.map(|run| run.cgroup_id)) else { return (Place::Unknown, None) };
        let path = run.map(|run| PathBuf::from(&run.cgroup)).or_else(|| candidate.path.clone());
        let unreadable = |error: &CgroupError| (Place::Unreadable(error.chain()), None);
        let by_path = match path.map(|path| self.root.open_path(&path)) {
            Some(Ok(cgroup)) if cgroup.id() == id => Some(cgroup),
            Some(Ok(_)) if certain => return (Place::Gone, None),
            Some(Err(error)) if certain && error.is_vanished() => return (Place::Gone, None),
            Some(Err(error)) if certain => return unreadable(&error),
            _ => None,
        };
        let cgroup = match by_path.map_or_else(|| self.root.open_id(id), |cgroup| Ok(Some(cgroup))) {
            Ok(Some(cgroup)) => cgroup,
            Ok(None) => return (Place::Gone, None),
            Err(error) => return unreadable(&error),
        };
        match cgroup.events() {
            Ok(events) if events.populated => (Place::Populated, Some(cgroup)),
            Ok(_) => (Place::Empty, Some(cgroup)),
            Err(error) if error.is_vanished() => (Place::Gone, None),
            Err(error) => (Place::Unreadable(error.chain()), Some(cgroup)),
        }
    }
}

/// The id of a run that no record names: the same at each start, and no other run's.
fn unknown(root: u64) -> RunId {
    let [first, rest @ ..] = root.to_be_bytes();
    let mut bytes = [0; 16];
    bytes[0] = first;
    bytes[9..].copy_from_slice(&rest);
    RunId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

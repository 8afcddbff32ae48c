//! A run that is not judged again: it has ended, or it is guarded because neither its end nor its state is proved.

use super::{Candidate, Known, Now};
use crate::{
    actuators::cgroup::thaw,
    guard::PreviousRun,
    platform::{Cgroup, clock},
    runs::{
        RELEASE, Registry,
        departed::{Before, Departed, Named},
        guarded::GuardedRun,
        start::sole_owner,
        store::made_for,
    },
};
use failsafe_core::{
    MonoTime, PolicyDigest, RunId,
    input::{Contained, Run},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Instant,
};

impl Registry {
    /// Lets a run go that has ended; what is known of its end is to be recorded. With an error the end is not proved: somebody came
    /// into the cgroup.
    pub(super) fn let_go(
        &self,
        candidate: &Candidate,
        known: Option<Known>,
        cgroup: Option<&Cgroup>,
        previous: Option<&PreviousRun>,
        why: &str,
        now: &Now<'_>,
    ) -> Result<Option<Box<Departed>>, String> {
        if let Some(cgroup) = cgroup {
            if made_for(cgroup.path()) == Some(candidate.id) {
                // The kernel refuses while anybody lives in it. Until it is gone, somebody can enter: its bounds stay.
                cgroup
                    .remove_tree()
                    .map_err(|error| format!("its cgroup is empty but cannot be removed: {}", error.chain()))?;
            } else if candidate.past.containment.is_frozen() {
                let _thawed = thaw(cgroup, &[], Instant::now() + RELEASE);
            }
            match cgroup.events() {
                Ok(events) if events.populated => {
                    return Err("a process came into its cgroup while its end was recorded".into());
                }
                Err(error) if !error.is_vanished() => {
                    return Err(format!("its cgroup cannot be read: {}", error.chain()));
                }
                _ => {}
            }
        }
        let before = Before {
            past: &candidate.past,
            guarded: candidate.before.as_deref(),
            previous,
            rebooted: known.as_ref().is_some_and(|known| known.run.boot_id != now.boot_id),
            watches: known
                .as_ref()
                .is_some_and(|known| self.store.policy(&known.run.policy).is_ok_and(|policy| !policy.watch.is_empty())),
            sees: self.kernel.blind().is_none(),
        };
        let (run, named) = match known {
            Some(Known { run, part, policy_name, .. }) => {
                let decisions = candidate.past.decisions;
                (run, Some(Named { policy_name, part, decisions }))
            }
            // No record names it. Where programs bounded it, or people saw it as guarded, its end is recorded all the same.
            None if previous.is_some() || candidate.before.is_some() => {
                let root = previous.map(|previous| previous.root_id);
                (placeholder(candidate.id, root, cgroup, now.boot_id), None)
            }
            None => return Ok(None),
        };
        Ok(Some(Box::new(Departed::new(run, named, why, &before))))
    }

    pub(super) fn guard(
        &self,
        candidate: Candidate,
        known: Option<Known>,
        cgroup: Option<Cgroup>,
        (root, latch, observed): (Option<u64>, bool, Option<bool>),
        (why, full): (String, bool),
        boot_id: &str,
    ) -> GuardedRun {
        let before = candidate.before;
        // A command may have come since the candidate was made.
        let mut past = before.as_ref().map_or(candidate.past, |before| before.past().clone());
        past.guarded = true;
        let (missed, since, seen) = match &before {
            Some(before) => (before.missed(), before.since, before.seen_ns()),
            None => (0, MonoTime(clock::monotonic_ns()), None),
        };
        let (part, policy_name) =
            known.as_ref().map_or((0, String::new()), |known| (known.part, known.policy_name.clone()));
        let run = known.map_or_else(|| placeholder(candidate.id, root, cgroup.as_ref(), boot_id), |known| known.run);
        let guarded = GuardedRun {
            run,
            policy_name,
            why,
            cgroup,
            part,
            since,
            full,
            root,
            observed,
            latched: latch,
            missed: AtomicU64::new(missed),
            seen: AtomicI64::new(seen.unwrap_or_default()),
            past: Mutex::new(past),
        };
        // Notes when somebody was in it.
        let _noted = guarded.is_empty();
        guarded
    }
}

/// What is known of a run that no record names.
fn placeholder(id: RunId, root: Option<u64>, cgroup: Option<&Cgroup>, boot_id: &str) -> Run {
    let path = cgroup.map(|cgroup| cgroup.cgroup_path());
    let owner = cgroup.and_then(|cgroup| sole_owner(cgroup).ok().flatten());
    let cgroup_id = root.or(cgroup.map(Cgroup::id)).unwrap_or_default();
    let number = if cgroup_id > 0 { cgroup_id.to_string() } else { id.to_string() };
    Run {
        id,
        name: format!("unknown-{number}"),
        labels: BTreeMap::new(),
        owner_uid: owner.unwrap_or(0),
        cgroup: path.map(|path| path.strip_prefix("/").unwrap_or(&path).display().to_string()).unwrap_or_default(),
        cgroup_id,
        boot_id: boot_id.to_owned(),
        policy: PolicyDigest([0; 32]),
        gpus: BTreeSet::new(),
        mig: BTreeMap::new(),
        registered: MonoTime(clock::monotonic_ns()),
        registered_wall_ns: clock::wall_ns(),
        decisions: 0,
        incidents: 0,
        contained: Contained::default(),
    }
}

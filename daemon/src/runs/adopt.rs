//! Taking up the runs that an earlier daemon left: what the state folder, the audit log and the kernel have, against what is found now.
//!
//! ```text
//! run.json, audit log, pins ─► candidates ─► facts ─► adoption::decide ─► judged | guarded | ended
//!                                  ▲                                           │
//!                                  └────────── tried again (watchers/keep.rs) ◄─────────┘
//! ```
//! Nothing is blindly repeated. An action with no outcome on record is looked at: found done, it is recorded as such; found undone, the
//! core sees it fail, and decides again.
//!
//! Invariants: the pins of a run go only when it was attached anew or its end is proved; a run that was bounded is in the registry
//! afterwards, live or guarded.

mod candidates;
mod judged;
mod left_events;
mod unjudged;

use super::{
    LiveRun, Registry,
    adoption::{self, Facts, Kept, Logged, Pins, Place, Plan},
    departed::Departed,
    guarded::{GuardedRun, gap},
    past::{History, Past},
};
use crate::{guard::PreviousRun, log::Log, platform::CgroupRoot};
use failsafe_core::{
    Containment, Input, Outcome, RunId,
    discover::is_discovered,
    input::{Gap, Run},
    record::Record,
    signal::Real,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, PoisonError},
};

/// A run that was taken up again.
pub struct Adopted {
    /// The run.
    pub live: Arc<LiveRun>,
    /// From when on this daemon's own programs see it, `CLOCK_MONOTONIC` ns.
    pub attached: u64,
    /// What was found, in words.
    pub found: String,
    /// Until when it is known to have been frozen, where somebody else thawed it since; as [`Record::RunAdopted`] has it.
    pub frozen_until_ns: Option<u64>,
    /// Outcomes of what had been left open.
    pub outcomes: Vec<Outcome>,
    /// What nobody saw, or will see.
    pub gaps: Vec<Gap>,
    /// The numbers of its manifest, as the log has them.
    pub manifest: BTreeMap<String, Real>,
}

/// What came of trying to take runs up.
#[derive(Default)]
pub struct Pass {
    /// Those that are judged from now on.
    pub adopted: Vec<Adopted>,
    /// Gaps, and events that nobody read, of these.
    pub inputs: Vec<Input>,
    /// Records that were found changed, in words.
    pub changed: Vec<String>,
}

/// A run that may have to be taken up.
#[derive(Debug)]
struct Candidate {
    id: RunId,
    /// The cgroup that earlier daemons' programs bound, where it is this run's by a record or by the cgroup's name.
    root: Option<u64>,
    /// Its path, where no record has it.
    path: Option<PathBuf>,
    past: Past,
    /// As it was guarded until now.
    before: Option<Arc<GuardedRun>>,
}

/// What is known of a candidate by a record.
#[derive(Debug, Clone)]
struct Known {
    run: Run,
    /// The number of its last recording.
    part: u32,
    policy_name: String,
    /// How it was contained when `run.json` was written, where the audit log does not have the run's start.
    containment: Containment,
}

/// What a pass goes by.
struct Now<'a> {
    log: &'a Log,
    boot_id: &'a str,
    previous: Result<Vec<PreviousRun>, String>,
}

enum AdoptionResult {
    Adopted(Box<Adopted>),
    Guarded(Box<GuardedRun>),
    /// `None`: nothing is to be recorded of it.
    Ended(Option<Box<Departed>>),
}

impl Registry {
    /// Takes up every run that earlier daemons left in this boot, as the state folder, the audit log or the kernel has it. Those that
    /// ended are recorded as such; those that can neither be taken up nor are proved to have ended are guarded.
    pub fn adopt(&self, log: &Log, boot_id: &str) -> Pass {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Now { log, boot_id, previous: self.kernel.previous() };
        let mut unlisted = Vec::new();
        let folders = self.store.folders().unwrap_or_else(|error| {
            unlisted.push(format!("kept runs are known by the audit log and the kernel alone: {}", error.chain()));
            Vec::new()
        });
        if let Err(why) = &now.previous {
            unlisted.push(format!(
                "the pins of earlier daemons cannot be read: runs that only they name stay bounded and are not listed: {why}"
            ));
        }
        unlisted.iter().for_each(|what| tracing::error!(what, "not all runs of earlier daemons are known"));
        let ids: BTreeSet<RunId> = folders.iter().map(|(id, _)| *id).collect();
        let roots: BTreeSet<u64> = now.previous.iter().flatten().map(|run| run.root_id).collect();
        let history = History::read(log.path(), boot_id, &ids, &roots);
        if history.is_whole() {
            now.log.know_open(history.open().filter(|run| run.boot_id == boot_id).map(|run| run.id));
        }
        let candidates = self.candidates(&folders, &roots, &history, boot_id);
        let ended = self.list_ended(&folders, &history, &candidates);
        let mut pass = self.pass(candidates, &now);
        pass.changed.extend(unlisted.into_iter().chain(ended));
        pass
    }

    /// The same for the runs that are guarded.
    pub fn adopt_again(&self, log: &Log, boot_id: &str) -> Pass {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Now { log, boot_id, previous: self.kernel.previous() };
        let candidate = |run: Arc<GuardedRun>| {
            let path = run.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
            let past = run.past().clone();
            Candidate { id: run.run.id, root: run.root, path, past, before: Some(run) }
        };
        let candidates = self.guarded().into_iter().map(candidate).collect();
        self.pass(candidates, &now)
    }

    fn pass(&self, candidates: Vec<Candidate>, now: &Now<'_>) -> Pass {
        let (mut pass, mut departed) = (Pass::default(), Vec::new());
        for candidate in candidates {
            let (id, before) = (candidate.id, candidate.before.clone());
            let found = self.take_up(candidate, now, &mut pass.changed);
            let mut guarded = self.guarded.write().unwrap_or_else(PoisonError::into_inner);
            match found {
                AdoptionResult::Adopted(run) => {
                    guarded.remove(&id);
                    pass.adopted.push(*run);
                }
                AdoptionResult::Ended(Some(run)) => departed.push(*run),
                AdoptionResult::Ended(None) => {
                    self.store.forget_bare(id);
                    guarded.remove(&id);
                }
                AdoptionResult::Guarded(run) => {
                    if before.is_none_or(|before| before.why != run.why) {
                        tracing::error!(run = %id, name = run.run.name, why = run.why, "a run is guarded, not judged");
                        now.log.record(&Record::Gap(run.gap()), Some(id), None);
                    }
                    guarded.insert(id, Arc::new(*run));
                }
            }
            drop(guarded);
            self.touched.note(id);
        }
        // What cannot be read cannot be let go either.
        let left =
            if now.previous.is_ok() { self.kernel.release_previous(&self.bounded(&departed)) } else { Vec::new() };
        let gaps = pass.adopted.iter().flat_map(|run| run.gaps.iter().cloned().map(Input::Gap));
        let gaps: Vec<Input> = gaps.collect();
        let manifests = pass.adopted.iter_mut().filter(|run| !run.manifest.is_empty());
        let manifests: Vec<Input> = manifests
            .map(|Adopted { live, manifest, .. }| {
                let Run { id: run, registered: at, .. } = live.run;
                Input::Manifest { run, values: std::mem::take(manifest), at }
            })
            .collect();
        let events = left.into_iter().flat_map(|left| self.left_inputs(left, &pass.adopted, &mut departed));
        pass.inputs = manifests.into_iter().chain(gaps).chain(events).collect();
        for run in departed {
            let id = run.run().id;
            self.depart(run, now.log);
            // Last: whoever asks meanwhile finds it.
            self.guarded.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
            self.touched.note(id);
        }
        pass
    }

    /// The cgroups that earlier daemons' programs go on bounding.
    fn bounded(&self, departed: &[Departed]) -> BTreeSet<u64> {
        let left = |root: &u64| departed.iter().any(|run| run.is_of(*root));
        self.guarded().iter().filter_map(|run| run.root).filter(|root| !left(root)).collect()
    }

    /// One candidate: its facts, what they come to, and that done.
    fn take_up(&self, mut candidate: Candidate, now: &Now<'_>, changed: &mut Vec<String>) -> AdoptionResult {
        let (kept, logged, known) = self.known(&candidate);
        // A log without the run's start may lack its decisions too: then what run.json has is kept in force.
        if let Some(known) = known.as_ref().filter(|_| candidate.before.is_none() && candidate.past.decisions == 0)
            && candidate.past.containment.is_empty()
        {
            candidate.past.containment = known.containment.clone();
        }
        if let Some(known) = &known {
            now.log.owned(known.run.id, known.run.owner_uid);
        }
        let run = known.as_ref().map(|known| &known.run);
        let earlier_boot = run.is_some_and(|run| run.boot_id != now.boot_id);
        let previous = now.previous.as_ref().map(|all| {
            let root = candidate.root.or_else(|| run.filter(|_| !earlier_boot).map(|run| run.cgroup_id));
            all.iter().find(|previous| Some(previous.root_id) == root)
        });
        let pins = match &previous {
            Ok(Some(_)) => Pins::Held,
            Ok(None) => Pins::None,
            Err(why) => Pins::Unreadable((*why).clone()),
        };
        let certain = kept == Kept::Read && logged == Logged::Present;
        let (place, cgroup) = if earlier_boot && pins == Pins::None {
            (Place::Unknown, None)
        } else {
            self.locate(&candidate, run, certain)
        };
        // The scheduler of a discovered run can fill its cgroup again: the run ends when the cgroup is removed.
        let place = match place {
            Place::Empty if run.is_some_and(|run| is_discovered(&run.labels)) => Place::Refillable,
            place => place,
        };
        let policy = match run {
            Some(run) if matches!(place, Place::Populated | Place::Refillable) => {
                self.store.policy(&run.policy).map_err(|e| e.chain())
            }
            Some(_) => Err("it was not read".into()),
            None => Err("its digest is not known".into()),
        };
        // The beginning of a discovered run is not in the log while its owner's budget is spent.
        let summed_up =
            matches!(logged, Logged::Absent) && known.as_ref().is_some_and(|known| is_discovered(&known.run.labels));
        let facts = Facts {
            kept,
            logged,
            ended: candidate.past.end.is_some(),
            earlier_boot,
            pins,
            place,
            policy: policy.as_ref().map(drop).map_err(Clone::clone),
        };
        let previous = previous.ok().flatten();
        let root = previous.map(|previous| previous.root_id).or(candidate.root);
        let latch = previous.is_some_and(|previous| previous.latch != 0);
        let observed = previous.and_then(PreviousRun::observes);
        let (why, full) = match (adoption::decide(&facts), known.clone(), policy, &cgroup) {
            (Plan::End(why), known, ..) => match self.let_go(&candidate, known, cgroup.as_ref(), previous, &why, now) {
                Ok(departed) => return AdoptionResult::Ended(departed),
                Err(why) => (why, false),
            },
            (Plan::Guard(why), ..) => (why, false),
            (Plan::Judge { by, remark }, Some(known), Ok(policy), Some(cgroup)) => {
                tracing::debug!(run = %known.run.id, ?by, "a run is taken up");
                match self.judge(&candidate, known, policy, previous, cgroup) {
                    Ok(adopted) => {
                        let (id, counted) = (adopted.live.run.id, self.totals_of(&adopted.live));
                        now.log.tallying().with(|tally| tally.adopted(id, counted));
                        if let Some(remark) = remark.filter(|_| !summed_up) {
                            let run = &adopted.live.run;
                            tracing::error!(run = %run.id, remark, "the records of a run do not agree");
                            changed.push(format!("{} ({}): {remark}", run.name, run.id));
                            now.log.record(&Record::Gap(gap(run.id, remark, false)), Some(run.id), None);
                        }
                        return AdoptionResult::Adopted(Box::new(adopted));
                    }
                    Err((why, full)) => (why, full),
                }
            }
            (Plan::Judge { .. }, ..) => ("its record, policy or cgroup is missing".into(), false),
        };
        AdoptionResult::Guarded(Box::new(self.guard(
            candidate,
            known,
            cgroup,
            (root, latch, observed),
            (why, full),
            now.boot_id,
        )))
    }

    /// The cgroup2 mount.
    pub fn root(&self) -> &CgroupRoot {
        &self.root
    }
}

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

use super::{
    LiveRun, Registry,
    adoption::{self, Facts, Kept, Logged, Pins, Place, Plan},
    checked,
    departed::{Before, Departed, Named},
    guarded::{GuardedRun, gap},
    outage,
    past::{History, Past, differs, without_version},
    reobserved::{FoundFreeze, reobserved},
    start::{Origin, StartError},
    store::{ENDED_KEPT, Folder, KeptRun, MOST_PARTS, is_made, made_for},
    translate,
};
use crate::{
    actuators::cgroup::thaw,
    guard::{Holder, LeftEvents, PreviousRun},
    log::Log,
    platform::{Cgroup, CgroupRoot, clock},
    sensors::ebpf::{self, EventReader, RunCounters},
};
use failsafe_core::{
    Action, Containment, Input, MonoTime, Outcome, Policy, PolicyDigest, RunId,
    discover::is_discovered,
    input::{Contained, Gap, Run},
    record::{Record, Totals},
    signal::Real,
    time::Span,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Instant,
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
    /// The cgroup that earlier daemons' programs bound, where a record or the cgroup's name says that it is this run's.
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

    /// Lists the runs that ended before, as the audit log has them; the result is what was found changed, in words.
    fn list_ended(&self, folders: &[(RunId, Folder)], history: &History, candidates: &[Candidate]) -> Vec<String> {
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

    /// Every run that the state folder has as not ended, that the audit log has as started and not ended, or that the kernel bounds.
    fn candidates(
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

    /// The events that an earlier daemon's programs wrote or noted and nobody read, of the runs that were taken up, up to the
    /// instant from which this daemon's own programs see them. Those of guarded runs are counted, those of `departed` runs noted.
    fn left_inputs(&self, left: LeftEvents, adopted: &[Adopted], departed: &mut [Departed]) -> Vec<Input> {
        let mut runs: BTreeMap<(u32, u32), (RunId, u64)> = BTreeMap::new();
        let mut ended: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        let mut passed_over: BTreeMap<(u32, u32), Arc<GuardedRun>> = BTreeMap::new();
        let guarded = self.guarded();
        let mut inputs = Vec::new();
        for previous in &left.runs {
            let place = (previous.slot, previous.epoch);
            if let Some(run) = adopted.iter().find(|a| a.live.run.cgroup_id == previous.root_id) {
                runs.insert(place, (run.live.run.id, run.attached));
            } else if let Some(nth) = departed.iter().position(|run| run.is_of(previous.root_id)) {
                ended.insert(place, nth);
            } else if let Some(run) = guarded.iter().find(|run| run.root == Some(previous.root_id)) {
                passed_over.insert(place, run.clone());
            }
        }
        let mut judge = |event: ebpf::Event| {
            let place = (event.slot, event.epoch);
            // While it was being attached both rings may have an event: seen twice is better than not at all.
            if let Some((run, attached)) = runs.get(&place)
                && event.at_ns < *attached
            {
                inputs.extend(translate::event_of(&self.kernel, *run, event));
            } else if let Some(run) = ended.get(&place).and_then(|nth| departed.get_mut(*nth)) {
                if let Some(input) = translate::event_of(&self.kernel, run.run().id, event) {
                    run.takes(&input);
                }
            } else if let Some(run) = passed_over.get(&place) {
                run.missed.fetch_add(1, Ordering::Relaxed);
            }
        };
        let leavers = left.leavers();
        EventReader::of(left.ring).drain(&mut judge);
        leavers.into_iter().map(ebpf::leaving).for_each(&mut judge);
        if !inputs.is_empty() {
            tracing::info!(events = inputs.len(), "events of the time without a daemon are judged now");
        }
        inputs
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
        AdoptionResult::Guarded(Box::new(self.guard(candidate, known, cgroup, (root, latch), (why, full), now.boot_id)))
    }

    /// What was counted of a run in its life so far.
    fn totals_of(&self, live: &LiveRun) -> Option<Totals> {
        let counted = self.kernel.totals(live.slot, live.epoch)?;
        Some(RunCounters::from(counted).totals())
    }

    /// What the records have of a candidate, and the one that counts.
    fn known(&self, candidate: &Candidate) -> (Kept, Logged, Option<Known>) {
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
    fn locate(&self, candidate: &Candidate, run: Option<&Run>, certain: bool) -> (Place, Option<Cgroup>) {
        let Some(id) = candidate.root.or(run.map(|run| run.cgroup_id)) else { return (Place::Unknown, None) };
        let path = run.map(|run| PathBuf::from(&run.cgroup)).or_else(|| candidate.path.clone());
        let unreadable = |error: &crate::platform::CgroupError| (Place::Unreadable(error.chain()), None);
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

    /// Lets a run go that has ended; what is known of its end is to be recorded. With an error the end is not proved: somebody came
    /// into the cgroup.
    fn let_go(
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
                let _thawed = thaw(cgroup, &[], Instant::now() + super::RELEASE);
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

    fn guard(
        &self,
        candidate: Candidate,
        known: Option<Known>,
        cgroup: Option<Cgroup>,
        (root, latch): (Option<u64>, bool),
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
            latched: latch,
            missed: AtomicU64::new(missed),
            seen: AtomicI64::new(seen.unwrap_or_default()),
            past: Mutex::new(past),
        };
        // Notes when somebody was in it.
        let _noted = guarded.is_empty();
        guarded
    }

    fn judge(
        &self,
        candidate: &Candidate,
        known: Known,
        policy: Policy,
        before: Option<&PreviousRun>,
        cgroup: &Cgroup,
    ) -> Result<Adopted, (String, bool)> {
        let now = MonoTime(clock::monotonic_ns());
        let Known { mut run, part, .. } = known;
        // By the cgroup that was found: what a record says of it may have been changed.
        let made = made_for(cgroup.path()) == Some(run.id);
        let past = match &candidate.before {
            Some(before) => before.past().clone(),
            None => candidate.past.clone(),
        };
        let mine = cgroup.try_clone().map_err(|e| (e.chain(), false))?;
        let unread = |e: crate::platform::CgroupError| (format!("its cgroup cannot be read: {}", e.chain()), false);
        let requested = cgroup.freeze_requested().map_err(unread)?;
        let found_frozen = requested && cgroup.events().map_err(unread)?.frozen;
        let latch = before.is_some_and(|p| p.latch != 0) || past.containment.is_latched();
        let seen = FoundFreeze { requested, proved: found_frozen };
        let mut found = vec![seen.words(past.containment.is_frozen()).to_owned()];
        if latch {
            found.push("egress latch on".into());
        }
        run.decisions = past.decisions;
        run.incidents = past.incidents;
        // An open thaw explains a frozen run: it was not carried out.
        let thawing = past.open.iter().any(|(_, action)| *action == Action::Thaw);
        let unexplained = requested && !past.containment.is_frozen() && !thawing;
        run.contained = Contained { frozen: past.containment.is_frozen() || requested, blocked: latch, unexplained };
        let recalled = past.containment.clone().found(run.contained, found_frozen, now);
        // Sensors have been silent about it since its last daemon, not since it began: silence counts from now.
        run.registered = now;
        let mut outcomes: Vec<Outcome> =
            past.open.iter().map(|(decision, action)| reobserved(decision, *action, seen, latch, now)).collect();
        let open_freeze = outcomes.iter().any(|o| o.action == Action::Freeze);
        let thawed = past.containment.is_frozen() && !requested && !open_freeze;
        if thawed {
            found.push("it was thawed by someone else while no daemon watched".into());
        }
        let run_id = run.id;
        let origin = Origin { made, holder: holder_of(&run), part: part.saturating_add(1), recalled };
        let live = self.enter(run, Arc::new(policy), mine, origin).map_err(|error| {
            let full = matches!(&error, StartError::Store(error) if error.is_full());
            (format!("it cannot be taken up: {error}"), full)
        })?;
        let attached = clock::monotonic_ns();
        let outage = self.kernel.outage(live.slot);
        found.extend(outage.as_ref().and_then(|outage| outage::found(outage, now)));
        let last_look = outage.as_ref().and_then(|outage| outage.since_ns);
        let frozen_until_ns = (thawed && past.frozen.is_frozen()).then(|| last_look.unwrap_or_default());
        if outage.as_ref().is_none_or(|outage| outage.lost < past.lost_told) {
            self.kernel.count_lost(live.slot, past.lost_told);
        }
        let told = (past.lost_told, self.kernel.watches_calls(live.slot));
        let mut gaps = match &outage {
            Some(outage) => outage::gaps(outage, run_id, told, now),
            None if self.kernel.blind().is_none() => vec![outage::unguarded(run_id, now)],
            None => Vec::new(),
        };
        if let Some(guarded) = &candidate.before {
            let for_how_long = Span(now.0.saturating_sub(guarded.since.0));
            let missed = guarded.missed();
            let what = format!(
                "it is judged again, after {for_how_long} without: {missed} events of that time were passed over"
            );
            gaps.push(gap(run_id, what, false));
        }
        {
            let mut status = live.status();
            // The guard looks at once, and tells of a foreign thaw.
            status.frozen = past.frozen;
            if let Some(until) = frozen_until_ns {
                status.frozen.was_thawed(until, now.0);
            }
            if live.run.contained.frozen {
                status.frozen.begins(now.0);
            } else if past.frozen.is_frozen() {
                status.frozen.ends(now.0);
            }
            status.incident = (live.run.contained.frozen || latch)
                .then(|| failsafe_core::decision::IncidentId::new(live.run.id, live.run.incidents.max(1)));
        }
        outcomes.sort_by_key(|o| o.decision);
        let manifest = past.manifest;
        Ok(Adopted { live, attached, found: found.join("; "), frozen_until_ns, outcomes, gaps, manifest })
    }

    /// The cgroup2 mount.
    pub fn root(&self) -> &CgroupRoot {
        &self.root
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

/// What is known of a run that no record names.
fn placeholder(id: RunId, root: Option<u64>, cgroup: Option<&Cgroup>, boot_id: &str) -> Run {
    let path = cgroup.map(|cgroup| cgroup.cgroup_path());
    let owner = cgroup.and_then(|cgroup| super::start::sole_owner(cgroup).ok().flatten());
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

/// Where an adopted run is counted.
fn holder_of(run: &Run) -> Holder {
    match run.labels.contains_key(failsafe_core::discover::LABEL) {
        true => Holder::AdoptedDiscovered(run.owner_uid),
        false => Holder::Adopted(run.owner_uid),
    }
}

//! The list of runs as it was seen last, and how it is brought up to date.
//!
//! Invariants: runs are looked at and converted while nobody holds the list; of two looks at one run, what the later one saw stays.

use super::super::{convert, list::all_runs};
use crate::runs::{FoundRun, NO_UID, Registry, grants::grants, touched::Look};
use failsafe_core::{RunId, changes::Changes, policy::assurance::Grants};
use failsafe_proto::v1::{self, RunChange};
use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// Runs that are not listed any more and are remembered, so that who goes on from before learns of it.
const REMOVED: usize = 1_024;

/// A run as it is after its last change.
#[derive(Debug)]
pub(super) struct ListedRun {
    pub looked: Looked,
    pub change: RunChange,
    /// The look that it is of.
    turn: u64,
}

/// A run as it was looked at.
#[derive(Debug, Clone)]
pub(super) struct Looked {
    pub id: RunId,
    /// None: not known.
    pub owner_uid: Option<u32>,
    pub labels: BTreeMap<String, String>,
    pub run: v1::Run,
}

/// The list as it was seen last.
#[derive(Debug)]
pub struct RunChanges {
    /// Held for as long as what was looked at is put into it, and while changes are chosen: never while runs are looked at.
    view: Mutex<View>,
    /// Held by who looks first, when there is no list yet.
    beginning: Mutex<()>,
    /// Looks so far, and those that are under way.
    turns: AtomicU64,
    busy: AtomicUsize,
    /// Somebody has chosen changes while a look was under way: it is to be woken.
    late: AtomicBool,
}

#[derive(Debug)]
pub(in super::super) struct View {
    pub(super) runs: Changes<RunId, ListedRun>,
    removed: VecDeque<RunId>,
    begun: bool,
}

/// Where runs are looked at.
trait Runs {
    /// What is to be looked at.
    fn take(&self) -> Look;
    /// A run; none: it is not listed any more.
    fn one(&self, id: RunId) -> Option<Looked>;
    /// All of them.
    fn all(&self) -> Vec<Looked>;
    /// This run is to be looked at again.
    fn again(&self, id: RunId);
    /// Has all look again who watch.
    fn wake(&self);
}

struct Registered<'a>(&'a Registry, OnceCell<Grants>);

impl Registered<'_> {
    fn looked(&self, found: &FoundRun) -> Looked {
        let of = found.run();
        let owner_uid = Some(of.owner_uid).filter(|uid| *uid != NO_UID);
        let grants = self.1.get_or_init(|| grants(self.0.kernel()));
        Looked { id: of.id, owner_uid, labels: of.labels.clone(), run: convert::run(self.0, found, grants) }
    }
}

impl Runs for Registered<'_> {
    fn take(&self) -> Look {
        self.0.touched().take()
    }

    fn one(&self, id: RunId) -> Option<Looked> {
        self.0.of_id(id).map(|found| self.looked(&found))
    }

    fn all(&self) -> Vec<Looked> {
        all_runs(self.0).values().map(|found| self.looked(found)).collect()
    }

    fn again(&self, id: RunId) {
        self.0.touched().note(id);
    }

    fn wake(&self) {
        self.0.touched().wake();
    }
}

impl RunChanges {
    /// Of a daemon that started then: revisions count from that time on, in microseconds. A program that has only doubles for
    /// numbers reads them exactly (they are below 2^53 until the year 2255).
    pub fn new(started_ns: i64) -> RunChanges {
        let runs = Changes::after(first(started_ns));
        RunChanges {
            view: Mutex::new(View { runs, removed: VecDeque::new(), begun: false }),
            beginning: Mutex::default(),
            turns: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            late: AtomicBool::new(false),
        }
    }

    /// The list as it is now. What somebody else is looking at is in it when this one is woken again.
    pub(super) fn look(&self, registry: &Registry) -> MutexGuard<'_, View> {
        self.look_at(&Registered(registry, OnceCell::new()))
    }

    fn look_at(&self, runs: &impl Runs) -> MutexGuard<'_, View> {
        if !self.view().begun {
            let _beginning = self.beginning.lock().unwrap_or_else(PoisonError::into_inner);
            self.take_in(runs);
        } else {
            self.take_in(runs);
        }
        if self.busy.load(Ordering::SeqCst) > 0 {
            self.late.store(true, Ordering::SeqCst);
        }
        // Later: what was put in before the look above ended is in it.
        self.view()
    }

    /// Looks at what may have changed, and puts it into the list.
    fn take_in(&self, runs: &impl Runs) {
        // Before anything is taken: who finds nothing to look at knows that somebody looks.
        let beside = self.busy.fetch_add(1, Ordering::SeqCst);
        let look = runs.take();
        if look != Look::At(Default::default()) {
            let turn = self.turns.fetch_add(1, Ordering::SeqCst) + 1;
            let new = match look {
                Look::At(ids) => {
                    let looked: Vec<_> = ids.into_iter().map(|id| (id, runs.one(id))).collect();
                    self.view().put_some(looked, turn)
                }
                Look::AtAll => {
                    let all = runs.all();
                    self.view().put_all(all, turn)
                }
            };
            // Another look may have seen the end of one of these, of which the list had nothing.
            if beside > 0 || self.busy.load(Ordering::SeqCst) > 1 {
                new.into_iter().for_each(|id| runs.again(id));
            }
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
        if self.late.swap(false, Ordering::SeqCst) {
            runs.wake();
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn first(started_ns: i64) -> u64 {
    u64::try_from(started_ns / 1_000).unwrap_or_default()
}

impl View {
    /// What became of these runs. Those that the list did not have.
    fn put_some(&mut self, looked: Vec<(RunId, Option<Looked>)>, turn: u64) -> Vec<RunId> {
        let mut new = Vec::new();
        for (id, looked) in looked {
            match looked {
                Some(looked) => new.extend(self.saw(looked, turn).then_some(id)),
                None => self.gone(id, turn),
            }
        }
        new
    }

    /// These are all runs.
    fn put_all(&mut self, looked: Vec<Looked>, turn: u64) -> Vec<RunId> {
        let ids: BTreeSet<RunId> = looked.iter().map(|looked| looked.id).collect();
        let gone: Vec<RunId> = self.runs.iter().map(|(id, _)| id).filter(|id| !ids.contains(id)).collect();
        gone.into_iter().for_each(|id| self.gone(id, turn));
        let new = looked.into_iter().filter_map(|looked| {
            let id = looked.id;
            self.saw(looked, turn).then_some(id)
        });
        let new = new.collect();
        self.begun = true;
        new
    }

    /// Whether the list did not have it.
    fn saw(&mut self, looked: Looked, turn: u64) -> bool {
        let id = looked.id;
        let known = self.runs.get(id);
        // A later look was faster.
        if known.is_some_and(|seen| seen.turn > turn) {
            return false;
        }
        let was_removed = known.is_some_and(|seen| seen.change == RunChange::Removed);
        let before = known.filter(|_| !was_removed).map(|seen| &seen.looked.run);
        let is_new = before.is_none();
        let change = match before {
            _ if !self.begun => RunChange::Present,
            // It ended before anybody saw it.
            None if looked.run.state() == v1::RunState::Ended => RunChange::Ended,
            None => RunChange::Started,
            Some(before) => match change(before, &looked.run) {
                Some(change) => change,
                None => return false,
            },
        };
        if was_removed {
            self.removed.retain(|removed| *removed != id);
        }
        self.put(ListedRun { looked, change, turn });
        is_new
    }

    fn gone(&mut self, id: RunId, turn: u64) {
        let known = self.runs.get(id).filter(|seen| seen.change != RunChange::Removed && seen.turn <= turn);
        let Some(before) = known else { return };
        let Looked { owner_uid, labels, run: v1::Run { id: text, name, owner_uid: shown, .. }, .. } = &before.looked;
        let run = v1::Run { id: text.clone(), name: name.clone(), owner_uid: *shown, ..Default::default() };
        let looked = Looked { id, owner_uid: *owner_uid, labels: labels.clone(), run };
        self.put(ListedRun { looked, change: RunChange::Removed, turn });
        self.removed.push_back(id);
        if self.removed.len() > REMOVED
            && let Some(oldest) = self.removed.pop_front()
        {
            self.runs.forget(oldest);
        }
    }

    fn put(&mut self, seen: ListedRun) {
        // What is there at first is not a change: nobody can have seen a revision before.
        let revision = if self.begun { self.runs.last().saturating_add(1) } else { self.runs.last() };
        self.runs.put(seen.looked.id, revision, Arc::new(seen));
    }
}

/// What of a run makes a change of the list.
fn stands(run: &v1::Run) -> v1::Run {
    let step = |step: &v1::ContainmentStep| v1::ContainmentStep {
        measure: step.measure.clone(),
        desired: step.desired,
        verdict: step.verdict,
        ..Default::default()
    };
    v1::Run {
        state: run.state,
        blocked: run.blocked,
        incident: run.incident.clone(),
        guarded: run.guarded.clone(),
        guarded_frozen: run.guarded_frozen,
        containment_error: run.containment_error.clone(),
        observed: run.observed,
        mode_behind: run.mode_behind.clone(),
        not_bounded: run.not_bounded,
        owner_uid: run.owner_uid,
        containment: run.containment.iter().map(step).collect(),
        ..Default::default()
    }
}

fn change(before: &v1::Run, now: &v1::Run) -> Option<RunChange> {
    let (old, new) = (stands(before), stands(now));
    // Nothing changes of a run that has ended, though more becomes known of it.
    if old == new || old.state() == v1::RunState::Ended {
        return None;
    }
    let contains = |step: &v1::ContainmentStep| step.desired && !old.containment.contains(step);
    Some(if new.state() == v1::RunState::Ended {
        RunChange::Ended
    } else if new.containment.iter().any(contains) || new.blocked && !old.blocked {
        RunChange::Contained
    } else {
        RunChange::State
    })
}

#[cfg(test)]
mod tests;

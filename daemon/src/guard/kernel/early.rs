//! Cgroups that the kernel binds when they are made: the slots that it may give away.
//!
//! Invariant: a slot that was offered is nobody else's until its run has ended or was released.

use super::{Compiled, Kernel, KernelError, MAX_RUNS, Needs, Place};
use crate::{
    causes::chain,
    guard::{left::PreviousRun, provisional::Provisional},
};
use failsafe_core::discover::Automaton;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, PoisonError, RwLock},
};

/// What was bound and is not registered.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// Slots that were offered, until the run in them is registered and judged.
    awaited: RwLock<BTreeSet<Place>>,
    /// Cgroups that earlier daemons' programs bound and no daemon registered: they stay bound by them until discovery was here.
    left: Mutex<Left>,
}

/// See [`Early::left`].
#[derive(Debug, Default)]
struct Left {
    roots: BTreeSet<u64>,
    /// Those that discovery did not register and that are not proved to be let go yet, with the processes that a rule has stopped.
    letting_go: BTreeMap<u64, Vec<u32>>,
    /// Discovery was here, and all were let go: nothing is kept any more, also what those programs bound afterwards.
    is_retired: bool,
}

/// What came of [`Kernel::retire_early`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Retirement {
    /// The cgroups that nothing bounds any more, each with the processes in it that a rule has stopped by a signal.
    pub released: Vec<(u64, Vec<u32>)>,
    /// Why it has to be tried again, in words.
    pub problem: Option<String>,
}

/// What the kernel counted since the daemon started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EarlyCounts {
    /// Cgroups that were bound when they were made.
    pub bound: u64,
    /// Those that matched and were not, for want of a slot.
    pub exhausted: u64,
    /// Those for which the map of runs had no room.
    pub failed: u64,
}

impl Early {
    /// Notes those of earlier daemons that no daemon registered, until discovery was here; the answer is the others.
    pub(super) fn without_left(&self, previous: Vec<PreviousRun>) -> Vec<PreviousRun> {
        let (provisional, others): (Vec<_>, Vec<_>) = previous.into_iter().partition(|run| run.provisional);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if !left.is_retired {
            left.roots.extend(provisional.iter().map(|run| run.root_id));
        }
        others
    }

    /// The cgroups that stay bound by earlier daemons' programs.
    pub(super) fn left(&self) -> BTreeSet<u64> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).roots.clone()
    }

    /// Takes in what came of letting them go. `found`: those that were bound before; `bound`: what is bound now, `None` if that is not
    /// known. The answer is those that are let go. With `is_retired` none stays from here on.
    fn let_go(&self, found: Vec<PreviousRun>, bound: Option<&BTreeSet<u64>>, is_retired: bool) -> Vec<(u64, Vec<u32>)> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.letting_go.extend(found.into_iter().map(|run| (run.root_id, run.stopped)));
        let is_bound = |root: &u64| bound.is_none_or(|bound| bound.contains(root));
        let (stay, gone) = std::mem::take(&mut left.letting_go).into_iter().partition(|(root, _)| is_bound(root));
        let gone: BTreeMap<_, _> = gone;
        left.roots.retain(|root| !is_retired && !gone.contains_key(root));
        left.letting_go = stay;
        left.is_retired = is_retired;
        gone.into_iter().collect()
    }

    /// The slot is nobody's.
    pub(super) fn forget(&self, slot: u32) {
        self.awaited.write().unwrap_or_else(PoisonError::into_inner).retain(|place| place.slot != slot);
    }
}

impl Kernel {
    /// Attaches what binds cgroups when they are made, see [`crate::guard::Ebpf::arm_early`].
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn arm_early(&self, automaton: &Automaton, root: &Path, levels: BTreeSet<u8>) -> Result<(), String> {
        let Some(mut ebpf) = self.lock() else { return Err(self.blind().unwrap_or_default().into()) };
        ebpf.arm_early(automaton, root, levels).map_err(|error| chain(&error))
    }

    /// Gives a rule of discovery the tables that its cgroups begin with; `None`: the kernel does not bind them.
    ///
    /// # Errors
    /// [`KernelError`]: it does not bind them then.
    pub fn set_early(&self, rule: u32, compiled: Option<Compiled>) -> Result<(), KernelError> {
        let Some(mut ebpf) = self.lock() else { return Ok(()) };
        let holder = MAX_RUNS + rule;
        let wrong = |error| KernelError::Ebpf(chain(&error));
        let Some(Compiled { egress, rules, watch, tables, .. }) = compiled else {
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&holder);
            return ebpf.set_early(rule, holder, None).map_err(wrong);
        };
        drop(ebpf);
        // The programs that are attached on request are there before the first run of the rule.
        let needs = Needs { reserved: true, ..self.needs(&rules) };
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(holder, needs);
        let Some(mut ebpf) = self.lock() else { return Ok(()) };
        let all = self.union(None);
        let ready = ebpf.require_refusals(all.refused).and_then(|()| ebpf.require_sights(all.sights));
        let ready = ready.and_then(|()| ebpf.require_syscalls(all.calls, all.entries).map(drop));
        ready.and_then(|()| ebpf.set_early(rule, holder, Some((&egress, &rules, watch, tables)))).map_err(wrong)
    }

    /// Offers slots until the kernel has `most`.
    ///
    /// # Errors
    /// There is no slot, or a map could not be written.
    pub fn offer_early(&self, most: u32) -> Result<(), KernelError> {
        let wanting = self.lock().map(|ebpf| ebpf.wanting_early(most)).unwrap_or_default();
        for at in wanting {
            let slot = self.take_slot(Needs { reserved: true, ..Needs::default() })?;
            let Some(mut ebpf) = self.lock() else { return Ok(()) };
            match ebpf.offer_early(at, slot, |epoch| {
                let mut awaited = self.early.awaited.write().unwrap_or_else(PoisonError::into_inner);
                awaited.insert(Place { slot, epoch });
            }) {
                Ok(()) => {}
                Err(error) => {
                    drop(ebpf);
                    self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
                    return Err(KernelError::Ebpf(chain(&error)));
                }
            }
        }
        Ok(())
    }

    /// Whether an earlier daemon's programs bound the cgroup when it was made, and no daemon has registered it yet.
    pub fn is_left(&self, cgroup_id: u64) -> bool {
        self.early.left.lock().unwrap_or_else(PoisonError::into_inner).roots.contains(&cgroup_id)
    }

    /// Discovery has registered what it had to: earlier daemons' programs bind no new cgroups, and let those go that they had bound and
    /// nobody registered. What else they bound stays as it is. Whoever calls this continues the stopped processes of those that are let
    /// go, and calls it again where something failed: until then the others count as bound.
    pub fn retire_early(&self) -> Retirement {
        let Some(mut ebpf) = self.lock() else {
            self.early.let_go(Vec::new(), Some(&BTreeSet::new()), true);
            return Retirement::default();
        };
        let detached = ebpf.retire_early();
        let previous = match ebpf.previous_runs() {
            Ok(previous) => previous,
            Err(error) => return Retirement { released: Vec::new(), problem: Some(chain(&error)) },
        };
        let (provisional, others): (Vec<_>, Vec<_>) = previous.into_iter().partition(|run| run.provisional);
        let keep = others.iter().map(|run| run.root_id).collect();
        let done = match provisional.is_empty() {
            true => detached,
            false => ebpf.release_previous(&keep).and(detached),
        };
        let bound: Option<BTreeSet<u64>> = match done {
            Ok(()) => Some(BTreeSet::new()),
            // Some of them may have been let go all the same.
            Err(_) => ebpf.previous_runs().ok().map(|runs| runs.into_iter().map(|run| run.root_id).collect()),
        };
        let mut released = self.early.let_go(provisional, bound.as_ref(), done.is_ok());
        // Those that discovery has registered have their stopped processes from there.
        released.retain(|(root, _)| !ebpf.bounds(*root));
        Retirement { released, problem: done.err().map(|error| chain(&error)) }
    }

    /// The provisional run of a cgroup: slot and epoch.
    pub fn provisional(&self, cgroup_id: u64) -> Option<(u32, u32)> {
        self.lock()?.provisional(cgroup_id).map(|cfg| (cfg.slot, cfg.epoch))
    }

    /// All provisional runs.
    pub fn all_provisional(&self) -> Vec<Provisional> {
        let Some(mut ebpf) = self.lock() else { return Vec::new() };
        ebpf.all_provisional().unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "which cgroups the kernel has bound cannot be read");
            Vec::new()
        })
    }

    /// Lets a provisional run go; `None`: the cgroup has none. Also the processes that a rule has stopped by a signal: whoever lets the run
    /// go continues them.
    ///
    /// # Errors
    /// A map could not be written.
    pub fn release_early(&self, cgroup_id: u64) -> Result<Option<(Provisional, Vec<u32>)>, KernelError> {
        let Some(mut ebpf) = self.lock() else { return Ok(None) };
        let released = ebpf.release_early(cgroup_id).map_err(|error| KernelError::Ebpf(chain(&error)))?;
        if let Some((Provisional { slot, epoch, .. }, _)) = released {
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
            self.awaits_no_more(slot, epoch);
        }
        Ok(released)
    }

    /// What the kernel counted.
    pub fn early_counts(&self) -> EarlyCounts {
        let seen = self.lock().and_then(|mut ebpf| ebpf.early_seen().ok());
        seen.map_or_else(EarlyCounts::default, |seen| EarlyCounts {
            bound: seen.bound,
            exhausted: seen.exhausted,
            failed: seen.failed,
        })
    }

    /// Whether the run in this place, if there is one, is not registered yet: its events are to be held.
    pub fn awaits(&self, slot: u32, epoch: u32) -> bool {
        let awaited = self.early.awaited.read().unwrap_or_else(PoisonError::into_inner);
        awaited.contains(&Place { slot, epoch })
    }

    /// The run in this place is registered and the engine has it, or it was released.
    pub fn awaits_no_more(&self, slot: u32, epoch: u32) {
        self.early.awaited.write().unwrap_or_else(PoisonError::into_inner).remove(&Place { slot, epoch });
    }
}

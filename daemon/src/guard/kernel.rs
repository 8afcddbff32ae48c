//! The kernel side of runs: slots of the eBPF maps, and the run of each slot.
//!
//! Owns the loaded programs behind one lock, which whoever adds, removes or counts runs may hold for as long as that
//! takes: no thread that freezes takes it. What such a thread needs has a lock of its own, held for microseconds: the
//! latches, the heartbeat, which run a slot is, and how its policy calls things. Where eBPF could not be loaded the daemon
//! works on without it and says so: what needs it refuses to pin.

mod compiling;
mod early;
mod names;
mod report;

use super::ebpf::Ebpf;
use super::error::Error;
use super::handles::{Heartbeat, Latches};
use super::kernel_quota::{Holder, QuotaError};
use super::left::{LeftEvents, Outage, PreviousRun};
use super::live::RunSpec;
use super::own::Own;
use super::refusals::Sights;
use super::totals::Counted;
use crate::{causes::chain, redact::Redactor};
use failsafe_core::RunId;
use failsafe_ebpf::abi::{self, point};
use failsafe_matchers::{
    calls::ALL_CALLS,
    rules::{Rules, Use},
};
use names::Called;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicUsize},
};

pub use compiling::Compiled;
pub use early::{EarlyCounts, Retirement};
pub use names::DeviceNames;

/// Runs that can live at once.
pub const MAX_RUNS: u32 = 1_024;

/// A slot and which of its occupants is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    slot: u32,
    epoch: u32,
}

/// What a run needs of the programs that are attached on request.
#[derive(Debug, Clone, Copy, Default)]
struct Needs {
    /// Watched calls.
    calls: u64,
    /// Calls that are refused, see [`Ebpf::require_refusals`].
    refused: u64,
    /// The entry of every call, see [`Ebpf::require_syscalls`].
    entries: bool,
    /// See [`Ebpf::require_sights`].
    sights: Sights,
    /// It is of no run: a slot that the kernel may give away, or what runs of a rule of discovery will need.
    reserved: bool,
}

/// Where a run lives, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    /// Root of the run.
    pub cgroup: &'a Path,
    /// Its cgroup id.
    pub cgroup_id: u64,
    /// Its depth below the root of the hierarchy.
    pub level: usize,
    /// In which share of the kernel's tables it is counted.
    pub holder: Holder,
}

/// Where a run was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its slot.
    pub slot: u32,
    /// Which occupant of the slot.
    pub epoch: u32,
}

/// Why the kernel does not take a run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// All slots are in use.
    #[error("{MAX_RUNS} runs live already, no more can be watched")]
    Full,
    /// The owner may not use that much of the kernel's tables.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// The programs refused it.
    #[error("cannot attach the run's programs: {0}")]
    Ebpf(String),
    /// The policy's files could not be looked at.
    #[error("{0}")]
    Compile(String),
    /// The policy needs programs, and there are none.
    #[error("eBPF is not available: {0}")]
    Blind(String),
}

/// The loaded programs, or why there are none; and the slots.
pub struct Kernel {
    ebpf: Result<Mutex<Ebpf>, String>,
    latches: Option<Arc<Latches>>,
    heartbeat: Option<Arc<Heartbeat>>,
    slots: Mutex<BTreeMap<u32, Needs>>,
    runs: RwLock<BTreeMap<Place, RunId>>,
    names: RwLock<BTreeMap<RunId, Arc<Called>>>,
    compiling: Arc<AtomicUsize>,
    early: early::Early,
    redactor: Redactor,
    /// Has every attachment fail.
    #[cfg(test)]
    pub(crate) refuses: std::sync::atomic::AtomicBool,
    /// Has the next attachment fail.
    #[cfg(test)]
    pub(crate) refuses_once: std::sync::atomic::AtomicBool,
    /// Has every making of tables fail.
    #[cfg(test)]
    pub(crate) compiles_not: std::sync::atomic::AtomicBool,
}

impl Kernel {
    /// Takes the programs over.
    pub fn new(ebpf: Result<Ebpf, String>) -> Kernel {
        let latches = ebpf.as_ref().ok().map(Ebpf::latches);
        let heartbeat = ebpf.as_ref().ok().map(Ebpf::heartbeat);
        Kernel {
            ebpf: ebpf.map(Mutex::new),
            latches,
            heartbeat,
            slots: Mutex::default(),
            runs: RwLock::default(),
            names: RwLock::default(),
            compiling: Arc::default(),
            early: early::Early::default(),
            redactor: Redactor::default(),
            #[cfg(test)]
            refuses: std::sync::atomic::AtomicBool::default(),
            #[cfg(test)]
            refuses_once: std::sync::atomic::AtomicBool::default(),
            #[cfg(test)]
            compiles_not: std::sync::atomic::AtomicBool::default(),
        }
    }

    /// The same with another table of what is a secret.
    #[must_use]
    pub fn with_redactor(self, redactor: Redactor) -> Kernel {
        Kernel { redactor, ..self }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Ebpf>> {
        self.ebpf.as_ref().ok().map(|e| e.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What of an event belongs to which run.
    pub fn run_of(&self, slot: u32, epoch: u32) -> Option<RunId> {
        self.runs.read().unwrap_or_else(PoisonError::into_inner).get(&Place { slot, epoch }).copied()
    }

    /// Gives a run a slot and attaches its programs; from here on its cgroup is watched and bounded. `adopted` is the least
    /// latch of a run that earlier daemons had: what their programs hold and counted is taken over.
    ///
    /// # Errors
    /// [`KernelError`]; nothing is then left behind.
    pub fn add(
        &self,
        run: RunId,
        compiled: Compiled,
        home: Home<'_>,
        adopted: Option<u32>,
    ) -> Result<Placed, KernelError> {
        #[cfg(test)]
        self.fails_in_a_test()?;
        let Compiled { egress, rules, watch, budgets, argv, tables, learnt, reserve } = compiled;
        let needs = self.needs(&rules);
        let Some(mut ebpf) = self.lock() else { return Ok(Placed { slot: self.take_slot(needs)?, epoch: 0 }) };
        // Bound by the kernel when its cgroup was made: it stays in that slot. Nobody else puts a run there before this lock is released.
        let slot = match ebpf.provisional(home.cgroup_id) {
            Some(early) => early.slot,
            None => self.take_slot(needs)?,
        };
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, needs);
        let spec = RunSpec {
            slot,
            cgroup: home.cgroup,
            cgroup_id: home.cgroup_id,
            level: u32::try_from(home.level).unwrap_or(u32::MAX),
            holder: home.holder,
            egress: &egress,
            rules: &rules,
            watch,
            learnt: &learnt,
            latch: adopted.unwrap_or(0),
            adopt: adopted.is_some() || self.is_left(home.cgroup_id),
        };
        let all = self.union(None);
        // The last sign of life may be as old as the loading of the programs was long: a run does not begin orphaned.
        self.beat();
        let ready = ebpf.require_refusals(all.refused).and_then(|()| ebpf.require_sights(all.sights));
        let added = ready.and_then(|()| ebpf.add_compiled(&spec, tables, &reserve)).and_then(|placed| {
            let watched = ebpf.require_syscalls(all.calls, all.entries).map(|_| placed);
            watched.inspect_err(|_| drop(ebpf.remove_run(slot)))
        });
        match added {
            Ok(placed) => {
                let place = Place { slot, epoch: placed.epoch };
                let called = Called { budgets, files: placed.names, devices: placed.devices, argv };
                self.names.write().unwrap_or_else(PoisonError::into_inner).insert(run, Arc::new(called));
                self.runs.write().unwrap_or_else(PoisonError::into_inner).insert(place, run);
                Ok(Placed { slot, epoch: placed.epoch })
            }
            Err(error) => {
                let _released = ebpf.require_refusals(self.union(Some(slot)).refused);
                let unbound = ebpf.release_early(home.cgroup_id);
                drop(ebpf);
                match unbound {
                    // Nothing is left behind in the slot, which is free from here on.
                    Ok(_) => {
                        self.early.forget(slot);
                        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
                    }
                    // The kernel may still bind the cgroup by it: discovery looks for such runs, and releases this one.
                    Err(error) => {
                        tracing::error!(
                            slot,
                            error = chain(&error),
                            "the slot of a run that was refused is not free yet"
                        );
                    }
                }
                match error {
                    Error::Quota(refused) => Err(KernelError::Quota(refused)),
                    error => Err(KernelError::Ebpf(chain(&error))),
                }
            }
        }
    }

    /// Replaces what is refused and watched of a run, in one step: each call is judged by the old tables or by the new ones.
    ///
    /// # Errors
    /// [`KernelError`]; the old ones stay in force.
    pub fn replace(&self, run: RunId, (slot, epoch): (u32, u32), compiled: Compiled) -> Result<(), KernelError> {
        #[cfg(test)]
        self.fails_in_a_test()?;
        let Compiled { egress, rules, watch, budgets, argv, tables, reserve, .. } = compiled;
        let needs = self.needs(&rules);
        let Some(mut ebpf) = self.lock() else { return Ok(()) };
        if !ebpf.is_occupant(slot, epoch) {
            return Err(KernelError::Ebpf("the run has ended".into()));
        }
        let before = self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, needs);
        let all = self.union(None);
        let called = Called { budgets, files: tables.rules.names.clone(), devices: tables.rules.devices.clone(), argv };
        let ready = ebpf.require_refusals(all.refused).and_then(|()| ebpf.require_sights(all.sights));
        let ready = ready.and_then(|()| ebpf.require_syscalls(all.calls, all.entries).map(drop));
        let replaced = ready.and_then(|()| ebpf.replace(slot, (&egress, &rules, watch), tables, &reserve));
        if let Err(error) = replaced {
            if let Some(before) = before {
                self.slots.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, before);
            }
            return match error {
                Error::Quota(refused) => Err(KernelError::Quota(refused)),
                error => Err(KernelError::Ebpf(chain(&error))),
            };
        }
        self.names.write().unwrap_or_else(PoisonError::into_inner).insert(run, Arc::new(called));
        Ok(())
    }

    #[cfg(test)]
    fn fails_in_a_test(&self) -> Result<(), KernelError> {
        use std::sync::atomic::Ordering;
        match self.refuses.load(Ordering::Relaxed) || self.refuses_once.swap(false, Ordering::Relaxed) {
            true => Err(KernelError::Ebpf("a test has it fail".into())),
            false => Ok(()),
        }
    }

    /// What a run with these rules needs of the programs that all runs share.
    fn needs(&self, rules: &Rules) -> Needs {
        Needs {
            calls: rules.watch & ALL_CALLS,
            refused: rules.deny & ALL_CALLS,
            entries: self.needs_entries(rules),
            sights: Sights::of(rules),
            reserved: false,
        }
    }

    /// Whether rules on files, memory, privileges or sockets must be seen at the entry of the calls, for want of the hooks that can refuse.
    fn needs_entries(&self, rules: &Rules) -> bool {
        let memory = 1 << point::MEM_ANONYMOUS | 1 << point::MEM_WRITE_EXEC;
        let files = rules.paths.iter().any(|rule| rule.usage != Use::Exec);
        let loaded = |name| self.lock().is_some_and(|ebpf| ebpf.is_loaded(name));
        let marked = rules.watch | rules.deny | rules.stop;
        (files && !loaded("fs_lsm_file_open"))
            || (marked & memory != 0 && !loaded("fs_lsm_mmap_file"))
            || (marked & 1 << point::PRIV_USERNS != 0 && !loaded("fs_lsm_userns_create"))
            || (marked & 1 << point::PRIV_SETUID != 0 && !loaded("fs_lsm_task_fix_setuid"))
            || (!rules.families.is_empty() && !loaded("fs_lsm_socket_create"))
    }

    fn take_slot(&self, mask: Needs) -> Result<u32, KernelError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (0..MAX_RUNS).find(|slot| !slots.contains_key(slot)).ok_or(KernelError::Full)?;
        slots.insert(free, mask);
        Ok(free)
    }

    /// What all runs need, but for the one that leaves.
    fn union(&self, leaves: Option<u32>) -> Needs {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let stay = slots.iter().filter(|(slot, _)| Some(**slot) != leaves);
        stay.fold(Needs::default(), |all, (_, needs)| Needs {
            calls: all.calls | needs.calls,
            refused: all.refused | needs.refused,
            entries: all.entries || needs.entries,
            sights: all.sights.and(needs.sights),
            reserved: false,
        })
    }

    /// Detaches a run; watched calls that no other run needs are no longer watched. The slot is free for another run only when
    /// nothing of this one is left in it.
    pub fn remove(&self, slot: u32) {
        if let Some(mut ebpf) = self.lock() {
            if let Err(error) = ebpf.remove_run(slot) {
                tracing::warn!(error = chain(&error), "a run's pins could not all be removed");
            }
            let all = self.union(Some(slot));
            let released = ebpf.require_syscalls(all.calls, all.entries).map(drop);
            if let Err(error) = released.and(ebpf.require_refusals(all.refused)).and(ebpf.require_sights(all.sights)) {
                tracing::warn!(error = chain(&error), "programs that no run needs could not be released");
            }
            drop(ebpf);
            let of_slot: Vec<RunId> = {
                let mut runs = self.runs.write().unwrap_or_else(PoisonError::into_inner);
                runs.extract_if(.., |place, _| place.slot == slot).map(|(_, run)| run).collect()
            };
            for run in of_slot {
                let gone = self.names.write().unwrap_or_else(PoisonError::into_inner).remove(&run);
                // Freed when no lock is held.
                drop(gone);
            }
        }
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
    }

    /// Turns the egress latch, and reads it back. Waits for nobody but others who do this.
    ///
    /// # Errors
    /// The kernel's reason, that the slot is another run's by now, or that there is no eBPF.
    pub fn set_block(&self, slot: u32, epoch: u32, blocked: bool) -> Result<(), KernelError> {
        match &self.latches {
            Some(latches) => latches.set_block(slot, epoch, blocked).map_err(|e| KernelError::Ebpf(chain(&e))),
            None => Err(KernelError::Blind(self.blind().unwrap_or_default().into())),
        }
    }

    /// Whether the run is latched, as the kernel has it; `None` where that cannot be read.
    pub fn is_blocked(&self, slot: u32) -> Option<bool> {
        self.latches.as_ref()?.read(slot).ok().map(|latch| latch != 0)
    }

    /// Counters of every live run, with the run they belong to.
    pub fn counters(&self) -> Result<Vec<(RunId, Counted)>, String> {
        let Some(mut ebpf) = self.lock() else { return Ok(Vec::new()) };
        let counters = ebpf.sample_counters().map_err(|e| chain(&e))?;
        drop(ebpf);
        Ok(counters.into_iter().filter_map(|c| Some((self.run_of(c.slot, c.epoch)?, c))).collect())
    }

    /// What was counted of one run in its life. `None`: there is no eBPF, another run has the slot, or the maps cannot be read.
    pub fn totals(&self, slot: u32, epoch: u32) -> Option<Counted> {
        let counters = self.lock()?.read_counters_of(slot).inspect_err(|error| {
            tracing::warn!(error = chain(error), "the counters of a run that has ended cannot be read");
        });
        counters.ok().filter(|counted| counted.epoch == epoch)
    }

    /// What a run sent within each of its budgets, and packets beyond them, in the order of its policy. `None`: as for
    /// [`Kernel::totals`].
    pub fn budgets_used(&self, slot: u32, epoch: u32, budgets: usize) -> Option<Vec<(u64, u64)>> {
        let ebpf = self.lock()?;
        ebpf.read_counters_of(slot).ok().filter(|counted| counted.epoch == epoch)?;
        let used = ebpf.budgets_used(slot, budgets).inspect_err(|error| {
            tracing::warn!(error = chain(error), "the budgets of a run cannot be read");
        });
        used.ok()
    }

    /// Who left a run while the ring was full, by process id.
    pub fn leavers(&self) -> Vec<(u32, abi::Leaver)> {
        let Some(mut ebpf) = self.lock() else { return Vec::new() };
        ebpf.take_leavers().unwrap_or_else(|error| {
            tracing::warn!(error = chain(&error), "who left while the ring was full cannot be read");
            Vec::new()
        })
    }

    /// Lifts what a stop rule latched and wakes whom it stopped, for a run that is to go on.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn release(&self, slot: u32, epoch: u32, blocked: bool) -> Result<Vec<u32>, KernelError> {
        let Some(mut ebpf) = self.lock() else { return Ok(Vec::new()) };
        if !ebpf.is_occupant(slot, epoch) {
            return Err(KernelError::Ebpf("the run has ended".into()));
        }
        let released = ebpf.lift_stop(slot, blocked).and_then(|()| ebpf.take_stopped(slot));
        released.map_err(|e| KernelError::Ebpf(chain(&e)))
    }

    /// Puts failsafe's own files out of the reach of runs.
    pub fn guard_own(&self, own: &Own) {
        if let Some(mut ebpf) = self.lock()
            && let Err(error) = ebpf.guard_own(own)
        {
            tracing::error!(
                error = chain(&error),
                "not all of failsafe's own files are out of the reach of runs of root"
            );
        }
    }

    /// The daemon's sign of life to the programs. Waits for nobody.
    pub fn beat(&self) {
        if let Some(heartbeat) = &self.heartbeat
            && let Err(error) = heartbeat.beat()
        {
            tracing::error!(error = chain(&error), "the heartbeat cannot be written");
        }
    }

    /// Runs that earlier daemons left guarded, by the cgroup id of their root.
    ///
    /// # Errors
    /// Their pins cannot be read, in words.
    pub fn previous(&self) -> Result<Vec<PreviousRun>, String> {
        let Some(ebpf) = self.lock() else { return Ok(Vec::new()) };
        ebpf.previous_runs().map(|all| self.early.without_left(all)).map_err(|error| chain(&error))
    }

    /// Every adopted run is attached: the attachments of earlier daemons may go, but for those of runs with their root in `keep`.
    /// Returns the events that wait in their rings.
    pub fn release_previous(&self, keep: &BTreeSet<u64>) -> Vec<LeftEvents> {
        let Some(mut ebpf) = self.lock() else { return Vec::new() };
        let left = ebpf.left_events();
        let mut kept = self.early.left();
        kept.extend(keep);
        if let Err(error) = ebpf.release_previous(&kept) {
            tracing::warn!(error = chain(&error), "an earlier daemon's pins stay, which is safe");
        }
        left
    }

    /// What was counted of a run that was taken up, while no daemon looked.
    pub fn outage(&self, slot: u32) -> Option<Outage> {
        self.lock()?.outage(slot)
    }

    /// Lets a run's losses count on from those that the audit log has, where no earlier programs tell of them.
    pub fn count_lost(&self, slot: u32, lost: u64) {
        if let Some(mut ebpf) = self.lock()
            && let Err(error) = ebpf.count_lost(slot, lost)
        {
            tracing::warn!(error = chain(&error), "the losses of a run count from nothing again");
        }
    }

    /// On a stop with no runs left: removes everything from the kernel. With runs, their guards stay in force.
    pub fn close(self) {
        let idle = self.slots.lock().unwrap_or_else(PoisonError::into_inner).values().all(|needs| needs.reserved);
        if let (true, Ok(ebpf)) = (idle, self.ebpf) {
            let ebpf = ebpf.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = ebpf.unload() {
                tracing::warn!(error = chain(&error), "pins could not be removed");
            }
        }
    }
}

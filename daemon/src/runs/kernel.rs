//! The kernel side of the runs: slots in the eBPF maps, and whose they are.
//!
//! Owns the loaded programs behind one lock; a control path, never an event path. Where eBPF could not be loaded the
//! daemon works on without it and says so: what needs it refuses to pin.

use crate::sensors::ebpf::{
    self, Ebpf, EgressMode, EgressPolicy, EgressRule, ProgramStatus, RunCounters, RunSpec, Via, Watch, WatchedCall,
    rules::Rules,
};
use failsafe_core::{
    Mode, Policy, RunId,
    policy::{EgressAllow, Protocol},
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
};

/// Runs that can live at once.
pub const MAX_RUNS: u32 = 1_024;

/// A slot and which of its occupants is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    slot: u32,
    epoch: u32,
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
    /// The programs refused it.
    #[error("cannot attach the run's programs: {0}")]
    Ebpf(String),
    /// The policy needs programs, and there are none.
    #[error("eBPF is not available: {0}")]
    Blind(String),
}

/// The loaded programs, or why there are none; and the slots.
pub struct Kernel {
    ebpf: Result<Mutex<Ebpf>, String>,
    slots: Mutex<BTreeMap<u32, u64>>,
    runs: RwLock<BTreeMap<Place, RunId>>,
}

impl Kernel {
    /// Takes the programs over.
    pub fn new(ebpf: Result<Ebpf, String>) -> Kernel {
        Kernel { ebpf: ebpf.map(Mutex::new), slots: Mutex::default(), runs: RwLock::default() }
    }

    /// Why there is no eBPF; `None` when there is.
    pub fn blind(&self) -> Option<&str> {
        self.ebpf.as_ref().err().map(String::as_str)
    }

    fn lock(&self) -> Option<MutexGuard<'_, Ebpf>> {
        self.ebpf.as_ref().ok().map(|e| e.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What of an event belongs to which run.
    pub fn run_of(&self, slot: u32, epoch: u32) -> Option<RunId> {
        self.runs.read().unwrap_or_else(PoisonError::into_inner).get(&Place { slot, epoch }).copied()
    }

    /// Gives a run a slot and attaches its programs; from here on its cgroup is watched and bounded.
    ///
    /// # Errors
    /// [`KernelError`]; nothing is then left behind.
    pub fn add(
        &self,
        run: RunId,
        policy: &Policy,
        cgroup: &Path,
        cgroup_id: u64,
        level: usize,
        blocked: bool,
    ) -> Result<Placed, KernelError> {
        let mask = watched(policy);
        let slot = self.take_slot(mask)?;
        let Some(mut ebpf) = self.lock() else { return Ok(Placed { slot, epoch: 0 }) };
        let egress = egress(policy);
        let rules = Rules { watch: mask, ..Rules::default() };
        let spec = RunSpec {
            slot,
            cgroup,
            cgroup_id,
            level: u32::try_from(level).unwrap_or(u32::MAX),
            egress: &egress,
            rules: &rules,
            watch: Watch { exec: true, life: true, net: true },
            latch: u32::from(blocked),
        };
        let all = self.union();
        let added = ebpf.add_run(&spec).and_then(|placed| match ebpf.require_syscalls(all) {
            Ok(_) => Ok(placed),
            Err(error) => {
                let _detached = ebpf.remove_run(slot);
                Err(error)
            }
        });
        match added {
            Ok(placed) => {
                let place = Place { slot, epoch: placed.epoch };
                self.runs.write().unwrap_or_else(PoisonError::into_inner).insert(place, run);
                Ok(Placed { slot, epoch: placed.epoch })
            }
            Err(error) => {
                drop(ebpf);
                self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
                Err(KernelError::Ebpf(chain(&error)))
            }
        }
    }

    fn take_slot(&self, mask: u64) -> Result<u32, KernelError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let free = (0..MAX_RUNS).find(|slot| !slots.contains_key(slot)).ok_or(KernelError::Full)?;
        slots.insert(free, mask);
        Ok(free)
    }

    fn union(&self) -> u64 {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).values().fold(0, |all, mask| all | mask)
    }

    /// Detaches a run; watched calls that no other run needs are no longer watched.
    pub fn remove(&self, slot: u32) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot);
        if let Some(mut ebpf) = self.lock() {
            if let Err(error) = ebpf.remove_run(slot) {
                tracing::warn!(error = chain(&error), "a run's pins could not all be removed");
            }
            if let Err(error) = ebpf.require_syscalls(self.union()) {
                tracing::warn!(error = chain(&error), "watched system calls could not be released");
            }
        }
        self.runs.write().unwrap_or_else(PoisonError::into_inner).retain(|place, _| place.slot != slot);
    }

    /// Turns the egress latch, and reads it back.
    ///
    /// # Errors
    /// The kernel's reason, or that there is no eBPF.
    pub fn set_block(&self, slot: u32, blocked: bool) -> Result<(), KernelError> {
        let mut ebpf = self.lock().ok_or_else(|| KernelError::Blind(self.blind().unwrap_or_default().into()))?;
        ebpf.set_block(slot, blocked).map_err(|e| KernelError::Ebpf(chain(&e)))?;
        match ebpf.is_blocked(slot) {
            Ok(now) if now == blocked => Ok(()),
            Ok(_) => Err(KernelError::Ebpf("the latch reads back otherwise".into())),
            Err(error) => Err(KernelError::Ebpf(chain(&error))),
        }
    }

    /// Counters of every live run, with the run they belong to.
    pub fn counters(&self) -> Result<Vec<(RunId, RunCounters)>, String> {
        let Some(ebpf) = self.lock() else { return Ok(Vec::new()) };
        let counters = ebpf.read_counters().map_err(|e| chain(&e))?;
        drop(ebpf);
        Ok(counters.into_iter().filter_map(|c| Some((self.run_of(c.slot, c.epoch)?, c))).collect())
    }

    /// How watched calls are seen now.
    pub fn syscalls_via(&self) -> Option<Via> {
        self.lock().and_then(|e| e.watching_via())
    }

    /// Why fentry is not used for them.
    pub fn fentry_refusal(&self) -> Option<String> {
        self.lock().and_then(|e| e.fentry_refusal().map(str::to_owned))
    }

    /// What became of each program.
    pub fn programs(&self) -> Vec<ProgramStatus> {
        self.lock().map(|e| e.programs().to_vec()).unwrap_or_default()
    }

    /// Guards of egress that this kernel refused.
    pub fn missing_guards(&self) -> Vec<&'static str> {
        self.lock().map(|e| e.missing_guards()).unwrap_or_default()
    }

    /// Where links are pinned, or why they are not.
    pub fn pins(&self) -> Result<std::path::PathBuf, String> {
        match self.lock() {
            Some(ebpf) => ebpf.pin_dir().map(Path::to_owned).map_err(str::to_owned),
            None => Err(self.blind().unwrap_or_default().into()),
        }
    }

    /// Runs that an earlier daemon left blocked, by the cgroup id of their root.
    pub fn previously_blocked(&self) -> Vec<u64> {
        let Some(ebpf) = self.lock() else { return Vec::new() };
        match ebpf.previous_runs() {
            Ok(runs) => runs.into_iter().filter(|r| r.latch != 0).map(|r| r.root_id).collect(),
            Err(error) => {
                tracing::warn!(error = chain(&error), "pins of an earlier daemon cannot be read");
                Vec::new()
            }
        }
    }

    /// Every adopted run is attached: the earlier daemon's attachments may go.
    pub fn adopted(&self) {
        if let Some(ebpf) = self.lock()
            && let Err(error) = ebpf.adopt_finish()
        {
            tracing::warn!(error = chain(&error), "an earlier daemon's pins stay, which is safe");
        }
    }

    /// On a stop with no runs left: removes everything from the kernel. With runs, their guards stay in force.
    pub fn close(self) {
        let idle = self.slots.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if let (true, Ok(ebpf)) = (idle, self.ebpf) {
            let ebpf = ebpf.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = ebpf.unload() {
                tracing::warn!(error = chain(&error), "pins could not be removed");
            }
        }
    }
}

/// An error with all that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn watched(policy: &Policy) -> u64 {
    policy.watch.iter().filter_map(|name| WatchedCall::from_name(name)).fold(0, |mask, call| mask | call.mask())
}

fn egress(policy: &Policy) -> EgressPolicy {
    let Some(egress) = &policy.egress else { return EgressPolicy::default() };
    let rules = egress.allow.iter().flat_map(rules).collect();
    let mode = match egress.mode {
        Mode::Enforce => EgressMode::Enforce,
        Mode::Observe => EgressMode::Observe,
    };
    EgressPolicy { mode, rules, judge_replies: false }
}

fn rules(allow: &EgressAllow) -> impl Iterator<Item = EgressRule> {
    let protocols: &[ebpf::Protocol] = match allow.protocol {
        Some(Protocol::Tcp) => &[ebpf::Protocol::Tcp],
        Some(Protocol::Udp) => &[ebpf::Protocol::Udp],
        None => &[ebpf::Protocol::Tcp, ebpf::Protocol::Udp],
    };
    protocols.iter().map(|protocol| EgressRule {
        net: allow.cidr,
        ports: allow.ports.iter().map(|(low, high)| *low..=*high).collect(),
        protocol: Some(*protocol),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_a_policy_may_watch_is_known_to_the_programs() {
        for name in failsafe_core::policy::WATCHABLE {
            assert!(WatchedCall::from_name(name).is_some(), "{name}");
        }
    }
}

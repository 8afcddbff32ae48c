//! Which GPUs are a run's: those that it declared, and those that were found.
//!
//! A GPU that a process of the run uses, as the driver says, is a fact. So is an open device file, but it says less: CUDA and tools such
//! as `nvidia-smi` open each GPU that they can reach. So an open file counts only while it is not known which GPUs the run uses, while no
//! other run uses the GPU or has it open in the same way, and while the file is open. Of two runs that have it open, neither has the GPU:
//! a rule on it would stop one of them for what the other does.
//!
//! Invariants: what a run is given depends on what the others have, so GPUs are given and withdrawn here only, under one lock, which is
//! never held over a system call; a GPU that the run declared or uses is never withdrawn.

use super::{LiveRun, Registry, Status};
use failsafe_core::{
    GpuId, RunId,
    record::{FoundGpu, GpuBy},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What the environment of a process of the run says of its GPUs. The run chooses it: it is shown, and nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedGpus {
    /// The variable.
    pub variable: String,
    /// Its value, shortened.
    pub value: String,
    /// The GPUs that this means now.
    pub gpus: BTreeSet<GpuId>,
    /// The process.
    pub pid: u32,
}

/// The device files of GPUs, as the last looks at a run's processes show them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opened {
    /// Open for long enough to count, and the process.
    pub open: BTreeMap<GpuId, u32>,
    /// Not open any more. One that is in neither is unknown: nothing changes.
    pub closed: BTreeSet<GpuId>,
}

/// Held while GPUs are given to runs and withdrawn from them.
#[derive(Debug, Default)]
pub struct GpuChanges(Mutex<()>);

impl GpuChanges {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// A process of the run uses the GPU: it is withdrawn from the runs that only have it open. The runs of which something changed.
    pub fn uses_gpu(&self, run: &Arc<LiveRun>, gpu: &GpuId, pid: u32) -> Vec<Arc<LiveRun>> {
        let _changing = self.gpu_changes.lock();
        if !run.status().uses_gpu(gpu, pid) {
            return Vec::new();
        }
        let mut changed = vec![run.clone()];
        let others = self.live().into_iter().filter(|other| other.run.id != run.run.id);
        changed.extend(others.filter(|other| other.status().loses_open(|open| open == gpu)));
        changed
    }

    /// Gives runs the GPUs that they have open, and withdraws those that they do not have open any more, that another run uses, or that
    /// another run has open too. Runs without a look in `opened` are given nothing. The runs of which something changed.
    pub fn settle_open_gpus(&self, opened: &BTreeMap<RunId, Opened>) -> Vec<Arc<LiveRun>> {
        let _changing = self.gpu_changes.lock();
        let mut live = self.live();
        let all: Vec<(RunId, &Mutex<Status>)> = live.iter().map(|live| (live.run.id, &live.status)).collect();
        let changed = settle(&all, opened);
        live.retain(|live| changed.contains(&live.run.id));
        live
    }
}

fn settle(all: &[(RunId, &Mutex<Status>)], opened: &BTreeMap<RunId, Opened>) -> BTreeSet<RunId> {
    // Those that have a GPU, or may have one.
    let mut holders: BTreeMap<GpuId, BTreeSet<RunId>> = BTreeMap::new();
    let none = Opened::default();
    for (run, status) in all {
        let mut status = lock(status);
        status.sees(opened.get(run).unwrap_or(&none));
        for gpu in status.held_gpus().chain(status.claimed_by_open()) {
            holders.entry(gpu.clone()).or_default().insert(*run);
        }
    }
    let settles = |(run, status): &&(RunId, &Mutex<Status>)| {
        let of_others = |gpu: &GpuId| holders.get(gpu).is_some_and(|of| of.iter().any(|holder| holder != run));
        lock(status).settles(opened.get(run).unwrap_or(&none), of_others)
    };
    all.iter().filter(settles).map(|(run, _)| *run).collect()
}

fn lock(status: &Mutex<Status>) -> MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Status {
    /// A process of the run uses the GPU. Whether the run's GPUs change, or why they are its.
    fn uses_gpu(&mut self, gpu: &GpuId, pid: u32) -> bool {
        let known = self.found_gpus.get(gpu).map(|found| found.by);
        if known == Some(GpuBy::Process) || (known.is_none() && self.gpus.contains(gpu)) {
            return false;
        }
        self.loses_open(|_| true);
        self.finds_gpu(gpu, GpuBy::Process, pid);
        true
    }

    /// Withdraws the GPUs that are the run's only because of an open file, of those that are `meant`. Whether there are any.
    fn loses_open(&mut self, meant: impl Fn(&GpuId) -> bool) -> bool {
        let lost = self.found_gpus.extract_if(.., |gpu, found| found.by == GpuBy::Open && meant(gpu));
        let lost: Vec<GpuId> = lost.map(|(gpu, _)| gpu).collect();
        self.gpus.retain(|gpu| !lost.contains(gpu));
        !lost.is_empty()
    }

    /// A look at its processes.
    fn sees(&mut self, opened: &Opened) {
        self.opened_gpus.retain(|gpu, _| !opened.closed.contains(gpu));
        self.opened_gpus.extend(opened.open.iter().map(|(gpu, pid)| (gpu.clone(), *pid)));
    }

    /// What is open now, where `of_others` says which GPUs another run has or may have.
    fn settles(&mut self, opened: &Opened, of_others: impl Fn(&GpuId) -> bool) -> bool {
        let mut changed = self.loses_open(|gpu| opened.closed.contains(gpu) || of_others(gpu));
        if self.uses_some() {
            return changed;
        }
        for (gpu, pid) in &opened.open {
            if !self.gpus.contains(gpu) && !of_others(gpu) {
                self.finds_gpu(gpu, GpuBy::Open, *pid);
                changed = true;
            }
        }
        changed
    }

    /// The GPUs that are the run's by more than an open file.
    fn held_gpus(&self) -> impl Iterator<Item = &GpuId> {
        self.gpus.iter().filter(|gpu| self.found_gpus.get(*gpu).is_none_or(|found| found.by == GpuBy::Process))
    }

    /// The GPUs that may be the run's because of an open file: while it is not known which ones it uses.
    fn claimed_by_open(&self) -> impl Iterator<Item = &GpuId> {
        let uses_some = self.uses_some();
        self.opened_gpus.keys().filter(move |_| !uses_some)
    }

    fn uses_some(&self) -> bool {
        self.found_gpus.values().any(|found| found.by == GpuBy::Process)
    }

    fn finds_gpu(&mut self, gpu: &GpuId, by: GpuBy, pid: u32) {
        self.found_gpus.insert(gpu.clone(), FoundGpu { gpu: gpu.clone(), by, pid });
        self.gpus.insert(gpu.clone());
    }

    /// What the audit log does not state yet: GPUs that are found, or found by something else, and those that are withdrawn. It counts
    /// as stated from here on.
    pub fn state_gpus(&mut self) -> (Vec<FoundGpu>, Vec<GpuId>) {
        let stated = &self.stated_gpus;
        let is_new = |found: &&FoundGpu| stated.get(&found.gpu) != Some(&found.by);
        let found = self.found_gpus.values().filter(is_new).cloned().collect();
        let removed = stated.keys().filter(|gpu| !self.found_gpus.contains_key(*gpu)).cloned().collect();
        self.stated_gpus = self.found_gpus.iter().map(|(gpu, found)| (gpu.clone(), found.by)).collect();
        (found, removed)
    }
}

#[cfg(test)]
mod tests;

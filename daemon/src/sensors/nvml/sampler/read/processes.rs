//! The processes on the GPU: compute, MPS and graphics, in MIG devices too.
//!
//! Work that computes comes and goes: its list is asked for with every pass. That of MPS is asked for once a second, that of
//! what draws with the slow group; in between the last answer stands. One that failed is asked for with every pass. While one
//! fails, who is on the GPU is not known, and none is told: an empty list would read as nobody.
//!
//! The lists of a GPU in MIG mode are those of all its MIG devices, with their instances, for a caller with root's rights,
//! which the sampler has.

use super::{Reader, is_absence};
use crate::sensors::nvml::{
    frame::{GpuProcess, ProcessKind},
    sampler::raw::{self, ProcessInfo, Work},
};
use failsafe_core::signal::Kind;
use nvml_wrapper::error::NvmlError;
use std::collections::{BTreeMap, btree_map::Entry};

type List = Result<Vec<ProcessInfo>, NvmlError>;

/// The function, what its processes do, and which list it is.
type Ask = (&'static str, ProcessKind, Work);

/// The last answer of each list.
pub(super) type Lists = [Option<List>; 3];

/// What processes did lately, where the GPU tells it.
#[derive(Default)]
pub(super) struct Uses {
    /// Percent of the SMs' time by pid; none where the GPU does not tell it, or nobody asked.
    sm: Option<BTreeMap<u32, u32>>,
    /// The time stamp of the last sample that was read.
    seen: u64,
    /// The GPU does not tell it.
    absent: bool,
}

const LISTS: [Ask; 3] = [
    ("nvmlDeviceGetComputeRunningProcesses_v3", ProcessKind::Compute, Work::Compute),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", ProcessKind::Mps, Work::Mps),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3", ProcessKind::Graphics, Work::Graphics),
];

impl Reader {
    /// Asks for the lists that are due, and tells them all.
    pub(super) fn processes(&mut self, second: bool, slow: bool) {
        for (n, due) in [true, second, slow].into_iter().enumerate() {
            let (call, _, work) = LISTS[n];
            if due || !matches!(&self.lists[n], Some(list) if list.as_ref().map_or_else(is_absence, |_| true)) {
                self.lists[n] = Some(self.ask(call, |d| raw::processes(d, work)));
            }
        }
        let lists = std::mem::take(&mut self.lists);
        self.processes_of(&lists);
        self.lists = lists;
        // What is alone on its GPU does all that is done there.
        if self.sample.processes.as_ref().is_none_or(|processes| processes.len() < 2) {
            self.uses.sm = None;
        } else if second && !self.uses.absent {
            self.who_does_what();
        }
        if let (Some(sm), Some(processes)) = (&self.uses.sm, &mut self.sample.processes) {
            for process in processes {
                process.sm = Some(sm.get(&process.pid).copied().unwrap_or(0));
            }
        }
    }

    fn who_does_what(&mut self) {
        let since = self.uses.seen;
        match self.ask("nvmlDeviceGetProcessUtilization", |d| raw::process_use(d, since)) {
            Ok(list) => {
                self.uses.seen = list.iter().map(|it| it.at).fold(since, u64::max);
                let mut sm: BTreeMap<u32, u32> = BTreeMap::new();
                // Of several samples of a process the greatest: they are of times that overlap.
                for it in list {
                    let share = sm.entry(it.pid).or_default();
                    *share = (*share).max(it.sm.min(100));
                }
                self.uses.sm = Some(sm);
            }
            Err(error) => {
                self.uses.sm = None;
                self.uses.absent = is_absence(&error);
            }
        }
    }

    fn processes_of(&mut self, lists: &Lists) {
        // A process may be in more than one list, each with all of its memory; in two MIG devices it is told twice.
        let mut found: BTreeMap<(u32, Option<u32>, Option<u32>), GpuProcess> = BTreeMap::new();
        let mut worst: Option<&NvmlError> = None;
        let mut answered = false;
        for ((_, kind, _), list) in LISTS.iter().zip(lists.iter().flatten()) {
            match list {
                Ok(list) => {
                    answered = true;
                    for process in list {
                        let process = gpu_process(process, *kind);
                        match found.entry((process.pid, process.gpu_instance, process.compute_instance)) {
                            Entry::Vacant(new) => drop(new.insert(process)),
                            Entry::Occupied(mut known) => {
                                let known = known.get_mut();
                                known.memory = known.memory.max(process.memory);
                            }
                        }
                    }
                }
                Err(error) if is_absence(error) => {}
                Err(error) => worst = Some(error),
            }
        }
        let kinds = [Kind::GpuProcesses, Kind::GpuComputeProcesses];
        match worst {
            Some(error) => kinds.into_iter().for_each(|kind| self.missing(kind, error)),
            None if !answered => kinds.into_iter().for_each(|kind| self.lacks(kind)),
            None => {
                let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
                let computing = found.values().filter(|it| it.kind != ProcessKind::Graphics).count();
                self.put(Kind::GpuProcesses, number(found.len()));
                self.put(Kind::GpuComputeProcesses, number(computing));
                self.sample.processes = Some(found.into_values().collect());
            }
        }
    }
}

fn gpu_process(process: &ProcessInfo, kind: ProcessKind) -> GpuProcess {
    let instance = |id: u32| (id != u32::MAX).then_some(id);
    GpuProcess {
        pid: process.pid,
        memory: (process.memory != u64::MAX).then_some(process.memory),
        kind,
        gpu_instance: instance(process.gpu_instance),
        compute_instance: instance(process.compute_instance),
        sm: None,
    }
}

//! The processes on the GPU: compute, MPS and graphics, in MIG devices too.
//!
//! The lists of a GPU in MIG mode are those of all its MIG devices, with their instances, for a caller with root's rights,
//! which the sampler has.

use super::{Reader, is_absence};
use crate::sensors::nvml::frame::{GpuProcess, ProcessKind};
use failsafe_core::signal::Kind;
use nvml_wrapper::{Device, enums::device::UsedGpuMemory, error::NvmlError, struct_wrappers::device::ProcessInfo};
use std::collections::{BTreeMap, btree_map::Entry};

type List = Result<Vec<ProcessInfo>, NvmlError>;

/// The function, what its processes do, and how it is called.
type Ask = (&'static str, ProcessKind, fn(&Device<'static>) -> List);

const LISTS: [Ask; 3] = [
    ("nvmlDeviceGetComputeRunningProcesses_v3", ProcessKind::Compute, |d| d.running_compute_processes()),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3", ProcessKind::Mps, |d| d.mps_running_compute_processes()),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3", ProcessKind::Graphics, |d| d.running_graphics_processes()),
];

impl Reader {
    pub(super) fn processes(&mut self) {
        // A process may be in more than one list, each with all of its memory; in two MIG devices it is told twice.
        let mut found: BTreeMap<(u32, Option<u32>, Option<u32>), GpuProcess> = BTreeMap::new();
        let mut worst: Option<NvmlError> = None;
        let mut answered = false;
        for (call, kind, list) in LISTS {
            match self.ask(call, list) {
                Ok(list) => {
                    answered = true;
                    for process in list {
                        let process = told(&process, kind);
                        match found.entry((process.pid, process.gpu_instance, process.compute_instance)) {
                            Entry::Vacant(new) => drop(new.insert(process)),
                            Entry::Occupied(mut known) => {
                                let known = known.get_mut();
                                known.memory = known.memory.max(process.memory);
                            }
                        }
                    }
                }
                Err(error) if is_absence(&error) => {}
                Err(error) => worst = Some(error),
            }
        }
        let kinds = [Kind::GpuProcesses, Kind::GpuComputeProcesses];
        match worst {
            Some(error) => kinds.into_iter().for_each(|kind| self.missing(kind, &error)),
            None if !answered => kinds.into_iter().for_each(|kind| self.lacks(kind)),
            None => {
                let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
                let computing = found.values().filter(|it| it.kind != ProcessKind::Graphics).count();
                self.put(Kind::GpuProcesses, number(found.len()));
                self.put(Kind::GpuComputeProcesses, number(computing));
            }
        }
        self.sample.processes = found.into_values().collect();
    }
}

fn told(process: &ProcessInfo, kind: ProcessKind) -> GpuProcess {
    let memory = match process.used_gpu_memory {
        UsedGpuMemory::Used(bytes) => Some(bytes),
        UsedGpuMemory::Unavailable => None,
    };
    GpuProcess {
        pid: process.pid,
        memory,
        kind,
        gpu_instance: process.gpu_instance_id,
        compute_instance: process.compute_instance_id,
    }
}

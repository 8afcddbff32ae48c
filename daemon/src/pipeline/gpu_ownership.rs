//! Attribution of GPU processes and their work to runs, shared by all GPU sensors.
//!
//! Owns the totals of the runs over all GPUs, and when the core was given them. What it finds is returned as
//! inputs, which the part of the sensor sends with its signals.

use super::attribution::{Attribution, Slices, Work};
use crate::{
    node::GpuProcessView,
    platform::{ProcFs, clock, users},
    runs::{LiveRun, Registry},
    sensors::{
        nvml::{GpuProcess, MigDevice},
        repeat::Repeats,
    },
};
use failsafe_core::{
    GpuId, Input, Kind, MonoTime, RunId, Signal, Subject, Value, event::Event, signal::Source, subject::Process,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Shared by the sensors: a run's totals are over the GPUs of all of them.
#[derive(Clone)]
pub struct GpuOwnership(Arc<Mutex<Owner>>);

/// What is known.
struct Owner {
    registry: Arc<Registry>,
    proc: ProcFs,
    attribution: Attribution,
    /// When the core was given each value of the runs' GPU work.
    reported: Repeats<(RunId, Kind)>,
}

/// A sample of a GPU, as far as work goes.
#[derive(Clone, Copy)]
pub(super) struct GpuWork<'a> {
    pub source: Source,
    pub gpu: &'a GpuId,
    pub work: Work,
    /// Its MIG devices, each with its utilisation, milli-percent, where it reports it.
    pub mig: &'a [(Option<i64>, MigDevice)],
}

impl GpuOwnership {
    /// Of the runs in the registry, by the processes in `proc`.
    pub fn new(registry: &Arc<Registry>, proc: ProcFs) -> GpuOwnership {
        let (attribution, reported) = Default::default();
        GpuOwnership(Arc::new(Mutex::new(Owner { registry: registry.clone(), proc, attribution, reported })))
    }

    /// The processes that a sample found, with their runs, and what is reported of that: the runs that are given the GPU,
    /// their work on it, and who is on it without being theirs.
    pub(super) fn take(
        &self,
        seen: GpuWork<'_>,
        found: &[GpuProcess],
        live: &[Arc<LiveRun>],
    ) -> (Vec<GpuProcessView>, Vec<Input>) {
        let mut owner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (processes, mut inputs) = owner.runs_on(seen.gpu, found, live);
        inputs.extend(owner.attribute(seen, &processes, live));
        (processes, inputs)
    }
}

/// What is known of a GPU's MIG devices, and which runs were given some of them.
fn slices(gpu: &GpuId, mig: &[(Option<i64>, MigDevice)], live: &[Arc<LiveRun>]) -> Slices {
    let slice = |device: &MigDevice| Some((device.gpu_instance?, device.compute_instance));
    let given = |uuids: &BTreeSet<String>| {
        mig.iter().filter(|(_, it)| uuids.contains(&it.uuid)).filter_map(|(_, it)| slice(it)).collect()
    };
    Slices {
        sizes: mig.iter().filter_map(|(_, device)| Some((slice(device)?, device.slices?))).collect(),
        busy: mig.iter().filter_map(|(busy, device)| Some((slice(device)?, (*busy)?))).collect(),
        of: live.iter().filter_map(|run| Some((run.run.id, given(run.run.mig.get(gpu)?)))).collect(),
    }
}

impl Owner {
    /// The work to its runs; what is on a run's GPU without being the run's is reported.
    fn attribute(&mut self, seen: GpuWork<'_>, processes: &[GpuProcessView], live: &[Arc<LiveRun>]) -> Vec<Input> {
        let GpuWork { source, gpu, work, mig } = seen;
        let mut out = Vec::new();
        let mut report = |subject, kind, value| {
            out.push(Input::Signal(Signal { seq: 0, at: work.at, source, subject, kind, value, repeats: 0 }));
        };
        // Who declared it holds it; where nobody did, those that are on it do.
        let declared: BTreeSet<RunId> =
            live.iter().filter(|run| run.run.gpus.contains(gpu)).map(|run| run.run.id).collect();
        let holders = if declared.is_empty() { processes.iter().filter_map(|p| p.run).collect() } else { declared };
        let ids: BTreeSet<RunId> = live.iter().map(|run| run.run.id).collect();
        self.attribution.retain(&ids);
        self.reported.retain(|(run, _)| ids.contains(run));
        let found = self.attribution.take(gpu, work, processes, &holders, &slices(gpu, mig, live));
        for (run, used) in found.uses {
            if let Some(live) = live.iter().find(|live| live.run.id == run) {
                live.status().gpu_use.insert(gpu.clone(), used);
            }
        }
        let now = Instant::now();
        for (run, kind, value) in found.values {
            let key = (run, kind);
            if self.reported.is_due(&key, value, now) {
                report(Subject::Run(run), key.1, Value::Integer(value));
            }
        }
        for (run, foreign) in found.foreign {
            // The process ended meanwhile: there is nothing to report.
            let Ok(Some(identity)) = self.proc.stat(foreign.pid) else { continue };
            let uid = users::credentials(&self.proc, foreign.pid).ok().flatten().map_or(u32::MAX, |c| c.uid);
            let (pid, ppid, comm) = (foreign.pid, identity.ppid, identity.comm);
            let process = Process { pid, ppid, uid, start_ns: 0, comm };
            let event = Event::ForeignGpuProcess { gpu: gpu.0.clone(), of: foreign.of };
            report(Subject::Process { run, process }, Kind::Event, Value::Event(event));
        }
        out
    }

    /// Gives a GPU to the runs that have a process on it, and withdraws it from those that only have it open; the processes with their runs, and what is reported of that.
    fn runs_on(&self, gpu: &GpuId, found: &[GpuProcess], live: &[Arc<LiveRun>]) -> (Vec<GpuProcessView>, Vec<Input>) {
        let mut processes = Vec::with_capacity(found.len());
        let mut out = Vec::new();
        for process in found {
            // Where nothing runs, nobody's cgroup needs to be read.
            let path = (!live.is_empty()).then(|| self.proc.cgroup(process.pid).ok().flatten()).flatten();
            let run = path.and_then(|path| self.registry.of_cgroup(&path));
            let id = run.as_ref().map(|run| run.run.id);
            let slice = process.gpu_instance.map(|instance| (instance, process.compute_instance));
            let (pid, memory, sm) = (process.pid, process.memory, process.sm);
            processes.push(GpuProcessView { pid, memory, run: id, sm, slice });
            let Some(run) = run else { continue };
            for changed in self.registry.uses_gpu(&run, gpu, process.pid) {
                let gpus = changed.status().gpus.clone();
                out.push(Input::RunGpus { run: changed.run.id, gpus, at: MonoTime(clock::monotonic_ns()) });
            }
        }
        (processes, out)
    }
}

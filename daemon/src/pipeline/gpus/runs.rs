//! Which run a GPU's processes, and its work, belong to.

use super::{REPEAT_AFTER, Told};
use crate::{
    api::GpuProcessView,
    pipeline::attribution::Work,
    platform::{clock, users},
    runs::LiveRun,
    sensors::nvml::Sample,
};
use failsafe_core::{GpuId, Input, Kind, MonoTime, RunId, Subject, Value, event::Event, subject::Process};
use std::{collections::BTreeSet, sync::Arc, time::Instant};

impl Told {
    /// The work to its runs; what is on a run's GPU without being the run's is told.
    pub(super) fn attribute(&mut self, gpu: &GpuId, work: Work, processes: &[GpuProcessView], live: &[Arc<LiveRun>]) {
        // Who declared it holds it; where nobody did, those that are on it do.
        let declared: BTreeSet<RunId> =
            live.iter().filter(|run| run.run.gpus.contains(gpu)).map(|run| run.run.id).collect();
        let holders = if declared.is_empty() { processes.iter().filter_map(|p| p.run).collect() } else { declared };
        let ids: BTreeSet<RunId> = live.iter().map(|run| run.run.id).collect();
        self.attribution.retain(&ids);
        self.told_of_runs.retain(|(run, _), _| ids.contains(run));
        let found = self.attribution.take(gpu, work, processes, &holders);
        for (run, used) in found.uses {
            if let Some(live) = live.iter().find(|live| live.run.id == run) {
                live.status().gpu_use.insert(gpu.clone(), used);
            }
        }
        for (run, kind, value) in found.values {
            let told = self.told_of_runs.get(&(run, kind.clone()));
            if told.is_none_or(|(told, at)| *told != value || at.elapsed() >= REPEAT_AFTER) {
                self.told_of_runs.insert((run, kind.clone()), (value, Instant::now()));
                self.signal(Subject::Run(run), work.at, kind, Value::Integer(value));
            }
        }
        for (run, foreign) in found.foreign {
            // One that has ended meanwhile is nobody's business any more.
            let Ok(Some(identity)) = self.proc.stat(foreign.pid) else { continue };
            let uid = users::credentials(&self.proc, foreign.pid).ok().flatten().map_or(u32::MAX, |c| c.uid);
            let (pid, ppid, comm) = (foreign.pid, identity.ppid, identity.comm);
            let process = Process { pid, ppid, uid, start_ns: 0, comm };
            let event = Event::ForeignGpuProcess { gpu: gpu.0.clone(), of: foreign.of };
            self.signal(Subject::Process { run, process }, work.at, Kind::Event, Value::Event(event));
        }
    }

    /// Gives a GPU to the runs that have a process on it; the processes with their runs.
    pub(super) fn runs_on(&mut self, gpu: &GpuId, sample: &Sample, live: &[Arc<LiveRun>]) -> Vec<GpuProcessView> {
        let mut processes = Vec::with_capacity(sample.processes.len());
        for process in &sample.processes {
            // Where nothing runs, nobody's cgroup needs to be read.
            let path = (!live.is_empty()).then(|| self.proc.cgroup(process.pid).ok().flatten()).flatten();
            let run = path.and_then(|path| self.registry.of_cgroup(&path));
            let id = run.as_ref().map(|run| run.run.id);
            processes.push(GpuProcessView { pid: process.pid, memory: process.memory, run: id, sm: process.sm });
            let Some(run) = run else { continue };
            let gpus = {
                let mut status = run.status();
                if !status.gpus.insert(gpu.clone()) {
                    continue;
                }
                status.gpus.clone()
            };
            self.tell(Input::RunGpus { run: run.run.id, gpus, at: MonoTime(clock::monotonic_ns()) });
        }
        processes
    }
}

//! Whose a GPU's work is: time, memory and energy of each run, and processes that are on a run's GPU without being the run's.
//!
//! Owns the totals of each run in this daemon's life. How several runs on one GPU share it: NVML tells energy and utilisation
//! of the whole card only, so each sample's share is even among the runs that have a process there, and those of no run count
//! as one more. Memory is each process's own. MIG slices of one card share its energy in the same way.

use crate::api::GpuProcessView;
use failsafe_core::{GpuId, Kind, MonoTime, RunId};
use std::collections::{BTreeMap, BTreeSet};

/// A gap longer than this is not filled with what was seen after it.
const LONGEST_NS: u64 = 30_000_000_000;

/// What one sample of a GPU says of work.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// When.
    pub at: MonoTime,
    /// Utilisation, milli-percent.
    pub utilization: Option<i64>,
    /// The energy counter, millijoules.
    pub energy: Option<i64>,
}

/// What came of a sample.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Totals of runs, as signals.
    pub values: Vec<(RunId, Kind, i64)>,
    /// A run that holds the GPU, and the process on it that is not the run's.
    pub foreign: Vec<(RunId, ForeignProcess)>,
}

/// A process that is not the run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignProcess {
    /// Its pid.
    pub pid: u32,
    /// The run it belongs to.
    pub of: Option<RunId>,
}

/// The totals.
#[derive(Debug, Default)]
pub struct Attribution {
    gpus: BTreeMap<GpuId, OnGpu>,
    totals: BTreeMap<RunId, Totals>,
}

#[derive(Debug, Default)]
struct OnGpu {
    last: Option<Work>,
    memory: BTreeMap<RunId, i64>,
    told: BTreeSet<(RunId, ForeignProcess)>,
}

/// Nanoseconds and microjoules: a sample's share is often less than the signals' units.
#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    time_ns: i64,
    energy_uj: i64,
}

impl Attribution {
    /// Takes a sample: the processes on the GPU, and the runs that hold it.
    pub fn take(&mut self, gpu: &GpuId, work: Work, processes: &[GpuProcessView], holders: &BTreeSet<RunId>) -> Found {
        let mut found = Found::default();
        let on_gpu = self.gpus.entry(gpu.clone()).or_default();
        let there: BTreeSet<RunId> = processes.iter().filter_map(|p| p.run).collect();
        let strangers = processes.iter().any(|p| p.run.is_none());
        let sharers = i64::try_from(there.len()).unwrap_or(i64::MAX).saturating_add(i64::from(strangers)).max(1);
        if let Some(last) = on_gpu.last {
            let ns = work.at.since(last.at).0;
            let busy = work.utilization.unwrap_or(0).clamp(0, 100_000);
            let time = i64::try_from(i128::from(ns) * i128::from(busy) / 100_000).unwrap_or(i64::MAX);
            // A counter that fell was reset with the driver.
            let energy = work.energy.zip(last.energy).map_or(0, |(now, before)| now.saturating_sub(before).max(0));
            if ns <= LONGEST_NS {
                for run in &there {
                    let total = self.totals.entry(*run).or_default();
                    total.time_ns = total.time_ns.saturating_add(time / sharers);
                    total.energy_uj = total.energy_uj.saturating_add(energy.saturating_mul(1_000) / sharers);
                }
            }
        }
        on_gpu.last = Some(work);
        let mut memory: BTreeMap<RunId, i64> = there.iter().map(|run| (*run, 0)).collect();
        for process in processes {
            if let (Some(run), Some(bytes)) = (process.run, process.memory) {
                let sum = memory.entry(run).or_default();
                *sum = sum.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
        }
        // A run that left gave its memory back.
        let mut concerned: BTreeSet<RunId> = on_gpu.memory.keys().copied().collect();
        concerned.extend(&there);
        on_gpu.memory = memory;
        let foreign: BTreeSet<(RunId, ForeignProcess)> = holders
            .iter()
            .flat_map(|holder| {
                let strange = processes.iter().filter(|p| p.run != Some(*holder));
                strange.map(|p| (*holder, ForeignProcess { pid: p.pid, of: p.run }))
            })
            .collect();
        found.foreign.extend(foreign.difference(&on_gpu.told));
        on_gpu.told = foreign;
        for run in concerned {
            let total = self.totals.entry(run).or_default();
            let memory = self.gpus.values().filter_map(|gpu| gpu.memory.get(&run)).sum();
            found.values.push((run, Kind::RunGpuTime, total.time_ns / 1_000));
            found.values.push((run, Kind::RunGpuEnergy, total.energy_uj / 1_000));
            found.values.push((run, Kind::RunGpuMemory, memory));
        }
        found
    }

    /// Keeps only what belongs to these live runs.
    pub fn retain(&mut self, live: &BTreeSet<RunId>) {
        self.totals.retain(|run, _| live.contains(run));
        for gpu in self.gpus.values_mut() {
            gpu.memory.retain(|run, _| live.contains(run));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: u128) -> RunId {
        RunId(uuid::Uuid::from_u128(n))
    }

    fn process(pid: u32, of: Option<RunId>) -> GpuProcessView {
        GpuProcessView { pid, memory: Some(1_000), run: of }
    }

    fn work(s: u64, energy: i64) -> Work {
        Work { at: MonoTime(s * 1_000_000_000), utilization: Some(50_000), energy: Some(energy) }
    }

    fn of(found: &Found, of: RunId, kind: &Kind) -> i64 {
        found.values.iter().find(|(r, k, _)| *r == of && k == kind).unwrap().2
    }

    #[test]
    fn runs_on_one_gpu_share_it_evenly_and_strangers_count() {
        let (a, b, gpu) = (run(1), run(2), GpuId("GPU-a".into()));
        let mut all = Attribution::default();
        let alone = [process(1, Some(a)), process(2, Some(a))];
        all.take(&gpu, work(0, 0), &alone, &[a].into());
        let found = all.take(&gpu, work(10, 3_000), &alone, &[a].into());
        assert_eq!(of(&found, a, &Kind::RunGpuEnergy), 3_000);
        assert_eq!(of(&found, a, &Kind::RunGpuTime), 5_000_000, "half of ten seconds");
        assert_eq!(of(&found, a, &Kind::RunGpuMemory), 2_000);
        let three = [process(1, Some(a)), process(3, Some(b)), process(9, None)];
        let found = all.take(&gpu, work(20, 6_000), &three, &[a].into());
        assert_eq!(of(&found, a, &Kind::RunGpuEnergy), 4_000);
        assert_eq!(of(&found, b, &Kind::RunGpuEnergy), 1_000);
        let found = all.take(&gpu, work(21, 10), &[], &[a].into());
        assert_eq!(of(&found, a, &Kind::RunGpuMemory), 0, "it left");
        assert_eq!(of(&found, a, &Kind::RunGpuEnergy), 4_000, "the driver's counter fell: nothing is made of it");
        let found = all.take(&gpu, work(2_000, 9_999_999), &alone, &[a].into());
        assert_eq!(of(&found, a, &Kind::RunGpuEnergy), 4_000, "what was not seen is nobody's");
    }

    #[test]
    fn a_foreign_process_is_told_once_until_it_leaves() {
        let (a, b, gpu) = (run(1), run(2), GpuId("GPU-a".into()));
        let mut all = Attribution::default();
        let both = [process(1, Some(a)), process(3, Some(b)), process(9, None)];
        let told = all.take(&gpu, work(0, 0), &both, &[a].into()).foreign;
        assert_eq!(told, [(a, ForeignProcess { pid: 3, of: Some(b) }), (a, ForeignProcess { pid: 9, of: None })]);
        assert_eq!(all.take(&gpu, work(1, 0), &both, &[a].into()).foreign, []);
        assert_eq!(all.take(&gpu, work(2, 0), &both[..1], &[a].into()).foreign, []);
        assert_eq!(all.take(&gpu, work(3, 0), &both[..2], &[a].into()).foreign.len(), 1);
    }
}

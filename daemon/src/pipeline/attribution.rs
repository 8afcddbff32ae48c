//! Whose a GPU's work is: time, memory and energy of each run, and processes that are on a run's GPU without being the run's.
//!
//! Owns the totals of each run in this daemon's life. How several runs on one GPU share it: NVML tells energy and utilisation
//! of the whole card only, so each sample's are shared by the part of the SMs' time that each one's processes had, where the
//! GPU tells it of all of them; otherwise evenly among the runs that have a process there. What is of no run counts as one
//! more. Memory is each process's own. In MIG mode NVML tells no process's part: there the card's energy is shared by the size of the
//! slices that each one is on, those on one slice evenly, and time is that of the MIG devices, each counted as a GPU. If a GPU never
//! reported utilisation or energy, the total of the run is unknown: an absent signal is correct, and 0 would be wrong.

use crate::{
    node::GpuProcessView,
    runs::{GpuUse, Sharing},
};
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

/// A MIG device by its instances: GPU instance and compute instance.
pub type Slice = (u32, Option<u32>);

/// What is known of a GPU's MIG devices.
#[derive(Debug, Default, Clone)]
pub struct Slices {
    /// The slices of compute that each has of its GPU.
    pub sizes: BTreeMap<Slice, u32>,
    /// The utilisation of each that tells it, milli-percent.
    pub busy: BTreeMap<Slice, i64>,
    /// Those that runs were given.
    pub of: BTreeMap<RunId, BTreeSet<Slice>>,
}

/// What came of a sample.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct AttributionResult {
    /// Totals of runs, as signals.
    pub values: Vec<(RunId, Kind, i64)>,
    /// What runs made of this GPU.
    pub uses: Vec<(RunId, GpuUse)>,
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
}

#[derive(Debug, Default)]
struct OnGpu {
    last: Option<Work>,
    runs: BTreeMap<RunId, Totals>,
    reported: BTreeSet<(RunId, ForeignProcess)>,
}

/// Of one run on one GPU. Nanoseconds and microjoules: a sample's share is often less than the signals' units.
#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    time_ns: i64,
    energy_uj: i64,
    /// Utilisation was told while it was there, and energy.
    timed: bool,
    metered: bool,
    /// Bytes now.
    memory: i64,
}

/// How one sample is shared: each run's part of the sum of all parts.
struct Parts {
    of: BTreeMap<RunId, i64>,
    sum: i64,
    sharing: Sharing,
}

impl Parts {
    fn new(processes: &[GpuProcessView], there: &BTreeSet<RunId>, slices: &Slices) -> Parts {
        let strangers = processes.iter().any(|p| p.run.is_none());
        let sharers = i64::try_from(there.len()).unwrap_or(i64::MAX).saturating_add(i64::from(strangers)).max(1);
        let even = |sharing| Parts { of: there.iter().map(|run| (*run, 1)).collect(), sum: sharers, sharing };
        if sharers == 1 {
            return even(Sharing::Alone);
        }
        if let Some(parts) = Parts::by_slices(processes, there, slices) {
            return parts;
        }
        let mut of: BTreeMap<RunId, i64> = there.iter().map(|run| (*run, 0)).collect();
        let mut sum = 0i64;
        for process in processes {
            let Some(sm) = process.sm.map(i64::from) else { return even(Sharing::Even) };
            sum = sum.saturating_add(sm);
            if let Some(part) = process.run.and_then(|run| of.get_mut(&run)) {
                *part = part.saturating_add(sm);
            }
        }
        // Where nobody did anything, what an idle card draws is everybody's.
        if sum == 0 { even(Sharing::Even) } else { Parts { of, sum, sharing: Sharing::ByUtilization } }
    }

    /// By the sizes of the slices that somebody is on; `None` where one of them is not known. Those on one slice share it evenly, what
    /// is of no run as one more.
    fn by_slices(processes: &[GpuProcessView], there: &BTreeSet<RunId>, slices: &Slices) -> Option<Parts> {
        // Divided by every number of sharers up to 16 it leaves no rest.
        const FINE: i64 = 720_720;
        let mut on: BTreeMap<Slice, BTreeSet<Option<RunId>>> = BTreeMap::new();
        for process in processes {
            on.entry(process.slice?).or_default().insert(process.run);
        }
        let mut of: BTreeMap<RunId, i64> = there.iter().map(|run| (*run, 0)).collect();
        let mut sum = 0i64;
        for (slice, sharers) in on {
            let size = i64::from(*slices.sizes.get(&slice)?) * FINE;
            sum += size;
            let each = size / i64::try_from(sharers.len()).unwrap_or(i64::MAX);
            for run in sharers.into_iter().flatten() {
                *of.entry(run).or_default() += each;
            }
        }
        (sum > 0).then_some(Parts { of, sum, sharing: Sharing::BySlices })
    }

    fn share(&self, run: RunId, whole: i64) -> i64 {
        let part = self.of.get(&run).copied().unwrap_or(0);
        i64::try_from(i128::from(whole) * i128::from(part) / i128::from(self.sum)).unwrap_or(i64::MAX)
    }
}

/// How busy a run keeps a GPU, milli-percent: the sum over the `of` parts of it that the run is on.
#[derive(Clone, Copy)]
struct Busy {
    sum: i64,
    of: i64,
}

impl Busy {
    fn of_whole(sum: i64) -> Busy {
        Busy { sum, of: 1 }
    }

    /// By what the MIG devices that its processes are on tell of themselves; those on one share it evenly. `None` where one of them does
    /// not tell, or it is on none.
    fn of_slices(run: RunId, processes: &[GpuProcessView], slices: &Slices) -> Option<Busy> {
        let mut on: BTreeMap<Slice, BTreeSet<Option<RunId>>> = BTreeMap::new();
        for process in processes {
            on.entry(process.slice?).or_default().insert(process.run);
        }
        let mut busy = Busy { sum: 0, of: 0 };
        for (slice, sharers) in on.into_iter().filter(|(_, sharers)| sharers.contains(&Some(run))) {
            let sharers = i64::try_from(sharers.len()).unwrap_or(i64::MAX);
            busy.sum += slices.busy.get(&slice)?.clamp(&0, &100_000) / sharers;
            busy.of += 1;
        }
        (busy.of > 0).then_some(busy)
    }
}

impl Attribution {
    /// Takes a sample: the processes on the GPU, the runs that hold it, and its MIG devices.
    pub fn take(
        &mut self,
        gpu: &GpuId,
        work: Work,
        processes: &[GpuProcessView],
        holders: &BTreeSet<RunId>,
        slices: &Slices,
    ) -> AttributionResult {
        let mut found = AttributionResult::default();
        let on_gpu = self.gpus.entry(gpu.clone()).or_default();
        let there: BTreeSet<RunId> = processes.iter().filter_map(|p| p.run).collect();
        let parts = Parts::new(processes, &there, slices);
        let whole = work.utilization.map(|busy| busy.clamp(0, 100_000));
        let busy = |run: RunId| match whole {
            Some(whole) => Some(Busy::of_whole(parts.share(run, whole))),
            None => Busy::of_slices(run, processes, slices),
        };
        // Those that are there, and those that left and gave their memory back.
        let concerned: BTreeSet<RunId> = on_gpu.runs.keys().copied().chain(there.iter().copied()).collect();
        let last = on_gpu.last.replace(work);
        for run in &there {
            let total = on_gpu.runs.entry(*run).or_default();
            let busy = busy(*run);
            total.timed |= busy.is_some();
            total.metered |= work.energy.is_some();
            if let Some(last) = last
                && let ns = work.at.since(last.at).0
                && ns <= LONGEST_NS
            {
                let busy = busy.map_or(0, |busy| busy.sum);
                let time = i64::try_from(i128::from(ns) * i128::from(busy) / 100_000).unwrap_or(i64::MAX);
                // A counter that fell was reset with the driver.
                let energy = work.energy.zip(last.energy).map_or(0, |(now, before)| now.saturating_sub(before).max(0));
                total.time_ns = total.time_ns.saturating_add(time);
                total.energy_uj = total.energy_uj.saturating_add(parts.share(*run, energy.saturating_mul(1_000)));
            }
        }
        for (run, total) in &mut on_gpu.runs {
            let own = processes.iter().filter(|p| p.run == Some(*run)).filter_map(|p| p.memory);
            total.memory = own.fold(0, |sum, bytes| sum.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX)));
            let utilization = busy(*run).filter(|_| there.contains(run)).map(|busy| busy.sum / busy.of);
            found.uses.push((*run, total.gpu_use(utilization, parts.sharing)));
        }
        let foreign: BTreeSet<(RunId, ForeignProcess)> = holders
            .iter()
            .flat_map(|holder| {
                // In MIG mode each has its slice: who is in another is a neighbour.
                let own: BTreeSet<Slice> = match slices.of.get(holder) {
                    Some(given) => given.clone(),
                    None => processes.iter().filter(|p| p.run == Some(*holder)).filter_map(|p| p.slice).collect(),
                };
                let beside = move |p: &&GpuProcessView| p.slice.is_none_or(|slice| own.contains(&slice));
                let strange = processes.iter().filter(|p| p.run != Some(*holder)).filter(beside);
                strange.map(|p| (*holder, ForeignProcess { pid: p.pid, of: p.run }))
            })
            .collect();
        found.foreign.extend(foreign.difference(&on_gpu.reported));
        on_gpu.reported = foreign;
        for run in concerned {
            let all = self.gpus.values().filter_map(|gpu| gpu.runs.get(&run));
            let sum = |of: fn(&Totals) -> i64| all.clone().map(of).fold(0, i64::saturating_add);
            if all.clone().all(|t| t.timed) {
                found.values.push((run, Kind::RunGpuTime, sum(|t| t.time_ns) / 1_000));
            }
            if all.clone().all(|t| t.metered) {
                found.values.push((run, Kind::RunGpuEnergy, sum(|t| t.energy_uj) / 1_000));
            }
            found.values.push((run, Kind::RunGpuMemory, sum(|t| t.memory)));
        }
        found
    }

    /// Keeps only what belongs to these live runs.
    pub fn retain(&mut self, live: &BTreeSet<RunId>) {
        for gpu in self.gpus.values_mut() {
            gpu.runs.retain(|run, _| live.contains(run));
        }
    }
}

impl Totals {
    fn gpu_use(&self, utilization: Option<i64>, sharing: Sharing) -> GpuUse {
        let positive = |value: i64| u64::try_from(value).unwrap_or(0);
        GpuUse {
            utilization,
            memory_bytes: positive(self.memory),
            time_us: self.timed.then(|| positive(self.time_ns / 1_000)),
            energy_mj: self.metered.then(|| positive(self.energy_uj / 1_000)),
            sharing,
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
        GpuProcessView { pid, memory: Some(1_000), run: of, sm: None, slice: None }
    }

    fn work(s: u64, energy: i64) -> Work {
        Work { at: MonoTime(s * 1_000_000_000), utilization: Some(50_000), energy: Some(energy) }
    }

    fn of(found: &AttributionResult, of: RunId, kind: &Kind) -> i64 {
        found.values.iter().find(|(r, k, _)| *r == of && k == kind).unwrap().2
    }

    #[test]
    fn runs_on_one_gpu_share_it_evenly_and_strangers_count() {
        let (a, b, gpu) = (run(1), run(2), GpuId("GPU-a".into()));
        let mut all = Attribution::default();
        let alone = [process(1, Some(a)), process(2, Some(a))];
        all.take(&gpu, work(0, 0), &alone, &[a].into(), &Slices::default());
        let found = all.take(&gpu, work(10, 3_000), &alone, &[a].into(), &Slices::default());
        assert_eq!(of(&found, a, &Kind::RunGpuEnergy), 3_000);
        assert_eq!(of(&found, a, &Kind::RunGpuTime), 5_000_000, "half of ten seconds");
        assert_eq!(of(&found, a, &Kind::RunGpuMemory), 2_000);
        let three = [process(1, Some(a)), process(3, Some(b)), process(9, None)];
        let found = all.take(&gpu, work(20, 6_000), &three, &[a].into(), &Slices::default());
        assert_eq!(of(&found, a, &Kind::RunGpuEnergy), 4_000);
        assert_eq!(of(&found, b, &Kind::RunGpuEnergy), 1_000);
        let found = all.take(&gpu, work(21, 10), &[], &[a].into(), &Slices::default());
        assert_eq!(of(&found, a, &Kind::RunGpuMemory), 0, "it left");
        assert_eq!(of(&found, a, &Kind::RunGpuEnergy), 4_000, "the driver's counter fell: nothing is made of it");
        let found = all.take(&gpu, work(2_000, 9_999_999), &alone, &[a].into(), &Slices::default());
        assert_eq!(of(&found, a, &Kind::RunGpuEnergy), 4_000, "what was not seen is nobody's");
    }

    #[test]
    fn runs_on_one_gpu_share_it_by_what_their_processes_did_where_that_is_reported() {
        let (a, b, gpu) = (run(1), run(2), GpuId("GPU-a".into()));
        let mut all = Attribution::default();
        let did = |pid, of, sm| GpuProcessView { sm: Some(sm), ..process(pid, of) };
        let three = [did(1, Some(a), 20), did(2, Some(a), 10), did(3, Some(b), 10), did(9, None, 20)];
        all.take(&gpu, work(0, 0), &three, &BTreeSet::new(), &Slices::default());
        let found = all.take(&gpu, work(10, 6_000), &three, &BTreeSet::new(), &Slices::default());
        assert_eq!((of(&found, a, &Kind::RunGpuEnergy), of(&found, b, &Kind::RunGpuEnergy)), (3_000, 1_000));
        assert_eq!(of(&found, a, &Kind::RunGpuTime), 2_500_000, "half of the half of ten seconds");
        let used = |found: &AttributionResult, run| found.uses.iter().find(|(r, _)| *r == run).unwrap().1.clone();
        let by = GpuUse {
            utilization: Some(25_000),
            memory_bytes: 2_000,
            time_us: Some(2_500_000),
            energy_mj: Some(3_000),
            sharing: Sharing::ByUtilization,
        };
        assert_eq!(used(&found, a), by);
        // One of which nothing is told makes all of it unknown.
        let some = [did(1, Some(a), 20), process(3, Some(b))];
        let found = all.take(&gpu, work(20, 8_000), &some, &BTreeSet::new(), &Slices::default());
        assert_eq!(of(&found, b, &Kind::RunGpuEnergy), 2_000);
        assert_eq!((used(&found, b).sharing, used(&found, b).utilization), (Sharing::Even, Some(25_000)));
        let idle = [did(1, Some(a), 0), did(3, Some(b), 0)];
        let found = all.take(&gpu, work(30, 10_000), &idle, &BTreeSet::new(), &Slices::default());
        assert_eq!(of(&found, b, &Kind::RunGpuEnergy), 3_000, "what an idle card draws");
        let found = all.take(&gpu, work(40, 12_000), &idle[1..], &BTreeSet::new(), &Slices::default());
        assert_eq!(used(&found, b).sharing, Sharing::Alone);
        assert_eq!((used(&found, a).memory_bytes, used(&found, a).utilization), (0, None), "it left");
    }

    #[test]
    fn what_the_gpu_does_not_report_is_unknown_and_not_nothing() {
        let (a, mig, whole) = (run(1), GpuId("GPU-mig".into()), GpuId("GPU-whole".into()));
        let mut all = Attribution::default();
        let on_it = [process(1, Some(a))];
        let untold = |s, energy| Work { utilization: None, energy, ..work(s, 0) };
        let kinds =
            |found: &AttributionResult| found.values.iter().map(|(_, kind, _)| kind.clone()).collect::<Vec<_>>();
        all.take(&mig, untold(0, Some(0)), &on_it, &BTreeSet::new(), &Slices::default());
        let found = all.take(&mig, untold(1, Some(500)), &on_it, &BTreeSet::new(), &Slices::default());
        assert_eq!(kinds(&found), [Kind::RunGpuEnergy, Kind::RunGpuMemory]);
        assert_eq!((found.uses[0].1.time_us, found.uses[0].1.energy_mj), (None, Some(500)));
        let found = all.take(&whole, work(2, 0), &on_it, &BTreeSet::new(), &Slices::default());
        assert_eq!(kinds(&found), [Kind::RunGpuEnergy, Kind::RunGpuMemory], "the whole is unknown with a part");
        assert_eq!(found.uses[0].1.time_us, Some(0));
        let mut amd = Attribution::default();
        let found = amd.take(&whole, Work { energy: None, ..work(0, 0) }, &on_it, &BTreeSet::new(), &Slices::default());
        assert_eq!(kinds(&found), [Kind::RunGpuTime, Kind::RunGpuMemory]);
    }

    #[test]
    fn a_neighbour_in_another_slice_is_not_foreign() {
        let (a, b, gpu) = (run(1), run(2), GpuId("GPU-a".into()));
        let in_slice = |pid, of, slice| GpuProcessView { slice: Some((slice, Some(0))), ..process(pid, of) };
        let there = [in_slice(1, Some(a), 2), in_slice(2, Some(b), 3), in_slice(3, None, 3), in_slice(4, None, 2)];
        let mut all = Attribution::default();
        let foreign = all.take(&gpu, work(0, 0), &there, &[a].into(), &Slices::default()).foreign;
        assert_eq!(foreign, [(a, ForeignProcess { pid: 4, of: None })], "only what is in its own slice");
        let mut all = Attribution::default();
        let foreign = all.take(&gpu, work(0, 0), &there[1..], &[a].into(), &Slices::default()).foreign;
        assert_eq!(foreign, [], "which slice is the run's is not known before it is there");
    }

    #[test]
    fn a_foreign_process_is_reported_once_until_it_leaves() {
        let (a, b, gpu) = (run(1), run(2), GpuId("GPU-a".into()));
        let mut all = Attribution::default();
        let both = [process(1, Some(a)), process(3, Some(b)), process(9, None)];
        let foreign = all.take(&gpu, work(0, 0), &both, &[a].into(), &Slices::default()).foreign;
        assert_eq!(foreign, [(a, ForeignProcess { pid: 3, of: Some(b) }), (a, ForeignProcess { pid: 9, of: None })]);
        assert_eq!(all.take(&gpu, work(1, 0), &both, &[a].into(), &Slices::default()).foreign, []);
        assert_eq!(all.take(&gpu, work(2, 0), &both[..1], &[a].into(), &Slices::default()).foreign, []);
        assert_eq!(all.take(&gpu, work(3, 0), &both[..2], &[a].into(), &Slices::default()).foreign.len(), 1);
    }

    #[test]
    fn in_mig_mode_the_card_is_shared_by_the_sizes_of_slices_and_a_given_slice_is_the_runs_before_it_is_there() {
        let (a, b, gpu) = (run(1), run(2), GpuId("GPU-a".into()));
        let in_slice = |pid, of, slice| GpuProcessView { slice: Some((slice, Some(0))), ..process(pid, of) };
        let slices = Slices {
            sizes: [((1, Some(0)), 1), ((2, Some(0)), 3), ((3, Some(0)), 2)].into(),
            busy: BTreeMap::new(),
            of: [(a, [(1, Some(0))].into()), (b, [(2, Some(0))].into())].into(),
        };
        let there = [in_slice(1, Some(a), 1), in_slice(2, Some(b), 2), in_slice(3, Some(b), 2), in_slice(9, None, 3)];
        let mut all = Attribution::default();
        let untold = |s, energy| Work { utilization: None, ..work(s, energy) };
        let foreign = all.take(&gpu, untold(0, 0), &there, &[a, b].into(), &slices).foreign;
        assert_eq!(foreign, [], "each is in its own slice, and what is in another is nobody's business");
        let found = all.take(&gpu, untold(10, 6_000), &there, &[a, b].into(), &slices);
        assert_eq!((of(&found, a, &Kind::RunGpuEnergy), of(&found, b, &Kind::RunGpuEnergy)), (1_000, 3_000));
        assert_eq!(found.uses[0].1.sharing, Sharing::BySlices);
        // Somebody else in a's slice takes half of it, and is told although a is not there yet.
        let crowd = [in_slice(7, None, 1), in_slice(2, Some(b), 2)];
        let found = all.take(&gpu, untold(20, 10_000), &crowd, &[a, b].into(), &slices);
        assert_eq!(found.foreign, [(a, ForeignProcess { pid: 7, of: None })]);
        assert_eq!(of(&found, b, &Kind::RunGpuEnergy), 6_000, "three of the four slices that are in use");
        // One whose size is not known makes it even.
        let odd = [in_slice(1, Some(a), 1), in_slice(2, Some(b), 5)];
        let found = all.take(&gpu, untold(30, 12_000), &odd, &[a, b].into(), &slices);
        assert_eq!((of(&found, a, &Kind::RunGpuEnergy), found.uses[0].1.sharing), (2_000, Sharing::Even));
    }

    #[test]
    fn in_mig_mode_time_is_that_of_the_devices_each_counted_as_a_gpu() {
        let (a, b, gpu) = (run(1), run(2), GpuId("GPU-a".into()));
        let slice = |n| (n, Some(0));
        let in_slice = |pid, of, n| GpuProcessView { slice: Some(slice(n)), ..process(pid, of) };
        let slices = Slices { busy: [(slice(1), 50_000), (slice(2), 100_000)].into(), ..Slices::default() };
        let untold = |s| Work { utilization: None, ..work(s, 0) };
        // Both are on the second device; the first is `a`'s alone.
        let there = [in_slice(1, Some(a), 1), in_slice(2, Some(a), 2), in_slice(3, Some(b), 2)];
        let mut all = Attribution::default();
        all.take(&gpu, untold(0), &there, &[a, b].into(), &slices);
        let found = all.take(&gpu, untold(10), &there, &[a, b].into(), &slices);
        assert_eq!(of(&found, a, &Kind::RunGpuTime), 10_000_000, "half of ten seconds twice");
        assert_eq!(of(&found, b, &Kind::RunGpuTime), 5_000_000);
        let shown = |found: &AttributionResult, n: usize| found.uses[n].1.utilization;
        assert_eq!((shown(&found, 0), shown(&found, 1)), (Some(50_000), Some(50_000)), "of the devices that it is on");
        // A device that does not tell makes it unknown, of whom it concerns.
        let odd = [in_slice(1, Some(a), 1), in_slice(3, Some(b), 3)];
        let found = all.take(&gpu, untold(20), &odd, &[a, b].into(), &slices);
        assert_eq!((shown(&found, 0), shown(&found, 1)), (Some(50_000), None));
        assert_eq!(of(&found, a, &Kind::RunGpuTime), 15_000_000);
    }
}

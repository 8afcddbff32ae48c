//! The simulated GPU at one moment: every signal as a function of the scenario and
//! the time, with the couplings a real GPU has (power limits throttle, heat slows
//! down, processes hold memory). A value the scenario gives always wins over one derived here.

mod ecc;
mod fans;
mod links;
mod mig;
mod preset;
mod process;

pub(crate) use ecc::{EccCounter, Location};
pub(crate) use links::LinkCount;
pub(crate) use mig::Mig;
pub(crate) use preset::{LinkCounters, Preset};
pub(crate) use process::Listed;

use crate::abi::consts::reason;
use crate::scenario::{Count, GpuSpec, ProcessKind, Series, Steps, Unit};

const MIB: u64 = 1024 * 1024;
/// Lanes of every board here.
pub(crate) const PCIE_LANES: u32 = 16;
/// A GPU that nothing heats.
const AMBIENT_C: f64 = 34.0;

/// One GPU of a scenario at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gpu<'a> {
    pub(crate) spec: &'a GpuSpec,
    pub(crate) index: usize,
    /// Scenario time, seconds.
    pub(crate) t: f64,
}

/// Bytes, as `nvmlDeviceGetMemoryInfo_v2` splits them: total = reserved + used + free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryUse {
    pub(crate) total: u64,
    pub(crate) reserved: u64,
    pub(crate) used: u64,
}

impl<'a> Gpu<'a> {
    pub(crate) fn preset(&self) -> &'a Preset {
        &self.spec.table.model
    }

    pub(crate) fn name(&self) -> &'a str {
        self.spec.table.name.as_deref().unwrap_or(self.preset().name)
    }

    fn value<U: Unit>(&self, series: Option<&Series<U>>, otherwise: f64) -> f64 {
        series.map_or(otherwise, |it| it.at(self.t))
    }

    /// Whether the scenario's load is on the GPU: always, unless it follows the processes
    /// and none of them can give it work.
    fn loaded(&self) -> bool {
        !self.spec.table.follows_processes || self.processes().iter().any(|it| process::runs(it.pid))
    }

    /// C.
    pub(crate) fn temperature(&self) -> f64 {
        self.value(self.spec.table.temperature.as_ref(), AMBIENT_C)
    }

    /// C; HBM reads a little above the GPU.
    pub(crate) fn memory_temperature(&self) -> f64 {
        self.value(self.spec.table.memory_temperature.as_ref(), self.temperature() + 6.0)
    }

    /// W.
    pub(crate) fn power(&self) -> f64 {
        let idle = self.preset().power.idle;
        if self.loaded() { self.value(self.spec.table.power.as_ref(), idle) } else { idle }
    }

    /// W.
    pub(crate) fn power_limit(&self) -> f64 {
        self.value(self.spec.table.power_limit.as_ref(), self.preset().power.default_limit)
    }

    /// W; what somebody asked for, where the board enforces less.
    pub(crate) fn power_limit_set(&self) -> f64 {
        self.value(self.spec.table.power_limit_set.as_ref(), self.power_limit())
    }

    /// J since time zero; of the scenario's power, also while the load is off.
    pub(crate) fn energy(&self) -> f64 {
        let idle = self.preset().power.idle * self.t.max(0.0);
        self.spec.table.power.as_ref().map_or(idle, |it| it.integral(self.t))
    }

    /// %.
    pub(crate) fn utilization(&self) -> f64 {
        self.load(self.spec.table.utilization.as_ref(), 0.0)
    }

    /// %; without a series, memory is busy for half of the time that the GPU is.
    pub(crate) fn memory_utilization(&self) -> f64 {
        self.load(self.spec.table.memory_utilization.as_ref(), self.utilization() / 2.0)
    }

    /// %.
    pub(crate) fn encoder(&self) -> f64 {
        self.load(self.spec.table.encoder.as_ref(), 0.0)
    }

    /// %.
    pub(crate) fn decoder(&self) -> f64 {
        self.load(self.spec.table.decoder.as_ref(), 0.0)
    }

    fn load<U: Unit>(&self, series: Option<&Series<U>>, otherwise: f64) -> f64 {
        if self.loaded() { self.value(series, otherwise) } else { 0.0 }
    }

    /// MHz; without a series, full speed under load, else idle.
    pub(crate) fn sm_clock(&self) -> f64 {
        let clocks = &self.preset().clocks;
        let busy = self.utilization() > 0.0;
        let natural = if busy { clocks.max_sm } else { clocks.idle_sm };
        if self.loaded() { self.value(self.spec.table.sm_clock.as_ref(), natural) } else { natural }
    }

    /// MHz; without a series, as the SM clock.
    pub(crate) fn graphics_clock(&self) -> f64 {
        self.spec.table.graphics_clock.as_ref().map_or_else(|| self.sm_clock(), |series| series.at(self.t))
    }

    /// MHz.
    pub(crate) fn memory_clock(&self) -> f64 {
        self.value(self.spec.table.memory_clock.as_ref(), self.preset().clocks.memory)
    }

    /// `nvmlClocksEventReason*` bits.
    pub(crate) fn throttle(&self) -> u64 {
        if let Some(steps) = &self.spec.table.throttle {
            return steps.at(self.t).0;
        }
        let thresholds = &self.preset().thresholds;
        let temperature = self.temperature();
        let causes = [
            (self.utilization() <= 0.0, reason::GPU_IDLE),
            (self.power() >= self.power_limit(), reason::SW_POWER_CAP),
            (temperature >= f64::from(thresholds.gpu_max), reason::SW_THERMAL),
            (temperature >= f64::from(thresholds.slowdown), reason::HW_SLOWDOWN | reason::HW_THERMAL),
        ];
        causes.into_iter().filter(|(holds, _)| *holds).fold(0, |all, (_, bits)| all | bits)
    }

    /// Seconds since time zero in which one of `reasons` held; known only where the scenario
    /// gives the reasons.
    pub(crate) fn throttled_seconds(&self, reasons: u64) -> Option<f64> {
        let steps = self.spec.table.throttle.as_ref()?;
        Some(steps.seconds_where(self.t, |it| it.0 & reasons != 0))
    }

    /// Bytes; without a series, what the processes hold.
    pub(crate) fn memory(&self) -> MemoryUse {
        let total = self.preset().memory_mib * MIB;
        let reserved = self.preset().reserved_mib * MIB;
        let used = match &self.spec.table.memory_used {
            Some(series) => series.at(self.t) as u64,
            None => self.processes().iter().map(|it| it.memory).sum(),
        };
        MemoryUse { total, reserved, used: used.min(total - reserved) }
    }

    /// The same of a MIG device, where one is meant.
    pub(crate) fn memory_of(&self, mig: Option<usize>) -> MemoryUse {
        let Some(device) = mig.and_then(|at| self.mig_devices().into_iter().nth(at)) else {
            return self.memory();
        };
        let used: u64 = self.processes().iter().filter(|it| it.mig == mig).map(|it| it.memory).sum();
        MemoryUse { total: device.memory(), reserved: 0, used: used.min(device.memory()) }
    }

    /// Generation and lanes of the PCIe link now.
    pub(crate) fn pcie(&self) -> (u32, u32) {
        let (table, most) = (&self.spec.table, self.preset().pcie_generation);
        let generation = self.value(table.pcie_generation.as_ref(), f64::from(most));
        let width = self.value(table.pcie_width.as_ref(), f64::from(PCIE_LANES));
        (generation as u32, width as u32)
    }

    /// Bytes of the BAR1 window that are mapped.
    pub(crate) fn bar1_used(&self) -> u64 {
        self.value(self.spec.table.bar1_used.as_ref(), MIB as f64) as u64
    }

    pub(crate) fn processes(&self) -> Vec<Listed> {
        process::listed(&self.spec.table.processes, self.t)
    }

    pub(crate) fn processes_of(&self, kind: ProcessKind) -> Vec<Listed> {
        self.processes().into_iter().filter(|it| it.kind == kind).collect()
    }

    /// Whether a condition holds; one that the scenario leaves out does not.
    pub(crate) fn flag(&self, steps: Option<&Steps<bool>>) -> bool {
        steps.is_some_and(|it| *it.at(self.t))
    }

    /// Whole things so far: a count that is half way to the next has not reached it.
    pub(crate) fn count(&self, series: Option<&Series<Count>>) -> u64 {
        self.value(series, 0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;
    use std::fs;

    fn scenario(gpu: &str) -> Scenario {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.toml");
        fs::write(&path, format!("[[gpu]]\nmodel = \"H100\"\n{gpu}")).unwrap();
        Scenario::load(&path).unwrap()
    }

    fn at(scenario: &Scenario, t: f64) -> Gpu<'_> {
        Gpu { spec: &scenario.gpus[0], index: 0, t }
    }

    #[test]
    fn an_empty_gpu_is_idle_and_cool() {
        let it = scenario("");
        let gpu = at(&it, 5.0);
        assert_eq!((gpu.temperature(), gpu.utilization(), gpu.power()), (34.0, 0.0, 70.0));
        assert_eq!(gpu.throttle(), reason::GPU_IDLE);
        assert_eq!(gpu.energy(), 350.0);
        assert_eq!(gpu.memory().used, 0);
    }

    #[test]
    fn heat_and_power_throttle() {
        let it = scenario("temperature = [[0, 80], [10, 95]]\nutilization = 90\npower = [[0, 600], [10, 700]]\n");
        assert_eq!(at(&it, 0.0).throttle(), 0);
        assert_eq!(at(&it, 5.0).throttle(), reason::SW_THERMAL);
        assert_eq!(
            at(&it, 10.0).throttle(),
            reason::SW_THERMAL | reason::HW_SLOWDOWN | reason::HW_THERMAL | reason::SW_POWER_CAP
        );
        let given = scenario("temperature = 95\nthrottle = [[0, \"none\"], [3, \"sync_boost | sw_power_cap\"]]\n");
        assert_eq!(at(&given, 2.0).throttle(), 0);
        assert_eq!(at(&given, 4.5).throttle(), reason::SYNC_BOOST | reason::SW_POWER_CAP);
        assert_eq!(at(&given, 4.5).throttled_seconds(reason::SW_POWER_CAP), Some(1.5));
    }

    #[test]
    fn memory_is_what_the_processes_hold_and_never_more_than_there_is() {
        let it = scenario(
            "[[gpu.process]]\npid = 7\nmemory = \"2 GiB\"\n[[gpu.process]]\npid = 8\nmemory = \"1GiB\"\nuntil = 4\n",
        );
        assert_eq!(at(&it, 0.0).memory().used, 3 * 1024 * MIB);
        assert_eq!(at(&it, 4.0).memory().used, 2 * 1024 * MIB);
        let over = scenario("memory_used = \"500 GiB\"\n");
        let memory = at(&over, 0.0).memory();
        assert_eq!(memory.used + memory.reserved, memory.total);
    }

    #[test]
    fn load_follows_the_processes_on_request() {
        let dead = "[[gpu.process]]\npid = 4194305\nmemory = 1\n";
        let it = scenario(&format!("follows_processes = true\nutilization = 97\npower = 600\n{dead}"));
        let gpu = at(&it, 1.0);
        assert_eq!((gpu.utilization(), gpu.power(), gpu.sm_clock()), (0.0, 70.0, 345.0));
        let own = std::process::id();
        let it = scenario(&format!(
            "follows_processes = true\nutilization = 97\npower = 600\n[[gpu.process]]\npid = {own}\nmemory = 1\n"
        ));
        assert_eq!((at(&it, 1.0).utilization(), at(&it, 1.0).power()), (97.0, 600.0));
    }

    #[test]
    fn ecc_counts_whole_errors() {
        let it = scenario("[gpu.ecc]\ncorrected = [[0, 0], [10, 5]]\nuncorrected_aggregate = 3\n");
        let read = |uncorrected, aggregate, t| at(&it, t).ecc(EccCounter { uncorrected, aggregate });
        assert_eq!(read(false, false, 3.0), Some(1));
        assert_eq!(read(false, true, 10.0), Some(5), "aggregate falls back to volatile");
        assert_eq!((read(true, false, 9.0), read(true, true, 9.0)), (Some(0), Some(3)));
        let off = scenario("[gpu.ecc]\nenabled = false\n");
        assert_eq!(at(&off, 0.0).ecc(EccCounter { uncorrected: true, aggregate: false }), None);
    }
}

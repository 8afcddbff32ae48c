//! The groups of signals, by how often they are asked for. What a group asks of one subject at length has a file of its own.

use super::{Reader, integer, is_absence};
use crate::sensors::nvml::sampler::raw;
use failsafe_core::signal::Kind;
use nvml_wrapper::{
    Device, GpmSample,
    enum_wrappers::device::{Clock, TemperatureThreshold},
    enums::gpm::GpmMetricId,
    error::NvmlError,
    gpm::gpm_metrics_get,
    struct_wrappers::device::{BAR1MemoryInfo, Utilization},
    structs::device::UtilizationInfo,
};

/// A field of `nvmlDeviceGetFieldValues`: number, signal, and how many of the signal's unit one of the field's is, over how
/// many.
type Field = (u32, Kind, (i128, i128));

const FAST_FIELDS: &[Field] = &[
    (82, Kind::GpuMemoryTemperature, (1_000, 1)),
    (83, Kind::GpuEnergy, (1, 1)),
    (185, Kind::GpuPowerAverage, (1, 1)),
    (186, Kind::GpuPowerInstant, (1, 1)),
];
/// NVML counts nanoseconds.
const VIOLATIONS: &[Field] = &[
    (74, Kind::GpuViolationPower, (1, 1_000)),
    (75, Kind::GpuViolationThermal, (1, 1_000)),
    (76, Kind::GpuViolationSyncBoost, (1, 1_000)),
    (77, Kind::GpuViolationBoard, (1, 1_000)),
    (79, Kind::GpuViolationReliability, (1, 1_000)),
];
const SLOW_FIELDS: &[Field] = &[
    (7, Kind::GpuEccL1Corrected, (1, 1)),
    (8, Kind::GpuEccL1Uncorrected, (1, 1)),
    (9, Kind::GpuEccL2Corrected, (1, 1)),
    (10, Kind::GpuEccL2Uncorrected, (1, 1)),
    (11, Kind::GpuEccDramCorrected, (1, 1)),
    (12, Kind::GpuEccDramUncorrected, (1, 1)),
    (13, Kind::GpuEccRegisterCorrected, (1, 1)),
    (14, Kind::GpuEccRegisterUncorrected, (1, 1)),
    (15, Kind::GpuEccTextureCorrected, (1, 1)),
    (16, Kind::GpuEccTextureUncorrected, (1, 1)),
    (17, Kind::GpuEccCbuUncorrected, (1, 1)),
    (18, Kind::GpuEccL1CorrectedTotal, (1, 1)),
    (19, Kind::GpuEccL1UncorrectedTotal, (1, 1)),
    (20, Kind::GpuEccL2CorrectedTotal, (1, 1)),
    (21, Kind::GpuEccL2UncorrectedTotal, (1, 1)),
    (22, Kind::GpuEccDramCorrectedTotal, (1, 1)),
    (23, Kind::GpuEccDramUncorrectedTotal, (1, 1)),
    (24, Kind::GpuEccRegisterCorrectedTotal, (1, 1)),
    (25, Kind::GpuEccRegisterUncorrectedTotal, (1, 1)),
    (26, Kind::GpuEccTextureCorrectedTotal, (1, 1)),
    (27, Kind::GpuEccTextureUncorrectedTotal, (1, 1)),
    (28, Kind::GpuEccCbuUncorrectedTotal, (1, 1)),
    (29, Kind::GpuRetiredPagesSingle, (1, 1)),
    (30, Kind::GpuRetiredPagesDouble, (1, 1)),
    (31, Kind::GpuRetiredPagesPending, (1, 1)),
    (142, Kind::GpuRemappedRowsCorrectable, (1, 1)),
    (143, Kind::GpuRemappedRowsUncorrectable, (1, 1)),
    (144, Kind::GpuRemappedRowsPending, (1, 1)),
    (145, Kind::GpuRemappedRowsFailure, (1, 1)),
    (173, Kind::GpuPcieCorrectable, (1, 1)),
    (230, Kind::GpuRecoveryAction, (1, 1)),
];
/// Non-fatal and fatal ones.
const PCIE_UNCORRECTABLE: [raw::FieldScope; 2] = [(179, 0), (180, 0)];

const GPM: [(GpmMetricId, Kind); 4] = [
    (GpmMetricId::SmUtil, Kind::GpuSmActive),
    (GpmMetricId::SmOccupancy, Kind::GpuSmOccupancy),
    (GpmMetricId::AnyTensorUtil, Kind::GpuTensorActive),
    (GpmMetricId::DramBwUtil, Kind::GpuDramActive),
];
/// Of a GPU instance, of which `nvmlDeviceGetUtilizationRates` tells nothing.
const INSTANCE_GPM: [(GpmMetricId, Kind); 5] = {
    let [sm, occupancy, tensor, dram] = GPM;
    [(GpmMetricId::GraphicsUtil, Kind::GpuUtilization), sm, occupancy, tensor, dram]
};

/// Memory in bytes: total, reserved where the library says, free, used.
type Split = (u64, Option<u64>, u64, u64);

impl Reader {
    /// What a rule may have to act on within a second.
    pub(super) fn fast(&mut self) {
        self.one(
            "nvmlDeviceGetUtilizationRates",
            [
                (Kind::GpuUtilization, |u: &Utilization| Some(thousand(u.gpu))),
                (Kind::GpuMemoryUtilization, |u| Some(thousand(u.memory))),
            ],
            |d| d.utilization_rates(),
        );
        self.memory();
        self.one(
            "nvmlDeviceGetTemperature",
            [(Kind::GpuTemperature, |t| Some(i64::from(*t) * 1_000))],
            raw::temperature,
        );
        self.power();
        self.clocks([(Clock::SM, Kind::GpuClockSm), (Clock::Memory, Kind::GpuClockMemory)]);
        self.one(
            "nvmlDeviceGetCurrentClocksEventReasons",
            [(Kind::GpuThrottle, |bits: &u64| Some(integer(*bits)))],
            raw::throttle_reasons,
        );
    }

    /// The fields of the groups that are due, in one call.
    pub(super) fn due_fields(&mut self, second: bool, slow: bool) {
        let mut wanted: Vec<&Field> = Vec::with_capacity(FAST_FIELDS.len() + VIOLATIONS.len() + SLOW_FIELDS.len());
        for (due, fields) in [(true, FAST_FIELDS), (second, VIOLATIONS), (slow, SLOW_FIELDS)] {
            if due || !self.due.is_empty() {
                self.group = due;
                wanted.extend(fields.iter().filter(|(_, kind, _)| !self.absent.contains(kind) && self.wanted(kind)));
            }
        }
        self.group = true;
        self.fields(wanted);
    }

    fn clocks(&mut self, clocks: [(Clock, Kind); 2]) {
        for (clock, kind) in clocks {
            self.one("nvmlDeviceGetClockInfo", [(kind, |mhz| Some(i64::from(*mhz)))], |d| d.clock_info(clock));
        }
    }

    /// What work leaves idle for hours, or follows from what is read faster: engines beside the compute units, their clocks.
    fn beside_compute(&mut self) {
        let share = |u: &UtilizationInfo| Some(thousand(u.utilization));
        self.one("nvmlDeviceGetEncoderUtilization", [(Kind::GpuEncoderUtilization, share)], |d| {
            d.encoder_utilization()
        });
        self.one("nvmlDeviceGetDecoderUtilization", [(Kind::GpuDecoderUtilization, share)], |d| {
            d.decoder_utilization()
        });
        self.clocks([(Clock::Graphics, Kind::GpuClockGraphics), (Clock::Video, Kind::GpuClockVideo)]);
        // 32 is NVML's "unknown".
        let state = |state: &u32| (*state != 32).then_some(i64::from(*state));
        self.one("nvmlDeviceGetPerformanceState", [(Kind::GpuPerformanceState, state)], |d| {
            d.performance_state().map(|state| state.as_c())
        });
        self.one(
            "nvmlDeviceGetMarginTemperature",
            [(Kind::GpuTemperatureMargin, |t: &i32| Some(i64::from(*t) * 1_000))],
            raw::margin,
        );
    }

    pub(super) fn memory(&mut self) {
        // Version 1 counts what is reserved as used.
        let memory = |d: &Device<'static>| match d.memory_info() {
            Ok(m) => Ok((m.total, Some(m.reserved), m.free, m.used)),
            Err(error) if is_absence(&error) => raw::memory_v1(d).map(|m| (m.total, None, m.free, m.used)),
            Err(error) => Err(error),
        };
        self.one(
            "nvmlDeviceGetMemoryInfo_v2",
            [
                (Kind::GpuMemoryTotal, |m: &Split| Some(integer(m.0))),
                (Kind::GpuMemoryReserved, |m| m.1.map(integer)),
                (Kind::GpuMemoryFree, |m| Some(integer(m.2))),
                (Kind::GpuMemory, |m| Some(integer(m.3))),
                (Kind::GpuMemoryShare, |m| share(m.3, m.0)),
            ],
            memory,
        );
    }

    fn power(&mut self) {
        let limit = self.limit;
        self.one(
            "nvmlDeviceGetPowerUsage",
            [
                (Kind::GpuPower, |(draw, _)| Some(i64::from(*draw))),
                (Kind::GpuPowerShare, |(draw, limit)| share(u64::from(*draw), u64::from((*limit)?))),
            ],
            |d| Ok((d.power_usage()?, limit)),
        );
    }

    /// What may be read once a second at most: GPM computes over the time between two readings.
    pub(super) fn gpm(&mut self) {
        self.gpm_of("nvmlGpmSampleGet", GPM, |d| d.gpm_sample());
    }

    /// The same of the GPU instance that a MIG device is of.
    pub(super) fn instance_gpm(&mut self, card: &Device<'static>, instance: u32) {
        self.gpm_of("nvmlGpmMigSampleGet", INSTANCE_GPM, |_| card.gpm_mig_sample(instance));
    }

    fn gpm_of<const N: usize>(
        &mut self,
        call: &'static str,
        signals: [(GpmMetricId, Kind); N],
        sample: impl FnOnce(&Device<'static>) -> Result<GpmSample<'static>, NvmlError>,
    ) {
        if signals.iter().all(|(_, kind)| self.absent.contains(kind) || !self.wanted(kind)) {
            return;
        }
        let now = match self.ask(call, sample) {
            Ok(now) => now,
            Err(error) => {
                self.gpm = None;
                signals.into_iter().for_each(|(_, kind)| self.missing(kind, &error));
                return;
            }
        };
        // The first reading has none before it to be compared with.
        if let Some(before) = self.gpm.replace(now)
            && let Some(now) = self.gpm.take()
        {
            let metrics = signals.each_ref().map(|(metric, _)| *metric);
            let answer = self.ask("nvmlGpmMetricsGet", |d| gpm_metrics_get(d.nvml(), &before, &now, &metrics));
            self.gpm = Some(now);
            match answer {
                Ok(metrics) => {
                    for (metric, (_, kind)) in metrics.into_iter().zip(signals) {
                        match metric {
                            // A number that is none becomes 0 in the cast; say that it is none.
                            Ok(metric) if !metric.value.is_finite() => self.put(kind, i64::MIN),
                            Ok(metric) => self.put(kind, (metric.value * 1_000.0) as i64),
                            Err(error) => self.missing(kind, &error),
                        }
                    }
                }
                Err(error) => signals.into_iter().for_each(|(_, kind)| self.missing(kind, &error)),
            }
        }
    }

    /// What changes by the minute.
    pub(super) fn slow(&mut self) {
        if self.wanted(&Kind::GpuPowerLimit) {
            self.limit = self.one(
                "nvmlDeviceGetEnforcedPowerLimit",
                [(Kind::GpuPowerLimit, |mw: &u32| Some(i64::from(*mw)))],
                |d| d.enforced_power_limit(),
            );
        }
        self.beside_compute();
        self.one(
            "nvmlDeviceGetBAR1MemoryInfo",
            [
                (Kind::GpuBar1Used, |m: &BAR1MemoryInfo| Some(integer(m.used))),
                (Kind::GpuBar1Total, |m| Some(integer(m.total))),
            ],
            |d| d.bar1_memory_info(),
        );
        self.fans();
        self.ecc();
        self.one(
            "nvmlDeviceGetRowRemapperHistogram",
            [(Kind::GpuRemapBanksExhausted, |r: &raw::SpareRows| Some(i64::from(r.none)))],
            raw::spare_rows,
        );
        self.pcie();
        self.pcie_uncorrectable();
        self.links();
        self.one(
            "nvmlDeviceGetGpuFabricInfoV",
            [
                (Kind::GpuFabricState, |f: &raw::FabricInfo| Some(i64::from(f.state))),
                (Kind::GpuFabricStatus, |f| Some(i64::from(f.status))),
                (Kind::GpuFabricHealth, |f| Some(i64::from(f.health))),
            ],
            raw::fabric,
        );
    }

    fn pcie(&mut self) {
        let number = |n: &u32| Some(i64::from(*n));
        self.one("nvmlDeviceGetCurrPcieLinkGeneration", [(Kind::GpuPcieGeneration, number)], |d| {
            d.current_pcie_link_gen()
        });
        self.one("nvmlDeviceGetCurrPcieLinkWidth", [(Kind::GpuPcieWidth, number)], |d| d.current_pcie_link_width());
        self.one("nvmlDeviceGetPcieReplayCounter", [(Kind::GpuPcieReplays, number)], |d| d.pcie_replay_counter());
    }

    fn pcie_uncorrectable(&mut self) {
        self.one("nvmlDeviceGetFieldValues", [(Kind::GpuPcieUncorrectable, |n| Some(*n))], |d| {
            super::links::sum(d, &PCIE_UNCORRECTABLE).map(saturated)
        });
    }

    /// What does not change while the driver is loaded.
    pub(super) fn rare(&mut self) {
        let mhz = |mhz: &u32| Some(i64::from(*mhz));
        for (clock, kind) in [
            (Clock::SM, Kind::GpuClockSmMax),
            (Clock::Memory, Kind::GpuClockMemoryMax),
            (Clock::Graphics, Kind::GpuClockGraphicsMax),
            (Clock::Video, Kind::GpuClockVideoMax),
        ] {
            self.one("nvmlDeviceGetMaxClockInfo", [(kind, mhz)], |d| d.max_clock_info(clock));
        }
        for (threshold, kind) in [
            (TemperatureThreshold::Shutdown, Kind::GpuTemperatureShutdown),
            (TemperatureThreshold::Slowdown, Kind::GpuTemperatureSlowdown),
            (TemperatureThreshold::GpuMax, Kind::GpuTemperatureLimit),
            (TemperatureThreshold::MemoryMax, Kind::GpuMemoryTemperatureLimit),
        ] {
            self.one(
                "nvmlDeviceGetTemperatureThreshold",
                [(kind, |t: &u32| Some(i64::from(t.cast_signed()) * 1_000))],
                |d| d.temperature_threshold(threshold),
            );
        }
        self.power_limits();
        self.one("nvmlDeviceGetMaxPcieLinkGeneration", [(Kind::GpuPcieGenerationMax, mhz)], |d| d.max_pcie_link_gen());
        self.one("nvmlDeviceGetMaxPcieLinkWidth", [(Kind::GpuPcieWidthMax, mhz)], |d| d.max_pcie_link_width());
    }

    /// Asks for `wanted`, in one call.
    fn fields(&mut self, wanted: Vec<&'static Field>) {
        if wanted.is_empty() {
            return;
        }
        let asked: Vec<raw::FieldScope> = wanted.iter().map(|(field, ..)| (*field, 0)).collect();
        match self.ask("nvmlDeviceGetFieldValues", |d| raw::field_values(d, &asked)) {
            Ok(values) => {
                for ((_, kind, (times, over)), value) in wanted.into_iter().zip(values) {
                    match value {
                        Ok(value) if value == i128::from(u64::MAX) => self.lacks(kind.clone()),
                        Ok(value) => self.file(kind.clone(), saturated(value.saturating_mul(*times) / over)),
                        Err(error) => self.field_missing(kind.clone(), &error),
                    }
                }
            }
            Err(error) => wanted.into_iter().for_each(|(_, kind, _)| self.lost(kind.clone(), &error)),
        }
    }

    /// A field that the library is too old to know is an invalid argument, as is one that this GPU cannot have.
    pub(super) fn field_missing(&mut self, kind: Kind, error: &NvmlError) {
        match error {
            NvmlError::InvalidArg => self.lacks(kind),
            error => {
                self.standing = self.standing.max(super::standing(error));
                self.lost(kind, error);
            }
        }
    }
}

pub(super) fn thousand(value: u32) -> i64 {
    i64::from(value) * 1_000
}

/// Far beyond what any signal can be, where it does not fit.
pub(super) fn saturated(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// `part` of `whole` in thousandths of a percent; none of nothing.
fn share(part: u64, whole: u64) -> Option<i64> {
    i64::try_from(u128::from(part).checked_mul(100_000)?.checked_div(u128::from(whole))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_thousandths_of_a_percent() {
        assert_eq!(share(1, 3), Some(33_333));
        assert_eq!(share(u64::MAX, u64::MAX), Some(100_000));
        assert_eq!(share(5, 0), None);
        assert_eq!(share(720, 700), Some(102_857), "above its limit is above 100%");
    }

    #[test]
    fn no_field_is_one_that_newer_drivers_have_renumbered() {
        let lists = [FAST_FIELDS, VIOLATIONS, SLOW_FIELDS];
        assert!(lists.into_iter().flatten().all(|(field, ..)| !(251..=273).contains(field)));
    }
}

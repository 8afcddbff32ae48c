//! Signals: what a sensor saw. The catalogue below is the one place where a signal's name, unit and source are declared.

mod made_of;
mod series;
mod value;

pub use series::{MAX_RANK, MAX_SERIES, Series};
pub use value::{Claimed, Real, Value};

use crate::{subject::Subject, time::MonoTime, unit::Unit};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which sensor a signal comes from; a [`crate::input::Gap`] names the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// eBPF events and counters.
    Ebpf,
    /// cgroup files and /proc.
    Cgroup,
    /// NVML.
    Nvml,
    /// The run's own metrics socket.
    App,
    /// The daemon's own observation of the containment.
    Guard,
    /// The kernel's log (`/dev/kmsg`).
    Kernel,
    /// sysfs and hwmon of AMD's GPUs.
    Amdgpu,
}

impl Source {
    /// The name in policies, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Source::Ebpf => "ebpf",
            Source::Cgroup => "cgroup",
            Source::Nvml => "nvml",
            Source::App => "app",
            Source::Guard => "guard",
            Source::Kernel => "kernel",
            Source::Amdgpu => "amdgpu",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a value is a level or only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A level: compared as it is.
    Gauge,
    /// A level whose growth is worth bounding: compared as it is, or by how much it grew (`/s`).
    Level,
    /// A total since the run's start: compared as it is, or as a rate (`/s`).
    Counter,
}

macro_rules! catalogue {
    ($($(#[$doc:meta])* $variant:ident $name:literal $unit:ident $shape:ident $source:ident;)*) => {
        /// What is measured. The name is what policies write.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
            /// A metric that the run reports itself; the policy's name is `metric.NAME`.
            Metric(String),
            /// Something happened: the value is an [`Event`].
            Event,
        }

        impl Kind {
            /// Every kind with a fixed name.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),*];

            /// The kind of a policy's signal name.
            pub fn parse(name: &str) -> Option<Kind> {
                match name {
                    $($name => Some(Kind::$variant),)*
                    _ => name.strip_prefix("metric.").filter(|n| metric_name(n)).map(|n| Kind::Metric(n.to_owned())),
                }
            }

            /// The unit of the value.
            pub fn unit(&self) -> Unit {
                match self { $(Kind::$variant => Unit::$unit,)* Kind::Metric(_) => Unit::Real, Kind::Event => Unit::Count }
            }

            /// Level or total.
            pub fn shape(&self) -> Shape {
                match self { $(Kind::$variant => Shape::$shape,)* Kind::Metric(_) | Kind::Event => Shape::Gauge }
            }

            /// The sensor it comes from.
            pub fn source(&self) -> Source {
                match self { $(Kind::$variant => Source::$source,)* Kind::Metric(_) => Source::App, Kind::Event => Source::Ebpf }
            }
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Kind::$variant => f.write_str($name),)*
                    Kind::Metric(name) => write!(f, "metric.{name}"),
                    Kind::Event => f.write_str("event"),
                }
            }
        }
    };
}

catalogue! {
    /// Bytes sent by the run's sockets (`cgroup_skb/egress`).
    EgressBytes "net.egress_bytes" Bytes Counter Ebpf;
    /// Packets sent.
    EgressPackets "net.egress_packets" Count Counter Ebpf;
    /// Bytes received (`cgroup_skb/ingress`).
    IngressBytes "net.ingress_bytes" Bytes Counter Ebpf;
    /// Packets received.
    IngressPackets "net.ingress_packets" Count Counter Ebpf;
    /// Connects, sends and packets denied in the kernel.
    EgressDenied "net.egress_denied" Count Counter Ebpf;
    /// Packets dropped in the kernel: outside the allow-list, over a budget, or of a blocked run.
    EgressDropped "net.egress_dropped" Count Counter Ebpf;
    /// Events the ring buffer could not take.
    EventsLost "events.lost" Count Counter Ebpf;
    /// Processes made.
    Forks "process.forks" Count Counter Ebpf;
    /// Programs executed.
    Execs "process.execs" Count Counter Ebpf;
    /// Memory of the run: `memory.current`, or resident memory summed over its processes.
    Memory "memory.used" Bytes Level Cgroup;
    /// Page faults (`memory.stat` pgfault, or those of its processes summed).
    PageFaults "memory.page_faults" Count Counter Cgroup;
    /// OOM kills in the run (`memory.events`).
    OomKills "memory.oom_kills" Count Counter Cgroup;
    /// CPU time of the run (`cpu.stat` usage_usec, or summed over its processes).
    CpuTime "cpu.time" Microseconds Counter Cgroup;
    /// Live processes of the run.
    Processes "process.count" Count Gauge Cgroup;
    /// 1 while the run stands still because its cgroup is frozen, or because each of its processes is stopped by a signal; else 0.
    Suspended "process.suspended" Count Gauge Cgroup;
    /// CPU pressure, `some avg10` (PSI).
    PressureCpu "pressure.cpu" MilliPercent Gauge Cgroup;
    /// Memory pressure, `some avg10`.
    PressureMemory "pressure.memory" MilliPercent Gauge Cgroup;
    /// IO pressure, `some avg10`.
    PressureIo "pressure.io" MilliPercent Gauge Cgroup;
    /// Time in which the run had its GPUs busy, shared evenly where several runs are on one.
    RunGpuTime "run.gpu_time" Microseconds Counter Nvml;
    /// GPU memory of the run's processes, over all GPUs.
    RunGpuMemory "run.gpu_memory" Bytes Gauge Nvml;
    /// Energy of its GPUs while it was on them, shared evenly where several runs are on one.
    RunGpuEnergy "run.gpu_energy" Millijoules Counter Nvml;
    /// Time in which a kernel was running (`nvmlDeviceGetUtilizationRates`).
    GpuUtilization "gpu.utilization" MilliPercent Gauge Nvml;
    /// Time in which memory was read or written.
    GpuMemoryUtilization "gpu.memory_utilization" MilliPercent Gauge Nvml;
    /// Time in which the video encoder worked.
    GpuEncoderUtilization "gpu.encoder_utilization" MilliPercent Gauge Nvml;
    /// Time in which the video decoder worked.
    GpuDecoderUtilization "gpu.decoder_utilization" MilliPercent Gauge Nvml;
    /// Multiprocessors with at least one warp, on average (GPM).
    GpuSmActive "gpu.sm_active" MilliPercent Gauge Nvml;
    /// Warps resident, share of what fits (GPM).
    GpuSmOccupancy "gpu.sm_occupancy" MilliPercent Gauge Nvml;
    /// Time in which tensor cores worked (GPM).
    GpuTensorActive "gpu.tensor_active" MilliPercent Gauge Nvml;
    /// Memory bandwidth in use, share of the greatest (GPM).
    GpuDramActive "gpu.dram_active" MilliPercent Gauge Nvml;
    /// Memory in use (`nvmlDeviceGetMemoryInfo_v2`).
    GpuMemory "gpu.memory_used" Bytes Gauge Nvml;
    /// Memory free.
    GpuMemoryFree "gpu.memory_free" Bytes Gauge Nvml;
    /// Memory that the driver keeps for itself.
    GpuMemoryReserved "gpu.memory_reserved" Bytes Gauge Nvml;
    /// Memory of the GPU.
    GpuMemoryTotal "gpu.memory_total" Bytes Gauge Nvml;
    /// Memory in use, share of the total.
    GpuMemoryShare "gpu.memory_share" MilliPercent Gauge Nvml;
    /// BAR1 window in use.
    GpuBar1Used "gpu.bar1_used" Bytes Gauge Nvml;
    /// Size of the BAR1 window.
    GpuBar1Total "gpu.bar1_total" Bytes Gauge Nvml;
    /// Core temperature (`nvmlDeviceGetTemperature`).
    GpuTemperature "gpu.temperature" MilliCelsius Gauge Nvml;
    /// Temperature of the memory (field 82).
    GpuMemoryTemperature "gpu.memory_temperature" MilliCelsius Gauge Nvml;
    /// How much hotter the core may become before the hardware slows it down.
    GpuTemperatureMargin "gpu.temperature_margin" MilliCelsius Gauge Nvml;
    /// Core temperature at which the hardware slows the GPU down.
    GpuTemperatureSlowdown "gpu.temperature_slowdown" MilliCelsius Gauge Nvml;
    /// Core temperature at which the GPU shuts down.
    GpuTemperatureShutdown "gpu.temperature_shutdown" MilliCelsius Gauge Nvml;
    /// Core temperature above which software slows the GPU down.
    GpuTemperatureLimit "gpu.temperature_limit" MilliCelsius Gauge Nvml;
    /// Memory temperature above which software slows the GPU down.
    GpuMemoryTemperatureLimit "gpu.memory_temperature_limit" MilliCelsius Gauge Nvml;
    /// Fans of the board that the driver knows (`nvmlDeviceGetNumFans`).
    GpuFans "gpu.fans" Count Gauge Nvml;
    /// The slowest fan, share of its full speed (`nvmlDeviceGetFanSpeed_v2`: what it is driven at).
    GpuFanSpeed "gpu.fan_speed" MilliPercent Gauge Nvml;
    /// The fastest fan, share of its full speed.
    GpuFanSpeedMax "gpu.fan_speed_max" MilliPercent Gauge Nvml;
    /// The speed that the fans are to have, the greatest of them (`nvmlDeviceGetTargetFanSpeed`).
    GpuFanTarget "gpu.fan_target" MilliPercent Gauge Nvml;
    /// Turns a minute of the slowest fan (`nvmlDeviceGetFanSpeedRPM`): measured, where the speed is what was asked for.
    GpuFanRpm "gpu.fan_rpm" Count Gauge Nvml;
    /// Fans that somebody has taken from the driver (`nvmlDeviceGetFanControlPolicy_v2`, manual).
    GpuFansManual "gpu.fans_manual" Count Gauge Nvml;
    /// Power draw (`nvmlDeviceGetPowerUsage`): a one-second average on most GPUs.
    GpuPower "gpu.power" Milliwatts Gauge Nvml;
    /// Power draw at this instant (field 186).
    GpuPowerInstant "gpu.power_instant" Milliwatts Gauge Nvml;
    /// Power draw, averaged by the driver (field 185).
    GpuPowerAverage "gpu.power_average" Milliwatts Gauge Nvml;
    /// The power limit that is enforced.
    GpuPowerLimit "gpu.power_limit" Milliwatts Gauge Nvml;
    /// The power limit that was asked for (`nvmlDeviceGetPowerManagementLimit`); what is enforced may be lower.
    GpuPowerLimitSet "gpu.power_limit_set" Milliwatts Gauge Nvml;
    /// The board's own power limit.
    GpuPowerLimitDefault "gpu.power_limit_default" Milliwatts Gauge Nvml;
    /// The lowest power limit that can be set (`nvmlDeviceGetPowerManagementLimitConstraints`).
    GpuPowerLimitMin "gpu.power_limit_min" Milliwatts Gauge Nvml;
    /// The highest power limit that can be set.
    GpuPowerLimitMax "gpu.power_limit_max" Milliwatts Gauge Nvml;
    /// Power draw, share of the enforced limit.
    GpuPowerShare "gpu.power_share" MilliPercent Gauge Nvml;
    /// Energy used since the driver was loaded.
    GpuEnergy "gpu.energy" Millijoules Counter Nvml;
    /// SM clock.
    GpuClockSm "gpu.clock_sm" Megahertz Gauge Nvml;
    /// Memory clock.
    GpuClockMemory "gpu.clock_memory" Megahertz Gauge Nvml;
    /// Graphics clock.
    GpuClockGraphics "gpu.clock_graphics" Megahertz Gauge Nvml;
    /// Video clock.
    GpuClockVideo "gpu.clock_video" Megahertz Gauge Nvml;
    /// Greatest SM clock.
    GpuClockSmMax "gpu.clock_sm_max" Megahertz Gauge Nvml;
    /// Greatest memory clock.
    GpuClockMemoryMax "gpu.clock_memory_max" Megahertz Gauge Nvml;
    /// Greatest graphics clock.
    GpuClockGraphicsMax "gpu.clock_graphics_max" Megahertz Gauge Nvml;
    /// Greatest video clock.
    GpuClockVideoMax "gpu.clock_video_max" Megahertz Gauge Nvml;
    /// Performance state: 0 is the fastest, 15 the slowest.
    GpuPerformanceState "gpu.performance_state" Count Gauge Nvml;
    /// Clock event (throttle) reasons, NVML's bits.
    GpuThrottle "gpu.throttle_reasons" Bits Gauge Nvml;
    /// Time for which the power limit held the clocks down.
    GpuViolationPower "gpu.violation_power" Microseconds Counter Nvml;
    /// Time for which heat held the clocks down.
    GpuViolationThermal "gpu.violation_thermal" Microseconds Counter Nvml;
    /// Time for which sync boost held the clocks down.
    GpuViolationSyncBoost "gpu.violation_sync_boost" Microseconds Counter Nvml;
    /// Time for which a limit of the board held the clocks down.
    GpuViolationBoard "gpu.violation_board" Microseconds Counter Nvml;
    /// Time for which the voltage reliability limit held the clocks down.
    GpuViolationReliability "gpu.violation_reliability" Microseconds Counter Nvml;
    /// Uncorrected ECC errors since the driver was loaded.
    GpuEccUncorrected "gpu.ecc_uncorrected" Count Counter Nvml;
    /// Corrected ECC errors since the driver was loaded.
    GpuEccCorrected "gpu.ecc_corrected" Count Counter Nvml;
    /// Uncorrected ECC errors over the GPU's life.
    GpuEccUncorrectedTotal "gpu.ecc_uncorrected_total" Count Counter Nvml;
    /// Corrected ECC errors over the GPU's life.
    GpuEccCorrectedTotal "gpu.ecc_corrected_total" Count Counter Nvml;
    /// Uncorrected ECC errors of device memory since the driver was loaded.
    GpuEccDramUncorrected "gpu.ecc_dram_uncorrected" Count Counter Nvml;
    /// Corrected ECC errors of device memory since the driver was loaded.
    GpuEccDramCorrected "gpu.ecc_dram_corrected" Count Counter Nvml;
    /// Uncorrected ECC errors of on-chip memory since the driver was loaded.
    GpuEccSramUncorrected "gpu.ecc_sram_uncorrected" Count Counter Nvml;
    /// Corrected ECC errors of on-chip memory since the driver was loaded.
    GpuEccSramCorrected "gpu.ecc_sram_corrected" Count Counter Nvml;
    /// Uncorrected ECC errors of device memory over the GPU's life.
    GpuEccDramUncorrectedTotal "gpu.ecc_dram_uncorrected_total" Count Counter Nvml;
    /// Corrected ECC errors of device memory over the GPU's life.
    GpuEccDramCorrectedTotal "gpu.ecc_dram_corrected_total" Count Counter Nvml;
    /// Uncorrected ECC errors of on-chip memory over the GPU's life.
    GpuEccSramUncorrectedTotal "gpu.ecc_sram_uncorrected_total" Count Counter Nvml;
    /// Corrected ECC errors of on-chip memory over the GPU's life.
    GpuEccSramCorrectedTotal "gpu.ecc_sram_corrected_total" Count Counter Nvml;
    /// Of the uncorrected errors of on-chip memory over the GPU's life, those in the L2 cache.
    GpuEccSramL2Total "gpu.ecc_sram_l2_uncorrected_total" Count Counter Nvml;
    /// Of the uncorrected errors of on-chip memory over the GPU's life, those in the multiprocessors.
    GpuEccSramSmTotal "gpu.ecc_sram_sm_uncorrected_total" Count Counter Nvml;
    /// Of the uncorrected errors of on-chip memory over the GPU's life, those in PCIe.
    GpuEccSramPcieTotal "gpu.ecc_sram_pcie_uncorrected_total" Count Counter Nvml;
    /// Of the uncorrected errors of on-chip memory over the GPU's life, those in the micro-controllers.
    GpuEccSramMcuTotal "gpu.ecc_sram_mcu_uncorrected_total" Count Counter Nvml;
    /// Of the uncorrected errors of on-chip memory over the GPU's life, those in the rest.
    GpuEccSramOtherTotal "gpu.ecc_sram_other_uncorrected_total" Count Counter Nvml;
    /// Uncorrected ECC errors of the L1 cache since the driver was loaded.
    GpuEccL1Uncorrected "gpu.ecc_l1_uncorrected" Count Counter Nvml;
    /// Corrected ECC errors of the L1 cache since the driver was loaded.
    GpuEccL1Corrected "gpu.ecc_l1_corrected" Count Counter Nvml;
    /// Uncorrected ECC errors of the L1 cache over the GPU's life.
    GpuEccL1UncorrectedTotal "gpu.ecc_l1_uncorrected_total" Count Counter Nvml;
    /// Corrected ECC errors of the L1 cache over the GPU's life.
    GpuEccL1CorrectedTotal "gpu.ecc_l1_corrected_total" Count Counter Nvml;
    /// Uncorrected ECC errors of the L2 cache since the driver was loaded.
    GpuEccL2Uncorrected "gpu.ecc_l2_uncorrected" Count Counter Nvml;
    /// Corrected ECC errors of the L2 cache since the driver was loaded.
    GpuEccL2Corrected "gpu.ecc_l2_corrected" Count Counter Nvml;
    /// Uncorrected ECC errors of the L2 cache over the GPU's life.
    GpuEccL2UncorrectedTotal "gpu.ecc_l2_uncorrected_total" Count Counter Nvml;
    /// Corrected ECC errors of the L2 cache over the GPU's life.
    GpuEccL2CorrectedTotal "gpu.ecc_l2_corrected_total" Count Counter Nvml;
    /// Uncorrected ECC errors of the register file since the driver was loaded.
    GpuEccRegisterUncorrected "gpu.ecc_register_uncorrected" Count Counter Nvml;
    /// Corrected ECC errors of the register file since the driver was loaded.
    GpuEccRegisterCorrected "gpu.ecc_register_corrected" Count Counter Nvml;
    /// Uncorrected ECC errors of the register file over the GPU's life.
    GpuEccRegisterUncorrectedTotal "gpu.ecc_register_uncorrected_total" Count Counter Nvml;
    /// Corrected ECC errors of the register file over the GPU's life.
    GpuEccRegisterCorrectedTotal "gpu.ecc_register_corrected_total" Count Counter Nvml;
    /// Uncorrected ECC errors of texture memory since the driver was loaded.
    GpuEccTextureUncorrected "gpu.ecc_texture_uncorrected" Count Counter Nvml;
    /// Corrected ECC errors of texture memory since the driver was loaded.
    GpuEccTextureCorrected "gpu.ecc_texture_corrected" Count Counter Nvml;
    /// Uncorrected ECC errors of texture memory over the GPU's life.
    GpuEccTextureUncorrectedTotal "gpu.ecc_texture_uncorrected_total" Count Counter Nvml;
    /// Corrected ECC errors of texture memory over the GPU's life.
    GpuEccTextureCorrectedTotal "gpu.ecc_texture_corrected_total" Count Counter Nvml;
    /// Uncorrected ECC errors of shared memory since the driver was loaded.
    GpuEccSharedUncorrected "gpu.ecc_shared_uncorrected" Count Counter Nvml;
    /// Corrected ECC errors of shared memory since the driver was loaded.
    GpuEccSharedCorrected "gpu.ecc_shared_corrected" Count Counter Nvml;
    /// Uncorrected ECC errors of shared memory over the GPU's life.
    GpuEccSharedUncorrectedTotal "gpu.ecc_shared_uncorrected_total" Count Counter Nvml;
    /// Corrected ECC errors of shared memory over the GPU's life.
    GpuEccSharedCorrectedTotal "gpu.ecc_shared_corrected_total" Count Counter Nvml;
    /// Uncorrected ECC errors of the convergence barrier unit since the driver was loaded.
    GpuEccCbuUncorrected "gpu.ecc_cbu_uncorrected" Count Counter Nvml;
    /// Uncorrected ECC errors of the convergence barrier unit over the GPU's life.
    GpuEccCbuUncorrectedTotal "gpu.ecc_cbu_uncorrected_total" Count Counter Nvml;
    /// 1 when uncorrected errors of on-chip memory have passed NVIDIA's threshold.
    GpuEccSramThreshold "gpu.ecc_sram_threshold" Count Gauge Nvml;
    /// Pages retired for single-bit errors.
    GpuRetiredPagesSingle "gpu.retired_pages_single" Count Counter Nvml;
    /// Pages retired for double-bit errors.
    GpuRetiredPagesDouble "gpu.retired_pages_double" Count Counter Nvml;
    /// 1 when pages wait for a reset to be retired.
    GpuRetiredPagesPending "gpu.retired_pages_pending" Count Gauge Nvml;
    /// Rows remapped for correctable errors.
    GpuRemappedRowsCorrectable "gpu.remapped_rows_correctable" Count Counter Nvml;
    /// Rows remapped for uncorrectable errors.
    GpuRemappedRowsUncorrectable "gpu.remapped_rows_uncorrectable" Count Counter Nvml;
    /// 1 when rows wait for a reset to be remapped.
    GpuRemappedRowsPending "gpu.remapped_rows_pending" Count Gauge Nvml;
    /// 1 when a row could not be remapped.
    GpuRemappedRowsFailure "gpu.remapped_rows_failure" Count Gauge Nvml;
    /// Memory banks without a spare row left.
    GpuRemapBanksExhausted "gpu.remap_banks_exhausted" Count Gauge Nvml;
    /// PCIe generation of the link now.
    GpuPcieGeneration "gpu.pcie_generation" Count Gauge Nvml;
    /// Greatest PCIe generation that GPU and slot can do.
    GpuPcieGenerationMax "gpu.pcie_generation_max" Count Gauge Nvml;
    /// PCIe lanes in use now.
    GpuPcieWidth "gpu.pcie_width" Count Gauge Nvml;
    /// Greatest number of PCIe lanes.
    GpuPcieWidthMax "gpu.pcie_width_max" Count Gauge Nvml;
    /// PCIe packets sent again.
    GpuPcieReplays "gpu.pcie_replays" Count Counter Nvml;
    /// PCIe errors that the link corrected (field 173).
    GpuPcieCorrectable "gpu.pcie_correctable_errors" Count Counter Nvml;
    /// PCIe errors that the link did not correct, fatal or not (fields 179, 180).
    GpuPcieUncorrectable "gpu.pcie_uncorrectable_errors" Count Counter Nvml;
    /// NVLinks of the GPU.
    GpuNvlinkLinks "gpu.nvlink_links" Count Gauge Nvml;
    /// NVLinks that are up.
    GpuNvlinkActive "gpu.nvlink_active" Count Gauge Nvml;
    /// CRC errors over all NVLinks, flits and data.
    GpuNvlinkCrcErrors "gpu.nvlink_crc_errors" Count Counter Nvml;
    /// Packets sent again over all NVLinks.
    GpuNvlinkReplays "gpu.nvlink_replays" Count Counter Nvml;
    /// Recoveries over all NVLinks.
    GpuNvlinkRecoveries "gpu.nvlink_recoveries" Count Counter Nvml;
    /// Bytes sent over all NVLinks.
    GpuNvlinkSent "gpu.nvlink_tx_bytes" Bytes Counter Nvml;
    /// Bytes received over all NVLinks.
    GpuNvlinkReceived "gpu.nvlink_rx_bytes" Bytes Counter Nvml;
    /// What NVML says must be done (field 230): 0 nothing, 1 reset, 2 reboot, 3 drain peers, 4 drain and reset.
    GpuRecoveryAction "gpu.recovery_action" Count Gauge Nvml;
    /// Processes on the GPU, of every kind and in every MIG device.
    GpuProcesses "gpu.processes" Count Gauge Nvml;
    /// Processes that compute.
    GpuComputeProcesses "gpu.compute_processes" Count Gauge Nvml;
    /// Registration with the NVLink fabric: 0 not supported, 1 not started, 2 under way, 3 completed.
    GpuFabricState "gpu.fabric_state" Count Gauge Nvml;
    /// How the registration went: 0 is success, else NVML's error code.
    GpuFabricStatus "gpu.fabric_status" Count Gauge Nvml;
    /// Health of the fabric: NVML's mask of two-bit fields.
    GpuFabricHealth "gpu.fabric_health" Bits Gauge Nvml;
    /// How long it has been busy at low power: a rank that spins in a collective.
    GpuDerivedSpinning "gpu.derived.spinning" Microseconds Gauge Nvml;
    /// How long it has been idle at high power.
    GpuDerivedIdlePower "gpu.derived.idle_power" Microseconds Gauge Nvml;
    /// How long its utilisation and memory have stood still without a metric of the run.
    GpuDerivedStalled "gpu.derived.stalled" Microseconds Gauge Nvml;
    /// By how much it warms up in a minute.
    GpuDerivedThermalSlope "gpu.derived.thermal_slope" MilliCelsius Gauge Nvml;
    /// Memory errors an hour.
    GpuDerivedEccRate "gpu.derived.ecc_rate" Count Gauge Nvml;
    /// By how much its used memory grows in an hour, while it only grows.
    GpuDerivedMemorySlope "gpu.derived.memory_slope" Bytes Gauge Nvml;
    /// How long its clocks have been held down while it works.
    GpuDerivedClockHeld "gpu.derived.clock_held" Microseconds Gauge Nvml;
    /// By how much its utilisation, or its SM clock as a share of the greatest, lies below the median of the run's GPUs.
    GpuDerivedStraggler "gpu.derived.straggler" MilliPercent Gauge Nvml;
}

/// Whether `name` may be a metric's name: 1 to 64 of letters, digits, `_`, `-`, `.`, `/`.
pub fn metric_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'))
}

/// One thing that a sensor saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Number of the input in the daemon's stream; a decision's `because` refers to it.
    pub seq: u64,
    /// When it was seen, by the kernel where the kernel says so.
    pub at: MonoTime,
    /// The sensor.
    pub source: Source,
    /// Whom it speaks of.
    pub subject: Subject,
    /// What was measured.
    pub kind: Kind,
    /// The value, in the kind's unit.
    pub value: Value,
    /// Of an event: how many like it the kernel held back since it last told of one, besides this one; it tells of some once a
    /// second.
    #[serde(default)]
    pub repeats: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(&kind.to_string()).as_ref(), Some(kind));
        }
        assert_eq!(Kind::parse("metric.loss"), Some(Kind::Metric("loss".into())));
        assert_eq!(Kind::parse("metric.a b"), None);
        assert_eq!(Kind::parse("metric."), None);
    }

    /// The reference shows totals of one kind as `..._total`, and otherwise every name.
    #[test]
    fn every_signal_and_event_is_in_the_reference() {
        let reference = include_str!("../../../docs/policy-index.md");
        for kind in Kind::ALL {
            let name = kind.to_string();
            assert!(reference.contains(&format!("`{name}`")) || name.ends_with("_total"), "{name}");
        }
        for event in crate::event::EventKind::ALL.iter().copied() {
            assert!(reference.contains(&format!("`{}`", event.name())), "{}", event.name());
            for field in event.fields() {
                assert!(reference.contains(&format!("`{}`", field.name())), "{}", field.name());
            }
        }
    }
}

//! Every signal that is read of a GPU: its value and its unit, each different from all others that it could be mixed up with.
//!
//! The numbers below `[gpu.fields]` are those of NVIDIA's header (`NVML_FI_*`), written down here once more: two that are swapped
//! in the sensor give each other's values. Greatest graphics and SM clocks are the same on the boards, and cannot be told apart.

use crate::rig::{GPU0, Rig, gpu};
use anyhow::{Context, Result, ensure};
use failsafe_core::{signal::Kind, unit::Unit};
use failsafed::sensors::nvml::{Current, NvmlEvent};
use std::collections::BTreeSet;

const SCENARIO: &str = r#"
temperature = 62
memory_temperature = 71
power = 350
power_limit = 650
power_limit_set = 660
utilization = 97
memory_utilization = 41
encoder = 12
decoder = 23
memory_used = "20 GiB"
sm_clock = 1755
graphics_clock = 1700
memory_clock = 2600
performance_state = 2
throttle = "hw_slowdown | sw_power_cap"
fans = { speed = [48, 43, 46], target = 52, rpm = [3500, 3400, 3600], manual = true }
sm_active = 81
sm_occupancy = 37
tensor_active = 44
dram_active = 58
bar1_used = "3 MiB"
pcie_generation = 4
pcie_width = 8
pcie_replays = 5
recovery_action = "reboot"

[gpu.ecc]
corrected = 50
uncorrected = 20
corrected_aggregate = 500
uncorrected_aggregate = 200
sram_corrected = 7
sram_uncorrected = 3
sram_corrected_aggregate = 70
sram_uncorrected_aggregate = 33
sram_parts = [1001, 1002, 1003, 1004, 1005]
sram_threshold = true
l1 = { corrected = 2001, uncorrected = 2002, corrected_aggregate = 2003, uncorrected_aggregate = 2004 }
l2 = { corrected = 2011, uncorrected = 2012, corrected_aggregate = 2013, uncorrected_aggregate = 2014 }
register = { corrected = 2021, uncorrected = 2022, corrected_aggregate = 2023, uncorrected_aggregate = 2024 }
texture = { corrected = 2031, uncorrected = 2032, corrected_aggregate = 2033, uncorrected_aggregate = 2034 }
shared = { corrected = 2041, uncorrected = 2042, corrected_aggregate = 2043, uncorrected_aggregate = 2044 }
cbu = { uncorrected = 2052, uncorrected_aggregate = 2054 }

[gpu.rows]
exhausted = 13

[gpu.nvlink]
active = 17
crc = 100
replays = 101
recoveries = 102
sent = "3 MiB"
received = "2 MiB"

[gpu.fabric]
state = 2
status = 5
health = 9

[gpu.fields]
29 = 14            # RETIRED_SBE
30 = 15            # RETIRED_DBE
31 = 1             # RETIRED_PENDING
74 = 74000         # PERF_POLICY_POWER, ns
75 = 75000         # PERF_POLICY_THERMAL
76 = 76000         # PERF_POLICY_SYNC_BOOST
77 = 77000         # PERF_POLICY_BOARD_LIMIT
78 = 78000         # PERF_POLICY_LOW_UTILIZATION
79 = 79000         # PERF_POLICY_RELIABILITY
142 = 16           # REMAPPED_COR
143 = 17           # REMAPPED_UNC
144 = 1            # REMAPPED_PENDING
145 = 0            # REMAPPED_FAILURE
173 = 18           # PCIE_COUNT_CORRECTABLE_ERRORS
179 = 19           # PCIE_COUNT_NON_FATAL_ERROR
180 = 20           # PCIE_COUNT_FATAL_ERROR
185 = 351000       # POWER_AVERAGE, mW
186 = 352000       # POWER_INSTANT

[[gpu.process]]
pid = 4001
memory = "1 GiB"

[[gpu.process]]
pid = 4002
memory = "1 GiB"
kind = "mps"

[[gpu.process]]
pid = 4003
memory = "1 GiB"
kind = "graphics"
"#;

const MIB: i64 = 1 << 20;
const TOTAL: i64 = 81_559 * MIB;
const RESERVED: i64 = 551 * MIB;
const USED: i64 = 20 << 30;

/// By the scenario, the H100 of the simulator, and ten seconds of 350 W.
fn expected() -> Vec<(Kind, Unit, i64)> {
    use Kind as K;
    use Unit::{Bits, Bytes, Count, Megahertz, Microseconds, MilliCelsius, MilliPercent, Millijoules, Milliwatts};
    vec![
        (K::GpuUtilization, MilliPercent, 97_000),
        (K::GpuMemoryUtilization, MilliPercent, 41_000),
        (K::GpuEncoderUtilization, MilliPercent, 12_000),
        (K::GpuDecoderUtilization, MilliPercent, 23_000),
        (K::GpuSmActive, MilliPercent, 81_000),
        (K::GpuSmOccupancy, MilliPercent, 37_000),
        (K::GpuTensorActive, MilliPercent, 44_000),
        (K::GpuDramActive, MilliPercent, 58_000),
        (K::GpuMemory, Bytes, USED),
        (K::GpuMemoryFree, Bytes, TOTAL - RESERVED - USED),
        (K::GpuMemoryReserved, Bytes, RESERVED),
        (K::GpuMemoryTotal, Bytes, TOTAL),
        (K::GpuMemoryShare, MilliPercent, 100_000 * (USED / MIB) / (TOTAL / MIB)),
        (K::GpuBar1Used, Bytes, 3 * MIB),
        (K::GpuBar1Total, Bytes, 131_072 * MIB),
        (K::GpuTemperature, MilliCelsius, 62_000),
        (K::GpuMemoryTemperature, MilliCelsius, 71_000),
        (K::GpuTemperatureMargin, MilliCelsius, 25_000),
        (K::GpuTemperatureSlowdown, MilliCelsius, 89_000),
        (K::GpuTemperatureShutdown, MilliCelsius, 92_000),
        (K::GpuTemperatureLimit, MilliCelsius, 87_000),
        (K::GpuMemoryTemperatureLimit, MilliCelsius, 95_000),
        (K::GpuFans, Count, 3),
        (K::GpuFanSpeed, MilliPercent, 43_000),
        (K::GpuFanSpeedMax, MilliPercent, 48_000),
        (K::GpuFanTarget, MilliPercent, 52_000),
        (K::GpuFanRpm, Count, 3_400),
        (K::GpuFansManual, Count, 3),
        (K::GpuPower, Milliwatts, 350_000),
        (K::GpuPowerInstant, Milliwatts, 352_000),
        (K::GpuPowerAverage, Milliwatts, 351_000),
        (K::GpuPowerLimit, Milliwatts, 650_000),
        (K::GpuPowerLimitSet, Milliwatts, 660_000),
        (K::GpuPowerLimitDefault, Milliwatts, 700_000),
        (K::GpuPowerLimitMin, Milliwatts, 200_000),
        (K::GpuPowerLimitMax, Milliwatts, 700_000),
        (K::GpuPowerShare, MilliPercent, 53_846),
        (K::GpuEnergy, Millijoules, 3_500_000),
        (K::GpuClockSm, Megahertz, 1_755),
        (K::GpuClockMemory, Megahertz, 2_600),
        (K::GpuClockGraphics, Megahertz, 1_700),
        (K::GpuClockVideo, Megahertz, 1_369),
        (K::GpuClockSmMax, Megahertz, 1_980),
        (K::GpuClockMemoryMax, Megahertz, 2_619),
        (K::GpuClockGraphicsMax, Megahertz, 1_980),
        (K::GpuClockVideoMax, Megahertz, 1_545),
        (K::GpuPerformanceState, Count, 2),
        (K::GpuThrottle, Bits, 0x8 | 0x4),
        (K::GpuViolationPower, Microseconds, 74),
        (K::GpuViolationThermal, Microseconds, 75),
        (K::GpuViolationSyncBoost, Microseconds, 76),
        (K::GpuViolationBoard, Microseconds, 77),
        (K::GpuViolationReliability, Microseconds, 79),
        (K::GpuEccUncorrected, Count, 20),
        (K::GpuEccCorrected, Count, 50),
        (K::GpuEccUncorrectedTotal, Count, 200),
        (K::GpuEccCorrectedTotal, Count, 500),
        (K::GpuEccDramUncorrected, Count, 17),
        (K::GpuEccDramCorrected, Count, 43),
        (K::GpuEccDramUncorrectedTotal, Count, 167),
        (K::GpuEccDramCorrectedTotal, Count, 430),
        (K::GpuEccSramUncorrected, Count, 3),
        (K::GpuEccSramCorrected, Count, 7),
        (K::GpuEccSramUncorrectedTotal, Count, 33),
        (K::GpuEccSramCorrectedTotal, Count, 70),
        (K::GpuEccSramL2Total, Count, 1_001),
        (K::GpuEccSramSmTotal, Count, 1_002),
        (K::GpuEccSramPcieTotal, Count, 1_003),
        (K::GpuEccSramMcuTotal, Count, 1_004),
        (K::GpuEccSramOtherTotal, Count, 1_005),
        (K::GpuEccL1Uncorrected, Count, 2_002),
        (K::GpuEccL1Corrected, Count, 2_001),
        (K::GpuEccL1UncorrectedTotal, Count, 2_004),
        (K::GpuEccL1CorrectedTotal, Count, 2_003),
        (K::GpuEccL2Uncorrected, Count, 2_012),
        (K::GpuEccL2Corrected, Count, 2_011),
        (K::GpuEccL2UncorrectedTotal, Count, 2_014),
        (K::GpuEccL2CorrectedTotal, Count, 2_013),
        (K::GpuEccRegisterUncorrected, Count, 2_022),
        (K::GpuEccRegisterCorrected, Count, 2_021),
        (K::GpuEccRegisterUncorrectedTotal, Count, 2_024),
        (K::GpuEccRegisterCorrectedTotal, Count, 2_023),
        (K::GpuEccTextureUncorrected, Count, 2_032),
        (K::GpuEccTextureCorrected, Count, 2_031),
        (K::GpuEccTextureUncorrectedTotal, Count, 2_034),
        (K::GpuEccTextureCorrectedTotal, Count, 2_033),
        (K::GpuEccSharedUncorrected, Count, 2_042),
        (K::GpuEccSharedCorrected, Count, 2_041),
        (K::GpuEccSharedUncorrectedTotal, Count, 2_044),
        (K::GpuEccSharedCorrectedTotal, Count, 2_043),
        (K::GpuEccCbuUncorrected, Count, 2_052),
        (K::GpuEccCbuUncorrectedTotal, Count, 2_054),
        (K::GpuEccSramThreshold, Count, 1),
        (K::GpuRetiredPagesSingle, Count, 14),
        (K::GpuRetiredPagesDouble, Count, 15),
        (K::GpuRetiredPagesPending, Count, 1),
        (K::GpuRemappedRowsCorrectable, Count, 16),
        (K::GpuRemappedRowsUncorrectable, Count, 17),
        (K::GpuRemappedRowsPending, Count, 1),
        (K::GpuRemappedRowsFailure, Count, 0),
        (K::GpuRemapBanksExhausted, Count, 13),
        (K::GpuPcieGeneration, Count, 4),
        (K::GpuPcieGenerationMax, Count, 5),
        (K::GpuPcieWidth, Count, 8),
        (K::GpuPcieWidthMax, Count, 16),
        (K::GpuPcieReplays, Count, 5),
        (K::GpuPcieCorrectable, Count, 18),
        (K::GpuPcieUncorrectable, Count, 39),
        (K::GpuNvlinkLinks, Count, 18),
        (K::GpuNvlinkActive, Count, 17),
        (K::GpuNvlinkCrcErrors, Count, 100),
        (K::GpuNvlinkReplays, Count, 101),
        (K::GpuNvlinkRecoveries, Count, 102),
        (K::GpuNvlinkSent, Bytes, 3 * MIB),
        (K::GpuNvlinkReceived, Bytes, 2 * MIB),
        (K::GpuRecoveryAction, Count, 2),
        (K::GpuProcesses, Count, 3),
        (K::GpuComputeProcesses, Count, 2),
        (K::GpuFabricState, Count, 2),
        (K::GpuFabricStatus, Count, 5),
        (K::GpuFabricHealth, Bits, 9),
    ]
}

#[test]
fn every_signal_has_its_own_value_in_its_unit() -> Result<()> {
    let expected = expected();
    let named: BTreeSet<&Kind> = expected.iter().map(|(kind, ..)| kind).collect();
    let all: BTreeSet<&Kind> = Kind::ALL.iter().filter(|kind| kind.is_read_of_a_gpu()).collect();
    ensure!(named == all, "not in the table: {:?}", all.difference(&named).collect::<Vec<_>>());
    let rig = Rig::new(&gpu(GPU0, SCENARIO))?;
    rig.at(10.0)?;
    let mut current = Current::default();
    // GPM compares two readings, a second apart; energy is of the time that was set.
    rig.wait("every signal", |event| match event {
        NvmlEvent::Sample(sample) if sample.gpu == GPU0 => {
            current.take(&sample);
            let settled = current.values.get(&Kind::GpuEnergy).is_some_and(|(value, _)| *value > 0);
            (settled && current.values.len() + current.unsupported.len() >= expected.len()).then_some(())
        }
        _ => None,
    })?;
    for (kind, unit, value) in expected {
        let (seen, _) = current.values.get(&kind).with_context(|| format!("{kind} is not there: {current:?}"))?;
        ensure!(*seen == value, "{kind}: {value} is wanted; there is {seen}");
        ensure!(kind.unit() == unit, "{kind} is in {:?}, not {unit:?}", kind.unit());
    }
    Ok(())
}

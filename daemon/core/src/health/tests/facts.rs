//! Every fact that is read of a GPU and can be bad has a check, or a reason why not.

use super::*;
use crate::health::{checks, wear};

/// Signals that no check looks at, with the reason. docs/gpu-health.md has the same table.
const NOT_JUDGED: &[(&str, &[Kind])] = &[
    (
        "a load: how much work there is",
        &[
            Kind::GpuMemoryUtilization,
            Kind::GpuEncoderUtilization,
            Kind::GpuDecoderUtilization,
            Kind::GpuSmActive,
            Kind::GpuSmOccupancy,
            Kind::GpuTensorActive,
            Kind::GpuDramActive,
            Kind::GpuMemory,
            Kind::GpuMemoryFree,
            Kind::GpuMemoryReserved,
            Kind::GpuMemoryShare,
            Kind::GpuBar1Used,
            Kind::GpuPowerShare,
            Kind::GpuEnergy,
            Kind::GpuNvlinkSent,
            Kind::GpuNvlinkReceived,
            Kind::GpuProcesses,
            Kind::GpuComputeProcesses,
        ],
    ),
    (
        "a property of the board or a setting of the administrator",
        &[
            Kind::GpuBar1Total,
            Kind::GpuTemperatureLimit,
            Kind::GpuFans,
            Kind::GpuFansManual,
            Kind::GpuPowerLimit,
            Kind::GpuPowerLimitSet,
            Kind::GpuPowerLimitDefault,
            Kind::GpuPowerLimitMin,
            Kind::GpuPowerLimitMax,
            Kind::GpuClockSmMax,
            Kind::GpuClockMemoryMax,
            Kind::GpuClockGraphicsMax,
            Kind::GpuClockVideoMax,
        ],
    ),
    (
        "the driver changes it with load, heat and limits: rules of policies bound it (gpu.derived.clock_held)",
        &[
            Kind::GpuClockMemory,
            Kind::GpuClockGraphics,
            Kind::GpuClockVideo,
            Kind::GpuPerformanceState,
            Kind::GpuViolationPower,
            Kind::GpuViolationThermal,
            Kind::GpuViolationSyncBoost,
            Kind::GpuViolationBoard,
            Kind::GpuViolationReliability,
            Kind::GpuFanSpeed,
            Kind::GpuFanSpeedMax,
        ],
    ),
    ("a second reading of gpu.power", &[Kind::GpuPowerInstant, Kind::GpuPowerAverage]),
    (
        "corrected: the board remaps the row or retires the page, and that is judged",
        &[
            Kind::GpuEccCorrected,
            Kind::GpuEccCorrectedTotal,
            Kind::GpuEccDramCorrected,
            Kind::GpuEccDramCorrectedTotal,
            Kind::GpuEccSramCorrected,
            Kind::GpuEccSramCorrectedTotal,
            Kind::GpuEccL1Corrected,
            Kind::GpuEccL1CorrectedTotal,
            Kind::GpuEccL2Corrected,
            Kind::GpuEccL2CorrectedTotal,
            Kind::GpuEccRegisterCorrected,
            Kind::GpuEccRegisterCorrectedTotal,
            Kind::GpuEccTextureCorrected,
            Kind::GpuEccTextureCorrectedTotal,
            Kind::GpuEccSharedCorrected,
            Kind::GpuEccSharedCorrectedTotal,
            Kind::GpuPcieCorrectable,
        ],
    ),
    (
        "a part of gpu.ecc_uncorrected, or a total of the GPU's life, which a reset does not clear",
        &[
            Kind::GpuEccUncorrectedTotal,
            Kind::GpuEccDramUncorrected,
            Kind::GpuEccDramUncorrectedTotal,
            Kind::GpuEccSramUncorrected,
            Kind::GpuEccSramUncorrectedTotal,
            Kind::GpuEccSramL2Total,
            Kind::GpuEccSramSmTotal,
            Kind::GpuEccSramPcieTotal,
            Kind::GpuEccSramMcuTotal,
            Kind::GpuEccSramOtherTotal,
            Kind::GpuEccL1Uncorrected,
            Kind::GpuEccL1UncorrectedTotal,
            Kind::GpuEccL2Uncorrected,
            Kind::GpuEccL2UncorrectedTotal,
            Kind::GpuEccRegisterUncorrected,
            Kind::GpuEccRegisterUncorrectedTotal,
            Kind::GpuEccTextureUncorrected,
            Kind::GpuEccTextureUncorrectedTotal,
            Kind::GpuEccSharedUncorrected,
            Kind::GpuEccSharedUncorrectedTotal,
            Kind::GpuEccCbuUncorrected,
            Kind::GpuEccCbuUncorrectedTotal,
        ],
    ),
];

#[test]
fn each_signal_of_a_gpu_is_judged_or_has_a_reason_why_not() {
    let mut thresholds = 0;
    for kind in Kind::ALL.iter().filter(|kind| kind.is_read_of_a_gpu()) {
        let worn = wear::WORN.iter().any(|(_, _, kinds)| kinds.contains(kind));
        let judged = checks::judges(kind) || worn;
        let reasons = NOT_JUDGED.iter().filter(|(_, kinds)| kinds.contains(kind)).count();
        assert_eq!(usize::from(judged) + reasons, 1, "{kind}");
        thresholds += usize::from(judged);
    }
    assert!(thresholds > 30, "{thresholds}");
}

/// A GPU that has had these values for this many seconds, told every 4 s.
fn after(values: &[(Kind, i64)], seconds: u64) -> Vec<String> {
    let mut h = node_of_two();
    for t in (0..=seconds).step_by(4) {
        for (kind, v) in values {
            h.take(&value("a", kind.clone(), *v, s(2 + t)));
        }
    }
    codes(&h, "a")
}

#[test]
fn what_a_gpu_under_load_reports_is_judged() {
    let busy = (Kind::GpuUtilization, 97_000);
    let idle = (Kind::GpuUtilization, 12_000);
    for (code, facts) in [
        ("pcie-generation", vec![(Kind::GpuPcieGenerationMax, 5), (Kind::GpuPcieGeneration, 1)]),
        ("power-stuck", vec![(Kind::GpuPower, 0)]),
        ("temperature-stuck", vec![(Kind::GpuTemperature, 0)]),
        ("clock-stuck", vec![(Kind::GpuClockSm, 0)]),
    ] {
        let with = |load: &(Kind, i64)| [vec![load.clone()], facts.clone()].concat();
        assert_eq!(after(&with(&busy), 64), [code]);
        assert!(after(&with(&busy), 40).is_empty(), "{code} not yet a minute");
        assert!(after(&with(&idle), 600).is_empty(), "{code} while idle");
        assert!(after(&facts, 600).is_empty(), "{code} where the load is not known");
    }
    assert_eq!(after(&[(Kind::GpuFanTarget, 60_000), (Kind::GpuFanRpm, 0)], 64), ["fan-stopped"]);
    assert!(after(&[(Kind::GpuFanTarget, 0), (Kind::GpuFanRpm, 0)], 600).is_empty());
    assert!(after(&[busy, (Kind::GpuPower, 600_000), (Kind::GpuPcieGeneration, 5)], 600).is_empty());
}

#[test]
fn the_fabric_is_judged() {
    let fabric = |state, status, health| {
        [(Kind::GpuFabricState, state), (Kind::GpuFabricStatus, status), (Kind::GpuFabricHealth, health)]
    };
    for state in [1, 2, 9] {
        assert_eq!(after(&fabric(state, 0, 0), 604), ["fabric-state"], "{state}");
        assert!(after(&fabric(state, 0, 0), 400).is_empty(), "it may still register");
    }
    assert!(after(&fabric(0, 0, 0), 700).is_empty(), "the GPU is on no fabric");
    assert!(after(&fabric(3, 0, 0x1aa), 700).is_empty());
    assert_eq!(after(&fabric(3, 999, 0x1aa), 64), ["fabric-status"]);
    assert_eq!(after(&fabric(3, 0, 0x1a9), 64), ["fabric-health"]);
}

#[test]
fn nvlinks_that_are_down_from_the_start_are_found_beside_the_other_gpus() {
    let mut h = node_of_two();
    let links = |h: &mut Health, name: &str, all: i64, active: i64, at| {
        h.take(&value(name, Kind::GpuNvlinkLinks, all, at));
        h.take(&value(name, Kind::GpuNvlinkActive, active, at));
    };
    for t in [2, 30, 63, 70] {
        links(&mut h, "b", 18, 18, s(t));
        links(&mut h, "a", 18, 0, s(t));
    }
    assert_eq!((codes(&h, "a"), codes(&h, "b").len()), (vec!["nvlink-fewer-than-peers".to_owned()], 0));
    // Boards with other links are no peers, and neither is a pair with the same.
    let mut h = node_of_two();
    for t in [2, 30, 63, 70] {
        links(&mut h, "b", 12, 12, s(t));
        links(&mut h, "a", 18, 0, s(t));
    }
    assert!(codes(&h, "a").is_empty());
}

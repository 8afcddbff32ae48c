//! What each ready scenario must come to.

use failsafe_core::{Kind, health::Level};

/// What must have come of a scenario at its end.
pub(super) struct Case {
    pub(super) file: &'static str,
    /// Seconds of the scenario.
    pub(super) seconds: u32,
    /// Of each GPU: its level, and the reasons among others.
    pub(super) gpus: &'static [(Level, &'static [&'static str])],
    /// Derived signals of a GPU that are at least so much.
    pub(super) derived: &'static [(usize, Kind, i64)],
}

const WELL: (Level, &[&str]) = (Level::Healthy, &[]);
/// Of a duration signal.
const SECOND: i64 = 1_000_000;

pub(super) const CASES: &[Case] = &[
    Case { file: "healthy", seconds: 60, gpus: &[WELL, WELL], derived: &[] },
    Case {
        file: "overheating",
        seconds: 70,
        gpus: &[(Level::Unhealthy, &["temperature-shutdown", "temperature-slowdown", "hw-slowdown-held"]), WELL],
        derived: &[],
    },
    Case {
        file: "fan-failure",
        seconds: 80,
        gpus: &[(Level::Degraded, &["temperature-slowdown", "hw-slowdown-held"])],
        derived: &[(0, Kind::GpuDerivedClockHeld, 55 * SECOND)],
    },
    Case {
        file: "ecc-storm",
        seconds: 12,
        gpus: &[(Level::Unhealthy, &["xid-48", "xid-94", "ecc-uncorrected", "row-remap-pending"]), WELL],
        derived: &[],
    },
    Case {
        file: "row-remap-failure",
        seconds: 8,
        gpus: &[(Level::Unhealthy, &["xid-64", "row-remap-failure", "row-remap-banks", "recovery-action"])],
        derived: &[],
    },
    Case { file: "xid48", seconds: 6, gpus: &[(Level::Unhealthy, &["xid-48", "recovery-action"]), WELL], derived: &[] },
    Case {
        file: "xid63-64",
        seconds: 10,
        gpus: &[(Level::Unhealthy, &["xid-64", "row-remap-failure", "row-remap-pending"]), WELL],
        derived: &[],
    },
    Case {
        file: "xid79",
        seconds: 5,
        gpus: &[(Level::Unhealthy, &["xid-79", "gpu-lost", "blind"]), WELL],
        derived: &[],
    },
    Case {
        file: "xid94-95",
        seconds: 10,
        gpus: &[(Level::Unhealthy, &["xid-94", "xid-95", "ecc-uncorrected", "recovery-action"]), WELL],
        derived: &[],
    },
    Case {
        file: "xid119-120",
        seconds: 10,
        gpus: &[(Level::Unhealthy, &["xid-119", "xid-120", "blind"]), WELL],
        derived: &[],
    },
    Case {
        file: "nvlink-error",
        seconds: 45,
        gpus: &[
            (Level::Degraded, &["nvlink-crc", "nvlink-replays", "nvlink-recoveries", "nvlink-down", "xid-74"]),
            WELL,
        ],
        derived: &[],
    },
    Case {
        file: "power-brake",
        seconds: 65,
        gpus: &[(Level::Degraded, &["hw-slowdown-held"]), (Level::Degraded, &["hw-slowdown-held"])],
        derived: &[(0, Kind::GpuDerivedSpinning, 55 * SECOND), (1, Kind::GpuDerivedClockHeld, 55 * SECOND)],
    },
    Case { file: "crypto-miner", seconds: 65, gpus: &[WELL], derived: &[(0, Kind::GpuDerivedStalled, 60 * SECOND)] },
    // Heat holds it down.
    Case {
        file: "straggler",
        seconds: 75,
        gpus: &[WELL, WELL, WELL, WELL, WELL, (Level::Degraded, &["temperature-margin"]), WELL, WELL],
        derived: &[(5, Kind::GpuDerivedStraggler, 40_000)],
    },
    Case { file: "hang", seconds: 4, gpus: &[(Level::Unknown, &["blind"]), WELL], derived: &[] },
    Case { file: "driver-reload", seconds: 12, gpus: &[WELL], derived: &[] },
    Case { file: "mig", seconds: 5, gpus: &[WELL, WELL], derived: &[] },
];

//! Numbers of `nvml.h` that the exports compare with or answer.

use core::ffi::{c_uint, c_ulonglong};

/// What NVML puts into counters and memory sizes it cannot tell (`NVML_VALUE_NOT_AVAILABLE`).
pub(crate) const VALUE_NOT_AVAILABLE: c_ulonglong = c_ulonglong::MAX;
/// `gpuInstanceId` and `computeInstanceId` where MIG is off.
pub(crate) const NO_INSTANCE: c_uint = c_uint::MAX;

pub(crate) const FEATURE_DISABLED: c_uint = 0;
pub(crate) const FEATURE_ENABLED: c_uint = 1;

pub(crate) const TEMPERATURE_GPU: c_uint = 0;

pub(crate) const CLOCK_GRAPHICS: c_uint = 0;
pub(crate) const CLOCK_SM: c_uint = 1;
pub(crate) const CLOCK_MEM: c_uint = 2;
pub(crate) const CLOCK_VIDEO: c_uint = 3;

pub(crate) const MEMORY_ERROR_CORRECTED: c_uint = 0;
pub(crate) const MEMORY_ERROR_UNCORRECTED: c_uint = 1;
pub(crate) const ECC_VOLATILE: c_uint = 0;
pub(crate) const ECC_AGGREGATE: c_uint = 1;

/// `nvmlEventType*` bits.
pub(crate) mod event {
    pub(crate) const SINGLE_BIT_ECC: u64 = 0x1;
    pub(crate) const DOUBLE_BIT_ECC: u64 = 0x2;
    pub(crate) const PSTATE: u64 = 0x4;
    pub(crate) const XID: u64 = 0x8;
    pub(crate) const CLOCK: u64 = 0x10;
    pub(crate) const POWER_SOURCE: u64 = 0x80;
    pub(crate) const MIG_CONFIG: u64 = 0x100;
    pub(crate) const ECC_STORM: u64 = 0x200;
    pub(crate) const DRAM_RETIREMENT: u64 = 0x400;
    pub(crate) const DRAM_RETIREMENT_FAILURE: u64 = 0x800;
    pub(crate) const POISON: u64 = 0x1000;
    pub(crate) const FATAL_POISON: u64 = 0x2000;
    pub(crate) const GPU_UNAVAILABLE: u64 = 0x4000;
    pub(crate) const GPU_RECOVERY_ACTION: u64 = 0x8000;
    /// What the simulated models can report: all but the power source, which is of boards with a battery.
    pub(crate) const SUPPORTED: u64 = SINGLE_BIT_ECC
        | DOUBLE_BIT_ECC
        | PSTATE
        | XID
        | CLOCK
        | MIG_CONFIG
        | ECC_STORM
        | DRAM_RETIREMENT
        | DRAM_RETIREMENT_FAILURE
        | POISON
        | FATAL_POISON
        | GPU_UNAVAILABLE
        | GPU_RECOVERY_ACTION;
}

/// `nvmlClocksEventReason*` bits, older name `nvmlClocksThrottleReason*`.
pub(crate) mod reason {
    pub(crate) const GPU_IDLE: u64 = 0x1;
    pub(crate) const APPLICATIONS_CLOCKS: u64 = 0x2;
    pub(crate) const SW_POWER_CAP: u64 = 0x4;
    pub(crate) const HW_SLOWDOWN: u64 = 0x8;
    pub(crate) const SYNC_BOOST: u64 = 0x10;
    pub(crate) const SW_THERMAL: u64 = 0x20;
    pub(crate) const HW_THERMAL: u64 = 0x40;
    pub(crate) const HW_POWER_BRAKE: u64 = 0x80;
    pub(crate) const DISPLAY_CLOCK: u64 = 0x100;
    /// Every bit above: what `GetSupportedClocksEventReasons` answers.
    pub(crate) const ALL: u64 = 0x1ff;
}

//! Which values a signal of a GPU can have, of any vendor. A driver, or a GPU that fails, may return all ones or nonsense; rules and
//! health must not be judged by that. Pure.

use failsafe_core::{signal::Kind, unit::Unit};

/// Whether `value` can be one of `kind`'s.
pub fn plausible(kind: &Kind, value: i64) -> bool {
    let (least, most) = match kind {
        Kind::GpuPowerShare => (0, 1_000_000),
        Kind::GpuTemperatureMargin => (-100_000, 200_000),
        Kind::GpuEccSramThreshold
        | Kind::GpuRetiredPagesPending
        | Kind::GpuRemappedRowsPending
        | Kind::GpuRemappedRowsFailure => (0, 1),
        Kind::GpuFans | Kind::GpuFansManual => (0, 32),
        Kind::GpuFanRpm => (0, 100_000),
        Kind::GpuPerformanceState => (0, 15),
        Kind::GpuPcieGeneration | Kind::GpuPcieGenerationMax => (0, 16),
        Kind::GpuPcieWidth | Kind::GpuPcieWidthMax => (0, 64),
        Kind::GpuNvlinkLinks | Kind::GpuNvlinkActive => (0, 1_024),
        Kind::GpuRecoveryAction | Kind::GpuFabricState => (0, 255),
        // A GPU has memory.
        Kind::GpuMemoryTotal => (1, 1 << 60),
        kind => match kind.unit() {
            Unit::MilliPercent => (0, 100_000),
            // All ones read as -1 C.
            Unit::MilliCelsius => (0, 200_000),
            Unit::Milliwatts => (0, 100_000_000),
            Unit::Megahertz => (0, 100_000),
            // Memory of a GPU, but also bytes that have passed a link since the driver was loaded.
            Unit::Bytes => (0, 1 << 60),
            Unit::Count => (0, i64::from(u32::MAX - 1)),
            Unit::Millijoules | Unit::Microseconds => (0, 1 << 60),
            Unit::Bits | Unit::Real => (i64::MIN, i64::MAX),
        },
    };
    (least..=most).contains(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_impossible_reading_of_a_driver_is_no_value() {
        assert!(plausible(&Kind::GpuTemperature, 95_000));
        assert!(plausible(&Kind::GpuTemperatureMargin, -3_000));
        assert!(!plausible(&Kind::GpuTemperature, 65_535_000));
        assert!(!plausible(&Kind::GpuTemperature, -1_000), "all ones, signed");
        assert!(!plausible(&Kind::GpuPower, i64::from(u32::MAX)));
        assert!(!plausible(&Kind::GpuUtilization, 4_294_967_295_000));
        assert!(plausible(&Kind::GpuPowerShare, 102_857), "above its limit is possible");
        assert!(!plausible(&Kind::GpuMemoryShare, 102_857), "more than all of the memory is not");
        assert!(!plausible(&Kind::GpuRemappedRowsPending, 2));
        assert!(!plausible(&Kind::GpuEccCorrected, i64::MAX), "all ones is `not available`");
        assert!(!plausible(&Kind::GpuEnergy, -1));
        assert!(!plausible(&Kind::GpuMemoryTotal, 0) && plausible(&Kind::GpuMemory, 0));
    }
}

//! Which signals are read, and which are made of others.

use super::{Kind, Source};

impl Kind {
    /// Whether the core computes it of other signals.
    pub fn is_derived(&self) -> bool {
        use Kind::{
            GpuDerivedClockHeld, GpuDerivedEccRate, GpuDerivedIdlePower, GpuDerivedMemorySlope, GpuDerivedSpinning,
            GpuDerivedStalled, GpuDerivedStraggler, GpuDerivedThermalSlope,
        };
        matches!(
            self,
            GpuDerivedClockHeld
                | GpuDerivedEccRate
                | GpuDerivedIdlePower
                | GpuDerivedMemorySlope
                | GpuDerivedSpinning
                | GpuDerivedStalled
                | GpuDerivedStraggler
                | GpuDerivedThermalSlope
        )
    }

    /// Whether it is judged for each GPU by itself: read of a GPU, or derived from what is.
    pub fn is_of_a_gpu(&self) -> bool {
        self.is_read_of_a_gpu() || self.is_derived()
    }

    /// The signals of a GPU that a signal is made of, where it is not read itself: without one of them there is none.
    pub fn made_of(&self) -> &'static [Kind] {
        static POWER: [Kind; 2] = [Kind::GpuUtilization, Kind::GpuPowerShare];
        static STALLED: [Kind; 2] = [Kind::GpuUtilization, Kind::GpuMemory];
        static CLOCK: [Kind; 3] = [Kind::GpuUtilization, Kind::GpuClockSm, Kind::GpuClockSmMax];
        static ECC: [Kind; 2] = [Kind::GpuEccCorrected, Kind::GpuEccUncorrected];
        static TEMPERATURE: [Kind; 1] = [Kind::GpuTemperature];
        static TIME: [Kind; 2] = [Kind::GpuUtilization, Kind::GpuProcesses];
        static ENERGY: [Kind; 2] = [Kind::GpuEnergy, Kind::GpuProcesses];
        match self {
            Kind::GpuDerivedSpinning | Kind::GpuDerivedIdlePower => &POWER,
            Kind::GpuDerivedStalled => &STALLED,
            Kind::GpuDerivedClockHeld => &CLOCK,
            Kind::GpuDerivedEccRate => &ECC,
            Kind::GpuDerivedThermalSlope => &TEMPERATURE,
            Kind::GpuDerivedMemorySlope => &STALLED[1..],
            Kind::GpuDerivedStraggler => &POWER[..1],
            Kind::RunGpuTime => &TIME,
            Kind::RunGpuEnergy => &ENERGY,
            Kind::RunGpuMemory => &ENERGY[1..],
            _ => &[],
        }
    }

    /// Derived signals that are made of what MIG devices tell of themselves and of what only the whole GPU does: of a MIG device
    /// there are none.
    pub const MADE_OF_BOTH: [Kind; 3] =
        [Kind::GpuDerivedSpinning, Kind::GpuDerivedIdlePower, Kind::GpuDerivedClockHeld];

    /// Whether MIG devices tell it of themselves: a run on some of a GPU's is judged by theirs, not by the whole GPU's.
    pub fn is_of_slices(&self) -> bool {
        matches!(
            self,
            Kind::GpuUtilization
                | Kind::GpuSmActive
                | Kind::GpuSmOccupancy
                | Kind::GpuTensorActive
                | Kind::GpuDramActive
                | Kind::GpuMemory
                | Kind::GpuMemoryTotal
                | Kind::GpuMemoryReserved
                | Kind::GpuMemoryFree
                | Kind::GpuMemoryShare
        )
    }

    /// Whether a sensor reads it of a GPU itself.
    pub fn is_read_of_a_gpu(&self) -> bool {
        let of_runs = matches!(self, Kind::RunGpuTime | Kind::RunGpuMemory | Kind::RunGpuEnergy);
        self.source() == Source::Nvml && !self.is_derived() && !of_runs
    }
}

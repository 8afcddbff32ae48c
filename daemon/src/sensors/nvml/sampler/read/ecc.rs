//! Memory errors: in all, and where they were.
//!
//! Where: by fields (`groups`), all in one call. On-chip memory as a whole has a call of its own from driver 550 on, which tells
//! its parts too; older ones count it as a location, as all count shared memory.

use super::{Reader, integer, is_absence};
use crate::sensors::nvml::sampler::raw::{self, Errors};
use failsafe_core::signal::Kind;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError};

/// `NVML_MEMORY_LOCATION_TEXTURE_SHM`, which no field counts.
const SHARED: u32 = 5;
/// `NVML_MEMORY_LOCATION_SRAM`.
const SRAM: u32 = 7;

const UNCORRECTED: Errors = Errors { uncorrected: true, aggregate: false };
const CORRECTED: Errors = Errors { uncorrected: false, aggregate: false };
const UNCORRECTED_TOTAL: Errors = Errors { uncorrected: true, aggregate: true };
const CORRECTED_TOTAL: Errors = Errors { uncorrected: false, aggregate: true };

/// By location, for drivers without `nvmlDeviceGetSramEccErrorStatus`.
const SRAM_COUNTS: [(Kind, Errors); 4] = [
    (Kind::GpuEccSramUncorrected, UNCORRECTED),
    (Kind::GpuEccSramCorrected, CORRECTED),
    (Kind::GpuEccSramUncorrectedTotal, UNCORRECTED_TOTAL),
    (Kind::GpuEccSramCorrectedTotal, CORRECTED_TOTAL),
];
const SHARED_COUNTS: [(Kind, Errors); 4] = [
    (Kind::GpuEccSharedUncorrected, UNCORRECTED),
    (Kind::GpuEccSharedCorrected, CORRECTED),
    (Kind::GpuEccSharedUncorrectedTotal, UNCORRECTED_TOTAL),
    (Kind::GpuEccSharedCorrectedTotal, CORRECTED_TOTAL),
];
/// What only that call tells.
const SRAM_PARTS: [Kind; 6] = [
    Kind::GpuEccSramThreshold,
    Kind::GpuEccSramL2Total,
    Kind::GpuEccSramSmTotal,
    Kind::GpuEccSramPcieTotal,
    Kind::GpuEccSramMcuTotal,
    Kind::GpuEccSramOtherTotal,
];

impl Reader {
    /// Counts of memory errors but for those that fields tell.
    pub(super) fn ecc(&mut self) {
        for (kind, error, counter) in [
            (Kind::GpuEccUncorrected, MemoryError::Uncorrected, EccCounter::Volatile),
            (Kind::GpuEccCorrected, MemoryError::Corrected, EccCounter::Volatile),
            (Kind::GpuEccUncorrectedTotal, MemoryError::Uncorrected, EccCounter::Aggregate),
            (Kind::GpuEccCorrectedTotal, MemoryError::Corrected, EccCounter::Aggregate),
        ] {
            self.one("nvmlDeviceGetTotalEccErrors", [(kind, |count: &u64| Some(integer(*count)))], |d| {
                d.total_ecc_errors(error, counter)
            });
        }
        self.sram();
        self.location(SHARED, SHARED_COUNTS);
    }

    fn sram(&mut self) {
        if SRAM_COUNTS.iter().map(|(kind, _)| kind).chain(&SRAM_PARTS).all(|kind| !self.wanted(kind)) {
            return;
        }
        if SRAM_PARTS.iter().all(|kind| self.absent.contains(kind)) {
            return self.location(SRAM, SRAM_COUNTS);
        }
        match self.ask("nvmlDeviceGetSramEccErrorStatus", raw::sram_errors) {
            Ok(e) => {
                let parity_and_ecc = |parity: u64, ecc: u64| integer(parity.saturating_add(ecc));
                self.put(Kind::GpuEccSramUncorrected, parity_and_ecc(e.parity, e.sec_ded));
                self.put(Kind::GpuEccSramCorrected, integer(e.corrected));
                self.put(Kind::GpuEccSramUncorrectedTotal, parity_and_ecc(e.aggregate_parity, e.aggregate_sec_ded));
                self.put(Kind::GpuEccSramCorrectedTotal, integer(e.aggregate_corrected));
                let [threshold, parts @ ..] = SRAM_PARTS;
                self.put(threshold, i64::from(e.threshold_exceeded));
                for (kind, count) in parts.into_iter().zip(e.buckets) {
                    self.put(kind, integer(count));
                }
            }
            Err(error) if is_absence(&error) => {
                SRAM_PARTS.into_iter().for_each(|kind| self.lacks(kind));
                self.location(SRAM, SRAM_COUNTS);
            }
            Err(error) => {
                let counts = SRAM_COUNTS.into_iter().map(|(kind, _)| kind);
                counts.chain(SRAM_PARTS).for_each(|kind| self.missing(kind, &error));
            }
        }
    }

    fn location(&mut self, location: u32, counts: [(Kind, Errors); 4]) {
        for (kind, errors) in counts {
            let count = |count: &u64| (*count != u64::MAX).then(|| integer(*count));
            self.one("nvmlDeviceGetMemoryErrorCounter", [(kind, count)], |d| raw::memory_errors(d, location, errors));
        }
    }
}

//! Memory errors, in all and by where they were.

use super::Gpu;
use crate::scenario::{Count, EccLocation, Series};

/// An ECC counter: corrected or not, since the driver's start or of the GPU's life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EccCounter {
    pub(crate) uncorrected: bool,
    pub(crate) aggregate: bool,
}

/// `nvmlMemoryLocation_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    L1,
    L2,
    Dram,
    Register,
    Texture,
    Shared,
    Cbu,
    Sram,
}

impl Location {
    pub(crate) fn of(number: u32) -> Option<Location> {
        use Location::{Cbu, Dram, L1, L2, Register, Shared, Sram, Texture};
        [L1, L2, Dram, Register, Texture, Shared, Cbu, Sram].get(number as usize).copied()
    }
}

type Counts<'a> = (Option<&'a Series<Count>>, Option<&'a Series<Count>>);

impl Gpu<'_> {
    /// Errors of that counter so far; `None` with ECC off.
    pub(crate) fn ecc(&self, counter: EccCounter) -> Option<u64> {
        let ecc = &self.spec.table.ecc;
        let counts = if counter.uncorrected {
            (ecc.uncorrected.as_ref(), ecc.uncorrected_aggregate.as_ref())
        } else {
            (ecc.corrected.as_ref(), ecc.corrected_aggregate.as_ref())
        };
        ecc.enabled.then(|| self.counted(counts, counter))
    }

    /// The same of one location; `None` where it is not counted, or with ECC off.
    pub(crate) fn ecc_at(&self, location: Location, counter: EccCounter) -> Option<u64> {
        let all = self.ecc(counter)?;
        let ecc = &self.spec.table.ecc;
        let given = match location {
            Location::Dram => return Some(all.saturating_sub(self.sram(counter))),
            Location::Sram => return Some(self.sram(counter).min(all)),
            Location::L1 => &ecc.l1,
            Location::L2 => &ecc.l2,
            Location::Register => &ecc.register,
            Location::Texture => &ecc.texture,
            Location::Shared => &ecc.shared,
            Location::Cbu => &ecc.cbu,
        };
        let EccLocation { corrected, uncorrected, corrected_aggregate, uncorrected_aggregate } = given.as_ref()?;
        let counts = if counter.uncorrected {
            (uncorrected.as_ref(), uncorrected_aggregate.as_ref())
        } else {
            (corrected.as_ref(), corrected_aggregate.as_ref())
        };
        Some(self.counted(counts, counter))
    }

    /// Errors of on-chip memory so far.
    pub(crate) fn sram(&self, counter: EccCounter) -> u64 {
        let ecc = &self.spec.table.ecc;
        let counts = if counter.uncorrected {
            (ecc.sram_uncorrected.as_ref(), ecc.sram_uncorrected_aggregate.as_ref())
        } else {
            (ecc.sram_corrected.as_ref(), ecc.sram_corrected_aggregate.as_ref())
        };
        self.counted(counts, counter)
    }

    /// Volatile and aggregate; without the second as the first.
    fn counted(&self, (volatile, aggregate): Counts<'_>, counter: EccCounter) -> u64 {
        self.count(if counter.aggregate { aggregate.or(volatile) } else { volatile })
    }
}

//! What the next daemon needs to go on counting: the totals of this one, with the time of its last look.

use failsafe_ebpf::abi;

use super::error::Error;
use super::object::Object;
use super::totals::Total;
use crate::platform::bpf::Pod;

impl Object {
    pub(super) fn drop_tally(&mut self, slot: u32) -> Result<(), Error> {
        let _ = self.hash::<u32, Pod<abi::Tally>>("tallies")?.remove(&slot);
        Ok(())
    }

    /// Leaves for the next daemon what was counted before this one, and what this one saw at its last look.
    pub(super) fn write_tally(
        &mut self,
        slot: u32,
        earlier: Total,
        sampled: Option<(Total, u64)>,
    ) -> Result<(), Error> {
        let (sampled, sampled_ns) = sampled.unwrap_or((Total::NONE, 0));
        let tally = abi::Tally {
            earlier: earlier.counters,
            earlier_lost: earlier.lost,
            sampled: sampled.counters,
            sampled_lost: sampled.lost,
            sampled_ns,
        };
        self.hash::<u32, Pod<abi::Tally>>("tallies")?.insert(slot, Pod(tally), 0).map_err(Error::map("tallies"))
    }
}

//! Per-run counters, kept in the kernel per CPU and summed here.
//!
//! Read at the sampling interval, for the slots in use only: one system call a run.

use aya::maps::{MapError, PerCpuArray};
use failsafe_ebpf::abi::{self, kind};

use super::load::Pod;
use super::{Ebpf, Error};

/// Totals of one run since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunCounters {
    /// Slot of the run.
    pub slot: u32,
    /// Occupant of the slot.
    pub epoch: u32,
    /// Bytes of IP packets sent, headers included; a segmentation-offload packet carries its headers once.
    pub egress_bytes: u64,
    /// Packets sent.
    pub egress_packets: u64,
    /// Bytes of IP packets received.
    pub ingress_bytes: u64,
    /// Packets received.
    pub ingress_packets: u64,
    /// Packets refused on the way out.
    pub dropped_packets: u64,
    /// Calls of connect, sendmsg, bind and socket that were refused.
    pub denied_calls: u64,
    /// Events, lost ones included; see [`RunCounters::lost`].
    pub events: u64,
    /// Events that the ring had no room for. `events` = those delivered + `lost`.
    pub lost: u64,
    /// Programs started.
    pub execs: u64,
    /// Processes made.
    pub forks: u64,
    /// The run's latch ([`abi::latch`]), now.
    pub latch: u32,
    /// Calls and operations that a rule refused.
    pub denied_ops: u64,
    /// ... that a rule would have refused, or only reports.
    pub observed_ops: u64,
    /// Packets beyond a budget.
    pub budget_drops: u64,
    /// Processes that were not noted down for lack of room: their leaving the run would go unseen.
    pub untracked: u64,
}

impl Ebpf {
    /// Totals of every live run.
    ///
    /// # Errors
    /// A map look-up failed.
    pub fn read_counters(&self) -> Result<Vec<RunCounters>, Error> {
        let map = self.map("counters")?;
        let counters: PerCpuArray<_, Pod<abi::Counters>> =
            PerCpuArray::try_from(map).map_err(Error::map("counters"))?;
        let drops: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map("drops")?).map_err(Error::map("drops"))?;
        self.live()
            .map(|(slot, epoch)| {
                let totals = totals(&counters, &drops, slot, epoch).map_err(Error::map("counters"))?;
                Ok(RunCounters { latch: self.latch(slot)?, ..totals })
            })
            .collect()
    }

    /// Events lost so far, as (slot, epoch, number), of every live run.
    ///
    /// # Errors
    /// A map look-up failed.
    pub fn read_drops(&self) -> Result<Vec<(u32, u32, u64)>, Error> {
        let drops: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map("drops")?).map_err(Error::map("drops"))?;
        self.live()
            .map(|(slot, epoch)| {
                let per_cpu = drops.get(&slot, 0).map_err(Error::map("drops"))?;
                Ok((slot, epoch, per_cpu.iter().sum()))
            })
            .collect()
    }
}

fn totals<M: std::borrow::Borrow<aya::maps::MapData>>(
    counters: &PerCpuArray<M, Pod<abi::Counters>>,
    drops: &PerCpuArray<M, u64>,
    slot: u32,
    epoch: u32,
) -> Result<RunCounters, MapError> {
    let mut sum = RunCounters { slot, epoch, ..RunCounters::default() };
    for Pod(c) in counters.get(&slot, 0)?.iter() {
        sum.egress_bytes += c.egress_bytes;
        sum.egress_packets += c.egress_packets;
        sum.ingress_bytes += c.ingress_bytes;
        sum.ingress_packets += c.ingress_packets;
        sum.dropped_packets += c.dropped_packets;
        sum.denied_calls += c.denied_calls;
        sum.events += c.events.iter().sum::<u64>();
        sum.execs += c.events[kind::EXEC as usize];
        sum.forks += c.events[kind::FORK as usize];
        sum.denied_ops += c.denied_ops;
        sum.observed_ops += c.observed_ops;
        sum.budget_drops += c.budget_drops;
        sum.untracked += c.untracked;
    }
    sum.lost = drops.get(&slot, 0)?.iter().sum();
    Ok(sum)
}

/// All-zero counters, for a slot's new occupant.
pub(super) const ZERO: Pod<abi::Counters> = Pod(abi::Counters {
    egress_bytes: 0,
    egress_packets: 0,
    ingress_bytes: 0,
    ingress_packets: 0,
    dropped_packets: 0,
    denied_calls: 0,
    events: [0; kind::MAX],
    denied_ops: 0,
    observed_ops: 0,
    budget_drops: 0,
    untracked: 0,
});

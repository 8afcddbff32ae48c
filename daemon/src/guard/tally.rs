//! Totals of a run that go on from one daemon to the next: what the kernel counts now, on top of what it counted before.

use aya::maps::{HashMap, MapError, PerCpuArray};
use failsafe_ebpf::abi;

use super::counters::ZERO;
use super::{Ebpf, Error, Foreign, RunCounters};
use crate::platform::bpf::Pod;

/// Counters of a run, summed over CPUs, and the events that its ring had no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Total {
    pub counters: abi::Counters,
    pub lost: u64,
}

/// What was counted of a run after an earlier daemon last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When it last looked, `CLOCK_MONOTONIC`, nanoseconds; `None`: never, and what follows is all that was counted.
    pub since_ns: Option<u64>,
    /// What was counted since.
    pub counted: RunCounters,
    /// Events lost in all the run's life so far, those that were told of included.
    pub lost: u64,
    /// Whether programs that see watched calls stayed attached.
    pub calls: bool,
    /// Set where its programs were of another ABI: then nothing above is known.
    pub foreign: Option<Foreign>,
}

impl Total {
    pub const NONE: Self = Self { counters: ZERO.0, lost: 0 };

    /// What the maps of one generation say of a slot.
    pub fn read<M: std::borrow::Borrow<aya::maps::MapData>>(
        counters: &PerCpuArray<M, Pod<abi::Counters>>,
        drops: &PerCpuArray<M, u64>,
        slot: u32,
    ) -> Result<Self, MapError> {
        let mut counted = Self::NONE;
        for Pod(on_cpu) in counters.get(&slot, 0)?.iter() {
            counted = counted.plus(Self { counters: *on_cpu, lost: 0 });
        }
        Ok(Self { lost: drops.get(&slot, 0)?.iter().sum(), ..counted })
    }

    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    pub fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    pub fn max(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    fn with(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        let (a, b) = (self.counters, other.counters);
        let counters = abi::Counters {
            egress_bytes: of(a.egress_bytes, b.egress_bytes),
            egress_packets: of(a.egress_packets, b.egress_packets),
            ingress_bytes: of(a.ingress_bytes, b.ingress_bytes),
            ingress_packets: of(a.ingress_packets, b.ingress_packets),
            dropped_packets: of(a.dropped_packets, b.dropped_packets),
            denied_calls: of(a.denied_calls, b.denied_calls),
            events: std::array::from_fn(|kind| of(a.events[kind], b.events[kind])),
            denied_ops: of(a.denied_ops, b.denied_ops),
            observed_ops: of(a.observed_ops, b.observed_ops),
            budget_drops: of(a.budget_drops, b.budget_drops),
            dns_queries: of(a.dns_queries, b.dns_queries),
            dns_bytes: of(a.dns_bytes, b.dns_bytes),
            untracked: of(a.untracked, b.untracked),
        };
        Self { counters, lost: of(self.lost, other.lost) }
    }
}

impl Ebpf {
    /// As [`Ebpf::read_counters`], and leaves them for the next daemon to tell by what was counted after this one's last look.
    ///
    /// # Errors
    /// A map look-up failed.
    pub fn sample_counters(&mut self) -> Result<Vec<RunCounters>, Error> {
        let now = crate::platform::clock::monotonic_ns();
        let totals = self.totals()?;
        for (slot, total) in &totals {
            let earlier = self.runs.get(slot).map_or(Total::NONE, |live| live.earlier);
            self.write_tally(*slot, earlier, Some((*total, now)))?;
        }
        totals.into_iter().map(|(slot, total)| self.counters_of(slot, total)).collect()
    }

    /// Events of the run that are known to be lost although no programs tell: its total counts on from there.
    ///
    /// # Errors
    /// Unknown slot, or the map could not be written.
    pub fn count_lost(&mut self, slot: u32, lost: u64) -> Result<(), Error> {
        let earlier = self.runs.get(&slot).ok_or(Error::Slot(slot))?.earlier;
        self.begin_tally(slot, Total { lost: earlier.lost.max(lost), ..earlier }, None)
    }

    /// Totals go on from what earlier daemons' programs counted.
    pub(super) fn begin_tally(
        &mut self,
        slot: u32,
        earlier: Total,
        sampled: Option<(Total, u64)>,
    ) -> Result<(), Error> {
        if let Some(live) = self.runs.get_mut(&slot) {
            live.earlier = earlier;
        }
        self.write_tally(slot, earlier, sampled)
    }

    pub(super) fn drop_tally(&mut self, slot: u32) -> Result<(), Error> {
        let _ = self.tallies()?.remove(&slot);
        Ok(())
    }

    fn write_tally(&mut self, slot: u32, earlier: Total, sampled: Option<(Total, u64)>) -> Result<(), Error> {
        let (sampled, sampled_ns) = sampled.unwrap_or((Total::NONE, 0));
        let tally = abi::Tally {
            earlier: earlier.counters,
            earlier_lost: earlier.lost,
            sampled: sampled.counters,
            sampled_lost: sampled.lost,
            sampled_ns,
        };
        self.tallies()?.insert(slot, Pod(tally), 0).map_err(Error::map("tallies"))
    }

    fn tallies(&mut self) -> Result<HashMap<&mut aya::maps::MapData, u32, Pod<abi::Tally>>, Error> {
        HashMap::try_from(self.map_mut("tallies")?).map_err(Error::map("tallies"))
    }
}

//! What the kernel counts of a run: summed over CPUs, and over all daemons that looked after it.

use std::borrow::Borrow;

use aya::maps::{MapData, MapError, PerCpuArray};
use failsafe_ebpf::abi::{self, kind};

use crate::platform::bpf::Pod;

/// Counters of a run, summed over CPUs, and the events that its ring had no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// Summed over CPUs.
    pub counters: abi::Counters,
    /// Events that the ring had no room for.
    pub lost: u64,
}

/// Totals of one run in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Slot of the run.
    pub slot: u32,
    /// Occupant of the slot.
    pub epoch: u32,
    /// Its latch ([`abi::latch`]), now.
    pub latch: u32,
    /// All that was counted.
    pub total: Total,
    /// What of it was counted before this daemon took the run up.
    pub earlier: Total,
}

impl Total {
    /// Nothing.
    pub const NONE: Self = Self { counters: ZERO.0, lost: 0 };

    /// What the maps of one generation say of a slot.
    pub(super) fn read<M: Borrow<MapData>>(
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

    pub(super) fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    pub(super) fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    pub(super) fn max(self, other: Self) -> Self {
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
    dns_queries: 0,
    dns_bytes: 0,
    untracked: 0,
});

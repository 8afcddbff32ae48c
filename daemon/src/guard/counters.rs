//! Per-run counters, kept in the kernel per CPU and summed here.
//!
//! Read at the sampling interval, for the slots in use only: one system call a run.

use aya::maps::{HashMap, PerCpuArray};
use failsafe_core::record::Totals;
use failsafe_ebpf::abi::{self, kind, move_flag};

use super::runs::Live;
use super::tally::Total;
use super::{Ebpf, Error};
use crate::platform::bpf::Pod;
use crate::sensors::ebpf::{Event, Move, Subject, What};

/// Totals of one run in its life, over all daemons that looked after it.
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
    /// Packets with data to port 53: questions to name servers.
    pub dns_queries: u64,
    /// Their bytes.
    pub dns_bytes: u64,
    /// Processes that were not noted down for lack of room: their leaving the run would go unseen.
    pub untracked: u64,
    /// Of `lost`, what was so before this daemon took the run up.
    pub earlier_lost: u64,
    /// Of `untracked`, the same.
    pub earlier_untracked: u64,
}

impl RunCounters {
    /// As the audit log keeps them.
    pub fn totals(&self) -> Totals {
        Totals {
            egress_bytes: self.egress_bytes,
            ingress_bytes: self.ingress_bytes,
            denied_calls: self.denied_calls,
            denied_ops: self.denied_ops,
            observed_ops: self.observed_ops,
            dropped_packets: self.dropped_packets,
            budget_drops: self.budget_drops,
            events: self.events,
            events_lost: self.lost,
            untracked: self.untracked,
            dns_queries: self.dns_queries,
            dns_bytes: self.dns_bytes,
        }
    }
}

impl Ebpf {
    /// Totals of every live run.
    ///
    /// # Errors
    /// A map look-up failed.
    pub fn read_counters(&self) -> Result<Vec<RunCounters>, Error> {
        self.totals()?.into_iter().map(|(slot, total)| self.counters_of(slot, total)).collect()
    }

    /// Totals of one live run.
    ///
    /// # Errors
    /// Unknown slot, or a map look-up failed.
    pub fn read_counters_of(&self, slot: u32) -> Result<RunCounters, Error> {
        let live = self.runs.get(&slot).ok_or(Error::Slot(slot))?;
        let (_, total) = self.totals_of([(&slot, live)])?.pop().ok_or(Error::Slot(slot))?;
        self.counters_of(slot, total)
    }

    /// Totals by slot, of every live run.
    pub(super) fn totals(&self) -> Result<Vec<(u32, Total)>, Error> {
        self.totals_of(&self.runs)
    }

    fn totals_of<'a>(&self, runs: impl IntoIterator<Item = (&'a u32, &'a Live)>) -> Result<Vec<(u32, Total)>, Error> {
        let map = self.map("counters")?;
        let counters: PerCpuArray<_, Pod<abi::Counters>> =
            PerCpuArray::try_from(map).map_err(Error::map("counters"))?;
        let drops: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map("drops")?).map_err(Error::map("drops"))?;
        let of = |(slot, live): (&u32, &Live)| {
            let here = Total::read(&counters, &drops, *slot).map_err(Error::map("counters"))?;
            Ok((*slot, here.plus(live.earlier)))
        };
        runs.into_iter().map(of).collect()
    }

    pub(super) fn counters_of(&self, slot: u32, total: Total) -> Result<RunCounters, Error> {
        let live = self.runs.get(&slot).ok_or(Error::Slot(slot))?;
        let (earlier_lost, earlier_untracked) = (live.earlier.lost, live.earlier.counters.untracked);
        let latch = self.latch(slot)?;
        Ok(RunCounters { latch, earlier_lost, earlier_untracked, ..total.of(slot, live.cfg.epoch) })
    }

    /// Leavings that the ring had no room for, since the last call; they are forgotten here. Of the process only its id is known.
    ///
    /// # Errors
    /// The map could not be read.
    pub fn take_leavers(&mut self) -> Result<Vec<Event>, Error> {
        let mut map: HashMap<_, u32, Pod<abi::Leaver>> =
            HashMap::try_from(self.map_mut("leavers")?).map_err(Error::map("leavers"))?;
        let left: Vec<(u32, abi::Leaver)> = map.iter().filter_map(Result::ok).map(|(pid, Pod(l))| (pid, l)).collect();
        for (pid, _) in &left {
            let _ = map.remove(pid);
        }
        Ok(left.into_iter().map(leaving).collect())
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

pub(super) fn leaving((pid, l): (u32, abi::Leaver)) -> Event {
    Event {
        at_ns: l.ktime_ns,
        // Its number is among the lost.
        seq: u64::MAX,
        slot: l.slot,
        epoch: l.epoch,
        subject: Subject {
            cgroup_id: l.to_cgroup_id,
            pid,
            tid: pid,
            ppid: 0,
            uid: 0,
            start_boottime_ns: 0,
            comm: String::new(),
        },
        what: What::Leave(Move {
            from_cgroup_id: l.from_cgroup_id,
            to_cgroup_id: l.to_cgroup_id,
            mover_pid: l.mover_pid,
            by_run: l.flags & move_flag::BY_RUN != 0,
            by_clone: l.flags & move_flag::BY_CLONE != 0,
        }),
    }
}

impl Total {
    /// As the counters of a run.
    pub(super) fn of(self, slot: u32, epoch: u32) -> RunCounters {
        let c = self.counters;
        RunCounters {
            slot,
            epoch,
            egress_bytes: c.egress_bytes,
            egress_packets: c.egress_packets,
            ingress_bytes: c.ingress_bytes,
            ingress_packets: c.ingress_packets,
            dropped_packets: c.dropped_packets,
            denied_calls: c.denied_calls,
            events: c.events.iter().sum(),
            lost: self.lost,
            execs: c.events[kind::EXEC as usize],
            forks: c.events[kind::FORK as usize],
            latch: 0,
            denied_ops: c.denied_ops,
            observed_ops: c.observed_ops,
            budget_drops: c.budget_drops,
            dns_queries: c.dns_queries,
            dns_bytes: c.dns_bytes,
            untracked: c.untracked,
            earlier_lost: 0,
            earlier_untracked: 0,
        }
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

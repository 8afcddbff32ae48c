//! Per-run counters, kept in the kernel per CPU and summed here.
//!
//! Read at the sampling interval, for the slots in use only: one system call a run.

use aya::maps::{HashMap, MapError, PerCpuArray};
use failsafe_ebpf::abi::{self, kind, move_flag};

use super::load::Pod;
use super::{Ebpf, Error, Event, Move, Subject, What};

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

fn leaving((pid, l): (u32, abi::Leaver)) -> Event {
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

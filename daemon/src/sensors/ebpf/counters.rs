//! Counters of runs, as the guard's maps have them, and the processes that left a run while the ring was full.

use failsafe_core::{RunId, record::Totals};
use failsafe_ebpf::abi::{self, kind, move_flag};

use super::{Event, Move, Subject, What};
use crate::guard::{Counted, kernel::Kernel};

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

impl From<Counted> for RunCounters {
    fn from(counted: Counted) -> Self {
        let c = counted.total.counters;
        RunCounters {
            slot: counted.slot,
            epoch: counted.epoch,
            egress_bytes: c.egress_bytes,
            egress_packets: c.egress_packets,
            ingress_bytes: c.ingress_bytes,
            ingress_packets: c.ingress_packets,
            dropped_packets: c.dropped_packets,
            denied_calls: c.denied_calls,
            events: c.events.iter().sum(),
            lost: counted.total.lost,
            execs: c.events[kind::EXEC as usize],
            forks: c.events[kind::FORK as usize],
            latch: counted.latch,
            denied_ops: c.denied_ops,
            observed_ops: c.observed_ops,
            budget_drops: c.budget_drops,
            dns_queries: c.dns_queries,
            dns_bytes: c.dns_bytes,
            untracked: c.untracked,
            earlier_lost: counted.earlier.lost,
            earlier_untracked: counted.earlier.counters.untracked,
        }
    }
}
/// Counters of every live run. They are left for the next daemon as this one's last look.
///
/// # Errors
/// A map could not be read or written, in words.
pub fn sample(kernel: &Kernel) -> Result<Vec<(RunId, RunCounters)>, String> {
    Ok(kernel.counters()?.into_iter().map(|(run, counted)| (run, counted.into())).collect())
}

/// Who left a run while the ring was full.
pub fn leavers(kernel: &Kernel) -> impl Iterator<Item = Event> {
    kernel.leavers().into_iter().map(leaving)
}

/// A leaving that the ring had no room for. Of the process only its id is known.
#[must_use]
pub fn leaving((pid, l): (u32, abi::Leaver)) -> Event {
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

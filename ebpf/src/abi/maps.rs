//! Keys and values of the maps: what a run may do, and what is counted of it.

use super::{plain::plain, *};

/// In [`Member::euid`]: not known. No process has it, since a system call takes it as "leave as it is".
pub const UID_UNKNOWN: u32 = u32::MAX;

plain! {
    /// `struct fs_control`.
    Control = "fs_control" {
        /// The next deeper level in use after each; 0 = none.
        next: [u8; LEVELS],
    }
    /// `struct fs_run_cfg`.
    RunCfg = "fs_run_cfg" {
        /// Index into the per-run maps.
        slot: u32,
        /// Occupant of the slot.
        epoch: u32,
        /// [`run_flag`].
        flags: u32,
        /// Generation of the allow-list.
        table: u32,
        /// Calls and points that are reported, by bit.
        watch: u64,
        /// ... that are refused.
        deny: u64,
        /// ... that are refused and latch the run.
        stop: u64,
        /// Cgroup id of the run's root.
        root_id: u64,
        /// Nanoseconds without a daemon; 0 = never.
        dead_after_ns: u64,
        /// Processes that may live at once; 0 = any number.
        max_procs: u32,
        /// Processes made a second; 0 = any number.
        max_forks: u32,
        /// Network namespace in which name servers are believed; 0 = any.
        netns: u32,
        /// [`mode`](super::mode): in which it has been.
        modes: u32,
    }
    /// `struct fs_watchdog`.
    Watchdog = "fs_watchdog" {
        /// `CLOCK_MONOTONIC`, nanoseconds.
        beat_ns: u64,
        /// Process id of the daemon.
        daemon_tgid: u32,
        /// Zero.
        pad: u32,
    }
    /// `struct fs_reader`.
    Reader = "fs_reader" {
        /// 1: it waits to be woken.
        asleep: u64,
    }
    /// `struct fs_effects`.
    Effects = "fs_effects" {
        /// [`effect`].
        exec: u8,
        /// Mapped executable.
        map: u8,
        /// Opened for reading; the effect itself where there is one only.
        read: u8,
        /// Opened for writing.
        write: u8,
    }
    /// `struct fs_path_key`.
    PathKey = "fs_path_key" {
        /// 32 + 8 * bytes.
        prefixlen: u32,
        /// Generation.
        table: u32,
        /// The path's head.
        path: [u8; RULE_PATH],
    }
    /// `struct fs_key`.
    Key = "fs_key" {
        /// Generation.
        table: u32,
        /// [`key_what`].
        what: u32,
        /// First part.
        a: u64,
        /// Second part.
        b: u64,
    }
    /// `struct fs_budget`.
    Budget = "fs_budget" {
        /// Bytes in all; 0 = no bound.
        bytes: u64,
        /// Bytes a second; 0 = no bound.
        rate: u64,
        /// Bytes spent.
        spent: u64,
        /// When all that was sent would have been due, `CLOCK_MONOTONIC`, nanoseconds.
        due_ns: u64,
        /// Packets refused.
        dropped: u64,
        /// 1: what is beyond it stops the run.
        stop: u64,
    }
    /// `struct fs_lpm4`.
    Lpm4 = "fs_lpm4" {
        /// 32 + prefix length.
        prefixlen: u32,
        /// Generation of the allow-list.
        table: u32,
        /// Network order.
        addr: [u8; 4],
    }
    /// `struct fs_lpm6`.
    Lpm6 = "fs_lpm6" {
        /// 32 + prefix length.
        prefixlen: u32,
        /// Generation of the allow-list.
        table: u32,
        /// Network order.
        addr: [u8; 16],
    }
    /// `struct fs_port`.
    Port = "fs_port" {
        /// First port.
        lo: u16,
        /// Last port.
        hi: u16,
        /// 0 = any, else the IP protocol.
        proto: u8,
        /// Zero.
        pad: [u8; 3],
    }
    /// `struct fs_ports`.
    Ports = "fs_ports" {
        /// Entries in use.
        n: u32,
        /// Zero.
        pad: u32,
        /// The entries.
        e: [Port; MAX_PORTS],
    }
    /// `struct fs_counters`.
    Counters = "fs_counters" {
        /// Bytes of IP packets sent.
        egress_bytes: u64,
        /// Packets sent.
        egress_packets: u64,
        /// Bytes of IP packets received.
        ingress_bytes: u64,
        /// Packets received.
        ingress_packets: u64,
        /// Packets refused on the way out.
        dropped_packets: u64,
        /// Network calls refused.
        denied_calls: u64,
        /// Events by [`kind`], lost ones included.
        events: [u64; kind::MAX],
        /// Calls and operations that a rule refused.
        denied_ops: u64,
        /// ... would have refused, or only reports.
        observed_ops: u64,
        /// Packets beyond a budget.
        budget_drops: u64,
        /// Packets with data to port 53.
        dns_queries: u64,
        /// Their bytes.
        dns_bytes: u64,
        /// Processes whose leaving would go unseen.
        untracked: u64,
    }
    /// `struct fs_member`.
    Member = "fs_member" {
        /// Last known cgroup.
        cgroup_id: u64,
        /// Slot.
        slot: u32,
        /// Occupant of the slot.
        epoch: u32,
        /// Effective user id when it was last looked at; [`UID_UNKNOWN`]: it could not be read.
        euid: u32,
        /// Zero.
        pad: u32,
    }
    /// `struct fs_occupant`.
    Occupant = "fs_occupant" {
        /// Slot.
        slot: u32,
        /// Occupant of the slot.
        epoch: u32,
    }
    /// `struct fs_leaver`.
    Leaver = "fs_leaver" {
        /// Slot.
        slot: u32,
        /// Occupant of the slot.
        epoch: u32,
        /// `CLOCK_MONOTONIC`, nanoseconds.
        ktime_ns: u64,
        /// Where it was.
        from_cgroup_id: u64,
        /// Where it is.
        to_cgroup_id: u64,
        /// Process that moved it.
        mover_pid: u32,
        /// [`move_flag`].
        flags: u32,
    }
    /// `struct fs_learnt_key`.
    LearntKey = "fs_learnt_key" {
        /// Generation of the allow-list.
        table: u32,
        /// 4 or 6.
        family: u32,
        /// Network order; IPv4 in the first four bytes.
        addr: [u8; 16],
    }
    /// `struct fs_tally`.
    Tally = "fs_tally" {
        /// Counted under earlier daemons' programs.
        earlier: Counters,
        /// Events.
        earlier_lost: u64,
        /// In all, when a daemon last looked.
        sampled: Counters,
        /// Events.
        sampled_lost: u64,
        /// `CLOCK_MONOTONIC`, nanoseconds; 0 = never.
        sampled_ns: u64,
    }
}

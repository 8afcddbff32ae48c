//! Mirror of `include/abi.h`, which defines and explains every field.
//!
//! All types are plain data: `#[repr(C)]`, `Copy`, free of implicit padding and of invalid bit patterns (kinds and
//! verdicts are integers here; the daemon turns them into enums). `tests/layout.rs` holds sizes and offsets against
//! the BTF of the object.

mod numbers;

pub use numbers::*;

/// Changes with every change of `include/abi.h`; part of the path under which maps are pinned.
pub const VERSION: u32 = 11;
/// Number of slots for runs.
pub const MAX_RUNS: u32 = 1024;
/// Port entries that one prefix of an allow-list can hold.
pub const MAX_PORTS: usize = 16;
/// Room for a path, in bytes.
pub const PATH_MAX: usize = 256;
/// Room for the head of an argument vector, in bytes.
pub const ARGV_MAX: usize = 256;
/// Room for the resolved path of what is executed, in bytes.
pub const FILE_MAX: usize = 512;
/// Length of `comm`, in bytes, with its NUL.
pub const COMM_LEN: usize = 16;
/// Bytes of a path that rules are matched on.
pub const RULE_PATH: usize = 248;
/// Host names in the allow-list of a run.
pub const MAX_HOSTS: usize = 16;
/// Destination classes of a run; class 0 is unused.
pub const MAX_BUDGETS: usize = 8;
/// Levels of the cgroup hierarchy, its root included, at which a run may have its root.
pub const LEVELS: usize = 64;

/// Classes of bytes in the paths of cgroups that are bound at their creation.
pub const EARLY_CLASSES: usize = 64;
/// Rules of discovery.
pub const EARLY_RULES: usize = 64;
/// Cgroups that can be bound and not yet registered.
pub const EARLY_SLOTS: u32 = 64;
/// Bytes of a path of a cgroup that is bound at its creation.
pub const EARLY_PATH: usize = 512;

/// In [`Member::euid`]: not known. No process has it, since a system call takes it as "leave as it is".
pub const UID_UNKNOWN: u32 = u32::MAX;

/// Names of the watched system calls, at the index that is their bit in [`RunCfg::watch`] and their number in
/// [`Sys::call`] (`enum fs_syscall`).
pub const SYSCALLS: [&str; 42] = [
    "ptrace",
    "mount",
    "unshare",
    "setns",
    "bpf",
    "init_module",
    "finit_module",
    "kexec_load",
    "io_uring_setup",
    "memfd_create",
    "process_vm_writev",
    "userfaultfd",
    "keyctl",
    "reboot",
    "kexec_file_load",
    "move_mount",
    "umount2",
    "pivot_root",
    "fsopen",
    "open_tree",
    "mount_setattr",
    "delete_module",
    "add_key",
    "request_key",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "io_uring_enter",
    "io_uring_register",
    "iopl",
    "ioperm",
    "process_vm_readv",
    "pidfd_getfd",
    "perf_event_open",
    "open_by_handle_at",
    "chroot",
    "swapon",
    "acct",
    "quotactl",
    "fspick",
    "open_tree_attr",
];

/// Plain data that can be copied out of any sufficiently long byte slice.
pub trait Plain: Copy + sealed::Sealed {
    /// Copies a value out of the front of `bytes`, at any alignment; `None` when there are too few.
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the read is unaligned, and every implementor (the trait is sealed) is
        // `repr(C)` of integers only, for which any bytes are a value.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $c:literal { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
            impl sealed::Sealed for $name {}
            impl Plain for $name {}
        )*
        /// Every mirrored type: its name in C, its size, and its fields with their offsets; in bytes.
        #[must_use]
        pub fn layout() -> Vec<Layout> {
            vec![$(Layout {
                name: $c,
                size: size_of::<$name>(),
                fields: vec![$((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$ty>()),)*],
            },)*]
        }
    };
}

/// Size and fields of one mirrored type.
#[derive(Debug)]
pub struct Layout {
    /// Name of the struct in `include/abi.h`.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Name, offset and size of each field, in bytes.
    pub fields: Vec<(&'static str, usize, usize)>,
}

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
        /// Zero.
        pad: u32,
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
    /// `struct fs_hdr`.
    Hdr = "fs_hdr" {
        /// `CLOCK_MONOTONIC`, nanoseconds.
        ktime_ns: u64,
        /// Per occupant of a slot, from 0.
        seq: u64,
        /// Exact cgroup of the subject.
        cgroup_id: u64,
        /// `CLOCK_BOOTTIME`, nanoseconds, of the thread group leader.
        start_boottime_ns: u64,
        /// Slot.
        run: u32,
        /// Occupant of the slot.
        epoch: u32,
        /// [`kind`].
        kind: u32,
        /// Process id; 0 where it cannot be known.
        pid: u32,
        /// Thread id.
        tid: u32,
        /// Parent's process id.
        ppid: u32,
        /// Real user id.
        uid: u32,
        /// Zero.
        pad: u32,
        /// NUL-padded.
        comm: [u8; COMM_LEN],
    }
    /// `struct fs_exec`.
    Exec = "fs_exec" {
        /// Header.
        hdr: Hdr,
        /// [`exec_flag`].
        flags: u32,
        /// Bytes used in `path`.
        path_len: u16,
        /// Bytes used in `argv`.
        argv_len: u16,
        /// Bytes of all arguments.
        argv_size: u32,
        /// Bytes used in `file`.
        file_len: u16,
        /// Bytes used in `tail`.
        tail_len: u16,
        /// As given to execve.
        path: [u8; PATH_MAX],
        /// NUL-separated.
        argv: [u8; ARGV_MAX],
        /// The end of the arguments, where they are longer than `argv`.
        tail: [u8; ARGV_MAX],
        /// The resolved path.
        file: [u8; FILE_MAX],
    }
    /// `struct fs_fork`.
    Fork = "fs_fork" {
        /// Header; the subject is the parent.
        hdr: Hdr,
        /// `CLOCK_BOOTTIME`, nanoseconds.
        child_start_boottime_ns: u64,
        /// Exact cgroup of the child.
        child_cgroup_id: u64,
        /// Process id.
        child_pid: u32,
        /// Zero.
        pad: u32,
    }
    /// `struct fs_exit`.
    Exit = "fs_exit" {
        /// Header.
        hdr: Hdr,
        /// As wait(2) returns it.
        code: u32,
        /// Zero.
        pad: u32,
    }
    /// `struct fs_net`.
    Net = "fs_net" {
        /// Header.
        hdr: Hdr,
        /// [`net_op`].
        op: u8,
        /// 4 or 6.
        family: u8,
        /// [`verdict`].
        verdict: u8,
        /// IP protocol.
        proto: u8,
        /// Host order; 0 = none.
        port: u16,
        /// [`net_flag`].
        flags: u16,
        /// Equal events suppressed since the last one.
        repeats: u32,
        /// `SOCK_*`.
        sk_type: u32,
        /// Network order; IPv4 in the first four bytes.
        addr: [u8; 16],
    }
    /// `struct fs_sys`.
    Sys = "fs_sys" {
        /// Header.
        hdr: Hdr,
        /// Index into [`SYSCALLS`].
        call: u32,
        /// 1: through the 32-bit ABI.
        compat: u8,
        /// [`verdict`].
        verdict: u8,
        /// [`via`].
        via: u8,
        /// Zero.
        pad: u8,
        /// Register values.
        args: [u64; 3],
        /// Equal refusals suppressed since the last one.
        repeats: u64,
    }
    /// `struct fs_op`.
    Op = "fs_op" {
        /// Header.
        hdr: Hdr,
        /// [`op_what`].
        what: u32,
        /// [`verdict`].
        verdict: u8,
        /// [`via`].
        via: u8,
        /// Of an exec: 0 file, 1 memfd, 2 deleted, 3 script.
        kind: u8,
        /// [`held`].
        held: u8,
        /// Equal events suppressed since the last one.
        repeats: u32,
        /// Bytes used in `path`.
        path_len: u32,
        /// See `enum fs_op_what`.
        a: u64,
        /// See `enum fs_op_what`.
        b: u64,
        /// See `enum fs_op_what`.
        c: u64,
        /// See `enum fs_op_what`.
        path: [u8; PATH_MAX],
    }
    /// `struct fs_oom`.
    Oom = "fs_oom" {
        /// Header; the subject is the victim.
        hdr: Hdr,
    }
    /// `struct fs_move`.
    Move = "fs_move" {
        /// Header; the subject is the moved task.
        hdr: Hdr,
        /// Where it was; 0 = outside, not known.
        from_cgroup_id: u64,
        /// Where it is.
        to_cgroup_id: u64,
        /// Process that moved it.
        mover_pid: u32,
        /// [`move_flag`].
        flags: u32,
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
    /// `struct fs_early`.
    Early = "fs_early" {
        /// Provisional runs that the daemon has registered or released.
        settled: u64,
        /// The automaton's first state; 0 = off.
        start: u32,
        /// Zero.
        pad: u32,
        /// Class of each byte of a path.
        class_of: [u8; 256],
    }
    /// `struct fs_early_seen`.
    EarlySeen = "fs_early_seen" {
        /// Cgroups that were bound at their creation.
        bound: u64,
        /// Those that matched and found no free slot.
        exhausted: u64,
        /// Those that the map of runs had no room for.
        failed: u64,
    }
    /// `struct fs_early_row`.
    EarlyRow = "fs_early_row" {
        /// The next state, by class.
        next: [u16; EARLY_CLASSES],
        /// The rule of a path that ends here, from 1; 0 = none.
        rule: u32,
    }
    /// `struct fs_early_slot`.
    EarlySlot = "fs_early_slot" {
        /// Index into the per-run maps.
        slot: u32,
        /// Occupant of the slot.
        epoch: u32,
        /// [`early_state`].
        state: u32,
        /// The rule, from 1.
        rule: u32,
        /// Cgroup id of the root.
        root_id: u64,
        /// `CLOCK_MONOTONIC`, nanoseconds.
        at_ns: u64,
    }
}

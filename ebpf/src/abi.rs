//! Mirror of `include/abi.h`, which defines and explains every field.
//!
//! All types are plain data: `#[repr(C)]`, `Copy`, free of implicit padding and of invalid bit patterns (kinds and
//! verdicts are integers here; the daemon turns them into enums). `tests/layout.rs` holds sizes and offsets against
//! the BTF of the object.

/// Changes with every change of `include/abi.h`; part of the path under which maps are pinned.
pub const VERSION: u32 = 2;
/// Number of slots for runs.
pub const MAX_RUNS: u32 = 1024;
/// Port entries that one prefix of an allow-list can hold.
pub const MAX_PORTS: usize = 16;
/// Room for a path, in bytes.
pub const PATH_MAX: usize = 256;
/// Room for the head of an argument vector, in bytes.
pub const ARGV_MAX: usize = 256;
/// Length of `comm`, in bytes, with its NUL.
pub const COMM_LEN: usize = 16;
/// Bytes of a path that rules are matched on.
pub const RULE_PATH: usize = 248;
/// Host names in the allow-list of a run.
pub const MAX_HOSTS: usize = 16;
/// Destination classes of a run; class 0 is unused.
pub const MAX_BUDGETS: usize = 8;
/// Number of distinct cgroup levels at which runs may have their roots.
pub const MAX_LEVELS: usize = 8;

/// Flags of a run (`enum fs_run_flag`).
pub mod run_flag {
    /// Egress outside the allow-list is refused.
    pub const ENFORCE: u32 = 1 << 0;
    /// Egress outside the allow-list is reported.
    pub const OBSERVE: u32 = 1 << 1;
    /// Replies on accepted TCP connections are judged too.
    pub const NO_REPLIES: u32 = 1 << 2;
    /// Only TCP connection attempts are judged in the packet hook.
    pub const SYN_ONLY: u32 = 1 << 3;
    /// Exec events are wanted.
    pub const WATCH_EXEC: u32 = 1 << 4;
    /// Fork and exit events are wanted.
    pub const WATCH_LIFE: u32 = 1 << 5;
    /// Events of allowed network calls are wanted.
    pub const WATCH_NET: u32 = 1 << 6;
    /// There are path entries in force.
    pub const PATHS: u32 = 1 << 7;
    /// The same files are listed by inode.
    pub const INODES: u32 = 1 << 8;
    /// failsafe's own things are out of the run's reach.
    pub const PROTECT: u32 = 1 << 9;
    /// Without a daemon: as if blocked.
    pub const DEAD_EGRESS: u32 = 1 << 10;
    /// Without a daemon: as if stopped.
    pub const DEAD_ALL: u32 = 1 << 11;
    /// There are socket family entries in force.
    pub const FAMILIES: u32 = 1 << 12;
    /// There are bind or listen entries in force.
    pub const PORTS: u32 = 1 << 13;
    /// There are destination classes with budgets.
    pub const BUDGETS: u32 = 1 << 14;
    /// The allow-list names hosts.
    pub const DNS: u32 = 1 << 15;
}

/// What a rule does where it matches (`enum fs_effect`).
pub mod effect {
    /// Nothing.
    pub const NONE: u8 = 0;
    /// Report.
    pub const OBSERVE: u8 = 1;
    /// Refuse.
    pub const DENY: u8 = 2;
    /// Refuse, latch the run, stop the thread.
    pub const STOP: u8 = 3;
}

/// Bits of a run's latch (`enum fs_latch`).
pub mod latch {
    /// Everything that could leave the host is refused.
    pub const EGRESS: u32 = 1 << 0;
    /// Exec, open, connect and egress are refused.
    pub const STOP: u32 = 1 << 1;
}

/// What a [`Key`](super::Key) is of (`enum fs_key_what`).
pub mod key_what {
    /// An inode.
    pub const INODE: u32 = 1;
    /// A device.
    pub const DEVICE: u32 = 2;
    /// A socket family.
    pub const FAMILY: u32 = 3;
    /// A port to listen on.
    pub const LISTEN: u32 = 4;
    /// A port to bind.
    pub const BIND: u32 = 5;
    /// Ports of a host of the allow-list.
    pub const HOST: u32 = 6;
    /// A name server.
    pub const DNS: u32 = 7;
}

/// What else than a call a rule can speak of (`enum fs_point`).
pub mod point {
    /// A memfd is executed.
    pub const EXEC_MEMFD: u32 = 48;
    /// A deleted file is executed.
    pub const EXEC_DELETED: u32 = 49;
    /// A script is executed.
    pub const EXEC_SCRIPT: u32 = 50;
    /// The allow-list refused something.
    pub const NET: u32 = 51;
    /// The effective user becomes root.
    pub const PRIV_SETUID: u32 = 52;
    /// Capabilities grow.
    pub const PRIV_CAPABILITY: u32 = 53;
    /// A user namespace is made.
    pub const PRIV_USERNS: u32 = 54;
    /// Anonymous memory becomes executable.
    pub const MEM_ANONYMOUS: u32 = 55;
    /// A memfd or deleted file is mapped executable.
    pub const MEM_MEMFD: u32 = 56;
    /// Memory is writable and executable at once.
    pub const MEM_WRITE_EXEC: u32 = 57;
    /// A process is made beyond the limits.
    pub const FORK: u32 = 58;
}

/// How an operation was seen (`enum fs_via`).
pub mod via {
    /// An LSM hook.
    pub const LSM: u8 = 1;
    /// The call's own function.
    pub const FENTRY: u8 = 2;
    /// The entry of every call; arguments unreliable.
    pub const SYS_ENTER: u8 = 3;
    /// A tracepoint of the scheduler.
    pub const TRACEPOINT: u8 = 4;
    /// A hook of the run's cgroup.
    pub const CGROUP: u8 = 5;
}

/// Operations (`enum fs_op_what`).
pub mod op_what {
    /// A program.
    pub const EXEC: u32 = 1;
    /// An executable mapping of a file.
    pub const MAP: u32 = 2;
    /// A file.
    pub const OPEN: u32 = 3;
    /// A device.
    pub const DEVICE: u32 = 4;
    /// A socket.
    pub const SOCKET: u32 = 5;
    /// A port to listen on.
    pub const LISTEN: u32 = 6;
    /// Privilege gained.
    pub const PRIVILEGE: u32 = 8;
    /// Executable memory.
    pub const MEMORY: u32 = 9;
    /// A process made.
    pub const FORK: u32 = 10;
    /// Something of failsafe's.
    pub const PROTECT: u32 = 11;
    /// A budget is spent.
    pub const BUDGET: u32 = 12;
    /// A name was answered.
    pub const DNS: u32 = 13;
}

/// What of failsafe a run reached for (`enum fs_protect`).
pub mod protect {
    /// A signal to the daemon.
    pub const SIGNAL: u64 = 1;
    /// Tracing a process outside the run.
    pub const TRACE: u64 = 2;
    /// bpf(2).
    pub const BPF: u64 = 3;
    /// The BPF file system.
    pub const BPFFS: u64 = 4;
    /// Its own or another's cgroup files.
    pub const CGROUP: u64 = 5;
    /// The state folder.
    pub const FILES: u64 = 6;
    /// A socket made outside and handed in.
    pub const SOCKET: u64 = 7;
}

/// Kinds of event (`enum fs_kind`).
pub mod kind {
    /// A new program image.
    pub const EXEC: u32 = 1;
    /// A new process.
    pub const FORK: u32 = 2;
    /// The end of a process.
    pub const EXIT: u32 = 3;
    /// A network call or a refused packet.
    pub const NET: u32 = 4;
    /// A watched system call.
    pub const SYSCALL: u32 = 5;
    /// The out-of-memory killer chose a process.
    pub const OOM: u32 = 6;
    /// A process left the run's cgroups.
    pub const LEAVE: u32 = 7;
    /// A process came into the run's cgroups from outside.
    pub const JOIN: u32 = 8;
    /// An operation that a rule speaks of.
    pub const OP: u32 = 9;
    /// One more than the last kind.
    pub const MAX: usize = 10;
}

/// Flags of an exec (`enum fs_exec_flag`).
pub mod exec_flag {
    /// The path was longer than there is room for.
    pub const PATH_CUT: u32 = 1 << 0;
    /// The arguments were longer than there is room for.
    pub const ARGV_CUT: u32 = 1 << 1;
    /// The file has no name any more: a memfd, or deleted.
    pub const UNLINKED: u32 = 1 << 2;
    /// An interpreter was started for the file.
    pub const SCRIPT: u32 = 1 << 3;
    /// The arguments could not be read.
    pub const ARGV_LOST: u32 = 1 << 4;
}

/// Network operations (`enum fs_net_op`).
pub mod net_op {
    /// connect(2), and fast open.
    pub const CONNECT: u8 = 1;
    /// A datagram sent to an address.
    pub const SENDMSG: u8 = 2;
    /// bind(2).
    pub const BIND: u8 = 3;
    /// A packet about to leave.
    pub const PACKET: u8 = 4;
    /// socket(2) of a kind that cannot be bounded.
    pub const SOCKET: u8 = 5;
}

/// Verdicts (`enum fs_verdict`).
pub mod verdict {
    /// Allowed.
    pub const ALLOWED: u8 = 0;
    /// Refused with EPERM, or dropped.
    pub const DENIED: u8 = 1;
    /// Let through; would be refused under enforcement.
    pub const OBSERVED: u8 = 2;
}

/// Flags of a network event (`enum fs_net_flag`).
pub mod net_flag {
    /// Asked for as an IPv4-mapped IPv6 address.
    pub const MAPPED: u16 = 1 << 0;
    /// Refused because the run is blocked altogether.
    pub const LATCHED: u16 = 1 << 1;
    /// The caller is outside the run and uses a socket of the run.
    pub const FOREIGN: u16 = 1 << 2;
    /// Source route, routing header, or a header that could not be read.
    pub const BAD_HDR: u16 = 1 << 3;
    /// Refused because no daemon was seen for too long.
    pub const DEAD: u16 = 1 << 4;
}

/// Flags of a move between cgroups (`enum fs_move_flag`).
pub mod move_flag {
    /// The mover itself belongs to the run.
    pub const BY_RUN: u32 = 1 << 0;
    /// Not moved but born there (`CLONE_INTO_CGROUP`).
    pub const BY_CLONE: u32 = 1 << 1;
}

/// Names of the watched system calls, at the index that is their bit in [`RunCfg::watch`] and their number in
/// [`Sys::call`] (`enum fs_syscall`).
pub const SYSCALLS: [&str; 40] = [
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
        /// One byte per level in use.
        levels: u64,
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
        /// As given to execve.
        path: [u8; PATH_MAX],
        /// NUL-separated.
        argv: [u8; ARGV_MAX],
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
        /// Refused because the run is latched.
        latched: u8,
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
        /// Effective user id when it was last looked at.
        euid: u32,
        /// Zero.
        pad: u32,
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
    /// `struct fs_stopped`.
    Stopped = "fs_stopped" {
        /// Slot.
        slot: u32,
        /// Occupant of the slot.
        epoch: u32,
    }
}

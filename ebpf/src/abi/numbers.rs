//! The numbers of `include/abi.h`: flags, kinds and bits, each enum a module.

/// `enum fs_table`: beside a run's own table, in the egress tries.
pub mod table {
    /// Local addresses that may not be bound.
    pub const BIND_DENIED: u32 = 1 << 28;
    /// Denied destinations that stop the run.
    pub const NET_STOPS: u32 = 2 << 28;
    /// Local addresses whose binding stops the run.
    pub const BIND_STOPS: u32 = 3 << 28;
    /// Denied destinations.
    pub const NET_DENIED: u32 = 4 << 28;
    /// Local addresses of which it is told that somebody listens on them.
    pub const LISTEN_TOLD: u32 = 5 << 28;
    /// ... on which nobody may listen.
    pub const LISTEN_DENIED: u32 = 6 << 28;
    /// ... on which who listens stops the run.
    pub const LISTEN_STOPS: u32 = 7 << 28;
}

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
    /// Events of allowed connects are wanted.
    pub const WATCH_CONNECT: u32 = 1 << 6;
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
    /// There are folders in force, by inode.
    pub const TREES: u32 = 1 << 16;
    /// No LSM program judges what is executed: it is judged once it was.
    pub const SEEN_EXEC: u32 = 1 << 17;
    /// Events of allowed sends with an address are wanted.
    pub const WATCH_SEND: u32 = 1 << 18;
    /// Events of binds that were allowed are wanted.
    pub const WATCH_BIND: u32 = 1 << 19;
    /// Rules deny destinations.
    pub const NET_DENIED: u32 = 1 << 20;
    /// Some of them stop the run.
    pub const NET_STOPS: u32 = 1 << 21;
    /// An exec need not wake the daemon.
    pub const EXEC_WAITS: u32 = 1 << 22;
    /// A fork or an exit need not wake the daemon.
    pub const LIFE_WAITS: u32 = 1 << 23;
    /// Events of datagram sockets that were connected outside the list are wanted.
    pub const WATCH_PROBE: u32 = 1 << 24;
    /// Some path entry has an effect on executing.
    pub const EXECS: u32 = 1 << 25;
    /// Some path entry has an effect on executable mappings.
    pub const MAPS: u32 = 1 << 26;
    /// Some path entry has an effect on opening for reading or writing.
    pub const OPENS: u32 = 1 << 27;
    /// It was bound at the creation of its cgroup, and is not registered yet.
    pub const PROVISIONAL: u32 = 1 << 28;
    /// What an entry only observes of an exec is reported by the exec alone.
    pub const EXEC_ONCE: u32 = 1 << 29;
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

/// In which modes the kernel has had a run (`enum fs_mode`).
pub mod mode {
    /// It was bounded.
    pub const ENFORCED: u32 = 1 << 0;
    /// It was only observed.
    pub const OBSERVED: u32 = 1 << 1;
    /// It is only observed now.
    pub const OBSERVES: u32 = 1 << 2;
    /// It is not known of the time before.
    pub const UNKNOWN: u32 = 1 << 3;
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
    /// Ports of a host of the allow-list.
    pub const HOST: u32 = 6;
    /// A name server.
    pub const DNS: u32 = 7;
    /// A folder's inode, for all that is below it; 0 and `u64::MAX`: the strictest of all.
    pub const TREE: u32 = 8;
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
    /// A socket in another network namespace than the run's.
    pub const NETNS: u32 = 14;
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
    /// Limits, priority or other standing of the daemon.
    pub const PROCESS: u64 = 8;
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
    /// Of the resolved path only the end is there, or nothing.
    pub const FILE_CUT: u32 = 1 << 5;
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
    /// A datagram socket was connected outside the list: let through, as it sends nothing.
    pub const PROBE: u8 = 3;
}

/// Flags of a network event (`enum fs_net_flag`).
pub mod net_flag {
    /// Asked for as an IPv4-mapped IPv6 address.
    pub const MAPPED: u16 = 1 << 0;
    /// Refused because the run is latched.
    pub const LATCHED: u16 = 1 << 1;
    /// The caller is outside the run and uses a socket of the run.
    pub const FOREIGN: u16 = 1 << 2;
    /// Source route, routing header, or a header that could not be read.
    pub const BAD_HDR: u16 = 1 << 3;
    /// Refused because no daemon was seen for too long.
    pub const DEAD: u16 = 1 << 4;
    /// Connect of a datagram socket of the run.
    pub const PROBE: u16 = 1 << 5;
    /// Beside [`LATCHED`] or [`DEAD`]: the policy itself refuses it too.
    pub const BOUNDS: u16 = 1 << 6;
}

/// Why something was refused that the policy itself lets through (`enum fs_held`).
pub mod held {
    /// The policy refuses it.
    pub const NOT: u8 = 0;
    /// The run is latched.
    pub const LATCHED: u8 = 1;
    /// No daemon was seen for too long.
    pub const DEAD: u8 = 2;
}

/// Flags of a move between cgroups (`enum fs_move_flag`).
pub mod move_flag {
    /// The mover itself belongs to the run.
    pub const BY_RUN: u32 = 1 << 0;
    /// Not moved but born there (`CLONE_INTO_CGROUP`).
    pub const BY_CLONE: u32 = 1 << 1;
}

/// Why an answer of a name server was not learnt from (`enum fs_dns_doubt`).
pub mod dns_doubt {
    /// Over TCP, not alone and whole in one packet.
    pub const PIECES: u64 = 1;
    /// In another network namespace.
    pub const NETNS: u64 = 2;
    /// Sent on this machine, by a run or nobody.
    pub const SENDER: u64 = 3;
    /// Its socket did not ask this.
    pub const UNASKED: u64 = 4;
    /// Longer than what is read.
    pub const CUT: u64 = 5;
    /// There was no room to read it.
    pub const BUSY: u64 = 6;
}

/// State of a slot for runs that are bound at the creation of their cgroup (`enum fs_early_state`).
pub mod early_state {
    /// Not to be taken.
    pub const UNUSED: u32 = 0;
    /// Free.
    pub const FREE: u32 = 1;
    /// Taken, until the daemon writes it again.
    pub const TAKEN: u32 = 2;
}

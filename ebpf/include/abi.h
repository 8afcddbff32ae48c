/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * The one definition of what crosses between the kernel programs and the daemon.
 *
 * Mirrored by hand in `ebpf/src/abi.rs`; a test holds every size and offset of the mirror against the BTF
 * of the compiled object. All integers are host-endian unless a name says otherwise; all structs are free
 * of implicit padding. Change anything here: change the mirror, and raise FS_ABI_VERSION.
 */
#ifndef FAILSAFE_ABI_H
#define FAILSAFE_ABI_H

#define FS_ABI_VERSION 1

#define FS_MAX_RUNS 1024    /* slots; the loader may create smaller maps */
#define FS_MAX_PORTS 16     /* entries of one allow-list prefix, after folding */
#define FS_PATH_MAX 256
#define FS_ARGV_MAX 256
#define FS_COMM_LEN 16

/* ---- configuration, written by the daemon ------------------------------------------------------- */

/* One byte per cgroup level at which some run has its root, 0 = unused byte, in no order. A byte never moves
 * while it is in use, so a torn read of the word is harmless. 0 = no run: every program returns at once. */
struct fs_control {
	__u64 levels;
};

enum fs_run_flag {
	FS_RUN_ENFORCE = 1 << 0,    /* egress outside the allow-list is refused */
	FS_RUN_OBSERVE = 1 << 1,    /* ... is only reported */
	FS_RUN_NO_REPLIES = 1 << 2, /* replies on accepted TCP connections are judged too */
	FS_RUN_SYN_ONLY = 1 << 3,   /* no sock_ops: only connection attempts are judged in cgroup_skb (TCP) */
	FS_RUN_WATCH_EXEC = 1 << 4,
	FS_RUN_WATCH_LIFE = 1 << 5, /* fork and exit */
	FS_RUN_WATCH_NET = 1 << 6,  /* events of calls that were allowed; refusals are always reported */
};

/* runs: cgroup id of the run's root -> this */
struct fs_run_cfg {
	__u32 slot;
	__u32 epoch;    /* tells two occupants of one slot apart in events still in the ring */
	__u32 flags;    /* enum fs_run_flag */
	__u32 table;    /* which generation of the allow-list is in force */
	__u64 syscalls; /* bit n: enum fs_syscall n is watched */
	__u64 root_id;  /* the key again */
};

/* Allow-list tries. The key starts with the table, so that a new list is built beside the old one and
 * swapped by one write of fs_run_cfg.table. */
struct fs_lpm4 {
	__u32 prefixlen; /* 32 + prefix */
	__u32 table;
	__u8 addr[4];
};

struct fs_lpm6 {
	__u32 prefixlen; /* 32 + prefix */
	__u32 table;
	__u8 addr[16];
};

struct fs_port {
	__u16 lo;
	__u16 hi;
	__u8 proto; /* 0 = any, else IPPROTO_* */
	__u8 pad[3];
};

struct fs_ports {
	__u32 n;
	__u32 pad;
	struct fs_port e[FS_MAX_PORTS];
};

/* ---- events, written by the kernel --------------------------------------------------------------- */

enum fs_kind {
	FS_EXEC = 1,
	FS_FORK = 2,
	FS_EXIT = 3,
	FS_NET = 4,
	FS_SYSCALL = 5,
	FS_OOM = 6,
	FS_LEAVE = 7,
	FS_JOIN = 8,
	FS_KIND_MAX = 9,
};

/* The subject of an event is the task it is about: the new image, the forking parent, the exiting leader, the
 * caller, the OOM victim, the moved task. pid 0: a packet whose sender is not known to the hook. */
struct fs_hdr {
	__u64 ktime_ns;          /* CLOCK_MONOTONIC */
	__u64 seq;               /* per occupant of a slot, from 0; a lost event leaves a hole */
	__u64 cgroup_id;         /* the exact cgroup of the subject */
	__u64 start_boottime_ns; /* of the subject's thread group leader: what /proc/PID/stat field 22 is made of */
	__u32 run;               /* slot */
	__u32 epoch;
	__u32 kind;              /* enum fs_kind */
	__u32 pid;               /* thread group id, as seen from the initial pid namespace */
	__u32 tid;
	__u32 ppid;
	__u32 uid;               /* real uid */
	__u32 pad;
	char comm[FS_COMM_LEN];
};

enum fs_exec_flag {
	FS_EXEC_PATH_CUT = 1 << 0,
	FS_EXEC_ARGV_CUT = 1 << 1,
	FS_EXEC_UNLINKED = 1 << 2, /* the file has no name any more: memfd or deleted */
	FS_EXEC_SCRIPT = 1 << 3,   /* an interpreter was started for it */
	FS_EXEC_ARGV_LOST = 1 << 4, /* the argument area could not be read */
};

struct fs_exec {
	struct fs_hdr hdr;
	__u32 flags;
	__u16 path_len;
	__u16 argv_len;
	char path[FS_PATH_MAX]; /* as given to execve */
	char argv[FS_ARGV_MAX]; /* NUL-separated, from the new image's own memory */
};

struct fs_fork {
	struct fs_hdr hdr;
	__u64 child_start_boottime_ns;
	__u64 child_cgroup_id;
	__u32 child_pid;
	__u32 pad;
};

struct fs_exit {
	struct fs_hdr hdr;
	__u32 code; /* as wait(2) returns it */
	__u32 pad;
};

enum fs_net_op {
	FS_NET_CONNECT = 1,
	FS_NET_SENDMSG = 2,
	FS_NET_BIND = 3,
	FS_NET_PACKET = 4, /* refused, or would be, only when the packet was about to leave */
	FS_NET_SOCKET = 5, /* creation of a kind of socket that an egress allow-list cannot bound */
};

enum fs_verdict {
	FS_ALLOWED = 0,
	FS_DENIED = 1,
	FS_OBSERVED = 2, /* would be denied under enforcement */
};

enum fs_net_flag {
	FS_NET_MAPPED = 1 << 0,   /* asked for as an IPv4-mapped IPv6 address */
	FS_NET_LATCHED = 1 << 1,  /* refused because the run is blocked altogether */
	FS_NET_FOREIGN = 1 << 2,  /* the caller is outside the run and uses a socket of the run */
	FS_NET_BAD_HDR = 1 << 3,  /* source route, routing header or a header that could not be read */
};

struct fs_net {
	struct fs_hdr hdr;
	__u8 op;      /* enum fs_net_op */
	__u8 family;  /* 4 or 6, after v4-mapped addresses became IPv4 */
	__u8 verdict; /* enum fs_verdict */
	__u8 proto;   /* IPPROTO_* */
	__u16 port;   /* host order; 0 = none */
	__u16 flags;  /* enum fs_net_flag */
	__u32 repeats; /* the same event suppressed since it was last sent (FS_NET_SENDMSG, FS_NET_PACKET) */
	__u32 sk_type; /* SOCK_* */
	__u8 addr[16]; /* network order; IPv4 in the first four */
};

enum fs_syscall {
	FS_SYS_PTRACE = 0,
	FS_SYS_MOUNT = 1,
	FS_SYS_UNSHARE = 2,
	FS_SYS_SETNS = 3,
	FS_SYS_BPF = 4,
	FS_SYS_INIT_MODULE = 5,
	FS_SYS_FINIT_MODULE = 6,
	FS_SYS_KEXEC_LOAD = 7,
	FS_SYS_IO_URING_SETUP = 8,
	FS_SYS_MEMFD_CREATE = 9,
	FS_SYS_PROCESS_VM_WRITEV = 10,
	FS_SYS_USERFAULTFD = 11,
	FS_SYS_KEYCTL = 12,
	FS_SYS_REBOOT = 13,
	FS_SYS_KEXEC_FILE_LOAD = 14,
	FS_SYS_MOVE_MOUNT = 15,
	FS_SYS_MAX = 16,
};

struct fs_sys {
	struct fs_hdr hdr;
	__u32 call;   /* enum fs_syscall */
	__u32 compat; /* 1: made through the 32-bit ABI */
	__u64 args[3];
};

struct fs_oom {
	struct fs_hdr hdr;
};

enum fs_move_flag {
	FS_MOVE_BY_RUN = 1 << 0, /* the mover itself belongs to the run */
	FS_MOVE_BY_CLONE = 1 << 1, /* not moved but born there (CLONE_INTO_CGROUP) */
};

struct fs_move {
	struct fs_hdr hdr;
	__u64 from_cgroup_id;
	__u64 to_cgroup_id;
	__u32 mover_pid;
	__u32 flags; /* enum fs_move_flag */
};

/* ---- counters, per CPU and slot ------------------------------------------------------------------ */

struct fs_counters {
	__u64 egress_bytes;    /* of IP packets; a segmentation-offload packet carries its headers once */
	__u64 egress_packets;
	__u64 ingress_bytes;
	__u64 ingress_packets;
	__u64 dropped_packets; /* refused on the way out */
	__u64 denied_calls;    /* connect, sendmsg, bind, socket */
	__u64 events[FS_KIND_MAX]; /* by kind, lost ones included */
	__u64 untracked;       /* processes that `members` had no room for: their leaving would go unseen */
};

/* members: thread group id -> where it was last seen. Only to notice leaving; never used to attribute. */
struct fs_member {
	__u64 cgroup_id;
	__u32 slot;
	__u32 epoch;
};

#endif

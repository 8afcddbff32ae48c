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

#define FS_ABI_VERSION 12

#define FS_MAX_RUNS 1024    /* slots; the loader may create smaller maps */
#define FS_LEVELS 64        /* a run's root lies at level 1 to 63 of the cgroup hierarchy; the root has level 0 */
#define FS_MAX_PORTS 16     /* entries of one allow-list prefix, after folding */
#define FS_PATH_MAX 256
#define FS_ARGV_MAX 256
#define FS_FILE_MAX 512
#define FS_COMM_LEN 16
#define FS_RULE_PATH 248    /* bytes of a path that rules are matched on: an LPM key holds 256 */
#define FS_MAX_HOSTS 16    /* host names in the allow-list of a run */
#define FS_UID_UNKNOWN 4294967295 /* no process has it */
#define FS_EARLY_CLASSES 64 /* classes of bytes in the paths of cgroups that are bound at their creation */
#define FS_EARLY_RULES 64   /* rules of discovery */
#define FS_EARLY_SLOTS 64   /* cgroups that can be bound and not yet registered */
#define FS_EARLY_PATH 512   /* bytes of a path; a longer one is left to user space */
#define FS_MAX_BUDGETS 8    /* destination classes of a run; class 0 is unused */

/* ---- configuration, written by the daemon ------------------------------------------------------- */

/* next[l]: the next deeper cgroup level after l at which some run has its root; 0 = none. next[0] = 0: there is no run, and
 * every program returns at once. Every l has its entry, also where no run has its root, so a reader that meets half of an
 * update goes on downwards and passes no level that is in use before and after it. */
struct fs_control {
	__u8 next[FS_LEVELS];
};

enum fs_run_flag {
	FS_RUN_ENFORCE = 1 << 0,    /* egress outside the allow-list is refused */
	FS_RUN_OBSERVE = 1 << 1,    /* ... is only reported */
	FS_RUN_NO_REPLIES = 1 << 2, /* replies on accepted TCP connections are judged too */
	FS_RUN_SYN_ONLY = 1 << 3,   /* no sock_ops: only connection attempts are judged in cgroup_skb (TCP) */
	FS_RUN_WATCH_EXEC = 1 << 4,
	FS_RUN_WATCH_LIFE = 1 << 5, /* fork and exit */
	FS_RUN_WATCH_CONNECT = 1 << 6, /* events of connects that were allowed; refusals are always reported */
	FS_RUN_PATHS = 1 << 7,      /* there are path entries in force */
	FS_RUN_INODES = 1 << 8,     /* ... and the same files by inode */
	FS_RUN_PROTECT = 1 << 9,    /* failsafe's own things are out of the run's reach */
	FS_RUN_DEAD_EGRESS = 1 << 10, /* without a daemon for dead_after_ns: as if blocked */
	FS_RUN_DEAD_ALL = 1 << 11,  /* ... as if stopped */
	FS_RUN_FAMILIES = 1 << 12,  /* there are socket family entries in force */
	FS_RUN_PORTS = 1 << 13,     /* there are lists of local addresses, FS_TABLE_BIND_* or FS_TABLE_LISTEN_* */
	FS_RUN_BUDGETS = 1 << 14,   /* there are destination classes with budgets */
	FS_RUN_DNS = 1 << 15,       /* the allow-list names hosts: answers are read */
	FS_RUN_TREES = 1 << 16,     /* there are folders in force, by inode */
	FS_RUN_SEEN_EXEC = 1 << 17, /* no LSM program judges what is executed: it is judged once it was */
	FS_RUN_WATCH_SEND = 1 << 18, /* as FS_RUN_WATCH_CONNECT, of sends with an address */
	FS_RUN_WATCH_BIND = 1 << 19,
	FS_RUN_NET_DENIED = 1 << 20, /* rules deny destinations: in the egress tries under FS_TABLE_NET_DENIED, those that */
	FS_RUN_NET_STOPS = 1 << 21,  /* ... stop the run under FS_TABLE_NET_STOPS as well */
	FS_RUN_EXEC_WAITS = 1 << 22, /* an exec need not wake the daemon: nothing is done about it */
	FS_RUN_LIFE_WAITS = 1 << 23, /* ... nor a fork or an exit */
	FS_RUN_WATCH_PROBE = 1 << 24, /* events of verdict FS_PROBE */
	FS_RUN_EXECS = 1 << 25, /* path entries, by path or inode, have an effect on exec */
	FS_RUN_MAPS = 1 << 26,  /* ... on executable mappings */
	FS_RUN_PROVISIONAL = 1 << 28, /* entered by fs_early_made, not yet registered: the programs at the root of discovery judge it */
	FS_RUN_EXEC_ONCE = 1 << 29, /* what an entry only observes of an exec is reported by the exec alone: no rule asks for its verdict */
	FS_RUN_OPENS = 1 << 27, /* ... on opening for reading or writing: without it an open costs a look-up of its run */
};

/* What a rule does where it matches; of several the highest holds. */
enum fs_effect {
	FS_EFFECT_NONE = 0,
	FS_EFFECT_OBSERVE = 1,
	FS_EFFECT_DENY = 2,
	FS_EFFECT_STOP = 3, /* deny, latch the run, stop the thread */
};

/* Bits of a run's latch. */
enum fs_latch {
	FS_LATCH_EGRESS = 1 << 0, /* everything that could leave the host is refused */
	FS_LATCH_STOP = 1 << 1,   /* exec, open, connect and egress are refused: set in the kernel by a stop rule */
};

/* In which modes the kernel has had a run. Programs do not read it: it lies here so that the next daemon knows it. */
enum fs_mode {
	FS_MODE_ENFORCED = 1 << 0, /* it was bounded */
	FS_MODE_OBSERVED = 1 << 1, /* it was only observed */
	FS_MODE_OBSERVES = 1 << 2, /* it is only observed now: what its policy denies is let through and reported */
	FS_MODE_UNKNOWN = 1 << 3,  /* ... under an earlier daemon, of which this is not known */
};

/* runs: cgroup id of the run's root -> this */
struct fs_run_cfg {
	__u32 slot;
	__u32 epoch;    /* tells two occupants of one slot apart in events still in the ring */
	__u32 flags;    /* enum fs_run_flag */
	__u32 table;    /* which generation of the allow-list and of the rules' entries is in force */
	__u64 watch;    /* bit n: enum fs_syscall or fs_point n is reported */
	__u64 deny;     /* bit n: ... is refused where a hook can */
	__u64 stop;     /* bit n: ... is refused, and the run latched */
	__u64 root_id;  /* the key again */
	__u64 dead_after_ns; /* see FS_RUN_DEAD_*; 0 = never */
	__u32 max_procs;     /* processes that may live at once; 0 = any number */
	__u32 max_forks;     /* processes made a second; 0 = any number */
	__u32 netns;         /* number of the network namespace in which name servers are believed; 0 = any */
	__u32 modes;         /* enum fs_mode; for the next daemon */
};

/* Index 0: the daemon's sign of life. */
struct fs_watchdog {
	__u64 beat_ns;     /* CLOCK_MONOTONIC, when the daemon last said that it works; 0 = not yet */
	__u32 daemon_tgid; /* whom, and whose children, a run may not signal, trace or limit */
	__u32 pad;
};

/* Index 0: whether who reads the ring has to be woken. */
struct fs_reader {
	__u64 asleep; /* it found nothing to read, and will look again when woken */
};

/* Beside a run's own table, in the egress tries: what rules say of destinations and, with the local address and port, of binding
 * and listening. Each list has the entries of those that go further. */
enum fs_table {
	FS_TABLE_BIND_DENIED = 1 << 28,
	FS_TABLE_NET_STOPS = 2 << 28,
	FS_TABLE_BIND_STOPS = 3 << 28,
	FS_TABLE_NET_DENIED = 4 << 28,
	FS_TABLE_LISTEN_TOLD = 5 << 28,
	FS_TABLE_LISTEN_DENIED = 6 << 28,
	FS_TABLE_LISTEN_STOPS = 7 << 28,
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

/* What rules say of a path: one enum fs_effect for each use. */
struct fs_effects {
	__u8 exec;
	__u8 map;   /* mapped executable: a library, or a program run by the loader */
	__u8 read;
	__u8 write;
};

/* Entries by path. The longest that is a prefix of the path holds, and each has folded in all shorter ones. An exact
 * path ends with its NUL. */
struct fs_path_key {
	__u32 prefixlen; /* 32 + 8 * bytes */
	__u32 table;
	char path[FS_RULE_PATH];
};

enum fs_key_what {
	FS_KEY_INODE = 1,  /* a: inode number, b: device as the kernel has it */
	FS_KEY_DEVICE = 2, /* a: 1 block or 2 char << 32 | major, b: minor or ~0 */
	FS_KEY_FAMILY = 3, /* a: AF_*, in effects.read */
	FS_KEY_HOST = 6,   /* a: number of a host of the allow-list; of the map host_ports */
	FS_KEY_DNS = 7,    /* a, b: address of a name server whose answers are believed, as it stands in the packet */
	FS_KEY_TREE = 8,   /* as FS_KEY_INODE, of a folder: for all that is below it; 0, ~0: the strictest of all */
};

struct fs_key {
	__u32 table;
	__u32 what; /* enum fs_key_what */
	__u64 a;
	__u64 b;
};

/* budgets: slot * FS_MAX_BUDGETS + class. */
struct fs_budget {
	__u64 bytes;      /* may leave in all; 0 = no bound */
	__u64 rate;       /* bytes a second; 0 = no bound */
	__u64 spent;
	__u64 due_ns;     /* CLOCK_MONOTONIC, when all that was sent would have been due at the rate */
	__u64 dropped;    /* packets */
	__u64 stop;       /* 1: what is beyond it stops the run */
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
	FS_OP = 9,
	FS_KIND_MAX = 10,
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
	FS_EXEC_FILE_CUT = 1 << 5,  /* of the resolved path only the end is there, or nothing */
};

struct fs_exec {
	struct fs_hdr hdr;
	__u32 flags;
	__u16 path_len;
	__u16 argv_len;  /* of what is in argv */
	__u32 argv_size; /* of all arguments */
	__u16 file_len;
	__u16 tail_len;
	__u64 entry_ino; /* the inode entry, of the file or a folder around it, that matches and has no event of its own; 0 = none */
	__u64 entry_dev;
	char path[FS_PATH_MAX]; /* as given to execve */
	char argv[FS_ARGV_MAX]; /* NUL-separated, from the new image's own memory */
	char tail[FS_ARGV_MAX]; /* where argv is longer: its end */
	char file[FS_FILE_MAX]; /* the path of what is executed, of a script its interpreter, as the kernel resolved it */
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
	FS_PROBE = 3,    /* a datagram socket was connected outside the list: nothing was sent, what it sends is judged */
};

enum fs_net_flag {
	FS_NET_MAPPED = 1 << 0,   /* asked for as an IPv4-mapped IPv6 address */
	FS_NET_LATCHED = 1 << 1,  /* refused because the run is latched */
	FS_NET_FOREIGN = 1 << 2,  /* the caller is outside the run and uses a socket of the run */
	FS_NET_BAD_HDR = 1 << 3,  /* source route, routing header or a header that could not be read */
	FS_NET_DEAD = 1 << 4,     /* refused because no daemon was seen for too long */
	FS_NET_PROBE = 1 << 5,    /* connect of a datagram socket of the run: it sends nothing */
	FS_NET_BOUNDS = 1 << 6,   /* beside FS_NET_LATCHED or FS_NET_DEAD: the policy itself refuses it too */
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
	FS_SYS_UMOUNT2 = 16,
	FS_SYS_PIVOT_ROOT = 17,
	FS_SYS_FSOPEN = 18,
	FS_SYS_OPEN_TREE = 19,
	FS_SYS_MOUNT_SETATTR = 20,
	FS_SYS_DELETE_MODULE = 21,
	FS_SYS_ADD_KEY = 22,
	FS_SYS_REQUEST_KEY = 23,
	FS_SYS_SETTIMEOFDAY = 24,
	FS_SYS_CLOCK_SETTIME = 25,
	FS_SYS_CLOCK_ADJTIME = 26,
	FS_SYS_ADJTIMEX = 27,
	FS_SYS_IO_URING_ENTER = 28,
	FS_SYS_IO_URING_REGISTER = 29,
	FS_SYS_IOPL = 30,
	FS_SYS_IOPERM = 31,
	FS_SYS_PROCESS_VM_READV = 32,
	FS_SYS_PIDFD_GETFD = 33,
	FS_SYS_PERF_EVENT_OPEN = 34,
	FS_SYS_OPEN_BY_HANDLE_AT = 35,
	FS_SYS_CHROOT = 36,
	FS_SYS_SWAPON = 37,
	FS_SYS_ACCT = 38,
	FS_SYS_QUOTACTL = 39,
	FS_SYS_FSPICK = 40,
	FS_SYS_OPEN_TREE_ATTR = 41,
	FS_SYS_MAX = 42,
};

/* What else a rule can speak of, in the same masks. */
enum fs_point {
	FS_POINT_EXEC_MEMFD = 48,
	FS_POINT_EXEC_DELETED = 49,
	FS_POINT_EXEC_SCRIPT = 50,
	FS_POINT_NET = 51,        /* stop: a refusal by the allow-list stops the run */
	FS_POINT_PRIV_SETUID = 52,
	FS_POINT_PRIV_CAPABILITY = 53,
	FS_POINT_PRIV_USERNS = 54,
	FS_POINT_MEM_ANONYMOUS = 55,
	FS_POINT_MEM_MEMFD = 56,
	FS_POINT_MEM_WRITE_EXEC = 57,
	FS_POINT_FORK = 58,
};

struct fs_sys {
	struct fs_hdr hdr;
	__u32 call;   /* enum fs_syscall */
	__u8 compat;  /* 1: made through the 32-bit ABI */
	__u8 verdict; /* enum fs_verdict */
	__u8 via;     /* enum fs_via */
	__u8 pad;
	__u64 args[3];
	__u64 repeats; /* the same refusal suppressed since it was last sent */
};

/* How an operation was seen. */
enum fs_via {
	FS_VIA_LSM = 1,
	FS_VIA_FENTRY = 2,
	FS_VIA_SYS_ENTER = 3, /* the arguments may be changed after they were read */
	FS_VIA_TRACEPOINT = 4,
	FS_VIA_CGROUP = 5,
};

enum fs_op_what {
	FS_OP_EXEC = 1,      /* a program that a rule or list speaks of; path; b, c: as a and b of the FS_KEY_INODE or
			      * FS_KEY_TREE by which it was found, 0 = by its name only */
	FS_OP_MAP = 2,       /* ... mapped executable */
	FS_OP_OPEN = 3,      /* the same; a: 1 = for writing */
	FS_OP_DEVICE = 4,    /* a: enum-like type << 32 | major, b: minor, c: 1 = for writing, 2 = mknod */
	FS_OP_SOCKET = 5,    /* a: family, b: type, c: protocol */
	FS_OP_LISTEN = 6,    /* a: port, protocol << 16, 4 or 6 << 24; b, c: the local address as it stands in struct dst */
	FS_OP_PRIVILEGE = 8, /* a: enum fs_point */
	FS_OP_MEMORY = 9,    /* a: enum fs_point */
	FS_OP_FORK = 10,     /* a: processes that live, b: made within the second */
	FS_OP_PROTECT = 11,  /* a: enum fs_protect */
	FS_OP_BUDGET = 12,   /* a: class, b: bytes spent, c: 4 or 6; the path's last 16 bytes: the address */
	FS_OP_DNS = 13,      /* path: the name; c and the path's end as above; a: enum fs_dns_doubt, then the server's address */
	FS_OP_NETNS = 14,    /* a socket is made in another network namespace than the run's; a: its number */
};

/* Why an answer of a name server was not, or not wholly, learnt from. */
enum fs_dns_doubt {
	FS_DNS_PIECES = 1,  /* over TCP, not alone and whole in one packet */
	FS_DNS_NETNS = 2,   /* in another network namespace than that in which the run was registered */
	FS_DNS_SENDER = 3,  /* sent on this machine, by a socket of a run or of nobody */
	FS_DNS_UNASKED = 4, /* over UDP, and its socket did not ask this, or longer ago than answers are waited for */
	FS_DNS_CUT = 5,     /* longer than what is read, or malformed: the addresses in front were learnt */
	FS_DNS_BUSY = 6,    /* there was no room to read it */
};

/* What of failsafe a run reached for. */
enum fs_protect {
	FS_PROTECT_SIGNAL = 1,
	FS_PROTECT_TRACE = 2,
	FS_PROTECT_BPF = 3,
	FS_PROTECT_BPFFS = 4,
	FS_PROTECT_CGROUP = 5,
	FS_PROTECT_FILES = 6,
	FS_PROTECT_SOCKET = 7, /* a socket that was made outside the run was handed in */
	FS_PROTECT_PROCESS = 8, /* limits, priority or other standing of the daemon */
};

/* Why something was refused that the policy itself lets through. */
enum fs_held {
	FS_HELD_NOT = 0,     /* the policy refuses it */
	FS_HELD_LATCHED = 1, /* the run is latched */
	FS_HELD_DEAD = 2,    /* no daemon was seen for too long */
};

struct fs_op {
	struct fs_hdr hdr;
	__u32 what;    /* enum fs_op_what */
	__u8 verdict;  /* enum fs_verdict */
	__u8 via;      /* enum fs_via */
	__u8 kind;     /* of an exec: 0 file, 1 memfd, 2 deleted, 3 script */
	__u8 held;     /* enum fs_held */
	__u32 repeats; /* the same suppressed since it was last sent */
	__u32 path_len;
	__u64 a;
	__u64 b;
	__u64 c;
	char path[FS_PATH_MAX];
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
	__u64 denied_ops;      /* calls and operations that a rule refused */
	__u64 observed_ops;    /* ... that a rule would have refused, or only reports */
	__u64 budget_drops;    /* packets beyond a budget */
	__u64 dns_queries;     /* packets with data to port 53, over UDP or TCP */
	__u64 dns_bytes;       /* ... their bytes */
	__u64 untracked;       /* processes that `members` had no room for: their leaving would go unseen */
};

/* members: thread group id -> where it was last seen. Only to notice leaving; never used to attribute. */
struct fs_member {
	__u64 cgroup_id;
	__u32 slot;
	__u32 epoch;
	__u32 euid; /* when it was last looked at, or FS_UID_UNKNOWN */
	__u32 pad;
};

/* leavers: thread group id -> a leaving that the ring had no room for. */
struct fs_leaver {
	__u32 slot;
	__u32 epoch;
	__u64 ktime_ns;
	__u64 from_cgroup_id;
	__u64 to_cgroup_id;
	__u32 mover_pid;
	__u32 flags; /* enum fs_move_flag */
};

/* One run. strays: thread group id -> the run that it left by its own hand, or as a child of one that did; its children are
 * strays too. stopped: thread group id -> whose thread a stop rule sent SIGSTOP; the thaw sends it SIGCONT. */
struct fs_occupant {
	__u32 slot;
	__u32 epoch;
};

/* learnt: an address that a name was answered with, in network order, IPv4 in the first four bytes. */
struct fs_learnt_key {
	__u32 table; /* generation of the allow-list */
	__u32 family; /* 4 or 6 */
	__u8 addr[16];
};

/* tallies, by slot: what the daemon keeps for the one that comes next. No program reads or writes it. */
struct fs_tally {
	struct fs_counters earlier; /* counted under earlier daemons' programs */
	__u64 earlier_lost;         /* events */
	struct fs_counters sampled; /* in all, when a daemon last looked */
	__u64 sampled_lost;
	__u64 sampled_ns; /* CLOCK_MONOTONIC; 0 = never */
};

/* early: the daemon's side of binding cgroups at their creation, see early.h. */
struct fs_early {
	__u64 settled;  /* provisional runs that the daemon has registered or released */
	__u32 start;    /* the automaton's first state; 0 = off */
	__u32 pad;
	__u8 class_of[256]; /* class of each byte of a path */
};

/* early_seen: the kernel's side. Only fs_early_made writes it. */
struct fs_early_seen {
	__u64 bound;     /* cgroups that were bound */
	__u64 exhausted; /* ... that matched and found no free slot */
	__u64 failed;    /* ... that the map of runs had no room for */
};

/* early_rows: a state of the automaton over the path of a cgroup; state 0 matches nothing. */
struct fs_early_row {
	__u16 next[FS_EARLY_CLASSES];
	__u32 rule; /* that a path which ends here is of, from 1; 0 = none */
};

enum fs_early_state {
	FS_EARLY_UNUSED = 0, /* not to be taken */
	FS_EARLY_FREE = 1,
	FS_EARLY_TAKEN = 2, /* until the daemon writes it again */
};

/* early_slots: a slot for a run that the kernel may give away. */
struct fs_early_slot {
	__u32 slot;
	__u32 epoch;
	__u32 state; /* enum fs_early_state */
	__u32 rule;
	__u64 root_id;
	__u64 at_ns; /* CLOCK_MONOTONIC */
};

#endif

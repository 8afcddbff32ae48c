//! Decodes operations that match a rule (`fs_op` events).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use failsafe_core::event::CUT;
use failsafe_ebpf::abi::{self, dns_doubt, op_what, point, protect};

use super::events::{Held, Way, way};
use failsafe_matchers::keys::Inode;

/// An operation that a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// What it is.
    pub what: OpWhat,
    /// It was refused; else it was let through, and a rule wants it told.
    pub denied: bool,
    /// How it was seen.
    pub via: Way,
    /// Refused because the run is held, with the reason; `None`: by its policy, or not at all.
    pub held: Option<Held>,
    /// The same held back since the last one.
    pub repeats: u32,
    /// The file or folder of the rules that it was found to be, of the operations on files.
    pub entry: Option<Inode>,
}

/// What kind of file was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// It has a name.
    Named,
    /// A memfd.
    Memfd,
    /// Its name is gone.
    Deleted,
    /// The interpreter of a script.
    Script,
}

/// Operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpWhat {
    /// A program is executed.
    Exec {
        /// The kernel's own path of it; empty where there was no room to read it.
        path: String,
        /// What it is.
        kind: FileKind,
    },
    /// A file is mapped executable.
    Map {
        /// Its path.
        path: String,
    },
    /// A file is opened.
    Open {
        /// Its path: the kernel's own, or (by [`Way::SysEnter`]) as the caller gave it.
        path: String,
        /// For writing.
        write: bool,
    },
    /// A device is opened, or a node of it made.
    Device {
        /// A block device; else a character device.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// For writing, or made.
        write: bool,
    },
    /// A socket is made.
    Socket {
        /// `AF_*`.
        family: u16,
        /// `SOCK_*`.
        kind: u32,
        /// Protocol number.
        protocol: u32,
    },
    /// A socket listens.
    Listen {
        /// Local address; all addresses are `0.0.0.0` or `::`.
        address: IpAddr,
        /// Local port; 0: the kernel chooses one.
        port: u16,
        /// Protocol number as in the IP header.
        protocol: u8,
    },
    /// Privilege is gained.
    Privilege(Gain),
    /// Memory becomes executable.
    Memory(Memory),
    /// A process is made beyond the limits.
    Fork,
    /// Something of failsafe's is reached for.
    Protect(Protected),
    /// A budget is spent.
    Budget {
        /// Which of the policy's, from 1.
        class: u32,
        /// Bytes spent.
        spent: u64,
        /// Where the refused packet was going.
        address: IpAddr,
    },
    /// A name server's answer for a name of the policy was not, or not wholly, learnt from.
    DnsDoubted {
        /// The server.
        server: IpAddr,
        /// Why.
        doubt: DnsDoubt,
    },
    /// A socket was made in another network namespace than the run's.
    NetNs {
        /// Its number, as `/proc/PID/ns/net` has it.
        number: u32,
    },
    /// A name of the allow-list was answered.
    Dns {
        /// The name.
        name: String,
        /// The address.
        address: IpAddr,
    },
}

/// Why an answer of a name server was not, or not wholly, learnt from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsDoubt {
    /// Over TCP, not alone and whole in one packet.
    Pieces,
    /// In another network namespace than that in which the run was registered.
    NetNs,
    /// Sent on this machine, by a socket of a run or of nobody.
    Sender,
    /// Its socket did not ask this, or too long ago.
    Unasked,
    /// Longer than what is read, or malformed.
    Cut,
    /// There was no room to read it.
    Busy,
}

impl DnsDoubt {
    fn of(number: u64) -> Option<Self> {
        Some(match number {
            dns_doubt::PIECES => Self::Pieces,
            dns_doubt::NETNS => Self::NetNs,
            dns_doubt::SENDER => Self::Sender,
            dns_doubt::UNASKED => Self::Unasked,
            dns_doubt::CUT => Self::Cut,
            dns_doubt::BUSY => Self::Busy,
            _ => return None,
        })
    }
}

/// A gain of privilege.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// The effective user becomes root.
    Setuid,
    /// Permitted capabilities grow.
    Capability,
    /// A user namespace.
    Userns,
}

/// Memory that becomes executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Without a file.
    Anonymous,
    /// Of a memfd or deleted file.
    Memfd,
    /// Writable at the same time.
    WriteExec,
}

/// What of failsafe's was reached for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protected {
    /// A signal to the daemon.
    Signal,
    /// A process outside the run was to be traced.
    Trace,
    /// bpf(2).
    Bpf,
    /// The BPF file system.
    Bpffs,
    /// A cgroup's files.
    Cgroup,
    /// failsafe's files.
    Files,
    /// A socket made outside the run was handed in.
    Socket,
    /// The daemon's limits, priority or standing with the OOM killer.
    Process,
}

/// The safe form of a record; `None` for one that this daemon does not know.
pub(super) fn op(e: &abi::Op) -> Option<Op> {
    let path = || {
        let len = usize::try_from(e.path_len).unwrap_or(0).min(e.path.len());
        let path = String::from_utf8_lossy(&e.path[..len]);
        // As long as its place, with a NUL: it may have been longer.
        match len + 1 >= e.path.len() {
            true => format!("{}{CUT}", path.trim_end_matches(char::REPLACEMENT_CHARACTER)),
            false => path.into_owned(),
        }
    };
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let what = match e.what {
        op_what::EXEC => OpWhat::Exec {
            path: path(),
            kind: match e.kind {
                0 => FileKind::Named,
                1 => FileKind::Memfd,
                2 => FileKind::Deleted,
                3 => FileKind::Script,
                _ => return None,
            },
        },
        op_what::MAP => OpWhat::Map { path: path() },
        op_what::OPEN => OpWhat::Open { path: path(), write: e.a != 0 },
        op_what::DEVICE => OpWhat::Device {
            block: e.a >> 32 == 1,
            major: small(e.a & 0xffff_ffff),
            minor: small(e.b),
            write: e.c != 0,
        },
        op_what::SOCKET => OpWhat::Socket {
            family: u16::try_from(e.a).unwrap_or(u16::MAX),
            kind: small(e.b & 0xffff_ffff),
            protocol: small(e.c & 0xffff_ffff),
        },
        op_what::LISTEN => {
            let [low, high, protocol, family, ..] = e.a.to_le_bytes();
            let (mut bytes, port) = ([0; 16], u16::from_le_bytes([low, high]));
            bytes[..8].copy_from_slice(&e.b.to_ne_bytes());
            bytes[8..].copy_from_slice(&e.c.to_ne_bytes());
            OpWhat::Listen { address: ip(bytes, family == 6), port, protocol }
        }
        op_what::PRIVILEGE => OpWhat::Privilege(match small(e.a) {
            point::PRIV_SETUID => Gain::Setuid,
            point::PRIV_CAPABILITY => Gain::Capability,
            point::PRIV_USERNS => Gain::Userns,
            _ => return None,
        }),
        op_what::MEMORY => OpWhat::Memory(match small(e.a) {
            point::MEM_ANONYMOUS => Memory::Anonymous,
            point::MEM_MEMFD => Memory::Memfd,
            point::MEM_WRITE_EXEC => Memory::WriteExec,
            _ => return None,
        }),
        op_what::FORK => OpWhat::Fork,
        op_what::PROTECT => OpWhat::Protect(match e.a {
            protect::SIGNAL => Protected::Signal,
            protect::TRACE => Protected::Trace,
            protect::BPF => Protected::Bpf,
            protect::BPFFS => Protected::Bpffs,
            protect::CGROUP => Protected::Cgroup,
            protect::FILES => Protected::Files,
            protect::SOCKET => Protected::Socket,
            protect::PROCESS => Protected::Process,
            _ => return None,
        }),
        op_what::BUDGET => OpWhat::Budget { class: small(e.a), spent: e.b, address: address(e) },
        op_what::DNS if e.a != 0 => OpWhat::DnsDoubted { server: address(e), doubt: DnsDoubt::of(e.a)? },
        op_what::NETNS => OpWhat::NetNs { number: small(e.a) },
        op_what::DNS => OpWhat::Dns { name: path(), address: address(e) },
        _ => return None,
    };
    let denied = e.verdict == abi::verdict::DENIED;
    let of_file = matches!(e.what, op_what::EXEC | op_what::MAP | op_what::OPEN) && (e.b, e.c) != (0, 0);
    let entry = of_file.then_some(Inode { number: e.b, device: e.c });
    let held = match e.held {
        abi::held::NOT => None,
        abi::held::LATCHED => Some(Held::Latched),
        abi::held::DEAD => Some(Held::DeadDaemon),
        _ => return None,
    };
    Some(Op { what, denied, via: way(e.via)?, held, repeats: e.repeats, entry })
}

/// The last 16 bytes of the path field hold an address, network order; `c` is its family, 4 or 6.
fn address(e: &abi::Op) -> IpAddr {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&e.path[abi::PATH_MAX - 16..]);
    ip(bytes, e.c == 6)
}

/// Network order; IPv4 in the first four.
fn ip(bytes: [u8; 16], v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::from(bytes).into()
    } else {
        let [a, b, c, d, ..] = bytes;
        Ipv4Addr::new(a, b, c, d).into()
    }
}

//! Events: what happened in a run or on a GPU. The fields listed by [`EventKind::fields`] are what a rule may match.

use crate::subject::Process;
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// A network call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NetOp {
    /// `connect(2)`.
    Connect,
    /// `sendto(2)`, `sendmsg(2)` with an address, or a packet seen leaving.
    Send,
    /// `bind(2)`.
    Bind,
    /// `socket(2)` of a family or type that an allow-list cannot bound.
    Socket,
}

/// What the kernel did with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// Let through.
    Allowed,
    /// Refused in the kernel: EPERM to the caller, or the packet dropped.
    Denied,
    /// Outside the allow-list, let through because the policy only observes.
    WouldDeny,
}

/// How a watched system call was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Via {
    /// fentry on the call's own function.
    Fentry,
    /// The `sys_enter` tracepoint: the fallback, arguments unreliable.
    SysEnter,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Event {
    /// A program was executed.
    Exec {
        /// Path as given to `execve`.
        path: String,
        /// The head of argv, space-separated.
        argv: String,
    },
    /// A process was made.
    Fork {
        /// The child's pid.
        child: u32,
    },
    /// A process ended.
    Exit {
        /// Wait status as of `wait(2)`.
        status: i32,
    },
    /// A network call or packet.
    Net {
        /// Which.
        op: NetOp,
        /// IP protocol number (6 TCP, 17 UDP).
        protocol: u8,
        /// Destination (source for bind); a v4-mapped address is given as IPv4.
        address: IpAddr,
        /// Port.
        port: u16,
        /// What the kernel did.
        verdict: Verdict,
    },
    /// A watched system call.
    Syscall {
        /// Its name, e.g. `ptrace`.
        name: String,
        /// First three arguments.
        args: [u64; 3],
        /// How it was seen.
        via: Via,
    },
    /// The OOM killer chose a process of the run.
    Oom {
        /// The victim's pid.
        victim: u32,
    },
    /// A process left the run's cgroup.
    Leave {
        /// Who left.
        pid: u32,
        /// Who moved it.
        mover: u32,
        /// Whether the mover was itself in the run.
        mover_in_run: bool,
        /// The cgroup id it went to.
        to: u64,
    },
    /// A contained run was found running: somebody else thawed it.
    ForeignThaw {
        /// Levels found thawed.
        levels: u32,
    },
    /// An XID error of a GPU.
    Xid {
        /// NVIDIA's number.
        code: u64,
    },
}

/// The kind of an event, by the name that policies write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// `exec`.
    Exec,
    /// `fork`.
    Fork,
    /// `exit`.
    Exit,
    /// `connect`.
    Connect,
    /// `send`.
    Send,
    /// `bind`.
    Bind,
    /// `socket`.
    Socket,
    /// `syscall`.
    Syscall,
    /// `oom`.
    Oom,
    /// `leave`.
    Leave,
    /// `foreign-thaw`.
    ForeignThaw,
    /// `xid`.
    Xid,
}

/// A field of an event, by the name that policies write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    /// `path`: of an exec.
    Path,
    /// `argv`: of an exec.
    Argv,
    /// `comm`: of the process.
    Comm,
    /// `uid`: of the process.
    Uid,
    /// `address`: of a network call.
    Address,
    /// `port`.
    Port,
    /// `protocol`: `tcp`, `udp` or a number.
    Protocol,
    /// `verdict`: `allowed`, `denied` or `would-deny`.
    Verdict,
    /// `name`: of a system call.
    Name,
    /// `code`: of an XID.
    Code,
    /// `status`: of an exit.
    Status,
}

impl EventKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [EventKind; 12] = [
        EventKind::Exec,
        EventKind::Fork,
        EventKind::Exit,
        EventKind::Connect,
        EventKind::Send,
        EventKind::Bind,
        EventKind::Socket,
        EventKind::Syscall,
        EventKind::Oom,
        EventKind::Leave,
        EventKind::ForeignThaw,
        EventKind::Xid,
    ];

    /// The name that policies write.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Exec => "exec",
            EventKind::Fork => "fork",
            EventKind::Exit => "exit",
            EventKind::Connect => "connect",
            EventKind::Send => "send",
            EventKind::Bind => "bind",
            EventKind::Socket => "socket",
            EventKind::Syscall => "syscall",
            EventKind::Oom => "oom",
            EventKind::Leave => "leave",
            EventKind::ForeignThaw => "foreign-thaw",
            EventKind::Xid => "xid",
        }
    }

    /// The fields that a rule on this kind may match.
    pub fn fields(self) -> &'static [Field] {
        use Field::{Address, Argv, Code, Comm, Name, Path, Port, Protocol, Status, Uid, Verdict};
        match self {
            EventKind::Exec => &[Path, Argv, Comm, Uid],
            EventKind::Connect | EventKind::Send | EventKind::Bind => &[Address, Port, Protocol, Verdict, Comm, Uid],
            EventKind::Socket => &[Protocol, Verdict, Comm, Uid],
            EventKind::Syscall => &[Name, Comm, Uid],
            EventKind::Exit => &[Status, Comm, Uid],
            EventKind::Fork | EventKind::Oom | EventKind::Leave => &[Comm, Uid],
            EventKind::ForeignThaw => &[],
            EventKind::Xid => &[Code],
        }
    }
}

impl Field {
    /// The name that policies write.
    pub fn name(self) -> &'static str {
        match self {
            Field::Path => "path",
            Field::Argv => "argv",
            Field::Comm => "comm",
            Field::Uid => "uid",
            Field::Address => "address",
            Field::Port => "port",
            Field::Protocol => "protocol",
            Field::Verdict => "verdict",
            Field::Name => "name",
            Field::Code => "code",
            Field::Status => "status",
        }
    }
}

impl Verdict {
    /// The name that policies write.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Allowed => "allowed",
            Verdict::Denied => "denied",
            Verdict::WouldDeny => "would-deny",
        }
    }
}

/// A field's value, borrowed from an event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FieldValue<'a> {
    /// Text.
    Text(&'a str),
    /// A number.
    Number(i64),
    /// An address.
    Address(IpAddr),
}

impl Event {
    /// The kind that a rule names.
    pub fn kind(&self) -> EventKind {
        match self {
            Event::Exec { .. } => EventKind::Exec,
            Event::Fork { .. } => EventKind::Fork,
            Event::Exit { .. } => EventKind::Exit,
            Event::Net { op: NetOp::Connect, .. } => EventKind::Connect,
            Event::Net { op: NetOp::Send, .. } => EventKind::Send,
            Event::Net { op: NetOp::Bind, .. } => EventKind::Bind,
            Event::Net { op: NetOp::Socket, .. } => EventKind::Socket,
            Event::Syscall { .. } => EventKind::Syscall,
            Event::Oom { .. } => EventKind::Oom,
            Event::Leave { .. } => EventKind::Leave,
            Event::ForeignThaw { .. } => EventKind::ForeignThaw,
            Event::Xid { .. } => EventKind::Xid,
        }
    }

    /// The value of `field`, where this event has it; `process` is the subject's.
    pub fn field<'a>(&'a self, field: Field, process: Option<&'a Process>) -> Option<FieldValue<'a>> {
        use FieldValue::{Address, Number, Text};
        match (field, self) {
            (Field::Comm, _) => process.map(|p| Text(&p.comm)),
            (Field::Uid, _) => process.map(|p| Number(i64::from(p.uid))),
            (Field::Path, Event::Exec { path, .. }) => Some(Text(path)),
            (Field::Argv, Event::Exec { argv, .. }) => Some(Text(argv)),
            (Field::Address, Event::Net { address, .. }) => Some(Address(*address)),
            (Field::Port, Event::Net { port, .. }) => Some(Number(i64::from(*port))),
            (Field::Protocol, Event::Net { protocol, .. }) => Some(Number(i64::from(*protocol))),
            (Field::Verdict, Event::Net { verdict, .. }) => Some(Text(verdict.name())),
            (Field::Name, Event::Syscall { name, .. }) => Some(Text(name)),
            (Field::Code, Event::Xid { code }) => i64::try_from(*code).ok().map(Number),
            (Field::Status, Event::Exit { status }) => Some(Number(i64::from(*status))),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Exec { path, argv } => write!(f, "exec {path} [{argv}]"),
            Event::Fork { child } => write!(f, "fork of pid {child}"),
            Event::Exit { status } => write!(f, "exit with status {status}"),
            Event::Net { op, protocol, address, port, verdict } => {
                let op = match op {
                    NetOp::Connect => "connect to",
                    NetOp::Send => "send to",
                    NetOp::Bind => "bind to",
                    NetOp::Socket => "socket for",
                };
                let protocol = match protocol {
                    6 => "tcp".to_owned(),
                    17 => "udp".to_owned(),
                    n => format!("protocol {n}"),
                };
                write!(f, "{op} {} ({protocol}): {}", std::net::SocketAddr::new(*address, *port), verdict.name())
            }
            Event::Syscall { name, args, .. } => write!(f, "{name}({:#x}, {:#x}, {:#x})", args[0], args[1], args[2]),
            Event::Oom { victim } => write!(f, "OOM kill of pid {victim}"),
            Event::Leave { pid, mover, to, .. } => {
                write!(f, "pid {pid} was moved out of the run to cgroup {to} by pid {mover}")
            }
            Event::ForeignThaw { levels } => write!(f, "{levels} cgroup level(s) were thawed by someone else"),
            Event::Xid { code } => write!(f, "XID {code}"),
        }
    }
}

//! Events: what happened in a run or on a GPU. The fields listed by [`EventKind::fields`] are what a rule may match.

mod facts;
mod kind;

pub use facts::{
    Access, Assurance, DriftSince, ExecKind, FactorClass, Gain, GpuEvent, MemoryKind, NetOp, Slice, Verdict, Via,
    family, family_name, family_names,
};
pub use kind::{EventKind, Field};

use crate::{
    subject::{Process, RunId},
    unit::Unit,
};
use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr};

/// Stands in a path or in arguments for a part that was too long to be read. No path and no argument has it.
pub const CUT: char = '\0';

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Event {
    /// A program was executed.
    Exec {
        /// Path as given to `execve`, or resolved by the kernel where LSM is there. May hold [`CUT`].
        path: String,
        /// Other names of the file: its resolved path, and what rules call it by its inode (a folder around it: with its `/`).
        #[serde(default)]
        known_as: Vec<String>,
        /// argv, space-separated; may hold [`CUT`].
        argv: String,
        /// What kind of file.
        kind: ExecKind,
        /// What the kernel did.
        verdict: Verdict,
        /// How surely it was seen.
        assurance: Assurance,
    },
    /// A process was made, or was not to be.
    Fork {
        /// The child's pid; 0 when there is none.
        child: u32,
        /// What the kernel did.
        verdict: Verdict,
    },
    /// A process ended.
    Exit {
        /// Wait status as of `wait(2)`.
        status: i32,
    },
    /// A file or device was opened.
    Open {
        /// Its path.
        path: String,
        /// As of [`Event::Exec`].
        #[serde(default)]
        known_as: Vec<String>,
        /// What for.
        access: Access,
        /// What the kernel did.
        verdict: Verdict,
        /// How surely it was seen.
        assurance: Assurance,
    },
    /// A network call or packet.
    Net {
        /// Which.
        op: NetOp,
        /// IP protocol number (6 TCP, 17 UDP).
        protocol: u8,
        /// Destination (source for bind and listen); a v4-mapped address is given as IPv4.
        address: IpAddr,
        /// Port.
        port: u16,
        /// Address family of the socket (`AF_*`); 0: unknown.
        family: u16,
        /// What the kernel did.
        verdict: Verdict,
        /// How surely it was seen.
        assurance: Assurance,
    },
    /// A watched system call.
    Syscall {
        /// Its name, e.g. `ptrace`.
        name: String,
        /// First three arguments.
        args: [u64; 3],
        /// How it was seen.
        via: Via,
        /// What the kernel did.
        verdict: Verdict,
        /// How surely it was seen.
        assurance: Assurance,
    },
    /// A process gained privilege.
    Privilege {
        /// How.
        gain: Gain,
        /// What the kernel did.
        verdict: Verdict,
        /// How surely it was seen.
        assurance: Assurance,
    },
    /// Memory without a file of its own became executable.
    ExecMemory {
        /// Which.
        kind: MemoryKind,
        /// What the kernel did.
        verdict: Verdict,
        /// How surely it was seen.
        assurance: Assurance,
    },
    /// The run reached for failsafe itself: its pins, maps, sockets, state or processes.
    Protect {
        /// What it reached for.
        what: String,
        /// What the kernel did.
        verdict: Verdict,
        /// How surely it was seen.
        assurance: Assurance,
    },
    /// A byte budget of the egress list is used up, or its rate passed.
    Budget {
        /// The budget's name.
        budget: String,
        /// Destination of the packet that was too much.
        address: IpAddr,
        /// Bytes sent under the budget so far.
        bytes: u64,
        /// What the kernel did.
        verdict: Verdict,
    },
    /// A DNS answer on its way to the run.
    Dns {
        /// The name that was asked for, in lower case.
        name: String,
        /// An address of it.
        address: IpAddr,
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
    /// A factor of the run's fingerprint has another value. Both values are known.
    Drift {
        /// The factor, such as `run/library/libopenblas.so.0`.
        path: String,
        /// The value before; `None`: it was known to be absent.
        old: Option<String>,
        /// The value now; `None`: it is known to be absent.
        new: Option<String>,
        /// What the difference can change.
        class: FactorClass,
        /// What the value is compared with.
        since: DriftSince,
    },
    /// The kernel latched the run by a stop rule, and no event told of it: the event was lost.
    Latched,
    /// A process on a GPU of the run that belongs to another run, or to none.
    ForeignGpuProcess {
        /// The GPU's UUID.
        gpu: String,
        /// The run it belongs to, where it belongs to one.
        of: Option<RunId>,
    },
    /// An XID error of a GPU.
    Xid {
        /// NVIDIA's number.
        code: u64,
        /// The GPU instance that the driver says it is of; `None`: it is of the whole GPU.
        #[serde(default)]
        slice: Option<Slice>,
    },
    /// Something else happened on a GPU, as NVML says.
    Gpu {
        /// What.
        what: GpuEvent,
    },
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
            Event::Open { .. } => EventKind::Open,
            Event::Net { op: NetOp::Connect, .. } => EventKind::Connect,
            Event::Net { op: NetOp::Send, .. } => EventKind::Send,
            Event::Net { op: NetOp::Bind, .. } => EventKind::Bind,
            Event::Net { op: NetOp::Listen, .. } => EventKind::Listen,
            Event::Net { op: NetOp::Socket, .. } => EventKind::Socket,
            Event::Syscall { .. } => EventKind::Syscall,
            Event::Privilege { .. } => EventKind::Privilege,
            Event::ExecMemory { .. } => EventKind::ExecMemory,
            Event::Protect { .. } => EventKind::Protect,
            Event::Budget { .. } => EventKind::Budget,
            Event::Dns { .. } => EventKind::Dns,
            Event::Oom { .. } => EventKind::Oom,
            Event::Leave { .. } => EventKind::Leave,
            Event::ForeignThaw { .. } => EventKind::ForeignThaw,
            Event::Drift { .. } => EventKind::Drift,
            Event::Latched => EventKind::Latched,
            Event::ForeignGpuProcess { .. } => EventKind::ForeignGpuProcess,
            Event::Xid { .. } => EventKind::Xid,
            Event::Gpu { .. } => EventKind::GpuEvent,
        }
    }

    /// What the kernel did, where that is a question.
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Event::Exec { verdict, .. }
            | Event::Fork { verdict, .. }
            | Event::Open { verdict, .. }
            | Event::Net { verdict, .. }
            | Event::Syscall { verdict, .. }
            | Event::Privilege { verdict, .. }
            | Event::ExecMemory { verdict, .. }
            | Event::Protect { verdict, .. }
            | Event::Budget { verdict, .. } => Some(*verdict),
            Event::Exit { .. }
            | Event::Dns { .. }
            | Event::Oom { .. }
            | Event::Leave { .. }
            | Event::ForeignThaw { .. }
            | Event::Drift { .. }
            | Event::Latched
            | Event::ForeignGpuProcess { .. }
            | Event::Xid { .. }
            | Event::Gpu { .. } => None,
        }
    }

    /// How surely it was seen, where that depends on the kernel.
    pub fn assurance(&self) -> Option<Assurance> {
        match self {
            Event::Exec { assurance, .. }
            | Event::Open { assurance, .. }
            | Event::Net { assurance, .. }
            | Event::Syscall { assurance, .. }
            | Event::Privilege { assurance, .. }
            | Event::ExecMemory { assurance, .. }
            | Event::Protect { assurance, .. } => Some(*assurance),
            Event::Fork { .. }
            | Event::Exit { .. }
            | Event::Budget { .. }
            | Event::Dns { .. }
            | Event::Oom { .. }
            | Event::Leave { .. }
            | Event::ForeignThaw { .. }
            | Event::Drift { .. }
            | Event::Latched
            | Event::ForeignGpuProcess { .. }
            | Event::Xid { .. }
            | Event::Gpu { .. } => None,
        }
    }

    /// Whether a part of what a rule may match was too long to be read.
    pub fn is_cut(&self) -> bool {
        match self {
            Event::Exec { path, known_as, argv, .. } => {
                [path, argv].into_iter().chain(known_as).any(|text| text.contains(CUT))
            }
            Event::Open { path, known_as, .. } => std::iter::once(path).chain(known_as).any(|text| text.contains(CUT)),
            _ => false,
        }
    }

    /// Other names of the file that it is about, which rules match as they match its path.
    pub fn known_as(&self) -> &[String] {
        match self {
            Event::Exec { known_as, .. } | Event::Open { known_as, .. } => known_as,
            _ => &[],
        }
    }

    /// The value of `field`, where this event has it; `process` is the subject's.
    pub fn field<'a>(&'a self, field: Field, process: Option<&'a Process>) -> Option<FieldValue<'a>> {
        use FieldValue::{Address, Number, Text};
        match (field, self) {
            (Field::Comm, _) => process.map(|p| Text(&p.comm)),
            (Field::Uid, _) => process.map(|p| Number(i64::from(p.uid))),
            (Field::Verdict, event) => event.verdict().map(|v| Text(v.name())),
            (Field::Assurance, event) => event.assurance().map(|a| Text(a.name())),
            (Field::Path, Event::Exec { path, .. } | Event::Open { path, .. } | Event::Drift { path, .. }) => {
                Some(Text(path))
            }
            (Field::Argv, Event::Exec { argv, .. }) => Some(Text(argv)),
            (Field::Kind, Event::Exec { kind, .. }) => Some(Text(kind.name())),
            (Field::Kind, Event::ExecMemory { kind, .. }) => Some(Text(kind.name())),
            (Field::Access, Event::Open { access, .. }) => Some(Text(access.name())),
            (Field::Gain, Event::Privilege { gain, .. }) => Some(Text(gain.name())),
            (Field::What, Event::Protect { what, .. }) => Some(Text(what)),
            (Field::What, Event::Gpu { what }) => Some(Text(what.name())),
            (Field::Class, Event::Drift { class, .. }) => Some(Text(class.name())),
            (Field::Since, Event::Drift { since, .. }) => Some(Text(since.name())),
            (Field::Budget, Event::Budget { budget, .. }) => Some(Text(budget)),
            (
                Field::Address,
                Event::Net { address, .. } | Event::Budget { address, .. } | Event::Dns { address, .. },
            ) => Some(Address(*address)),
            (Field::Port, Event::Net { port, .. }) => Some(Number(i64::from(*port))),
            (Field::Protocol, Event::Net { protocol, .. }) => Some(Number(i64::from(*protocol))),
            (Field::Family, Event::Net { family, .. }) => Some(Number(i64::from(*family))),
            (Field::Name, Event::Syscall { name, .. } | Event::Dns { name, .. }) => Some(Text(name)),
            (Field::Code, Event::Xid { code, .. }) => i64::try_from(*code).ok().map(Number),
            (Field::Status, Event::Exit { status }) => Some(Number(i64::from(*status))),
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Exec { path, known_as, argv, kind: ExecKind::File, .. } => {
                write!(f, "exec {}{} [{}]", shown(path), names(known_as), shown(argv))
            }
            Event::Exec { path, known_as, argv, kind, .. } => {
                write!(f, "exec {}{} ({}) [{}]", shown(path), names(known_as), kind.name(), shown(argv))
            }
            Event::Fork { child: 0, .. } => f.write_str("fork"),
            Event::Fork { child, .. } => write!(f, "fork of pid {child}"),
            Event::Exit { status } => write!(f, "exit with status {status}"),
            Event::Open { path, known_as, access, .. } => {
                write!(f, "open {}{} to {}", shown(path), names(known_as), access.name())
            }
            // What a protocol's number means is the family's own affair outside IP.
            Event::Net { op: NetOp::Socket, protocol, family, .. } if !matches!(family, 0 | 2 | 10) => {
                write!(f, "socket of {} (protocol {protocol})", family_name(*family))
            }
            Event::Net { op, protocol, address, port, .. } => {
                let op = match op {
                    NetOp::Connect => "connect to",
                    NetOp::Send => "send to",
                    NetOp::Bind => "bind to",
                    NetOp::Listen => "listen on",
                    NetOp::Socket => "socket for",
                };
                write!(f, "{op} {} ({})", std::net::SocketAddr::new(*address, *port), protocol_name(*protocol))
            }
            Event::Syscall { name, args, .. } => write!(f, "{name}({:#x}, {:#x}, {:#x})", args[0], args[1], args[2]),
            Event::Privilege { gain: Gain::Userns, .. } => f.write_str("privilege by a user namespace"),
            Event::Privilege { gain, .. } => write!(f, "privilege by {}", gain.name()),
            Event::ExecMemory { kind, .. } => write!(f, "executable {} memory", kind.name()),
            Event::Protect { what, .. } => write!(f, "reached for failsafe's {what}"),
            Event::Budget { budget, address, bytes, .. } => {
                let bytes = Unit::Bytes.show(i64::try_from(*bytes).unwrap_or(i64::MAX));
                write!(f, "budget {budget} used up: {bytes} sent, last to {address}")
            }
            Event::Dns { name, address } => write!(f, "DNS says {name} is {address}"),
            Event::Oom { victim } => write!(f, "OOM kill of pid {victim}"),
            Event::Leave { pid, mover, to, .. } => {
                write!(f, "pid {pid} was moved out of the run to cgroup {to} by pid {mover}")
            }
            Event::Drift { path, old, new, class, since } => {
                let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
                let before = match since {
                    DriftSince::Earlier => "before",
                    DriftSince::Predecessor => "in the predecessor",
                };
                write!(f, "{path} is {}, {before} {} [{}]", value(new), value(old), class.name())
            }
            Event::Latched => f.write_str("the kernel latched the run by a stop rule, and the event of it was lost"),
            Event::ForeignThaw { levels } => write!(f, "{levels} cgroup level(s) were thawed by someone else"),
            Event::ForeignGpuProcess { gpu, of: Some(run) } => write!(f, "process of run {run} on {gpu}"),
            Event::ForeignGpuProcess { gpu, of: None } => write!(f, "process of no run on {gpu}"),
            Event::Xid { code, slice: None } => write!(f, "XID {code}"),
            Event::Xid { code, slice: Some(slice) } => write!(f, "XID {code} ({slice})"),
            Event::Gpu { what } => write!(f, "GPU event {}", what.name()),
        }?;
        match self.verdict() {
            // `allowed` is printed only for network events; for other kinds only a denial matters.
            Some(Verdict::Allowed) if !matches!(self, Event::Net { .. }) => {}
            Some(verdict) => write!(f, ": {}", verdict.name())?,
            None => {}
        }
        match self.assurance() {
            Some(Assurance::ObservedUnreliable) => f.write_str(" (arguments unreliable)"),
            _ => Ok(()),
        }
    }
}

fn names(known_as: &[String]) -> String {
    if known_as.is_empty() { String::new() } else { format!(" (known as {})", shown(&known_as.join(", "))) }
}

/// The text for people.
fn shown(text: &str) -> String {
    text.replace(CUT, "[...]")
}

fn protocol_name(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        n => format!("protocol {n}"),
    }
}

#[cfg(test)]
mod tests;

//! From what the kernel's ring says to the core's signals. eBPF types end here.

use crate::guard::kernel::Kernel;
use crate::{platform::clock, sensors::ebpf};
use failsafe_core::{
    Input, Kind, MonoTime, Signal, Subject, Value,
    event::{Access, Assurance, CUT, Event, ExecKind, Gain, MemoryKind, NetOp, Verdict, Via},
    input::Gap,
    signal::Source,
    subject::{Process, RunId},
};
use std::net::{IpAddr, Ipv4Addr};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The input that an event of the ring is; `None` for what belongs to no live run, or says nothing a rule could use.
pub fn event(kernel: &Kernel, event: ebpf::Event) -> Option<Input> {
    let run = kernel.run_of(event.slot, event.epoch)?;
    event_of(kernel, run, event)
}

/// The same for an event whose run is known.
pub fn event_of(kernel: &Kernel, run: RunId, mut event: ebpf::Event) -> Option<Input> {
    // Before the core sees it, so that the log, the recording and a replay have the same text.
    if let ebpf::What::Exec { argv, .. } = &mut event.what {
        kernel.redact(run, argv);
    }
    let repeats = event.what.repeats();
    if let Some(what) = unseen(&event) {
        let (at, source, lost) = (MonoTime(event.at_ns), Source::Ebpf, repeats + 1);
        return Some(Input::Gap(Gap { seq: 0, at, source, run: Some(run), gpu: None, what, lost, blind: false }));
    }
    let entry = match &event.what {
        ebpf::What::Op(op) => op.entry,
        ebpf::What::Exec { entry, .. } => *entry,
        _ => None,
    };
    let device = device(&event.what);
    let mut happened = what(event.what, event.subject.pid)?;
    match &mut happened {
        Event::Budget { budget, .. } => *budget = kernel.budget(run, budget),
        // What the policy calls it: the file system is not asked, for this stands before a freeze.
        Event::Open { path, known_as, .. } if device.is_some() => {
            let mut names =
                device.map(|(block, major, minor)| kernel.device(run, block, major, minor)).unwrap_or_default();
            if let Some(own) = names.own.pop() {
                *path = own;
            }
            known_as.append(&mut names.own);
            known_as.append(&mut names.kind);
        }
        Event::Exec { path, known_as, .. } | Event::Open { path, known_as, .. } => {
            let names = entry.map(|inode| kernel.files(run, inode)).unwrap_or_default();
            // Below a folder that a rule names the path itself says so.
            known_as.extend(
                names.into_iter().filter(|name| name != path && !(name.ends_with('/') && path.starts_with(name))),
            );
        }
        _ => {}
    }
    let subject = match event.subject.pid {
        0 => Subject::Run(run),
        pid => Subject::Process {
            run,
            process: Process {
                pid,
                ppid: event.subject.ppid,
                uid: event.subject.uid,
                start_ns: event.subject.start_boottime_ns,
                comm: event.subject.comm,
            },
        },
    };
    let at = MonoTime(event.at_ns);
    Some(Input::Signal(Signal {
        seq: 0,
        at,
        source: Source::Ebpf,
        subject,
        kind: Kind::Event,
        value: Value::Event(happened),
        repeats,
    }))
}

/// What an event says is not seen, or not believed, in words; `None` for all others.
fn unseen(event: &ebpf::Event) -> Option<String> {
    let ebpf::What::Op(op) = &event.what else { return None };
    match &op.what {
        ebpf::OpWhat::DnsDoubted { server, doubt } => Some(doubted(*server, *doubt)),
        ebpf::OpWhat::NetNs { number } => Some(format!(
            "process {} ({}) makes sockets in network namespace net:[{number}], which is not the one that the run was registered in: \
             no name that is answered there is allowed by it",
            event.subject.pid, event.subject.comm
        )),
        _ => None,
    }
}

/// Why a name server's answer allows nothing.
fn doubted(server: IpAddr, doubt: ebpf::DnsDoubt) -> String {
    let why = match doubt {
        ebpf::DnsDoubt::Pieces => "came over TCP and was not whole in one packet",
        ebpf::DnsDoubt::NetNs => "came in a network namespace other than the one that the run was registered in",
        ebpf::DnsDoubt::Sender => {
            "was sent on this machine, and the socket at the server's address belongs to a run or does not exist"
        }
        ebpf::DnsDoubt::Unasked => "answers no question that its socket asked that server within the last 30 s",
        ebpf::DnsDoubt::Cut => {
            "is longer than 4,095 bytes or malformed: the addresses in its first part are allowed, the others are not"
        }
        ebpf::DnsDoubt::Busy => "came while 64 other answers were being read",
    };
    format!("an answer of the name server {server} was not believed: it {why}; a connect to what it names is refused")
}

fn what(what: ebpf::What, pid: u32) -> Option<Event> {
    Some(match what {
        ebpf::What::Exec { path, argv, file, unlinked, script, entry } => {
            // The hook says that the file has no name, not whether it ever had one: what begins as memory does is a memfd.
            let kind = match (unlinked, script) {
                (true, _) if [&path, &file].iter().any(|p| p.starts_with("/memfd:") || p.starts_with("memfd:")) => {
                    ExecKind::Memfd
                }
                (true, _) => ExecKind::Deleted,
                (false, true) => ExecKind::Script,
                (false, false) => ExecKind::File,
            };
            // A file without a name must not match rules on its former path: the path is marked with ` (unlinked)`.
            let unlinked = |path: String| if unlinked { format!("{path} (unlinked)") } else { path };
            let (path, mut known_as) = named(unlinked(path), unlinked(file));
            // The kernel's own path stands first, before the names that rules give the file.
            if entry.is_some() && known_as.is_empty() {
                known_as.push(path.clone());
            }
            let (verdict, assurance) = (Verdict::Allowed, Assurance::Observed);
            Event::Exec { path, known_as, argv: argv.join(" "), kind, verdict, assurance }
        }
        ebpf::What::Fork { child_pid, .. } => Event::Fork { child: child_pid, verdict: Verdict::Allowed },
        ebpf::What::Exit { status } => Event::Exit { status: i32::try_from(status).unwrap_or(i32::MAX) },
        ebpf::What::Net(net) => network(&net),
        ebpf::What::Syscall { call, args, denied, via, .. } => {
            let (verdict, assurance) = (refused(denied), assurance(denied, via));
            let via = match via {
                ebpf::Way::SysEnter => Via::SysEnter,
                ebpf::Way::Lsm => Via::Lsm,
                _ => Via::Fentry,
            };
            Event::Syscall { name: call.name().to_owned(), args, via, verdict, assurance }
        }
        ebpf::What::Op(op) => operation(op)?,
        ebpf::What::Oom => Event::Oom { victim: pid },
        ebpf::What::Leave(moved) => {
            // One that moved itself is outside already when the kernel asks where its mover is.
            let mover_in_run = moved.by_run || moved.mover_pid == pid;
            Event::Leave { pid, mover: moved.mover_pid, mover_in_run, to: moved.to_cgroup_id }
        }
        ebpf::What::Join(_) => return None,
    })
}

/// The path as it was given, and as the kernel resolved it where that is another. A given path that was cut says nothing more than a
/// resolved one that is whole.
fn named(given: String, resolved: String) -> (String, Vec<String>) {
    let whole = |path: &str| !path.is_empty() && !path.contains(CUT);
    if resolved.is_empty() || resolved == given {
        (given, Vec::new())
    } else if whole(&resolved) && !whole(&given) {
        (resolved, Vec::new())
    } else {
        (given, vec![resolved])
    }
}

/// By whom something was refused.
fn denial(held: Option<ebpf::Held>) -> Verdict {
    match held {
        None => Verdict::Denied,
        Some(ebpf::Held::Latched) => Verdict::Latched,
        Some(ebpf::Held::DeadDaemon) => Verdict::DeadDaemon,
    }
}

/// A program that only watches a call cannot deny it: the verdict is `allowed`, whatever the rules say.
fn refused(denied: bool) -> Verdict {
    if denied { Verdict::Denied } else { Verdict::Allowed }
}

fn assurance(denied: bool, via: ebpf::Way) -> Assurance {
    match via {
        _ if denied => Assurance::BlockedInKernel,
        ebpf::Way::SysEnter => Assurance::ObservedUnreliable,
        _ => Assurance::Observed,
    }
}

fn operation(op: ebpf::Op) -> Option<Event> {
    let assurance = assurance(op.denied, op.via);
    let verdict = if op.denied { denial(op.held) } else { Verdict::WouldDeny };
    let none = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    Some(match op.what {
        // Gaps, see [`unseen`].
        ebpf::OpWhat::DnsDoubted { .. } | ebpf::OpWhat::NetNs { .. } => return None,
        ebpf::OpWhat::Exec { path, kind } => {
            let kind = match kind {
                ebpf::FileKind::Named => ExecKind::File,
                ebpf::FileKind::Memfd => ExecKind::Memfd,
                ebpf::FileKind::Deleted => ExecKind::Deleted,
                ebpf::FileKind::Script => ExecKind::Script,
            };
            Event::Exec { path, known_as: Vec::new(), argv: String::new(), kind, verdict, assurance }
        }
        ebpf::OpWhat::Map { path } => {
            let (argv, kind) = ("(mapped executable)".into(), ExecKind::File);
            Event::Exec { path, known_as: Vec::new(), argv, kind, verdict, assurance }
        }
        ebpf::OpWhat::Open { path, write } => {
            Event::Open { path, known_as: Vec::new(), access: access(write), verdict, assurance }
        }
        ebpf::OpWhat::Device { block, major, minor, write } => {
            let path = format!("device {} {major}:{minor}", if block { "block" } else { "char" });
            Event::Open { path, known_as: Vec::new(), access: access(write), verdict, assurance }
        }
        ebpf::OpWhat::Socket { family, protocol, .. } => {
            let (op, protocol) = (NetOp::Socket, u8::try_from(protocol).unwrap_or(0));
            Event::Net { op, protocol, address: none, port: 0, family, verdict, assurance }
        }
        ebpf::OpWhat::Listen { address, port, protocol } => {
            let family = if address.is_ipv6() { AF_INET6 } else { AF_INET };
            Event::Net { op: NetOp::Listen, protocol, address, port, family, verdict, assurance }
        }
        ebpf::OpWhat::Privilege(gain) => {
            let gain = match gain {
                ebpf::Gain::Setuid => Gain::Setuid,
                ebpf::Gain::Capability => Gain::Capability,
                ebpf::Gain::Userns => Gain::Userns,
            };
            Event::Privilege { gain, verdict, assurance }
        }
        ebpf::OpWhat::Memory(kind) => {
            let kind = match kind {
                ebpf::Memory::Anonymous => MemoryKind::Anonymous,
                ebpf::Memory::Memfd => MemoryKind::Memfd,
                ebpf::Memory::WriteExec => MemoryKind::WriteExec,
            };
            Event::ExecMemory { kind, verdict, assurance }
        }
        ebpf::OpWhat::Fork => Event::Fork { child: 0, verdict },
        // Refused for the run's network alone, and no reach for failsafe.
        ebpf::OpWhat::Protect(ebpf::Protected::Socket) if op.held.is_some() => {
            Event::Net { op: NetOp::Socket, protocol: 0, address: none, port: 0, family: 0, verdict, assurance }
        }
        ebpf::OpWhat::Protect(what) => {
            let what = match what {
                ebpf::Protected::Signal => "signal to the daemon",
                ebpf::Protected::Trace => "tracing a process outside the run",
                ebpf::Protected::Bpf => "bpf(2)",
                ebpf::Protected::Bpffs => "bpf file system",
                ebpf::Protected::Cgroup => "cgroup files",
                ebpf::Protected::Files => "state folder",
                ebpf::Protected::Socket => "socket from outside the run",
                ebpf::Protected::Process => "limits or priority of the daemon",
            };
            Event::Protect { what: what.into(), verdict, assurance }
        }
        ebpf::OpWhat::Budget { class, spent, address } => {
            Event::Budget { budget: class.to_string(), address, bytes: spent, verdict }
        }
        ebpf::OpWhat::Dns { name, address } => Event::Dns { name, address },
    })
}

fn access(write: bool) -> Access {
    if write { Access::Write } else { Access::Read }
}

/// The device that an event is about: whether a block device, major and minor number.
fn device(what: &ebpf::What) -> Option<(bool, u32, u32)> {
    match what {
        ebpf::What::Op(ebpf::Op { what: ebpf::OpWhat::Device { block, major, minor, .. }, .. }) => {
            Some((*block, *major, *minor))
        }
        _ => None,
    }
}

fn network(net: &ebpf::Net) -> Event {
    let op = match net.op {
        ebpf::NetOp::Connect => NetOp::Connect,
        ebpf::NetOp::Send | ebpf::NetOp::Packet => NetOp::Send,
        ebpf::NetOp::Bind => NetOp::Bind,
        ebpf::NetOp::Socket => NetOp::Socket,
    };
    let verdict = match net.verdict {
        ebpf::NetVerdict::Allowed => Verdict::Allowed,
        ebpf::NetVerdict::Denied => denial(net.held),
        ebpf::NetVerdict::WouldDeny => Verdict::WouldDeny,
        ebpf::NetVerdict::Probe => Verdict::Probe,
    };
    // A cgroup hook judges the address that the kernel then uses.
    let denied = net.verdict == ebpf::NetVerdict::Denied;
    let assurance = if denied { Assurance::BlockedInKernel } else { Assurance::Observed };
    let family = if net.mapped || net.addr.is_ipv6() { AF_INET6 } else { AF_INET };
    Event::Net { op, protocol: net.protocol, address: net.addr, port: net.port, family, verdict, assurance }
}

/// An event that the daemon itself found on a run that it contains, now.
pub fn guarded(run: RunId, event: Event) -> Input {
    let (at, subject, value) = (MonoTime(clock::monotonic_ns()), Subject::Run(run), Value::Event(event));
    Input::Signal(Signal { seq: 0, at, source: Source::Guard, subject, kind: Kind::Event, value, repeats: 0 })
}

/// A sampled value of a run or a GPU, seen now.
pub fn sampled(subject: Subject, source: Source, kind: Kind, value: i64) -> Input {
    let at = MonoTime(clock::monotonic_ns());
    Input::Signal(Signal { seq: 0, at, source, subject, kind, value: Value::Integer(value), repeats: 0 })
}

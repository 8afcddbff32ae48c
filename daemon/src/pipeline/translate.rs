//! From what the kernel's ring says to the core's signals. eBPF types end here.

use crate::{platform::clock, runs::kernel::Kernel, sensors::ebpf};
use failsafe_core::{
    Input, Kind, MonoTime, Signal, Subject, Value,
    event::{Assurance, Event, ExecKind, NetOp, Verdict, Via},
    signal::Source,
    subject::Process,
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The input that an event of the ring is; `None` for what belongs to no live run, or says nothing a rule could use.
pub fn event(kernel: &Kernel, via: Via, event: ebpf::Event) -> Option<Input> {
    let run = kernel.run_of(event.slot, event.epoch)?;
    let happened = what(via, event.what, event.subject.pid)?;
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
    }))
}

fn what(via: Via, what: ebpf::What, pid: u32) -> Option<Event> {
    Some(match what {
        ebpf::What::Exec { path, argv, unlinked, script, .. } => {
            // The hook says that the file has no name, not whether it ever had one: what begins as memory does is a memfd.
            let kind = match (unlinked, script) {
                (true, _) if path.starts_with("/memfd:") || path.starts_with("memfd:") => ExecKind::Memfd,
                (true, _) => ExecKind::Deleted,
                (false, true) => ExecKind::Script,
                (false, false) => ExecKind::File,
            };
            // A file without a name is not what its path says: rules on paths must not be told otherwise.
            let path = if unlinked { format!("{path} (unlinked)") } else { path };
            let (verdict, assurance) = (Verdict::Allowed, Assurance::Observed);
            Event::Exec { path, argv: argv.join(" "), kind, verdict, assurance }
        }
        ebpf::What::Fork { child_pid, .. } => Event::Fork { child: child_pid, verdict: Verdict::Allowed },
        ebpf::What::Exit { status } => Event::Exit { status: i32::try_from(status).unwrap_or(i32::MAX) },
        ebpf::What::Net(net) => network(&net),
        ebpf::What::Syscall { call, args, .. } => {
            let assurance = match via {
                Via::Fentry => Assurance::Observed,
                Via::SysEnter => Assurance::ObservedUnreliable,
            };
            Event::Syscall { name: call.name().to_owned(), args, via, verdict: Verdict::Allowed, assurance }
        }
        ebpf::What::Oom => Event::Oom { victim: pid },
        ebpf::What::Leave(moved) => {
            // One that moved itself is outside already when the kernel asks where its mover is.
            let mover_in_run = moved.by_run || moved.mover_pid == pid;
            Event::Leave { pid, mover: moved.mover_pid, mover_in_run, to: moved.to_cgroup_id }
        }
        ebpf::What::Join(_) | ebpf::What::Op(_) => return None,
    })
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
        ebpf::NetVerdict::Denied => Verdict::Denied,
        ebpf::NetVerdict::WouldDeny => Verdict::WouldDeny,
    };
    // A cgroup hook judges the address that the kernel then uses.
    let assurance = if verdict == Verdict::Denied { Assurance::BlockedInKernel } else { Assurance::Observed };
    let family = match net.op {
        // The record of a socket has no address that would tell.
        ebpf::NetOp::Socket => 0,
        _ if net.mapped || net.addr.is_ipv6() => AF_INET6,
        _ => AF_INET,
    };
    Event::Net { op, protocol: net.protocol, address: net.addr, port: net.port, family, verdict, assurance }
}

/// A sampled value of a run or a GPU, seen now.
pub fn sampled(subject: Subject, source: Source, kind: Kind, value: i64) -> Input {
    let at = MonoTime(clock::monotonic_ns());
    Input::Signal(Signal { seq: 0, at, source, subject, kind, value: Value::Integer(value) })
}

//! Events from the kernel: the reader of the ring buffer and the safe form of its records.
//!
//! [`EventReader`] owns the ring and runs on a thread of its own, so that no other work stands between an event and
//! its consumer. The kernel wakes it at once, but for events that may wait ([`Told::Later`](crate::guard::Told)): those are read with the
//! next that may not, or when [`LOOKS_EVERY`] is over. Records are decoded straight out of the ring.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crate::{guard::Ring, platform::bpf::Pod};
use aya::maps::{Array, MapData, MapError, RingBuf};
use failsafe_core::event::CUT;
use failsafe_ebpf::abi::{self, Plain, exec_flag, kind, move_flag, net_flag, net_op};
use failsafe_matchers::calls::WatchedCall;
use failsafe_matchers::keys::Inode;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// An event of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, nanoseconds, taken in the kernel.
    pub at_ns: u64,
    /// Per run, from 0; a hole is an event that the ring had no room for. Two CPUs may write out of order.
    pub seq: u64,
    /// Slot of the run.
    pub slot: u32,
    /// Occupant of the slot: compare with [`crate::guard::RunAttachment::epoch`], as an old one's events may still come.
    pub epoch: u32,
    /// Who it is about.
    pub subject: Subject,
    /// What happened.
    pub what: What,
}

/// The process an event is about. For a dropped packet the hook cannot know it: only `cgroup_id` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Exact cgroup, which may lie below the run's root.
    pub cgroup_id: u64,
    /// Process id in the initial namespace; 0 = unknown.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Parent's process id.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Start of the process on `CLOCK_BOOTTIME`, nanoseconds: field 22 of `/proc/PID/stat`, but finer.
    pub start_boottime_ns: u64,
    /// Name of the thread.
    pub comm: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The process runs a new image.
    Exec {
        /// As given to execve: may be relative. In this text, `argv` and `file`, [`CUT`] stands for what was too long or unreadable.
        path: String,
        /// The argument vector.
        argv: Vec<String>,
        /// The path of what is executed as the kernel resolved it; of a script, its interpreter's.
        file: String,
        /// The file has no name any more: a memfd, or deleted.
        unlinked: bool,
        /// An interpreter was started for it.
        script: bool,
        /// The file, or folder around it, by whose inode a rule knows it, where that has no event of its own. Its names are those
        /// that rules give it.
        entry: Option<Inode>,
    },
    /// The process made another.
    Fork {
        /// Its process id.
        child_pid: u32,
        /// Its start, `CLOCK_BOOTTIME`, nanoseconds.
        child_start_boottime_ns: u64,
        /// Its cgroup.
        child_cgroup_id: u64,
    },
    /// The process ended (all its threads).
    Exit {
        /// Status as wait(2) returns it.
        status: u32,
    },
    /// A network call, or a packet that was refused.
    Net(Net),
    /// A watched system call is being made.
    Syscall {
        /// Which.
        call: WatchedCall,
        /// Through the 32-bit ABI.
        compat: bool,
        /// First three arguments, as numbers.
        args: [u64; 3],
        /// It was refused.
        denied: bool,
        /// Where it was seen.
        via: Way,
        /// Equal refusals held back since the last one that was sent (one a second).
        repeats: u64,
    },
    /// Something that a rule speaks of.
    Op(super::Op),
    /// The out-of-memory killer chose the process.
    Oom,
    /// The process is no longer in the run's cgroups.
    Leave(Move),
    /// The process came into the run's cgroups from outside.
    Join(Move),
}

impl What {
    /// The kernel refused it, or would have: what rules intervene on. Everything else passed.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Net(net) => matches!(net.verdict, NetVerdict::Denied | NetVerdict::WouldDeny),
            Self::Op(op) => op.denied,
            Self::Syscall { denied, .. } => *denied,
            _ => false,
        }
    }

    /// How many like it were held back in the kernel since the last that was sent.
    #[must_use]
    pub fn repeats(&self) -> u64 {
        match self {
            Self::Net(net) => net.repeats.into(),
            Self::Op(op) => op.repeats.into(),
            Self::Syscall { repeats, .. } => *repeats,
            _ => 0,
        }
    }
}

/// A network event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Net {
    /// Where it was seen.
    pub op: NetOp,
    /// What became of it.
    pub verdict: NetVerdict,
    /// Protocol number as in the IP header.
    pub protocol: u8,
    /// Destination (of a bind: the local address). Mapped addresses are IPv4.
    pub addr: IpAddr,
    /// Port; 0 = none.
    pub port: u16,
    /// `SOCK_*`; 0 for packets.
    pub sock_type: u32,
    /// Equal events held back since the last one that was sent (datagrams and packets: one a second).
    pub repeats: u32,
    /// The call named an IPv4-mapped IPv6 address.
    pub mapped: bool,
    /// Refused because the run is held, with the reason; `None`: by its policy, or not at all.
    pub held: Option<Held>,
    /// The caller is outside the run and uses a socket of the run.
    pub foreign: bool,
    /// The packet had a source route, a routing header, or headers that could not be read.
    pub odd_headers: bool,
}

/// Why something was refused that the run's policy itself lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The run is latched, by a `block` or a stop rule.
    Latched,
    /// No daemon was seen for too long.
    DeadDaemon,
}

/// How something was seen, and so how sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// An LSM hook, which can refuse.
    Lsm,
    /// The call's own function.
    Fentry,
    /// The entry of every call: the caller can change what its arguments point to after they were read.
    SysEnter,
    /// A tracepoint.
    Tracepoint,
    /// A hook of the run's cgroup, which can refuse.
    Cgroup,
}

/// Where a network event was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetOp {
    /// connect(2).
    Connect,
    /// A datagram sent to an address.
    Send,
    /// bind(2).
    Bind,
    /// A packet on its way out.
    Packet,
    /// socket(2) of a kind that an allow-list cannot bound.
    Socket,
}

/// What became of a network call or packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetVerdict {
    /// It passed.
    Allowed,
    /// It was refused: EPERM, or dropped.
    Denied,
    /// It passed, but would be refused if the policy were enforced.
    WouldDeny,
    /// A datagram socket was connected to what the list does not name: it passed, as it sends nothing.
    Probe,
}

/// A move between cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where it was; 0 = outside every run.
    pub from_cgroup_id: u64,
    /// Where it is.
    pub to_cgroup_id: u64,
    /// Who moved it.
    pub mover_pid: u32,
    /// The mover belongs to the run.
    pub by_run: bool,
    /// It was born there instead of being moved (`CLONE_INTO_CGROUP`).
    pub by_clone: bool,
}

/// How long an event that may wait does at most.
pub const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// Reads the ring; hand it to a thread.
pub struct EventReader {
    ring: RingBuf<MapData>,
    /// `struct fs_reader`; `None` for a ring that nobody writes to any more.
    asleep: Option<Array<MapData, Pod<abi::Reader>>>,
    looks_every: Duration,
    undecoded: u64,
}

/// Why the ring cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// poll(2) failed.
    #[error("poll failed")]
    Poll(#[source] Errno),
    /// The programs could not be told that the reader sleeps.
    #[error("the map reader cannot be written")]
    Asleep(#[source] MapError),
}

impl EventReader {
    /// The reader of a ring that the guard hands out.
    #[must_use]
    pub fn of(ring: Ring) -> Self {
        let Ring { events: ring, reader: asleep } = ring;
        Self { ring, asleep, looks_every: LOOKS_EVERY, undecoded: 0 }
    }

    /// The same, looking for what may wait every so often instead of every [`LOOKS_EVERY`].
    #[must_use]
    pub fn looking_every(self, looks_every: Duration) -> Self {
        Self { looks_every, ..self }
    }

    /// Calls `on_event` for every event until `stop` becomes readable (an eventfd, say), then for those already in
    /// the ring, and returns the number of records that were not understood (0 unless daemon and object differ).
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn run(self, stop: BorrowedFd<'_>, on_event: impl FnMut(Event)) -> Result<u64, ReadError> {
        self.run_alive(stop, on_event, || {})
    }

    /// As [`EventReader::run`]; `alive` is called after each look at the ring, at least every [`LOOKS_EVERY`].
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn run_alive(
        mut self,
        stop: BorrowedFd<'_>,
        mut on_event: impl FnMut(Event),
        alive: impl Fn(),
    ) -> Result<u64, ReadError> {
        let wait = PollTimeout::try_from(self.looks_every).unwrap_or(PollTimeout::NONE);
        loop {
            alive();
            self.drain(&mut |event| {
                on_event(event);
                alive();
            });
            self.say_asleep()?;
            // What came before that was said woke nobody.
            self.drain(&mut on_event);
            // Who was about to wake the reader takes its word back: asleep now, nobody would wake it. After this look the empty
            // record that does the waking is still in the ring, and poll sees it.
            if !self.is_said_asleep()? {
                continue;
            }
            let mut fds = [PollFd::new(self.ring.as_fd(), PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
            match poll(&mut fds, wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(ReadError::Poll(e)),
            }
            if fds[1].revents().is_some_and(|r| !r.is_empty()) {
                self.drain(&mut on_event);
                return Ok(self.undecoded);
            }
        }
    }

    fn say_asleep(&mut self) -> Result<(), ReadError> {
        if let Some(map) = &mut self.asleep {
            map.set(0, Pod(abi::Reader { asleep: 1 }), 0).map_err(ReadError::Asleep)?;
        }
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn is_said_asleep(&self) -> Result<bool, ReadError> {
        let Some(map) = &self.asleep else { return Ok(true) };
        map.get(&0, 0).map(|Pod(said)| said.asleep != 0).map_err(ReadError::Asleep)
    }

    /// Handles what is in the ring now; never blocks.
    pub fn drain(&mut self, on_event: &mut impl FnMut(Event)) {
        while let Some(record) = self.ring.next() {
            let event = decode(&record);
            // Free the room before the consumer takes its time.
            drop(record);
            match event {
                Some(e) => on_event(e),
                None => self.undecoded += 1,
            }
        }
    }
}

/// A record of the ring, or `None` if it is not one this version knows.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Event> {
    let hdr = abi::Hdr::read(bytes)?;
    let what = match hdr.kind {
        kind::EXEC => exec(&abi::Exec::read(bytes)?),
        kind::FORK => {
            let e = abi::Fork::read(bytes)?;
            What::Fork {
                child_pid: e.child_pid,
                child_start_boottime_ns: e.child_start_boottime_ns,
                child_cgroup_id: e.child_cgroup_id,
            }
        }
        kind::EXIT => What::Exit { status: abi::Exit::read(bytes)?.code },
        kind::NET => What::Net(net(&abi::Net::read(bytes)?)?),
        kind::SYSCALL => {
            let e = abi::Sys::read(bytes)?;
            let denied = e.verdict == abi::verdict::DENIED;
            What::Syscall {
                call: WatchedCall::of_bit(e.call)?,
                compat: e.compat != 0,
                args: e.args,
                denied,
                via: way(e.via)?,
                repeats: e.repeats,
            }
        }
        kind::OP => What::Op(super::ops::op(&abi::Op::read(bytes)?)?),
        kind::OOM => What::Oom,
        kind::LEAVE => What::Leave(moved(&abi::Move::read(bytes)?)),
        kind::JOIN => What::Join(moved(&abi::Move::read(bytes)?)),
        _ => return None,
    };
    Some(Event {
        at_ns: hdr.ktime_ns,
        seq: hdr.seq,
        slot: hdr.run,
        epoch: hdr.epoch,
        subject: Subject {
            cgroup_id: hdr.cgroup_id,
            pid: hdr.pid,
            tid: hdr.tid,
            ppid: hdr.ppid,
            uid: hdr.uid,
            start_boottime_ns: hdr.start_boottime_ns,
            comm: text(&hdr.comm),
        },
        what,
    })
}

fn exec(e: &abi::Exec) -> What {
    let is_cut = |flag| e.flags & flag != 0;
    let mut path = lossy(used(&e.path, e.path_len));
    if is_cut(exec_flag::PATH_CUT) {
        path = format!("{}{CUT}", path.trim_end_matches(char::REPLACEMENT_CHARACTER));
    }
    let mut file = lossy(used(&e.file, e.file_len));
    if is_cut(exec_flag::FILE_CUT) {
        file = format!("{CUT}{}", file.trim_start_matches(char::REPLACEMENT_CHARACTER));
    }
    What::Exec {
        path,
        argv: argv(e),
        file,
        unlinked: is_cut(exec_flag::UNLINKED),
        script: is_cut(exec_flag::SCRIPT),
        entry: (e.entry_ino != 0).then_some(Inode { number: e.entry_ino, device: e.entry_dev }),
    }
}

fn used(bytes: &[u8], len: u16) -> &[u8] {
    &bytes[..usize::from(len).min(bytes.len())]
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The arguments. What lies between their beginning and their end where they are long is one [`CUT`], in the argument where it begins.
fn argv(e: &abi::Exec) -> Vec<String> {
    if e.flags & exec_flag::ARGV_LOST != 0 {
        return vec![CUT.to_string()];
    }
    let split = |bytes: &[u8]| -> Vec<String> {
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        if bytes.is_empty() { Vec::new() } else { bytes.split(|b| *b == 0).map(lossy).collect() }
    };
    let (head, tail) = (used(&e.argv, e.argv_len), used(&e.tail, e.tail_len));
    if e.flags & exec_flag::ARGV_CUT == 0 {
        // Both together are all of it: what the end repeats of the beginning is left out.
        let size = usize::try_from(e.argv_size).unwrap_or(usize::MAX);
        let repeated = (head.len() + tail.len()).saturating_sub(size).min(tail.len());
        return split(&[head, &tail[repeated..]].concat());
    }
    // A NUL at the end of the head ends an argument: the next one begins in what was left out.
    let mut all: Vec<String> = head.split(|b| *b == 0).map(lossy).collect();
    let mut rest = split(tail).into_iter();
    let before = all.pop().unwrap_or_default();
    let after = rest.next().unwrap_or_default();
    all.push(format!(
        "{}{CUT}{}",
        before.trim_end_matches(char::REPLACEMENT_CHARACTER),
        after.trim_start_matches(char::REPLACEMENT_CHARACTER)
    ));
    all.extend(rest);
    all
}

fn net(e: &abi::Net) -> Option<Net> {
    let [a, b, c, d, ..] = e.addr;
    Some(Net {
        op: match e.op {
            net_op::CONNECT => NetOp::Connect,
            net_op::SENDMSG => NetOp::Send,
            net_op::BIND => NetOp::Bind,
            net_op::PACKET => NetOp::Packet,
            net_op::SOCKET => NetOp::Socket,
            _ => return None,
        },
        verdict: match e.verdict {
            abi::verdict::ALLOWED => NetVerdict::Allowed,
            abi::verdict::DENIED => NetVerdict::Denied,
            abi::verdict::OBSERVED => NetVerdict::WouldDeny,
            abi::verdict::PROBE => NetVerdict::Probe,
            _ => return None,
        },
        protocol: e.proto,
        addr: if e.family == 6 { Ipv6Addr::from(e.addr).into() } else { Ipv4Addr::new(a, b, c, d).into() },
        port: e.port,
        sock_type: e.sk_type,
        repeats: e.repeats,
        mapped: e.flags & net_flag::MAPPED != 0,
        held: match e.flags & (net_flag::LATCHED | net_flag::DEAD | net_flag::BOUNDS) {
            0 => None,
            flags if flags & net_flag::BOUNDS != 0 => None,
            flags if flags & net_flag::DEAD != 0 => Some(Held::DeadDaemon),
            _ => Some(Held::Latched),
        },
        foreign: e.flags & net_flag::FOREIGN != 0,
        odd_headers: e.flags & net_flag::BAD_HDR != 0,
    })
}

fn moved(e: &abi::Move) -> Move {
    Move {
        from_cgroup_id: e.from_cgroup_id,
        to_cgroup_id: e.to_cgroup_id,
        mover_pid: e.mover_pid,
        by_run: e.flags & move_flag::BY_RUN != 0,
        by_clone: e.flags & move_flag::BY_CLONE != 0,
    }
}

pub(super) fn way(via: u8) -> Option<Way> {
    Some(match via {
        abi::via::LSM => Way::Lsm,
        abi::via::FENTRY => Way::Fentry,
        abi::via::SYS_ENTER => Way::SysEnter,
        abi::via::TRACEPOINT => Way::Tracepoint,
        abi::via::CGROUP => Way::Cgroup,
        _ => return None,
    })
}

/// Up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_owners_may_move_to_their_threads() {
        fn is_send<T: Send>() {}
        is_send::<EventReader>();
        is_send::<crate::guard::Ebpf>();
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_is_safe(mut bytes in prop::collection::vec(any::<u8>(), 0..700), kind in 0u8..11) {
            // Reach every kind: offset 40 is the kind.
            if bytes.len() > 44 {
                bytes[40..44].copy_from_slice(&[kind, 0, 0, 0]);
            }
            if let Some(e) = decode(&bytes) {
                prop_assert!(bytes.len() >= size_of::<abi::Hdr>());
                prop_assert!(e.subject.comm.chars().count() <= abi::COMM_LEN);
            }
        }
    }
}

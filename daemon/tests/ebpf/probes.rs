//! A datagram socket that is connected and sends nothing: no violation. What it sends is judged, by whatever call it is sent.

use std::io::{Error, IoSlice, Result};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use failsafe_ebpf::abi::{latch, point};
use failsafe_matchers::egress::{EgressMode, EgressPolicy};
use failsafe_matchers::rules::Rules;
use failsafed::sensors::ebpf::{NetOp, NetVerdict, What};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, connect, send, sendmmsg, sendmsg};

use super::agent::{Agent, native, socket};
use super::bench::{OPEN_NET, allow_all, enforce, ready};

/// Ways to send on a connected datagram socket. None names an address.
const WAYS: [&str; 8] = ["write", "send", "sendmsg", "sendmmsg", "segments", "corked", "ring", "again"];

/// What the agent does: connects a datagram socket, and sends on it in one of [`WAYS`].
pub fn act(words: &[&str]) -> Result<String> {
    let [way, to] = words else { return Ok(format!("what is {words:?}?")) };
    let to: SocketAddr = to.parse().unwrap();
    let s = match *way {
        "ping" if to.is_ipv4() => socket(to.ip(), libc::SOCK_DGRAM, libc::IPPROTO_ICMP)?,
        "ping" => socket(to.ip(), libc::SOCK_DGRAM, libc::IPPROTO_ICMPV6)?,
        _ => socket(to.ip(), libc::SOCK_DGRAM, 0)?,
    };
    connect(s.as_raw_fd(), native(to).as_ref())?;
    send_by(&s, way)?;
    Ok(String::from("ok"))
}

fn send_by(s: &OwnedFd, way: &str) -> Result<()> {
    let (fd, bytes) = (s.as_raw_fd(), [IoSlice::new(b"hello")]);
    match way {
        "connect" => {}
        "write" => drop(nix::unistd::write(s, b"hello")?),
        "send" => drop(send(fd, b"hello", MsgFlags::empty())?),
        "sendmsg" => drop(sendmsg::<()>(fd, &bytes, &[], MsgFlags::empty(), None)?),
        "sendmmsg" => {
            let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(2, None);
            let sent = sendmmsg(fd, &mut headers, [&bytes, &bytes], [None, None], [], MsgFlags::empty())?.count();
            // Each is counted before it is refused on its way out: the call fails only if the first one did.
            assert!(sent <= 2);
        }
        "segments" => {
            let size = 2;
            sendmsg::<()>(fd, &bytes, &[ControlMessage::UdpGsoSegments(&size)], MsgFlags::empty(), None)?;
        }
        "corked" => {
            send(fd, b"hel", MsgFlags::from_bits_retain(libc::MSG_MORE))?;
            send(fd, b"lo", MsgFlags::empty())?;
        }
        "ring" => {
            let mut ring = io_uring::IoUring::new(2)?;
            let entry = io_uring::opcode::Send::new(io_uring::types::Fd(fd), b"hello".as_ptr(), 5).build();
            // SAFETY: what is sent is a constant.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1)?;
            let done = ring.completion().next().unwrap().result();
            if done < 0 {
                return Err(Error::from_raw_os_error(-done));
            }
        }
        // Both on one socket, after the first was refused.
        "again" => {
            let _refused = send(fd, b"hello", MsgFlags::empty());
            send(fd, b"hello", MsgFlags::empty())?;
        }
        // Type 8 (IPv6: 128), code 0; the kernel fills in the rest.
        "ping" => {
            let v6 = nix::sys::socket::getsockname::<SockaddrStorage>(fd)?.as_sockaddr_in6().is_some();
            send(fd, &[if v6 { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 1], MsgFlags::empty())?;
        }
        other => panic!("{other} is no way"),
    }
    Ok(())
}

fn net_to(what: &What, to: SocketAddr) -> Option<(NetOp, NetVerdict)> {
    match what {
        What::Net(net) if (net.addr, net.port) == (to.ip(), to.port()) => Some((net.op, net.verdict)),
        _ => None,
    }
}

#[test]
fn connecting_a_datagram_socket_is_a_probe_that_breaks_no_rule() {
    let Some(mut bench) = ready("probe") else { return };
    // Every refusal would stop the run; a rule denies one address by itself.
    let rules = Rules {
        stop: 1 << point::NET,
        net_denied: vec![allow_all("127.0.0.4/32")],
        net_stops: vec![allow_all("127.0.0.4/32")],
        ..Rules::default()
    };
    let run = bench.add_ruled("a", &enforce(&[("127.0.0.1/32", 53)]), &rules);
    let mut agent = Agent::start(&run.cgroup);
    let outside = ["127.0.0.2:9", "127.0.0.1:9", "127.0.0.3:0", "8.8.8.8:53", "[::1]:53", "127.0.0.4:9"];
    for to in outside {
        let got = agent.ask(&format!("probes connect {to}"));
        // A machine without a route says so by itself.
        assert!(["ok", "ENETUNREACH", "EADDRNOTAVAIL"].contains(&got.as_str()), "{to}: {got}");
    }
    assert_eq!(agent.ask("probes connect 127.0.0.1:53"), "ok");
    let seen = bench.drain();
    for to in outside {
        let to: SocketAddr = to.parse().unwrap();
        let told: Vec<_> = seen.iter().filter_map(|e| net_to(&e.what, to)).collect();
        assert_eq!(told, [(NetOp::Connect, NetVerdict::Probe)], "{to}");
    }
    let listed = "127.0.0.1:53".parse().unwrap();
    assert!(seen.iter().any(|e| net_to(&e.what, listed) == Some((NetOp::Connect, NetVerdict::Allowed))));
    let counted = bench.counters(&run);
    assert_eq!((counted.denied_calls, counted.dropped_packets, counted.latch), (0, 0, 0), "{counted:?}");
    // No rule asks for probes, as of most runs: nothing is told.
    let quiet = bench.add_quiet("b", &enforce(&[]));
    let mut agent = Agent::start(&quiet.cgroup);
    assert_eq!(agent.ask("probes connect 127.0.0.2:9"), "ok");
    assert!(!bench.drain().iter().any(|e| matches!(e.what, What::Net(_))));
}

#[test]
fn a_latched_run_connects_no_datagram_socket() {
    let Some(mut bench) = ready("probe-latched") else { return };
    let run = bench.add("a", OPEN_NET);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("probes connect 127.0.0.2:9"), "ok");
    bench.ebpf.set_block(run.slot, true).unwrap();
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), latch::EGRESS);
    assert_eq!(agent.ask("probes connect 127.0.0.2:9"), "EPERM");
}

#[test]
fn what_a_connected_datagram_socket_sends_is_refused_by_every_call_and_reported_as_a_send() {
    let Some(mut bench) = ready("connected") else { return };
    let witnesses = [("127.0.0.2:0", "127.0.0.2"), ("[::1]:0", "[::1]"), ("127.0.0.3:0", "[::ffff:127.0.0.3]")]
        .map(|(at, named)| (UdpSocket::bind(at).unwrap(), named));
    for (n, way) in WAYS.iter().enumerate() {
        // A run for each: equal events are told once a second.
        let run = bench.add(&format!("r{n}"), &enforce(&[("127.0.0.1/32", 53)]));
        let mut agent = Agent::start(&run.cgroup);
        for (witness, named) in &witnesses {
            let to = witness.local_addr().unwrap();
            assert_eq!(agent.ask(&format!("probes {way} {named}:{}", to.port())), "EPERM", "{way} to {to}");
            // To a mapped address the kernel sends as if it had been named in the call.
            let op = if named.starts_with("[::ffff") { NetOp::Send } else { NetOp::Packet };
            bench.until(|e| e.slot == run.slot && net_to(&e.what, to) == Some((op, NetVerdict::Denied)));
            witness.set_nonblocking(true).unwrap();
            assert!(witness.recv(&mut [0; 16]).is_err(), "{way}: something arrived at {to}");
        }
        assert!(bench.counters(&run).dropped_packets >= 2);
    }
    // A refusal by the list stops the run where a rule says so, at the packet.
    let run = bench.add_ruled("stops", &enforce(&[]), &Rules { stop: 1 << point::NET, ..Rules::default() });
    let mut agent = Agent::start(&run.cgroup);
    let to = witnesses[0].0.local_addr().unwrap();
    assert_eq!(agent.ask(&format!("probes connect {to}")), "ok");
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), 0);
    assert_eq!(agent.ask(&format!("probes write {to}")), "EPERM");
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), latch::EGRESS | latch::STOP);
}

#[test]
fn a_list_that_only_observes_shows_what_a_connected_datagram_socket_sends() {
    let Some(mut bench) = ready("connected-observed") else { return };
    let witness = UdpSocket::bind("127.0.0.2:0").unwrap();
    let to = witness.local_addr().unwrap();
    let run = bench.add("a", &EgressPolicy { mode: EgressMode::Observe, ..enforce(&[]) });
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("probes write {to}")), "ok");
    let seen: Vec<_> = bench.drain().iter().filter_map(|e| net_to(&e.what, to)).collect();
    assert_eq!(seen, [(NetOp::Connect, NetVerdict::Probe), (NetOp::Packet, NetVerdict::WouldDeny)]);
}

/// Everybody may have ping sockets; dropped, as it was before.
struct Pings(String);

const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

impl Pings {
    fn open() -> Self {
        let before = std::fs::read_to_string(PING_GROUPS).unwrap();
        std::fs::write(PING_GROUPS, "0 65534").unwrap();
        Self(before)
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        let _ = std::fs::write(PING_GROUPS, &self.0);
    }
}

#[test]
fn a_ping_that_is_refused_is_reported() {
    let Some(mut bench) = ready("ping") else { return };
    let _pings = Pings::open();
    let run = bench.add("a", &enforce(&[("127.0.0.1/32", 53)]));
    let mut agent = Agent::start(&run.cgroup);
    for to in ["127.0.0.2:0", "[::1]:0"] {
        let ip: IpAddr = to.parse::<SocketAddr>().unwrap().ip();
        // Of IPv6 the kernel drops the packet and does not tell the caller.
        let told = agent.ask(&format!("probes ping {to}"));
        assert_eq!(told, if ip.is_ipv4() { "EPERM" } else { "ok" }, "{to}");
        let told = bench.until(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Packet));
        let What::Net(net) = &told.last().unwrap().what else { unreachable!() };
        let protocol = if ip.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
        assert_eq!((net.addr, net.verdict, i32::from(net.protocol)), (ip, NetVerdict::Denied, protocol));
    }
    assert_eq!(bench.counters(&run).dropped_packets, 2);
}

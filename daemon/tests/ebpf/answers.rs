//! Which answers of name servers are believed: a run cannot answer itself, and what an honest server says is learnt whole.

use std::io::{Error, Result};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;

use failsafe_matchers::hosts::HostRule;
use failsafe_matchers::rules::Rules;
use failsafed::sensors::ebpf::{DnsDoubt, OpWhat, What};
use nix::sched::CloneFlags;

use super::agent::{Agent, socket};
use super::bench::{Bench, TestRun, enforce, ready};
use super::names::{self, Server};
use super::rules::next_op;

/// What the agent does: asks itself for a name, at a server's address that it takes for its own; in a network namespace that it makes
/// (`apart`), or where it is (`here`).
pub fn act(words: &[&str]) -> Result<String> {
    let [place, name, server, answer] = words else { return Ok(format!("what is {words:?}?")) };
    let (apart, name, server) = (*place == "apart", (*name).to_owned(), (*server).to_owned());
    let answer: Ipv4Addr = answer.parse().unwrap();
    // The namespace is the thread's, and ends with it: the agent itself never leaves its own.
    let asked = std::thread::spawn(move || {
        if apart {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            raise_loopback()?;
        }
        let own = Server::start(&server, answer);
        names::ask(&name, &own.address.to_string())
    });
    asked.join().unwrap().map(|()| String::from("ok"))
}

pub fn raise_loopback() -> Result<()> {
    let s = socket(Ipv4Addr::LOCALHOST.into(), libc::SOCK_DGRAM, 0)?;
    // SAFETY: all zeroes are a value of this struct of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = (*from).cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(Error::other)?;
    // SAFETY: the request is a valid ifreq, which the kernel only reads here.
    let done = unsafe { libc::ioctl(s.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// A run that may reach `*.example.org` at one port, by the answers of one server.
fn run_by(bench: &mut Bench, name: &str, server: &str, port: u16) -> TestRun {
    let rules = Rules {
        hosts: vec![HostRule { name: "example.org".into(), below: true, ports: vec![port..=port], protocol: None }],
        dns_servers: vec![server.parse().unwrap()],
        ..Rules::default()
    };
    bench.add_ruled(name, &enforce(&[(&format!("{server}/32"), 53)]), &rules)
}

/// The next doubt that is told.
fn doubted(bench: &mut Bench) -> DnsDoubt {
    let op = next_op(bench, |what| matches!(what, OpWhat::DnsDoubted { .. }));
    let OpWhat::DnsDoubted { doubt, .. } = op.what else { unreachable!() };
    doubt
}

#[test]
fn a_run_cannot_answer_itself_from_a_network_namespace_of_its_own() {
    let Some(mut bench) = ready("answers-netns") else { return };
    let listener = TcpListener::bind("127.77.2.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = "127.53.9.1";
    let run = run_by(&mut bench, "a", server, port);
    let mut agent = Agent::start(&run.cgroup);
    let connect = format!("tcp 127.77.2.1:{port}");
    // The answer's way there and back is on the list of addresses, as loopback is in most policies.
    let mut list = enforce(&[(&format!("{server}/32"), 53)]);
    list.rules.push(super::bench::allow_all("127.53.0.0/16"));
    list.rules.push(super::bench::allow_all("127.0.0.1/32"));
    bench.ebpf.set_egress(run.slot, &list).unwrap();
    assert_eq!(agent.ask(&format!("answers apart x.example.org {server}:53 127.77.2.1")), "ok");
    let told = bench.until(|e| matches!(&e.what, What::Op(op) if matches!(op.what, OpWhat::DnsDoubted { .. })));
    let ops: Vec<_> =
        told.iter().filter_map(|e| if let What::Op(op) = &e.what { Some((e, op)) } else { None }).collect();
    let (_, last) = ops.last().unwrap();
    let server_of_it = server.parse().unwrap();
    assert_eq!(last.what, OpWhat::DnsDoubted { server: server_of_it, doubt: DnsDoubt::NetNs });
    // That it is in a namespace of its own is told by itself, with who did it.
    let (event, _) = ops.iter().find(|(_, op)| matches!(op.what, OpWhat::NetNs { .. })).expect("the namespace is told");
    assert_eq!(event.subject.pid, agent.pid());
    assert_eq!(agent.ask(&connect), "EPERM", "what it told itself allows nothing");
    // The same name from the real server, in the namespace of the run.
    let _real = Server::start(&format!("{server}:53"), "127.77.2.1".parse().unwrap());
    assert_eq!(agent.ask(&format!("resolve x.example.org {server}:53")), "ok");
    assert_eq!(agent.ask(&connect), "ok");
}

#[test]
fn a_run_cannot_answer_itself_at_the_servers_address_where_it_is() {
    let Some(mut bench) = ready("answers-here") else { return };
    let listener = TcpListener::bind("127.77.2.2:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = "127.53.9.2";
    let run = run_by(&mut bench, "a", server, port);
    let mut list = enforce(&[(&format!("{server}/32"), 53)]);
    list.rules.push(super::bench::allow_all("127.0.0.1/32"));
    bench.ebpf.set_egress(run.slot, &list).unwrap();
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("answers here x.example.org {server}:53 127.77.2.2")), "ok");
    assert_eq!(doubted(&mut bench), DnsDoubt::Sender);
    assert_eq!(agent.ask(&format!("tcp 127.77.2.2:{port}")), "EPERM");
    // Nor can another run answer for it.
    let other = bench.add("b", super::bench::OPEN_NET);
    let mut accomplice = Agent::start(&other.cgroup);
    assert_eq!(accomplice.ask(&format!("serve {server}:53 127.77.2.2")), "ok");
    assert_eq!(agent.ask(&format!("resolve x.example.org {server}:53")), "ok");
    assert_eq!(agent.ask(&format!("tcp 127.77.2.2:{port}")), "EPERM");
}

#[test]
fn only_what_was_asked_is_learnt() {
    let Some(mut bench) = ready("answers-unasked") else { return };
    let listener = TcpListener::bind("127.77.2.3:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = "127.53.9.3";
    let _server = Server::answering(&format!("{server}:53"), |question| {
        let mut reply = names::reply(question, Ipv4Addr::new(127, 77, 2, 3));
        match question[13] {
            // Another id; another name, of the same length; another type.
            b'i' => reply[0] ^= 1,
            b'n' => reply[13] = b'x',
            b't' => reply[question.len() - 3] = 28,
            _ => {}
        }
        reply
    });
    for (n, name) in ["i.example.org", "n.example.org", "t.example.org"].iter().enumerate() {
        let run = run_by(&mut bench, &format!("r{n}"), server, port);
        let mut agent = Agent::start(&run.cgroup);
        assert_eq!(agent.ask(&format!("resolve {name} {server}:53")), "ok");
        assert_eq!(doubted(&mut bench), DnsDoubt::Unasked, "{name}");
        assert_eq!(agent.ask(&format!("tcp 127.77.2.3:{port}")), "EPERM", "{name}");
        assert_eq!(agent.ask(&format!("resolve A.example.org {server}:53")), "ok");
        assert_eq!(agent.ask(&format!("tcp 127.77.2.3:{port}")), "ok", "{name}: what it did ask");
    }
}

/// An answer with so many addresses, each with its owner written out if `named`; the last is the one that is sought.
fn many(question: &[u8], count: u16, named: bool) -> Vec<u8> {
    let mut out = question.to_vec();
    out[2] |= 0x80;
    out[6..8].copy_from_slice(&count.to_be_bytes());
    for n in 1..=count {
        if named {
            out.extend(&question[12..question.len() - 4]);
        } else {
            out.extend([0xc0, 12]);
        }
        out.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        let [high, low] = n.to_be_bytes();
        out.extend(if n == count { [127, 77, 2, 4] } else { [10, 99, high, low] });
    }
    out
}

#[test]
fn every_address_of_an_answer_is_learnt_as_far_as_it_is_read_and_what_is_cut_is_reported() {
    let Some(mut bench) = ready("answers-many") else { return };
    let listener = TcpListener::bind("127.77.2.4:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = "127.53.9.4";
    let _server = Server::answering(&format!("{server}:53"), |question| {
        let count: u16 = String::from_utf8_lossy(&question[14..17]).parse().unwrap();
        many(question, count, question[13] == b'n')
    });
    let connect = format!("tcp 127.77.2.4:{port}");
    // 17 addresses were one too many; 200 reach far behind 1,024 bytes; owners written out were not read.
    for (n, (name, whole)) in
        [("c017", true), ("c200", true), ("n017", true), ("n120", true), ("c400", false)].iter().enumerate()
    {
        let run = run_by(&mut bench, &format!("r{n}"), server, port);
        let mut agent = Agent::start(&run.cgroup);
        assert_eq!(agent.ask(&format!("resolve {name}.example.org {server}:53")), "ok");
        if !whole {
            assert_eq!(doubted(&mut bench), DnsDoubt::Cut);
        }
        assert_eq!(agent.ask(&connect), if *whole { "ok" } else { "EPERM" }, "{name}");
    }
    // A name of the length that DNS allows.
    let long = format!("{0}.{0}.{0}.{1}.c001.example.org", "a".repeat(63), "b".repeat(44));
    assert_eq!(long.len(), 253);
    let _long = Server::answering("127.53.9.5:53", |question| many(question, 1, false));
    let run = run_by(&mut bench, "long", "127.53.9.5", port);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("resolve {long} 127.53.9.5:53")), "ok");
    assert_eq!(agent.ask(&connect), "ok");
}

#[test]
fn what_a_run_asks_its_name_servers_is_counted() {
    let Some(mut bench) = ready("answers-counted") else { return };
    let _server = Server::start("127.53.9.6:53", Ipv4Addr::new(127, 77, 2, 6));
    // Also where the policy names no host: port 53 of any server it may reach.
    let run = bench.add("a", &enforce(&[("127.53.9.6/32", 53)]));
    let mut agent = Agent::start(&run.cgroup);
    for _ in 0..3 {
        assert_eq!(agent.ask("resolve secret.example.org 127.53.9.6:53"), "ok");
    }
    assert_eq!(agent.ask("udp 127.53.9.7:53"), "EPERM");
    let counted = bench.counters(&run);
    // Headers of IP and UDP, of the message, the name, its type and class.
    let each = 20 + 8 + 12 + "secret.example.org".len() as u64 + 2 + 4;
    assert_eq!((counted.dns_queries, counted.dns_bytes), (3, 3 * each));
}

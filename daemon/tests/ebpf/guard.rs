//! The guard: what may leave a run, decided in the kernel.

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use failsafe_ebpf::abi::latch;
use failsafe_matchers::egress::{EgressMode, EgressPolicy, EgressRule, Protocol};
use failsafe_matchers::egress::{TCP, UDP, verdict};
use failsafe_matchers::rules::Rules;
use failsafed::guard::Error;
use failsafed::sensors::ebpf::{Held, NetOp, NetVerdict, What};

use super::agent::{Agent, read_some};
use super::bench::{OPEN_NET, allow, enforce, ready, soon};

#[test]
fn the_allow_list_decides_every_kind_of_call() {
    let Some(mut bench) = ready("egress") else { return };
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let open_port = open.local_addr().unwrap().port();
    let v6 = TcpListener::bind("[::1]:0").unwrap();
    let v6_port = v6.local_addr().unwrap().port();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let other_port = other.local_addr().unwrap().port();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let udp_port = udp.local_addr().unwrap().port();
    let mut policy = enforce(&[("127.0.0.1/32", open_port)]);
    policy.rules.push(allow("127.0.0.1/32", udp_port, Some(Protocol::Udp)));
    let run = bench.add("a", &policy);
    let mut agent = Agent::start(&run.cgroup);

    let cases = [
        (format!("tcp 127.0.0.1:{open_port}"), "ok"),
        (format!("tcp [::ffff:127.0.0.1]:{open_port}"), "ok"),
        (format!("tcp 0.0.0.0:{open_port}"), "ok"),
        (format!("tcp 127.0.0.1:{other_port}"), "EPERM"),
        (format!("tcp [::ffff:127.0.0.1]:{other_port}"), "EPERM"),
        (format!("tcp 0.0.0.0:{other_port}"), "EPERM"),
        (format!("tcp 127.0.0.2:{open_port}"), "EPERM"),
        (format!("tcp [::1]:{v6_port}"), "EPERM"),
        (format!("tcp [::]:{v6_port}"), "EPERM"),
        (format!("fastopen 127.0.0.1:{other_port}"), "EPERM"),
        (format!("udp 127.0.0.1:{udp_port}"), "ok"),
        (format!("udp [::ffff:127.0.0.1]:{udp_port}"), "ok"),
        (format!("udp 127.0.0.2:{udp_port}"), "EPERM"),
        (format!("udp [::1]:{udp_port}"), "EPERM"),
        (format!("udp [::ffff:127.0.0.3]:{udp_port}"), "EPERM"),
        (format!("udpconnect 127.0.0.1:{open_port}"), "ok"),
        (format!("udpconnect 127.0.0.2:{udp_port}"), "ok"),
        (format!("udpwrite 127.0.0.2:{udp_port}"), "EPERM"),
        ("raw".to_owned(), "EPERM"),
        ("mptcp".to_owned(), "EPERM"),
        ("sctp".to_owned(), "EPERM"),
    ];
    for (command, expected) in &cases {
        let got = agent.ask(command);
        // A kernel without the protocol refuses it in its own words.
        let absent = ["mptcp", "sctp"].contains(&command.as_str()) && got != "ok";
        assert!(got == *expected || absent, "{command}: {got}, not {expected}");
    }
    let mut buf = [0; 16];
    assert_eq!(udp.recv(&mut buf).unwrap(), 5);

    let agent_pid = agent.pid();
    let refused = bench.until(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Socket && n.sock_type == 3));
    let net: Vec<_> = refused
        .iter()
        .filter_map(|e| match &e.what {
            What::Net(n) => Some((e.subject.pid, n)),
            _ => None,
        })
        .collect();
    let has = |op, addr: &str, port, verdict, mapped| {
        net.iter().any(|(pid, n)| {
            *pid == agent_pid
                && n.op == op
                && n.verdict == verdict
                && n.port == port
                && n.mapped == mapped
                && n.addr == addr.parse::<std::net::IpAddr>().unwrap()
        })
    };
    assert!(has(NetOp::Connect, "127.0.0.1", open_port, NetVerdict::Allowed, false));
    assert!(has(NetOp::Connect, "127.0.0.1", open_port, NetVerdict::Allowed, true));
    assert!(has(NetOp::Connect, "127.0.0.2", open_port, NetVerdict::Denied, false));
    assert!(has(NetOp::Connect, "127.0.0.2", udp_port, NetVerdict::Probe, false));
    assert!(has(NetOp::Connect, "127.0.0.1", other_port, NetVerdict::Denied, true));
    assert!(has(NetOp::Connect, "::1", v6_port, NetVerdict::Denied, false));
    assert!(has(NetOp::Send, "127.0.0.2", udp_port, NetVerdict::Denied, false));
    assert!(has(NetOp::Send, "::1", udp_port, NetVerdict::Denied, false));
    let counters = bench.counters(&run);
    assert!(counters.denied_calls >= 12, "{counters:?}");
    assert_eq!(counters.dropped_packets, 1, "only the connected datagram got as far as a packet: {counters:?}");

    // Swapped in one step, and judged anew.
    bench.ebpf.set_egress(run.slot, &enforce(&[("127.0.0.1/32", other_port), ("::1/128", v6_port)])).unwrap();
    assert_eq!(agent.ask(&format!("tcp 127.0.0.1:{other_port}")), "ok");
    assert_eq!(agent.ask(&format!("tcp [::]:{v6_port}")), "ok");
    assert_eq!(agent.ask(&format!("tcp 127.0.0.1:{open_port}")), "EPERM");
    bench.ebpf.set_egress(run.slot, &EgressPolicy::default()).unwrap();
    assert_eq!(agent.ask(&format!("tcp 127.0.0.1:{open_port}")), "ok");
}

#[test]
fn a_socket_taken_out_of_the_run_stays_bounded() {
    let Some(mut bench) = ready("foreign") else { return };
    let run = bench.add("a", &enforce(&[("127.0.0.1/32", 9)]));
    let refuge = bench.cgroup("refuge");
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("udpkeep"), "ok");
    refuge.admit(agent.pid());
    assert_eq!(agent.ask("udp 127.0.0.2:9"), "ok", "a new socket is the refuge's");
    assert_eq!(agent.ask("sendkept 127.0.0.1:9"), "ok");
    assert_eq!(agent.ask("sendkept 127.0.0.2:9"), "EPERM");
    let events = bench.until(|e| matches!(&e.what, What::Net(n) if n.foreign));
    let last = events.last().unwrap();
    assert_eq!((last.slot, last.subject.pid), (run.slot, agent.pid()));
    assert!(matches!(&last.what, What::Net(n) if n.verdict == NetVerdict::Denied));
}

#[test]
fn where_a_socket_went_before_is_judged_anew_by_a_new_list_and_a_latch() {
    let Some(mut bench) = ready("again") else { return };
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    sink.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let to = sink.local_addr().unwrap();
    let list = enforce(&[("127.0.0.1/32", to.port())]);
    let run = bench.add_quiet("a", &list);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("udpkeep"), "ok");
    let arrives = |agent: &mut Agent| {
        assert_eq!(agent.ask(&format!("sendkept {to}")), "ok");
        sink.recv(&mut [0; 16]).unwrap();
    };
    for _ in 0..3 {
        arrives(&mut agent);
    }
    bench.ebpf.set_block(run.slot, true).unwrap();
    assert_eq!(agent.ask(&format!("sendkept {to}")), "EPERM");
    bench.ebpf.set_block(run.slot, false).unwrap();
    arrives(&mut agent);
    bench.ebpf.set_egress(run.slot, &enforce(&[("127.0.0.2/32", to.port())])).unwrap();
    assert_eq!(agent.ask(&format!("sendkept {to}")), "EPERM");
    bench.ebpf.set_egress(run.slot, &list).unwrap();
    arrives(&mut agent);
    // Out of the run the socket is still the run's.
    let refuge = bench.cgroup("refuge");
    refuge.admit(agent.pid());
    arrives(&mut agent);
    bench.ebpf.set_block(run.slot, true).unwrap();
    assert_eq!(agent.ask(&format!("sendkept {to}")), "EPERM");
}

/// Known leak, kept in view: cgroup hooks follow the socket's maker. If this ever fails, take it off the threat model.
#[test]
fn a_socket_brought_into_the_run_is_not_bounded() {
    let Some(mut bench) = ready("inherited") else { return };
    let run = bench.add("a", &enforce(&[]));
    let mut agent = Agent::start_outside();
    assert_eq!(agent.ask("udpkeep"), "ok");
    run.cgroup.admit(agent.pid());
    assert_eq!(agent.ask("udp 127.0.0.2:9"), "EPERM");
    assert_eq!(agent.ask("sendkept 127.0.0.2:9"), "ok");
}

/// The kernel's matcher against its twin, over random lists and destinations.
#[test]
fn the_kernel_decides_as_its_twin() {
    let Some(mut bench) = ready("twin") else { return };
    let run = bench.add_quiet("a", &enforce(&[]));
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("udpkeep"), "ok");
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |n: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % n
    };
    let mut allowed = 0;
    for _ in 0..60 {
        let rules: Vec<EgressRule> = (0..random(7))
            .map(|_| {
                let (net, lens): (String, &[u64]) = match random(4) {
                    0 => ("::1".into(), &[0, 64, 127, 128]),
                    1 => (format!("::ffff:127.0.0.{}", random(8)), &[96, 104, 126, 128]),
                    _ => (format!("127.0.{}.{}", random(2), random(8)), &[0, 8, 24, 29, 30, 31, 32]),
                };
                let len = lens[usize::try_from(random(lens.len() as u64)).unwrap()];
                let ports = (0..random(3)).map(|_| u16::try_from(1000 + random(12)).unwrap());
                EgressRule {
                    net: format!("{net}/{len}").parse().unwrap(),
                    ports: ports.map(|lo| lo..=lo + 3).collect(),
                    protocol: [None, Some(Protocol::Tcp), Some(Protocol::Udp)][usize::try_from(random(3)).unwrap()],
                }
            })
            .collect();
        bench.ebpf.set_egress(run.slot, &EgressPolicy { rules: rules.clone(), ..enforce(&[]) }).unwrap();
        for _ in 0..20 {
            let port = u16::try_from(998 + random(18)).unwrap();
            let host = match random(5) {
                0 => "[::1]".to_owned(),
                1 => format!("[::ffff:127.0.0.{}]", random(8)),
                2 => "0.0.0.0".to_owned(),
                _ => format!("127.0.{}.{}", random(2), random(8)),
            };
            let addr = host.trim_matches(['[', ']']).parse().unwrap();
            for (call, proto) in [("udp", UDP), ("tcp", TCP)] {
                let got = agent.ask(&format!("{call} {host}:{port}"));
                let expected = verdict(&rules, addr, port, proto);
                assert_eq!(got != "EPERM", expected, "{call} {host}:{port}: {got}, under {rules:?}");
                allowed += u32::from(expected);
            }
            // The one socket that goes everywhere: what it was allowed before says nothing of where it goes now.
            if host.starts_with("127.") {
                let expected = verdict(&rules, addr, port, UDP);
                for _ in 0..2 {
                    let got = agent.ask(&format!("sendkept {host}:{port}"));
                    assert_eq!(got != "EPERM", expected, "sendkept {host}:{port}: {got}, under {rules:?}");
                }
            }
        }
    }
    assert!((200..2200).contains(&allowed), "{allowed} of 2400 allowed: too one-sided to say much");
}

#[test]
fn a_denied_destination_is_refused_whatever_the_list_allows_and_may_stop_the_run() {
    let Some(mut bench) = ready("denied") else { return };
    let to = |net: &str, ports: &[u16], protocol| EgressRule {
        net: net.parse().unwrap(),
        ports: ports.iter().map(|port| *port..=*port).collect(),
        protocol,
    };
    let stops = vec![to("127.0.0.4/32", &[], None)];
    let denied = [
        to("127.0.0.2/32", &[], None),
        to("127.0.0.0/29", &[1001], Some(Protocol::Udp)),
        to("::1/128", &[1001], None),
        stops[0].clone(),
    ];
    let rules = Rules { net_denied: denied.to_vec(), net_stops: stops, ..Rules::default() };
    for (name, list) in
        [("listed", enforce(&[("127.0.0.0/8", 1000), ("127.0.0.0/8", 1001)])), ("free", OPEN_NET.clone())]
    {
        let run = bench.add_ruled(name, &list, &rules);
        let mut agent = Agent::start(&run.cgroup);
        assert_eq!(agent.ask("udpkeep"), "ok");
        for (call, refused) in [
            ("udp 127.0.0.1:1000", false),
            ("udp 127.0.0.2:1000", true),
            ("tcp 127.0.0.2:1000", true),
            ("udp 127.0.0.1:1001", true),
            ("tcp 127.0.0.1:1001", false),
            ("udp [::ffff:127.0.0.2]:1000", true),
            ("sendkept 127.0.0.1:1000", false),
            ("sendkept 127.0.0.2:1000", true),
            ("sendkept 127.0.0.1:1000", false),
            ("sendkept 127.0.0.1:1001", true),
        ] {
            assert_eq!(agent.ask(call) == "EPERM", refused, "{name}: {call}");
        }
        assert_eq!(agent.ask("tcp [::1]:1001"), "EPERM");
        assert_eq!(bench.ebpf.latch(run.slot).unwrap(), 0);
        // Where LSM is, the caller stands still in the call.
        agent.tell("tcp 127.0.0.4:1000");
        soon("the latch", || bench.ebpf.latch(run.slot).unwrap() == latch::EGRESS | latch::STOP);
    }
}

#[test]
fn observing_reports_and_lets_pass() {
    let Some(mut bench) = ready("observe") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let policy = EgressPolicy { mode: EgressMode::Observe, ..EgressPolicy::default() };
    let run = bench.add("a", &policy);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("tcp 127.0.0.1:{port}")), "ok");
    bench.until(|e| {
        matches!(&e.what, What::Net(n) if n.op == NetOp::Connect && n.port == port && n.verdict == NetVerdict::WouldDeny)
    });
}

#[test]
fn a_block_stops_everything_and_can_be_lifted() {
    let Some(mut bench) = ready("block") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let run = bench.add("a", &EgressPolicy::default());
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("open 127.0.0.1:{port}")), "ok");
    let (mut peer, _) = listener.accept().unwrap();
    assert_eq!(agent.ask("write"), "ok");
    assert_eq!(read_some(&mut peer), 5);

    bench.ebpf.set_block(run.slot, true).unwrap();
    assert!(bench.ebpf.is_blocked(run.slot).unwrap());
    assert_eq!(agent.ask(&format!("tcp 127.0.0.1:{port}")), "EPERM");
    assert_eq!(agent.ask(&format!("udp 127.0.0.1:{port}")), "EPERM");
    assert_eq!(agent.ask("bind"), "EPERM");
    // An open connection: the call is the socket buffer's, the packet does not leave.
    agent.ask("write");
    bench.until(
        |e| matches!(&e.what, What::Net(n) if n.op == NetOp::Packet && n.held == Some(Held::Latched) && n.port == port),
    );
    assert!(bench.counters(&run).dropped_packets > 0);
    peer.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(read_some(&mut peer), 0);

    bench.ebpf.set_block(run.slot, false).unwrap();
    assert_eq!(agent.ask(&format!("tcp 127.0.0.1:{port}")), "ok");
    // TCP sends again what was dropped.
    peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(read_some(&mut peer), 5);
}

#[test]
fn connections_from_before_the_policy_are_cut_and_accepted_ones_answer() {
    let Some(mut bench) = ready("standing") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let run = bench.add("a", &EgressPolicy::default());
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("open 127.0.0.1:{port}")), "ok");
    let (mut peer, _) = listener.accept().unwrap();
    // Nothing at all may be opened from here on.
    bench.ebpf.set_egress(run.slot, &enforce(&[])).unwrap();
    agent.ask("write");
    bench.until(|e| {
        matches!(&e.what, What::Net(n) if n.op == NetOp::Packet && n.verdict == NetVerdict::Denied && n.port == port)
    });
    peer.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(read_some(&mut peer), 0);

    // But who connects to the run is answered.
    let local: u16 = agent.ask("listen").parse().unwrap();
    let mut client = std::net::TcpStream::connect(("127.0.0.1", local)).unwrap();
    assert_eq!(agent.ask("greet"), "ok");
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(read_some(&mut client), 5);
    // Unless the policy says otherwise.
    bench.ebpf.set_egress(run.slot, &EgressPolicy { judge_replies: true, ..enforce(&[]) }).unwrap();
    agent.ask("greet");
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(read_some(&mut client), 0);
}

#[test]
fn counters_count_the_bytes_of_the_run_only() {
    let Some(mut bench) = ready("bytes") else { return };
    let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = sink.local_addr().unwrap().port();
    let run = bench.add("a", &EgressPolicy::default());
    let mut agent = Agent::start(&run.cgroup);
    let before = bench.counters(&run);
    for _ in 0..10 {
        assert_eq!(agent.ask(&format!("udp 127.0.0.1:{port}")), "ok");
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"noise", ("127.0.0.1", port)).unwrap();
    }
    let after = bench.counters(&run);
    assert_eq!(after.egress_packets - before.egress_packets, 10);
    // 20 bytes of IPv4, 8 of UDP, 5 of ours.
    assert_eq!(after.egress_bytes - before.egress_bytes, 330);

    let local: u16 = agent.ask("udpbind").parse().unwrap();
    sink.send_to(b"hello!!", ("127.0.0.1", local)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.counters(&run).ingress_packets == after.ingress_packets && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert_eq!(bench.counters(&run).ingress_bytes - after.ingress_bytes, 35);
}

#[test]
fn bad_requests_are_refused_and_leave_nothing_behind() {
    let Some(mut bench) = ready("bad") else { return };
    let run = bench.add("a", &EgressPolicy::default());
    let below = run.cgroup.child("below");
    let off = EgressPolicy::default();
    assert!(matches!(bench.try_add(&below, 7, &off), Err(Error::Nested { .. })));
    let free = bench.cgroup("free");
    assert!(matches!(bench.try_add(&free, run.slot, &off), Err(Error::Slot(_))));
    assert!(matches!(bench.try_add(&free, u32::MAX, &off), Err(Error::Slot(_))));
    let many = EgressPolicy {
        mode: EgressMode::Enforce,
        rules: vec![EgressRule {
            net: "10.0.0.0/8".parse().unwrap(),
            ports: (0..40).map(|p| p * 9..=p * 9).collect(),
            protocol: None,
        }],
        ..off.clone()
    };
    assert!(matches!(bench.try_add(&free, 9, &many), Err(Error::Egress(_))));
    let pins = std::fs::read_dir(bench.ebpf.pin_dir().unwrap()).unwrap().count();
    let second = bench.try_add(&free, 9, &off).unwrap();
    assert!(second.pinned && second.missing.is_empty());
    bench.ebpf.remove_run(9).unwrap();
    assert_eq!(std::fs::read_dir(bench.ebpf.pin_dir().unwrap()).unwrap().count(), pins);
}

#[test]
fn guards_outlive_the_daemon_and_are_taken_over_without_a_gap() {
    let Some(mut bench) = ready("outlive") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = bench.cgroup("held");
    let blocked = bench.cgroup("blocked");
    // Another process is the daemon that dies; we are the one that comes after.
    let instance = bench.instance("dies");
    let mut first = Agent::start_outside();
    assert_eq!(first.ask(&format!("guard {instance} {} {}", held.path.display(), blocked.path.display())), "ok");
    let mut inside = Agent::start(&held);
    let mut shut = Agent::start(&blocked);
    first.kill();
    for _ in 0..3 {
        assert_eq!(inside.ask(&format!("tcp 127.0.0.1:{port}")), "EPERM");
        assert_eq!(shut.ask(&format!("udp 127.0.0.1:{port}")), "EPERM");
    }

    bench.reload(&instance);
    let mut previous = bench.ebpf.previous_runs().unwrap();
    previous.sort_by_key(|p| p.slot);
    let seen: Vec<_> = previous.iter().map(|p| (p.root_id, p.enforced, p.latch)).collect();
    assert_eq!(seen, [(held.id, true, 0), (blocked.id, false, 1)]);
    // All the while the old run tries: none may get through.
    inside.tell(&format!("storm 20000 127.0.0.1:{port}"));
    bench.try_add(&held, 0, &enforce(&[])).unwrap();
    assert_eq!(bench.ebpf.adopt_finish().unwrap(), 1);
    assert_eq!(inside.answer(), "ok", "storm: every connect was refused");
    // The second run was not taken over: its guard is gone with the old generation.
    assert_eq!(shut.ask(&format!("udp 127.0.0.1:{port}")), "ok");
    bench.ebpf.remove_run(0).unwrap();
    assert_eq!(inside.ask(&format!("tcp 127.0.0.1:{port}")), "ok");
}

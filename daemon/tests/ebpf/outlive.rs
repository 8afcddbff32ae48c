//! From one daemon to the next: what was let through goes on, what was counted counts on. Dropping an [`Ebpf`] is the death of its
//! daemon: what is pinned stays.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use failsafe_ebpf::abi::{latch, mode};
use failsafe_matchers::calls::WatchedCall;
use failsafe_matchers::egress::EgressPolicy;
use failsafe_matchers::hosts::HostRule;
use failsafe_matchers::rules::Rules;
use failsafed::guard::{Ebpf, RunSpec};
use failsafed::sensors::ebpf::{EventReader, NetOp, NetVerdict, RunCounters, What, leaving};

use super::agent::{Agent, read_some};
use super::bench::{Bench, OPEN_NET, TestCgroup, config_of, enforce, ready, soon, spec};

/// Starts a daemon of the bench's instance `daemons` that has the run in slot 0.
fn daemon(bench: &Bench, cgroup: &TestCgroup, egress: &EgressPolicy, rules: &Rules, adopt: bool) -> Ebpf {
    let mut ebpf = Ebpf::load(&config_of(&bench.instance("daemons"))).unwrap();
    ebpf.pin_dir().unwrap();
    ebpf.add_run(&RunSpec { rules, adopt, ..spec(cgroup, 0, egress) }).unwrap();
    ebpf
}

fn totals(ebpf: &Ebpf) -> RunCounters {
    ebpf.read_counters().unwrap()[0].into()
}

#[test]
fn accepted_connections_and_hosts_that_were_learnt_are_let_through_by_the_next_daemon() {
    let Some(bench) = ready("handed") else { return };
    let listener = TcpListener::bind("127.78.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = super::names::Server::start("127.53.8.1:53", "127.78.0.1".parse().unwrap());
    let list = enforce(&[("127.53.8.1/32", 53)]);
    let rules = Rules {
        hosts: vec![HostRule { name: "example.org".into(), below: false, ports: vec![port..=port], protocol: None }],
        dns_servers: vec!["127.53.8.1".parse().unwrap()],
        ..Rules::default()
    };
    let cgroup = bench.cgroup("a");
    let first = daemon(&bench, &cgroup, &list, &rules, false);
    let mut agent = Agent::start(&cgroup);
    let connect = format!("tcp 127.78.0.1:{port}");
    assert_eq!(agent.ask(&connect), "EPERM");
    assert_eq!(agent.ask(&format!("resolve example.org {}", server.address)), "ok");
    assert_eq!(agent.ask(&format!("open 127.78.0.1:{port}")), "ok");
    let (mut peer, _) = listener.accept().unwrap();
    let local: u16 = agent.ask("listen").parse().unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", local)).unwrap();
    for stream in [&peer, &client] {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    }
    let mut flows = |when: &str| {
        assert_eq!(agent.ask(&connect), "ok", "{when}: a host that was learnt");
        assert_eq!((agent.ask("write"), read_some(&mut peer)), ("ok".into(), 5), "{when}: a connection to it");
        assert_eq!((agent.ask("greet"), read_some(&mut client)), ("ok".into(), 5), "{when}: an accepted one");
        assert_eq!(agent.ask("tcp 127.78.0.1:9"), "EPERM", "{when}: another port");
    };
    flows("at first");
    drop(first);
    flows("while no daemon runs");
    // One that dies before it has removed the last one's programs, and one that removes both's.
    let second = daemon(&bench, &cgroup, &list, &rules, true);
    flows("while both daemons' programs are attached");
    drop(second);
    let mut third = daemon(&bench, &cgroup, &list, &rules, true);
    assert_eq!(third.adopt_finish().unwrap(), 2);
    flows("under the next daemon");
}

/// Whose number was that of the list before: the first list of each daemon's life.
#[test]
fn a_connection_is_judged_anew_by_another_list_of_the_next_daemon() {
    let Some(bench) = ready("anew") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let cgroup = bench.cgroup("a");
    let allowed = enforce(&[("127.0.0.1/32", port)]);
    let first = daemon(&bench, &cgroup, &allowed, &Rules::default(), false);
    let mut agent = Agent::start(&cgroup);
    assert_eq!(agent.ask(&format!("open 127.0.0.1:{port}")), "ok");
    let (mut peer, _) = listener.accept().unwrap();
    assert_eq!((agent.ask("write"), read_some(&mut peer)), ("ok".into(), 5));
    drop(first);
    let mut second = daemon(&bench, &cgroup, &enforce(&[]), &Rules::default(), true);
    second.adopt_finish().unwrap();
    let mut reader = EventReader::of(second.take_ring().unwrap());
    let before = totals(&second).dropped_packets;
    agent.ask("write");
    soon("the drop", || totals(&second).dropped_packets > before);
    let mut refused = 0;
    reader.drain(&mut |event| {
        let packet =
            |what: &What| matches!(what, What::Net(n) if n.op == NetOp::Packet && n.verdict == NetVerdict::Denied);
        refused += u32::from(packet(&event.what));
    });
    assert!(refused > 0);
}

#[test]
fn totals_go_on_and_what_was_counted_while_no_daemon_looked_is_known() {
    let Some(bench) = ready("totals") else { return };
    let cgroup = bench.cgroup("a");
    let list = enforce(&[]);
    let mut agent = Agent::start_outside();
    let mut first = daemon(&bench, &cgroup, &list, &Rules::default(), false);
    cgroup.admit(agent.pid());
    let mut refused = |n: u32| (0..n).for_each(|_| assert_eq!(agent.ask("tcp 127.0.0.1:9"), "EPERM"));
    refused(1);
    assert_eq!(first.sample_counters().unwrap()[0].total.counters.denied_calls, 1);
    assert_eq!(first.outage(0), None);
    drop(first);
    refused(2);
    let mut second = daemon(&bench, &cgroup, &list, &Rules::default(), true);
    second.adopt_finish().unwrap();
    let outage = second.outage(0).unwrap();
    assert!(outage.since_ns.is_some());
    assert_eq!((outage.counted.counters.denied_calls, totals(&second).denied_calls), (2, 3));
    refused(1);
    assert_eq!(totals(&second).denied_calls, 4);
    // It dies before it looked at all: what its programs counted is not lost either.
    drop(second);
    let third = daemon(&bench, &cgroup, &list, &Rules::default(), true);
    let outage = third.outage(0).unwrap();
    assert_eq!((outage.counted.counters.denied_calls, totals(&third).denied_calls), (3, 4));
}

#[test]
fn in_which_modes_a_run_was_is_known_to_the_next_daemon() {
    let Some(bench) = ready("modes") else { return };
    let cgroup = bench.cgroup("a");
    let list = enforce(&[]);
    let had = |ebpf: &Ebpf| ebpf.modes(0, ebpf.read_counters().unwrap()[0].epoch).unwrap();
    let observing = Rules { observing: true, ..Rules::default() };
    let first = daemon(&bench, &cgroup, &list, &observing, false);
    assert_eq!(had(&first), mode::OBSERVED | mode::OBSERVES);
    drop(first);
    let second = daemon(&bench, &cgroup, &list, &Rules::default(), true);
    assert_eq!(second.previous_runs().unwrap()[0].observes(), Some(true));
    assert_eq!(had(&second), mode::ENFORCED | mode::OBSERVED);
    drop(second);
    // Two generations, of which one refuses.
    let third = Ebpf::load(&config_of(&bench.instance("daemons"))).unwrap();
    assert_eq!(third.previous_runs().unwrap()[0].observes(), Some(false));
    drop(third);
    let mut fourth = daemon(&bench, &cgroup, &list, &observing, true);
    fourth.adopt_finish().unwrap();
    assert_eq!(had(&fourth), mode::ENFORCED | mode::OBSERVED | mode::OBSERVES);
    // Said to be adopted, and nothing is there of an earlier daemon.
    let other = bench.cgroup("b");
    fourth.add_run(&RunSpec { slot: 1, adopt: true, ..spec(&other, 1, &list) }).unwrap();
    let epoch = fourth.read_counters().unwrap().iter().find(|counted| counted.slot == 1).unwrap().epoch;
    assert_eq!(fourth.modes(1, epoch), Some(mode::ENFORCED | mode::UNKNOWN));
}

#[test]
fn who_left_under_a_full_ring_while_no_daemon_read_it_is_known_to_the_next() {
    let Some(bench) = ready("left-full") else { return };
    let (cgroup, refuge) = (bench.cgroup("a"), bench.cgroup("refuge"));
    let list = enforce(&[]);
    drop(daemon(&bench, &cgroup, &list, &Rules::default(), false));
    let mut agent = Agent::start(&cgroup);
    // The second half of the ring takes 1,000 records a second of one run, and has room for fewer than 300.
    let full = Instant::now() + Duration::from_secs(1);
    while Instant::now() < full {
        assert_eq!(agent.ask("storm 2000 127.0.0.1:9"), "ok");
    }
    assert_eq!(agent.ask(&format!("moveto {}", refuge.path.display())), "ok");
    let mut next = daemon(&bench, &cgroup, &list, &Rules::default(), true);
    let left = next.left_events();
    next.adopt_finish().unwrap();
    let leavers: Vec<_> = left.iter().flat_map(|left| left.leavers()).map(leaving).collect();
    assert!(
        matches!(&leavers[..], [e] if e.subject.pid == agent.pid() && matches!(e.what, What::Leave(_))),
        "{leavers:?}"
    );
    let counters = totals(&next);
    assert!(counters.lost > 0);
    assert_eq!((counters.earlier_lost, next.outage(0).unwrap().lost), (counters.lost, counters.lost));
}

#[test]
fn watched_calls_are_seen_and_stopped_while_no_daemon_runs() {
    let Some(bench) = ready("calls-on") else { return };
    let cgroup = bench.cgroup("a");
    let (seen, stops) = (WatchedCall::from_name("memfd_create").unwrap(), WatchedCall::from_name("keyctl").unwrap());
    let rules = Rules { watch: seen.mask() | stops.mask(), stop: stops.mask(), ..Rules::default() };
    let mut first = daemon(&bench, &cgroup, OPEN_NET, &rules, false);
    assert!(first.require_syscalls(rules.watch, false).unwrap().is_some());
    drop(first);
    let mut agent = Agent::start(&cgroup);
    assert_eq!(agent.ask("memfd"), "ok");
    // It stands still in the call.
    agent.tell("keyctl");
    let mut next = daemon(&bench, &cgroup, OPEN_NET, &rules, true);
    next.require_syscalls(rules.watch, false).unwrap();
    soon("the stop", || next.previous_runs().unwrap().iter().any(|run| run.latch & latch::STOP != 0));
    let mut left = next.left_events();
    next.adopt_finish().unwrap();
    assert!(next.outage(0).unwrap().calls);
    let mut calls = Vec::new();
    EventReader::of(left.remove(0).ring).drain(&mut |event| {
        if let What::Syscall { call, .. } = &event.what {
            calls.push(call.name());
        }
    });
    assert_eq!(calls, ["memfd_create", "keyctl"]);
}

#[test]
fn a_run_under_programs_of_another_abi_stays_contained() {
    let Some(bench) = ready("abi") else { return };
    let (known, unknown) = (bench.cgroup("known"), bench.cgroup("unknown"));
    let mut first = daemon(&bench, &known, OPEN_NET, &Rules::default(), false);
    first.set_block(0, true).unwrap();
    let pins = first.pin_dir().unwrap().to_owned();
    drop(first);
    fs::rename(&pins, pins.with_file_name("g1_v999")).unwrap();
    // Of this one nothing is there but a name: that of the cgroup's link.
    let other = pins.with_file_name("g2_v998");
    fs::create_dir(&other).unwrap();
    let link = other.join(format!("link_1_{}_fs_egress", unknown.id));
    fs::rename(pins.with_file_name("g1_v999").join("map_tallies"), link).unwrap();
    let mut next = daemon(&bench, &known, OPEN_NET, &Rules::default(), true);
    next.add_run(&RunSpec { adopt: true, ..spec(&unknown, 1, OPEN_NET) }).unwrap();
    assert_eq!(next.adopt_finish().unwrap(), 2);
    for (slot, cgroup, found) in [(0, &known, (999, true)), (1, &unknown, (998, false))] {
        let foreign = next.outage(slot).unwrap().foreign.unwrap();
        assert_eq!((foreign.abi, foreign.latch), found);
        let mut agent = Agent::start(cgroup);
        assert_eq!(agent.ask("tcp 127.0.0.1:9"), "EPERM");
        next.set_block(slot, false).unwrap();
        // The old programs hold it until the kernel has let go of them.
        soon("the end of it", || agent.ask("tcp 127.0.0.1:9") == "ECONNREFUSED");
    }
}

#[test]
fn a_stray_of_an_earlier_daemons_time_is_one_to_the_next() {
    let Some(bench) = ready("strays-on") else { return };
    let (cgroup, refuge) = (bench.cgroup("a"), bench.cgroup("refuge"));
    let first = daemon(&bench, &cgroup, OPEN_NET, &Rules::default(), false);
    let mut agent = Agent::start(&cgroup);
    assert_eq!(agent.ask(&format!("moveto {}", refuge.path.display())), "ok");
    drop(first);
    let mut next = daemon(&bench, &cgroup, OPEN_NET, &Rules::default(), true);
    next.adopt_finish().unwrap();
    let mut reader = EventReader::of(next.take_ring().unwrap());
    assert_eq!(agent.ask("exec /bin/true"), "ok");
    let mut left = Vec::new();
    reader.drain(&mut |event| {
        if let What::Leave(moved) = &event.what {
            left.push((event.subject.ppid, moved.by_clone));
        }
    });
    assert_eq!(left, [(agent.pid(), true)]);
}

//! Rules on the network beside the allow-list: kinds of sockets, ports, budgets, names.

use failsafe_ebpf::abi::{latch, point};
use failsafe_matchers::egress::{EgressMode, EgressPolicy, EgressRule, Protocol};
use failsafe_matchers::hosts::{BudgetRule, HostRule, WatchedName};
use failsafe_matchers::rules::{Effect, Rules, Use};
use failsafed::guard::Sights;
use failsafed::sensors::ebpf::{DnsDoubt, Gain, NetOp, OpWhat, Way, What};

use super::agent::Agent;
use super::bench::{OPEN_NET, allow_all, enforce, ready, ready_without_lsm, soon};
use super::rules::{next_op, on, released, state_of};
use super::skip::skip;

#[test]
fn a_refused_connect_can_stop_the_run() {
    let Some(mut bench) = ready("netstop") else { return };
    let rules = Rules { stop: 1 << point::NET, ..Rules::default() };
    let run = bench.add_ruled("a", &enforce(&[]), &rules);
    let mut agent = Agent::start(&run.cgroup);
    agent.tell("tcp 127.0.0.1:9");
    bench.until(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Connect && n.port == 9));
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), latch::EGRESS | latch::STOP);
    if bench.ebpf.is_loaded("fs_lsm_socket_connect") {
        soon("the caller's stop", || state_of(agent.pid()) == "T");
        released(&mut bench, &run, agent.pid());
    }
    assert_eq!(agent.answer(), "EPERM");
}

#[test]
fn odd_socket_families_are_refused_where_the_network_is_bounded() {
    let Some(mut bench) = ready("families") else { return };
    if !bench.has_lsm("socket_create") {
        return;
    }
    let run = bench.add("a", &enforce(&[]));
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask(&format!("family {}", libc::AF_PACKET)), "EPERM");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Socket { family: 17, .. }));
    assert!(op.denied);
    let free = bench.add_ruled("b", OPEN_NET, &Rules { families: vec![(16, Effect::Deny)], ..Rules::default() });
    let mut agent = Agent::start(&free.cgroup);
    assert_eq!(agent.ask(&format!("family {}", libc::AF_PACKET)), "ok");
    assert_eq!(agent.ask(&format!("family {}", libc::AF_NETLINK)), "EPERM");
}

#[test]
fn ports_to_listen_on_and_bind_are_refused_by_number() {
    let Some(mut bench) = ready("ports") else { return };
    let anything = |effect| ["0.0.0.0/0", "::/0"].map(|net| (allow_all(net), effect)).to_vec();
    let rules = Rules { bind: anything(Effect::Deny), ..Rules::default() };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    let mut agent = Agent::start(&run.cgroup);
    assert_eq!(agent.ask("bind"), "EPERM");
    if !bench.has_lsm("socket_listen") {
        return;
    }
    let listen = bench.add_ruled("b", OPEN_NET, &Rules { listen: anything(Effect::Deny), ..Rules::default() });
    let mut agent = Agent::start(&listen.cgroup);
    assert_eq!(agent.ask("listen"), "EPERM");
    assert!(next_op(&mut bench, |w| matches!(w, OpWhat::Listen { .. })).denied);
}

#[test]
fn without_lsm_who_listens_is_reported_by_the_tracepoint() {
    let Some(mut bench) = ready_without_lsm("listens") else { return };
    let at = |net: &str| EgressRule { net: net.parse().unwrap(), ports: vec![28804..=28804], protocol: None };
    let listen = vec![(at("127.0.0.0/8"), Effect::Observe), (at("127.0.0.2/32"), Effect::Stop)];
    let run = bench.add_ruled("a", OPEN_NET, &Rules { listen, ..Rules::default() });
    bench.ebpf.require_sights(Sights { listens: true, ..Sights::default() }).unwrap();
    let mut agent = Agent::start(&run.cgroup);
    let listens = |address: &str| OpWhat::Listen { address: address.parse().unwrap(), port: 28804, protocol: 6 };
    assert_eq!(agent.ask("listento 127.0.0.1:28805"), "ok");
    assert_eq!(agent.ask("listento [::ffff:127.0.0.1]:28804"), "ok");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Listen { .. }));
    assert_eq!((op.what, op.denied, op.via), (listens("127.0.0.1"), false, Way::Tracepoint));
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), 0);
    agent.tell("listento 127.0.0.2:28804");
    assert_eq!(next_op(&mut bench, |w| matches!(w, OpWhat::Listen { .. })).what, listens("127.0.0.2"));
    soon("the caller's stop", || state_of(agent.pid()) == "T");
    released(&mut bench, &run, agent.pid());
    assert_eq!(agent.answer(), "ok");
    bench.ebpf.require_sights(Sights::default()).unwrap();
    assert_eq!(agent.ask("listento 127.0.0.3:28804"), "ok");
    let told = bench.drain().iter().any(|e| matches!(e.what, What::Op(_)));
    assert!(!told, "nobody is told of what no rule needs");
}

#[test]
fn without_lsm_sockets_and_user_namespaces_are_reported_at_their_calls() {
    let Some(mut bench) = ready_without_lsm("entries") else { return };
    let rules = Rules {
        families: vec![(libc::AF_PACKET as u16, Effect::Deny), (libc::AF_ALG as u16, Effect::Observe)],
        watch: 1 << point::PRIV_USERNS,
        ..Rules::default()
    };
    let run = bench.add_ruled("a", OPEN_NET, &rules);
    bench.ebpf.require_syscalls(0, true).unwrap();
    let mut agent = Agent::start(&run.cgroup);
    for family in [libc::AF_NETLINK, libc::AF_PACKET, libc::AF_ALG] {
        agent.ask(&format!("family {family}"));
    }
    for wanted in [libc::AF_PACKET, libc::AF_ALG] {
        let op = next_op(&mut bench, |w| matches!(w, OpWhat::Socket { .. }));
        assert!(matches!(op.what, OpWhat::Socket { family, .. } if i32::from(family) == wanted), "{op:?}");
        assert_eq!((op.denied, op.via), (false, Way::SysEnter));
    }
    // io_uring makes them without a call.
    let rings = bench.add_ruled("rings", OPEN_NET, &rules);
    bench.ebpf.require_sights(Sights::of(&rules)).unwrap();
    let mut agent = Agent::start(&rings.cgroup);
    agent.ask(&format!("ringfamily {}", libc::AF_NETLINK));
    agent.ask(&format!("ringfamily {}", libc::AF_PACKET));
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Socket { .. }));
    assert!(matches!(op.what, OpWhat::Socket { family, .. } if i32::from(family) == libc::AF_PACKET), "{op:?}");
    assert_eq!((op.denied, op.via), (false, Way::Tracepoint));
    for way in ["unshare", "clone", "clone3"] {
        // A run for each: of one the same is told once a second.
        let run = bench.add_ruled(way, OPEN_NET, &rules);
        assert_eq!(Agent::start(&run.cgroup).ask(&format!("userns {way}")), "ok");
        let op = next_op(&mut bench, |w| matches!(w, OpWhat::Privilege(_)));
        assert_eq!((op.what, op.denied, op.via), (OpWhat::Privilege(Gain::Userns), false, Way::SysEnter), "{way}");
    }
    bench.ebpf.require_syscalls(0, false).unwrap();
}

#[test]
fn what_may_be_bound_is_reported_by_address_port_and_protocol() {
    let Some(mut bench) = ready("binds") else { return };
    let at = |net: &str, ports: &[u16], protocol| EgressRule {
        net: net.parse().unwrap(),
        ports: ports.iter().map(|port| *port..=*port).collect(),
        protocol,
    };
    let bind = vec![
        (at("127.0.0.2/32", &[], None), Effect::Deny),
        (at("127.0.0.0/29", &[28801], Some(Protocol::Udp)), Effect::Deny),
        (at("0.0.0.0/32", &[], None), Effect::Deny),
        (at("::1/128", &[28802], None), Effect::Stop),
    ];
    let run = bench.add_ruled("a", OPEN_NET, &Rules { bind, ..Rules::default() });
    let mut agent = Agent::start(&run.cgroup);
    for (bound, refused) in [
        ("udp 127.0.0.1:0", false),
        ("udp 127.0.0.1:28801", true),
        ("tcp 127.0.0.1:28801", false),
        ("tcp 127.0.0.2:0", true),
        ("tcp [::ffff:127.0.0.2]:0", true),
        ("udp [::ffff:127.0.0.1]:28801", true),
        ("tcp 0.0.0.0:0", true),
        ("tcp [::ffff:0.0.0.0]:0", true),
        ("tcp [::]:0", false),
        ("tcp [::1]:28803", false),
    ] {
        assert_eq!(agent.ask(&format!("bindto {bound}")) == "EPERM", refused, "{bound}");
    }
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), 0);
    bench.ebpf.require_sights(Sights { stop_address: true, ..Sights::default() }).unwrap();
    agent.tell("bindto tcp [::1]:28802");
    bench.until(|e| matches!(&e.what, What::Net(n) if n.op == NetOp::Bind && n.port == 28802));
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), latch::EGRESS | latch::STOP);
    // Where the kernel grants fexit the caller stands still in the call.
    if bench.ebpf.is_loaded("fs_stop_address") {
        soon("the caller's stop", || state_of(agent.pid()) == "T");
        released(&mut bench, &run, agent.pid());
    }
    assert_eq!(agent.answer(), "EPERM");
}

#[test]
fn who_stops_its_run_by_a_send_or_a_device_stands_still_in_the_call() {
    let Some(mut bench) = ready("still") else { return };
    if !bench.ebpf.is_loaded("fs_stop_address") {
        return skip("this kernel refuses fexit");
    }
    bench.ebpf.require_sights(Sights { stop_address: true, stop_device: true, ..Sights::default() }).unwrap();
    let rules = Rules {
        net_denied: vec![allow_all("127.0.0.4/32")],
        net_stops: vec![allow_all("127.0.0.4/32")],
        paths: vec![on("/dev/full", false, Use::Read, Effect::Stop)],
        ..Rules::default()
    };
    for (name, call) in [("send", "udp 127.0.0.4:9"), ("device", "read /dev/full")] {
        let run = bench.add_ruled(name, OPEN_NET, &rules);
        let (mut agent, mut other) = (Agent::start(&run.cgroup), Agent::start_outside());
        assert_eq!(agent.ask("udp 127.0.0.5:9"), "ok");
        agent.tell(call);
        soon("the caller's stop", || state_of(agent.pid()) == "T");
        assert_eq!(other.ask("udp 127.0.0.4:9"), "ok", "whoever is in no run goes on");
        released(&mut bench, &run, agent.pid());
        assert_eq!(agent.answer(), "EPERM", "{call}");
    }
}

#[test]
fn a_budget_of_bytes_ends_in_drops_and_the_rest_of_the_list_goes_on() {
    let Some(mut bench) = ready("budget") else { return };
    let mut list = enforce(&[]);
    list.rules = vec![super::bench::allow_all("127.0.0.0/8")];
    // 5 bytes of payload and 28 of headers each: the fourth is too much.
    let budget = BudgetRule { to: vec!["127.88.0.0/16".parse().unwrap()], bytes: 100, rate: 0, stop: false };
    let run = bench.add_ruled("a", &list, &Rules { budgets: vec![budget], ..Rules::default() });
    let mut agent = Agent::start(&run.cgroup);
    let sent: Vec<String> = (0..5).map(|_| agent.ask("udp 127.88.0.1:9")).collect();
    assert_eq!(sent, ["ok", "ok", "ok", "EPERM", "EPERM"]);
    assert_eq!(agent.ask("udp 127.89.0.1:9"), "ok");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Budget { .. }));
    assert!(op.denied);
    assert_eq!(op.what, OpWhat::Budget { class: 1, spent: 99, address: "127.88.0.1".parse().unwrap() });
    assert_eq!(bench.counters(&run).budget_drops, 2);
    // The next daemon's programs go on from there.
    bench.ebpf.restore(run.slot, 0, &[], &[0, 50]).unwrap();
    assert_eq!(agent.ask("udp 127.88.0.1:9"), "EPERM");
}

#[test]
fn what_is_beyond_a_budget_can_stop_the_run() {
    let Some(mut bench) = ready("budget-stop") else { return };
    let list = EgressPolicy { rules: vec![allow_all("127.0.0.0/8")], ..enforce(&[]) };
    let budget = |to: &str, stop| BudgetRule { to: vec![to.parse().unwrap()], bytes: 50, rate: 0, stop };
    let budgets = vec![budget("127.88.0.0/16", false), budget("127.89.0.0/16", true)];
    let run = bench.add_ruled("a", &list, &Rules { budgets, ..Rules::default() });
    let mut agent = Agent::start(&run.cgroup);
    let mut sent = |to: &str| [(); 2].map(|()| agent.ask(&format!("udp {to}:9")));
    assert_eq!(sent("127.88.0.1"), ["ok", "EPERM"]);
    assert_eq!(bench.ebpf.latch(run.slot).unwrap(), 0);
    // After each thaw it is told again at once.
    for _ in 0..2 {
        assert_eq!(sent("127.89.0.1")[1], "EPERM");
        let op = next_op(&mut bench, |w| matches!(w, OpWhat::Budget { class: 2, .. }));
        assert!(op.denied);
        assert_eq!(bench.ebpf.latch(run.slot).unwrap(), latch::EGRESS | latch::STOP);
        assert_eq!(sent("127.90.0.1"), ["EPERM", "EPERM"], "nothing leaves the run");
        bench.ebpf.lift_stop(run.slot, false).unwrap();
    }
}

#[test]
fn a_rate_drops_what_is_too_fast_and_lets_the_rest_through() {
    let Some(mut bench) = ready("rate") else { return };
    let mut list = enforce(&[]);
    list.rules = vec![super::bench::allow_all("127.0.0.0/8")];
    let budget = BudgetRule { to: vec!["127.0.0.0/8".parse().unwrap()], bytes: 0, rate: 3300, stop: false };
    let run = bench.add_ruled("a", &list, &Rules { budgets: vec![budget], ..Rules::default() });
    let mut agent = Agent::start(&run.cgroup);
    // 33 bytes each, 100 a second: a burst of a tenth of a second passes, then each must wait for its turn.
    soon("a drop", || agent.ask("udp 127.0.0.1:9") == "EPERM");
    soon("its turn", || agent.ask("udp 127.0.0.1:9") == "ok");
    assert!(bench.counters(&run).budget_drops > 0);
}

#[test]
fn what_is_reported_once_a_second_has_the_number_that_was_held_back() {
    let Some(mut bench) = ready("repeats") else { return };
    let run = bench.add("a", &enforce(&[]));
    let mut agent = Agent::start(&run.cgroup);
    let mut sent = 0;
    let mut told = Vec::new();
    soon("a second event", || {
        assert_eq!(agent.ask("udp 127.88.0.1:9"), "EPERM");
        sent += 1;
        let events = bench.drain().into_iter();
        told.extend(events.filter(|e| matches!(&e.what, What::Net(n) if n.port == 9)).map(|e| e.what.repeats()));
        told.len() == 2
    });
    assert_eq!(told, [0, sent - 2], "of {sent}");
}

#[test]
fn a_host_is_reached_at_the_addresses_its_name_server_gives() {
    let Some(mut bench) = ready("dns") else { return };
    let listener = std::net::TcpListener::bind("127.77.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = super::names::Server::start("127.53.7.1:53", "127.77.0.1".parse().unwrap());
    let liar = super::names::Server::start("127.53.7.2:53", "127.77.0.1".parse().unwrap());
    let list = enforce(&[("127.53.7.1/32", 53), ("127.53.7.2/32", 53)]);
    let rules = Rules {
        hosts: vec![HostRule { name: "example.org".into(), below: true, ports: vec![port..=port], protocol: None }],
        names: vec![WatchedName::Suffix(".bad".into()), WatchedName::Exact("told.example.org".into())],
        dns_servers: vec!["127.53.7.1".parse().unwrap()],
        ..Rules::default()
    };
    let run = bench.add_ruled("a", &list, &rules);
    let mut agent = Agent::start(&run.cgroup);
    let connect = format!("tcp 127.77.0.1:{port}");
    assert_eq!(agent.ask(&connect), "EPERM");
    // Neither another's answer counts, nor one for a name that is not listed.
    for (name, from) in [("a.example.org", &liar), ("example.com", &server), ("badexample.org", &server)] {
        assert_eq!(agent.ask(&format!("resolve {name} {}", from.address)), "ok");
        assert_eq!(agent.ask(&connect), "EPERM", "{name} by {}", from.address);
    }
    assert_eq!(agent.ask(&format!("resolve Data.EXAMPLE.org {}", server.address)), "ok");
    assert_eq!(agent.ask(&connect), "ok");
    assert_eq!(agent.ask("tcp 127.77.0.1:9"), "EPERM", "its ports only");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Dns { .. }));
    let answered = |name: &str| OpWhat::Dns { name: name.into(), address: "127.77.0.1".parse().unwrap() };
    assert_eq!(op.what, answered("data.example.org"));
    // What a rule wants told is told whether it may be reached or not, and one name does not hide another at the same address.
    for name in ["c2.bad", "c3.bad", "told.example.org"] {
        assert_eq!(agent.ask(&format!("resolve {name} {}", server.address)), "ok");
        assert_eq!(next_op(&mut bench, |w| matches!(w, OpWhat::Dns { .. })).what, answered(name));
    }
}

#[test]
fn an_answer_over_tcp_is_read_where_it_is_whole_and_else_reported() {
    let Some(mut bench) = ready("dns-tcp") else { return };
    let listener = std::net::TcpListener::bind("127.77.0.2:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = super::names::serve_tcp("127.53.7.3:53", "127.77.0.2".parse().unwrap());
    let host = |name: &str| HostRule { name: name.into(), below: false, ports: vec![port..=port], protocol: None };
    let rules = Rules {
        hosts: vec![host("whole.org"), host("split.org")],
        dns_servers: vec!["127.53.7.3".parse().unwrap()],
        ..Rules::default()
    };
    let run = bench.add_ruled("a", &enforce(&[("127.53.7.3/32", 53)]), &rules);
    let mut agent = Agent::start(&run.cgroup);
    let connect = format!("tcp 127.77.0.2:{port}");
    assert_eq!(agent.ask(&format!("resolvetcp split.org {server}")), "ok");
    let op = next_op(&mut bench, |w| !matches!(w, OpWhat::Fork));
    let server_of_it = "127.53.7.3".parse().unwrap();
    assert_eq!(op.what, OpWhat::DnsDoubted { server: server_of_it, doubt: DnsDoubt::Pieces });
    assert_eq!(agent.ask(&connect), "EPERM");
    assert_eq!(agent.ask(&format!("resolvetcp whole.org {server}")), "ok");
    assert_eq!(agent.ask(&connect), "ok");
    let op = next_op(&mut bench, |w| matches!(w, OpWhat::Dns { .. }));
    assert_eq!(op.what, OpWhat::Dns { name: "whole.org".into(), address: "127.77.0.2".parse().unwrap() });
}

#[test]
fn a_budget_that_only_observes_is_reported_and_drops_nothing() {
    let Some(mut bench) = ready("observed-budget") else { return };
    let rules = vec![super::bench::allow_all("127.0.0.0/8")];
    let list = EgressPolicy { mode: EgressMode::Observe, rules, ..enforce(&[]) };
    let budget = BudgetRule { to: vec!["127.88.0.0/16".parse().unwrap()], bytes: 50, rate: 0, stop: false };
    let run = bench.add_ruled("a", &list, &Rules { budgets: vec![budget], ..Rules::default() });
    let mut agent = Agent::start(&run.cgroup);
    let sent: Vec<String> = (0..3).map(|_| agent.ask("udp 127.88.0.1:9")).collect();
    assert_eq!(sent, ["ok", "ok", "ok"]);
    assert!(!next_op(&mut bench, |w| matches!(w, OpWhat::Budget { .. })).denied);
    assert_eq!(bench.counters(&run).budget_drops, 0);
}

//! What a policy gives the kernel.

use super::*;
use failsafe_core::policy::parse::parse;

fn compiled(rules_toml: &str, refusable: u64) -> Rules {
    let text = format!("[policy]\nname = \"t\"\nowner = \"o\"\n{rules_toml}");
    rules(&parse("t.toml", &text).unwrap(), refusable, &Resolver::default())
}

fn rule(effect: &str, when: &str) -> String {
    format!(
        "[[rule]]\nid = \"r\"\nrationale = \"x\"\neffect = \"{effect}\"\nwhen = {{ {when} }}\nactions = [\"notify\"]\n"
    )
}

#[test]
fn a_call_is_refused_by_its_hook_or_else_watched_at_its_entry() {
    let text = rule("deny", "event = \"syscall\", name = [\"mount\", \"reboot\"]");
    let mount = WatchedCall::from_name("mount").unwrap().mask();
    let reboot = WatchedCall::from_name("reboot").unwrap().mask();
    let with = compiled(&text, mount);
    assert_eq!((with.deny, with.watch, with.stop), (mount | reboot, reboot, 0));
    assert_eq!(compiled(&text, 0).watch, mount | reboot);
    let stop = compiled(&rule("stop", "event = \"syscall\", name = \"mount\""), mount);
    assert_eq!((stop.watch, stop.stop), (mount, mount), "a stop is caught at the entry too");
}

#[test]
fn names_of_the_hosts_file_are_allowed_by_their_addresses() {
    let text = "# a comment\n127.0.0.1 localhost\n::1 localhost ip6-localhost # two names\n10.0.0.7\tStore.example.org store\nnot-an-address x\n\n";
    let hosts = hosts_file(text);
    let allowed = |host: &str| {
        let toml = format!(
            "[policy]\nname = \"t\"\nowner = \"o\"\n[egress]\nallow = [{{ host = \"{host}\", ports = 443, protocol = \"tcp\" }}]\n"
        );
        let policy = parse("t.toml", &toml).unwrap();
        let rules: Vec<EgressRule> =
            policy.egress.unwrap().allow.iter().flat_map(|allow| listed(allow, &hosts)).collect();
        assert!(rules.iter().all(|rule| rule.ports == [443..=443] && rule.protocol == Some(Protocol::Tcp)));
        rules.into_iter().map(|rule| rule.net.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(allowed("localhost"), ["127.0.0.1/32", "::1/128"]);
    assert_eq!(allowed("store.example.org"), ["10.0.0.7/32"]);
    assert_eq!(allowed("*.example.org"), ["10.0.0.7/32"]);
    assert!(allowed("example.org").is_empty() && allowed("*.store.example.org").is_empty());
}

#[test]
fn paths_ports_and_points_come_with_their_effect() {
    let open = compiled(&rule("deny", "event = \"open\", path = \"/etc/*\", access = \"write\""), 0);
    let pattern = PathPattern { path: "/etc/".into(), prefix: true };
    assert_eq!(open.paths, [PathRule { pattern, usage: Use::Write, effect: Effect::Deny }]);
    let listen = compiled(&rule("stop", "event = \"listen\", port = 22"), 0);
    let at = |net: &str, ports: &[u16], protocol| EgressRule {
        net: net.parse().unwrap(),
        ports: ports.iter().map(|port| *port..=*port).collect(),
        protocol,
    };
    let everywhere = ["0.0.0.0/0", "::/0"].map(|net| (at(net, &[22], None), Effect::Stop));
    assert_eq!(listen.listen, everywhere);
    let when = "event = \"bind\", address = \"10.0.0.0/8\", port = [22, 80], protocol = \"udp\"";
    let bound = [(at("10.0.0.0/8", &[22, 80], Some(Protocol::Udp)), Effect::Deny)];
    assert_eq!(compiled(&rule("deny", when), 0).bind, bound);
    // What the core has to look at must come to it.
    let sctp = compiled(&rule("observe", "event = \"listen\", protocol = 132"), 0).listen;
    assert_eq!(sctp, ["0.0.0.0/0", "::/0"].map(|net| (at(net, &[], None), Effect::Observe)));
    let memory = compiled(&rule("deny", "event = \"exec-memory\", kind = \"memfd\""), 0);
    assert_eq!(memory.deny, 1 << point::MEM_MEMFD);
    let net = compiled(&rule("stop", "event = \"connect\", verdict = \"denied\""), 0);
    assert_eq!(net.stop, 1 << point::NET);
}

#[test]
fn a_budget_that_a_rule_speaks_of_stops_the_run() {
    let head = "[egress]\nallow = [{ cidr = \"0.0.0.0/0\" }]\n[[egress.budget]]\nname = \"storage\"\nto = [\"10.0.0.0/8\"]\nbytes = \"1 GiB\"\n\
                [[egress.budget]]\nname = \"web\"\nto = [\"0.0.0.0/0\"]\nrate = \"1 MiB/s\"\n";
    let stops = |effect: &str, when: &str| -> Vec<bool> {
        compiled(&format!("{head}{}", rule(effect, when)), 0).budgets.iter().map(|budget| budget.stop).collect()
    };
    assert_eq!(stops("stop", "event = \"budget\", budget = \"web\""), [false, true]);
    assert_eq!(stops("stop", "event = \"budget\""), [true, true]);
    assert_eq!(stops("observe", "event = \"budget\""), [false, false]);
}

#[test]
fn calls_that_are_let_through_are_reported_only_where_a_rule_could_match_one() {
    let watched = |head: &str, when: &str| {
        let text = format!("[policy]\nname = \"t\"\nowner = \"o\"\n{head}{}", rule("observe", when));
        let Watch { connect, send, bind, .. } = watch(&parse("t.toml", &text).unwrap());
        [connect, send, bind]
    };
    assert_eq!(watched("", "event = \"connect\""), [true, false, false]);
    assert_eq!(watched("", "event = \"send\""), [false, true, false]);
    assert_eq!(watched("", "event = \"bind\", port = 22"), [false, false, true]);
    for never in ["event = \"connect\", verdict = \"denied\"", "event = \"exec\""] {
        assert_eq!(watched("", never), [false; 3], "{never}");
    }
    let list = "[egress]\nallow = [{ cidr = \"10.0.0.0/8\" }]\n";
    for (address, told) in [("10.1.0.0/16", true), ("0.0.0.0/0", true), ("203.0.113.0/24", false)] {
        let when = format!("event = \"connect\", address = \"{address}\"");
        assert_eq!(watched(list, &when)[0], told, "{address}");
        assert!(watched(&list.replace("allow", "mode = \"observe\"\nallow"), &when)[0], "what is not refused is told");
        assert!(watched(&list.replace("cidr = \"10.0.0.0/8\"", "host = \"a.org\""), &when)[0]);
    }
}

#[test]
fn what_begins_and_ends_is_reported_at_once_where_a_rule_acts_on_it() {
    let told = |when: &str, actions: &str| {
        let text = rule("observe", when).replace("[\"notify\"]", actions);
        let policy = parse("t.toml", &format!("[policy]\nname = \"t\"\nowner = \"o\"\n{text}")).unwrap();
        let Watch { exec, life, .. } = watch(&policy);
        (exec, life)
    };
    use Delivery::{AtOnce, Later};
    assert_eq!(told("event = \"exec\"", "[\"notify\"]"), (Later, Later));
    assert_eq!(told("event = \"exec\"", "[\"notify\", \"freeze\"]"), (AtOnce, Later));
    assert_eq!(told("event = \"fork\"", "[\"kill\"]"), (Later, AtOnce));
    assert_eq!(told("event = \"exit\"", "[\"snapshot\"]"), (Later, AtOnce));
    assert_eq!(told("event = \"connect\"", "[\"freeze\"]"), (Later, Later));
}

#[test]
fn a_dead_daemon_and_limits_are_set_in_the_kernel() {
    let text = "on_dead_daemon = \"deny-all\"\ndead_after = \"5s\"\n[limits]\nprocesses = 9\n";
    let rules = compiled(text, 0);
    assert_eq!(rules.dead, Some(Dead { after_ns: 5_000_000_000, all: true }));
    assert_eq!((rules.max_procs, rules.deny), (9, 1 << point::FORK));
}

#[test]
fn hosts_bring_their_name_servers_and_budgets_their_classes() {
    let text = "[egress]\nallow = [{ host = \"*.example.org\", ports = 443 }]\ndns_servers = [\"10.0.0.2\"]\n\
                [[egress.budget]]\nname = \"out\"\nto = [\"0.0.0.0/0\"]\nbytes = \"1 MiB\"\n";
    let text = format!("[policy]\nname = \"t\"\nowner = \"o\"\n{text}");
    let policy = parse("t.toml", &text).unwrap();
    let rules = rules(&policy, 0, &Resolver::default());
    assert_eq!((rules.hosts[0].name.as_str(), rules.hosts[0].below), ("example.org", true));
    assert_eq!((rules.budgets[0].bytes, rules.budgets[0].rate), (1 << 20, 0));
    let egress = egress(&policy, &Resolver::default());
    assert_eq!((egress.rules[0].net.to_string(), egress.rules[0].ports[0].clone()), ("10.0.0.2/32".into(), 53..=53));
}

#[test]
fn destinations_are_denied_by_address_port_and_protocol() {
    let all = rule("deny", "event = \"connect\", address = \"169.254.169.254/32\"")
        + &rule("stop", "event = \"send\", port = [53, 853], protocol = \"udp\"").replace("\"r\"", "\"s\"")
        + &rule("stop", "event = \"connect\", verdict = \"denied\"").replace("\"r\"", "\"t\"");
    let rules = compiled(&all, 0);
    let said = |rule: &EgressRule| (rule.net.to_string(), rule.ports.len(), rule.protocol);
    let udp = Some(Protocol::Udp);
    let stops = [("0.0.0.0/0".to_owned(), 2, udp), ("::/0".to_owned(), 2, udp)];
    assert_eq!(
        rules.net_denied.iter().map(said).collect::<Vec<_>>(),
        [&[("169.254.169.254/32".to_owned(), 0, None)][..], &stops].concat()
    );
    assert_eq!(rules.net_stops.iter().map(said).collect::<Vec<_>>(), stops);
    assert_eq!(rules.stop & 1 << point::NET, 1 << point::NET, "of the allow-list's refusals");
}

#[test]
fn a_list_of_programs_keeps_the_names_it_goes_by() {
    let of = |mode: &str| {
        let text = format!("[policy]\nname = \"t\"\nowner = \"o\"\n[exec]\nmode = \"{mode}\"\nallow = [\"/bin/*\"]\n");
        let policy = parse("t.toml", &text).unwrap();
        let call = |name| WatchedCall::from_name(name).unwrap().mask();
        let refusable = call("mount") | call("chroot") | call("reboot");
        (rules(&policy, refusable, &Resolver::default()).deny, call("mount") | call("chroot"))
    };
    let (enforced, names) = of("enforce");
    assert_eq!(enforced, names, "of those that can be refused here");
    assert_eq!(of("observe").0, 0);
}

/// Without an allow-list too, and then the run may ask whom it likes.
#[test]
fn names_of_rules_are_reported_without_an_allow_list() {
    let text = "[policy]\nname = \"t\"\nowner = \"o\"\n[[rule]]\nid = \"c2\"\nrationale = \"x\"\n\
                when = { event = \"dns\", name = [\"*.bad\", \"evil.org\", \"a*\"] }\nactions = [\"notify\"]\n";
    let policy = parse("t.toml", text).unwrap();
    let rules = rules(&policy, 0, &Resolver::default());
    let suffix = |end: &str| WatchedName::Suffix(end.into());
    assert_eq!(rules.names, [suffix(".bad"), WatchedName::Exact("evil.org".into()), suffix("")]);
    assert!(!rules.dns_servers.is_empty());
    assert!(egress(&policy, &Resolver::default()).rules.is_empty());
}

#[test]
fn a_resolv_conf_is_read_as_the_resolver_reads_it() {
    let text = "# nameserver 9.9.9.9\nnameserver 10.0.0.2\nnameserver fe80::1%eth0 x\nsearch a\n";
    assert_eq!(resolvers(text), ["10.0.0.2".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    assert_eq!(resolvers(""), [IpAddr::from([127, 0, 0, 1])]);
}

#[test]
fn every_call_a_policy_may_watch_is_known_to_the_programs() {
    let known: Vec<&str> = failsafe_ebpf::abi::SYSCALLS.to_vec();
    assert_eq!(known, policy::WATCHABLE);
}

#[test]
fn probes_are_reported_only_where_a_rule_names_them() {
    let told = |when: &str| {
        let text = format!("[policy]\nname = \"t\"\nowner = \"o\"\n{}", rule("observe", when));
        watch(&parse("t.toml", &text).unwrap()).probe
    };
    assert!(told("event = \"connect\", verdict = \"probe\""));
    for never in ["event = \"connect\"", "event = \"connect\", verdict = \"denied\""] {
        assert!(!told(never), "{never}");
    }
}

#[test]
fn events_that_are_parts_of_a_condition_are_reported_and_never_refused() {
    let text = "[policy]\nname = \"p\"\nowner = \"o\"\n[[rule]]\nid = \"r\"\nrationale = \"x\"\nactions = [\"freeze\"]\n\
                when = { any = [{ event = \"open\", path = \"/etc/shadow\", within = \"3s\" }, \
                { event = \"syscall\", name = \"ptrace\", within = \"3s\" }, { event = \"connect\", within = \"3s\" }, \
                { event = \"exec\", within = \"3s\" }] }\n";
    let policy = failsafe_core::policy::parse::parse("p", text).unwrap();
    let rules = super::rules(&policy, u64::MAX, &Resolver::default());
    assert_eq!((rules.deny, rules.stop), (0, 0));
    assert_eq!(rules.watch, WatchedCall::from_name("ptrace").unwrap().mask());
    assert!(rules.paths.iter().all(|rule| rule.effect == Effect::Observe) && rules.paths.len() == 2);
    let watch = super::watch(&policy);
    assert!(watch.connect && !watch.send && watch.exec == Delivery::AtOnce);
}

#[test]
fn an_observed_exec_is_reported_once_unless_a_rule_can_tell_it_from_an_allowed_one() {
    let once = |text: &str| {
        let text = format!("[policy]\nname = \"t\"\nowner = \"o\"\n{text}");
        let policy = failsafe_core::policy::parse::parse("t", &text).unwrap();
        (
            rules(&policy, 0, &Resolver::default()).exec_once,
            rules(&policy.observing(), 0, &Resolver::default()).exec_once,
        )
    };
    let rule = |more: &str| {
        format!(
            "[[rule]]\nid = \"r\"\nrationale = \"x\"\nactions = [\"notify\"]\nwhen = {{ event = \"exec\"{more} }}\n"
        )
    };
    assert_eq!(once(&rule(", path = \"/bin/true\"")), (true, true));
    assert_eq!(once(&rule(", verdict = \"would-deny\"")), (false, false));
    assert_eq!(once(&rule(", verdict = [\"allowed\", \"would-deny\"]")), (false, false));
    // In observe mode, what would be denied matches it.
    assert_eq!(once(&rule(", verdict = \"denied\"")), (true, false));
    assert_eq!(once("[exec]\nmode = \"observe\"\nallow = [\"/bin/true\"]\n"), (false, false));
    assert_eq!(once("[exec]\nallow = [\"/bin/true\"]\n"), (true, false));
    let other = rule("").replace("\"exec\"", "\"open\", path = \"/x\", verdict = \"would-deny\"");
    assert_eq!(once(&other), (true, true));
}

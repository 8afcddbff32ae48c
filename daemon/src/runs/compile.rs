//! From a policy to what the kernel carries out of it: the one place where the core's rules become masks and tables.
//!
//! What the kernel cannot match does not come here: the policy's parser has refused it, see `policy::build::guard`.

use crate::sensors::ebpf::{
    EgressMode, EgressPolicy, EgressRule, Protocol, Watch, WatchedCall,
    hosts::{BudgetRule, HostRule, WatchedName},
    rules::{Dead, Effect, ExecList, PathPattern, PathRule, Rules, Use},
};
use failsafe_core::{
    Mode, Policy,
    event::{EventKind, Field},
    policy::{self, Condition, EgressAllow, EventMatch, OnDead, Pattern, Rule},
};
use failsafe_ebpf::abi::point;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;

/// What may leave the run.
pub fn egress(policy: &Policy) -> EgressPolicy {
    let Some(egress) = &policy.egress else { return EgressPolicy::default() };
    let mut rules: Vec<EgressRule> = egress.allow.iter().flat_map(allowed).collect();
    // Who may reach a host may ask for its address.
    if egress.allow.iter().any(|allow| allow.host.is_some()) {
        let asked = |server: IpAddr| EgressRule { net: server.into(), ports: vec![53..=53], protocol: None };
        rules.extend(name_servers(policy).into_iter().map(asked));
    }
    let mode = match egress.mode {
        Mode::Enforce => EgressMode::Enforce,
        Mode::Observe => EgressMode::Observe,
    };
    EgressPolicy { mode, rules, judge_replies: false }
}

/// Name servers whose answers are believed.
fn name_servers(policy: &Policy) -> Vec<IpAddr> {
    if let Some(egress) = policy.egress.as_ref().filter(|egress| !egress.dns_servers.is_empty()) {
        return egress.dns_servers.clone();
    }
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    resolvers(&text)
}

/// The name servers of a resolv.conf(5); the local host's where it names none, as the resolver takes it so.
fn resolvers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let servers: Vec<IpAddr> =
        named.filter_map(|rest| rest.split_whitespace().next()?.split('%').next()?.parse().ok()).collect();
    if servers.is_empty() { vec![IpAddr::from([127, 0, 0, 1])] } else { servers }
}

fn host_rule(allow: &EgressAllow) -> Option<HostRule> {
    let host = allow.host.as_deref()?;
    let (name, below) = host.strip_prefix("*.").map_or((host, false), |rest| (rest, true));
    let protocol = allow.protocol.map(|protocol| match protocol {
        policy::Protocol::Tcp => Protocol::Tcp,
        policy::Protocol::Udp => Protocol::Udp,
    });
    let ports = allow.ports.iter().map(|(low, high)| *low..=*high).collect();
    Some(HostRule { name: name.to_owned(), below, ports, protocol })
}

fn allowed(allow: &EgressAllow) -> impl Iterator<Item = EgressRule> {
    let protocols: &[Protocol] = match allow.protocol {
        Some(policy::Protocol::Tcp) => &[Protocol::Tcp],
        Some(policy::Protocol::Udp) => &[Protocol::Udp],
        None => &[Protocol::Tcp, Protocol::Udp],
    };
    let ports: Vec<_> = allow.ports.iter().map(|(low, high)| *low..=*high).collect();
    let nets = allow.cidr.into_iter();
    nets.flat_map(move |net| {
        let ports = ports.clone();
        protocols.iter().map(move |protocol| EgressRule { net, ports: ports.clone(), protocol: Some(*protocol) })
    })
}

/// All else that the kernel carries out. `refusable`: the calls (bits of [`WatchedCall::mask`]) that a loaded LSM program can
/// refuse; the others are seen by programs of their own.
pub fn rules(policy: &Policy, refusable: u64) -> Rules {
    let mut out = Rules { protect: true, ..Rules::default() };
    for name in &policy.watch {
        out.watch |= WatchedCall::from_name(name).map_or(0, WatchedCall::mask);
    }
    for rule in &policy.rules {
        if let Condition::Event(wanted) = &rule.when {
            add(&mut out, rule, wanted);
        }
    }
    // What is only refused is told of by the hook that refuses it; what stops the run is caught at its entry as well.
    out.watch &= !(out.deny & !out.stop & refusable);
    out.watch |= out.deny & !refusable & CALLS;
    if let Some(list) = &policy.exec {
        let others = if list.mode == Mode::Enforce { Effect::Deny } else { Effect::Observe };
        out.exec = Some(ExecList { others, allow: list.allow.iter().filter_map(path).collect() });
        if list.mode == Mode::Enforce {
            out.deny |=
                NEW_NAMES.iter().filter_map(|call| WatchedCall::from_name(call)).fold(0, |all, call| all | call.mask())
                    & refusable;
        }
    }
    if let Some(limits) = policy.limits {
        out.max_procs = limits.processes.unwrap_or(0);
        out.max_forks = limits.forks_per_second.unwrap_or(0);
        out.deny |= 1 << point::FORK;
    }
    if let Some(egress) = &policy.egress {
        out.hosts = egress.allow.iter().filter_map(host_rule).collect();
        let budget = |b: &policy::Budget| BudgetRule {
            to: b.to.clone(),
            bytes: b.bytes.unwrap_or(0),
            rate: b.rate.unwrap_or(0),
        };
        out.budgets = egress.budgets.iter().map(budget).collect();
    }
    if !(out.hosts.is_empty() && out.names.is_empty()) {
        out.dns_servers = name_servers(policy);
    }
    out.dead = match policy.on_dead_daemon {
        OnDead::Keep => None,
        OnDead::DenyEgress => Some(Dead { after_ns: policy.dead_after.0, all: false }),
        OnDead::DenyAll => Some(Dead { after_ns: policy.dead_after.0, all: true }),
    };
    out
}

/// Which ordinary events are told. Network calls that are let through only where a rule could match one: each costs the run the
/// waking of the daemon.
pub fn watch(policy: &Policy) -> Watch {
    let wanted = |kind| {
        policy.rules.iter().any(|rule| {
            let Condition::Event(wanted) = &rule.when else { return false };
            let verdict = wanted.fields.iter().find(|m| m.field == Field::Verdict);
            wanted.kind == kind
                && rule.effect == policy::Effect::Observe
                && verdict.is_none_or(|m| named(&m.any_of, "allowed"))
                && (kind == EventKind::Bind || reachable(policy, wanted))
        })
    };
    Watch {
        exec: true,
        life: true,
        connect: wanted(EventKind::Connect),
        send: wanted(EventKind::Send),
        bind: wanted(EventKind::Bind),
    }
}

/// Whether the allow-list lets anything through to the addresses that a rule speaks of.
fn reachable(policy: &Policy, wanted: &EventMatch) -> bool {
    let Some(egress) = policy.egress.as_ref().filter(|egress| egress.mode == Mode::Enforce) else { return true };
    let Some(addresses) = wanted.fields.iter().find(|m| m.field == Field::Address) else { return true };
    let meets = |pattern: &Pattern| {
        let Pattern::Net(net) = pattern else { return true };
        // What a host's name stands for is not known here.
        egress.allow.iter().any(|allow| allow.cidr.is_none_or(|other| other.contains(net) || net.contains(&other)))
    };
    addresses.any_of.iter().any(meets)
}

/// Calls by which a program that is not on a list gets the name of one that is. What they are refused with is not what the policy
/// promises: a kernel that cannot refuse them keeps the list by name.
const NEW_NAMES: [&str; 9] =
    ["mount", "move_mount", "fsopen", "fspick", "open_tree", "open_tree_attr", "pivot_root", "chroot", "setns"];

/// The bits of calls; above them are points.
const CALLS: u64 = (1 << point::EXEC_MEMFD) - 1;

fn add(out: &mut Rules, rule: &Rule, wanted: &EventMatch) {
    let effect = match rule.effect {
        policy::Effect::Observe => Effect::Observe,
        policy::Effect::Deny => Effect::Deny,
        policy::Effect::Stop => Effect::Stop,
    };
    let given = |field: Field| wanted.fields.iter().find(|m| m.field == field).map(|m| m.any_of.as_slice());
    let numbers = |field| given(field).unwrap_or_default().iter().filter_map(number);
    match wanted.kind {
        EventKind::Exec => {
            for pattern in given(Field::Path).unwrap_or_default().iter().filter_map(path) {
                out.paths.push(PathRule { pattern, usage: Use::Exec, effect });
            }
            for (name, bit) in
                [("memfd", point::EXEC_MEMFD), ("deleted", point::EXEC_DELETED), ("script", point::EXEC_SCRIPT)]
            {
                if given(Field::Kind).is_some_and(|kinds| named(kinds, name)) {
                    mark(out, bit, effect);
                }
            }
            if wanted.fields.is_empty() && effect != Effect::Observe {
                let everything = PathPattern { path: "/".into(), prefix: true };
                out.paths.push(PathRule { pattern: everything, usage: Use::Exec, effect });
                mark(out, point::EXEC_MEMFD, effect);
                mark(out, point::EXEC_DELETED, effect);
            }
        }
        EventKind::Open => {
            let everything = [Pattern::Prefix("/".into())];
            for pattern in given(Field::Path).unwrap_or(&everything).iter().filter_map(path) {
                for (name, usage) in [("read", Use::Read), ("write", Use::Write)] {
                    if given(Field::Access).is_none_or(|access| named(access, name)) {
                        out.paths.push(PathRule { pattern: pattern.clone(), usage, effect });
                    }
                }
            }
        }
        EventKind::Connect | EventKind::Send if effect != Effect::Observe => {
            let denied = destinations(wanted);
            if denied.is_empty() {
                // A refusal of the allow-list's.
                out.stop |= 1 << point::NET;
            } else if effect == Effect::Stop {
                out.net_stops.extend(denied.iter().cloned());
            }
            out.net_denied.extend(denied);
        }
        EventKind::Bind if effect != Effect::Observe => out.bind.extend(ports(given(Field::Port), effect)),
        EventKind::Listen => out.listen.extend(ports(given(Field::Port), effect)),
        EventKind::Socket => {
            let families = numbers(Field::Family).filter_map(|n| u16::try_from(n).ok());
            out.families.extend(families.map(|family| (family, effect)));
        }
        EventKind::Syscall => {
            let names = given(Field::Name).unwrap_or_default().iter();
            for call in
                names.filter_map(|p| if let Pattern::Exact(name) = p { WatchedCall::from_name(name) } else { None })
            {
                mark_mask(out, call.mask(), effect);
            }
        }
        EventKind::Privilege => {
            for (name, bit) in
                [("setuid", point::PRIV_SETUID), ("capability", point::PRIV_CAPABILITY), ("userns", point::PRIV_USERNS)]
            {
                if given(Field::Gain).is_none_or(|gains| named(gains, name)) {
                    mark(out, bit, effect);
                }
            }
        }
        EventKind::ExecMemory => {
            for (name, bit) in [
                ("anonymous", point::MEM_ANONYMOUS),
                ("memfd", point::MEM_MEMFD),
                ("write-exec", point::MEM_WRITE_EXEC),
            ] {
                if given(Field::Kind).is_none_or(|kinds| named(kinds, name)) {
                    mark(out, bit, effect);
                }
            }
        }
        EventKind::Fork if effect != Effect::Observe => mark(out, point::FORK, effect),
        EventKind::Dns => match given(Field::Name) {
            Some(names) => out.names.extend(names.iter().map(watched_name)),
            None => out.names.push(WatchedName::Suffix(String::new())),
        },
        _ => {}
    }
}

/// What a rule on calls that leave denies; empty where it names neither address, port nor protocol.
fn destinations(wanted: &EventMatch) -> Vec<EgressRule> {
    let given = |field: Field| wanted.fields.iter().find(|m| m.field == field).map(|m| m.any_of.as_slice());
    let (nets, ports, protocols) = (given(Field::Address), given(Field::Port), given(Field::Protocol));
    if nets.is_none() && ports.is_none() && protocols.is_none() {
        return Vec::new();
    }
    let everywhere = [Pattern::Net(IpNet::from(Ipv4Net::default())), Pattern::Net(IpNet::from(Ipv6Net::default()))];
    let ports = ports.unwrap_or_default().iter().filter_map(number).filter_map(|n| u16::try_from(n).ok());
    let ports: Vec<_> = ports.map(|port| port..=port).collect();
    let protocols: Vec<Option<Protocol>> = match protocols {
        None => vec![None],
        Some(named) => [(6, Protocol::Tcp), (17, Protocol::Udp)]
            .into_iter()
            .filter(|(number, _)| named.contains(&Pattern::Number(*number)))
            .map(|(_, protocol)| Some(protocol))
            .collect(),
    };
    let nets =
        nets.unwrap_or(&everywhere).iter().filter_map(|p| if let Pattern::Net(net) = p { Some(*net) } else { None });
    nets.flat_map(|net| {
        let ports = ports.clone();
        protocols.iter().map(move |protocol| EgressRule { net, ports: ports.clone(), protocol: *protocol })
    })
    .collect()
}

/// Names are looked up from their ends: what a pattern says of their beginnings is left to the rule itself.
fn watched_name(pattern: &Pattern) -> WatchedName {
    match pattern {
        Pattern::Exact(name) => WatchedName::Exact(name.clone()),
        Pattern::Suffix(end) => WatchedName::Suffix(end.clone()),
        _ => WatchedName::Suffix(String::new()),
    }
}

/// The effect of calls and points: all three masks say how far it goes.
fn mark(out: &mut Rules, bit: u32, effect: Effect) {
    mark_mask(out, 1 << bit, effect);
}

fn mark_mask(out: &mut Rules, mask: u64, effect: Effect) {
    match effect {
        Effect::None => {}
        Effect::Observe => out.watch |= mask,
        Effect::Deny => out.deny |= mask,
        Effect::Stop => {
            out.watch |= mask;
            out.deny |= mask;
            out.stop |= mask;
        }
    }
}

fn ports(given: Option<&[Pattern]>, effect: Effect) -> Vec<(Option<u16>, Effect)> {
    match given {
        None => vec![(None, effect)],
        Some(ports) => {
            ports.iter().filter_map(number).filter_map(|n| u16::try_from(n).ok()).map(|n| (Some(n), effect)).collect()
        }
    }
}

fn number(pattern: &Pattern) -> Option<i64> {
    if let Pattern::Number(n) = pattern { Some(*n) } else { None }
}

fn named(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|p| matches!(p, Pattern::Exact(text) if text == name))
}

/// Absolute whole paths and beginnings only: what else a rule that observes may match is judged by the core.
fn path(pattern: &Pattern) -> Option<PathPattern> {
    let (path, prefix) = match pattern {
        Pattern::Exact(path) => (path, false),
        Pattern::Prefix(path) => (path, true),
        _ => return None,
    };
    let fits = path.starts_with('/') && path.len() <= policy::MAX_PATH;
    fits.then(|| PathPattern { path: path.clone(), prefix })
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::policy::parse::parse;

    fn compiled(rules_toml: &str, refusable: u64) -> Rules {
        let text = format!("[policy]\nname = \"t\"\nowner = \"o\"\n{rules_toml}");
        rules(&parse("t.toml", &text).unwrap(), refusable)
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
    fn paths_ports_and_points_come_with_their_effect() {
        let open = compiled(&rule("deny", "event = \"open\", path = \"/etc/*\", access = \"write\""), 0);
        let pattern = PathPattern { path: "/etc/".into(), prefix: true };
        assert_eq!(open.paths, [PathRule { pattern, usage: Use::Write, effect: Effect::Deny }]);
        let listen = compiled(&rule("stop", "event = \"listen\", port = 22"), 0);
        assert_eq!(listen.listen, [(Some(22), Effect::Stop)]);
        let memory = compiled(&rule("deny", "event = \"exec-memory\", kind = \"memfd\""), 0);
        assert_eq!(memory.deny, 1 << point::MEM_MEMFD);
        let net = compiled(&rule("stop", "event = \"connect\", verdict = \"denied\""), 0);
        assert_eq!(net.stop, 1 << point::NET);
    }

    #[test]
    fn calls_that_are_let_through_are_told_only_where_a_rule_could_match_one() {
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
            assert!(
                watched(&list.replace("allow", "mode = \"observe\"\nallow"), &when)[0],
                "what is not refused is told"
            );
            assert!(watched(&list.replace("cidr = \"10.0.0.0/8\"", "host = \"a.org\""), &when)[0]);
        }
    }

    #[test]
    fn a_dead_daemon_and_limits_are_told_to_the_kernel() {
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
        let rules = rules(&policy, 0);
        assert_eq!((rules.hosts[0].name.as_str(), rules.hosts[0].below), ("example.org", true));
        assert_eq!((rules.budgets[0].bytes, rules.budgets[0].rate), (1 << 20, 0));
        let egress = egress(&policy);
        assert_eq!(
            (egress.rules[0].net.to_string(), egress.rules[0].ports[0].clone()),
            ("10.0.0.2/32".into(), 53..=53)
        );
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
            let text =
                format!("[policy]\nname = \"t\"\nowner = \"o\"\n[exec]\nmode = \"{mode}\"\nallow = [\"/bin/*\"]\n");
            let policy = parse("t.toml", &text).unwrap();
            let call = |name| WatchedCall::from_name(name).unwrap().mask();
            let refusable = call("mount") | call("chroot") | call("reboot");
            (rules(&policy, refusable).deny, call("mount") | call("chroot"))
        };
        let (enforced, names) = of("enforce");
        assert_eq!(enforced, names, "of those that can be refused here");
        assert_eq!(of("observe").0, 0);
    }

    /// Without an allow-list too, and then the run may ask whom it likes.
    #[test]
    fn names_of_rules_are_told_without_an_allow_list() {
        let text = "[policy]\nname = \"t\"\nowner = \"o\"\n[[rule]]\nid = \"c2\"\nrationale = \"x\"\n\
                    when = { event = \"dns\", name = [\"*.bad\", \"evil.org\", \"a*\"] }\nactions = [\"notify\"]\n";
        let policy = parse("t.toml", text).unwrap();
        let rules = rules(&policy, 0);
        let suffix = |end: &str| WatchedName::Suffix(end.into());
        assert_eq!(rules.names, [suffix(".bad"), WatchedName::Exact("evil.org".into()), suffix("")]);
        assert!(!rules.dns_servers.is_empty());
        assert!(egress(&policy).rules.is_empty());
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
}

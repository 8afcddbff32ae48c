//! From a policy to what the kernel carries out of it: the one place where the core's rules become masks and tables.
//!
//! What the kernel cannot match does not come here: the policy's parser has refused it, see `policy::build::guard`.

use crate::calls::WatchedCall;
use crate::egress::{EgressMode, EgressPolicy, EgressRule, Protocol};
use crate::hosts::{BudgetRule, HostRule, WatchedName};
use crate::rules::{Dead, Effect, ExecList, PathPattern, PathRule, Rules, Use};
use crate::watch::{Delivery, Watch};
use failsafe_core::{
    Action, Mode, Policy,
    event::{EventKind, Field, FieldValue},
    policy::{self, EgressAllow, EventMatch, OnDead, Pattern, Rule},
};
use failsafe_ebpf::abi::point;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;

/// What the node's resolver knows: names that it finds without a name server, and the name servers that it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    hosts: Vec<(IpAddr, String)>,
    servers: Vec<IpAddr>,
}

impl Resolver {
    /// From the texts of a hosts(5) file and of a resolv.conf(5).
    #[must_use]
    pub fn of(hosts: &str, resolv_conf: &str) -> Self {
        Self { hosts: hosts_file(hosts), servers: resolvers(resolv_conf) }
    }
}

impl Default for Resolver {
    /// That of a node where both files are empty or cannot be read.
    fn default() -> Self {
        Self::of("", "")
    }
}

/// What may leave the run.
#[must_use]
pub fn egress(policy: &Policy, resolver: &Resolver) -> EgressPolicy {
    let Some(egress) = &policy.egress else { return EgressPolicy::default() };
    let mut rules: Vec<EgressRule> = egress.allow.iter().flat_map(allowed).collect();
    // Who may reach a host may ask for its address, or find it where no name server is asked.
    if egress.allow.iter().any(|allow| allow.host.is_some()) {
        rules.extend(egress.allow.iter().flat_map(|allow| listed(allow, &resolver.hosts)));
        let asked = |server: IpAddr| EgressRule { net: server.into(), ports: vec![53..=53], protocol: None };
        rules.extend(name_servers(policy, resolver).into_iter().map(asked));
    }
    let mode = match egress.mode {
        Mode::Enforce => EgressMode::Enforce,
        Mode::Observe => EgressMode::Observe,
    };
    EgressPolicy { mode, rules, judge_replies: false }
}

/// Name servers whose answers are believed.
fn name_servers(policy: &Policy, resolver: &Resolver) -> Vec<IpAddr> {
    if let Some(egress) = policy.egress.as_ref().filter(|egress| !egress.dns_servers.is_empty()) {
        return egress.dns_servers.clone();
    }
    resolver.servers.clone()
}

/// The name servers of a resolv.conf(5); the local host's where it names none, as the resolver takes it so.
fn resolvers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let servers: Vec<IpAddr> =
        named.filter_map(|rest| rest.split_whitespace().next()?.split('%').next()?.parse().ok()).collect();
    if servers.is_empty() { vec![IpAddr::from([127, 0, 0, 1])] } else { servers }
}

/// Addresses and names of a hosts(5) file. Lines that are none are passed over, as the resolver does.
fn hosts_file(text: &str) -> Vec<(IpAddr, String)> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address: IpAddr = words.next()?.parse().ok()?;
            Some(words.map(move |name| (address, name.to_ascii_lowercase())))
        })
        .flatten()
        .collect()
}

/// An allowed host's addresses in the node's hosts(5) file, of which no name server tells.
fn listed(allow: &EgressAllow, hosts: &[(IpAddr, String)]) -> Vec<EgressRule> {
    let Some(HostRule { name, below, .. }) = host_rule(allow) else { return Vec::new() };
    let name = name.to_ascii_lowercase();
    let is_meant = |found: &str| match below {
        true => found.strip_suffix(&name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        false => found == name,
    };
    let nets = hosts.iter().filter(|(_, found)| is_meant(found)).map(|(address, _)| IpNet::from(*address));
    entries_of(allow, nets).collect()
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
    entries_of(allow, allow.cidr.into_iter())
}

/// These networks, with the ports and protocols of an entry of the list.
fn entries_of(allow: &EgressAllow, nets: impl Iterator<Item = IpNet>) -> impl Iterator<Item = EgressRule> {
    let protocols: &[Protocol] = match allow.protocol {
        Some(policy::Protocol::Tcp) => &[Protocol::Tcp],
        Some(policy::Protocol::Udp) => &[Protocol::Udp],
        None => &[Protocol::Tcp, Protocol::Udp],
    };
    let ports: Vec<_> = allow.ports.iter().map(|(low, high)| *low..=*high).collect();
    nets.flat_map(move |net| {
        let ports = ports.clone();
        protocols.iter().map(move |protocol| EgressRule { net, ports: ports.clone(), protocol: Some(*protocol) })
    })
}

/// All else that the kernel carries out. `refusable`: the calls (bits of [`WatchedCall::mask`]) that a loaded LSM program can
/// refuse; the others are seen by programs of their own.
#[must_use]
pub fn rules(policy: &Policy, refusable: u64, resolver: &Resolver) -> Rules {
    let mut out = Rules { protect: true, exec_once: !tells_observed_execs(policy), ..Rules::default() };
    for name in &policy.watch {
        out.watch |= WatchedCall::from_name(name).map_or(0, WatchedCall::mask);
    }
    for rule in &policy.rules {
        // An event that is one part of a condition is reported, and never refused: such a rule has no effect.
        for wanted in rule.when.events() {
            add(&mut out, rule, wanted);
        }
    }
    // A denied call is reported by the hook that denies it, so it is not watched as well. A stop rule is also caught
    // at the entry of the call.
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
            stop: policy.rules.iter().any(|rule| stops_on(rule, &b.name)),
        };
        out.budgets = egress.budgets.iter().map(budget).collect();
    }
    if !(out.hosts.is_empty() && out.names.is_empty()) {
        out.dns_servers = name_servers(policy, resolver);
    }
    out.dead = match policy.on_dead_daemon {
        OnDead::Keep => None,
        OnDead::DenyEgress => Some(Dead { after_ns: policy.dead_after.0, all: false }),
        OnDead::DenyAll => Some(Dead { after_ns: policy.dead_after.0, all: true }),
    };
    out
}

/// Whether a rule, or who reads the events of a list that only observes, asks for the verdict `would-deny` of an exec.
fn tells_observed_execs(policy: &Policy) -> bool {
    let asks = |rule: &Rule| {
        rule.when.events().iter().filter(|wanted| wanted.kind == EventKind::Exec).any(|wanted| {
            wanted
                .given(Field::Verdict)
                .is_some_and(|any_of| named(any_of, "would-deny") || policy.observes(rule) && named(any_of, "denied"))
        })
    };
    policy.exec.as_ref().is_some_and(|list| list.mode == Mode::Observe) || policy.rules.iter().any(asks)
}

/// Whether a rule stops the run when a budget is used up.
fn stops_on(rule: &Rule, budget: &str) -> bool {
    let Some(wanted) = rule.when.event() else { return false };
    let named = |any_of: &[Pattern]| any_of.iter().any(|pattern| pattern.fits(FieldValue::Text(budget)));
    rule.effect == policy::Effect::Stop
        && wanted.kind == EventKind::Budget
        && wanted.given(Field::Budget).is_none_or(named)
}

/// Which ordinary events are told. Network calls that are let through only where a rule could match one: each costs the run the
/// waking of the daemon. For the same reason what begins and ends is told at once only where a rule does something about it.
#[must_use]
pub fn watch(policy: &Policy) -> Watch {
    let wanted = |kind| {
        policy.rules.iter().any(|rule| {
            let of_kind = |wanted: &&EventMatch| {
                wanted.kind == kind
                    && rule.effect == policy::Effect::Observe
                    && wanted.given(Field::Verdict).is_none_or(|any_of| named(any_of, "allowed"))
                    && (kind == EventKind::Bind || reachable(policy, wanted))
            };
            rule.when.events().iter().any(of_kind)
        })
    };
    let told = |kinds: &[EventKind]| {
        let acted_on = policy.rules.iter().any(|rule| {
            rule.when.events().iter().any(|wanted| kinds.contains(&wanted.kind))
                && rule.actions.iter().any(|action| *action != Action::Notify)
        });
        if acted_on { Delivery::AtOnce } else { Delivery::Later }
    };
    Watch {
        exec: told(&[EventKind::Exec]),
        life: told(&[EventKind::Fork, EventKind::Exit]),
        connect: wanted(EventKind::Connect),
        probe: policy.rules.iter().any(|rule| {
            let probes = |wanted: &&EventMatch| {
                wanted.kind == EventKind::Connect
                    && wanted.given(Field::Verdict).is_some_and(|any_of| named(any_of, "probe"))
            };
            rule.when.events().iter().any(probes)
        }),
        send: wanted(EventKind::Send),
        bind: wanted(EventKind::Bind),
    }
}

/// Whether the allow-list lets anything through to the addresses that a rule speaks of.
fn reachable(policy: &Policy, wanted: &EventMatch) -> bool {
    let Some(egress) = policy.egress.as_ref().filter(|egress| egress.mode == Mode::Enforce) else { return true };
    let Some(addresses) = wanted.given(Field::Address) else { return true };
    let meets = |pattern: &Pattern| {
        let Pattern::Net(net) = pattern else { return true };
        // What a host's name stands for is not known here.
        egress.allow.iter().any(|allow| allow.cidr.is_none_or(|other| other.contains(net) || net.contains(&other)))
    };
    addresses.iter().any(meets)
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
    let given = |field| wanted.given(field);
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
        // Observed, they are reported by the mask of `watch`.
        EventKind::Connect | EventKind::Send | EventKind::Bind | EventKind::Fork if effect == Effect::Observe => {}
        EventKind::Connect | EventKind::Send => {
            let denied = destinations(wanted);
            if denied.is_empty() {
                // A refusal of the allow-list's.
                out.stop |= 1 << point::NET;
            } else if effect == Effect::Stop {
                out.net_stops.extend(denied.iter().cloned());
            }
            out.net_denied.extend(denied);
        }
        EventKind::Bind => out.bind.extend(places(wanted).map(|place| (place, effect))),
        EventKind::Listen => out.listen.extend(places(wanted).map(|place| (place, effect))),
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
        EventKind::Fork => mark(out, point::FORK, effect),
        EventKind::Dns => match given(Field::Name) {
            Some(names) => out.names.extend(names.iter().map(watched_name)),
            None => out.names.push(WatchedName::Suffix(String::new())),
        },
        // The kernel reports these without being asked; a rule that stops the run by a budget is part of the budget.
        EventKind::Exit | EventKind::Protect | EventKind::Budget | EventKind::Oom | EventKind::Leave => {}
        // The daemon or NVML reports these, and the kernel cannot refuse them.
        EventKind::ForeignThaw
        | EventKind::Latched
        | EventKind::Drift
        | EventKind::ForeignGpuProcess
        | EventKind::Xid
        | EventKind::GpuEvent => {}
    }
}

/// What a rule on calls that leave denies; empty where it names neither address, port nor protocol.
fn destinations(wanted: &EventMatch) -> Vec<EgressRule> {
    let [nets, ports, protocols] = [Field::Address, Field::Port, Field::Protocol].map(|field| wanted.given(field));
    if nets.is_none() && ports.is_none() && protocols.is_none() { Vec::new() } else { places(wanted).collect() }
}

/// The addresses with ports and protocols that a rule speaks of: everything where it names none of them. Of a protocol that is
/// neither TCP nor UDP too: what such a rule may match is judged by the core.
fn places(wanted: &EventMatch) -> impl Iterator<Item = EgressRule> {
    let given = |field| wanted.given(field);
    let (nets, ports, protocols) = (given(Field::Address), given(Field::Port), given(Field::Protocol));
    let everywhere = [Pattern::Net(IpNet::from(Ipv4Net::default())), Pattern::Net(IpNet::from(Ipv6Net::default()))];
    let ports = ports.unwrap_or_default().iter().filter_map(number).filter_map(|n| u16::try_from(n).ok());
    let ports: Vec<_> = ports.map(|port| port..=port).collect();
    let known = |pattern: &Pattern| match pattern {
        Pattern::Number(6) => Some(Protocol::Tcp),
        Pattern::Number(17) => Some(Protocol::Udp),
        _ => None,
    };
    let protocols: Vec<Option<Protocol>> = match protocols {
        Some(named) if named.iter().all(|pattern| known(pattern).is_some()) => named.iter().map(known).collect(),
        _ => vec![None],
    };
    let nets = nets.unwrap_or(&everywhere).iter();
    let nets: Vec<IpNet> = nets.filter_map(|p| if let Pattern::Net(net) = p { Some(*net) } else { None }).collect();
    nets.into_iter().flat_map(move |net| {
        let ports = ports.clone();
        protocols.clone().into_iter().map(move |protocol| EgressRule { net, ports: ports.clone(), protocol })
    })
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
        Pattern::Suffix(_) | Pattern::Holds(_) | Pattern::Number(_) | Pattern::Net(_) => return None,
    };
    let fits = path.starts_with('/') && path.len() <= policy::MAX_PATH;
    fits.then(|| PathPattern { path: path.clone(), prefix })
}

#[cfg(test)]
mod tests;

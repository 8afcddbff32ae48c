//! What a policy makes of one call, asked without a kernel: with the matchers that are tested against the kernel's.
//!
//! ```text
//! Call ─► compile (as for the kernel) ─► Answer, by what ─► the event that the kernel would report ─► rules that match it
//! ```
//! Invariant: what only a node knows (its resolver, files behind links, names that were answered) is never guessed. It is
//! [`Answer::Depends`].

use std::net::IpAddr;

use failsafe_core::{
    Policy,
    event::{Access, Assurance, Event, EventKind, ExecKind, NetOp, Verdict, Via},
    policy::{Effect as RuleEffect, EventMatch, Fit, Rule},
};
use failsafe_ebpf::abi::effect;
use ipnet::IpNet;

use crate::calls::WatchedCall;
use crate::compile::{self, Resolver};
use crate::egress::{EgressMode, EgressRule, UDP, canonical_net, verdict};
use crate::rules::effects;

/// A call of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Connects to an address, or sends a datagram to it.
    Connect {
        /// Where to.
        to: Destination,
        /// The port; 0 where the protocol has none.
        port: u16,
        /// As in an IP header.
        protocol: u8,
    },
    /// Opens a file, by its resolved path.
    Open {
        /// The path.
        path: String,
        /// For writing.
        write: bool,
    },
    /// Executes a file, by its resolved path.
    Exec(String),
    /// Makes a system call that policies can name.
    Syscall(WatchedCall),
}

/// Where a call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To an address.
    Address(IpAddr),
    /// To whatever address the name servers give for a name.
    Name(String),
}

/// What becomes of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It succeeds.
    Allowed,
    /// It succeeds, and is reported as one that would be denied.
    WouldDeny,
    /// It is denied.
    Denied,
    /// It is denied, and the run is latched.
    Stopped,
    /// What decides it is known on the node only.
    Depends(String),
}

/// The answer, with what it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Would<'p> {
    /// What becomes of the call.
    pub answer: Answer,
    /// Sections and rules that decide it; empty: nothing limits it.
    pub by: Vec<String>,
    /// Rules that match the event that is reported, each with whether the event alone is enough.
    pub matches: Vec<(&'p Rule, bool)>,
}

/// Asks the policy.
#[must_use]
pub fn would<'p>(policy: &'p Policy, call: &Call) -> Would<'p> {
    let (answer, by) = match call {
        Call::Connect { to, port, protocol } => connect(policy, to, *port, *protocol),
        Call::Open { path, write } => of_path(policy, path, if *write { Use::Write } else { Use::Read }),
        Call::Exec(path) => of_path(policy, path, Use::Exec),
        Call::Syscall(call) => syscall(policy, *call),
    };
    let matches = event(call, &answer).map(|event| matching(policy, &event)).unwrap_or_default();
    match protection(call) {
        Some(why) if matches!(answer, Answer::Allowed | Answer::WouldDeny) => {
            let why = format!("on a kernel with LSM, failsafe denies {why}, with or without a rule");
            Would { answer: Answer::Depends(why), by: vec!["self-protection".to_owned()], matches }
        }
        _ => Would { answer, by, matches },
    }
}

/// Folders in which runs change nothing of failsafe or of other cgroups, each with what is denied there.
const PROTECTED: [(&str, &str); 4] = [
    ("/sys/fs/cgroup", "writing to files of cgroups that are not below the cgroup of the run"),
    ("/var/lib/failsafe", "changing its state folder"),
    ("/run/failsafe", "changing the folder of its sockets"),
    ("/proc", "writing to files of its daemon in /proc"),
];

/// What failsafe denies every run to protect itself, where the call can be one of those.
fn protection(call: &Call) -> Option<&'static str> {
    let below = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    match call {
        Call::Syscall(call) => match call.name() {
            "bpf" => Some("bpf to every run"),
            "ptrace" | "process_vm_readv" | "process_vm_writev" | "pidfd_getfd" => {
                Some("access to the memory and descriptors of processes outside the run")
            }
            "mount" | "move_mount" | "umount2" => Some("mounts over its folders, and to unmount them"),
            _ => None,
        },
        Call::Open { path, .. } if below(path, "/sys/fs/bpf") => Some("opening files of a BPF file system"),
        Call::Open { path, write: true } => {
            PROTECTED.iter().find(|(folder, _)| below(path, folder)).map(|(_, what)| *what)
        }
        Call::Open { .. } | Call::Connect { .. } | Call::Exec(_) => None,
    }
}

/// The policy without its rules and sections.
fn bare(policy: &Policy) -> Policy {
    let (name, owner, description) = (policy.name.clone(), policy.owner.clone(), String::new());
    let (egress, exec, limits, watch, rules) = (None, None, None, Default::default(), Vec::new());
    let (derived, metrics) = (policy.derived.clone(), policy.metrics);
    let Policy { version, on_blind, on_escape, on_drift, on_dead_daemon, dead_after, .. } = *policy;
    Policy {
        name,
        version,
        owner,
        description,
        on_blind,
        on_escape,
        on_drift,
        on_dead_daemon,
        dead_after,
        egress,
        exec,
        limits,
        watch,
        derived,
        metrics,
        rules,
    }
}

/// The policy with this rule alone, and without sections: what the rule does by itself.
fn alone(policy: &Policy, rule: &Rule) -> Policy {
    Policy { rules: vec![rule.clone()], ..bare(policy) }
}

/// The rules that do something by themselves, by `does`, strictest first.
fn rules_that(policy: &Policy, does: impl Fn(&Policy) -> u8) -> (u8, Vec<String>) {
    let effects: Vec<(u8, String)> =
        policy.rules.iter().map(|rule| (does(&alone(policy, rule)), format!("rule {}", rule.id))).collect();
    let strictest = effects.iter().map(|(effect, _)| *effect).max().unwrap_or(effect::NONE);
    let by = effects.into_iter().filter(|(own, _)| *own == strictest && *own >= effect::DENY).map(|(_, by)| by);
    (strictest, by.collect())
}

fn of_effect(strictest: u8) -> Option<Answer> {
    match strictest {
        effect::STOP => Some(Answer::Stopped),
        effect::DENY => Some(Answer::Denied),
        _ => None,
    }
}

fn connect(policy: &Policy, to: &Destination, port: u16, protocol: u8) -> (Answer, Vec<String>) {
    if let Some(denied) = denied_address(policy, to, port, protocol) {
        return denied;
    }
    let (answer, by) = listed(policy, to, port, protocol);
    let (Destination::Name(name), Answer::Allowed | Answer::WouldDeny) = (to, &answer) else { return (answer, by) };
    let some = deny_some(policy, port, protocol);
    if some.is_empty() {
        return (answer, by);
    }
    let why = format!("it is denied if {name} has an address that one of these rules names");
    (Answer::Depends(why), some)
}

/// What the list makes of a destination.
fn listed(policy: &Policy, to: &Destination, port: u16, protocol: u8) -> (Answer, Vec<String>) {
    let resolver = Resolver::default();
    let Some(section) = &policy.egress else { return (Answer::Allowed, Vec::new()) };
    // The list without its names: what the addresses in it allow is certain.
    let mut of_addresses = policy.clone();
    if let Some(egress) = &mut of_addresses.egress {
        egress.allow.retain(|allow| allow.cidr.is_some());
    }
    let list = compile::egress(&of_addresses, &resolver);
    let hosts = compile::rules(policy, u64::MAX, &resolver).hosts;
    let outside = || match list.mode {
        EgressMode::Enforce => (stops_on_denial(policy, protocol), vec!["[egress]".to_owned()]),
        EgressMode::Observe | EgressMode::Off => (Answer::WouldDeny, vec!["[egress], which only observes".to_owned()]),
    };
    let allowed = (Answer::Allowed, vec!["[egress]".to_owned()]);
    match to {
        Destination::Address(address) if verdict(&list.rules, *address, port, protocol) => allowed,
        Destination::Address(_) if hosts.is_empty() => outside(),
        Destination::Address(address) if port == 53 && section.dns_servers.contains(address) => {
            (Answer::Allowed, vec!["[egress] dns_servers".to_owned()])
        }
        Destination::Address(address) => {
            let names: Vec<&str> = section.allow.iter().filter_map(|allow| allow.host.as_deref()).collect();
            let asked =
                if port == 53 && section.dns_servers.is_empty() { ", or if it is the node's name server" } else { "" };
            let why = format!(
                "no address in the list allows it; it is allowed after a trusted name server returned {address} for one of {}{asked}",
                names.join(", ")
            );
            (Answer::Depends(why), vec!["[egress]".to_owned()])
        }
        Destination::Name(name) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let listed = hosts.iter().any(|host| {
                host.covers(&name)
                    && host.protocol.is_none_or(|wanted| wanted.number() == protocol)
                    && (host.ports.is_empty() || host.ports.iter().any(|ports| ports.contains(&port)))
            });
            if listed {
                return allowed;
            }
            if list.rules.is_empty() {
                return outside();
            }
            let why = format!(
                "no name in the list covers {name}; whether an address in it does is known when the name is resolved"
            );
            (Answer::Depends(why), vec!["[egress]".to_owned()])
        }
    }
}

/// What a rule on addresses denies; of a name only where it denies every address.
fn denied_address(policy: &Policy, to: &Destination, port: u16, protocol: u8) -> Option<(Answer, Vec<String>)> {
    let resolver = Resolver::default();
    let (strictest, by) = rules_that(policy, |alone| {
        let rules = compile::rules(alone, u64::MAX, &resolver);
        let named = |list: &[_]| match to {
            Destination::Address(address) => verdict(list, *address, port, protocol),
            Destination::Name(_) => {
                let nets: Vec<IpNet> = on(list, port, protocol).collect();
                let whole = |is_v4: bool| nets.iter().any(|net| net.addr().is_ipv4() == is_v4 && net.prefix_len() == 0);
                whole(true) && whole(false)
            }
        };
        if named(&rules.net_stops) {
            effect::STOP
        } else if named(&rules.net_denied) {
            effect::DENY
        } else {
            effect::NONE
        }
    });
    of_effect(strictest).map(|answer| (answer, by))
}

/// The networks that entries on this port and protocol name.
fn on(list: &[EgressRule], port: u16, protocol: u8) -> impl Iterator<Item = IpNet> + '_ {
    let fits = move |rule: &&EgressRule| {
        rule.protocol.is_none_or(|wanted| wanted.number() == protocol)
            && (rule.ports.is_empty() || rule.ports.iter().any(|ports| ports.contains(&port)))
    };
    list.iter().filter(fits).map(|rule| canonical_net(rule.net))
}

/// The rules that deny some addresses, which a name may have.
fn deny_some(policy: &Policy, port: u16, protocol: u8) -> Vec<String> {
    let denies = |rule: &&Rule| {
        let rules = compile::rules(&alone(policy, rule), u64::MAX, &Resolver::default());
        on(&rules.net_denied, port, protocol).next().is_some()
    };
    policy.rules.iter().filter(denies).map(|rule| format!("rule {}", rule.id)).collect()
}

/// A denial of the list latches the run where a stop rule is on such denials.
fn stops_on_denial(policy: &Policy, protocol: u8) -> Answer {
    let stops = |rule: &&Rule| {
        let kind = if protocol == UDP { EventKind::Send } else { EventKind::Connect };
        rule.effect == RuleEffect::Stop
            && rule.when.event().is_some_and(|event| event.kind == kind)
            && compile::rules(&alone(policy, rule), u64::MAX, &Resolver::default()).net_denied.is_empty()
    };
    if policy.rules.iter().any(|rule| stops(&rule)) { Answer::Stopped } else { Answer::Denied }
}

/// What a path is used for.
#[derive(Clone, Copy)]
enum Use {
    Exec,
    Read,
    Write,
}

fn of_path(policy: &Policy, path: &str, usage: Use) -> (Answer, Vec<String>) {
    let resolver = Resolver::default();
    let effect_of = |policy: &Policy| {
        let all = effects(&compile::rules(policy, u64::MAX, &resolver), path);
        match usage {
            Use::Exec => all.exec,
            Use::Read => all.read,
            Use::Write => all.write,
        }
    };
    let (strictest, mut by) = rules_that(policy, effect_of);
    let whole = effect_of(policy);
    let listed = matches!(usage, Use::Exec).then_some(policy.exec.as_ref()).flatten();
    let by_list = effect_of(&Policy { exec: policy.exec.clone(), ..bare(policy) });
    if listed.is_some() && by_list >= effect::DENY && by_list >= strictest {
        by.insert(0, "[exec]".to_owned());
    }
    match of_effect(whole) {
        Some(answer) => (answer, by),
        None if listed.is_some() && by_list == effect::OBSERVE => {
            (Answer::WouldDeny, vec!["[exec], which only observes".to_owned()])
        }
        None => (Answer::Allowed, listed.map(|_| "[exec]".to_owned()).into_iter().collect()),
    }
}

fn syscall(policy: &Policy, call: WatchedCall) -> (Answer, Vec<String>) {
    let resolver = Resolver::default();
    let effect_of = |policy: &Policy| {
        let rules = compile::rules(policy, u64::MAX, &resolver);
        let has = |mask: u64| mask & call.mask() != 0;
        if has(rules.stop) {
            effect::STOP
        } else if has(rules.deny) {
            effect::DENY
        } else {
            effect::NONE
        }
    };
    let (strictest, mut by) = rules_that(policy, effect_of);
    let by_list = effect_of(&Policy { exec: policy.exec.clone(), ..bare(policy) });
    if by_list >= effect::DENY && by_list >= strictest {
        by.insert(0, "[exec], as the call gives files another name".to_owned());
    }
    of_effect(effect_of(policy)).map_or((Answer::Allowed, Vec::new()), |answer| (answer, by))
}

/// The event that the kernel would report.
fn event(call: &Call, answer: &Answer) -> Option<Event> {
    let now = match answer {
        Answer::Allowed => Verdict::Allowed,
        Answer::WouldDeny => Verdict::WouldDeny,
        Answer::Denied | Answer::Stopped => Verdict::Denied,
        Answer::Depends(_) => return None,
    };
    let assurance = if now == Verdict::Denied { Assurance::BlockedInKernel } else { Assurance::Observed };
    Some(match call {
        Call::Connect { to: Destination::Name(_), .. } => return None,
        Call::Connect { to: Destination::Address(address), port, protocol } => {
            let op = if *protocol == UDP { NetOp::Send } else { NetOp::Connect };
            let family = if address.is_ipv4() { 2 } else { 10 };
            let (protocol, address, port, verdict) = (*protocol, *address, *port, now);
            Event::Net { op, protocol, address, port, family, verdict, assurance }
        }
        Call::Open { path, write } => {
            let access = if *write { Access::Write } else { Access::Read };
            Event::Open { path: path.clone(), known_as: Vec::new(), access, verdict: now, assurance }
        }
        Call::Exec(path) => {
            let (known_as, argv, kind, verdict) = (Vec::new(), path.clone(), ExecKind::File, now);
            Event::Exec { path: path.clone(), known_as, argv, kind, verdict, assurance }
        }
        Call::Syscall(call) => {
            let (name, args, via) = (call.name().to_owned(), [0; 3], Via::Fentry);
            Event::Syscall { name, args, via, verdict: now, assurance }
        }
    })
}

fn matching<'p>(policy: &'p Policy, event: &Event) -> Vec<(&'p Rule, bool)> {
    let fits = |wanted: &EventMatch| {
        wanted.fit(event, None) == Fit::Yes
            || policy.observes_event(wanted) && wanted.fit_if_denied(event, None) == Fit::Yes
    };
    let found = |rule: &'p Rule| {
        let enough = rule.when.event().is_some();
        rule.when.events().into_iter().any(fits).then_some((rule, enough))
    };
    policy.rules.iter().filter_map(found).collect()
}

#[cfg(test)]
mod tests;

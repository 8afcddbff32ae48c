//! Names in the allow-list, and budgets: what the kernel is given, see `ebpf/src/dns.h` and `ebpf/src/budget.h`.
//!
//! Names are compared from their ends, so that all names below one begin alike. The kernel finds the longest entry only:
//! each holds the ports of all that cover it, as in [`crate::egress::fold`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use failsafe_ebpf::abi::{MAX_HOSTS, Ports};
use ipnet::IpNet;

use crate::egress::{EgressError, Protocol, canonical_net, pack_ports};

/// A host that a run may reach, at the addresses that its name servers give for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// Lower case, without a dot at its end.
    pub name: String,
    /// All names below it, not itself.
    pub below: bool,
    /// Ports; empty = any.
    pub ports: Vec<RangeInclusive<u16>>,
    /// `None` = any.
    pub protocol: Option<Protocol>,
}

impl HostRule {
    /// Whether it allows this port and protocol, at its addresses.
    #[must_use]
    pub fn allows(&self, port: u16, protocol: u8) -> bool {
        self.protocol.is_none_or(|wanted| wanted.number() == protocol)
            && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.contains(&port)))
    }

    /// Whether it is on this name.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        let exact: Vec<u8> = name.bytes().rev().chain([0]).collect();
        exact.starts_with(&self.bytes())
    }

    /// As the kernel compares it: from the end, and the exact one with its NUL.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.name.bytes().rev().collect();
        bytes.push(if self.below { b'.' } else { 0 });
        bytes
    }
}

/// Names that a rule wants told when they are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchedName {
    /// This one.
    Exact(String),
    /// All that end so, byte for byte.
    Suffix(String),
}

impl WatchedName {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Exact(name) => name.bytes().rev().chain([0]).collect(),
            Self::Suffix(end) => end.bytes().rev().collect(),
        }
    }
}

/// How much may leave to some networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRule {
    /// The networks.
    pub to: Vec<IpNet>,
    /// Bytes in all; 0 = no bound.
    pub bytes: u64,
    /// Bytes a second; 0 = no bound.
    pub rate: u64,
    /// What is beyond it stops the run, where the list is enforced.
    pub stop: bool,
}

/// What is said of a name, and of all that it is the end of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostEntry {
    /// The number of its ports, from 0, if it may be reached.
    pub host: Option<u8>,
    /// Its answers are told.
    pub watched: bool,
}

/// Names in the form the kernel holds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoldedHosts {
    /// By the name's bytes, from its end.
    pub names: BTreeMap<Vec<u8>, HostEntry>,
    /// Ports by that number.
    pub ports: Vec<Ports>,
    /// Name servers whose answers are believed, as the kernel's key has them.
    pub servers: Vec<(u64, u64)>,
}

/// Makes the kernel's tables of names. The kernel finds the longest entry that a name ends with: each holds what is said of all
/// that are shorter.
///
/// # Errors
/// Too many names, or too many ports for one.
pub fn fold_hosts(hosts: &[HostRule], watched: &[WatchedName], servers: &[IpAddr]) -> Result<FoldedHosts, EgressError> {
    let mut out = FoldedHosts::default();
    for host in hosts {
        let name = host.bytes();
        if out.names.contains_key(&name) {
            continue;
        }
        let mut ranges = Vec::new();
        for rule in hosts.iter().filter(|rule| name.starts_with(&rule.bytes())) {
            let proto = rule.protocol.map_or(0, Protocol::number);
            if rule.ports.is_empty() {
                ranges.push((proto, 0, u16::MAX));
            }
            ranges.extend(rule.ports.iter().map(|p| (proto, *p.start(), *p.end())));
        }
        let ports = pack_ports(ranges).map_err(|got| EgressError::TooManyHostPorts { host: host.name.clone(), got })?;
        let number = u8::try_from(out.ports.len()).ok().filter(|n| usize::from(*n) < MAX_HOSTS);
        let number = number.ok_or(EgressError::TooManyHosts(hosts.len()))?;
        out.names.insert(name, HostEntry { host: Some(number), watched: false });
        out.ports.push(ports);
    }
    let ends: Vec<Vec<u8>> = watched.iter().map(WatchedName::bytes).collect();
    for end in &ends {
        let around = out.names.iter().filter(|(name, said)| said.host.is_some() && end.starts_with(name));
        let host = around.max_by_key(|(name, _)| name.len()).and_then(|(_, said)| said.host);
        out.names.entry(end.clone()).or_insert(HostEntry { host, watched: true });
    }
    for (name, said) in &mut out.names {
        said.watched = ends.iter().any(|end| name.starts_with(end));
    }
    if !out.names.is_empty() {
        out.servers = servers.iter().map(|server| server_key(*server)).collect();
    }
    Ok(out)
}

/// The address's bytes as two numbers, in the order in which they stand in a packet.
fn server_key(server: IpAddr) -> (u64, u64) {
    match server.to_canonical() {
        IpAddr::V4(a) => (u64::from(u32::from_ne_bytes(a.octets())), 0),
        IpAddr::V6(a) => {
            let n = u128::from_ne_bytes(a.octets()).to_ne_bytes();
            let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| n[at + i]));
            (half(0), half(8))
        }
    }
}

/// By the address that a packet is judged by: a network of v4-mapped addresses is the IPv4 network that it stands for.
pub fn classes(budgets: &[BudgetRule]) -> impl Iterator<Item = (u32, IpNet)> + '_ {
    (1..).zip(budgets).flat_map(|(class, rule)| rule.to.iter().map(move |net| (class, canonical_net(*net))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, below: bool, ports: &[RangeInclusive<u16>]) -> HostRule {
        HostRule { name: name.to_owned(), below, ports: ports.to_vec(), protocol: Some(Protocol::Tcp) }
    }

    #[test]
    fn a_name_has_the_ports_of_all_that_cover_it() {
        let hosts = [host("example.org", true, &[443..=443]), host("a.example.org", false, &[80..=80])];
        let folded = fold_hosts(&hosts, &[], &["127.0.0.53".parse().unwrap()]).unwrap();
        let of = |name: &[u8]| folded.ports[usize::from(folded.names[name].host.unwrap())];
        assert_eq!(of(b"gro.elpmaxe.").n, 1);
        assert_eq!(of(b"gro.elpmaxe.a\0").n, 2);
        assert_eq!(folded.servers, [(u64::from(u32::from_ne_bytes([127, 0, 0, 53])), 0)]);
    }

    #[test]
    fn below_is_not_the_name_itself_nor_a_longer_word() {
        let below = host("example.org", true, &[]).bytes();
        let exact = |name| host(name, false, &[]).bytes();
        assert!(exact("a.example.org").starts_with(&below) && exact("b.a.example.org").starts_with(&below));
        assert!(!exact("example.org").starts_with(&below) && !exact("badexample.org").starts_with(&below));
    }

    #[test]
    fn a_name_that_a_rule_wants_reported_is_reached_as_before() {
        let hosts = [host("example.org", true, &[443..=443]), host("other.net", false, &[])];
        let watched = [
            WatchedName::Exact("a.example.org".into()),
            WatchedName::Suffix(".net".into()),
            WatchedName::Suffix(".bad".into()),
        ];
        let folded = fold_hosts(&hosts, &watched, &[]).unwrap();
        let of = |name: &[u8]| folded.names[name];
        assert_eq!(of(b"gro.elpmaxe."), HostEntry { host: Some(0), watched: false });
        assert_eq!(of(b"gro.elpmaxe.a\0"), HostEntry { host: Some(0), watched: true });
        assert_eq!(of(b"ten.rehto\0"), HostEntry { host: Some(1), watched: true });
        assert_eq!(of(b"ten."), HostEntry { host: None, watched: true });
        assert_eq!(of(b"dab."), HostEntry { host: None, watched: true });
    }

    #[test]
    fn more_names_than_fit_are_reported() {
        let hosts: Vec<_> = (0..17).map(|i| host(&format!("h{i}.example.org"), false, &[])).collect();
        assert_eq!(fold_hosts(&hosts, &[], &[]), Err(EgressError::TooManyHosts(17)));
    }
}

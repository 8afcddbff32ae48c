//! Names in the allow-list, and budgets: what the kernel is given, see `ebpf/src/dns.h` and `ebpf/src/budget.h`.
//!
//! Names are compared from their ends, so that all names below one begin alike. The kernel finds the longest entry only:
//! each holds the ports of all that cover it, as in [`super::egress::fold`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use failsafe_ebpf::abi::{MAX_HOSTS, Ports};
use ipnet::IpNet;

use super::egress::{EgressError, Protocol, pack_ports};

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
    /// Whether `name`, or with `below` every name below it, is covered.
    fn covers(&self, name: &str, below: bool) -> bool {
        let under = name.strip_suffix(self.name.as_str()).is_some_and(|head| head.ends_with('.'));
        if self.below { under || (below && name == self.name) } else { !below && name == self.name }
    }

    /// As the kernel compares it: from the end, and the exact one with its NUL.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.name.bytes().rev().collect();
        bytes.push(if self.below { b'.' } else { 0 });
        bytes
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
}

/// Names in the form the kernel holds them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoldedHosts {
    /// From the name's bytes to the number of its ports, from 0.
    pub names: BTreeMap<Vec<u8>, u8>,
    /// Ports by that number.
    pub ports: Vec<Ports>,
    /// Name servers whose answers are believed, as the kernel's key has them.
    pub servers: Vec<(u64, u64)>,
}

/// Makes the kernel's tables of names.
///
/// # Errors
/// Too many names, or too many ports for one.
pub fn fold_hosts(hosts: &[HostRule], servers: &[IpAddr]) -> Result<FoldedHosts, EgressError> {
    let mut out = FoldedHosts::default();
    for host in hosts {
        if out.names.contains_key(&host.bytes()) {
            continue;
        }
        let mut ranges = Vec::new();
        for rule in hosts.iter().filter(|r| r.covers(&host.name, host.below)) {
            let proto = rule.protocol.map_or(0, Protocol::number);
            if rule.ports.is_empty() {
                ranges.push((proto, 0, u16::MAX));
            }
            ranges.extend(rule.ports.iter().map(|p| (proto, *p.start(), *p.end())));
        }
        let ports = pack_ports(ranges).map_err(|got| EgressError::TooManyHostPorts { host: host.name.clone(), got })?;
        let number = u8::try_from(out.ports.len()).ok().filter(|n| usize::from(*n) < MAX_HOSTS);
        out.names.insert(host.bytes(), number.ok_or(EgressError::TooManyHosts(hosts.len()))?);
        out.ports.push(ports);
    }
    if !hosts.is_empty() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, below: bool, ports: &[RangeInclusive<u16>]) -> HostRule {
        HostRule { name: name.to_owned(), below, ports: ports.to_vec(), protocol: Some(Protocol::Tcp) }
    }

    #[test]
    fn a_name_has_the_ports_of_all_that_cover_it() {
        let hosts = [host("example.org", true, &[443..=443]), host("a.example.org", false, &[80..=80])];
        let folded = fold_hosts(&hosts, &["127.0.0.53".parse().unwrap()]).unwrap();
        let of = |name: &[u8]| folded.ports[usize::from(folded.names[name])];
        assert_eq!(of(b"gro.elpmaxe.").n, 1);
        assert_eq!(of(b"gro.elpmaxe.a\0").n, 2);
        assert_eq!(folded.servers, [(u64::from(u32::from_ne_bytes([127, 0, 0, 53])), 0)]);
    }

    #[test]
    fn below_is_not_the_name_itself_nor_a_longer_word() {
        let below = host("example.org", true, &[]);
        assert!(below.covers("a.example.org", false) && below.covers("b.a.example.org", true));
        assert!(!below.covers("example.org", false) && !below.covers("badexample.org", false));
    }

    #[test]
    fn more_names_than_fit_are_said() {
        let hosts: Vec<_> = (0..17).map(|i| host(&format!("h{i}.example.org"), false, &[])).collect();
        assert_eq!(fold_hosts(&hosts, &[]), Err(EgressError::TooManyHosts(17)));
    }
}

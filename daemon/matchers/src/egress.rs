//! Egress allow-lists: what a policy says, what the kernel is given, and the user-space twin of the kernel's matcher.
//!
//! The kernel looks a destination up in a longest-prefix-match trie and sees one entry only, so the entry of a
//! prefix must hold the ports of every shorter prefix around it: [`fold`] makes it so. [`verdict`] says the same
//! straight from the rules, and property tests hold it against both the folded table and the kernel.
//!
//! Invariants, here and in `ebpf/src/net.h`:
//! - an IPv4-mapped IPv6 address is its IPv4 address; `::/0` therefore does not allow any IPv4 destination;
//! - the unspecified address as a destination is loopback, as the kernel takes it so;
//! - port 0 stands for "no port" (ICMP and the like) and is only matched by a rule without ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use failsafe_ebpf::abi::{MAX_HOSTS, MAX_PORTS, Port, Ports};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Number of the TCP protocol in an IP header.
pub const TCP: u8 = 6;
/// Number of the UDP protocol in an IP header.
pub const UDP: u8 = 17;

/// A transport protocol that a rule may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

/// One entry of an allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// Destinations.
    pub net: IpNet,
    /// Ports; empty = any, and protocols without ports too.
    pub ports: Vec<RangeInclusive<u16>>,
    /// `None` = any.
    pub protocol: Option<Protocol>,
}

/// What happens outside the allow-list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EgressMode {
    /// Nothing is judged.
    #[default]
    Off,
    /// It is reported.
    Observe,
    /// It is refused, and reported.
    Enforce,
}

/// A run's egress policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    /// What happens outside the list.
    pub mode: EgressMode,
    /// The list. Empty = nothing is allowed.
    pub rules: Vec<EgressRule>,
    /// Judge replies on TCP connections that the run accepted by their destination as well. Off by default: who was
    /// let in gets an answer.
    pub judge_replies: bool,
}

/// An allow-list that cannot be given to the kernel.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EgressError {
    /// In which list.
    #[error("{list}: {wrong}")]
    In {
        /// The allow-list, or the rules whose addresses one list holds together.
        list: &'static str,
        /// What is wrong with it.
        wrong: Box<EgressError>,
    },
    /// The kernel's entry has room for [`MAX_PORTS`] port ranges.
    #[error("{net} ends up with {got} port ranges, at most {MAX_PORTS} fit")]
    TooManyPorts {
        /// The prefix, with all that applies to it from shorter ones.
        net: IpNet,
        /// Number of ranges, after merging.
        got: usize,
    },
    /// More host names than the kernel has room for.
    #[error("{0} host names, at most {MAX_HOSTS} fit")]
    TooManyHosts(usize),
    /// A host name with more port ranges than fit.
    #[error("{host} ends up with {got} port ranges, at most {MAX_PORTS} fit")]
    TooManyHostPorts {
        /// The name, with all that applies to it from wider ones.
        host: String,
        /// Number of ranges, after merging.
        got: usize,
    },
    /// A range that ends before it starts.
    #[error("{net} has an empty port range {lo}-{hi}")]
    EmptyRange {
        /// The rule's prefix.
        net: IpNet,
        /// First port.
        lo: u16,
        /// Last port.
        hi: u16,
    },
}

/// Whether `rules` let a packet or call through: `port` in host order, 0 for none; `proto` as in the IP header.
#[must_use]
pub fn verdict(rules: &[EgressRule], addr: IpAddr, port: u16, proto: u8) -> bool {
    one_of(rules, canonical(addr), port, proto)
}

fn one_of(rules: &[EgressRule], addr: IpAddr, port: u16, proto: u8) -> bool {
    rules.iter().any(|r| {
        canonical_net(r.net).contains(&addr)
            && r.protocol.is_none_or(|p| p.number() == proto)
            && (r.ports.is_empty() || r.ports.iter().any(|p| p.contains(&port)))
    })
}

/// Whether `rules` name a local address, as it is bound: `0.0.0.0` and `::` are not loopback here.
#[must_use]
pub fn names(rules: &[EgressRule], local: IpAddr, port: u16, proto: u8) -> bool {
    one_of(rules, local.to_canonical(), port, proto)
}

/// The destination that the kernel will really use, as IPv4 where it can be.
#[must_use]
pub fn canonical(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V4(a) if a.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(a) if a.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        a => a,
    }
}

/// A prefix inside `::ffff:0:0/96` is the IPv4 prefix it stands for.
pub fn canonical_net(net: IpNet) -> IpNet {
    if let IpNet::V6(n) = net
        && let Some(len) = n.prefix_len().checked_sub(96)
        && let Some(addr) = n.network().to_ipv4_mapped()
        && let Ok(n) = Ipv4Net::new(addr, len)
    {
        return IpNet::V4(n);
    }
    net.trunc()
}

/// An allow-list in the form the kernel holds it.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// IPv4 prefixes.
    pub v4: Vec<(Ipv4Net, Ports)>,
    /// IPv6 prefixes.
    pub v6: Vec<(Ipv6Net, Ports)>,
}

impl Folded {
    /// Whether it lists nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The kernel's look-up, step by step: longest prefix, then its entries.
    #[must_use]
    pub fn lookup(&self, addr: IpAddr, port: u16, proto: u8) -> bool {
        let ports = match canonical(addr) {
            IpAddr::V4(a) => longest(&self.v4, |n| n.contains(&a), Ipv4Net::prefix_len),
            IpAddr::V6(a) => longest(&self.v6, |n| n.contains(&a), Ipv6Net::prefix_len),
        };
        ports.is_some_and(|p| {
            p.e.iter().take(p.n as usize).any(|e| (e.proto == 0 || e.proto == proto) && (e.lo..=e.hi).contains(&port))
        })
    }
}

fn longest<N>(table: &[(N, Ports)], hit: impl Fn(&N) -> bool, len: impl Fn(&N) -> u8) -> Option<&Ports> {
    table.iter().filter(|(n, _)| hit(n)).max_by_key(|(n, _)| len(n)).map(|(_, p)| p)
}

/// Makes the kernel's tables: every prefix with the ports of all rules that cover it.
///
/// # Errors
/// A prefix with more port ranges than fit, or an empty range.
pub fn fold(rules: &[EgressRule]) -> Result<Folded, EgressError> {
    let mut nets: BTreeMap<IpNet, Vec<(u8, u16, u16)>> = BTreeMap::new();
    for r in rules {
        for p in &r.ports {
            if p.is_empty() {
                return Err(EgressError::EmptyRange { net: r.net, lo: *p.start(), hi: *p.end() });
            }
        }
        let proto = r.protocol.map_or(0, Protocol::number);
        let ranges = nets.entry(canonical_net(r.net)).or_default();
        if r.ports.is_empty() {
            ranges.push((proto, 0, u16::MAX));
        }
        ranges.extend(r.ports.iter().map(|p| (proto, *p.start(), *p.end())));
    }
    let mut out = Folded::default();
    for net in nets.keys() {
        // The list of a user is as long as the user wants: each net looks its own prefixes up, not through all others.
        let around = std::iter::successors(Some(*net), IpNet::supernet).filter_map(|wider| nets.get(&wider));
        let ports = pack(*net, around.flatten().copied().collect())?;
        match *net {
            IpNet::V4(n) => out.v4.push((n, ports)),
            IpNet::V6(n) => out.v6.push((n, ports)),
        }
    }
    Ok(out)
}

impl EgressError {
    /// The same, said of a list.
    pub fn of(list: &'static str) -> impl Fn(Self) -> Self {
        move |wrong| Self::In { list, wrong: Box::new(wrong) }
    }
}

/// The policy language promises as many as the kernel has room for.
const _: () = assert!(failsafe_core::policy::MAX_PORTS == MAX_PORTS);

fn pack(net: IpNet, ranges: Vec<(u8, u16, u16)>) -> Result<Ports, EgressError> {
    pack_ports(ranges).map_err(|got| EgressError::TooManyPorts { net, got })
}

/// Ranges of (protocol, first, last port), merged, in the kernel's form; how many there are if they do not fit.
pub fn pack_ports(mut ranges: Vec<(u8, u16, u16)>) -> Result<Ports, usize> {
    ranges.sort_unstable();
    let mut merged: Vec<(u8, u16, u16)> = Vec::new();
    for (proto, lo, hi) in ranges {
        // Sorted by protocol first, so the ranges for any protocol are all there to swallow the named ones.
        if merged.iter().any(|&(p, l, h)| (p == 0 || p == proto) && l <= lo && hi <= h) {
            continue;
        }
        match merged.last_mut() {
            Some((p, _, h)) if *p == proto && lo <= h.saturating_add(1) => *h = hi.max(*h),
            _ => merged.push((proto, lo, hi)),
        }
    }
    if merged.len() > MAX_PORTS {
        return Err(merged.len());
    }
    let empty = Port { lo: 0, hi: 0, proto: 0, pad: [0; 3] };
    let mut ports = Ports { n: 0, pad: 0, e: [empty; MAX_PORTS] };
    for (slot, (proto, lo, hi)) in ports.e.iter_mut().zip(merged) {
        *slot = Port { lo, hi, proto, pad: [0; 3] };
        ports.n += 1;
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies::{any_addr, any_rule};

    fn rule(net: &str, ports: &[RangeInclusive<u16>], protocol: Option<Protocol>) -> EgressRule {
        EgressRule { net: net.parse().unwrap(), ports: ports.to_vec(), protocol }
    }

    #[test]
    fn a_longer_prefix_keeps_the_ports_of_a_shorter_one() {
        let rules = [rule("10.0.0.0/8", &[443..=443], None), rule("10.1.0.0/16", &[22..=22], Some(Protocol::Tcp))];
        let folded = fold(&rules).unwrap();
        let host = "10.1.2.3".parse().unwrap();
        assert!(folded.lookup(host, 443, TCP));
        assert!(folded.lookup(host, 22, TCP));
        assert!(!folded.lookup(host, 22, UDP));
        assert!(!folded.lookup("10.2.0.1".parse().unwrap(), 22, TCP));
    }

    #[test]
    fn mapped_and_unspecified_addresses_are_what_the_kernel_makes_of_them() {
        let rules = [rule("127.0.0.1/32", &[], None)];
        for a in ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::ffff:0.0.0.0"] {
            assert!(verdict(&rules, a.parse().unwrap(), 1, TCP), "{a}");
        }
        assert!(!verdict(&rules, "::1".parse().unwrap(), 1, TCP));
        assert!(!verdict(&[rule("::/0", &[], None)], "::ffff:1.2.3.4".parse().unwrap(), 1, TCP));
        assert!(verdict(&[rule("::ffff:1.2.3.0/120", &[], None)], "1.2.3.4".parse().unwrap(), 1, TCP));
    }

    #[test]
    fn no_port_needs_a_rule_without_ports() {
        let any = [rule("10.0.0.0/8", &[], None)];
        let some = [rule("10.0.0.0/8", &[1..=65535], None)];
        let host = "10.0.0.1".parse().unwrap();
        assert!(fold(&any).unwrap().lookup(host, 0, 1));
        assert!(!fold(&some).unwrap().lookup(host, 0, 1));
    }

    #[test]
    fn too_many_ports_is_reported_with_the_prefix() {
        let ports: Vec<_> = (0..17).map(|i| i * 10 + 1..=i * 10 + 2).collect();
        let err = fold(&[rule("10.0.0.0/8", &ports, None)]).unwrap_err();
        assert_eq!(err, EgressError::TooManyPorts { net: "10.0.0.0/8".parse().unwrap(), got: 17 });
        let merges: Vec<_> = (0..300).map(|i| i * 10 + 1..=i * 10 + 10).collect();
        assert_eq!(fold(&[rule("10.0.0.0/8", &merges, None)]).unwrap().v4[0].1.n, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn the_folded_table_decides_as_the_rules_do(
            rules in prop::collection::vec(any_rule(), 0..8),
            addr in any_addr(),
            port in 0u16..18,
            proto in prop_oneof![Just(1u8), Just(TCP), Just(UDP)],
        ) {
            let folded = fold(&rules).unwrap();
            prop_assert_eq!(folded.lookup(addr, port, proto), verdict(&rules, addr, port, proto));
        }
    }
}

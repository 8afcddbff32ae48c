//! Addresses and rules for property tests, also those that hold the kernel against these matchers.

use crate::egress::{EgressRule, Protocol};
use crate::rules::{Effect, PathPattern, PathRule, Use};
use ipnet::IpNet;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

prop_compose! {
    /// Few bits of address and port, so that prefixes overlap and ranges touch.
    pub fn any_addr()(v6 in any::<bool>(), mapped in any::<bool>(), low in 0u8..8, high in 0u8..3) -> IpAddr {
        let v4 = Ipv4Addr::new(high * 5, 0, 0, low);
        match (v6, mapped) {
            (false, _) => v4.into(),
            (true, true) => v4.to_ipv6_mapped().into(),
            (true, false) => Ipv6Addr::new(u16::from(high) * 7, 0, 0, 0, 0, 0, 0, low.into()).into(),
        }
    }
}

prop_compose! {
    /// A rule on such an address.
    pub fn any_rule()(
        addr in any_addr(),
        len in prop_oneof![Just(0u8), Just(8), Just(29), Just(30), Just(32), 100u8..=128],
        ports in prop::collection::vec((0u16..12, 0u16..4).prop_map(|(lo, n)| lo..=lo + n), 0..3),
        protocol in prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Udp))],
    ) -> EgressRule {
        let max = if addr.is_ipv4() { 32 } else { 128 };
        EgressRule { net: IpNet::new(addr, len.min(max)).unwrap_or_else(|_| addr.into()), ports, protocol }
    }
}

/// A rule on a path.
#[must_use]
pub fn path_rule(path: &str, prefix: bool, usage: Use, effect: Effect) -> PathRule {
    PathRule { pattern: PathPattern { path: path.to_owned(), prefix }, usage, effect }
}

/// A path of few names, so that prefixes overlap.
pub fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab")], 1..4).prop_map(|p| format!("/{}", p.join("/")))
}

prop_compose! {
    /// A rule on such a path.
    pub fn any_path_rule()(
        path in any_path(),
        slash in any::<bool>(),
        prefix in any::<bool>(),
        usage in prop_oneof![Just(Use::Exec), Just(Use::Read), Just(Use::Write)],
        effect in prop_oneof![Just(Effect::Observe), Just(Effect::Deny), Just(Effect::Stop)],
    ) -> PathRule {
        path_rule(&if slash && prefix { format!("{path}/") } else { path }, prefix, usage, effect)
    }
}

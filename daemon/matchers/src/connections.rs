//! What an allow-list makes of a connection that was there before it. Pure.

use crate::{
    egress::{EgressMode, EgressPolicy, verdict},
    rules::Rules,
};
use std::net::SocketAddr;

/// How a connection stands to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The list names its address, or there is no list that is enforced.
    Listed,
    /// Hosts of the list allow its port and protocol, by their bits. Whether the address is one of theirs only a name server knows.
    MayBeHost(u64),
    /// Nothing of the list allows it: its packets are dropped.
    Outside,
}

/// Judges a connection to `remote` by the list of a run that has learnt no address yet.
#[must_use]
pub fn standing(egress: &EgressPolicy, rules: &Rules, remote: SocketAddr, protocol: u8) -> Standing {
    let (address, port) = (remote.ip(), remote.port());
    if verdict(&rules.net_denied, address, port, protocol) {
        return Standing::Outside;
    }
    if egress.mode != EgressMode::Enforce || verdict(&egress.rules, address, port, protocol) {
        return Standing::Listed;
    }
    let allowing = rules.hosts.iter().zip(0..u64::BITS).filter(|(host, _)| host.allows(port, protocol));
    match allowing.fold(0, |hosts, (_, bit)| hosts | 1 << bit) {
        0 => Standing::Outside,
        hosts => Standing::MayBeHost(hosts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Resolver, egress, rules};
    use failsafe_core::policy::parse::parse;

    #[test]
    fn a_connection_is_listed_may_be_one_of_hosts_or_is_outside() {
        let of = |list: &str, remote: &str, protocol| {
            let policy = parse("t", &format!("[policy]\nname = \"t\"\nowner = \"o\"\n{list}")).unwrap();
            let resolver = Resolver::of("192.0.2.7 known.example.org\n", "nameserver 192.0.2.53\n");
            standing(&egress(&policy, &resolver), &rules(&policy, 0, &resolver), remote.parse().unwrap(), protocol)
        };
        let list = "[egress]\nallow = [\n{ cidr = \"10.0.0.0/8\", ports = 443, protocol = \"tcp\" },\n\
                    { host = \"a.example.org\", ports = 443, protocol = \"tcp\" },\n\
                    { host = \"known.example.org\", ports = [80, 443] },\n]\n";
        for (remote, protocol, expected) in [
            ("10.1.2.3:443", 6, Standing::Listed),
            ("10.1.2.3:22", 6, Standing::Outside),
            ("203.0.113.1:443", 6, Standing::MayBeHost(0b11)),
            ("203.0.113.1:443", 17, Standing::MayBeHost(0b10)),
            ("[2001:db8::1]:80", 6, Standing::MayBeHost(0b10)),
            ("203.0.113.1:22", 6, Standing::Outside),
            ("192.0.2.7:80", 6, Standing::Listed),
            ("[::ffff:10.1.2.3]:443", 6, Standing::Listed),
        ] {
            assert_eq!(of(list, remote, protocol), expected, "{remote} {protocol}");
        }
        let observed = list.replace("[egress]", "[egress]\nmode = \"observe\"");
        assert_eq!(of(&observed, "203.0.113.1:22", 6), Standing::Listed, "nothing is dropped");
        assert_eq!(of("", "203.0.113.1:22", 6), Standing::Listed);
        let denied = "[[rule]]\nid = \"d\"\nrationale = \"r\"\neffect = \"deny\"\nactions = [\"notify\"]\n\
                      when = { event = \"connect\", address = \"203.0.113.0/24\" }\n";
        assert_eq!(of(&format!("{list}{denied}"), "203.0.113.1:443", 6), Standing::Outside);
    }
}

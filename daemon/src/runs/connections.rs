//! The connections that a registered cgroup has open, held against the allow-list that it is about to get: it is bounded from the
//! registration on, and nobody has asked a name server for it before.

use crate::{
    guard::node_resolver,
    platform::{
        Cgroup, clock,
        connections::{Connection, of_cgroup},
    },
};
use failsafe_core::{Input, MonoTime, Policy, RunId, input::Gap, signal::Source};
use failsafe_matchers::{
    compile,
    connections::{Standing, standing},
};
use std::{collections::BTreeMap, net::IpAddr};

/// Connections that a text names one by one.
const NAMED: usize = 8;

/// A connection that the list does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlisted {
    /// It.
    pub connection: Connection,
    /// The host entries that allow its port and protocol, by their bits; 0: none.
    mask: u64,
    /// The same, as the policy writes them.
    pub hosts: Vec<String>,
}

/// Those of a cgroup.
#[derive(Debug, Default)]
pub struct OpenConnections {
    /// The connections.
    pub unlisted: Vec<Unlisted>,
    /// Why there may be more.
    pub unread: Option<String>,
    /// Whether those that a host entry allows are kept.
    pub kept: bool,
}

impl OpenConnections {
    /// Those of a cgroup, by a policy. Reads `/proc`.
    pub fn of(policy: &Policy, cgroup: &Cgroup, kept: bool) -> OpenConnections {
        let found = of_cgroup(cgroup);
        let resolver = node_resolver();
        let (egress, rules) = (compile::egress(policy, &resolver), compile::rules(policy, 0, &resolver));
        let written: Vec<&String> =
            policy.egress.iter().flat_map(|egress| &egress.allow).filter_map(|a| a.host.as_ref()).collect();
        let judged = found.all.into_iter().filter_map(|connection| {
            let mask = match standing(&egress, &rules, connection.remote, connection.protocol) {
                Standing::Listed => return None,
                Standing::MayBeHost(mask) => mask,
                Standing::Outside => 0,
            };
            let of_mask = |(bit, host): (u32, &&String)| (mask >> bit & 1 == 1).then(|| (*host).clone());
            let hosts = (0..u64::BITS).zip(&written).filter_map(of_mask).collect();
            Some(Unlisted { connection, mask, hosts })
        });
        OpenConnections { unlisted: judged.collect(), unread: found.unread, kept }
    }

    /// Whether this one stays open.
    pub fn keeps(&self, connection: &Unlisted) -> bool {
        self.kept && connection.mask != 0
    }

    /// The addresses that hosts of the list have from the first instant, by the hosts' bits.
    pub fn learnt(&self) -> Vec<(IpAddr, u64)> {
        let mut all: BTreeMap<IpAddr, u64> = BTreeMap::new();
        for one in self.unlisted.iter().filter(|one| self.keeps(one)) {
            *all.entry(one.connection.remote.ip()).or_default() |= one.mask;
        }
        all.into_iter().collect()
    }

    /// What is to be on record of them, if anything. `dropped`: the kernel enforces the list, so that the others are cut.
    pub fn gap(&self, run: RunId, dropped: bool) -> Option<Input> {
        let (kept, others): (Vec<_>, Vec<_>) = self.unlisted.iter().partition(|one| self.keeps(one));
        let mut parts = Vec::new();
        if !kept.is_empty() {
            parts.push(format!(
                "kept, their addresses count as those of the policy's hosts while the run lives: {}",
                listed(&kept, true)
            ));
        }
        if !others.is_empty() && dropped {
            parts.push(format!("outside the list, their packets are dropped: {}", listed(&others, false)));
        }
        if let Some(why) = self.unread.as_ref().filter(|_| dropped || self.kept) {
            parts.push(format!("not all could be looked at: {why}"));
        }
        let what = format!("connections that were open when the run was registered: {}", parts.join("; "));
        let at = MonoTime(clock::monotonic_ns());
        let gap = Gap { seq: 0, at, source: Source::Cgroup, run: Some(run), gpu: None, what, lost: 0, blind: false };
        (!parts.is_empty()).then_some(Input::Gap(gap))
    }
}

fn listed(all: &[&Unlisted], hosts: bool) -> String {
    let one = |one: &&Unlisted| {
        let Connection { remote, protocol, pid } = &one.connection;
        let protocol = if *protocol == 6 { "tcp" } else { "udp" };
        let of = if hosts { format!(", {}", one.hosts.join(" or ")) } else { String::new() };
        format!("{remote} ({protocol}, pid {pid}{of})")
    };
    let mut text: Vec<String> = all.iter().take(NAMED).map(one).collect();
    if all.len() > NAMED {
        text.push(format!("{} more", all.len() - NAMED));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn unlisted(remote: &str, mask: u64) -> Unlisted {
        let connection = Connection { remote: remote.parse().unwrap(), protocol: 6, pid: 7 };
        Unlisted { connection, mask, hosts: if mask == 0 { Vec::new() } else { vec!["*.example.org".into()] } }
    }

    fn text(open: &OpenConnections, dropped: bool) -> Option<String> {
        open.gap(RunId(Uuid::nil()), dropped).map(|input| match input {
            Input::Gap(gap) => gap.what,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn a_connection_is_kept_only_where_that_is_asked_for_and_a_host_entry_allows_it() {
        let all =
            vec![unlisted("203.0.113.1:443", 0b10), unlisted("203.0.113.1:80", 0b100), unlisted("203.0.113.2:22", 0)];
        let mut open = OpenConnections { unlisted: all, unread: None, kept: false };
        assert_eq!(open.learnt(), []);
        let what = text(&open, true).unwrap();
        assert!(
            what.contains("packets are dropped: 203.0.113.1:443 (tcp, pid 7), ") && !what.contains("kept"),
            "{what}"
        );
        assert_eq!(text(&open, false), None, "an observed list drops nothing");
        open.kept = true;
        assert_eq!(open.learnt(), [("203.0.113.1".parse().unwrap(), 0b110)]);
        let what = text(&open, true).unwrap();
        assert!(what.contains("203.0.113.1:443 (tcp, pid 7, *.example.org)"), "{what}");
        assert!(what.ends_with("packets are dropped: 203.0.113.2:22 (tcp, pid 7)"), "{what}");
        open.unlisted.clear();
        assert_eq!(text(&open, true), None);
        open.unread = Some("too many".into());
        assert!(text(&open, true).unwrap().ends_with("not all could be looked at: too many"));
    }
}

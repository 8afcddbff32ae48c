//! The account of what a run sent: what the kernel counted, and what the daemon saw of single destinations.
//!
//! Invariants: bounded, whatever the run does: [`DESTINATIONS`] destinations are counted by address, all others together; what is
//! not counted is named in [`Account::gaps`], never shown as nothing.

use crate::event::{Event, NetOp, Verdict};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// Destinations of a run that are counted one by one, in the order in which they were first seen.
pub const DESTINATIONS: usize = 64;

/// What the kernel counted in the whole life of a run, over all daemons that watched it. Counts of calls and packets; sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// IP bytes sent, headers included.
    pub egress_bytes: u64,
    /// IP bytes received.
    pub ingress_bytes: u64,
    /// Calls of connect, sendmsg, bind and socket that were refused, with or without a rule.
    pub denied_calls: u64,
    /// Other calls and operations that a rule refused.
    pub denied_ops: u64,
    /// Calls and operations that a rule observed.
    pub observed_ops: u64,
    /// Packets that were dropped on the way out, those beyond a budget apart.
    pub dropped_packets: u64,
    /// Packets beyond a budget, dropped.
    pub budget_drops: u64,
    /// Events.
    pub events: u64,
    /// Events that the ring buffer had no room for.
    pub events_lost: u64,
    /// Processes that were not tracked for lack of room.
    pub untracked: u64,
    /// Packets with data to port 53.
    pub dns_queries: u64,
    /// Their bytes.
    pub dns_bytes: u64,
}

/// Where something was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Destination {
    /// The address; a v4-mapped one is given as IPv4.
    pub address: IpAddr,
    /// The port; 0 where the protocol has none.
    pub port: u16,
    /// IP protocol number (6 TCP, 17 UDP).
    pub protocol: u8,
}

/// What was counted of a destination: events, each with its repetitions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// Connections that were allowed. 0 also where the kernel does not report them, see [`Account::connections`].
    pub connected: u64,
    /// Connections, datagrams and packets that were refused.
    pub refused: u64,
    /// Those that the allow-list does not name, where it only observes.
    pub observed: u64,
}

/// One destination of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Where.
    pub destination: Destination,
    /// What.
    pub attempts: Attempts,
}

/// What is counted of a budget of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetUse {
    /// Its name in the policy.
    pub name: String,
    /// The networks that it covers.
    pub to: Vec<String>,
    /// The most bytes that it allows; none: it has only a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The most bytes in a second; none: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// IP bytes sent to these networks.
    pub bytes: u64,
    /// Packets beyond the budget that were dropped, since the present daemon took the run up.
    pub dropped: u64,
}

/// Whether allowed connections are counted by destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connections {
    /// A rule of the policy watches `connect`: the kernel reports each one.
    Counted,
    /// No rule does: only refused and observed ones are counted.
    NotCounted,
}

/// The account of a run's egress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// `enforce` or `observe`, as the policy's `[egress]` says; `none`: it has none.
    pub mode: String,
    /// What the kernel counted in the whole life of the run; none: it cannot be read, and a gap says why.
    pub totals: Option<Totals>,
    /// Bytes to each budget's networks, in the order of the policy.
    pub budgets: Vec<BudgetUse>,
    /// Whether allowed connections are counted by destination.
    pub connections: Connections,
    /// Destinations, those with most attempts first.
    pub destinations: Vec<Line>,
    /// What was counted of all other destinations.
    pub others: Attempts,
    /// What this account does not contain, and why.
    pub gaps: Vec<String>,
}

/// Counts destinations of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    by: BTreeMap<Destination, Attempts>,
    others: Attempts,
}

impl Attempts {
    /// All of them.
    pub fn sum(self) -> u64 {
        self.connected.saturating_add(self.refused).saturating_add(self.observed)
    }

    /// Whether nothing was counted.
    pub fn is_none(self) -> bool {
        self == Attempts::default()
    }
}

impl Tally {
    /// Takes an event that stands for `repeats` more. Only connections and sent packets count.
    pub fn take(&mut self, event: &Event, repeats: u64) {
        let Event::Net { op: op @ (NetOp::Connect | NetOp::Send), protocol, address, port, verdict, .. } = event else {
            return;
        };
        let of: fn(&mut Attempts) -> &mut u64 = match (op, verdict) {
            (_, Verdict::WouldDeny) => |attempts| &mut attempts.observed,
            (NetOp::Connect, Verdict::Allowed) => |attempts| &mut attempts.connected,
            // A datagram that was allowed is no connection; connecting a datagram socket sends nothing.
            (_, Verdict::Allowed | Verdict::Probe) => return,
            _ => |attempts| &mut attempts.refused,
        };
        let destination = Destination { address: *address, port: *port, protocol: *protocol };
        let has_room = self.by.len() < DESTINATIONS || self.by.contains_key(&destination);
        let attempts = if has_room { self.by.entry(destination).or_default() } else { &mut self.others };
        let counted = of(attempts);
        *counted = counted.saturating_add(repeats.saturating_add(1));
    }

    /// The destinations, those with most attempts first, and all others together.
    pub fn lines(&self) -> (Vec<Line>, Attempts) {
        let line = |(destination, attempts): (&Destination, &Attempts)| Line {
            destination: *destination,
            attempts: *attempts,
        };
        let mut lines: Vec<Line> = self.by.iter().map(line).collect();
        lines.sort_by_key(|line| (std::cmp::Reverse(line.attempts.sum()), line.destination));
        (lines, self.others)
    }
}

impl Account {
    /// IP bytes that were sent to no budget's networks; none: the totals are not known.
    pub fn unbudgeted(&self) -> Option<u64> {
        let budgeted = self.budgets.iter().map(|budget| budget.bytes).fold(0, u64::saturating_add);
        Some(self.totals?.egress_bytes.saturating_sub(budgeted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Assurance;

    fn event(op: NetOp, last: u8, port: u16, verdict: Verdict) -> Event {
        let (address, assurance) = (IpAddr::from([10, 0, 0, last]), Assurance::Observed);
        Event::Net { op, protocol: 6, address, port, family: 2, verdict, assurance }
    }

    #[test]
    fn attempts_are_counted_by_destination_and_kind_with_their_repetitions() {
        let mut tally = Tally::default();
        tally.take(&event(NetOp::Connect, 1, 443, Verdict::Allowed), 0);
        tally.take(&event(NetOp::Connect, 1, 443, Verdict::Denied), 4);
        tally.take(&event(NetOp::Send, 2, 53, Verdict::WouldDeny), 1);
        for uncounted in [
            event(NetOp::Bind, 3, 1, Verdict::Denied),
            event(NetOp::Connect, 3, 1, Verdict::Probe),
            event(NetOp::Send, 3, 1, Verdict::Allowed),
        ] {
            tally.take(&uncounted, 0);
        }
        let (lines, others) = tally.lines();
        let shown: Vec<_> = lines.iter().map(|line| (line.destination.port, line.attempts)).collect();
        let first = Attempts { connected: 1, refused: 5, observed: 0 };
        assert_eq!(shown, [(443, first), (53, Attempts { observed: 2, ..Attempts::default() })]);
        assert!(others.is_none());
    }

    #[test]
    fn a_run_that_tries_every_port_takes_bounded_room_and_nothing_is_lost() {
        let mut tally = Tally::default();
        for port in 0..=u16::MAX {
            tally.take(&event(NetOp::Connect, 1, port, Verdict::Denied), 0);
        }
        let (lines, others) = tally.lines();
        assert_eq!(lines.len(), DESTINATIONS);
        let listed: u64 = lines.iter().map(|line| line.attempts.sum()).sum();
        assert_eq!(listed + others.refused, 65_536);
    }

    #[test]
    fn bytes_outside_of_budgets_are_the_rest() {
        let budget = |bytes| BudgetUse { name: "a".into(), to: Vec::new(), limit: None, rate: None, bytes, dropped: 0 };
        let totals = Totals { egress_bytes: 100, ..Totals::default() };
        let mut account = Account {
            mode: "none".into(),
            totals: Some(totals),
            budgets: vec![budget(30), budget(20)],
            connections: Connections::NotCounted,
            destinations: Vec::new(),
            others: Attempts::default(),
            gaps: Vec::new(),
        };
        assert_eq!(account.unbudgeted(), Some(50));
        account.totals = None;
        assert_eq!(account.unbudgeted(), None);
    }
}

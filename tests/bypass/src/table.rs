//! What every attempt must come to. A row says what holds where only cgroup hooks and tracepoints load, and what holds where
//! LSM programs load as well.

use Come::{Blocked, Leak};
use Who::{Both, Root};

/// Who makes the attempt inside the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Root, and again as nobody.
    Both,
    /// Root; for anybody else the kernel refuses it by itself, with a policy or without.
    Root,
    /// Nobody; for root another row holds.
    Nobody,
}

impl Who {
    /// The users by name.
    #[must_use]
    pub fn users(self) -> &'static [&'static str] {
        match self {
            Both => &["root", "nobody"],
            Root => &["root"],
            Who::Nobody => &["nobody"],
        }
    }
}

/// What an attempt comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Come {
    /// Refused, and nothing of it was seen outside.
    Blocked,
    /// It happened, and the run was frozen or the process brought back, by a decision on record.
    Contained,
    /// It happened and nothing stopped it: the row of the threat model that begins with these words says why.
    Leak(&'static str),
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The attempt's name.
    pub attempt: &'static str,
    /// Who makes it.
    pub who: Who,
    /// With cgroup hooks and tracepoints only.
    pub cgroup: Come,
    /// With LSM programs too.
    pub lsm: Come,
}

const fn row(attempt: &'static str, who: Who, cgroup: Come, lsm: Come) -> Row {
    Row { attempt, who, cgroup, lsm }
}

const HANDED_IN: Come = Leak("a socket made outside the run and handed in");
const PACKETS: Come = Leak("`AF_PACKET` sockets");
const REPLIES: Come = Leak("replies on connections the run accepted");
const UNIX: Come = Leak("UNIX sockets of services on the node");

/// Ways to an address that is not on the list.
pub const SOCKETS: &[Row] = &[
    row("tcp-connect", Both, Blocked, Blocked),
    row("udp-send-to", Both, Blocked, Blocked),
    row("udp-connect", Both, Blocked, Blocked),
    row("udp-reconnect", Both, Blocked, Blocked),
    row("udp-connected-send-to", Both, Blocked, Blocked),
    row("udp-unspecified-family", Both, Blocked, Blocked),
    row("udp6-to-ipv4", Both, Blocked, Blocked),
    row("udp-batch", Both, Blocked, Blocked),
    row("tcp-fast-open", Both, Blocked, Blocked),
    row("tcp-fast-open-option", Both, Blocked, Blocked),
    row("tcp-repair", Root, Blocked, Blocked),
    row("mapped-tcp", Both, Blocked, Blocked),
    row("mapped-udp", Both, Blocked, Blocked),
    row("mapped-fast-open", Both, Blocked, Blocked),
    row("any-address-tcp", Both, Blocked, Blocked),
    row("any-address-udp", Both, Blocked, Blocked),
    row("ipv6-tcp", Both, Blocked, Blocked),
    row("ipv6-udp", Both, Blocked, Blocked),
    row("ipv6-any-address-tcp", Both, Blocked, Blocked),
    row("ipv6-any-address-udp", Both, Blocked, Blocked),
    row("ipv6-link-local-tcp", Both, Blocked, Blocked),
    row("ipv6-link-local-udp", Both, Blocked, Blocked),
    row("mptcp", Both, Blocked, Blocked),
    row("sctp", Both, Blocked, Blocked),
    row("udp-lite", Both, Blocked, Blocked),
];

/// The same, many at once or rewritten while the kernel reads them.
pub const RACES: &[Row] = &[
    row("race-send-to", Both, Blocked, Blocked),
    row("race-connect", Both, Blocked, Blocked),
    row("many-threads", Both, Blocked, Blocked),
];

/// The same through io_uring.
pub const URING: &[Row] = &[
    row("uring-connect", Both, Blocked, Blocked),
    row("uring-connect-kernel-thread", Both, Blocked, Blocked),
    row("uring-connect-worker", Both, Blocked, Blocked),
    row("uring-send-to", Both, Blocked, Blocked),
    row("uring-send-to-kernel-thread", Both, Blocked, Blocked),
    row("uring-send-to-worker", Both, Blocked, Blocked),
    row("uring-fast-open", Both, Blocked, Blocked),
    row("uring-mptcp-socket", Both, Blocked, Blocked),
];

/// Packets that the run writes itself.
pub const WIRE: &[Row] = &[
    row("raw", Root, Blocked, Blocked),
    row("raw-own-header", Root, Blocked, Blocked),
    row("raw6", Root, Blocked, Blocked),
    row("ping", Both, Blocked, Blocked),
    row("source-route", Root, Blocked, Blocked),
    row("packet", Root, PACKETS, Blocked),
    row("packet-by-inet", Root, PACKETS, Blocked),
];

/// Sockets that were not made in the run, and what comes in.
pub const FOREIGN: &[Row] = &[
    row("inherited-udp", Both, HANDED_IN, Blocked),
    row("inherited-tcp", Both, HANDED_IN, Blocked),
    row("handed-in", Both, HANDED_IN, Blocked),
    row("taken-from-outside", Both, HANDED_IN, Blocked),
    row("listen-and-answer", Both, REPLIES, REPLIES),
    row("unix-socket", Both, UNIX, UNIX),
];

/// Every row.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    [SOCKETS, RACES, URING, WIRE, FOREIGN].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_attempt_has_a_row_and_every_row_an_attempt() {
        let rows: BTreeSet<&str> = rows().map(|row| row.attempt).collect();
        let attempts: BTreeSet<&str> = crate::attempts::all().map(|(name, _)| name).collect();
        assert_eq!(rows, attempts);
    }
}

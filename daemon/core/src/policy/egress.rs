//! Where a run may send, and how much.

use crate::decision::Mode;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Budgets that one policy may have: the kernel keeps their number in three bits, and 0 is none.
pub const MAX_BUDGETS: usize = 7;

/// An IP protocol of an egress entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, number 6.
    Tcp,
    /// UDP, number 17.
    Udp,
}

/// Port ranges of one destination that the kernel's tables have room for; those that touch count as one.
pub const MAX_PORTS: usize = 16;

/// Longest host name of an egress entry, in bytes.
pub const MAX_HOST: usize = 128;

/// One destination a run may reach: a network or a host, never both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressAllow {
    /// The network.
    pub cidr: Option<IpNet>,
    /// The host, in lower case; with a leading `*.` every name below it, but not the name itself.
    pub host: Option<String>,
    /// Ports as inclusive ranges; empty: any.
    pub ports: Vec<(u16, u16)>,
    /// Protocol; `None`: TCP and UDP.
    pub protocol: Option<Protocol>,
}

/// How much a run may send to some networks. Beyond it packets drop and an event says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Its name, unique in the policy.
    pub name: String,
    /// The networks; a packet counts towards the budget with the longest prefix that holds its destination.
    pub to: Vec<IpNet>,
    /// Bytes over the run's life.
    pub bytes: Option<u64>,
    /// Bytes per second.
    pub rate: Option<u64>,
}

/// The egress allow-list, enforced in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// Deny, or only report what would have been denied.
    pub mode: Mode,
    /// Where the run may send; all else is forbidden.
    pub allow: Vec<EgressAllow>,
    /// How much, at most [`MAX_BUDGETS`].
    pub budgets: Vec<Budget>,
    /// Servers whose DNS answers are believed; empty: those of the host's resolv.conf when the run is registered.
    pub dns_servers: Vec<IpAddr>,
}

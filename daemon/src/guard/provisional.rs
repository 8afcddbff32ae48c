//! Provisional runs, as the guard holds them: see [`super::early`].

use std::collections::{BTreeMap, BTreeSet};

use failsafe_matchers::tables::Tables;

use super::attach::Held;
use super::netns::NetNs;

/// What the owner of the programs knows of it.
#[derive(Default)]
pub(super) struct Early {
    /// Held for as long as the programs are to be attached.
    pub links: Vec<Held>,
    pub armed: bool,
    /// Levels of the hierarchy at which cgroups may be bound.
    pub levels: BTreeSet<u8>,
    /// The tables of each rule.
    pub tables: BTreeMap<u32, (u32, Tables)>,
    /// The slots that were offered, and not yet registered or released, by their place in the map.
    pub offered: BTreeMap<u32, (u32, u32)>,
    pub settled: u64,
    /// The network namespace in which name servers are believed until a run is registered.
    pub netns: Option<NetNs>,
}

/// A cgroup that the kernel has bound and that is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisional {
    /// Its slot.
    pub slot: u32,
    /// Which occupant of the slot.
    pub epoch: u32,
    /// Cgroup id.
    pub root_id: u64,
    /// The rule, by its place in the configuration.
    pub rule: u32,
    /// When it was bound, `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
}

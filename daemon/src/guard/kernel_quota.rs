//! Who may use how much of the kernel's tables. The maps are of the whole node, so their room is shared out before anything is
//! written to them.
//!
//! ```text
//! add_run ─► fold the policy ─► Need ─► KernelQuota::take ─► write the maps
//!                                            └─► QuotaError: nothing is written
//! remove_run ─► clear the maps ─► KernelQuota::give
//! ```
//! Invariants:
//! - the runs of one user hold at most `per_user` of a table, those of all users together at most `total - reserve`;
//! - no more than `total` is given to runs that are started, so a write does not find its map full;
//! - discovered runs of one owner hold at most `per_user` of a table beside that; those without a known owner have no share of one;
//! - a run that was taken up after a restart is counted and never refused: its bounds are in force already.
//!
//! Pure: knows no map.

use crate::config::TableShares;
use failsafe_matchers::{hosts::classes, tables::Tables};
use std::collections::BTreeMap;
use std::fmt;

/// The owner of a run of which it is not known: no user has this id.
const NO_UID: u32 = u32::MAX;

/// What is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Places for runs.
    Runs,
    /// IPv4 networks in lists of destinations and local addresses.
    Destinations4,
    /// ... IPv6.
    Destinations6,
    /// IPv4 networks with a budget.
    BudgetNets4,
    /// ... IPv6.
    BudgetNets6,
    /// Paths of rules and names of hosts.
    Paths,
    /// Files and folders by inode, devices, socket families, name servers.
    Numbers,
    /// Ports of host names.
    HostPorts,
}

impl Resource {
    /// All of them, with the map that holds each.
    pub const ALL: [(Resource, &'static str); 8] = [
        (Resource::Runs, "runs"),
        (Resource::Destinations4, "egress4"),
        (Resource::Destinations6, "egress6"),
        (Resource::BudgetNets4, "classes4"),
        (Resource::BudgetNets6, "classes6"),
        (Resource::Paths, "paths"),
        (Resource::Numbers, "keys"),
        (Resource::HostPorts, "host_ports"),
    ];

    /// The limit, as refusals and `node status` name it.
    #[must_use]
    pub fn limit(self) -> &'static str {
        match self {
            Resource::Runs => "kernel-tables.runs",
            Resource::Destinations4 => "kernel-tables.egress4",
            Resource::Destinations6 => "kernel-tables.egress6",
            Resource::BudgetNets4 => "kernel-tables.classes4",
            Resource::BudgetNets6 => "kernel-tables.classes6",
            Resource::Paths => "kernel-tables.paths",
            Resource::Numbers => "kernel-tables.keys",
            Resource::HostPorts => "kernel-tables.host_ports",
        }
    }

    /// What it is, for people; plural.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Resource::Runs => "runs",
            Resource::Destinations4 => "IPv4 destinations",
            Resource::Destinations6 => "IPv6 destinations",
            Resource::BudgetNets4 => "IPv4 networks with a budget",
            Resource::BudgetNets6 => "IPv6 networks with a budget",
            Resource::Paths => "paths and host names",
            Resource::Numbers => "files, devices, socket families and name servers",
            Resource::HostPorts => "port lists of host names",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// In which share a run is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A user without a reserve.
    User(u32),
    /// Root or the administrators' group started it.
    Administrator,
    /// It was started under an earlier daemon, for this user.
    Adopted(u32),
    /// Discovery made it, for this user: what the user holds by other runs is no reason that a job has no policy.
    Discovered(u32),
    /// The same, under an earlier daemon.
    AdoptedDiscovered(u32),
}

/// Entries that a run needs, by table.
pub type Need = BTreeMap<Resource, u64>;

/// The entries that a run's tables take up, by map.
pub(super) fn need(tables: &Tables) -> Need {
    let lists = || std::iter::once(&tables.egress).chain(tables.beside.values());
    let budget_nets = |v4: bool| classes(&tables.budgets).filter(|(_, net)| net.addr().is_ipv4() == v4).count();
    let entries = [
        (Resource::Runs, 1),
        (Resource::Destinations4, lists().map(|list| list.v4.len()).sum()),
        (Resource::Destinations6, lists().map(|list| list.v6.len()).sum()),
        (Resource::BudgetNets4, budget_nets(true)),
        (Resource::BudgetNets6, budget_nets(false)),
        (Resource::Paths, tables.rules.paths.len() + tables.hosts.names.len()),
        (Resource::Numbers, tables.rules.counted_numbers() + tables.hosts.servers.len()),
        (Resource::HostPorts, tables.hosts.ports.len()),
    ];
    entries.into_iter().map(|(resource, n)| (resource, n as u64)).collect()
}

/// What is enough for either of two.
pub(super) fn most(mut one: Need, other: &Need) -> Need {
    for (resource, entries) in other {
        let held = one.entry(*resource).or_default();
        *held = (*held).max(*entries);
    }
    one
}

/// Why a run gets no room. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// The user has no more.
    #[error(
        "limit `{}`: {resource} in the kernel's tables: this run needs {need}, and the runs of uid {uid} hold {held} of {limit}, \
         the limit for one user: end one of them, merge entries of the policy, or let root or the administrators' group start \
         the run",
        resource.limit()
    )]
    OfUser {
        /// Of what.
        resource: Resource,
        /// Whom.
        uid: u32,
        /// What the run needs.
        need: u64,
        /// What the user's runs hold.
        held: u64,
        /// The most for one user.
        limit: u64,
    },
    /// All users together have no more.
    #[error(
        "limit `{}`: {resource} in the kernel's tables: this run needs {need}, and the runs of all users hold {held} of {limit} \
         ({reserve} more are reserved for root and the administrators' group): wait until runs end, or let one of them start \
         the run",
        resource.limit()
    )]
    OfUsers {
        /// Of what.
        resource: Resource,
        /// What the run needs.
        need: u64,
        /// What the runs of all users hold.
        held: u64,
        /// The most for all users.
        limit: u64,
        /// What is kept back.
        reserve: u64,
    },
    /// The table is used up.
    #[error(
        "limit `{}`: {resource} in the kernel's tables: this run needs {need}, and the runs of this node hold {held} of {limit}: \
         end a run, or merge entries of the policy",
        resource.limit()
    )]
    OfNode {
        /// Of what.
        resource: Resource,
        /// What the run needs.
        need: u64,
        /// What is held.
        held: u64,
        /// The table's size.
        limit: u64,
    },
}

impl QuotaError {
    fn resource(&self) -> Resource {
        match self {
            Self::OfUser { resource, .. } | Self::OfUsers { resource, .. } | Self::OfNode { resource, .. } => *resource,
        }
    }
}

/// What of one table is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Of what.
    pub resource: Resource,
    /// Entries that runs hold.
    pub used: u64,
    /// ... those of users without a reserve.
    pub used_by_users: u64,
    /// What each user holds.
    pub users: BTreeMap<u32, u64>,
    /// The most for one user.
    pub per_user: u64,
    /// What is kept back.
    pub reserve: u64,
    /// The table's size.
    pub total: u64,
}

/// The accounts.
#[derive(Clone, Debug, Default)]
pub struct KernelQuota {
    shares: TableShares,
    totals: Need,
    held: BTreeMap<u32, (Holder, Need)>,
    /// How often each table had no room for a run.
    refused: Need,
}

impl KernelQuota {
    /// Nothing is held yet of tables of these sizes.
    #[must_use]
    pub fn new(shares: TableShares, totals: Need) -> Self {
        Self { shares, totals, ..Self::default() }
    }

    /// Gives a slot what it needs, in place of what it had.
    ///
    /// # Errors
    /// [`QuotaError`]: the slot has what it had before.
    pub fn take(&mut self, slot: u32, holder: Holder, need: Need) -> Result<(), QuotaError> {
        let before = self.held.remove(&slot);
        let refused = need.iter().find_map(|(resource, need)| self.refusal(*resource, holder, *need));
        match refused {
            None => drop(self.held.insert(slot, (holder, need))),
            Some(_) => drop(before.map(|before| self.held.insert(slot, before))),
        }
        if let Some(error) = &refused {
            *self.refused.entry(error.resource()).or_default() += 1;
        }
        refused.map_or(Ok(()), Err)
    }

    /// What a slot had is free.
    pub fn give(&mut self, slot: u32) {
        self.held.remove(&slot);
    }

    /// What a slot has; `None`: nothing.
    #[must_use]
    pub fn held(&self, slot: u32) -> Option<&(Holder, Need)> {
        self.held.get(&slot)
    }

    /// How often a table had no room for a run.
    #[must_use]
    pub fn refused(&self, resource: Resource) -> u64 {
        self.refused.get(&resource).copied().unwrap_or(0)
    }

    /// What is used of each table.
    #[must_use]
    pub fn usage(&self) -> Vec<Usage> {
        Resource::ALL.iter().map(|(resource, _)| self.usage_of(*resource)).collect()
    }

    fn usage_of(&self, resource: Resource) -> Usage {
        let total = self.totals.get(&resource).copied().unwrap_or(0);
        let part = |percent: u32| (total * u64::from(percent) / 100).max(1).min(total);
        let mut users: BTreeMap<u32, u64> = BTreeMap::new();
        let mut used = 0;
        for (holder, need) in self.held.values() {
            let entries = need.get(&resource).copied().unwrap_or(0);
            used += entries;
            if let Holder::User(uid) | Holder::Adopted(uid) = holder {
                *users.entry(*uid).or_default() += entries;
            }
        }
        Usage {
            resource,
            used,
            used_by_users: users.values().sum(),
            users,
            per_user: part(self.shares.per_user_percent),
            reserve: part(self.shares.reserve_percent),
            total,
        }
    }

    fn refusal(&self, resource: Resource, holder: Holder, need: u64) -> Option<QuotaError> {
        if need == 0 {
            return None;
        }
        let Usage { used, used_by_users, per_user, reserve, total, .. } = self.usage_of(resource);
        if let Holder::User(uid) = holder {
            let of_user =
                self.held.values().filter(|(h, _)| matches!(h, Holder::User(u) | Holder::Adopted(u) if *u == uid));
            let held = of_user.filter_map(|(_, need)| need.get(&resource)).sum();
            let for_users = total.saturating_sub(reserve);
            if need > per_user.saturating_sub(held) {
                return Some(QuotaError::OfUser { resource, uid, need, held, limit: per_user });
            }
            if need > for_users.saturating_sub(used_by_users) {
                return Some(QuotaError::OfUsers { resource, need, held: used_by_users, limit: for_users, reserve });
            }
        }
        if let Holder::Discovered(uid) = holder
            && uid != NO_UID
        {
            let own = |h: &Holder| matches!(h, Holder::Discovered(u) | Holder::AdoptedDiscovered(u) if *u == uid);
            let held = self.held.values().filter(|(h, _)| own(h)).filter_map(|(_, need)| need.get(&resource)).sum();
            if need > per_user.saturating_sub(held) {
                return Some(QuotaError::OfUser { resource, uid, need, held, limit: per_user });
            }
        }
        let full =
            !matches!(holder, Holder::Adopted(_) | Holder::AdoptedDiscovered(_)) && need > total.saturating_sub(used);
        full.then_some(QuotaError::OfNode { resource, need, held: used, limit: total })
    }
}

#[cfg(test)]
mod tests;

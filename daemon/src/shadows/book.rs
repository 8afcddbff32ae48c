//! What shadows of ended runs found, by the two policies: so that the report of many short runs is one.
//!
//! Bounded: the group that was added to the longest ago makes room, and how many did is known.

use super::By;
use failsafe_core::{Policy, PolicyDigest, shadow::Tally};
use std::collections::BTreeMap;

/// Most groups of one viewer: one user, or all rules of discovery.
const PER_VIEWER: usize = 16;
/// Most groups.
const ALL: usize = 64;

/// A policy, as it is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// Its digest.
    pub digest: PolicyDigest,
}

impl Named {
    /// Of a policy with this digest.
    pub(super) fn of(policy: &Policy, digest: PolicyDigest) -> Named {
        Named { name: policy.name.clone(), version: policy.version.into(), digest }
    }
}

/// What is reported together.
#[derive(Debug, Clone)]
pub struct Group {
    /// For whom.
    pub by: By,
    /// The policy in force.
    pub enforced: Named,
    /// The shadow.
    pub shadow: Named,
    /// Since when the first of its runs was judged, nanoseconds since the epoch.
    pub since_ns: i64,
    /// Runs that are still judged.
    pub live: u64,
    /// What was counted.
    pub tally: Tally,
}

/// For whom, and the policies.
pub(super) type Key = (String, PolicyDigest, PolicyDigest);

/// The key of a group.
pub(super) fn key(by: &By, enforced: PolicyDigest, shadow: PolicyDigest) -> Key {
    let by = match by {
        By::Rule(rule) => format!("rule {rule}"),
        By::User(uid) => format!("uid {uid}"),
    };
    (by, enforced, shadow)
}

/// The groups of ended runs.
#[derive(Debug, Default)]
pub(super) struct Book {
    groups: BTreeMap<Key, (u64, Group)>,
    turn: u64,
}

impl Book {
    /// Adds what was found of a run that has ended.
    pub fn add(&mut self, group: &Group) {
        self.turn += 1;
        let key = key(&group.by, group.enforced.digest, group.shadow.digest);
        if let Some((turn, known)) = self.groups.get_mut(&key) {
            *turn = self.turn;
            known.since_ns = known.since_ns.min(group.since_ns);
            known.tally.merge(&group.tally);
            return;
        }
        let of_viewer = |other: &By| match (other, &group.by) {
            (By::User(a), By::User(b)) => a == b,
            (By::Rule(_), By::Rule(_)) => true,
            _ => false,
        };
        let oldest = |all: &mut dyn Iterator<Item = (&Key, &(u64, Group))>| {
            all.min_by_key(|(_, (turn, _))| *turn).map(|(key, _)| key.clone())
        };
        let own = || self.groups.iter().filter(|(_, (_, other))| of_viewer(&other.by));
        let goes = if own().count() >= PER_VIEWER {
            oldest(&mut own())
        } else if self.groups.len() >= ALL {
            oldest(&mut self.groups.iter())
        } else {
            None
        };
        if let Some(goes) = goes {
            self.groups.remove(&goes);
        }
        self.groups.insert(key, (self.turn, Group { live: 0, ..group.clone() }));
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().map(|(_, group)| group)
    }
}

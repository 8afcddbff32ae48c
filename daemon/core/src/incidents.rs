//! The incidents of the audit log as one bounded list: each with its run, its cause, its actions and what is proved of them. Pure:
//! entries go in, in the order of the log.
//!
//! Invariants: the same entries give the same list; an incident is in it once, as it is after the last entry about it; it is bounded
//! in incidents and in bytes, and gives up the oldest incident of the user who takes the most, a closed one first.

mod incident;

pub use incident::{Incident, Known, Taken};

use crate::{
    RunId,
    changes::{Changes, Since},
    decision::IncidentId,
    record::Record,
};
use std::{collections::BTreeMap, sync::Arc};

/// Incidents that are kept, and their bytes.
pub const KEPT: usize = 4_096;
/// Bytes that they take, more or less.
pub const KEPT_BYTES: usize = 4 << 20;
/// Incidents that are given up at once, at least: the search for them looks at all.
const ROOM: usize = 32;

/// Kinds of the log's entries that make the list.
pub const KINDS: [&str; 3] = ["decision", "outcome", "run"];
/// Those of them that make an incident.
pub const OF_INCIDENTS: [&str; 2] = ["decision", "outcome"];

/// An entry of the audit log.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its index.
    pub index: u64,
    /// When it was written, nanoseconds since the epoch.
    pub wall_ns: u64,
    /// The same, `CLOCK_MONOTONIC` of its boot.
    pub mono_ns: u64,
    /// What it says.
    pub record: &'a Record,
}

/// The list.
#[derive(Debug)]
pub struct Incidents {
    all: Changes<IncidentId, Incident>,
    bytes: usize,
    of_users: BTreeMap<Option<u32>, usize>,
    bounds: (usize, usize),
    /// Whether some of the log's incidents are not in it.
    pub incomplete: bool,
}

impl Default for Incidents {
    fn default() -> Incidents {
        Incidents::within((KEPT, KEPT_BYTES))
    }
}

impl Incidents {
    fn within(bounds: (usize, usize)) -> Incidents {
        Incidents { all: Changes::after(0), bytes: 0, of_users: BTreeMap::new(), bounds, incomplete: false }
    }

    /// Takes an entry up; `known` has what is known of a run. False: it changes nothing, or was taken up before.
    pub fn apply(&mut self, entry: &Entry<'_>, known: impl FnOnce(RunId) -> Arc<Known>) -> bool {
        let revision = entry.index.saturating_add(1);
        match entry.record {
            Record::Decision { decision, rule, blind, drill } => {
                let mut incident = match self.all.get(decision.incident) {
                    Some(kept) if kept.revision >= revision => return false,
                    Some(kept) => Incident::clone(kept),
                    None => {
                        let cause = (rule.as_ref(), blind.as_deref(), *drill);
                        Incident::opened(entry, decision, cause, known(decision.id.run))
                    }
                };
                incident.decided(entry, decision);
                self.put(incident);
            }
            Record::Outcome(outcome) => {
                let Some(kept) = self.all.get(outcome.incident).filter(|kept| kept.revision < revision) else {
                    return false;
                };
                let mut incident = Incident::clone(kept);
                if !incident.came(entry, outcome) {
                    return false;
                }
                self.put(incident);
            }
            Record::RunEnded { run, .. } => return self.ended(*run, entry.wall_ns, revision),
            _ => return false,
        }
        true
    }

    /// A run ended: its open incidents end with it.
    fn ended(&mut self, run: RunId, wall_ns: u64, revision: u64) -> bool {
        let is_over = |kept: &&Arc<Incident>| kept.run == run && kept.is_open() && kept.revision < revision;
        let open: Vec<Arc<Incident>> = self.iter().filter(is_over).cloned().collect();
        for kept in &open {
            let mut incident = Incident::clone(kept);
            incident.run_ended(wall_ns, revision);
            self.put(incident);
        }
        !open.is_empty()
    }

    /// The entries before this one are not read: changes before it are not known. `incomplete`: some of them are about incidents.
    pub fn begins_at(&mut self, first: u64, incomplete: bool) {
        self.all.forgets(first);
        self.incomplete |= incomplete;
    }

    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        self.all.last()
    }

    /// An incident.
    pub fn get(&self, id: IncidentId) -> Option<&Arc<Incident>> {
        self.all.get(id)
    }

    /// All, in the order of their last changes.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Incident>> {
        self.all.iter().map(|(_, incident)| incident)
    }

    /// Changes after a revision, about so many.
    pub fn since(&self, revision: u64, most: usize) -> Since<Incident> {
        self.all.since(revision, most)
    }

    fn put(&mut self, incident: Incident) {
        let id = incident.id;
        if let Some(before) = self.all.get(id).cloned() {
            self.weigh(&before, false);
        }
        let incident = Arc::new(incident);
        self.weigh(&incident, true);
        self.all.put(id, incident.revision, incident);
        self.make_room(id);
    }

    fn weigh(&mut self, incident: &Incident, more: bool) {
        let (bytes, owner) = (incident.bytes(), incident.known.owner_uid);
        let of_user = self.of_users.entry(owner).or_default();
        if more {
            self.bytes += bytes;
            *of_user += bytes;
        } else {
            self.bytes = self.bytes.saturating_sub(bytes);
            *of_user = of_user.saturating_sub(bytes);
            if *of_user == 0 {
                self.of_users.remove(&owner);
            }
        }
    }

    fn make_room(&mut self, newest: IncidentId) {
        if self.all.len() <= self.bounds.0 && self.bytes <= self.bounds.1 {
            return;
        }
        self.incomplete = true;
        let room = ROOM.min(self.bounds.0 / 8);
        loop {
            let Some((owner, _)) = self.of_users.iter().max_by_key(|(_, bytes)| **bytes) else { return };
            let owner = *owner;
            let of_user = self.all.iter().filter(|(id, kept)| *id != newest && kept.known.owner_uid == owner);
            let mut of_user: Vec<_> = of_user.map(|(id, kept)| (kept.is_open(), kept.entry, id)).collect();
            if of_user.is_empty() {
                return;
            }
            of_user.sort_unstable();
            for (_, _, id) in of_user.into_iter().take(room.max(1)) {
                if let Some(gone) = self.all.forget(id) {
                    self.weigh(&gone, false);
                }
            }
            if self.all.len() <= self.bounds.0 && self.bytes <= self.bounds.1 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;

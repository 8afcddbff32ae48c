//! The incidents of the audit log as one bounded list: each with its run, its cause, its actions and what is proved of them. Pure:
//! entries go in, in the order of the log.
//!
//! Invariants: the same entries give the same list; an incident is in it once, as it is after the last entry about it; it is bounded
//! in incidents and in bytes, and gives up the oldest incident of the user who takes the most, a closed one first. A change of an
//! incident that is not in the list is a missed change, and what the list may lack has a reason in [`Incomplete`].

mod incident;
mod sequence;

pub use incident::{Incident, Known, Taken};

use sequence::Sequences;

use crate::{
    RunId,
    changes::{Changes, Since},
    decision::{Action, IncidentId, Verdict},
    input::Command,
    record::{Limited, Record},
};
use std::{collections::BTreeMap, sync::Arc};

/// Incidents that are kept, and their bytes.
pub const KEPT: usize = 4_096;
/// Bytes that they take, more or less.
pub const KEPT_BYTES: usize = 4 << 20;
/// Incidents that are given up at once, at least: the search for them looks at all.
const ROOM: usize = 32;

/// Kinds of the log's entries that make the list.
pub const KINDS: [&str; 5] = ["decision", "outcome", "run", "control", "gap"];
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
    /// The run that it is about; none: no run, or not known.
    pub run: Option<RunId>,
    /// What it says.
    pub record: &'a Record,
}

/// Why the list may lack incidents, or may not have the state of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Incomplete {
    /// Incidents were given up for others, or began before the entries that were read.
    pub in_log_only: bool,
    /// Entries about incidents were summed up because the log budget of a user was spent, and how many.
    pub limited: u64,
    /// Entries could not be read or understood, and how many.
    pub unreadable: u64,
}

/// The list.
#[derive(Debug)]
pub struct Incidents {
    all: Changes<IncidentId, Incident>,
    bytes: usize,
    of_users: BTreeMap<Option<u32>, usize>,
    bounds: (usize, usize),
    sequences: Sequences,
    /// Entries before the first one that was read are about incidents.
    cut: bool,
    incomplete: Incomplete,
}

impl Default for Incidents {
    fn default() -> Incidents {
        Incidents::within((KEPT, KEPT_BYTES))
    }
}

impl Incidents {
    fn within(bounds: (usize, usize)) -> Incidents {
        Incidents {
            all: Changes::after(0),
            bytes: 0,
            of_users: BTreeMap::new(),
            bounds,
            sequences: Sequences::default(),
            cut: false,
            incomplete: Incomplete::default(),
        }
    }

    /// Takes an entry up; `known` has what is known of a run. False: no incident of the list changed, or it was taken up before.
    pub fn apply(&mut self, entry: &Entry<'_>, known: impl Fn(RunId) -> Arc<Known>) -> bool {
        let revision = entry.index.saturating_add(1);
        match entry.record {
            Record::Decision { decision, rule, blind, drill } => {
                let begins = self.sequences.decided(decision);
                let mut incident = match self.all.get(decision.incident) {
                    Some(kept) if kept.revision >= revision => return false,
                    Some(kept) => known_again(kept, &known),
                    None => {
                        let cause = (rule.as_ref(), blind.as_deref(), *drill);
                        let known = known(decision.id.run);
                        match begins {
                            true => Incident::opened(entry, decision, cause, known),
                            false => Incident::found(entry, decision, *drill, known),
                        }
                    }
                };
                self.incomplete.in_log_only |= incident.beginning_unknown;
                incident.decided(entry, decision);
                self.put(incident);
            }
            Record::Outcome(outcome) => {
                let Some(kept) = self.all.get(outcome.incident) else {
                    self.lacks(revision);
                    return false;
                };
                if kept.revision >= revision {
                    return false;
                }
                let mut incident = known_again(kept, &known);
                if !incident.came(entry, outcome) {
                    return false;
                }
                self.put(incident);
                if outcome.action == Action::Thaw && outcome.verdict == Verdict::Proved {
                    self.lifted(outcome.decision.run, Some(outcome.decision.n), entry);
                }
            }
            Record::ControlOutcome { command: Command::Thaw, verdict: Verdict::Proved, .. } => {
                return entry.run.is_some_and(|run| self.lifted(run, None, entry));
            }
            Record::RunStarted { run, .. } => {
                self.sequences.started(run.id);
                return false;
            }
            Record::RunOwner { run, owner_uid, .. } => return self.owned(*run, *owner_uid, revision),
            Record::RunEnded { run, .. } => return self.ended(*run, entry.wall_ns, revision),
            Record::Limited(limited) => return self.limited(limited, revision),
            _ => return false,
        }
        true
    }

    /// A thaw of a run is proved: it lifts whatever was decided before it, also of incidents before its own. `decision`: its number;
    /// none: it is of a guarded run, of which nothing is decided.
    fn lifted(&mut self, run: RunId, decision: Option<u32>, entry: &Entry<'_>) -> bool {
        let revision = entry.index.saturating_add(1);
        self.gone_open(run, revision);
        self.change_open(run, revision, |incident| {
            let is_before = decision.is_none_or(|n| incident.steps.iter().all(|step| step.decision <= n));
            if is_before {
                incident.lifted(entry);
            }
            is_before
        })
    }

    /// The owner of a run became known: its incidents are this user's from now on, also those that are closed.
    fn owned(&mut self, run: RunId, uid: u32, revision: u64) -> bool {
        let is_meant =
            |kept: &&Arc<Incident>| kept.run == run && kept.known.owner_uid.is_none() && kept.revision < revision;
        let all: Vec<Arc<Incident>> = self.iter().filter(is_meant).cloned().collect();
        for kept in &all {
            let known = Arc::new(Known { owner_uid: Some(uid), ..Known::clone(&kept.known) });
            self.put(Incident { known, revision, ..Incident::clone(kept) });
        }
        !all.is_empty()
    }

    /// A run ended: its open incidents end with it.
    fn ended(&mut self, run: RunId, wall_ns: u64, revision: u64) -> bool {
        self.gone_open(run, revision);
        if !self.sequences.ended(run) && self.cut {
            // It may have incidents that began before the entries that were read.
            self.lacks(revision);
        }
        self.change_open(run, revision, |incident| {
            incident.run_ended(wall_ns, revision);
            true
        })
    }

    /// Something ends the open incidents of a run. If one of them was given up, whoever knows it misses its end.
    fn gone_open(&mut self, run: RunId, revision: u64) {
        if self.sequences.had_open(run) {
            self.lacks(revision);
        }
    }

    /// Entries about the run are not in the log: how its open incidents stand may be out of date.
    fn limited(&mut self, limited: &Limited, revision: u64) -> bool {
        let about = ["decision", "outcome", "control"].iter().filter_map(|kind| limited.kinds.get(*kind)).sum::<u64>();
        if about == 0 {
            return false;
        }
        self.incomplete.limited = self.incomplete.limited.saturating_add(about);
        let Some(run) = limited.run else { return false };
        self.change_open(run, revision, |incident| {
            (incident.entries_limited, incident.revision) = (true, revision);
            true
        })
    }

    fn change_open(&mut self, run: RunId, revision: u64, mut change: impl FnMut(&mut Incident) -> bool) -> bool {
        let is_meant = |kept: &&Arc<Incident>| kept.run == run && kept.is_open() && kept.revision < revision;
        let open: Vec<Arc<Incident>> = self.iter().filter(is_meant).cloned().collect();
        let mut changed = false;
        for kept in &open {
            let mut incident = Incident::clone(kept);
            if change(&mut incident) {
                self.put(incident);
                changed = true;
            }
        }
        changed
    }

    /// A change up to this revision is of an incident that is not in the list: whoever has not seen it misses it.
    fn lacks(&mut self, revision: u64) {
        self.incomplete.in_log_only = true;
        self.all.forgets(revision);
    }

    /// This entry could not be read or understood.
    pub fn cannot_read(&mut self, index: u64) {
        self.incomplete.unreadable = self.incomplete.unreadable.saturating_add(1);
        self.cut = true;
        self.all.forgets(index.saturating_add(1));
    }

    /// The entries before this one are not read: changes before it are not known. `cut`: some of them are about incidents.
    pub fn begins_at(&mut self, first: u64, cut: bool) {
        self.all.forgets(first);
        self.cut |= cut;
        self.incomplete.in_log_only |= cut;
    }

    /// Why the list may lack incidents.
    pub fn incomplete(&self) -> &Incomplete {
        &self.incomplete
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

    /// Those of a run.
    pub fn of(&self, run: RunId) -> impl Iterator<Item = &Arc<Incident>> {
        self.iter().filter(move |kept| kept.run == run)
    }

    /// Changes after a revision, about so many.
    pub fn since(&self, revision: u64, most: usize) -> Since<Incident> {
        self.all.since(revision, most)
    }

    /// The last change of each incident.
    pub fn changes(&self) -> &Changes<IncidentId, Incident> {
        &self.all
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
        self.incomplete.in_log_only = true;
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
                    if gone.is_open() {
                        self.sequences.gave_up_open(gone.run);
                    }
                }
            }
            if self.all.len() <= self.bounds.0 && self.bytes <= self.bounds.1 {
                return;
            }
        }
    }
}

/// An incident to change. The owner of a discovered run can become known after its incident began.
fn known_again(kept: &Incident, known: &impl Fn(RunId) -> Arc<Known>) -> Incident {
    let mut incident = kept.clone();
    if incident.known.owner_uid.is_none() {
        let again = known(incident.run);
        if again.owner_uid.is_some() {
            incident.known = again;
        }
    }
    incident
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;

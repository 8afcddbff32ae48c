//! What one client of `WatchIncidents` is sent: the open incidents in parts, then changes, and what it has to know besides.
//!
//! Invariants: of the list a part is held at most; whoever watches learns when the audit log cannot be written or read, because silence
//! means that nothing happens; a revision to go on from comes also where nothing of this client changes.

use super::{
    super::follow::{Batch, Bounds, Source},
    Filter, incomplete, log_problem, message,
};
use crate::watchers::incidents::Problem;
use failsafe_core::{
    changes::{Cursor, PartIs},
    decision::IncidentId,
    incidents::Incident,
};
use failsafe_proto::{ErrorReason, v1};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::Status;

/// Changes of a batch.
const BATCH: usize = 128;
/// How often a client of which nothing changes is sent a revision to go on from, while others change.
const MARKED: Duration = Duration::from_secs(10);

/// Changes that one client sees.
pub(super) struct Watched {
    pub filter: Filter,
    cursor: Cursor<IncidentId>,
    marks: Marks,
    /// That the log cannot be written is sent.
    unwritten: bool,
}

impl Watched {
    /// After a revision; none: it has seen nothing.
    pub fn after(filter: Filter, revision: Option<u64>, follow: bool) -> Watched {
        Watched { filter, cursor: Cursor::after(revision), marks: Marks::new(follow), unwritten: false }
    }
}

/// When a client is sent a revision without a change.
#[derive(Debug)]
pub(in super::super) struct Marks {
    follow: bool,
    /// When it was sent something last.
    sent: Instant,
}

impl Marks {
    /// Nothing is sent. `follow`: the stream goes on with changes as they come.
    pub fn new(follow: bool) -> Marks {
        Marks { follow, sent: Instant::now() }
    }

    /// Whether a revision is due after a batch of changes. `changed`: any; `shown`: some that the client sees; `more`: another batch
    /// follows at once.
    pub fn is_due(&mut self, changed: bool, shown: bool, more: bool, now: Instant) -> bool {
        let is_last = !self.follow && !more;
        let is_due = is_last || changed && !shown && now.duration_since(self.sent) >= MARKED;
        if is_due || shown {
            self.sent = now;
        }
        is_due
    }
}

/// What is sent.
pub(super) enum Item {
    Changed(u64, Arc<Incident>),
    At(Marked),
}

/// A revision without an incident.
pub(super) struct Marked {
    revision: u64,
    missed: bool,
    incomplete: Vec<String>,
    log_problem: Option<String>,
}

impl Item {
    pub fn message(self) -> v1::WatchIncidentsResponse {
        match self {
            Item::Changed(revision, incident) => {
                let incident = Some(message(&incident));
                v1::WatchIncidentsResponse { revision, incident, ..Default::default() }
            }
            Item::At(Marked { revision, missed, incomplete, log_problem }) => {
                let log_problem = log_problem.unwrap_or_default();
                v1::WatchIncidentsResponse { revision, incident: None, missed, incomplete, log_problem }
            }
        }
    }
}

impl Source for Watched {
    type Item = Item;

    fn next(&mut self, bounds: &Bounds) -> Result<Batch<Item>, Status> {
        let context = self.filter.context.clone();
        // Before the list is read: what was taken up before the problem is sent.
        let problem = context.incidents.progress().borrow().problem.clone();
        let (part, of_list) = {
            let list = context.incidents.list();
            let mut bytes = 0;
            let room = |incident: &Incident| {
                bytes += incident.bytes();
                !bounds.are_reached(bytes)
            };
            let is_open = |incident: &Incident| incident.is_open() && self.filter.wants(incident);
            (self.cursor.next(list.changes(), is_open, BATCH, room), list.incomplete().clone())
        };
        let (changed, more) = (!part.values.is_empty(), part.more);
        if let (false, PartIs::Changes(_), false, Some(problem)) = (changed, part.is, more, &problem) {
            return Err(cannot_go_on(problem));
        }
        let mut sees = self.filter.sees();
        let seen = part.values.into_iter().filter(|(_, it)| self.filter.wants(it) && sees(it));
        let mut items: Vec<Item> = seen.map(|(revision, incident)| Item::Changed(revision, incident)).collect();
        drop(sees);
        let log_problem = log_problem(&context);
        let (revision, missed, is_due) = match part.is {
            PartIs::State => (0, false, false),
            PartIs::Complete(revision) => (revision, false, true),
            PartIs::Missed(revision) => (revision, true, true),
            PartIs::Changes(revision) => {
                let is_due = self.marks.is_due(changed, !items.is_empty(), more, Instant::now());
                (revision, false, is_due || log_problem.is_some() != self.unwritten)
            }
        };
        if is_due {
            self.unwritten = log_problem.is_some();
            let incomplete = incomplete(&context, &of_list);
            items.push(Item::At(Marked { revision, missed, incomplete, log_problem }));
        }
        Ok(Batch { items, more: more || problem.is_some() })
    }
}

/// Why a watch ends: without an end, its client would take the silence for "nothing happens".
fn cannot_go_on(Problem { why, is_damaged }: &Problem) -> Status {
    let reason = if *is_damaged { ErrorReason::DataDamaged } else { ErrorReason::StorageUnavailable };
    reason.status(format!("the audit log cannot be read on: {why}; watch again from the last revision"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_which_nothing_changes_gets_a_revision_now_and_then() {
        let begin = Instant::now();
        let mut marks = Marks { follow: true, sent: begin };
        let at = |s| begin + Duration::from_secs(s);
        assert!(!marks.is_due(true, false, false, at(9)), "not for each batch");
        assert!(!marks.is_due(false, false, false, at(10)), "nothing changed");
        assert!(marks.is_due(true, false, true, at(10)));
        assert!(!marks.is_due(true, true, false, at(25)), "what is sent has a revision");
        assert!(!marks.is_due(true, false, false, at(34)) && marks.is_due(true, false, false, at(35)));
    }

    #[test]
    fn a_stream_that_ends_ends_with_a_revision() {
        let now = Instant::now();
        let mut marks = Marks::new(false);
        assert!(!marks.is_due(true, false, true, now), "more comes");
        assert!(marks.is_due(true, true, false, now) && marks.is_due(false, false, false, now));
    }
}

//! `RunService.WatchRuns`: changes of the list of runs, from now on or from a revision on.
//!
//! Owns the list as it was seen last, which is made when somebody watches for the first time. Invariants: a run is converted once for
//! all who watch; nobody's look costs more than the runs that changed, and nobody waits for the look of another but for the first one; a
//! revision of an earlier daemon is older than all of this one.

mod seen;

use super::{
    Context,
    authorize::Principal,
    follow::{Answer, Batch, Bounds, Follow, Source},
    incidents::Marks,
    list::Selector,
    peer::Peer,
};
use crate::runs::touched::Watching;
use failsafe_core::{
    RunId,
    changes::{Cursor, PartIs},
};
use failsafe_proto::{ErrorReason, v1};
use prost::Message;
use seen::ListedRun;
pub use seen::RunChanges;
use std::{sync::Arc, time::Instant};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};
use v1::RunChange;

/// Changes of a batch.
const BATCH: usize = 128;

/// Answers a request of `WatchRuns`.
///
/// # Errors
/// `INVALID_REQUEST`: the selector is none.
pub(super) fn watch(
    context: &Arc<Context>,
    request: Request<v1::WatchRunsRequest>,
) -> Result<Response<Answer<v1::WatchRunsResponse>>, Status> {
    let (who, peer) = (context.principal(&request)?, Peer::of(&request)?);
    let v1::WatchRunsRequest { revision, follow, selector } = request.into_inner();
    let selector = Selector::parse(&selector).map_err(|why| ErrorReason::InvalidRequest.status(why))?;
    let work = context.work(peer.share()).clone();
    let growth = follow.then(|| work.runs_changed());
    let watching = context.registry.touched().watch();
    let source = Watched {
        context: context.clone(),
        filter: Filter { who, selector },
        cursor: Cursor::after(revision),
        marks: Marks::new(growth.is_some()),
        _watching: watching,
    };
    let follow = Follow { work, peer, unread: context.config.limits.unread(), growth };
    // Here, where it is sent: what waits to be sent is shared.
    let items = follow.stream(source).map(|item| item.map(Item::message));
    Ok(Response::new(Box::pin(items)))
}

/// What is sent.
enum Item {
    Changed(u64, RunChange, Arc<ListedRun>),
    /// The state was sent, or changes were missed, or nothing of interest changed up to it.
    At(u64, bool),
}

impl Item {
    fn message(self) -> v1::WatchRunsResponse {
        match self {
            Item::Changed(revision, change, seen) => {
                let run = Some(seen.looked.run.clone());
                v1::WatchRunsResponse { revision, change: change as i32, run, missed: false }
            }
            Item::At(revision, missed) => v1::WatchRunsResponse { revision, missed, ..Default::default() },
        }
    }
}

/// Changes that one client sees.
struct Watched {
    context: Arc<Context>,
    filter: Filter,
    cursor: Cursor<RunId>,
    marks: Marks,
    _watching: Watching,
}

/// What a client may see, and asks for.
struct Filter {
    who: Principal,
    selector: Selector,
}

impl Filter {
    fn wants(&self, ListedRun { looked, .. }: &ListedRun) -> bool {
        self.who.may_see_of(looked.id, looked.owner_uid).is_some() && self.selector.selects(&looked.labels)
    }
}

fn lives(seen: &ListedRun) -> bool {
    seen.looked.run.state() != v1::RunState::Ended && seen.change != RunChange::Removed
}

impl Source for Watched {
    type Item = Item;

    fn next(&mut self, bounds: &Bounds) -> Result<Batch<Item>, Status> {
        let part = {
            let view = self.context.run_changes.look(&self.context.registry);
            let mut bytes = 0;
            let room = |seen: &ListedRun| {
                bytes += seen.looked.run.encoded_len();
                !bounds.are_reached(bytes)
            };
            let wants = |seen: &ListedRun| lives(seen) && self.filter.wants(seen);
            self.cursor.next(&view.runs, wants, BATCH, room)
        };
        let (changed, more) = (!part.values.is_empty(), part.more);
        let seen = part.values.into_iter().filter(|(_, seen)| self.filter.wants(seen));
        let is_state = matches!(part.is, PartIs::State | PartIs::Complete(_));
        let change = |seen: &ListedRun| if is_state { RunChange::Present } else { seen.change };
        let mut items: Vec<Item> = seen.map(|(revision, seen)| Item::Changed(revision, change(&seen), seen)).collect();
        let at = match part.is {
            PartIs::State => None,
            PartIs::Complete(revision) => Some((revision, false)),
            PartIs::Missed(revision) => Some((revision, true)),
            PartIs::Changes(revision) => {
                let is_due = self.marks.is_due(changed, !items.is_empty(), more, Instant::now());
                is_due.then_some((revision, false))
            }
        };
        items.extend(at.map(|(revision, missed)| Item::At(revision, missed)));
        Ok(Batch { items, more })
    }
}

//! `RunService.WatchRuns`: changes of the list of runs, from now on or from a revision on.
//!
//! Owns the list as it was seen last, which is made when somebody watches for the first time. Invariants: a run is converted once for
//! all who watch; nobody's look costs more than the runs that changed; a revision of an earlier daemon is older than all of this one.

use super::{
    Context,
    authorize::Principal,
    convert,
    follow::{Answer, Batch, Bounds, Follow, Source},
    list::{Selector, seen_by_all},
    peer::Peer,
};
use crate::runs::{FoundRun, NO_UID, Registry, grants::grants, touched::Look};
use failsafe_core::{RunId, changes::Changes};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status};
use v1::RunChange;

/// Runs that are not listed any more and are remembered, so that who goes on from before learns of it.
const REMOVED: usize = 1_024;
/// Changes of a batch.
const BATCH: usize = 128;

/// A run as it is after its last change.
#[derive(Debug)]
struct Seen {
    id: RunId,
    /// None: not known.
    owner_uid: Option<u32>,
    labels: BTreeMap<String, String>,
    change: RunChange,
    run: v1::Run,
}

/// The list as it was seen last.
#[derive(Debug)]
pub struct RunChanges(Mutex<View>);

#[derive(Debug)]
struct View {
    runs: Changes<RunId, Seen>,
    removed: VecDeque<RunId>,
    begun: bool,
}

impl RunChanges {
    /// Of a daemon that started then: revisions count from that time on, in microseconds. A program that has only doubles for
    /// numbers reads them exactly (they are below 2^53 until the year 2255).
    pub fn new(started_ns: i64) -> RunChanges {
        let runs = Changes::after(first(started_ns));
        RunChanges(Mutex::new(View { runs, removed: VecDeque::new(), begun: false }))
    }

    /// The list as it is now.
    fn look(&self, registry: &Registry) -> MutexGuard<'_, View> {
        let mut view = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        view.look(registry);
        view
    }
}

fn first(started_ns: i64) -> u64 {
    u64::try_from(started_ns / 1_000).unwrap_or_default()
}

impl View {
    fn look(&mut self, registry: &Registry) {
        let look = registry.touched().take();
        if look == Look::At(Default::default()) {
            return;
        }
        let grants = grants(registry.kernel());
        let converted = |found: &FoundRun| convert::run(registry, found, &grants);
        match look {
            Look::At(runs) => {
                for id in runs {
                    match registry.of_id(id) {
                        Some(found) => self.saw(&found, converted(&found)),
                        None => self.gone(id),
                    }
                }
            }
            Look::AtAll => {
                let found = seen_by_all(registry);
                let gone: Vec<RunId> =
                    self.runs.iter().map(|(id, _)| id).filter(|id| !found.contains_key(id)).collect();
                gone.into_iter().for_each(|id| self.gone(id));
                found.values().for_each(|found| self.saw(found, converted(found)));
            }
        }
        self.begun = true;
    }

    fn saw(&mut self, found: &FoundRun, run: v1::Run) {
        let before = self.runs.get(found.run().id).map(|seen| &seen.run);
        let change = match before {
            _ if !self.begun => RunChange::Present,
            // It ended before anybody saw it.
            None if run.state() == v1::RunState::Ended => RunChange::Ended,
            None => RunChange::Started,
            Some(before) => match change(before, &run) {
                Some(change) => change,
                None => return,
            },
        };
        let of = found.run();
        let owner_uid = Some(of.owner_uid).filter(|uid| *uid != NO_UID);
        self.put(Seen { id: of.id, owner_uid, labels: of.labels.clone(), change, run });
    }

    fn gone(&mut self, id: RunId) {
        let Some(before) = self.runs.get(id).filter(|seen| seen.change != RunChange::Removed) else { return };
        let Seen { owner_uid, labels, run: v1::Run { id: text, name, owner_uid: shown, .. }, .. } = &**before;
        let run = v1::Run { id: text.clone(), name: name.clone(), owner_uid: *shown, ..Default::default() };
        let seen = Seen { id, owner_uid: *owner_uid, labels: labels.clone(), change: RunChange::Removed, run };
        self.put(seen);
        self.removed.push_back(id);
        if self.removed.len() > REMOVED
            && let Some(oldest) = self.removed.pop_front()
        {
            self.runs.forget(oldest);
        }
    }

    fn put(&mut self, seen: Seen) {
        // What is there at first is not a change: nobody can have seen a revision before.
        let revision = if self.begun { self.runs.last().saturating_add(1) } else { self.runs.last() };
        self.runs.put(seen.id, revision, Arc::new(seen));
    }
}

/// What of a run makes a change of the list.
fn stands(run: &v1::Run) -> v1::Run {
    let step = |step: &v1::ContainmentStep| v1::ContainmentStep {
        measure: step.measure.clone(),
        desired: step.desired,
        verdict: step.verdict,
        ..Default::default()
    };
    v1::Run {
        state: run.state,
        blocked: run.blocked,
        incident: run.incident.clone(),
        guarded: run.guarded.clone(),
        guarded_frozen: run.guarded_frozen,
        containment_error: run.containment_error.clone(),
        observed: run.observed,
        mode_behind: run.mode_behind.clone(),
        not_bounded: run.not_bounded,
        owner_uid: run.owner_uid,
        containment: run.containment.iter().map(step).collect(),
        ..Default::default()
    }
}

fn change(before: &v1::Run, now: &v1::Run) -> Option<RunChange> {
    let (old, new) = (stands(before), stands(now));
    // Nothing changes of a run that has ended, though more becomes known of it.
    if old == new || old.state() == v1::RunState::Ended {
        return None;
    }
    let contains = |step: &v1::ContainmentStep| step.desired && !old.containment.contains(step);
    Some(if new.state() == v1::RunState::Ended {
        RunChange::Ended
    } else if new.containment.iter().any(contains) || new.blocked && !old.blocked {
        RunChange::Contained
    } else {
        RunChange::State
    })
}

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
    let source = Watched { context: context.clone(), who, selector, at: revision };
    let follow = Follow { work, peer, unread: context.config.limits.unread(), growth };
    // Here, where it is sent: what waits to be sent is shared.
    let items = follow.stream(source).map(|item| item.map(Item::message));
    Ok(Response::new(Box::pin(items)))
}

/// What is sent.
enum Item {
    Changed(u64, Option<RunChange>, Arc<Seen>),
    /// The state was sent, or changes were missed.
    At(u64, bool),
}

impl Item {
    fn message(self) -> v1::WatchRunsResponse {
        match self {
            Item::Changed(revision, change, seen) => {
                let change = change.unwrap_or(seen.change) as i32;
                v1::WatchRunsResponse { revision, change, run: Some(seen.run.clone()), missed: false }
            }
            Item::At(revision, missed) => v1::WatchRunsResponse { revision, missed, ..Default::default() },
        }
    }
}

/// Changes that one client sees.
struct Watched {
    context: Arc<Context>,
    who: Principal,
    selector: Selector,
    /// The revision after which it goes on; none: it has seen nothing.
    at: Option<u64>,
}

impl Watched {
    fn wants(&self, seen: &Seen) -> bool {
        self.who.may_see_of(seen.id, seen.owner_uid).is_some() && self.selector.selects(&seen.labels)
    }
}

impl Source for Watched {
    type Item = Item;

    fn next(&mut self, _: &Bounds) -> Result<Batch<Item>, Status> {
        let view = self.context.run_changes.look(&self.context.registry);
        let last = view.runs.last();
        let Some(at) = self.at else {
            let lives = |seen: &Arc<Seen>| seen.run.state() != v1::RunState::Ended && seen.change != RunChange::Removed;
            let present = view.runs.iter().map(|(_, seen)| seen).filter(|seen| lives(seen) && self.wants(seen));
            // Who goes on after one of them begins anew: the rest of the state has no revision of its own.
            let present = present.map(|seen| Item::Changed(0, Some(RunChange::Present), seen.clone()));
            let items = present.chain([Item::At(last, false)]).collect();
            self.at = Some(last);
            return Ok(Batch { items, more: false });
        };
        let since = view.runs.since(at, BATCH);
        if since.missed {
            self.at = Some(last);
            return Ok(Batch { items: vec![Item::At(last, true)], more: false });
        }
        self.at = since.changes.last().map_or(self.at, |(revision, _)| Some(*revision));
        let items = since.changes.into_iter().filter(|(_, seen)| self.wants(seen));
        let items = items.map(|(revision, seen)| Item::Changed(revision, None, seen)).collect();
        Ok(Batch { items, more: since.more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(state: v1::RunState, steps: &[(&str, bool, v1::Verdict)]) -> v1::Run {
        let step = |(measure, desired, verdict): &(&str, bool, v1::Verdict)| v1::ContainmentStep {
            measure: (*measure).to_owned(),
            desired: *desired,
            verdict: *verdict as i32,
            at_ns: 7,
            ..Default::default()
        };
        v1::Run { state: state as i32, containment: steps.iter().map(step).collect(), ..Default::default() }
    }

    #[test]
    fn a_revision_is_exact_as_a_double_and_later_than_those_of_an_earlier_daemon() {
        // 2200-01-01.
        let revision = first(7_258_118_400_000_000_000);
        assert!(revision < 1 << 53, "{revision}");
        assert!(first(1_796_054_162_482_910_211) > first(1_796_054_161_482_910_211) + 999_999);
        assert_eq!(first(-1), 0);
    }

    #[test]
    fn a_change_of_the_list_is_named_by_what_happened() {
        use v1::{RunState, Verdict::*};
        let running = run(RunState::Running, &[]);
        let frozen = run(RunState::Frozen, &[("freeze", true, Proved)]);
        for (before, now, is) in [
            (&running, &running, None),
            (&running, &v1::Run { events: 5, processes: 2, ..running.clone() }, None),
            (&running, &run(RunState::Partial, &[("freeze", true, Pending)]), Some(RunChange::Contained)),
            (&run(RunState::Partial, &[("freeze", true, Pending)]), &frozen, Some(RunChange::Contained)),
            (&frozen, &run(RunState::Partial, &[("freeze", false, Pending)]), Some(RunChange::State)),
            (&frozen, &running, Some(RunChange::State)),
            (&running, &v1::Run { observed: true, ..running.clone() }, Some(RunChange::State)),
            (&running, &v1::Run { blocked: true, ..running.clone() }, Some(RunChange::Contained)),
            (&frozen, &run(RunState::Ended, &[("freeze", true, Proved)]), Some(RunChange::Ended)),
            (&run(RunState::Ended, &[("freeze", true, Proved)]), &run(RunState::Ended, &[]), None),
        ] {
            assert_eq!(change(before, now), is, "{now:?}");
        }
    }
}

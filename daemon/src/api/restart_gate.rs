//! The restart gate: a start that continues another run is compared with it before its command is executed.
//!
//! ```text
//! Start: claim the lineage ─► compare ─► make ─► keep ─► enter ─► answer with the differences
//! Begin (from the process in the run), or 2 s later: audit log ─► pipeline judges ─► frozen? proved ─► answer
//! ```
//! Invariants: the differences are on disk before the process enters, so that the next daemon reports them where this one ends; the
//! answer of Begin comes after they were judged, and after the freeze is proved where they lead to one. Command and environment are
//! the caller's word: the gate finds accidents.

use super::{
    Context,
    beginning::{self, StartFacts},
    connection::Maker,
    runs::{blocking, deliver},
};
use crate::{
    attest::OwnGpus,
    pipeline::Message,
    runs::{
        LiveRun,
        lineage::{Claim, LineageError, Restart},
        started::Said,
    },
    watchers::drift::{Report, report},
};
use failsafe_attest::Known;
use failsafe_core::{GpuId, Policy, RunId, policy::OnDrift, record::FactorChange};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, watch};
use tonic::Status;

/// How long a run that differs may take to ask whether it may begin.
const ASKS_WITHIN: Duration = Duration::from_secs(2);
/// How long the judgement, and then the proof of the freeze, are waited for.
const PROVED: Duration = Duration::from_secs(10);

/// Runs of which the differences are being judged.
#[derive(Default)]
pub struct Gates(Mutex<BTreeMap<RunId, Arc<Waiting>>>);

struct Waiting {
    /// The process asks: it is ready to be frozen.
    asked: Notify,
    /// What came of it; `None`: it is not judged yet.
    done: watch::Sender<Option<Result<(), Status>>>,
}

/// A start of a lineage, compared.
pub(super) struct Gate {
    link: Link,
    start: Known,
    changes: Vec<FactorChange>,
    owner: u32,
}

/// What the start continues.
enum Link {
    /// The last run of a lineage.
    Lineage(Box<Claim>),
    /// A run that is started again.
    Again(RunId),
}

impl Gate {
    /// Of a start that repeats a run, which was compared already.
    pub(super) fn again(of: RunId, changes: Vec<FactorChange>, owner: u32) -> Gate {
        Gate { link: Link::Again(of), start: Known::default(), changes, owner }
    }

    /// Claims the lineage and compares what is known before the start. `maker`: none for a run that exists, of which nothing is known.
    ///
    /// # Errors
    /// Why there can be no such start.
    pub(super) async fn enter(
        context: &Arc<Context>,
        maker: Option<&Maker>,
        (owner, policy): (u32, &Policy),
        gpus: (&BTreeSet<GpuId>, &BTreeMap<GpuId, BTreeSet<String>>),
        lineage: String,
        said: &Said,
    ) -> Result<Gate, Status> {
        let (runs, asked) = (context.clone(), lineage.clone());
        let claim = blocking(move || runs.lineages.claim(&runs.registry, owner, &asked)).await?;
        let claim = claim.map_err(|error| refused(&error))?;
        if !claim.lost.is_empty() {
            let lost: Vec<String> = claim.lost.iter().map(ToString::to_string).collect();
            let what = format!("nothing is kept of the earlier runs of lineage `{lineage}` ({})", lost.join(", "));
            if policy.on_drift == OnDrift::Hold {
                let message = format!(
                    "{what}: the run cannot be compared, and its policy has on_drift = \"hold\". Give the lineage another name"
                );
                return Err(ErrorReason::CannotKnow.status(message));
            }
            tracing::warn!(what, "a restart is not compared");
        }
        let gate = |claim, start, changes| Gate { link: Link::Lineage(Box::new(claim)), start, changes, owner };
        let Some(maker) = maker else { return Ok(gate(claim, Known::default(), Vec::new())) };
        let StartFacts { node, run } = beginning::facts(context, maker, gpus, said).await?;
        let table = &context.attestor.table;
        let (mut start, mut changes) = (Known::default(), Vec::new());
        if let Some((before, kept)) = &claim.predecessor {
            changes = before.start.differences(&run, table, |_| true).changes;
            let own = OwnGpus::new(&node, &gpus.0.iter().map(|gpu| gpu.0.clone()).collect());
            let counts = |path: &str| path.starts_with("node/") && own.counts(path);
            changes.extend(kept.iter().flat_map(|kept| kept.known.differences(&node, table, counts).changes));
        }
        let _first = start.take(&run, table, |_| true);
        Ok(gate(claim, start, changes))
    }

    /// Keeps what the run continues and how it differs, before its process enters. May wait for the disk.
    ///
    /// # Errors
    /// It cannot be kept.
    pub(super) fn keep(&self, context: &Context, live: &LiveRun) -> Result<(), Status> {
        let restart = Restart {
            run: live.run.id,
            uid: self.owner,
            lineage: match &self.link {
                Link::Lineage(claim) => claim.name().to_owned(),
                Link::Again(_) => String::new(),
            },
            predecessor: self.predecessor(),
            start: self.start.clone(),
            changes: self.changes.clone(),
        };
        let store = context.registry.store();
        let kept = match &self.link {
            Link::Lineage(claim) => claim.keep(store, &restart),
            Link::Again(_) => restart.keep(store),
        };
        kept.map_err(|error| refused(&error))
    }

    /// The run was not started after all.
    pub(super) fn take_back(&self) {
        if let Link::Lineage(claim) = &self.link {
            claim.take_back();
        }
    }

    fn predecessor(&self) -> Option<RunId> {
        match &self.link {
            Link::Lineage(claim) => claim.predecessor.as_ref().map(|(restart, _)| restart.run),
            Link::Again(of) => Some(*of),
        }
    }

    /// Says in the answer how the run differs, and has that judged once the process asks.
    pub(super) fn open(&self, context: &Arc<Context>, live: &Arc<LiveRun>, answer: &mut v1::Run) {
        answer.predecessor = self.predecessor().map(|id| id.to_string()).unwrap_or_default();
        answer.holds = live.policy.on_drift == OnDrift::Hold;
        answer.drift = self.changes.iter().map(shown).collect();
        if self.changes.is_empty() {
            return;
        }
        let waiting = Arc::new(Waiting { asked: Notify::new(), done: watch::Sender::new(None) });
        context.gates.lock().insert(live.run.id, waiting.clone());
        let (context, live) = (context.clone(), live.clone());
        tokio::spawn(async move {
            let _asked_or_late = tokio::time::timeout(ASKS_WITHIN, waiting.asked.notified()).await;
            let judged = judge(&context, &live).await;
            waiting.done.send_replace(Some(judged));
            context.gates.lock().remove(&live.run.id);
        });
    }
}

impl Gates {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RunId, Arc<Waiting>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a process of the run when the run may go on.
///
/// # Errors
/// It was not judged, or the freeze that it leads to is not proved: the command must not be executed.
pub(super) async fn begin(context: &Arc<Context>, live: &Arc<LiveRun>) -> Result<(), Status> {
    let waiting = context.gates.lock().get(&live.run.id).cloned();
    let Some(waiting) = waiting else {
        // An earlier daemon answered the start.
        let (of, id) = (context.clone(), live.run.id);
        let unreported = blocking(move || Restart::unreported(of.registry.store(), id).is_some()).await?;
        return if unreported { judge(context, live).await } else { Ok(()) };
    };
    waiting.asked.notify_one();
    let mut done = waiting.done.subscribe();
    let judged = done
        .wait_for(Option::is_some)
        .await
        .map_err(|_| ErrorReason::Internal.status("the judgement was cut short"))?;
    judged.clone().unwrap_or(Ok(()))
}

/// Reports the differences, and waits for what they lead to.
async fn judge(context: &Arc<Context>, live: &Arc<LiveRun>) -> Result<(), Status> {
    let (of, run) = (context.clone(), live.clone());
    let reporting = blocking(move || {
        if let Some(restart) = Restart::unreported(of.registry.store(), run.run.id) {
            report(&of.log, &of.pipeline, Report::of_restart(restart, &run));
        }
    });
    reporting.await?;
    let (done, judged) = tokio::sync::oneshot::channel();
    deliver(context, Message::Judged(done)).await?;
    let judged = tokio::time::timeout(PROVED, judged).await;
    judged
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| ErrorReason::NotInTime.status("the differences were not judged in time"))?;
    let (of, id) = (context.clone(), live.run.id);
    blocking(move || Restart::reported(of.registry.store(), id)).await?;
    let deadline = Instant::now() + PROVED;
    while live.status().containment.is_frozen() && live.ended().is_none() {
        match live.cgroup.events() {
            Ok(events) if events.frozen => return Ok(()),
            Err(error) if error.is_vanished() => return Ok(()),
            _ if Instant::now() >= deadline => {
                let seconds = PROVED.as_secs();
                return Err(ErrorReason::FreezeNotProved
                    .status(format!("the freeze of the run is not proved after {seconds} s")));
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    Ok(())
}

pub(super) fn shown(change: &FactorChange) -> v1::FactorChange {
    let FactorChange { path, old, new, class } = change.clone();
    v1::FactorChange { path, old, new, class: class.name().to_owned() }
}

fn refused(error: &LineageError) -> Status {
    let message = error.to_string();
    match error {
        LineageError::BadName(_) => ErrorReason::InvalidRequest.status(message),
        LineageError::Starting(_) | LineageError::Lives { .. } => ErrorReason::RunNotEnded.status(message),
        LineageError::Store(_) | LineageError::Folder { .. } => ErrorReason::StorageUnavailable.status(message),
    }
}

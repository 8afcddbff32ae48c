//! `Start`: makes a run and moves the process that asked into it.
//!
//! ```text
//! place ─► make ─► the pipeline judges it ─► alive and the same? ─► move ─► it, and there? ─► entered ─► answered
//!            any step fails, the run is killed meanwhile, or the caller goes away: moved back, the run is ended
//! ```
//!
//! Invariant: these steps are a task of their own. tonic drops a request's future when its client cancels it or goes away; a run
//! that is half made at that moment would be attached in the kernel and judged by nobody.

use super::{
    Context,
    connection::Maker,
    convert,
    discovery::claimed_start,
    restart_gate::Gate,
    runs::{blocking, deliver},
};
use crate::{
    config::Config,
    pipeline::Message,
    runs::{
        FoundRun, LiveRun,
        bounds::parent_for,
        claims::Unclaimed,
        entry::{EnterError, move_back, move_in},
        grants,
        start::{Place, Wanted},
    },
};
use failsafe_proto::{ErrorReason, v1};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tonic::Status;

/// The pipeline ends a run once it was found empty for 100 ms: it is told again after this time.
const EMPTY_FOR: Duration = Duration::from_millis(150);

/// How long a start waits for the end of a run whose processes have ended, and how far apart it looks.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(20);

/// Waits for the end of the run that has the name or the lineage of a new one, as long as none of its processes is left: whoever starts
/// a command again when it has ended must not be refused because the daemon has not noticed that. A run that lives is not waited for.
///
/// # Errors
/// The daemon is stopping.
pub(super) async fn after_the_end_of_the_last(
    context: &Arc<Context>,
    (owner, name): (u32, &str),
    lineage: &str,
) -> Result<(), Status> {
    let until = Instant::now() + ENDS_WITHIN;
    loop {
        let (context, name, lineage) = (context.clone(), name.to_owned(), lineage.to_owned());
        let is_ending = blocking(move || {
            let registry = &context.registry;
            let of_lineage = context.lineages.living(registry, owner, &lineage);
            let last = |live: &Arc<LiveRun>| {
                Some(live.run.id) == of_lineage || (live.run.name == name && live.known().owner_uid == owner)
            };
            registry.live().iter().any(|live| last(live) && live.is_empty())
        });
        if !is_ending.await? || Instant::now() > until {
            return Ok(());
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Makes a run, and has the pipeline judge it.
///
/// # Errors
/// Why there is none; nothing of it is left then.
pub(super) async fn begin(
    context: &Arc<Context>,
    wanted: Wanted,
    place: Place,
    repair: Vec<String>,
) -> Result<(Arc<LiveRun>, Unclaimed), Status> {
    let context = context.clone();
    whole(async move { make(&context, wanted, place, repair).await }).await
}

/// Starts a run with the process that asked for it. The caller counts as gone once this future is dropped.
///
/// # Errors
/// Why it was not started; the process is where it was.
pub(super) async fn start(
    context: &Arc<Context>,
    maker: Maker,
    wanted: Wanted,
    repair: Vec<String>,
    gate: Option<Arc<Gate>>,
) -> Result<(v1::Run, Unclaimed), Status> {
    let context = context.clone();
    let (answer, answered) = oneshot::channel();
    tokio::spawn(async move {
        let made = async {
            let (from, place) = place(&context, &maker, (wanted.owner_uid, wanted.unlimited)).await?;
            Ok((from, make(&context, wanted, place, repair).await?))
        };
        match made.await {
            Ok((from, made)) => enter(&context, (maker, from), made, gate, answer).await,
            Err(refused) => drop(answer.send(Err(refused))),
        }
    });
    answered.await.map_err(|_| ErrorReason::Internal.status("the start was cut short"))?
}

/// The caller's cgroup, and where its run is made.
async fn place(
    context: &Arc<Context>,
    maker: &Maker,
    (owner, unlimited): (u32, bool),
) -> Result<(PathBuf, Place), Status> {
    let (context, maker) = (context.clone(), maker.clone());
    blocking(move || {
        let registry = &context.registry;
        let root = registry.root();
        let peer = maker.peer().map_err(|why| ErrorReason::CallerUnknown.status(why.chain()))?;
        let from = peer.now(root).map_err(|why| ErrorReason::CallerUnknown.status(why.chain()))?.cgroups;
        let [from] = from.as_slice() else {
            return Err(
                ErrorReason::ProcessNotMoved.status("the process has threads in several cgroups: it cannot be moved")
            );
        };
        let Config { cgroup_parent, start_from, .. } = &context.config;
        let parent = parent_for(root, from, owner, cgroup_parent, start_from);
        // A caller in a cgroup of a rule gets that reason, also where no run could be made below.
        let place = parent.as_ref().map_or(from.as_path(), PathBuf::as_path);
        if !unlimited && let Some(why) = claimed_start(&context.config, registry, from, place)? {
            return Err(ErrorReason::PermissionDenied.status(why));
        }
        let parent = parent.map_err(|why| ErrorReason::CgroupUnusable.status(why.to_string()))?;
        Ok((from.clone(), Place::Below(parent)))
    })
    .await?
}

/// Does all of `work`, whether or not somebody waits for it.
async fn whole<T: Send + 'static>(work: impl Future<Output = Result<T, Status>> + Send + 'static) -> Result<T, Status> {
    tokio::spawn(work)
        .await
        .map_err(|error| ErrorReason::Internal.status(format!("the start was cut short: {error}")))?
}

async fn make(
    context: &Arc<Context>,
    wanted: Wanted,
    place: Place,
    repair: Vec<String>,
) -> Result<(Arc<LiveRun>, Unclaimed), Status> {
    let made = {
        let context = context.clone();
        blocking(move || {
            let _no_reset = context.resets.none_of(&wanted.gpus)?;
            let broken = grants::broken(&wanted.policy, &grants::grants(context.registry.kernel()));
            let live = context.registry.make(wanted, place, &context.boot_id).map_err(|e| convert::start_error(&e))?;
            let unclaimed = Unclaimed::of(&live);
            Ok::<_, Status>((live, unclaimed, broken))
        })
    };
    let (live, unclaimed, broken) = made.await??;
    let (done, wait) = oneshot::channel();
    deliver(context, Message::Started { live: live.clone(), repair, broken, done }).await?;
    wait.await.map_err(|_| ErrorReason::DaemonStopping.status("the daemon is stopping"))?;
    Ok((live, unclaimed))
}

async fn enter(
    context: &Arc<Context>,
    (maker, from): (Maker, PathBuf),
    (live, unclaimed): (Arc<LiveRun>, Unclaimed),
    gate: Option<Arc<Gate>>,
    answer: oneshot::Sender<Result<(v1::Run, Unclaimed), Status>>,
) {
    let gone = answer.is_closed();
    let moving = {
        let (context, live) = (context.clone(), live.clone());
        let gate = gate.clone();
        blocking(move || match gate.map_or(Ok(()), |gate| gate.keep(&context, &live)) {
            _ if gone => Err(None),
            Ok(()) => move_peer(&context, &maker, &from, &live).map_err(Some),
            Err(refused) => Err(Some(refused)),
        })
    };
    let refused = match moving.await {
        Ok(Ok(moved)) if live.enter() => {
            let (of, found) = (context.clone(), FoundRun::Live(live.clone()));
            let mut run =
                blocking(move || convert::run(&of.registry, &found, &grants::grants(of.registry.kernel()))).await;
            if let (Some(gate), Ok(run)) = (&gate, &mut run) {
                gate.open(context, &live, run);
            }
            match answer.send(run.map(|run| (run, unclaimed))) {
                Ok(()) => return,
                Err(_gone) => {
                    let _done = blocking(moved).await;
                    None
                }
            }
        }
        Ok(Ok(moved)) => {
            let _done = blocking(moved).await;
            let why = format!("run `{}` ({}) was killed before its process entered it", live.run.name, live.run.id);
            Some((answer, ErrorReason::StartAborted.status(why)))
        }
        Ok(Err(why)) => why.map(|why| (answer, why)),
        Err(failed) => Some((answer, failed)),
    };
    live.withdraw();
    if let Some(gate) = gate {
        let _done = blocking(move || gate.take_back()).await;
    }
    end(context, &live).await;
    if let Some((answer, why)) = refused {
        let _gone = answer.send(Err(why));
    }
}

/// Moves the process that asked into the run; what is returned moves it back.
fn move_peer(
    context: &Arc<Context>,
    maker: &Maker,
    from: &Path,
    live: &Arc<LiveRun>,
) -> Result<impl FnOnce() + Send + 'static + use<>, Status> {
    let not_moved = |process: &str, why: String| {
        ErrorReason::ProcessNotMoved.status(format!("{process} is not moved into the run: {why}"))
    };
    let peer = maker.peer().map_err(|why| not_moved("the process", why.chain()))?;
    let refused = |why: String| not_moved(&format!("process {}", peer.id().pid), why);
    // It may have become another run's process since the request came.
    let now = peer.now(context.registry.root()).map_err(|why| refused(why.chain()))?;
    if let Some(run) = now.cgroups.iter().find_map(|cgroup| context.registry.inside(cgroup)) {
        return Err(refused(format!("it is a process of run {run} now and would leave it")));
    }
    if now.cgroups != [from] {
        return Err(refused("it was moved to another cgroup meanwhile".into()));
    }
    let origin =
        move_in(context.registry.root(), &live.cgroup, peer).map_err(|why: EnterError| refused(why.to_string()))?;
    let (context, maker, live) = (context.clone(), maker.clone(), live.clone());
    Ok(move || {
        if let Ok(peer) = maker.peer() {
            move_back(context.registry.root(), &live.cgroup, peer, &origin);
        }
    })
}

/// Ends a run that nobody is in. One that somebody is in for all that goes on, and is judged.
async fn end(context: &Arc<Context>, live: &Arc<LiveRun>) {
    for _ in 0..2 {
        if deliver(context, Message::Ended(live.run.id)).await.is_err() {
            return;
        }
        tokio::time::sleep(EMPTY_FOR).await;
    }
}

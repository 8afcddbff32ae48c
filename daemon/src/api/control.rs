//! `RunService.Control`: freeze, thaw and kill, each authorised, put on record, carried out and answered with what was proved.
//!
//! Invariants: a command reaches exactly the run that its caller named; a caller that goes away before the command is begun finds
//! nothing done later; a command with a request id is carried out once, however often it is sent (see [`super::repeats`]).

use super::{
    Context,
    authorize::{Role, owner_may_not_thaw},
    convert,
    gate::Deadline,
    limits::Share,
    peer::Peer,
    repeats::{Entered, KEPT_FOR, Request as Repeated},
    runs::blocking,
};
use crate::{
    actuators::cgroup::{Affected, dry_run},
    pipeline::{
        containment::Answer,
        lane::{Caller, Command as LaneCommand, Refused, Ticket},
    },
    platform::{Cgroup, clock},
    runs::{FoundRun, LiveRun, grants::grants, guarded::GuardedRun},
};
use failsafe_core::{
    Action, MonoTime,
    containment::Measure,
    input::{Command, Control, Run},
    record::Record,
};
use failsafe_proto::{ErrorReason, v1};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Request, Status};

/// An outcome is waited for this long unless the caller says otherwise.
const WAIT: Duration = Duration::from_secs(10);
/// Once an outcome is there, its record is waited for this long.
const WAIT_FOR_DISK: Duration = Duration::from_secs(2);

/// An authorised command, and how long its caller waits.
struct AuthorisedCommand {
    control: Control,
    found: FoundRun,
    share: Share,
    wait: Duration,
}

/// Answers a request of `Control`.
///
/// # Errors
/// See `docs/api.md`, "Errors".
pub(super) async fn control(
    context: &Arc<Context>,
    request: Request<v1::ControlRequest>,
) -> Result<v1::ControlResponse, Status> {
    let who = context.principal(&request)?;
    let share = Peer::of(&request)?.share();
    let deadline = Deadline::of(&request);
    let v1::ControlRequest { run, command, reason, dry_run, timeout_ms, request_id } = request.into_inner();
    let command = convert::command(command)?;
    // Exactly what was meant, or nothing: a prefix or a name that was reused would reach another run.
    let seen = |run: &Run| who.may_see(run).is_some();
    let found = context.registry.find_exact(&run, seen).map_err(|e| convert::find_error(&e))?;
    let role = who.may_see(found.run()).ok_or_else(|| ErrorReason::RunNotFound.status(format!("no run `{run}`")))?;
    who.may_act(role, command)?;
    if command == Command::Thaw && role == Role::Owner {
        owner_may_thaw(&found)?;
    }
    let repeated = Repeated::new(&who, &request_id, (found.run().id, command, &reason))?;
    if dry_run {
        return rehearse(context, found, command).await;
    }
    if reason.trim().is_empty() || reason.len() > 1_000 {
        return Err(
            ErrorReason::InvalidRequest.status("reason: expected why, in 1 to 1000 bytes; it is kept in the audit log")
        );
    }
    let control = Control {
        seq: 0,
        at: MonoTime(clock::monotonic_ns()),
        run: found.run().id,
        command,
        actor: who.actor(),
        role: role.name().into(),
        reason,
    };
    let wait = if timeout_ms == 0 { WAIT } else { Duration::from_millis(timeout_ms.into()) };
    let patience = Instant::now() + wait;
    let until = deadline.map_or(patience, |deadline| deadline.min(patience));
    let ticket = Ticket::new(Some(until));
    let order = AuthorisedCommand { control, found, share, wait };
    let ticket = match repeated {
        None => ticket,
        Some(repeated) => match context.repeats.enter(repeated, ticket, Instant::now())? {
            Entered::Again(sent) => return sent.answer(until).await,
            Entered::NotKept(ticket) => ticket,
            Entered::First(pending, sent) => {
                // Apart from this request: its client may leave after the command is begun, and ask again for the answer.
                let (context, order) = (context.clone(), AuthorisedCommand { wait: KEPT_FOR, ..order });
                let ticket = sent.ticket();
                tokio::spawn(async move {
                    let answer = act(&context, order, ticket, |outcome| pending.show(outcome)).await;
                    pending.settle(answer);
                });
                return sent.answer(until).await;
            }
        },
    };
    // Whoever goes away, or waits no longer, does not find the run frozen or killed later.
    let _caller = Caller(ticket.clone());
    act(context, order, ticket, |_| {}).await
}

/// Whether the owner of the run may thaw it, as far as is published. The pipeline decides that again before it begins the thaw.
fn owner_may_thaw(found: &FoundRun) -> Result<(), Status> {
    match found {
        FoundRun::Live(live) => {
            let containment = live.status().containment.clone();
            // Of a run that nothing contains: there is nothing to do, or somebody else froze it by hand.
            let allowed = containment.is_empty() || containment.is_ordered_by_owner_alone();
            if allowed { Ok(()) } else { Err(owner_may_not_thaw()) }
        }
        // Its policy is not judged, so nobody knows whether it wants the run frozen.
        FoundRun::Guarded(_) => Err(owner_may_not_thaw()),
        FoundRun::Ended(ended) => Err(has_ended(&ended.run)),
    }
}

/// Has the command carried out. Outcomes that are not the last one are shown.
async fn act(
    context: &Arc<Context>,
    order: AuthorisedCommand,
    ticket: Ticket,
    show: impl Fn(v1::ControlResponse) + Send + Sync,
) -> Result<v1::ControlResponse, Status> {
    let AuthorisedCommand { control, found, share, wait } = order;
    let command = control.command;
    let live = match found {
        FoundRun::Live(live) => live,
        FoundRun::Guarded(guarded) => return control_guarded(context, guarded, control).await,
        FoundRun::Ended(ended) => return Err(has_ended(&ended.run)),
    };
    let (run_id, run_name) = (live.run.id.to_string(), live.run.name.clone());
    if command == Command::Thaw && is_free(context, &live).await? {
        let verdict = v1::Verdict::Proved as i32;
        return Ok(v1::ControlResponse { run_id, run_name, verdict, nothing_to_do: true, ..Default::default() });
    }
    // A run that is still being started: its process is not to come in after all others were killed.
    let unstarted = command == Command::Kill && live.withdraw();
    if unstarted {
        // Whoever waits no longer learns at least that: there may be no process of which an outcome tells.
        show(convert::never_entered(&live));
    }
    let (tell, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let lane = LaneCommand::Control { control, tell, ticket: ticket.clone() };
    context.lane.command(lane, share.is_reserved()).map_err(lane_refusal)?;
    let named =
        |answer| v1::ControlResponse { run_id: run_id.clone(), run_name: run_name.clone(), ..convert::answer(answer) };
    let answer = wait_for(&mut answers, wait, |answer| show(named(Some(answer.clone())))).await;
    if answer.is_none() && unstarted {
        return Ok(convert::never_entered(&live));
    }
    if answer.is_none() {
        if context.registry.get(live.run.id).is_none() {
            return Err(ErrorReason::RunEnded.status(format!("run `{run_name}` ended before the command reached it")));
        }
        if ticket.is_refused() {
            return Err(owner_may_not_thaw());
        }
        if ticket.withdraw() {
            return Err(not_begun(&format!("run `{run_name}`: the command")));
        }
    }
    Ok(named(answer))
}

pub(super) fn lane_refusal(refused: Refused) -> Status {
    match refused {
        Refused::Full(_) => ErrorReason::LimitReached.status(refused.to_string()),
        Refused::Stopping => ErrorReason::DaemonStopping.status(refused.to_string()),
    }
}

/// The last answer there is when nothing more is to come, or when time is up.
async fn wait_for(
    answers: &mut tokio::sync::mpsc::UnboundedReceiver<Answer>,
    wait: Duration,
    show: impl Fn(&Answer) + Send + Sync,
) -> Option<Answer> {
    let mut best: Option<Answer> = None;
    let mut deadline = tokio::time::Instant::now() + wait;
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, answers.recv()).await {
        if answer.last {
            deadline = deadline.min(tokio::time::Instant::now() + WAIT_FOR_DISK);
        }
        // The record of an earlier outcome becoming durable says nothing of a later one.
        let stale = best.as_ref().is_some_and(|best| best.outcome.at > answer.outcome.at);
        let done = answer.last && answer.durable;
        if !stale {
            show(&answer);
            best = Some(answer);
        }
        if done {
            break;
        }
    }
    best
}

/// How a run stands, in words.
fn stands(run: &v1::Run) -> String {
    let state = match run.state() {
        v1::RunState::Frozen => "frozen",
        v1::RunState::Partial => "contained in part",
        v1::RunState::Guarded if run.guarded_frozen => "guarded, frozen",
        v1::RunState::Guarded
            if run.containment.iter().any(|step| step.desired && step.measure == Measure::Freeze.name()) =>
        {
            "guarded, frozen in part"
        }
        v1::RunState::Guarded => "guarded, not frozen",
        _ => "not frozen",
    };
    if run.blocked { format!("{state}, blocked in the kernel") } else { state.to_owned() }
}

/// `what` was withdrawn before the pipeline took it.
pub(super) fn not_begun(what: &str) -> Status {
    ErrorReason::NotBegun.status(format!("{what} was not begun in time and was withdrawn: nothing was done"))
}

/// Only the kernel enforces the policy of the run.
pub(super) fn not_judged(guarded: &GuardedRun) -> Status {
    ErrorReason::RunNotJudged.status(format!("the run is not judged: {}", guarded.why))
}

pub(super) fn has_ended(run: &Run) -> Status {
    ErrorReason::RunEnded.status(format!("run `{}` ({}) has ended", run.name, run.id))
}

/// A command on a run that the core does not know: recorded first, and carried out by its cgroup.
async fn control_guarded(
    context: &Context,
    run: Arc<GuardedRun>,
    control: Control,
) -> Result<v1::ControlResponse, Status> {
    context.log.record(&Record::Control(control.clone()), Some(run.run.id), None);
    let (began, deadline) = (Instant::now(), Instant::now() + context.config.action_deadline());
    let (id, run_name) = (run.run.id, run.run.name.clone());
    let (command, actor) = (control.command, control.actor.clone());
    let (report, at) = blocking(move || run.obey(&control, deadline)).await?;
    context.registry.touched().note(id);
    let (verdict, proofs) = (report.verdict.clone(), report.proofs.clone());
    let took = began.elapsed();
    // As of a judged run: who has the answer finds the outcome in the log.
    let (tell, durable) = tokio::sync::oneshot::channel();
    let record = Record::ControlOutcome { command, actor, verdict, proofs, at };
    context.log.record_then(&record, Some(id), None, move |written| {
        let _ = tell.send(written.is_ok());
    });
    let is_durable = matches!(tokio::time::timeout(WAIT_FOR_DISK, durable).await, Ok(Ok(true)));
    let run_id = id.to_string();
    Ok(v1::ControlResponse { run_id, run_name, ..convert::guarded_answer(report, took, is_durable) })
}

/// Whether nothing holds the run: no decision, no latch, and no freeze of anybody. What cannot be read counts as held.
async fn is_free(context: &Arc<Context>, live: &Arc<LiveRun>) -> Result<bool, Status> {
    let status = live.status().clone();
    if !status.containment.is_empty() || status.containment_error.is_some() {
        return Ok(false);
    }
    let (live, context) = (live.clone(), context.clone());
    blocking(move || {
        let latched = context.registry.kernel().is_blocked(live.slot).unwrap_or(true);
        let mut frozen = live.cgroup.freeze_requested().unwrap_or(true);
        let walked = live.cgroup.walk(None, &mut |level: &Cgroup| {
            frozen |= level.freeze_requested()?;
            Ok(())
        });
        !latched && !frozen && walked.is_ok()
    })
    .await
}

async fn rehearse(context: &Arc<Context>, found: FoundRun, command: Command) -> Result<v1::ControlResponse, Status> {
    let action = Action::from(command);
    let run = found.run().clone();
    let gpus = match &found {
        FoundRun::Live(live) => live.status().gpus.clone(),
        _ => run.gpus.clone(),
    };
    let context = context.clone();
    let listed = blocking(move || {
        let stands = stands(&convert::run(&context.registry, &found, &grants(context.registry.kernel())));
        let listed = match &found {
            FoundRun::Live(live) => dry_run(&live.cgroup).map_err(|e| ErrorReason::CgroupUnusable.status(e.chain())),
            FoundRun::Guarded(guarded) => match &guarded.cgroup {
                Some(cgroup) => dry_run(cgroup).map_err(|e| ErrorReason::CgroupUnusable.status(e.chain())),
                None => Err(ErrorReason::CgroupUnusable.status("the cgroup of the run is not known")),
            },
            FoundRun::Ended(ended) => Err(has_ended(&ended.run)),
        };
        listed.map(|listed| (listed, stands))
    });
    let (listed, stands) = listed.await??;
    let process =
        |p: Affected| v1::Process { pid: p.id.pid, comm: p.comm, state: p.state.to_string(), argv: String::new() };
    Ok(v1::ControlResponse {
        run_id: run.id.to_string(),
        run_name: run.name.clone(),
        verdict: v1::Verdict::DryRun as i32,
        processes: listed.processes.into_iter().map(process).collect(),
        cgroups: listed.levels.into_iter().map(|l| l.display().to_string()).collect(),
        gpus: gpus.iter().map(ToString::to_string).collect(),
        known_leaks: action.known_leaks().iter().map(ToString::to_string).collect(),
        stands,
        ..Default::default()
    })
}

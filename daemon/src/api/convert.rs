//! Between the daemon's types and protobuf's, and nowhere else.

use crate::{
    actuators::outcome::Report,
    guard::{Via, kernel::KernelError},
    pipeline::containment::Answer,
    platform::clock,
    runs::{
        FindError, FoundRun, GpuUse, LiveRun, Registry, Sharing, connections::OpenConnections, grants,
        start::StartError, switch::Behind,
    },
};
use failsafe_core::{
    GpuId, Mode, MonoTime,
    actor::{Actor, LocalPeer},
    containment::{Containment, ContainmentState, Desired, Step, StepResult},
    decision::Verdict,
    input::Command,
    policy::assurance::Grants,
    record::{FoundGpu, GpuBy, Totals},
};
use failsafe_proto::{ErrorReason, v1};
use std::time::Duration;
use tonic::Status;

/// `grants`: what the kernel grants now.
pub(super) fn run(registry: &Registry, found: &FoundRun, grants: &Grants) -> v1::Run {
    let run = found.run();
    let mono = clock::monotonic_ns();
    let mut out = v1::Run {
        id: run.id.to_string(),
        name: run.name.clone(),
        labels: run.labels.clone().into_iter().collect(),
        owner_uid: run.owner_uid,
        cgroup: run.cgroup.clone(),
        cgroup_id: run.cgroup_id,
        policy_digest: run.policy.to_string(),
        gpus: run.gpus.iter().map(ToString::to_string).collect(),
        mig_devices: run.mig.values().flatten().cloned().collect(),
        registered_ns: run.registered_wall_ns,
        ..v1::Run::default()
    };
    let wall = clock::wall_ns();
    let since_epoch = |at: MonoTime| wall.saturating_sub(i64::try_from(mono.saturating_sub(at.0)).unwrap_or(i64::MAX));
    match found {
        FoundRun::Live(live) => {
            let status = live.status().clone();
            out.containment = steps(&status.containment, &since_epoch);
            out.policy_name.clone_from(&live.policy.name);
            let behind = live.behind();
            out.observed = live.mode() == Mode::Observe && behind.is_none();
            out.mode_behind = behind.as_ref().map(Behind::text).unwrap_or_default();
            out.not_bounded = behind.is_some_and(|behind| behind.kernel == Mode::Observe);
            out.gpus = status.gpus.iter().map(ToString::to_string).collect();
            out.state = run_state(status.containment.state()) as i32;
            // A stop rule's latch is the kernel's own: no decision has to have come before it.
            out.blocked = registry.kernel().is_blocked(live.slot).unwrap_or(status.containment.is_latched());
            out.incident = status.incident.map(|i| i.to_string()).unwrap_or_default();
            out.decisions = status.decisions;
            out.containment_error = status.containment_error.clone().unwrap_or_default();
            out.blind_rules.clone_from(&status.rules.blind);
            out.disarmed_rules.clone_from(&status.rules.disarmed);
            out.unknown_rules.clone_from(&status.rules.unknown);
            out.not_enforced = grants::broken(&live.policy, grants);
            out.unenforced = grants::unenforced(&live.policy, grants);
            match &status.usage {
                Some(usage) => {
                    out.processes = usage.processes;
                    out.suspended = usage.suspended && !status.containment.is_frozen();
                    out.memory_bytes = usage.memory_bytes.unwrap_or_default();
                    out.cpu_us = usage.cpu_usec.unwrap_or_default();
                }
                // Not sampled yet: a registered cgroup has its processes already.
                None => out.processes = live.cgroup.all_procs().map_or(0, |all| all.len() as u64),
            }
            count(&mut out, &status.counted.totals());
            out.frozen_ms = Some(status.frozen.total_ns(mono) / 1_000_000);
            out.found_gpus = status.found_gpus.values().map(found_gpu).collect();
            out.claimed_gpus = status.claimed_gpus.as_ref().map(|claimed| v1::ClaimedGpus {
                variable: claimed.variable.clone(),
                value: claimed.value.clone(),
                gpus: claimed.gpus.iter().map(ToString::to_string).collect(),
                pid: claimed.pid,
            });
            out.gpu_use = status.gpu_use.iter().map(|(gpu, used)| gpu_use(gpu, used)).collect();
            if !live.policy.watch.is_empty() {
                out.syscalls_via = match registry.kernel().syscalls_via() {
                    Some(Via::Fentry) => "fentry".into(),
                    Some(Via::SysEnter) => "sys_enter".into(),
                    None => String::new(),
                };
            }
        }
        FoundRun::Guarded(guarded) => {
            out.policy_name.clone_from(&guarded.policy_name);
            out.state = v1::RunState::Guarded as i32;
            out.guarded = guarded.reason();
            out.blocked = guarded.latched;
            out.containment = steps(&guarded.containment(), &since_epoch);
            out.guarded_frozen = guarded.stands_still();
            if let Some(cgroup) = &guarded.cgroup {
                out.processes = cgroup.all_procs().map_or(0, |all| u64::try_from(all.len()).unwrap_or(u64::MAX));
            }
        }
        FoundRun::Ended(ended) => {
            out.policy_name.clone_from(&ended.policy_name);
            out.state = v1::RunState::Ended as i32;
            match &ended.unwatched {
                None => out.ended_ns = ended.ended_ns,
                Some(between) => {
                    out.ended_after_ns = between.last_seen_ns.unwrap_or_default();
                    out.ended_before_ns = between.noticed_ns;
                }
            }
            out.unverified = ended.unverified.clone().unwrap_or_default();
            out.decisions = ended.decisions;
            out.frozen_ms = ended.frozen_ns.map(|ns| ns / 1_000_000);
            // Monotonic times of an ended run may be of another boot.
            out.containment = steps(&ended.containment, &|_| 0);
            if let Some(totals) = &ended.totals {
                count(&mut out, totals);
            }
        }
    }
    out
}

fn steps(containment: &Containment, wall: &dyn Fn(MonoTime) -> i64) -> Vec<v1::ContainmentStep> {
    let step = |step: &Step| {
        let mut out = v1::ContainmentStep { measure: step.measure.name().into(), ..Default::default() };
        if let Some(Desired { since, decision, actor: by, others: _ }) = &step.desired {
            (out.desired, out.since_ns) = (true, wall(*since));
            (out.decision, out.actor) = (decision.map(|id| id.n), Some(actor(by)));
        }
        match &step.result {
            None => out.verdict = v1::Verdict::Pending as i32,
            Some(StepResult { verdict: came, proofs, at }) => {
                let (verdict, missing) = verdict(came.clone());
                (out.verdict, out.missing, out.at_ns) = (verdict as i32, missing, wall(*at));
                out.proofs = proofs.iter().map(|proof| format!("{}: {}", proof.fact, proof.seen)).collect();
            }
        }
        out
    };
    containment.steps().iter().map(step).collect()
}

fn found_gpu(found: &FoundGpu) -> v1::FoundGpu {
    let by = match found.by {
        GpuBy::Process => v1::GpuBy::Process,
        GpuBy::Open => v1::GpuBy::Open,
    };
    v1::FoundGpu { gpu: found.gpu.to_string(), by: by.into(), pid: found.pid }
}

fn count(run: &mut v1::Run, totals: &Totals) {
    (run.egress_bytes, run.ingress_bytes) = (totals.egress_bytes, totals.ingress_bytes);
    (run.events, run.events_lost) = (totals.events, totals.events_lost);
    run.kernel = Some(kernel_counts(totals));
}

pub(super) fn kernel_counts(totals: &Totals) -> v1::KernelCounts {
    v1::KernelCounts {
        denied_calls: totals.denied_calls,
        denied_ops: totals.denied_ops,
        observed_ops: totals.observed_ops,
        dropped_packets: totals.dropped_packets,
        budget_drops: totals.budget_drops,
        untracked: totals.untracked,
        dns_queries: totals.dns_queries,
        dns_bytes: totals.dns_bytes,
    }
}

fn gpu_use(gpu: &GpuId, used: &GpuUse) -> v1::GpuUse {
    let sharing = match used.sharing {
        Sharing::Alone => v1::GpuSharing::Alone,
        Sharing::ByUtilization => v1::GpuSharing::ByUtilization,
        Sharing::Even => v1::GpuSharing::Even,
        Sharing::BySlices => v1::GpuSharing::BySlices,
    };
    v1::GpuUse {
        gpu: gpu.to_string(),
        utilization_mpct: used.utilization.and_then(|part| u32::try_from(part).ok()),
        memory_bytes: used.memory_bytes,
        time_us: used.time_us,
        energy_mj: used.energy_mj,
        sharing: sharing as i32,
    }
}

/// Who asked.
pub(super) fn actor(actor: &Actor) -> v1::Actor {
    use v1::actor::Actor as Kind;
    let kind = match actor.clone() {
        Actor::Local(LocalPeer { uid, gid, pid, start_ticks, cgroup }) => {
            Kind::Local(v1::LocalPeer { uid, gid, pid, start_ticks, cgroup })
        }
        Actor::Remote { name, method } => Kind::Remote(v1::RemoteIdentity { name, method }),
        Actor::Schedule { name } => Kind::Schedule(v1::Schedule { name }),
        Actor::Daemon => Kind::Daemon(v1::Daemon {}),
    };
    v1::Actor { actor: Some(kind) }
}

pub(super) fn command(command: i32) -> Result<Command, Status> {
    match v1::Command::try_from(command) {
        Ok(v1::Command::Freeze) => Ok(Command::Freeze),
        Ok(v1::Command::Thaw) => Ok(Command::Thaw),
        Ok(v1::Command::Kill) => Ok(Command::Kill),
        _ => Err(ErrorReason::InvalidRequest.status("command: expected freeze, thaw or kill")),
    }
}

const NOT_DURABLE: &str = "the record of it is not on disk yet: see the audit log's state in `failsafectl node status`";

/// What a caller who waited is told; `None`: nothing came in time.
pub(super) fn answer(answer: Option<Answer>) -> v1::ControlResponse {
    let Some(answer) = answer else {
        let missing = vec!["no outcome within the timeout; the action goes on".to_owned()];
        return v1::ControlResponse { verdict: v1::Verdict::Pending as i32, missing, ..Default::default() };
    };
    let outcome = answer.outcome;
    let (verdict, mut missing) = verdict(outcome.verdict);
    if !answer.durable {
        missing.push(NOT_DURABLE.into());
    }
    v1::ControlResponse {
        run_id: outcome.decision.run.to_string(),
        incident: outcome.incident.to_string(),
        verdict: verdict as i32,
        missing,
        proofs: outcome.proofs.into_iter().map(|p| format!("{}: {}", p.fact, p.seen)).collect(),
        took_ns: outcome.took.0,
        ..Default::default()
    }
}

/// What came of a command on a guarded run.
pub(super) fn guarded_answer(report: Report, took: Duration, is_durable: bool) -> v1::ControlResponse {
    let (verdict, mut missing) = verdict(report.verdict);
    if !is_durable {
        missing.push(NOT_DURABLE.into());
    }
    v1::ControlResponse {
        verdict: verdict as i32,
        missing,
        proofs: report.proofs.into_iter().map(|p| format!("{}: {}", p.fact, p.seen)).collect(),
        took_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        ..Default::default()
    }
}

/// A kill of a run that no process had entered, and none will.
pub(super) fn never_entered(live: &LiveRun) -> v1::ControlResponse {
    v1::ControlResponse {
        run_id: live.run.id.to_string(),
        run_name: live.run.name.clone(),
        verdict: v1::Verdict::Proved as i32,
        proofs: vec!["processes: none had entered the run, and its start is cancelled".into()],
        ..Default::default()
    }
}

pub(super) fn verdict(verdict: Verdict) -> (v1::Verdict, Vec<String>) {
    match verdict {
        Verdict::Proved => (v1::Verdict::Proved, Vec::new()),
        Verdict::Partial(missing) => (v1::Verdict::Partial, missing),
        Verdict::Failed(cause) => (v1::Verdict::Failed, vec![cause]),
    }
}

pub(super) fn find_error(error: &FindError) -> Status {
    match error {
        FindError::None(_) | FindError::NotExact { .. } => ErrorReason::RunNotFound.status(error.to_string()),
        FindError::Ambiguous { .. } => ErrorReason::RunAmbiguous.status(error.to_string()),
    }
}

/// How a live run stands.
pub(super) fn run_state(state: ContainmentState) -> v1::RunState {
    match state {
        ContainmentState::Running => v1::RunState::Running,
        ContainmentState::Frozen => v1::RunState::Frozen,
        ContainmentState::Partial => v1::RunState::Partial,
    }
}

pub(super) fn start_error(error: &StartError) -> Status {
    let message = error.to_string();
    match error {
        StartError::NameTaken(_) => ErrorReason::RunNameTaken.status(message),
        StartError::Overlaps(_) => ErrorReason::CgroupTaken.status(message),
        StartError::BadName(_)
        | StartError::LikeAnId(_)
        | StartError::Reserved(_)
        | StartError::Labels
        | StartError::Empty(_) => ErrorReason::InvalidRequest.status(message),
        StartError::TooMany { .. }
        | StartError::Kernel(KernelError::Full | KernelError::Quota(_) | KernelError::Compile(_)) => {
            ErrorReason::LimitReached.status(message)
        }
        StartError::Cgroup(_) | StartError::Kernel(_) => ErrorReason::CgroupUnusable.status(message),
        StartError::Store(_) => ErrorReason::StorageUnavailable.status(message),
    }
}

/// The connections of a cgroup that was registered: those that its list does not name, where it drops their packets, and those that were
/// kept.
pub(super) fn connections(open: &OpenConnections, dropped: bool) -> Vec<v1::OpenConnection> {
    let shown = open.unlisted.iter().filter(|one| dropped || open.keeps(one));
    shown
        .map(|one| v1::OpenConnection {
            remote: one.connection.remote.to_string(),
            protocol: if one.connection.protocol == 6 { "tcp" } else { "udp" }.into(),
            pid: one.connection.pid,
            hosts: one.hosts.clone(),
            kept: open.keeps(one),
        })
        .collect()
}

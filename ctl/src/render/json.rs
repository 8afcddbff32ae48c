//! The JSON of `-o json`. Field names are those of the `.proto` file; enums are lower-case words; times are nanoseconds since
//! the epoch. What is written here is a contract: see `docs/cli.md`.

use failsafe_proto::v1 as pb;
use serde_json::{Value, json};

/// One value, indented, with a line end.
pub fn text(value: &Value) -> String {
    format!("{value:#}\n")
}

fn gpu_by(by: pb::GpuBy) -> &'static str {
    match by {
        pb::GpuBy::Unspecified => "unspecified",
        pb::GpuBy::Process => "process",
        pb::GpuBy::Open => "open",
    }
}

/// A run.
pub fn run(run: &pb::Run) -> Value {
    let mut out = json!({
        "id": run.id,
        "name": run.name,
        "labels": run.labels.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "owner_uid": super::users::known(run.owner_uid),
        "cgroup": run.cgroup,
        "cgroup_id": run.cgroup_id,
        "policy_digest": run.policy_digest,
        "policy_name": run.policy_name,
        "gpus": run.gpus,
        "mig_devices": run.mig_devices,
        "blind_rules": run.blind_rules,
        "disarmed_rules": run.disarmed_rules,
        "unknown_rules": run.unknown_rules,
        "not_enforced": run.not_enforced,
        "state": state(run.state()),
        "registered_ns": run.registered_ns,
        "ended_ns": run.ended_ns,
        "ended_after_ns": run.ended_after_ns,
        "ended_before_ns": run.ended_before_ns,
        "unverified": run.unverified,
        "blocked": run.blocked,
        "observed": run.observed,
        "guarded": run.guarded,
        "guarded_frozen": run.guarded_frozen,
        "containment_error": run.containment_error,
        "incident": run.incident,
        "decisions": run.decisions,
        "processes": run.processes,
        // Of an ended run nobody kept them.
        "memory_bytes": (run.state() != pb::RunState::Ended).then_some(run.memory_bytes),
        "cpu_us": (run.state() != pb::RunState::Ended).then_some(run.cpu_us),
        "egress_bytes": run.egress_bytes,
        "ingress_bytes": run.ingress_bytes,
        "events": run.events,
        "events_lost": run.events_lost,
        "kernel": run.kernel.as_ref().map(kernel),
        "syscalls_via": run.syscalls_via,
        "frozen_ms": run.frozen_ms,
        "predecessor": run.predecessor,
        "drift": run.drift.iter().map(factor).collect::<Vec<_>>(),
        "gpu_use": run.gpu_use.iter().map(gpu_use).collect::<Vec<_>>(),
        "containment": run.containment.iter().map(step).collect::<Vec<_>>(),
    });
    // Apart: the macro expands to no more.
    out["not_bounded"] = json!(run.not_bounded);
    // Of the answer to a registration alone.
    if !run.connections.is_empty() {
        let open = run.connections.iter().map(|open| {
            json!({
                "remote": open.remote, "protocol": open.protocol, "pid": open.pid, "hosts": open.hosts, "kept": open.kept,
            })
        });
        out["connections"] = open.collect();
    }
    let found =
        run.found_gpus.iter().map(|found| json!({ "gpu": found.gpu, "by": gpu_by(found.by()), "pid": found.pid }));
    out["found_gpus"] = found.collect();
    out["claimed_gpus"] = run.claimed_gpus.as_ref().map_or(Value::Null, |claimed| {
        json!({
            "variable": claimed.variable,
            "value": claimed.value,
            "gpus": claimed.gpus,
            "pid": claimed.pid,
        })
    });
    out["metrics"] = run.metrics.iter().map(metric).collect();
    out["metrics_left_out"] = json!(run.metrics_left_out);
    out["metrics_unknown"] = json!(run.metrics_unknown);
    out["mode_behind"] = json!(run.mode_behind);
    out["unenforced"] = json!(run.unenforced);
    out["suspended"] = json!(run.suspended);
    out["warnings"] = json!(run.warnings);
    out
}

/// The last value of a metric. JSON has no number for what is not finite.
fn metric(metric: &pb::LastMetric) -> Value {
    let value = match metric.value.is_finite() {
        true => json!(metric.value),
        false => json!(metric.value.to_string()),
    };
    json!({
        "name": metric.name,
        "value": value,
        "step": metric.step,
        "rank": (!metric.rank.is_empty()).then_some(&metric.rank),
        "pid": (metric.pid != 0).then_some(metric.pid),
        "age_ns": metric.age_ns,
    })
}

/// A change of the list of runs.
pub fn run_change(change: &pb::WatchRunsResponse) -> Value {
    json!({
        "revision": change.revision,
        "missed": change.missed,
        "change": change.run.as_ref().map(|_| run_change_word(change.change())),
        "run": change.run.as_ref().map(run),
    })
}

/// The word for a change of the list of runs.
pub fn run_change_word(change: pb::RunChange) -> &'static str {
    match change {
        pb::RunChange::Unspecified => "unknown",
        pb::RunChange::Present => "present",
        pb::RunChange::Started => "started",
        pb::RunChange::Contained => "contained",
        pb::RunChange::State => "state",
        pb::RunChange::Ended => "ended",
        pb::RunChange::Removed => "removed",
    }
}

fn step(step: &pb::ContainmentStep) -> Value {
    json!({
        "measure": step.measure,
        "desired": step.desired,
        "since_ns": step.since_ns,
        "decision": step.decision,
        "actor": step.actor.as_ref().and_then(super::actors::of_message),
        "verdict": verdict(step.verdict()),
        "missing": step.missing,
        "proofs": step.proofs,
        "at_ns": step.at_ns,
    })
}

fn factor(change: &pb::FactorChange) -> Value {
    json!({ "path": change.path, "old": change.old, "new": change.new, "class": change.class })
}

fn kernel(counts: &pb::KernelCounts) -> Value {
    json!({
        "denied_calls": counts.denied_calls,
        "denied_ops": counts.denied_ops,
        "observed_ops": counts.observed_ops,
        "dropped_packets": counts.dropped_packets,
        "budget_drops": counts.budget_drops,
        "untracked": counts.untracked,
        "dns_queries": counts.dns_queries,
        "dns_bytes": counts.dns_bytes,
    })
}

fn gpu_use(used: &pb::GpuUse) -> Value {
    json!({
        "gpu": used.gpu,
        "utilization_mpct": used.utilization_mpct,
        "memory_bytes": used.memory_bytes,
        "time_us": used.time_us,
        "energy_mj": used.energy_mj,
        "sharing": sharing(used.sharing()),
    })
}

/// The word for how a GPU is shared.
pub fn sharing(sharing: pb::GpuSharing) -> &'static str {
    match sharing {
        pb::GpuSharing::Unspecified => "unknown",
        pb::GpuSharing::Alone => "alone",
        pb::GpuSharing::ByUtilization => "by-utilization",
        pb::GpuSharing::Even => "even",
        pb::GpuSharing::BySlices => "by-slices",
    }
}

/// The word for a run's state.
pub fn state(state: pb::RunState) -> &'static str {
    match state {
        pb::RunState::Unspecified => "unknown",
        pb::RunState::Running => "running",
        pb::RunState::Frozen => "frozen",
        pb::RunState::Partial => "partial",
        pb::RunState::Ended => "ended",
        pb::RunState::Guarded => "guarded",
    }
}

/// The answer to a control command.
pub fn control(answer: &pb::ControlResponse) -> Value {
    let process = |p: &pb::Process| json!({ "pid": p.pid, "comm": p.comm, "state": p.state, "argv": p.argv });
    json!({
        "run_id": answer.run_id,
        "run_name": answer.run_name,
        "incident": answer.incident,
        "verdict": verdict(answer.verdict()),
        "nothing_to_do": answer.nothing_to_do,
        "repeated_from_ns": answer.repeated_from_ns,
        "stands": answer.stands,
        "missing": answer.missing,
        "proofs": answer.proofs,
        "took_ns": answer.took_ns,
        "processes": answer.processes.iter().map(process).collect::<Vec<_>>(),
        "cgroups": answer.cgroups,
        "gpus": answer.gpus,
        "known_leaks": answer.known_leaks,
    })
}

/// The word for a verdict.
pub fn verdict(verdict: pb::Verdict) -> &'static str {
    match verdict {
        pb::Verdict::Unspecified => "unknown",
        pb::Verdict::Proved => "proved",
        pb::Verdict::Partial => "partial",
        pb::Verdict::Failed => "failed",
        pb::Verdict::Pending => "pending",
        pb::Verdict::DryRun => "dry_run",
    }
}

/// The node.
fn limit(limit: &pb::Limit) -> Value {
    json!({
        "name": limit.name,
        "unit": limit.unit,
        "per_user": limit.per_user,
        "total": limit.total,
        "reserve": limit.reserve,
        "used": limit.used,
        "reserve_used": limit.reserve_used,
        "most_uid": limit.most_uid,
        "most_used": limit.most_used,
        "refused": limit.refused,
        "waited": limit.waited,
    })
}

pub fn status(status: &pb::StatusResponse) -> Value {
    let sensor = |s: &pb::Sensor| json!({ "name": s.name, "sees": s.sees, "detail": s.detail, "last_success_ns": s.last_success_ns });
    let gpu = |g: &pb::Gpu| {
        json!({
            "uuid": g.uuid,
            "index": g.index,
            "name": g.name,
            "utilization_mpct": g.utilization_mpct,
            "temperature_mc": g.temperature_mc,
            "power_mw": g.power_mw,
            "power_limit_mw": g.power_limit_mw,
            "memory_used": g.memory_used,
            "memory_total": g.memory_total,
            "sampled_ns": g.sampled_ns,
            "runs": g.runs,
            "unsupported": g.unsupported,
            "failing": g.failing,
        })
    };
    json!({
        "version": status.version,
        "hostname": status.hostname,
        "kernel": status.kernel,
        "boot_id": status.boot_id,
        "at_ns": status.at_ns,
        "started_ns": status.started_ns,
        "sensors": status.sensors.iter().map(sensor).collect::<Vec<_>>(),
        "gpus": status.gpus.iter().map(gpu).collect::<Vec<_>>(),
        "runs": status.runs,
        "frozen": status.frozen,
        "guarded": status.guarded,
        "limits": status.limits.iter().map(limit).collect::<Vec<_>>(),
        "users": users(&status.users),
        "users_left_off": status.users_left_off,
        "log_entries": status.log_entries,
        "log_state": status.log_state,
        "nvml": status.nvml,
        "costs": status.costs,
        "no_progress": status.no_progress,
        "not_pinned": status.not_pinned,
        "drill": status.drill.as_ref().map(super::drill::state),
        "mode": if status.mode.clone().unwrap_or_default().mode() == pb::NodeMode::Observe { "observe" } else { "enforce" },
    })
}

/// What each user has used of each quota.
pub fn users(users: &[pb::UserUsage]) -> Value {
    let quota = |quota: &pb::QuotaUse| {
        let pb::QuotaUse { limit, unit, used, most } = quota;
        json!({ "limit": limit, "unit": unit, "used": used, "most": most })
    };
    let user = |user: &pb::UserUsage| {
        let quotas: Vec<Value> = user.quotas.iter().map(quota).collect();
        json!({ "uid": user.uid, "quotas": quotas })
    };
    users.iter().map(user).collect()
}

/// Something that speaks against a part.
fn reason(r: &pb::HealthReason) -> Value {
    json!({
        "code": r.code,
        "level": super::health::word(r.level()),
        "text": r.text,
        "since_ns": r.since_ns,
        "last_ns": r.last_ns,
        "count": r.count,
        "advice": r.advice,
    })
}

/// The health of the node or of a GPU.
pub fn part(part: &pb::PartHealth) -> Value {
    let mut value = json!({
        "level": super::health::word(part.level()),
        "since_ns": part.since_ns,
        "reasons": part.reasons.iter().map(reason).collect::<Vec<_>>(),
    });
    if !part.gpu.is_empty() {
        value["gpu"] = json!(part.gpu);
        value["index"] = json!(part.index);
        value["name"] = json!(part.name);
        value["runs"] = json!(part.runs);
    }
    value
}

/// `node health`: `level` is the one that counts for the GPUs asked about.
pub fn health(health: &pb::HealthResponse, chosen: &[pb::PartHealth], level: pb::HealthLevel) -> Value {
    json!({
        "level": super::health::word(level),
        "revision": health.revision,
        "at_ns": health.at_ns,
        "age_ms": health.age_ms,
        "fresh_ms": health.fresh_ms,
        "node": part(&health.node.clone().unwrap_or_default()),
        "gpus": chosen.iter().map(part).collect::<Vec<_>>(),
    })
}

/// `node capacity`.
pub fn capacity(c: &pb::CapacityResponse) -> Value {
    json!({
        "revision": c.revision,
        "at_ns": c.at_ns,
        "node": super::health::word(c.node()),
        "gpus": c.gpus,
        "free": c.free,
        "free_degraded": c.free_degraded,
        "held": c.held,
        "drained": c.drained,
        "unhealthy": c.unhealthy,
        "unknown": c.unknown,
        "runs": c.runs,
        "mig_devices": c.mig_devices,
        "mig_free": c.mig_free,
    })
}

/// `node placeable`.
pub fn placeable(answer: &pb::PlaceableResponse) -> Value {
    json!({
        "placeable": answer.placeable,
        "gpus": answer.gpus,
        "reasons": answer.reasons,
        "revision": answer.revision,
        "at_ns": answer.at_ns,
        "node": super::health::word(answer.node()),
    })
}

/// A change of health.
pub fn change(change: &pb::HealthChange) -> Value {
    json!({
        "revision": change.revision,
        "gpu": change.gpu,
        "from": super::health::word(change.from()),
        "to": super::health::word(change.to()),
        "added": change.added.iter().map(reason).collect::<Vec<_>>(),
        "removed": change.removed,
        "by": change.by,
        "at_ns": change.at_ns,
        "missed": change.missed,
        "event": change.event,
        "event_times": change.event_times,
        "actor": change.actor.as_ref().and_then(super::actors::of_message),
    })
}

/// Signals by name, each value in the signal's unit.
pub fn readings(all: &[pb::Reading]) -> Value {
    all.iter().map(|r| (r.name.clone(), json!(r.value))).collect::<serde_json::Map<String, Value>>().into()
}

/// A GPU's health with all that was last seen of it.
pub fn gpu(health: &pb::PartHealth, seen: Option<&pb::Gpu>) -> Value {
    let mut value = part(health);
    if let Some(g) = seen {
        let process = |p: &pb::GpuProcess| json!({ "pid": p.pid, "memory": p.memory, "run_id": p.run_id });
        value["sampled_ns"] = json!(g.sampled_ns);
        value["pci"] = json!(g.pci);
        value["readings"] = readings(&g.readings);
        value["processes"] = g.processes.iter().map(process).collect();
        value["unsupported"] = json!(g.unsupported);
        value["failing"] = json!(g.failing);
        value["info"] = g.info.as_ref().map_or(Value::Null, super::gpu_info::json);
    }
    value
}

/// `gpu list`.
pub fn gpus(status: &pb::StatusResponse, health: &pb::HealthResponse) -> Value {
    let seen = |part: &pb::PartHealth| status.gpus.iter().find(|g| g.uuid == part.gpu);
    health.gpus.iter().map(|part| gpu(part, seen(part))).collect()
}

/// The checks of `doctor`.
pub fn doctor(answer: &pb::DoctorResponse) -> Value {
    let check = |c: &pb::DoctorCheck| {
        json!({
            "area": c.area,
            "name": c.name,
            "state": check(c.state()),
            "detail": c.detail,
            "advice": c.advice,
        })
    };
    json!({ "checks": answer.checks.iter().map(check).collect::<Vec<_>>() })
}

/// The word for a check's state.
pub fn check(state: pb::CheckState) -> &'static str {
    match state {
        pb::CheckState::Unspecified => "unknown",
        pb::CheckState::Works => "works",
        pb::CheckState::Degraded => "degraded",
        pb::CheckState::Missing => "missing",
        pb::CheckState::NotProved => "not-proved",
    }
}

/// An incident: facts and the records' bodies, as the log has them.
pub fn incident(incident: &crate::incident::Incident<'_>) -> Value {
    use crate::incident::IncidentState;
    let detail = match &incident.standing {
        IncidentState::Noted | IncidentState::Thawed => Vec::new(),
        IncidentState::Pending(actions) | IncidentState::Contained(actions) => {
            actions.iter().map(ToString::to_string).collect()
        }
        IncidentState::Partial(missing) => missing.clone(),
        IncidentState::Failed(why) => why.clone(),
    };
    let raw = |entry: &crate::entry::Logged| serde_json::from_slice(&entry.bytes).unwrap_or(Value::Null);
    let opened = incident.opened_by();
    let unwatched = incident.unwatched();
    let leaks: Vec<Value> = incident
        .containments()
        .iter()
        .map(|action| json!({ "action": action.to_string(), "known_leaks": action.known_leaks() }))
        .collect();
    json!({
        "incident": incident.id.to_string(),
        "run_id": incident.run_id,
        "run_name": incident.run_name(),
        "owner_uid": incident.owner_uid,
        "summary": super::explain::headline(incident),
        "standing": incident.standing.name(),
        "standing_detail": detail,
        "at_ns": i64::try_from(incident.zero().1).unwrap_or(0),
        "ended_ns": incident.ended.filter(|_| unwatched.is_none()).map(|entry| entry.wall_ns),
        "ended_after_ns": unwatched.and_then(|between| between.last_seen_ns),
        "ended_before_ns": unwatched.map(|between| between.noticed_ns),
        "policy_digest": opened.decision.policy.to_string(),
        "cause": opened.decision.cause,
        "values": opened.decision.values,
        "rule": opened.rule,
        "known_leaks": leaks,
        "entries": incident.entries.iter().map(|entry| raw(entry)).collect::<Vec<Value>>(),
    })
}

//! Each kind of record of the audit log, in one line.

use crate::render::{
    actors, count,
    decision::{came_of, command, decided, result},
    time, users,
};
use failsafe_core::{
    decision::Mode,
    drill::{Drill, Finding},
    event::DriftSince,
    health::{Change, OrderKind},
    input::Gap,
    record::{FactorChange, Record, Unwatched},
    time::Span,
};
use jiff::tz::TimeZone;

/// Changed factors that are shown in one line.
const DRIFT_SHOWN: usize = 4;

pub(super) fn record_summary(record: &Record) -> String {
    match record {
        Record::Nvml { seen, blind } => match (seen, blind) {
            (Some(seen), _) => format!("NVML sees: {seen}"),
            (None, why) => format!("NVML is blind: {}", why.as_deref().unwrap_or("no reason given")),
        },
        Record::DaemonStarted { version, kernel, blind, .. } => {
            let blind = if blind.is_empty() { String::new() } else { format!("; blind: {}", blind.join("; ")) };
            format!("failsafed {version} started on kernel {kernel}{blind}")
        }
        Record::StateFiles { names } => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!("the state folder has {}", names.join(", "))
        }
        Record::DaemonStopped => "failsafed stopped normally".to_owned(),
        Record::RunStarted { run, policy_name, broken, repair } => {
            let list = |what: &str, all: &[String]| match all {
                [] => String::new(),
                all => format!("; {what}: {}", all.join("; ")),
            };
            let (broken, repair) = (list("NOT ENFORCED", broken), list("FOR REPAIR", repair));
            format!(
                "{} started for user {} in cgroup {}, pinned to {policy_name} ({}){broken}{repair}",
                run.name,
                users::shown(run.owner_uid),
                run.cgroup,
                run.policy.short()
            )
        }
        Record::StartKept { name, digest, .. } => format!("the command of {name} is stored for rerun ({digest})"),
        Record::RunAdopted { run, found, .. } => {
            format!("{} re-adopted after a restart of the daemon: {found}", run.name)
        }
        Record::RunEnded { name, recording, suppressed, unwatched, .. } => {
            let problem = recording.as_ref().and_then(|seal| seal.problem.as_ref());
            let problem = problem.map(|why| format!("; recording: {why}")).unwrap_or_default();
            let more = suppressed.iter().fold(String::new(), |all, of| {
                format!("{all}; {} more events of rule {} within its cooldown", of.events, of.rule)
            });
            let when = unwatched.as_ref().map(unwatched_text).unwrap_or_default();
            format!("{name} ended{when}{more}{problem}")
        }
        Record::RunGpus { found, removed, .. } => {
            let found: Vec<String> = found.iter().map(|it| format!("{} ({} pid {})", it.gpu, it.by, it.pid)).collect();
            let removed: Vec<String> = removed.iter().map(ToString::to_string).collect();
            let list = |what: &str, all: Vec<String>| match all.is_empty() {
                true => None,
                false => Some(format!("{what} {}", all.join(", "))),
            };
            let parts = [list("GPUs of the run:", found), list("no longer of the run:", removed)];
            parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
        }
        Record::RunOwner { owner_uid, by, .. } => format!("owner of the run: user {}; {by}", users::shown(*owner_uid)),
        Record::RunTotals { name, totals, .. } => {
            let counts = [
                (totals.denied_calls, "refused network calls"),
                (totals.dropped_packets, "dropped packets"),
                (totals.budget_drops, "packets dropped beyond a budget"),
                (totals.denied_ops, "refused operations"),
                (totals.observed_ops, "observed operations"),
                (totals.events_lost, "lost events"),
            ];
            let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
            format!(
                "{name}: {} bytes sent, {} received{}",
                totals.egress_bytes,
                totals.ingress_bytes,
                counts.collect::<String>()
            )
        }
        Record::RunsRemoved { runs, bytes, why } => {
            let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
            format!("removed {bytes} bytes of {} ended runs: {why}: {}", runs.len(), runs.join(", "))
        }
        Record::Limited(limited) => {
            let later = match limited.beginnings {
                0 => String::new(),
                n => format!(
                    "; {n} of them, beginnings of discovered runs, are written when a rule or a user intervenes"
                ),
            };
            format!(
                "{} entries about user {} are not written: its budget of the audit log is spent{later} (sha256 {})",
                limited.entries,
                users::shown(limited.uid),
                limited.sha256
            )
        }
        Record::RecordingClosed { recording, .. } => {
            let problem = recording.problem.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            format!("recording {} closed after {} frames{problem}", recording.part, recording.frames)
        }
        Record::PolicyRefused { policy, why, actor } => {
            let by = actor.as_ref().map(|actor| format!(" of {}", actors::named(actor))).unwrap_or_default();
            format!("policy {}{by} refused: {why}", policy.short())
        }
        Record::Control(control) => format!(
            "{} requested {}: {}",
            actors::with_pid(&control.actor, &control.role),
            command(control.command),
            control.reason
        ),
        Record::ControlOutcome { command: asked, verdict, proofs, .. } => {
            format!("guarded run: {}", result(command(*asked), "", verdict, proofs))
        }
        Record::Decision { decision, blind, .. } => {
            let blind = blind.as_ref().map(|what| format!(": {what}")).unwrap_or_default();
            format!("{}{blind}", decided(decision))
        }
        Record::Outcome(outcome) => came_of(outcome),
        Record::Evidence { snapshot, .. } => format!(
            "kept {}{}{} and {}",
            if snapshot.complete { "" } else { "the first " },
            count(snapshot.processes.len(), "process", "processes"),
            if snapshot.frozen { " (already frozen)" } else { " (still running)" },
            count(snapshot.signals.len(), "signal", "signals")
        ),
        Record::Health(change) => health_text(change),
        Record::Order(order) => {
            let what = match order.kind {
                OrderKind::Cordon => "cordons",
                OrderKind::Uncordon => "uncordons",
                OrderKind::Reset => "resets the health of",
                OrderKind::Forget => "forgets",
            };
            let by = actors::with_name(&order.by, order.actor.as_ref());
            format!("{by} {what} {}: {}", order.target, order.why)
        }
        Record::GpuReset { gpu, by, actor, why, done, detail } => {
            let by = actors::with_name(by, actor.as_ref());
            match done {
                None => format!("{by} has {gpu} reset: {why}"),
                Some(true) => format!("{gpu} was reset for {by}: {detail}"),
                Some(false) => format!("{gpu} was NOT reset for {by}: {detail}"),
            }
        }
        Record::KeyRotated { keyid, retired, by, actor, why } => {
            let by = actors::with_name(by, Some(actor));
            format!("{by} replaced the signing key {retired} by {keyid}: {why}")
        }
        Record::Mode { mode, rule, until_ns, reason, actor, runs, failed, begins } => {
            let of = rule.as_ref().map_or("the node".to_owned(), |rule| format!("the runs of rule {rule}"));
            let mode = if *mode == Mode::Observe { "observed" } else { "enforced" };
            let until = until_ns
                .map_or(String::new(), |ns| format!(" until {} UTC", time::exact(i128::from(ns), &TimeZone::UTC)));
            let failed =
                if failed.is_empty() { String::new() } else { format!("; NOT CHANGED: {}", failed.join("; ")) };
            if *begins {
                return format!("{actor}: {of} is to be {mode}{until}: {reason} (no run has changed yet)");
            }
            format!("{actor}: {of} is {mode}{until}: {reason} ({runs} runs changed{failed})")
        }
        Record::Drift { name, since, changes, left_out, .. } => {
            let than = match since {
                DriftSince::Earlier => "",
                DriftSince::Predecessor => " from its predecessor",
            };
            let shown = changes.iter().take(DRIFT_SHOWN).map(factor_change).collect::<Vec<_>>().join("; ");
            let more = u64::try_from(changes.len().saturating_sub(DRIFT_SHOWN)).unwrap_or(0);
            let more = if more > 0 { format!("; and {more} more in the entry") } else { String::new() };
            let left =
                if *left_out > 0 { format!("; {left_out} further changes are not listed") } else { String::new() };
            format!("{name} differs{than}: {shown}{more}{left}")
        }
        Record::Manifest { manifest, actor } => {
            format!("{actor} claims what the run computes with, in a manifest of {} bytes", manifest.len())
        }
        Record::Checkpoint { checkpoint, actor } => {
            let step = checkpoint.step.map(|step| format!(" of step {step}")).unwrap_or_default();
            let good = if checkpoint.good { "a good checkpoint" } else { "a checkpoint" };
            format!(
                "{actor} announces {good}{step}: {} ({}, {} bytes)",
                checkpoint.path, checkpoint.digest, checkpoint.bytes
            )
        }
        Record::Rerun { name, of, checkpoint, differences, unknown, accepted, actor, .. } => {
            let from = if checkpoint.is_empty() { String::new() } else { format!(" from {checkpoint}") };
            let open = differences.len() + unknown.len();
            let differs = match (open, accepted) {
                (0, _) => String::new(),
                (open, None) => format!(", with {} that change no results", count(open, "difference", "differences")),
                (open, Some(why)) => {
                    format!(", with {} that are accepted: {why}", count(open, "difference", "differences"))
                }
            };
            format!("{actor} started run {of} again as {name}{from}{differs}")
        }
        Record::Egress { name, account, .. } => format!("{name}: {}", crate::render::egress::brief(account)),
        Record::Statement { name, at, digest, bytes, problem, .. } => match (digest, problem) {
            (Some(digest), _) => format!("{name}: statement of its {} stored: {digest}, {bytes} bytes", at.name()),
            (None, why) => {
                let why = why.as_deref().unwrap_or("not known");
                format!("{name}: there is NO statement of its {}: {why}", at.name())
            }
        },
        Record::Drill(drill) => drilled(drill),
        Record::Canary { name, stage, candidate_name, terms, seen, actor, reason, .. } => {
            crate::render::canary::recorded((name, candidate_name, *stage), (terms, seen), (actor, reason))
        }
        Record::Shadow { name, policy_name, actor, ended, .. } => {
            crate::render::shadow::recorded(name, policy_name, actor, ended)
        }
        Record::Gap(gap) => gap_text(gap),
    }
}

fn drilled(drill: &Drill) -> String {
    let Drill { name, actor, reason, took, .. } = drill;
    let stopped_in = drill.stopped_in.map_or(String::new(), |span| format!(", frozen {span} after the violation"));
    match drill.result {
        Finding::Proved => format!("{name} proved that this node stops a run{stopped_in} ({took}; {actor}: {reason})"),
        Finding::Unproved => format!("{name} proved NOTHING: {} ({actor}: {reason})", drill.why()),
        Finding::NotDone => format!("{name} was NOT DONE: {} ({actor}: {reason})", drill.why()),
        Finding::Failed => format!("{name} FAILED{stopped_in}, {} ({took}; {actor}: {reason})", drill.why()),
    }
}

/// A factor with both values.
fn factor_change(change: &FactorChange) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
    format!("{} {} -> {} [{}]", change.path, value(&change.old), value(&change.new), change.class.name())
}

/// Between which times a run ended that no daemon watched, and what shows that.
pub(super) fn unwatched_text(between: &Unwatched) -> String {
    let time = match between.last_seen_ns {
        Some(seen) => {
            let span = u64::try_from(between.noticed_ns.saturating_sub(seen)).unwrap_or_default();
            format!("within the {} before, after it was last seen alive", Span(span))
        }
        None => "at a time that is not known".to_owned(),
    };
    format!(" while no daemon watched, {time}: {}", between.found)
}

fn health_text(change: &Change) -> String {
    if let Some(event) = change.event {
        let happened = crate::render::health::event(event.what.name(), event.times);
        return format!("{happened} on {}, which is {}", change.target, change.to);
    }
    let added = change.added.iter().map(|reason| format!("; {} [{}]", reason.text, reason.code));
    let removed = change.removed.iter().map(|code| format!("; no more [{code}]"));
    let by = change.by.iter().map(|by| format!("; by {}", actors::with_name(by, change.actor.as_ref())));
    let why: String = added.chain(removed).chain(by).collect();
    format!("{} was {}, is {}{why}", change.target, change.from, change.to)
}

fn gap_text(gap: &Gap) -> String {
    let whom = match (&gap.gpu, gap.run) {
        (Some(gpu), _) => format!(" for {gpu}"),
        (None, Some(_)) => " for this run".to_owned(),
        (None, None) => String::new(),
    };
    let lost = if gap.lost > 0 { format!(", {} events lost", gap.lost) } else { String::new() };
    // The text of one that is not blind has what was lost, or that the sensor has data again.
    let state = if gap.blind { " is blind" } else { "" };
    format!("sensor {}{state}{whom}: {}{lost}", gap.source, gap.what)
}

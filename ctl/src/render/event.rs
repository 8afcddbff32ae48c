//! One line for one entry of the audit log.

use super::{Paint, actors, clean, count, time, users};
use crate::{
    entry::{Body, Logged},
    text::short,
};
use failsafe_core::{
    decision::{Action, Cause, Decision, Mode, Observation, Outcome, Proof, Severity, Upkeep, Verdict},
    drill::{Drill, Finding},
    event::DriftSince,
    health::{Change, Level, OrderKind},
    input::{Command, Gap},
    record::{FactorChange, Record, Unwatched},
    subject::Subject,
    time::Span,
};
use jiff::tz::TimeZone;
use std::{collections::BTreeMap, fmt::Display};

/// Changed factors that are shown in one line.
const DRIFT_SHOWN: usize = 4;

/// Names of runs by id.
pub type Names = BTreeMap<String, String>;

/// The line: time, index, kind, run, what happened.
pub fn line(entry: &Logged, names: &Names, zone: &TimeZone, paint: Paint) -> String {
    let run = match &entry.run {
        Some(id) => names.get(id).cloned().unwrap_or_else(|| short(id)),
        None => "-".to_owned(),
    };
    let what = summary(entry);
    let what = match weight(entry) {
        Weight::Bad => paint.bad(&what),
        Weight::Warn => paint.warn(&what),
        Weight::Plain => what,
    };
    let when = time::wall(i128::from(entry.wall_ns), zone);
    format!("{}  {:>5}  {:<9} {:<16} {what}\n", paint.dim(&when), entry.index, entry.kind, clean(&run))
}

/// What the entry says, in one line.
pub fn summary(entry: &Logged) -> String {
    match &entry.body {
        Body::Known(record) => record_summary(record),
        Body::Other(body) => other(&entry.kind, body),
    }
}

fn record_summary(record: &Record) -> String {
    match record {
        Record::Nvml { seen, blind } => match (seen, blind) {
            (Some(seen), _) => format!("NVML sees: {seen}"),
            (None, why) => format!("NVML is blind: {}", why.as_deref().unwrap_or("no reason given")),
        },
        Record::DaemonStarted { version, kernel, blind } => {
            let blind = if blind.is_empty() { String::new() } else { format!("; blind: {}", blind.join("; ")) };
            format!("failsafed {version} started on kernel {kernel}{blind}")
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
        Record::Egress { name, account, .. } => format!("{name}: {}", super::egress::brief(account)),
        Record::Statement { name, at, digest, bytes, problem, .. } => match (digest, problem) {
            (Some(digest), _) => format!("{name}: statement of its {} stored: {digest}, {bytes} bytes", at.name()),
            (None, why) => {
                let why = why.as_deref().unwrap_or("not known");
                format!("{name}: there is NO statement of its {}: {why}", at.name())
            }
        },
        Record::Drill(drill) => drilled(drill),
        Record::Canary { name, stage, candidate_name, terms, seen, actor, reason, .. } => {
            super::canary::recorded((name, candidate_name, *stage), (terms, seen), (actor, reason))
        }
        Record::Shadow { name, policy_name, actor, ended, .. } => {
            super::shadow::recorded(name, policy_name, actor, ended)
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
pub fn factor_change(change: &FactorChange) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "absent".to_owned());
    format!("{} {} -> {} [{}]", change.path, value(&change.old), value(&change.new), change.class.name())
}

/// Between which times a run ended that no daemon watched, and what shows that.
fn unwatched_text(between: &Unwatched) -> String {
    let time = match between.last_seen_ns {
        Some(seen) => {
            let span = u64::try_from(between.noticed_ns.saturating_sub(seen)).unwrap_or_default();
            format!("within the {} before, after it was last seen alive", Span(span))
        }
        None => "at a time that is not known".to_owned(),
    };
    format!(" while no daemon watched, {time}: {}", between.found)
}

/// The command's verb.
pub fn command(command: Command) -> &'static str {
    match command {
        Command::Freeze => "freeze",
        Command::Thaw => "thaw",
        Command::Kill => "kill",
    }
}

/// Actions in order, as one text.
pub fn actions(actions: &[Action]) -> String {
    actions.iter().map(Action::to_string).collect::<Vec<_>>().join(", ")
}

fn decided(decision: &Decision) -> String {
    let would = if decision.mode == Mode::Observe { "would (observe only): " } else { "" };
    let incident = decision.incident;
    format!("{incident} {would}{} because {}", actions(&decision.actions), because(decision))
}

/// The cause of a decision, with the values seen.
pub fn because(decision: &Decision) -> String {
    let saw: Vec<String> = decision.values.iter().map(seen).collect();
    let saw = if saw.is_empty() { String::new() } else { format!("; saw {}", saw.join(", ")) };
    match &decision.cause {
        Cause::Rule { rule, condition, suppressed } => {
            let again = if *suppressed > 0 { format!(" (and {suppressed} times before)") } else { String::new() };
            format!("of rule {rule}: {condition}{saw}{again}")
        }
        Cause::Operator(request) => format!("{} asked: {}", actors::requester(request), request.reason),
        Cause::Upkeep { what } => format!("{}{saw}", upkeep(*what)),
    }
}

/// What an upkeep of failsafe's means.
pub fn upkeep(what: Upkeep) -> &'static str {
    match what {
        Upkeep::Escape => "a process left the run's cgroup",
        Upkeep::Latched => "a stop rule latched the run in the kernel, and the event of it was lost",
        Upkeep::ForeignThaw => "somebody else thawed the contained run",
        Upkeep::FoundFrozen => "the run was found frozen at the daemon's start, for no recorded reason",
        Upkeep::Blind => "a sensor that the policy needs went blind",
        Upkeep::Retry => "an action failed and is tried again",
        Upkeep::Drift => "the run differs from the one that it continues, and its policy holds such a run",
    }
}

/// A value with whom it speaks of.
pub fn seen(seen: &Observation) -> String {
    let value = seen.show();
    match (&seen.subject, seen.event()) {
        (Subject::Process { process, .. }, Some(_)) => format!("{value} by pid {} ({})", process.pid, process.comm),
        (Subject::Run(_), Some(_)) => value,
        (subject, Some(_)) => format!("{value} on {subject}"),
        (Subject::Run(_), None) => format!("{} = {value}", seen.kind),
        (subject, None) => format!("{} = {value} on {subject}", seen.kind),
    }
}

fn came_of(outcome: &Outcome) -> String {
    let after = format!(" after {}", outcome.took);
    result(outcome.action, &after, &outcome.verdict, &outcome.proofs)
}

fn result(action: impl Display, after: &str, verdict: &Verdict, proofs: &[Proof]) -> String {
    let facts: Vec<String> = proofs.iter().map(|p| format!("{}: {}", p.fact, p.seen)).collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join("; ")) };
    match verdict {
        Verdict::Proved => format!("{action} proved{after}{facts}"),
        Verdict::Partial(missing) => format!("{action} PARTIAL{after}, not proved: {}{facts}", missing.join("; ")),
        Verdict::Failed(why) => format!("{action} FAILED{after}: {why}{facts}"),
    }
}

fn health_text(change: &Change) -> String {
    if let Some(event) = change.event {
        let happened = super::health::event(event.what.name(), event.times);
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
    // One that is not blind says by itself what was lost, or that the sensor has data again.
    let state = if gap.blind { " is blind" } else { "" };
    format!("sensor {}{state}{whom}: {}{lost}", gap.source, gap.what)
}

/// The journal's own entries, and those of a version that this one does not know.
fn other(kind: &str, body: &serde_json::Value) -> String {
    let text = |name: &str| match &body[name] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match (kind, body["cause"].as_str()) {
        ("recovered", _) => {
            format!("a torn tail of {} bytes was cut off the log: {}", text("dropped_bytes"), text("why"))
        }
        ("gap", Some("overflow")) => format!("{} entries were dropped: the disk was too slow", text("dropped")),
        ("gap", Some("storage")) => {
            format!("the log's disk failed {} times ({}); nothing was lost", text("failed_commits"), text("error"))
        }
        ("gap", Some("integrity" | "clock")) => text("what"),
        ("segment", _) if body["sealed"].is_object() => {
            let sealed = &body["sealed"];
            format!("sealed the segment of {} entries from entry {} on", sealed["entries"], sealed["first"])
        }
        _ => body.to_string().chars().take(200).collect(),
    }
}

enum Weight {
    Bad,
    Warn,
    Plain,
}

fn weight(entry: &Logged) -> Weight {
    match entry.record() {
        Some(Record::Decision { decision, .. }) if decision.mode == Mode::Enforce => match decision.severity {
            Severity::Critical => Weight::Bad,
            Severity::Warning => Weight::Warn,
            Severity::Info => Weight::Plain,
        },
        Some(Record::Outcome(outcome)) => match outcome.verdict {
            Verdict::Proved => Weight::Plain,
            Verdict::Partial(_) | Verdict::Failed(_) => Weight::Bad,
        },
        Some(Record::Gap(gap)) if gap.blind => Weight::Warn,
        Some(Record::Drift { .. } | Record::Statement { digest: None, .. }) => Weight::Warn,
        Some(Record::Drill(drill)) => match drill.result {
            Finding::Proved => Weight::Plain,
            Finding::Unproved | Finding::NotDone => Weight::Warn,
            Finding::Failed => Weight::Bad,
        },
        Some(Record::Health(change)) => match change.to {
            Level::Healthy => Weight::Plain,
            Level::Unhealthy => Weight::Bad,
            Level::Degraded | Level::Unknown | Level::Draining => Weight::Warn,
        },
        Some(Record::PolicyRefused { .. } | Record::GpuReset { done: Some(false), .. }) => Weight::Warn,
        Some(Record::RunStarted { broken, repair, .. }) if !broken.is_empty() || !repair.is_empty() => Weight::Warn,
        None if matches!(entry.kind.as_str(), "gap" | "recovered") => Weight::Warn,
        _ => Weight::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{RUN, contained, control, digest, gap, outcome, root, violation};
    use failsafe_core::{
        Actor, Kind, MonoTime, Value,
        drill::Step,
        event::{Access, Assurance, Event, ExecKind, Gain, GpuEvent, MemoryKind, NetOp, Verdict as Did},
        health::{Happened, Order, Target},
        policy::PolicyDigest,
        shadow::Summary,
        subject::Process,
    };
    use serde_json::json;

    /// What a rule saw stands in one line, whatever the run named its files.
    #[test]
    fn every_event_that_a_rule_saw_is_one_line() {
        let (verdict, assurance) = (Did::Denied, Assurance::BlockedInKernel);
        let address = "2001:db8::9".parse().unwrap();
        let net = |op, family| Event::Net { op, protocol: 6, address, port: 22, family, verdict, assurance };
        let path = || "/tmp/a\n\u{1b}[2J".to_owned();
        let events = [
            Event::Exec {
                path: path(),
                known_as: vec![path()],
                argv: "a b".into(),
                kind: ExecKind::Memfd,
                verdict,
                assurance,
            },
            Event::Fork { child: 0, verdict: Did::WouldDeny },
            Event::Open {
                path: path(),
                known_as: Vec::new(),
                access: Access::Write,
                verdict: Did::WouldDeny,
                assurance: Assurance::ObservedUnreliable,
            },
            net(NetOp::Listen, 10),
            net(NetOp::Socket, 17),
            Event::Privilege { gain: Gain::Userns, verdict, assurance },
            Event::ExecMemory { kind: MemoryKind::Anonymous, verdict, assurance },
            Event::Protect { what: "pins".into(), verdict, assurance },
            Event::Budget { budget: "store".into(), address, bytes: 268_435_456, verdict },
            Event::Dns { name: "a.example.org".into(), address },
        ];
        let mut log = crate::testing::Log::started();
        for (n, event) in (1u32..).zip(events) {
            let process = Process { pid: 42, ppid: 1, uid: 1000, start_ns: 9, comm: "py".into() };
            let subject = Subject::Process { run: crate::testing::run_id(), process };
            let condition = format!("event {}", event.kind().name());
            let seen = Observation {
                seq: 1,
                at: MonoTime(0),
                subject,
                kind: Kind::Event,
                value: Value::Event(event),
                repeats: 0,
            };
            let cause = Cause::Rule { rule: "r".into(), condition, suppressed: 0 };
            let decision = crate::testing::decision(n, u64::from(n), cause, vec![Action::Notify], vec![seen]);
            log.add(u64::from(n), decision);
        }
        let text: String = log.entries.iter().map(|e| line(e, &Names::new(), &TimeZone::UTC, Paint::plain())).collect();
        assert_eq!(text.lines().count(), log.entries.len());
        insta::assert_snapshot!(text);
    }

    #[test]
    fn every_kind_of_entry_is_one_line() {
        let mut log = contained();
        let partial = Verdict::Partial(vec!["pid 7 (D state)".into()]);
        let daemon = Record::DaemonStarted {
            version: "0.1.0".into(),
            kernel: "6.18".into(),
            blind: vec!["ebpf: no BTF".into()],
        };
        let target = Target::Gpu(failsafe_core::GpuId("GPU-5a".into()));
        let (by, why) = ("user 0 (admin)".to_owned(), "fan replaced".to_owned());
        let actor = Some(root());
        let cordon = Order { kind: OrderKind::Cordon, target: target.clone(), by, actor: actor.clone(), why };
        let change = Change {
            revision: 3,
            target,
            from: Level::Healthy,
            to: Level::Draining,
            added: vec![],
            removed: vec!["blind".into()],
            by: Some("user 0 (admin): fan replaced".into()),
            actor,
            event: None,
            at_ns: 0,
        };
        let drill = Drill {
            run: None,
            name: "failsafe-drill-1".into(),
            result: Finding::Proved,
            stopped_in: Some(Span(812_000)),
            steps: Vec::new(),
            failed: None,
            problem: Some("its process runs\n".into()),
            began_ns: 0,
            took: Span::from_millis(431),
            actor: Actor::Schedule { name: "drill".into() },
            reason: "it is due".into(),
        };
        let found = Summary { inputs: 90, same: 3, only_shadow: 1, ..Summary::default() };
        let shadow = |ended| Record::Shadow {
            run: RUN.parse().unwrap(),
            name: "trainer".into(),
            policy: digest(),
            policy_name: "next v2".into(),
            actor: Actor::Daemon,
            ended,
        };
        let event = Some(Happened { what: GpuEvent::MigConfig, times: 2 });
        let happened = Change { event, by: None, actor: None, removed: vec![], to: Level::Healthy, ..change.clone() };
        log.add(6_000_000, outcome(1, 6_000_000, Action::Kill, partial, &[("populated", "1")]))
            .add(6_100_000, control(6_100_000, 44, Command::Thaw, "false\nalarm"))
            .add(6_200_000, gap(true))
            .add(6_300_000, gap(false))
            .add(6_400_000, daemon)
            .add(6_450_000, Record::Nvml { seen: None, blind: Some("no library".into()) })
            .add(6_460_000, Record::Nvml { seen: Some("simulated (driver 575)".into()), blind: None })
            .add(6_500_000, Record::DaemonStopped)
            .add(
                6_600_000,
                Record::PolicyRefused { policy: PolicyDigest([1; 32]), why: "ebpf is blind".into(), actor: None },
            )
            .add(
                6_700_000,
                Record::RunEnded {
                    run: crate::testing::run_id(),
                    name: "trainer".into(),
                    recording: None,
                    suppressed: Vec::new(),
                    unwatched: None,
                    frozen_ns: None,
                },
            )
            .add(6_710_000, Record::Order(cordon))
            .add(6_720_000, Record::Health(change))
            .add(6_730_000, Record::Health(happened))
            .add(6_735_000, shadow(None))
            .add(6_736_000, shadow(Some(Summary { why: "the run has ended".into(), dropped: 4, ..found })))
            .add(6_740_000, Record::Drill(drill.clone()))
            .add(6_750_000, Record::Drill(Drill { result: Finding::Failed, failed: Some(Step::Still), ..drill }))
            .raw(6_800_000, "recovered", json!({ "dropped_bytes": 77, "why": "checksum mismatch" }))
            .raw(6_900_000, "gap", json!({ "cause": "overflow", "dropped": 9 }))
            .raw(7_000_000, "gap", json!({ "cause": "storage", "failed_commits": 3, "error": "no space" }))
            .raw(7_100_000, "from-the-future", json!({ "x": "\u{1b}[1m" }));
        let names = [(RUN.to_owned(), "trainer".to_owned())].into();
        let text: String = log.entries.iter().map(|e| line(e, &names, &TimeZone::UTC, Paint::plain())).collect();
        assert_eq!(text.lines().count(), log.entries.len());
        insta::assert_snapshot!(text);
    }

    #[test]
    fn entries_of_earlier_versions_with_uid_and_pid_are_shown_as_before() {
        let mut log = contained();
        let control = json!({ "type": "control", "seq": 44, "at": 6_100_000_000u64, "run": RUN, "command": "thaw",
            "uid": 1000, "pid": 99, "role": "owner", "reason": "false alarm" });
        let refused = json!({ "type": "policy-refused", "policy": digest(), "why": "ebpf is blind", "uid": 1000 });
        let mut decided = serde_json::to_value(violation()).unwrap();
        decided["decision"]["cause"] =
            json!({ "Operator": { "uid": 0, "pid": 99, "role": "admin", "reason": "drill" } });
        let order =
            json!({ "type": "order", "kind": "cordon", "target": "node", "by": "user 0 (admin)", "why": "fan" });
        log.raw(6_100_000, "control", control).raw(6_200_000, "policy", refused);
        log.raw(6_300_000, "decision", decided).raw(6_400_000, "order", order);
        let shown: Vec<String> = log.entries[log.entries.len() - 4..].iter().map(summary).collect();
        assert_eq!(shown[0], "user 1000 (owner, pid 99) requested thaw: false alarm");
        assert_eq!(shown[1], "policy abababababab of user 1000 refused: ebpf is blind");
        assert!(shown[2].contains("because user 0 (root, admin) asked: drill"), "{}", shown[2]);
        assert_eq!(shown[3], "user 0 (admin) cordons node: fan");
    }

    #[test]
    fn an_end_that_no_daemon_watched_is_no_end_at_the_restart() {
        let found = "its cgroup is gone; in the 5 s since a daemon last looked: 3 network calls refused".to_owned();
        let text =
            unwatched_text(&Unwatched { last_seen_ns: Some(1), noticed_ns: 5_000_000_001, found: found.clone() });
        assert!(text.contains("within the 5.0 s before") && text.ends_with(&found), "{text}");
        let text = unwatched_text(&Unwatched { last_seen_ns: None, noticed_ns: 5, found });
        assert!(text.contains("at a time that is not known"), "{text}");
    }
}

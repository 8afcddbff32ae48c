//! Runs, and what came of a command on one, for people.

use super::{Paint, count, json, table, time, users};
use crate::text::short;
use failsafe_core::{signal::Real, time::Span, unit::Unit};
use failsafe_proto::v1 as pb;
use jiff::tz::TimeZone;
use std::fmt::Write;

/// What `describe` says of a run that stands still though failsafe did not freeze it.
const SUSPENDED: &str = ", suspended: its processes are stopped, or somebody else froze its cgroup; failsafe did not";

/// Whether the run is to be frozen, proved or not.
fn is_freeze_desired(run: &pb::Run) -> bool {
    run.containment.iter().any(|step| step.desired && step.measure == "freeze")
}

/// Why a run is guarded, with what holds of its freeze.
fn guarded(run: &pb::Run) -> String {
    match run.state() {
        pb::RunState::Guarded if run.guarded_frozen => format!("FROZEN; {}", run.guarded),
        pb::RunState::Guarded if is_freeze_desired(run) => {
            format!("PARTLY FROZEN: not all processes stand still; {}", run.guarded)
        }
        _ => run.guarded.clone(),
    }
}

/// What is done with what is decided; empty where it is carried out.
fn mode(run: &pb::Run) -> String {
    match run.observed {
        true => "observe: recorded only, nothing is refused".to_owned(),
        false => run.mode_behind.clone(),
    }
}

/// The state of a run in one word, with what is to be known of it.
fn state(r: &pb::Run) -> String {
    let blocked = if r.blocked && r.state() != pb::RunState::Ended { "+blocked" } else { "" };
    let frozen = match r.state() {
        pb::RunState::Guarded if r.guarded_frozen => "+frozen",
        pb::RunState::Guarded if is_freeze_desired(r) => "+partial",
        _ => "",
    };
    let failing = if r.containment_error.is_empty() { "" } else { "+failing" };
    let unenforced = if r.unenforced { "+unenforced" } else { "" };
    let mode = match (r.observed, r.not_bounded, r.mode_behind.is_empty()) {
        (true, ..) => "+observed",
        (_, true, _) => "+kernel-observes",
        (_, false, false) => "+kernel-enforces",
        (_, false, true) => "",
    };
    let suspended = if r.suspended { "+suspended" } else { "" };
    format!("{}{frozen}{blocked}{suspended}{failing}{unenforced}{mode}", json::state(r.state()))
}

/// A line of `list --watch`.
pub fn change(change: &pb::WatchRunsResponse, paint: Paint) -> String {
    let Some(run) = &change.run else {
        return super::incident::at((change.revision, change.missed), true, "list --all", paint);
    };
    let what = json::run_change_word(change.change());
    let parts = [&short(&run.id), &run.name, &state(run), &run.policy_name, &run.incident];
    // Of a run that is not listed any more nothing else is known.
    let known = if change.change() == pb::RunChange::Removed { 2 } else { parts.len() };
    let parts: Vec<String> = parts[..known].iter().filter(|it| !it.is_empty()).map(|it| super::clean(it)).collect();
    format!("{}  {what:<9}  {}\n", paint.dim(&change.revision.to_string()), parts.join("  "))
}

/// The table of `list`.
pub fn list(runs: &[pb::Run], wide: bool, now: i64) -> String {
    let age = |r: &pb::Run| {
        let until = |end: i64| time::ago(r.registered_ns, end);
        match (r.ended_ns, r.ended_after_ns, r.ended_before_ns) {
            (0, 0, 0) => until(now),
            (0, 0, before) => format!("up to {}", until(before)),
            (0, after, before) => format!("{} to {}", until(after), until(before)),
            (ended, ..) => until(ended),
        }
    };
    if wide {
        let heads = [
            "NAME", "ID", "STATE", "USER", "POLICY", "DIGEST", "PROCS", "MEMORY", "CPU", "EGRESS", "INGRESS", "EVENTS",
            "LOST", "GPUS", "AGE", "INCIDENT", "CGROUP",
        ];
        return table::table(
            heads,
            runs.iter().map(|r| {
                [
                    r.name.clone(),
                    r.id.clone(),
                    state(r),
                    users::shown(r.owner_uid),
                    r.policy_name.clone(),
                    r.policy_digest.chars().take(19).collect(),
                    r.processes.to_string(),
                    memory(r),
                    cpu(r),
                    traffic(r, r.egress_bytes),
                    traffic(r, r.ingress_bytes),
                    r.events.to_string(),
                    r.events_lost.to_string(),
                    r.gpus.join(","),
                    age(r),
                    r.incident.clone(),
                    r.cgroup.clone(),
                ]
            }),
        );
    }
    table::table(
        ["NAME", "ID", "STATE", "POLICY", "PROCS", "MEMORY", "AGE", "INCIDENT"],
        runs.iter().map(|r| {
            [
                r.name.clone(),
                short(&r.id),
                state(r),
                r.policy_name.clone(),
                r.processes.to_string(),
                memory(r),
                age(r),
                r.incident.clone(),
            ]
        }),
    )
}

/// Its GPUs, with how they were found where it did not declare them. The process was seen once: it may have ended.
fn gpus(run: &pb::Run) -> String {
    let one = |gpu: &String| {
        let found = run.found_gpus.iter().find(|found| found.gpu == *gpu);
        match found.map(|found| (found.by(), found.pid)) {
            Some((pb::GpuBy::Process, pid)) => format!("{gpu} (used, first seen: pid {pid})"),
            Some((pb::GpuBy::Open, pid)) => format!("{gpu} (open, first seen: pid {pid})"),
            Some((pb::GpuBy::Unspecified, _)) | None => gpu.clone(),
        }
    };
    run.gpus.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What the environment of a process says, which the run chooses.
fn claimed(run: &pb::Run) -> String {
    let Some(claimed) = &run.claimed_gpus else { return String::new() };
    let gpus = if claimed.gpus.is_empty() { "which GPUs is not known".to_owned() } else { claimed.gpus.join(", ") };
    format!("{}={} of pid {}: {gpus}", claimed.variable, claimed.value, claimed.pid)
}

/// For how long the run was frozen; empty for one that never was.
fn frozen_for(run: &pb::Run) -> String {
    match run.frozen_ms {
        Some(0) => String::new(),
        Some(ms) => Span::from_millis(ms).to_string(),
        None if run.state() == pb::RunState::Ended => "not known".to_owned(),
        None => String::new(),
    }
}

/// A value that is measured while the run lives. Nobody keeps it.
fn measured(run: &pb::Run, shown: String) -> String {
    if run.state() == pb::RunState::Ended { "-".to_owned() } else { shown }
}

fn memory(run: &pb::Run) -> String {
    measured(run, table::bytes(run.memory_bytes))
}

fn cpu(run: &pb::Run) -> String {
    measured(run, Unit::Microseconds.show(i64::try_from(run.cpu_us).unwrap_or(i64::MAX)))
}

/// Bytes that the kernel counted; of an ended run only if they were recorded at its end.
fn traffic(run: &pb::Run, bytes: u64) -> String {
    if run.kernel.is_some() { table::bytes(bytes) } else { measured(run, table::bytes(bytes)) }
}

fn refused(counts: &pb::KernelCounts) -> String {
    counted(&[
        (counts.denied_calls, "network call", "network calls"),
        (counts.denied_ops, "operation", "operations"),
        (counts.dropped_packets, "packet", "packets"),
        (counts.budget_drops, "packet beyond a budget", "packets beyond a budget"),
    ])
}

fn counted(all: &[(u64, &str, &str)]) -> String {
    let some = all.iter().filter(|(n, ..)| *n > 0);
    let words = some.map(|(n, one, many)| format!("{n} {}", if *n == 1 { one } else { many }));
    words.collect::<Vec<_>>().join(", ")
}

fn not_noted(untracked: u64) -> String {
    if untracked == 0 {
        String::new()
    } else {
        format!("{untracked} PROCESSES NOT TRACKED (it would not be noticed if they left the run)")
    }
}

/// When the run ended; where no daemon watched that, between which times.
fn ended(run: &pb::Run, zone: &TimeZone) -> String {
    let wall = |ns: i64| time::wall(i128::from(ns), zone);
    match (run.ended_ns, run.ended_after_ns, run.ended_before_ns) {
        (0, 0, 0) => String::new(),
        (0, 0, before) => format!("before {}; no daemon watched the end", wall(before)),
        (0, after, before) => format!("between {} and {}; no daemon watched the end", wall(after), wall(before)),
        (ended, ..) => wall(ended),
    }
}

/// The facts of one run; `ended_by` is empty unless it ended.
pub fn describe(run: &pb::Run, ended_by: String, zone: &TimeZone, now: i64) -> String {
    let mut labels: Vec<String> = run.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    labels.sort();
    let ended = ended(run, zone);
    let lost = if run.events_lost > 0 { format!(", {} LOST", run.events_lost) } else { String::new() };
    let counts = run.kernel.unwrap_or_default();
    let via = match run.syscalls_via.as_str() {
        "" => "no watched system calls".to_owned(),
        "sys_enter" => "sys_enter (slows every process of this host)".to_owned(),
        via => via.to_owned(),
    };
    let mut page = table::pairs(
        "",
        [
            ("name", run.name.clone()),
            ("id", run.id.clone()),
            ("state", json::state(run.state()).to_owned() + if run.suspended { SUSPENDED } else { "" }),
            ("guarded", guarded(run)),
            ("mode", mode(run)),
            ("containment error", run.containment_error.clone()),
            ("egress", if run.blocked { "blocked in the kernel".to_owned() } else { String::new() }),
            ("incident", run.incident.clone()),
            ("policy", format!("{} {}", run.policy_name, run.policy_digest)),
            ("decisions", run.decisions.to_string()),
            ("user", users::shown(run.owner_uid)),
            ("labels", labels.join(", ")),
            ("cgroup", format!("{} (id {})", run.cgroup, run.cgroup_id)),
            ("GPUs", gpus(run)),
            ("GPUs claimed", claimed(run)),
            ("MIG devices", run.mig_devices.join(", ")),
            (
                "registered",
                format!(
                    "{} ({} ago)",
                    time::wall(i128::from(run.registered_ns), zone),
                    time::ago(run.registered_ns, now)
                ),
            ),
            ("ended", ended),
            ("ended by", ended_by),
            ("not verified", run.unverified.clone()),
            ("frozen for", frozen_for(run)),
            ("processes", run.processes.to_string()),
            ("memory", memory(run)),
            ("CPU time", cpu(run)),
            ("sent", traffic(run, run.egress_bytes)),
            ("received", traffic(run, run.ingress_bytes)),
            ("events", format!("{}{lost}", run.events)),
            ("refused", refused(&counts)),
            ("watched", counted(&[(counts.observed_ops, "operation", "operations")])),
            ("not noted", not_noted(counts.untracked)),
            ("calls via", via),
        ],
    );
    for step in &run.containment {
        let _ = writeln!(page, "{}", contained(step, zone));
    }
    let lists = [
        ("NOT ENFORCED", &run.not_enforced),
        ("blind", &run.blind_rules),
        ("unknown", &run.unknown_rules),
        ("disarmed", &run.disarmed_rules),
        ("warning", &run.warnings),
    ];
    for (title, rules) in lists {
        for rule in rules {
            let _ = writeln!(page, "{title}: {}", super::clean(rule));
        }
    }
    if !run.gpu_use.is_empty() {
        page.push('\n');
        page.push_str(&gpu_use(&run.gpu_use));
    }
    page.push_str(&metrics(run));
    page
}

/// The last values of the metrics that the run reported.
fn metrics(run: &pb::Run) -> String {
    if run.metrics_unknown {
        return "metrics: not known: failsafed was too busy to look; try again\n".to_owned();
    }
    if run.metrics.is_empty() {
        return String::new();
    }
    let rows = run.metrics.iter().map(|metric| {
        let rank = match (metric.rank.as_str(), metric.pid) {
            ("", 0) => "-".to_owned(),
            ("", pid) => format!("pid {pid}"),
            (rank, _) => super::clean(rank),
        };
        let step = metric.step.map_or("-".to_owned(), |step| step.to_string());
        let age = Span(metric.age_ns).to_string();
        [super::clean(&metric.name), Real(metric.value).to_string(), step, rank, age]
    });
    let mut out = format!("\n{}", table::table(["METRIC", "LAST VALUE", "STEP", "RANK", "AGE"], rows));
    if run.metrics_left_out > 0 {
        let _ = writeln!(out, "and {} more", run.metrics_left_out);
    }
    out
}

/// A step of the containment: since when, by whom, and what is proved.
fn contained(step: &pb::ContainmentStep, zone: &TimeZone) -> String {
    let at = |ns: i64| if ns == 0 { String::new() } else { format!(" {}", time::wall(i128::from(ns), zone)) };
    let since = if step.since_ns == 0 { String::new() } else { format!(" since{}", at(step.since_ns)) };
    let by = step.actor.as_ref().and_then(super::actors::of_message).map(|actor| super::actors::named(&actor));
    let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
    let decision = step.decision.map(|n| format!(" (decision {n})")).unwrap_or_default();
    let lifted = if step.desired { "" } else { ", lifted by a thaw that is not proved yet" };
    let missing: Vec<String> = step.missing.iter().map(|missing| super::clean(missing)).collect();
    let result = match step.verdict() {
        pb::Verdict::Proved => format!("proved{}", at(step.at_ns)),
        pb::Verdict::Partial => format!("PARTIAL{}: {}", at(step.at_ns), missing.join("; ")),
        pb::Verdict::Failed => format!("FAILED{}: {}", at(step.at_ns), missing.join("; ")),
        pb::Verdict::Pending | pb::Verdict::DryRun | pb::Verdict::Unspecified => "not proved yet".to_owned(),
    };
    format!("contained: {}{since}{by}{decision}{lifted}: {result}", super::clean(&step.measure))
}

/// What a run made of its GPUs.
fn gpu_use(used: &[pb::GpuUse]) -> String {
    let show = |unit: Unit, value: Option<u64>| {
        value.map_or_else(|| "unknown".to_owned(), |value| unit.show(i64::try_from(value).unwrap_or(i64::MAX)))
    };
    table::table(
        ["GPU", "UTILIZATION", "MEMORY", "GPU TIME", "ENERGY", "SHARED"],
        used.iter().map(|it| {
            [
                it.gpu.clone(),
                it.utilization_mpct.map_or("-".into(), |part| Unit::MilliPercent.show(i64::from(part))),
                table::bytes(it.memory_bytes),
                show(Unit::Microseconds, it.time_us),
                show(Unit::Millijoules, it.energy_mj),
                json::sharing(it.sharing()).to_owned(),
            ]
        }),
    )
}

/// What is to be known of an answer that was given before.
fn repeated(answer: &pb::ControlResponse, zone: &TimeZone) -> String {
    if answer.repeated_from_ns == 0 {
        return String::new();
    }
    let at = time::wall(i128::from(answer.repeated_from_ns), zone);
    format!(
        "  repeated: this command was first sent at {at} and is not carried out again. Its result is shown here; the state of the \
         run now: failsafectl list\n"
    )
}

/// What came of a control command; `done` is the verb's participle.
pub fn control(answer: &pb::ControlResponse, run: &str, done: &str, (paint, zone): (Paint, &TimeZone)) -> String {
    let took = failsafe_core::time::Span(answer.took_ns);
    let incident = if answer.incident.is_empty() { String::new() } else { format!(" ({})", answer.incident) };
    let repeated = repeated(answer, zone);
    if answer.nothing_to_do {
        return format!(
            "{run}: was neither frozen nor blocked; nothing to do. If it stands still (+suspended in list), continue it where it was \
             stopped, for example with `scontrol resume` or SIGCONT\n{repeated}"
        );
    }
    let mut out = match answer.verdict() {
        pb::Verdict::Proved => format!("{run}{incident}: {done}, {} in {took}\n", paint.good("proved")),
        pb::Verdict::Partial => format!("{run}{incident}: {} after {took}\n", paint.bad("PARTIAL")),
        pb::Verdict::Failed => format!("{run}{incident}: {}\n", paint.bad("FAILED")),
        pb::Verdict::Pending => {
            format!("{run}{incident}: {}; the action goes on\n", paint.warn("no outcome within the timeout"))
        }
        pb::Verdict::DryRun => format!("dry run: {run} would be {done}; nothing was touched\n"),
        pb::Verdict::Unspecified => format!("{run}{incident}: the daemon gave no verdict\n"),
    };
    out += &repeated;
    let mut list = |title: &str, lines: &[String]| {
        for line in lines {
            let _ = writeln!(out, "  {title}: {}", super::clean(line));
        }
    };
    list("not proved", &answer.missing);
    list("read back", &answer.proofs);
    if answer.verdict() == pb::Verdict::DryRun {
        if !answer.stands.is_empty() {
            let _ = writeln!(out, "  now: {}", super::clean(&answer.stands));
        }
        let _ = writeln!(
            out,
            "  {}, {}, {}",
            count(answer.processes.len(), "process", "processes"),
            count(answer.cgroups.len(), "cgroup", "cgroups"),
            count(answer.gpus.len(), "GPU", "GPUs")
        );
    }
    for p in &answer.processes {
        let argv = if p.argv.is_empty() { String::new() } else { format!(": {}", super::clean(&p.argv)) };
        let _ = writeln!(out, "  pid {} {} {}{argv}", p.pid, super::clean(&p.comm), p.state);
    }
    let mut list = |title: &str, lines: &[String]| {
        for line in lines {
            let _ = writeln!(out, "  {title} {}", super::clean(line));
        }
    };
    list("cgroup", &answer.cgroups);
    list("GPU", &answer.gpus);
    list("does not reach:", &answer.known_leaks);
    if !answer.incident.is_empty() && answer.verdict() != pb::Verdict::Proved {
        let _ = writeln!(out, "  failsafectl explain {}", answer.incident);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    fn ended_run(after: i64, before: i64) -> pb::Run {
        pb::Run {
            name: "job".into(),
            state: pb::RunState::Ended as i32,
            registered_ns: HOUR,
            ended_after_ns: after,
            ended_before_ns: before,
            unverified: "the audit log has no record of its end".into(),
            ..pb::Run::default()
        }
    }

    #[test]
    fn an_end_that_no_daemon_watched_is_shown_as_two_times() {
        let (run, never) = (ended_run(2 * HOUR, 4 * HOUR), ended_run(0, 4 * HOUR));
        let page = describe(&run, String::new(), &TimeZone::UTC, 9 * HOUR);
        let ended = page.lines().find(|line| line.starts_with("ended ")).unwrap();
        assert!(ended.contains("between 1970-01-01 02:00:00.000 and 1970-01-01 04:00:00.000"), "{ended}");
        assert!(page.contains("not verified") && page.contains("no record of its end"), "{page}");
        assert!(list(&[run], false, 9 * HOUR).contains("1h to 3h"));
        let page = describe(&never, String::new(), &TimeZone::UTC, 9 * HOUR);
        assert!(page.contains("before 1970-01-01 04:00:00.000; no daemon watched"), "{page}");
        assert!(list(&[never], false, 9 * HOUR).contains("up to 3h"));
    }

    #[test]
    fn a_containment_is_shown_with_since_when_by_whom_and_what_is_proved() {
        let local = pb::LocalPeer { uid: 0, pid: Some(7), ..Default::default() };
        let freeze = pb::ContainmentStep {
            measure: "freeze".into(),
            desired: true,
            since_ns: 2 * HOUR,
            decision: Some(3),
            actor: Some(pb::Actor { actor: Some(pb::actor::Actor::Local(local)) }),
            verdict: pb::Verdict::Partial as i32,
            missing: vec!["pid 7 in D".into()],
            at_ns: 3 * HOUR,
            ..Default::default()
        };
        let latch =
            pb::ContainmentStep { measure: "latch".into(), verdict: pb::Verdict::Pending as i32, ..Default::default() };
        let run = pb::Run { containment: vec![freeze, latch], ..ended_run(0, 0) };
        let page = describe(&run, String::new(), &TimeZone::UTC, 9 * HOUR);
        let freeze = "contained: freeze since 1970-01-01 02:00:00.000 by user 0 (root) (decision 3): PARTIAL 1970-01-01 \
                      03:00:00.000: pid 7 in D\n";
        assert!(page.contains(freeze), "{page}");
        let latch = "contained: latch, lifted by a thaw that is not proved yet: not proved yet\n";
        assert!(page.contains(latch), "{page}");
    }

    #[test]
    fn what_nobody_kept_of_an_ended_run_is_not_shown_as_zero() {
        let ended = pb::Run { ended_ns: 3 * HOUR, ..ended_run(0, 0) };
        let page = describe(&ended, String::new(), &TimeZone::UTC, 9 * HOUR);
        for name in ["memory", "CPU time", "sent", "received"] {
            let line = page.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
            assert!(line.ends_with(" -"), "{line}");
        }
        let counted = pb::Run { kernel: Some(pb::KernelCounts::default()), egress_bytes: 2_048, ..ended };
        let page = describe(&counted, String::new(), &TimeZone::UTC, 9 * HOUR);
        assert!(page.lines().any(|line| line.starts_with("sent ") && line.ends_with("2.0 KiB")), "{page}");
        assert!(list(&[counted], true, 9 * HOUR).contains("  -  "), "memory and CPU time");
    }

    #[test]
    fn a_watched_end_is_one_time() {
        let run = pb::Run { ended_ns: 3 * HOUR, ..ended_run(0, 0) };
        let page = describe(&run, String::new(), &TimeZone::UTC, 9 * HOUR);
        let ended = page.lines().find(|line| line.starts_with("ended ")).unwrap();
        assert!(ended.ends_with("1970-01-01 03:00:00.000"), "{ended}");
        assert!(list(&[run], false, 9 * HOUR).contains("2h "));
    }
}

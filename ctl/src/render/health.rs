//! Health of the node and its GPUs as text.

use super::{Paint, actors, clean, table, time};
use crate::exit::{Exit, Fail};
use failsafe_core::{klog::Bus, unit::Unit};
use failsafe_proto::v1 as pb;
use jiff::tz::TimeZone;
use std::fmt::Write;

/// The GPUs that are named by UUID, index, minor number, PCI address, or a MIG device of theirs; all where none is named.
///
/// # Errors
/// One is not this node's.
pub fn choose(health: &pb::HealthResponse, wanted: &[String]) -> Result<Vec<pb::PartHealth>, Fail> {
    if wanted.is_empty() {
        return Ok(health.gpus.clone());
    }
    let find = |wanted: &String| {
        let named = health.gpus.iter().find(|g| g.gpu == *wanted);
        let is_meant = |g: &&pb::PartHealth| match wanted.split_once(':') {
            Some(("minor", number)) => g.minor.is_some_and(|minor| minor.to_string() == number),
            Some(("pci", address)) => !g.pci.is_empty() && Bus::parse(&g.pci) == Bus::parse(address),
            _ if wanted.starts_with("MIG-") => g.mig_devices.contains(wanted),
            // A GPU without a place is known by its UUID only.
            _ => !(g.name.is_empty() && g.pci.is_empty()) && g.index.to_string() == *wanted,
        };
        let indexed: Vec<&pb::PartHealth> = health.gpus.iter().filter(is_meant).collect();
        if let (None, [first, second, ..]) = (named, &indexed[..]) {
            let message = format!("`{}` is {} and {}: name one", clean(wanted), clean(&first.gpu), clean(&second.gpu));
            return Err(Fail::new(Exit::Usage, message));
        }
        named.or(indexed.first().copied()).cloned().ok_or_else(|| {
            let known: Vec<String> = health.gpus.iter().map(|g| format!("{} ({})", g.index, g.gpu)).collect();
            let message = match known.as_slice() {
                [] => format!("this node has no GPUs, so none is `{}`; see `failsafectl gpu list`", clean(wanted)),
                known => format!("this node has no GPU `{}`: it has {}", clean(wanted), known.join(", ")),
            };
            Fail::new(Exit::NotFound, message)
        })
    };
    wanted.iter().map(find).collect()
}

/// The level that counts: the node's with all its GPUs, or what speaks against the node itself and the chosen GPUs.
pub fn level(health: &pb::HealthResponse, chosen: &[pb::PartHealth], only_chosen: bool) -> pb::HealthLevel {
    let Some(node) = &health.node else { return pb::HealthLevel::Unknown };
    if !only_chosen {
        return node.level();
    }
    let own = node.reasons.iter().map(pb::HealthReason::level);
    let worst = own.chain(chosen.iter().map(pb::PartHealth::level)).max_by_key(|level| *level as i32);
    match worst {
        Some(pb::HealthLevel::Unspecified) => pb::HealthLevel::Unknown,
        Some(level) => level,
        None => pb::HealthLevel::Unknown,
    }
}

/// The word for a level.
pub fn word(level: pb::HealthLevel) -> &'static str {
    match level {
        pb::HealthLevel::Healthy => "healthy",
        pb::HealthLevel::Degraded => "degraded",
        pb::HealthLevel::Draining => "draining",
        pb::HealthLevel::Unhealthy => "unhealthy",
        pb::HealthLevel::Unknown | pb::HealthLevel::Unspecified => "unknown",
    }
}

fn painted(level: pb::HealthLevel, paint: Paint) -> String {
    match level {
        pb::HealthLevel::Healthy => paint.good(word(level)),
        pb::HealthLevel::Degraded => paint.warn(word(level)),
        _ => paint.bad(word(level)),
    }
}

/// `node health`.
pub fn health(health: &pb::HealthResponse, chosen: &[pb::PartHealth], level: pb::HealthLevel, paint: Paint) -> String {
    let node = health.node.clone().unwrap_or_default();
    // slurmd shows the first line of a prolog's output only.
    let first = worst(&node, chosen).map(|reason| format!(": {reason}")).unwrap_or_default();
    let mut out = format!("{} (revision {}){first}\n", painted(level, paint), health.revision);
    reasons(&mut out, "node", &node, health.at_ns);
    for gpu in chosen.iter().filter(|gpu| gpu.level() != pb::HealthLevel::Healthy) {
        reasons(&mut out, &name(gpu), gpu, health.at_ns);
    }
    out
}

/// The worst reason, in a few words.
fn worst(node: &pb::PartHealth, chosen: &[pb::PartHealth]) -> Option<String> {
    let of_node = node.reasons.iter().map(|reason| ("node".to_owned(), reason));
    let of_gpus = chosen.iter().flat_map(|gpu| gpu.reasons.iter().map(|reason| (name(gpu), reason)));
    let (whom, reason) = of_node.chain(of_gpus).max_by_key(|(_, reason)| reason.level)?;
    Some(format!("{whom} [{}] {}", clean(&reason.code), clean(&reason.text)))
}

/// A GPU with its index, where it has one.
fn name(gpu: &pb::PartHealth) -> String {
    if gpu.name.is_empty() && gpu.pci.is_empty() {
        format!("GPU {}", clean(&gpu.gpu))
    } else {
        format!("GPU {} {}", gpu.index, clean(&gpu.gpu))
    }
}

fn reasons(out: &mut String, whom: &str, part: &pb::PartHealth, now: i64) {
    for reason in &part.reasons {
        let times = if reason.count > 1 { format!(", {} times", reason.count) } else { String::new() };
        let _ = writeln!(
            out,
            "  {whom}: {} [{}] {}; since {}{times}; advice: {}",
            word(reason.level()),
            clean(&reason.code),
            clean(&reason.text),
            time::ago(reason.since_ns, now),
            clean(&reason.advice)
        );
    }
}

/// A part after an order.
pub fn part(part: &pb::PartHealth, paint: Paint) -> String {
    let whom = if part.gpu.is_empty() { "node".to_owned() } else { name(part) };
    let mut out = format!("{whom} is {}\n", painted(part.level(), paint));
    for reason in &part.reasons {
        let _ = writeln!(out, "  [{}] {}", clean(&reason.code), clean(&reason.text));
    }
    out
}

/// `node capacity`.
pub fn capacity(c: &pb::CapacityResponse) -> String {
    table::pairs(
        "",
        [
            ("node", word(c.node()).to_owned()),
            ("GPUs", c.gpus.to_string()),
            ("free", c.free.to_string()),
            ("free, degraded", c.free_degraded.to_string()),
            ("held by runs", c.held.to_string()),
            ("drained", c.drained.to_string()),
            ("unhealthy", c.unhealthy.to_string()),
            ("unknown", c.unknown.to_string()),
            ("runs", c.runs.to_string()),
            ("MIG devices", if c.mig_devices > 0 { c.mig_devices.to_string() } else { String::new() }),
            ("MIG devices, free", if c.mig_devices > 0 { c.mig_free.to_string() } else { String::new() }),
        ],
    )
}

/// `node placeable`.
pub fn placeable(answer: &pb::PlaceableResponse) -> String {
    let mut out = match (answer.placeable, answer.gpus.is_empty()) {
        (true, true) => "yes\n".to_owned(),
        (true, false) => format!("yes, on {}\n", answer.gpus.join(", ")),
        (false, _) => "no\n".to_owned(),
    };
    for reason in &answer.reasons {
        let _ = writeln!(out, "  {}", clean(reason));
    }
    out
}

/// One change, one line.
pub fn change(change: &pb::HealthChange, zone: &TimeZone, paint: Paint) -> String {
    let mut what: Vec<String> = Vec::new();
    if change.missed {
        what.push("earlier changes are no longer available".to_owned());
    }
    if !change.event.is_empty() {
        what.push(event(&clean(&change.event), change.event_times));
    }
    what.extend(change.added.iter().map(|r| format!("+ [{}] {}", clean(&r.code), clean(&r.text))));
    what.extend(change.removed.iter().map(|code| format!("- [{}]", clean(code))));
    if !change.by.is_empty() {
        let actor = change.actor.as_ref().and_then(actors::of_message);
        what.push(format!("by {}", actors::with_name(&clean(&change.by), actor.as_ref())));
    }
    let whom = if change.gpu.is_empty() { "node".to_owned() } else { clean(&change.gpu) };
    let when = time::wall(i128::from(change.at_ns), zone);
    let (from, to) = (word(change.from()), painted(change.to(), paint));
    // Where something only happened, nothing came of it yet.
    let level = if change.event.is_empty() || change.from() != change.to() { format!("{from} -> {to}") } else { to };
    format!("{}  {:>5}  {whom}  {level}  {}\n", paint.dim(&when), change.revision, what.join("; "))
}

/// An event of a GPU, in words.
pub fn event(what: &str, times: u64) -> String {
    if times > 1 { format!("event {what}, {times} times") } else { format!("event {what}") }
}

/// `gpu list`.
pub fn gpus(status: &pb::StatusResponse, health: &pb::HealthResponse) -> String {
    let rows = health.gpus.iter().map(|part| {
        let seen = status.gpus.iter().find(|g| g.uuid == part.gpu).cloned().unwrap_or_default();
        let codes: Vec<String> = part.reasons.iter().map(|r| clean(&r.code)).collect();
        [
            part.index.to_string(),
            clean(&part.name),
            // Whole: it is what `gpu describe` and `--gpu` take.
            part.gpu.clone(),
            word(part.level()).to_owned(),
            Unit::MilliPercent.show(seen.utilization_mpct),
            Unit::MilliCelsius.show(seen.temperature_mc),
            Unit::Milliwatts.show(seen.power_mw),
            format!("{} / {}", Unit::Bytes.show(seen.memory_used), Unit::Bytes.show(seen.memory_total)),
            time::ago(seen.sampled_ns, status.at_ns),
            seen.runs.len().to_string(),
            codes.join(","),
        ]
    });
    table::table(
        ["GPU", "NAME", "UUID", "HEALTH", "BUSY", "TEMP", "POWER", "MEMORY", "SAMPLED", "RUNS", "REASONS"],
        rows,
    )
}

/// `gpu describe`.
pub fn gpu(part: &pb::PartHealth, seen: Option<&pb::Gpu>, now: i64, paint: Paint) -> String {
    let mut out = format!(
        "GPU {} {} {}\n{} since {}\n",
        part.index,
        clean(&part.name),
        clean(&part.gpu),
        painted(part.level(), paint),
        time::ago(part.since_ns, now)
    );
    reasons(&mut out, "GPU", part, now);
    let Some(seen) = seen else {
        out.push_str("no sample yet\n");
        return out;
    };
    let _ = writeln!(out, "PCI {}, sampled {}", clean(&seen.pci), time::ago(seen.sampled_ns, now));
    if let Some(info) = &seen.info {
        out.push_str(&super::gpu_info::text(info));
    }
    if !seen.processes.is_empty() {
        let rows = seen.processes.iter().map(|p| {
            let run = if p.run_id.is_empty() { "none".to_owned() } else { p.run_id.clone() };
            [p.pid.to_string(), Unit::Bytes.show(i64::try_from(p.memory).unwrap_or(i64::MAX)), run]
        });
        let _ = write!(out, "\n{}", table::table(["PID", "MEMORY", "RUN"], rows));
    }
    let rows = seen.readings.iter().map(|r| [r.name.clone(), clean(&r.text)]);
    let _ = write!(out, "\n{}", table::table(["SIGNAL", "VALUE"], rows));
    for failing in &seen.failing {
        let _ = writeln!(out, "{} {}", paint.warn("failing:"), clean(failing));
    }
    if !seen.unsupported.is_empty() {
        let _ = writeln!(out, "not supported by this GPU: {}", seen.unsupported.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(level: pb::HealthLevel, code: &str) -> pb::HealthReason {
        let text = format!("why {code}\u{1b}[2J");
        let (code, advice) = (code.to_owned(), "reset-gpu".to_owned());
        pb::HealthReason {
            code,
            level: level as i32,
            text,
            since_ns: 1_000_000_000,
            count: 3,
            advice,
            ..Default::default()
        }
    }

    fn node() -> pb::HealthResponse {
        let part = |gpu: &str, index, level: pb::HealthLevel, reasons| pb::PartHealth {
            gpu: gpu.into(),
            index,
            name: "H100".into(),
            level: level as i32,
            reasons,
            ..Default::default()
        };
        pb::HealthResponse {
            revision: 7,
            at_ns: 61_000_000_000,
            node: Some(part("", 0, pb::HealthLevel::Degraded, vec![])),
            gpus: vec![
                part("GPU-a", 0, pb::HealthLevel::Healthy, vec![]),
                part("GPU-b", 1, pb::HealthLevel::Unhealthy, vec![reason(pb::HealthLevel::Unhealthy, "xid-79")]),
            ],
            ..Default::default()
        }
    }

    #[test]
    fn the_level_is_of_the_chosen_gpus_and_of_what_speaks_against_the_node() {
        let mut health = node();
        let level_of = |health: &pb::HealthResponse, gpus: &[&str]| {
            let wanted: Vec<String> = gpus.iter().map(|g| (*g).to_owned()).collect();
            level(health, &choose(health, &wanted).unwrap(), !wanted.is_empty())
        };
        assert_eq!(level_of(&health, &[]), pb::HealthLevel::Degraded);
        assert_eq!(level_of(&health, &["0"]), pb::HealthLevel::Healthy);
        assert_eq!(level_of(&health, &["GPU-b"]), pb::HealthLevel::Unhealthy);
        assert_eq!(level_of(&health, &["0", "1"]), pb::HealthLevel::Unhealthy);
        health.node.as_mut().unwrap().reasons = vec![reason(pb::HealthLevel::Draining, "cordoned")];
        assert_eq!(level_of(&health, &["0"]), pb::HealthLevel::Draining);
        assert_eq!(level(&pb::HealthResponse::default(), &[], false), pb::HealthLevel::Unknown);
        assert_eq!(choose(&health, &["9".into()]).unwrap_err().exit, Exit::NotFound);
        // A node with GPUs of two vendors counts them twice from 0.
        let mut mixed = node();
        mixed.gpus[1].index = 0;
        let ambiguous = choose(&mixed, &["0".into()]).unwrap_err();
        assert_eq!(ambiguous.exit, Exit::Usage);
        assert!(ambiguous.to_string().contains("`0` is GPU-a and GPU-b: name one"), "{ambiguous}");
        assert_eq!(choose(&mixed, &["GPU-b".into()]).unwrap()[0].gpu, "GPU-b");
    }

    #[test]
    fn the_list_shows_what_describe_takes() {
        let mut health = node();
        health.gpus[0].gpu = "GPU-5a8c1d2e-3f40-4152-8e3f-405162738495".into();
        let list = gpus(&pb::StatusResponse::default(), &health);
        let uuid = list.lines().nth(1).unwrap().split_whitespace().nth(2).unwrap().to_owned();
        assert_eq!(choose(&health, &[uuid]).unwrap()[0].gpu, health.gpus[0].gpu);
    }

    #[test]
    fn reasons_are_reported_and_cannot_write_on_the_terminal() {
        let health = node();
        let text = super::health(&health, &health.gpus, pb::HealthLevel::Degraded, Paint::plain());
        insta::assert_snapshot!(text);
    }
}

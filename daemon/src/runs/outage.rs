//! What happened to a run while no daemon looked, from what the kernel went on counting.

use crate::sensors::ebpf::Outage;
use failsafe_core::{MonoTime, RunId, input::Gap, signal::Source, time::Span};

/// In words, for the record of the adoption. `None`: nothing was refused, dropped or lost.
pub fn found(outage: &Outage, now: MonoTime) -> Option<String> {
    let counted = &outage.counted;
    let all = [
        (counted.denied_calls, "network call", "refused"),
        (counted.denied_ops, "operation", "refused"),
        (counted.observed_ops, "operation", "that a rule watches"),
        (counted.dropped_packets, "packet", "dropped"),
        (counted.budget_drops, "packet", "dropped beyond a budget"),
        (counted.lost, "event", "lost"),
    ];
    let some = all.iter().filter(|(n, ..)| *n > 0);
    let words: Vec<String> =
        some.map(|(n, one, how)| format!("{n} {one}{} {how}", if *n == 1 { "" } else { "s" })).collect();
    let when = match outage.since_ns {
        Some(since) => format!("in the {} since a daemon last looked", Span(now.0.saturating_sub(since))),
        None => "before a daemon ever looked".into(),
    };
    (!words.is_empty()).then(|| format!("{when}: {}", words.join(", ")))
}

/// The losses that the audit log does not have yet; `told` is the number of events that it has.
pub fn gaps(outage: &Outage, run: RunId, told: u64, now: MonoTime) -> Vec<Gap> {
    let lost = outage.lost.saturating_sub(told);
    let untracked = outage.counted.untracked;
    let all = [
        (lost, lost, format!("{lost} events did not fit the ring buffer while no daemon read it")),
        (
            untracked,
            0,
            format!("{untracked} processes were not noted while no daemon looked: their leaving would go unseen"),
        ),
    ];
    let some = all.into_iter().filter(|(n, ..)| *n > 0);
    some.map(|(_, lost, what)| gap(run, what, lost, now)).collect()
}

fn gap(run: RunId, what: String, lost: u64, at: MonoTime) -> Gap {
    Gap { seq: 0, at, source: Source::Ebpf, run: Some(run), gpu: None, what, lost, blind: false }
}

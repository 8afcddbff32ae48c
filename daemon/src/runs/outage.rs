//! What happened to a run while no daemon looked, from what the kernel went on counting.

use crate::guard::{Foreign, Outage, Total};
use failsafe_core::{MonoTime, RunId, input::Gap, signal::Source, time::Span};

/// In words, for the record of the adoption. `None`: nothing was refused, dropped or lost.
pub fn found(outage: &Outage, now: MonoTime) -> Option<String> {
    let Total { counters: counted, lost } = &outage.counted;
    let all = [
        (counted.denied_calls, "network call", "refused"),
        (counted.denied_ops, "operation", "refused"),
        (counted.observed_ops, "operation", "that a rule watches"),
        (counted.dropped_packets, "packet", "dropped"),
        (counted.budget_drops, "packet", "dropped beyond a budget"),
        (*lost, "event", "lost"),
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

/// What was not seen and is not in the audit log yet. `told` is the number of losses that it has; `watches`: calls of the run
/// are watched.
pub fn gaps(outage: &Outage, run: RunId, (reported, watches): (u64, bool), now: MonoTime) -> Vec<Gap> {
    let lost = outage.lost.saturating_sub(reported);
    let unnoted = outage.counted.counters.untracked;
    let blind = u64::from(watches && !outage.calls);
    let all = [
        (lost, lost, format!("{lost} events did not fit the ring buffer while no daemon read it")),
        (
            unnoted,
            0,
            format!("{unnoted} processes were not noted while no daemon looked: their leaving would go unseen"),
        ),
        (blind, 0, "watched calls were not seen while no daemon ran: their programs were not pinned".into()),
    ];
    let some = all.into_iter().filter(|(n, ..)| *n > 0).map(|(_, lost, what)| (what, lost));
    let foreign = outage.foreign.map(|foreign| (unread(foreign), 0));
    some.chain(foreign).map(|(what, lost)| gap(run, what, lost, now)).collect()
}

fn unread(Foreign { abi, latch }: Foreign) -> String {
    let latch = if latch {
        "its latch was taken over"
    } else {
        "its latch is not known either, and it is blocked until it is thawed"
    };
    format!(
        "programs of ABI {abi} guarded it: what they saw, counted and had spent of its budgets is not known; {latch}"
    )
}

/// No programs of an earlier daemon were found.
pub fn unguarded(run: RunId, now: MonoTime) -> Gap {
    let what =
        "no programs of an earlier daemon were found: what it did while no daemon ran was neither seen nor refused";
    gap(run, what.into(), 0, now)
}

/// No programs of an earlier daemon were found of a run that has ended.
pub fn not_known(run: RunId, now: MonoTime) -> Gap {
    let what = "no programs of an earlier daemon were found: what the run did between a daemon's last look and its end is not known";
    gap(run, what.into(), 0, now)
}

/// The machine was booted since.
pub fn lost_in_a_boot(run: RunId, now: MonoTime) -> Gap {
    let what = "it was of an earlier boot: what the run did between a daemon's last look and its end is not known, the kernel's \
                counters and events are lost";
    gap(run, what.into(), 0, now)
}

fn gap(run: RunId, what: String, lost: u64, at: MonoTime) -> Gap {
    Gap { seq: 0, at, source: Source::Ebpf, run: Some(run), gpu: None, what, lost, blind: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_ebpf::abi::Counters;

    #[test]
    fn what_was_refused_is_reported_and_nothing_else() {
        let none = Total::NONE.counters;
        let events = std::array::from_fn(|kind| if kind == 0 { 9 } else { 0 });
        let counters = Counters { denied_calls: 1, dropped_packets: 2, events, ..none };
        let counted = Total { counters, lost: 0 };
        let outage = Outage { since_ns: Some(1_000_000_000), counted, lost: 0, calls: false, foreign: None };
        let reported = found(&outage, MonoTime(3_500_000_000));
        assert_eq!(
            reported.as_deref(),
            Some("in the 2.5 s since a daemon last looked: 1 network call refused, 2 packets dropped")
        );
        let quiet = Outage { counted: Total { counters: Counters { events, ..none }, lost: 0 }, ..outage };
        assert_eq!(found(&quiet, MonoTime(3_500_000_000)), None);
    }

    #[test]
    fn a_loss_that_the_log_has_is_not_reported_again() {
        let outage = Outage { since_ns: None, counted: Total::NONE, lost: 10, calls: false, foreign: None };
        let gaps = |reported, watches| gaps(&outage, RunId(uuid::Uuid::nil()), (reported, watches), MonoTime(0));
        let lost = |reported| gaps(reported, false).iter().map(|gap| gap.lost).sum::<u64>();
        assert_eq!((lost(0), lost(7), lost(10), lost(11)), (10, 3, 0, 0));
        assert!(gaps(10, false).is_empty());
        assert!(gaps(10, true)[0].what.starts_with("watched calls were not seen"));
    }
}

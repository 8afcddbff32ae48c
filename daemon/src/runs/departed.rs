//! Runs that ended while no daemon judged them: what is recorded of such a run beside its end.
//!
//! ```text
//! earlier daemon's counters ─► losses, totals ─┐
//! earlier daemon's ring     ─► Unjudged ───────┼─► audit log: gaps, totals, then the end between two times
//! guarded run's events      ─► count ──────────┘
//! ```
//! Nothing is decided about a run that has ended. Its events that no daemon read are named in a gap, so that a violation of its
//! policy in this time is on record.
//!
//! Invariant: the end is recorded once, and after what is known of the time before it.

use super::{
    EndedRun, Registry,
    checked::no_record_of,
    guarded::{GuardedRun, gap},
    outage,
    past::{Ending, Past},
};
use crate::{guard::PreviousRun, log::Log, platform::clock, sensors::ebpf::RunCounters};
use failsafe_core::{
    Containment, Input, MonoTime, Value,
    event::Verdict,
    input::{Gap, Run},
    record::{Record, Totals, Unwatched},
    visible::beginning,
};
use std::collections::BTreeMap;

/// Events that a gap quotes: refused ones, and others.
const QUOTED_REFUSED: usize = 8;
const QUOTED_OTHERS: usize = 4;
/// Most bytes of a quoted event.
const QUOTE_BYTES: usize = 200;

/// A run with a proved end, of which something is still to be recorded.
#[derive(Debug)]
pub(super) struct Departed {
    run: Run,
    /// `None`: no record names the run, and it is listed nowhere.
    named: Option<Named>,
    /// The cgroup that an earlier daemon's programs bound.
    root: Option<u64>,
    /// The end, where the audit log has it.
    end: Option<Ending>,
    unwatched: Unwatched,
    gaps: Vec<Gap>,
    /// What the kernel counted, and whether that is on record already.
    totals: Option<(Totals, bool)>,
    /// For how long it was frozen, ns; none where it ended frozen and nobody knows when.
    frozen_ns: Option<u64>,
    /// How it was contained, as the audit log has it.
    containment: Containment,
    unjudged: Unjudged,
    /// Why what is known of the run is not verified by the audit log.
    unverified: Option<String>,
}

/// What a record has of it.
#[derive(Debug)]
pub(super) struct Named {
    pub policy_name: String,
    pub part: u32,
    pub decisions: u32,
}

/// What is known of it from before.
pub(super) struct Before<'a> {
    pub past: &'a Past,
    pub guarded: Option<&'a GuardedRun>,
    pub previous: Option<&'a PreviousRun>,
    /// It is of an earlier boot.
    pub rebooted: bool,
    /// Its policy watches calls.
    pub watches: bool,
    /// This daemon has eBPF, so that programs of an earlier daemon would have been found.
    pub sees: bool,
}

impl Departed {
    /// A run that has ended, as `why` shows.
    pub(super) fn new(run: Run, named: Option<Named>, why: &str, before: &Before<'_>) -> Departed {
        let (now, wall) = (MonoTime(clock::monotonic_ns()), clock::wall_ns());
        let Before { past, guarded, previous, .. } = *before;
        let outage = previous.map(PreviousRun::outage);
        let told = outage.as_ref().and_then(|outage| outage::found(outage, now));
        let sampled = outage.as_ref().and_then(|outage| outage.since_ns);
        let sampled =
            sampled.map(|ns| wall.saturating_sub(i64::try_from(now.0.saturating_sub(ns)).unwrap_or(i64::MAX)));
        let seen = last_seen([past.last_seen_ns, sampled, guarded.and_then(GuardedRun::seen_ns)], wall);
        let found = [Some(why.to_owned()), told].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let unwatched = Unwatched { last_seen_ns: seen, noticed_ns: wall, found };
        let mut gaps = match &outage {
            Some(outage) => outage::gaps(outage, run.id, (past.lost_recorded, before.watches), now),
            None if before.rebooted => vec![outage::lost_in_a_boot(run.id, now)],
            None if before.sees && guarded.is_none() => vec![outage::not_known(run.id, now)],
            None => Vec::new(),
        };
        if past.end.is_some() {
            // A daemon watched the end: it is known what it saw, but for what the ring had no room for.
            gaps.retain(|gap| gap.lost > 0);
        }
        let counted = previous
            .filter(|previous| previous.foreign.is_none())
            .map(|previous| RunCounters::from(previous.counted()).totals());
        let totals = past.totals.map(|totals| (totals, true)).or(counted.map(|totals| (totals, false)));
        let unjudged = Unjudged { passed_over: guarded.map_or(0, GuardedRun::missed), ..Unjudged::default() };
        let root = previous.map(|previous| previous.root_id);
        let unverified = past.start.is_none().then(|| no_record_of("start"));
        // One that ended frozen stood still until its end, and nobody knows when that was.
        let frozen_ns = past.end.as_ref().map_or(past.frozen.closed_ns(), |end| end.frozen_ns);
        let (end, containment) = (past.end.clone(), past.containment.clone());
        Departed { run, named, root, end, unwatched, gaps, totals, frozen_ns, containment, unjudged, unverified }
    }

    /// Whether an earlier daemon's programs bound it by this cgroup.
    pub(super) fn is_of(&self, root: u64) -> bool {
        self.root == Some(root)
    }

    /// The run that events are of.
    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    /// Takes an event of it that no daemon read.
    pub(super) fn takes(&mut self, input: &Input) {
        self.unjudged.takes(input);
    }
}

impl Registry {
    /// Records what is known of the run's last time and its end, and lists it among the ended ones.
    pub(super) fn depart(&self, departed: Departed, log: &Log) {
        let Departed {
            run,
            named,
            root: _,
            end,
            unwatched,
            gaps,
            totals,
            frozen_ns,
            containment,
            unjudged,
            unverified,
        } = departed;
        tracing::info!(run = %run.id, found = unwatched.found, "a run ended while no daemon watched");
        let what = unjudged.what().map(|what| self::gap(run.id, what, true));
        for gap in gaps.into_iter().chain(what) {
            tracing::warn!(run = %run.id, what = gap.what, lost = gap.lost, "gap");
            log.record(&Record::Gap(gap), Some(run.id), None);
        }
        if let Some((totals, false)) = totals {
            // Earlier daemons' time: in no count of this one.
            log.tallying().with(|tally| tally.adopted(run.id, Some(totals)));
            log.record(&Record::RunTotals { run: run.id, name: run.name.clone(), totals }, Some(run.id), None);
        }
        let (ended_ns, unwatched) = match end {
            Some(end) => (end.at_ns, end.unwatched),
            None => {
                let record = Record::RunEnded {
                    run: run.id,
                    name: run.name.clone(),
                    recording: None,
                    suppressed: Vec::new(),
                    unwatched: Some(unwatched.clone()),
                    frozen_ns,
                };
                log.record(&record, Some(run.id), None);
                (unwatched.noticed_ns, Some(unwatched))
            }
        };
        let Some(Named { policy_name, part, decisions }) = named else { return };
        let ended = EndedRun {
            run,
            policy_name,
            ended_ns,
            unwatched,
            decisions,
            part,
            totals: totals.map(|(totals, _)| totals),
            frozen_ns,
            containment,
            unverified,
        };
        self.mark_ended(&ended);
        self.remember_ended(std::sync::Arc::new(ended));
    }
}

/// Events of one run that nobody judged.
#[derive(Debug, Default)]
struct Unjudged {
    /// Those that came while the run was guarded.
    passed_over: u64,
    events: u64,
    kinds: BTreeMap<&'static str, u64>,
    refused: Vec<String>,
    others: Vec<String>,
}

impl Unjudged {
    fn takes(&mut self, input: &Input) {
        let (times, kind, refused, text) = match input {
            Input::Signal(signal) => {
                let Value::Event(event) = &signal.value else { return };
                let refused = matches!(event.verdict(), Some(Verdict::Denied | Verdict::WouldDeny));
                (signal.repeats.saturating_add(1), event.kind().name(), refused, event.to_string())
            }
            Input::Gap(gap) => (1, "gap", false, gap.what.clone()),
            _ => return,
        };
        self.events = self.events.saturating_add(times);
        let of_kind = self.kinds.entry(kind).or_default();
        *of_kind = of_kind.saturating_add(times);
        let (quoted, most) =
            if refused { (&mut self.refused, QUOTED_REFUSED) } else { (&mut self.others, QUOTED_OTHERS) };
        let text = beginning(&text, QUOTE_BYTES).to_owned();
        if quoted.len() < most && !quoted.contains(&text) {
            quoted.push(text);
        }
    }

    /// In words; `None`: there are none.
    fn what(&self) -> Option<String> {
        let mut words = Vec::new();
        if self.passed_over > 0 {
            words.push(format!("{} of the time in which it was guarded were passed over", counted(self.passed_over)));
        }
        if self.events > 0 {
            let kinds: Vec<String> = self.kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            words.push(format!("{} waited for a daemon ({})", counted(self.events), kinds.join(", ")));
        }
        for (title, quoted) in [("refused", &self.refused), ("others", &self.others)] {
            if !quoted.is_empty() {
                words.push(format!("{title}: {}", quoted.join(", ")));
            }
        }
        (!words.is_empty())
            .then(|| format!("the run ended before a daemon judged its last events: {}", words.join("; ")))
    }
}

fn counted(events: u64) -> String {
    if events == 1 { "1 event".into() } else { format!("{events} events") }
}

/// When a run was last seen alive, wall clock ns. A time after now was noted while the clock was wrong, or it is wrong now: such a time
/// shows nothing.
fn last_seen(noted: [Option<i64>; 3], now: i64) -> Option<i64> {
    noted.into_iter().flatten().filter(|seen| *seen <= now).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::run;
    use failsafe_core::{
        Kind, PolicyDigest, Signal, Subject,
        event::{Assurance, Event, NetOp},
        signal::Source,
    };

    const ID: &str = "00000000-0000-4000-8000-000000000001";

    fn connect(port: u16, verdict: Verdict, repeats: u64) -> Input {
        let event = Event::Net {
            op: NetOp::Connect,
            family: 2,
            protocol: 17,
            address: "127.0.0.3".parse().unwrap(),
            port,
            verdict,
            assurance: Assurance::Observed,
        };
        let subject = Subject::Run(ID.parse().unwrap());
        let value = Value::Event(event);
        let (seq, at, source, kind) = (0, MonoTime(1), Source::Ebpf, Kind::Event);
        Input::Signal(Signal { seq, at, source, subject, kind, value, repeats })
    }

    #[test]
    fn a_time_that_is_still_to_come_does_not_say_when_a_run_was_last_seen() {
        assert_eq!(last_seen([Some(5), Some(7), None], 10), Some(7));
        assert_eq!(last_seen([Some(11), Some(7), None], 10), Some(7), "the clock was set back");
        assert_eq!(last_seen([Some(11), None, Some(12)], 10), None);
    }

    #[test]
    fn events_that_no_daemon_read_are_counted_by_kind_and_the_refused_ones_are_quoted() {
        let mut unjudged = Unjudged::default();
        assert_eq!(unjudged.what(), None);
        unjudged.takes(&connect(1, Verdict::Allowed, 0));
        (0..100).for_each(|port| unjudged.takes(&connect(port, Verdict::Denied, 1)));
        let what = unjudged.what().unwrap();
        assert!(what.contains("201 events waited for a daemon (201 connect)"), "{what}");
        assert!(what.contains("refused: connect to 127.0.0.3:0 (udp): denied"), "{what}");
        assert!(what.contains("others: connect to 127.0.0.3:1 (udp)") && !what.contains("127.0.0.3:50 "), "{what}");
        assert!(what.len() < 2_000, "{} bytes", what.len());
    }

    #[test]
    fn an_end_that_no_daemon_watched_lies_between_the_last_look_and_now() {
        let run = run(ID, 1_000, PolicyDigest([1; 32]));
        let past = Past { last_seen_ns: Some(77), ..Past::default() };
        let before = Before { past: &past, guarded: None, previous: None, rebooted: true, watches: false, sees: true };
        let departed = Departed::new(run.clone(), None, "it was of an earlier boot", &before);
        assert_eq!(departed.unwatched.last_seen_ns, Some(77));
        assert!(departed.unwatched.noticed_ns > 77 && departed.unwatched.found == "it was of an earlier boot");
        assert!(departed.gaps.len() == 1 && departed.gaps[0].what.contains("boot"), "{:?}", departed.gaps);
        // A time that is still to come shows nothing: the clock was set back, or was wrong before.
        let past = Past { last_seen_ns: Some(i64::MAX), ..Past::default() };
        let departed = Departed::new(run, None, "its cgroup is gone", &Before { past: &past, ..before });
        assert_eq!(departed.unwatched.last_seen_ns, None);
    }
}

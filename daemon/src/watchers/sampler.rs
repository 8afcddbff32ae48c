//! The sampler: at every interval, counters and cgroup files of every live run.
//!
//! Owns what it needs to tell change from sameness. A value that has not changed is repeated every few seconds only: enough
//! for the core to know that the sensor sees.

use crate::{
    pipeline::{Message, Sender},
    platform::clock,
    runs::{
        LiveRun, Registry,
        translate::{self, guarded, sampled},
    },
    sensors::{
        cgroup::RunReader,
        ebpf::{self, RunCounters},
        integer,
        repeat::Repeats,
    },
};
use failsafe_core::{
    Input, Kind, MonoTime, RunId, Subject, discover::is_discovered, event::Event, input::Gap, signal::Source,
};
use failsafe_ebpf::abi::latch;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

/// The sampler spends at most one part in so many of its time on a run whose cgroups take long to read.
const SHARE: u32 = 10;
/// Values that are handed on together at most.
const TOGETHER: usize = 64;
/// They wait for no run whose cgroups take longer to read than this.
const LATE: Duration = Duration::from_millis(5);

/// When each of its parts last succeeded, wall clock ns; 0: never. For `node status`.
#[derive(Debug, Default)]
pub struct Health {
    /// A pass over the cgroup files of every live run.
    pub pass: AtomicI64,
    /// eBPF counters.
    pub counters: AtomicI64,
}

#[derive(Default)]
struct RunSampleState {
    reader: RunReader,
    values: Repeats<Kind>,
    lost: u64,
    untracked: u64,
    latched: bool,
    /// When its cgroup files are read next, where reading them takes long.
    due: Option<Instant>,
    /// It is on record that its processes are too many cgroups to be counted.
    uncounted: bool,
}

/// The sampler's thread.
pub struct Sampler {
    registry: Arc<Registry>,
    pipeline: Sender,
    interval: Duration,
    health: Arc<Health>,
    seen: BTreeMap<RunId, RunSampleState>,
    counters_blind: bool,
    /// What is handed on next: each message may wake the pipeline.
    pending: Vec<Input>,
}

impl Sampler {
    /// A sampler; [`Sampler::work`] runs it.
    pub fn new(registry: Arc<Registry>, pipeline: Sender, interval: Duration, health: Arc<Health>) -> Sampler {
        let (seen, pending) = (BTreeMap::new(), Vec::new());
        Sampler { registry, pipeline, interval, health, seen, counters_blind: false, pending }
    }

    /// Samples until `stop`.
    pub fn work(mut self, stop: &AtomicBool) {
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let live = self.registry.live();
            // A new run is looked at once, so that nobody is told it has no processes.
            let new = live.iter().any(|run| run.is_entered() && !self.seen.contains_key(&run.run.id));
            if new || Instant::now() >= next {
                self.sample(&live);
                // A late sample is not caught up with: two in a row would say nothing more.
                next = Instant::now() + self.interval;
            }
            let wait = next.saturating_duration_since(Instant::now()).min(Duration::from_millis(250));
            std::thread::park_timeout(wait);
        }
    }

    fn tell(&mut self, input: Input) {
        self.pending.push(input);
        if self.pending.len() >= TOGETHER {
            self.hand_on();
        }
    }

    /// Hands what is pending on, in its order.
    fn hand_on(&mut self) {
        if !self.pending.is_empty() {
            // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
            let _closed = self.pipeline.send(Message::Inputs(std::mem::take(&mut self.pending)));
        }
    }

    fn ended(&mut self, run: RunId) {
        self.hand_on();
        let _closed = self.pipeline.send(Message::Ended(run));
    }

    fn sample(&mut self, live: &[Arc<LiveRun>]) {
        // They are in the order of their ids.
        self.seen.retain(|id, _| live.binary_search_by_key(id, |run| run.run.id).is_ok());
        let counters: BTreeMap<RunId, RunCounters> = match ebpf::sample(self.registry.kernel()) {
            Ok(counters) => {
                self.health.counters.store(clock::wall_ns(), Ordering::Relaxed);
                if std::mem::take(&mut self.counters_blind) {
                    self.gap(None, "counters are read again".into(), 0, false);
                }
                counters.into_iter().collect()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.counters_blind, true) {
                    self.gap(None, format!("counters cannot be read: {error}"), 0, true);
                }
                BTreeMap::new()
            }
        };
        if counters.iter().any(|(id, c)| self.seen.get(id).is_some_and(|seen| c.lost > seen.lost)) {
            let kernel = self.registry.kernel();
            let left: Vec<Input> = ebpf::leavers(kernel).filter_map(|event| translate::event(kernel, event)).collect();
            left.into_iter().for_each(|input| self.tell(input));
            self.hand_on();
        }
        for run in live {
            self.run(run, counters.get(&run.run.id));
        }
        self.hand_on();
        self.health.pass.store(clock::wall_ns(), Ordering::Relaxed);
    }

    fn gap(&mut self, run: Option<RunId>, what: String, lost: u64, blind: bool) {
        self.gap_of(Source::Ebpf, run, what, lost, blind);
    }

    fn gap_of(&mut self, source: Source, run: Option<RunId>, what: String, lost: u64, blind: bool) {
        let at = MonoTime(clock::monotonic_ns());
        self.tell(Input::Gap(Gap { seq: 0, at, source, run, gpu: None, what, lost, blind }));
    }

    fn run(&mut self, run: &Arc<LiveRun>, counters: Option<&RunCounters>) {
        let id = run.run.id;
        let mut seen = self.seen.remove(&id).unwrap_or_default();
        let began = Instant::now();
        if seen.due.is_some_and(|due| due > began) {
            self.latched(run, counters.is_some_and(|c| c.latch & latch::STOP != 0), &mut seen);
            self.seen.insert(id, seen);
            return;
        }
        let usage = match seen.reader.sample(&run.cgroup, began) {
            Ok(usage) => Some(usage),
            Err(error) if error.is_vanished() => {
                self.ended(id);
                return;
            }
            Err(error) => {
                tracing::warn!(run = %id, error = %error.chain(), "the run's cgroup cannot be read");
                None
            }
        };
        if usage.as_ref().is_some_and(|u| u.processes == 0)
            && !is_discovered(&run.run.labels)
            && run.cgroup.events().is_ok_and(|e| !e.populated)
        {
            self.ended(id);
            return;
        }
        seen.due = Some(began + began.elapsed() * SHARE).filter(|due| *due > began + self.interval);
        let uncounted = usage.as_ref().is_some_and(|usage| !usage.complete);
        if !std::mem::replace(&mut seen.uncounted, uncounted) && uncounted {
            let what =
                "its processes are in more cgroups than can be read in time: they are not all counted".to_owned();
            self.gap_of(Source::Cgroup, Some(id), what, 0, false);
        }
        let mut values = Vec::new();
        if let Some(usage) = &usage {
            values.extend(usage.values().map(|(kind, value)| (Source::Cgroup, kind, value)));
        }
        if let Some(counters) = counters {
            values.extend(counter_values(counters).map(|(kind, value)| (Source::Ebpf, kind, value)));
            let lost = more(&mut seen.lost, counters.earlier_lost, counters.lost);
            if lost > 0 {
                self.gap(Some(id), format!("{lost} events did not fit the ring buffer"), lost, false);
            }
            let unnoted = more(&mut seen.untracked, counters.earlier_untracked, counters.untracked);
            if unnoted > 0 {
                let what =
                    format!("{unnoted} processes were not noted for lack of room: their leaving would go unseen");
                self.gap(Some(id), what, 0, false);
            }
        }
        self.latched(run, counters.is_some_and(|c| c.latch & latch::STOP != 0), &mut seen);
        {
            let mut status = run.status();
            if let Some(c) = counters {
                status.counted = *c;
            }
            status.usage = usage;
        }
        let now = Instant::now();
        for (source, kind, value) in values {
            if seen.values.is_due(&kind, value, now) {
                self.tell(sampled(Subject::Run(id), source, kind, value));
            }
        }
        self.seen.insert(id, seen);
        if began.elapsed() > LATE {
            self.hand_on();
        }
    }

    /// A run that the kernel latched by a stop rule is frozen by the event of it. Found latched at two samples and not held,
    /// that event was lost.
    fn latched(&mut self, run: &Arc<LiveRun>, latched: bool, seen: &mut RunSampleState) {
        let lost = latched && !run.status().containment.is_frozen();
        if lost && std::mem::replace(&mut seen.latched, lost) {
            self.tell(guarded(run.run.id, Event::Latched));
            // The run is to be frozen: nothing waits for the rest of the pass.
            self.hand_on();
        }
        seen.latched = lost;
    }
}

/// By how much a total grew beyond what was seen, or was told when the run was taken up (`earlier`).
fn more(seen: &mut u64, earlier: u64, now: u64) -> u64 {
    let told = earlier.max(*seen);
    *seen = now.max(told);
    *seen - told
}

fn counter_values(c: &RunCounters) -> impl Iterator<Item = (Kind, i64)> {
    [
        (Kind::EgressBytes, c.egress_bytes),
        (Kind::EgressPackets, c.egress_packets),
        (Kind::IngressBytes, c.ingress_bytes),
        (Kind::IngressPackets, c.ingress_packets),
        (Kind::EgressDenied, c.denied_calls + c.dropped_packets + c.budget_drops),
        (Kind::EgressDropped, c.dropped_packets + c.budget_drops),
        (Kind::EventsLost, c.lost),
        (Kind::Forks, c.forks),
        (Kind::Execs, c.execs),
    ]
    .into_iter()
    .map(|(kind, value)| (kind, integer(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_before_the_run_was_taken_up_is_not_reported_again() {
        let mut seen = 0;
        let told: Vec<u64> = [(5, 5), (5, 7), (5, 7), (5, 10)].map(|(e, now)| more(&mut seen, e, now)).to_vec();
        assert_eq!(told, [0, 2, 0, 3]);
    }

    #[test]
    fn packets_beyond_a_budget_are_denied_and_dropped_ones() {
        let c = RunCounters { denied_calls: 1, dropped_packets: 2, budget_drops: 4, ..RunCounters::default() };
        let of = |kind| counter_values(&c).find(|(k, _)| *k == kind).map(|(_, n)| n);
        assert_eq!((of(Kind::EgressDenied), of(Kind::EgressDropped)), (Some(7), Some(6)));
    }
}

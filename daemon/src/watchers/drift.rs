//! Follows the factors of runs: reads each run again and again, and reports what changed since.
//!
//! ```text
//! a run's first programs have started ─► first reading ─┐   kept: factors.json
//! every period, and after new programs ─► reading ──────┴─► changes ─► audit log ─► pipeline (events `drift`)
//! ```
//! Owns what is known of each run, and when it is read next. Invariants: this thread gives way to all others, and nobody waits
//! for it; a run is not read before its command is executed, and not while it is frozen; a reading that hangs is the last one of
//! its run until it ends; all repeated readings together stay within a share of one processor.

use crate::{
    attest::{NodeFacts, OwnGpus, RunFacts, Worker},
    config::{Drift as Config, Live},
    log::Log,
    node::NodeView,
    pipeline::{Message, Sender},
    platform::{clock, sched},
    runs::{LiveRun, Registry, factors::KeptFactors, lineage::Restart, translate::guarded},
};
use failsafe_attest::{Drift, Fact, Table};
use failsafe_core::{
    RunId,
    event::{DriftSince, Event},
    record::{FactorChange, Record},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often the thread looks which run is due.
const LOOK: Duration = Duration::from_millis(250);
/// Programs count as started when none was executed for this long.
const SETTLED: Duration = Duration::from_secs(1);
/// The first reading waits no longer than this for them.
const FIRST: Duration = Duration::from_secs(10);
/// Time between two readings because of new programs.
const AGAIN: Duration = Duration::from_secs(10);
/// Readings that hang, of all runs: beyond it no run is read.
const HUNG: usize = 4;
/// Changes that are not listed are reported this often, where no other change is.
const LEFT_OUT_EVERY: Duration = Duration::from_secs(600);

/// The thread that follows runs.
pub struct Follower {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The audit log.
    pub log: Log,
    /// The way into the pipeline.
    pub pipeline: Sender,
    /// What the sensors see of the node.
    pub node: Arc<Mutex<NodeView>>,
    /// The readers.
    pub worker: Arc<Worker>,
    /// The classes of factors.
    pub table: Table,
    /// How often.
    pub config: Live<Config>,
    /// NVML is not looked at.
    pub nvml_disabled: bool,
    /// This boot's id.
    pub boot_id: String,
}

/// What is known of a run.
struct Followed {
    /// Its name, for the last record.
    name: String,
    since: Instant,
    /// Programs that it has started, and when that was last seen to change.
    execs: (u64, Instant),
    /// Programs that it had started at the last reading, and when that was.
    last: Option<(u64, Instant)>,
    kept: KeptFactors,
    /// Held by a reading that has not ended.
    reading: Weak<()>,
    /// Changes that are not listed, and when that was last reported.
    left_out: (u64, Option<Instant>),
    /// It is on record that what is known cannot be kept.
    unkept: bool,
}

impl Follower {
    /// Follows until `stop`.
    pub fn work(self, stop: &AtomicBool) {
        sched::background();
        let mut runs: BTreeMap<RunId, Followed> = BTreeMap::new();
        let mut rests_until = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            // In the order of their ids.
            let live = self.registry.live();
            for (id, ended) in runs.extract_if(.., |id, _| live.binary_search_by_key(id, |run| run.run.id).is_err()) {
                if ended.left_out.0 > 0 {
                    self.earlier(id, &ended, Drift { left_out: ended.left_out.0, ..Drift::default() });
                }
            }
            let sees = self.registry.kernel().blind().is_none();
            let hung = runs.values().filter(|followed| followed.reading.strong_count() > 0).count();
            let mut due: Option<(Instant, &Arc<LiveRun>)> = None;
            for run in &live {
                let followed = runs.entry(run.run.id).or_insert_with(|| self.new_run(run));
                let Some(at) = followed.due(run, sees, self.config.get().period()) else { continue };
                let at = if followed.last.is_some() { at.max(rests_until) } else { at };
                if due.is_none_or(|(first, _)| at < first) {
                    due = Some((at, run));
                }
            }
            match due.filter(|(at, _)| *at <= Instant::now() && hung < HUNG) {
                Some((_, run)) => {
                    let began = Instant::now();
                    if let Some(followed) = runs.get_mut(&run.run.id) {
                        self.read(run, followed, stop);
                    }
                    rests_until = Instant::now() + self.config.get().rest(began.elapsed());
                }
                None => std::thread::park_timeout(LOOK),
            }
        }
    }

    /// A run that was not followed yet. Where the last daemon ended before it reported what a restart has otherwise than its
    /// predecessor, that is done now.
    fn new_run(&self, run: &LiveRun) -> Followed {
        let store = self.registry.store();
        if run.part > 0
            && let Some(restart) = Restart::unreported(store, run.run.id)
        {
            report(&self.log, &self.pipeline, Report::of_restart(restart, run));
            Restart::reported(store, run.run.id);
        }
        Followed::new(run, &self.registry)
    }

    /// Reads a run and reports what changed.
    fn read(&self, run: &LiveRun, followed: &mut Followed, stop: &AtomicBool) {
        followed.last = Some((followed.execs.0, Instant::now()));
        let Some(facts) = self.facts(run, followed, stop) else { return };
        // Without a process there is no reading: the run is just ending.
        let read = facts.iter().any(|fact| fact.path == "run/processes" && fact.value.is_ok());
        if !read || run.status().containment.is_frozen() {
            return;
        }
        let gpus = run.status().gpus.iter().map(|gpu| gpu.0.clone()).collect();
        let counts = OwnGpus::new(&facts, &gpus);
        if followed.kept.first_ns == 0 {
            self.restarted(run, &facts, |path| counts.counts(path));
        }
        let before = followed.kept.known.clone();
        let drift = followed.kept.known.take(&facts, &self.table, |path| counts.counts(path));
        followed.kept.last_ns = clock::wall_ns();
        if followed.kept.first_ns == 0 {
            followed.kept.first_ns = followed.kept.last_ns;
        }
        if before != followed.kept.known {
            let kept = followed.kept.write(self.registry.store());
            if let (Err(error), false) = (&kept, followed.unkept) {
                tracing::warn!(run = %run.run.id, error = error.chain(), "the known factors of the run cannot be kept");
            }
            followed.unkept = kept.is_err();
        }
        followed.left_out.0 += drift.left_out;
        let late = followed.left_out.1.is_none_or(|at| at.elapsed() >= LEFT_OUT_EVERY);
        if !drift.changes.is_empty() || (followed.left_out.0 > 0 && late) {
            let left_out = std::mem::take(&mut followed.left_out.0);
            followed.left_out.1 = Some(Instant::now());
            self.earlier(run.run.id, followed, Drift { left_out, ..drift });
        }
    }

    fn earlier(&self, run: RunId, followed: &Followed, drift: Drift) {
        let (name, since) = (followed.name.clone(), DriftSince::Earlier);
        report(&self.log, &self.pipeline, Report { run, name, since, predecessor: None, drift });
    }

    /// What the first reading of a restart has otherwise than its predecessor, beside what is known since its start.
    fn restarted(&self, run: &LiveRun, facts: &[Fact], counts: impl Fn(&str) -> bool) {
        let store = self.registry.store();
        let Some(restart) = Restart::read(store, run.run.id) else { return };
        let Some(predecessor) = restart.predecessor else { return };
        let Some(before) = KeptFactors::read(store, predecessor) else {
            tracing::warn!(run = %run.run.id, %predecessor, "nothing is kept of the predecessor's factors: not compared");
            return;
        };
        let reported = |path: &str| restart.changes.iter().any(|change| change.path == path);
        let drift = before.known.differences(facts, &self.table, |path| counts(path) && !reported(path));
        if !drift.is_empty() {
            let (id, name, since) = (run.run.id, run.run.name.clone(), DriftSince::Predecessor);
            let predecessor = Some(predecessor);
            report(&self.log, &self.pipeline, Report { run: id, name, since, predecessor, drift });
        }
    }

    fn facts(&self, run: &LiveRun, followed: &mut Followed, stop: &AtomicBool) -> Option<Vec<Fact>> {
        let about = {
            let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
            NodeFacts::of(&node, self.nvml_disabled, &self.boot_id)
        };
        let of_run = RunFacts::of(&run.run, run.cgroup.unopened(), &self.table);
        let permit = Arc::new(());
        followed.reading = Arc::downgrade(&permit);
        let asked = self.worker.start(about, Some(of_run), permit).inspect_err(|error| {
            tracing::warn!(run = %run.run.id, %error, "no thread to read the run's factors");
        });
        asked.ok()?.facts_until(stop)
    }
}

/// Changes of a run's factors, as they are reported.
pub struct Report {
    /// The run.
    pub run: RunId,
    /// Its name.
    pub name: String,
    /// What the values are compared with.
    pub since: DriftSince,
    /// The run that it continues, where its values are compared.
    pub predecessor: Option<RunId>,
    /// What changed.
    pub drift: Drift,
}

impl Report {
    /// What was known to differ before the command of a restart is executed.
    pub fn of_restart(restart: Restart, run: &LiveRun) -> Report {
        let Restart { predecessor, changes, .. } = restart;
        let (drift, since) = (Drift { changes, left_out: 0 }, DriftSince::Predecessor);
        Report { run: run.run.id, name: run.run.name.clone(), since, predecessor, drift }
    }
}

/// To the audit log, and then to the rules. Waits while the pipeline's queue is full.
pub fn report(log: &Log, pipeline: &Sender, report: Report) {
    let Report { run, name, since, predecessor, drift: Drift { changes, left_out } } = report;
    let events = changes.iter().cloned().map(|change| {
        let FactorChange { path, old, new, class } = change;
        guarded(run, Event::Drift { path, old, new, class, since })
    });
    let events: Vec<_> = events.collect();
    log.record(&Record::Drift { run, name, since, predecessor, changes, left_out }, Some(run), None);
    if !events.is_empty() {
        // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
        let _closed = pipeline.send(Message::Inputs(events));
    }
}

impl Followed {
    fn new(run: &LiveRun, registry: &Registry) -> Followed {
        let (id, now) = (run.run.id, Instant::now());
        let kept = KeptFactors::read(registry.store(), id).unwrap_or_else(|| KeptFactors::new(id));
        Followed {
            name: run.run.name.clone(),
            since: now,
            execs: (0, now),
            last: None,
            kept,
            reading: Weak::new(),
            left_out: (0, None),
            unkept: false,
        }
    }

    /// When it is to be read; `None`: not now.
    fn due(&mut self, run: &LiveRun, sees: bool, period: Duration) -> Option<Instant> {
        let (execs, frozen) = {
            let status = run.status();
            (status.counted.execs, status.containment.is_frozen())
        };
        if execs != self.execs.0 {
            self.execs = (execs, Instant::now());
        }
        // A run that was just made has the process of failsafectl, until that executes the command.
        let no_command = run.made && sees && self.kept.known.is_empty() && execs == 0;
        if frozen || !run.is_entered() || no_command || self.reading.strong_count() > 0 {
            return None;
        }
        let settled = self.execs.1 + SETTLED;
        Some(match self.last {
            None => settled.min(self.since + FIRST),
            Some((before, at)) if before != self.execs.0 => settled.max(at + AGAIN.min(period)).min(at + period),
            Some((_, at)) => at + period,
        })
    }
}

//! Drills: the node stops a run of its own, at an administrator's request or by a schedule, as a proof that it can.
//!
//! ```text
//! API: ask ─► Shared ─┐
//! schedule ───────────┴─► this thread: once::drill ─► audit log, drill.json, health of the node, Shared ─► API
//! ```
//! A thread of its own, which waits for processes, the pipeline and the disk. Invariants: one drill at a time; every drill that began has
//! a result on record, also one that the daemon's end cut short; nothing is left of the run of a drill.

mod once;
mod shared;
pub mod target;

pub use once::Asked;
pub use shared::{Counts, Refused, Shared, View};

use crate::{
    causes::chain,
    log::Log,
    pipeline::{
        Message, Sender,
        lane::{Command as Urgent, Lane, Ticket},
    },
    platform::clock,
    runs::{
        Registry,
        drills::{DrillFile, Drills, Under},
    },
    watchers::{discover::Refusal, keep::NodeState},
};
use failsafe_core::{
    Actor, MonoTime, RunId,
    drill::{Drill, Finding, PREFIX, Schedule, is_drill},
    input::{Command, Control, Run},
    record::Record,
    time::Span,
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The code of the node's reason of health after a drill that failed.
pub const FAILED: &str = "drill-failed";
/// ... while no drill has proved a stop for too long.
pub const OVERDUE: &str = "drill-overdue";
/// How often the thread looks whether leftovers are gone, after the start of the daemon.
const LOOK: Duration = Duration::from_millis(200);
/// How long drills wait after the start of the daemon until leftovers are gone.
const CLEARED: Duration = Duration::from_secs(20);
/// How often a leftover of an earlier daemon is killed again.
const AGAIN: Duration = Duration::from_secs(5);

/// What the thread needs of the daemon.
pub struct Parts {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The audit log.
    pub log: Log,
    /// The way into the pipeline.
    pub pipeline: Sender,
    /// The way in for commands.
    pub lane: Lane,
    /// This boot's id.
    pub boot_id: String,
    /// Below which cgroup runs are made.
    pub cgroup_parent: PathBuf,
    /// How long an action may take.
    pub action_deadline: Duration,
    /// Whether a policy may be used here.
    pub refusal: Refusal,
    /// When drills are done; none: only at request.
    pub schedule: Option<Schedule>,
    /// Where results are kept.
    pub file: DrillFile,
    /// When the daemon started, nanoseconds since the epoch.
    pub started_ns: i64,
    /// What the API asks and shows.
    pub shared: Arc<Shared>,
}

/// The thread.
pub struct Drilling {
    parts: Parts,
    drills: Drills,
    failed: NodeState,
    overdue: NodeState,
    /// The random part of the jitter of the next drill.
    delay: Span,
    /// Since the daemon started.
    counts: Counts,
    /// When leftovers were looked for last.
    swept: Option<Instant>,
}

impl Drilling {
    /// The thread's state, with what earlier daemons left in the file.
    pub fn new(parts: Parts) -> Drilling {
        let (mut drills, wrong) = parts.file.read();
        if let Some(why) = wrong {
            tracing::warn!(why, "results of earlier drills");
        }
        drills.since_ns = parts.schedule.map(|_| drills.since_ns.unwrap_or(parts.started_ns));
        let delay = delay(parts.schedule);
        let (failed, overdue) = (NodeState::new(FAILED), NodeState::new(OVERDUE));
        Drilling { parts, drills, failed, overdue, delay, counts: Counts::default(), swept: None }
    }

    /// Works until `stop`.
    pub fn work(mut self, stop: &AtomicBool) {
        let shared = self.parts.shared.clone();
        let _open = shared.open(thread::current());
        self.cut_short();
        self.keep();
        let began = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let is_clear = self.sweep();
            self.report();
            if !is_clear && began.elapsed() < CLEARED {
                thread::park_timeout(LOOK);
                continue;
            }
            if let Some((asked, done)) = self.parts.shared.take() {
                let drill = self.drill(&asked, is_clear, &|| stop.load(Ordering::Relaxed));
                self.report();
                let _gone = done.send(drill);
            } else if self.is_due() {
                let asked = Asked { actor: schedule(), reason: "it is due".into() };
                self.drill(&asked, is_clear, &|| stop.load(Ordering::Relaxed));
            } else {
                self.rest(is_clear);
            }
        }
    }

    /// Waits until something is to be done, or the thread is unparked: by a request, or because it is to stop.
    fn rest(&self, is_clear: bool) {
        let (known, now) = (self.drills.known(self.parts.started_ns), clock::wall_ns());
        let scheduled = self.parts.schedule.map(|schedule| schedule.rests(&known, self.delay, now));
        let scheduled = scheduled.map(|rest| Duration::from_nanos(rest.0));
        let leftovers = (!is_clear).then_some(AGAIN);
        match scheduled.into_iter().chain(leftovers).min() {
            Some(wait) => thread::park_timeout(wait),
            None => thread::park(),
        }
    }

    fn is_due(&self) -> bool {
        let (known, now) = (self.drills.known(self.parts.started_ns), clock::wall_ns());
        self.parts.schedule.is_some_and(|schedule| now >= schedule.due_ns(&known, self.delay, now))
    }

    fn drill(&mut self, asked: &Asked, is_clear: bool, stop: &dyn Fn() -> bool) -> Drill {
        let began_ns = clock::wall_ns();
        let name = format!("{PREFIX}{}", began_ns / 1_000_000);
        let Asked { actor, reason } = asked.clone();
        self.drills.under = Some(Under { name: name.clone(), began_ns, actor, reason });
        self.keep();
        self.publish();
        let drill = if is_clear {
            once::drill(&self.parts, &name, asked, stop)
        } else {
            let why = "the run of an earlier drill has not ended: `failsafectl list` shows it".to_owned();
            Drill { problem: Some(why), ..nothing_done(self.drills.under.take().as_ref(), &name, began_ns) }
        };
        self.take(&drill);
        drill
    }

    /// Records a result.
    fn take(&mut self, drill: &Drill) {
        let stopped_in = drill.stopped_in.map(|span| span.to_string());
        match drill.result {
            Finding::Proved => {
                tracing::info!(name = drill.name, stopped_in, "a drill proved that the node stops a run")
            }
            Finding::NotDone => tracing::warn!(name = drill.name, why = drill.why(), "a drill could not be done"),
            Finding::Unproved | Finding::Failed => {
                tracing::error!(name = drill.name, why = drill.why(), "a drill did not prove that the node stops a run")
            }
        }
        self.parts.log.record(&Record::Drill(drill.clone()), drill.run, None);
        self.drills.take(drill);
        *match drill.result {
            Finding::Proved => &mut self.counts.proved,
            Finding::Unproved => &mut self.counts.unproved,
            Finding::NotDone => &mut self.counts.not_done,
            Finding::Failed => &mut self.counts.failed,
        } += 1;
        self.delay = delay(self.parts.schedule);
        self.keep();
        self.publish();
    }

    /// The result of a drill that an earlier daemon began and did not end.
    fn cut_short(&mut self) {
        let left = self.leftovers().into_iter().next();
        let under = self.drills.under.take();
        // The result of one that an orderly stop cut short is on record already.
        let is_known = |run: &Run| self.drills.last.as_ref().is_some_and(|last| last.name == run.name);
        if under.is_none() && left.as_ref().is_none_or(is_known) {
            return;
        }
        let name = under.as_ref().map(|under| under.name.clone()).or(left.as_ref().map(|run| run.name.clone()));
        let name = name.unwrap_or_default();
        let began_ns = under.as_ref().map(|under| under.began_ns).or(left.as_ref().map(|run| run.registered_wall_ns));
        let problem = Some("the daemon ended during the drill".to_owned());
        let run = left.filter(|run| run.name == name).map(|run| run.id);
        let drill = Drill { run, problem, ..nothing_done(under.as_ref(), &name, began_ns.unwrap_or_default()) };
        self.take(&drill);
    }

    /// Runs of drills that live or are guarded. In this thread none of them is one of its own.
    fn leftovers(&self) -> Vec<Run> {
        let registry = &self.parts.registry;
        // Of many runs: only those of drills are copied.
        let of_drill = |run: &Run| is_drill(&run.labels).then(|| run.clone());
        let (live, guarded) = registry.live_and_guarded();
        let live = live.into_iter().filter_map(|live| of_drill(&live.run));
        live.chain(guarded.into_iter().filter_map(|guarded| of_drill(&guarded.run))).collect()
    }

    /// Ends the runs of earlier drills. True: there are none.
    fn sweep(&mut self) -> bool {
        let left = self.leftovers();
        if left.is_empty() || self.swept.is_some_and(|at| at.elapsed() < AGAIN) {
            return left.is_empty();
        }
        self.swept = Some(Instant::now());
        for run in left {
            tracing::warn!(run = %run.id, name = run.name, "the run of an earlier drill is ended");
            self.end(run.id);
        }
        false
    }

    fn end(&self, run: RunId) {
        let reason = "left by a drill that was cut short".to_owned();
        let at = MonoTime(clock::monotonic_ns());
        let control =
            Control { seq: 0, at, run, command: Command::Kill, actor: Actor::Daemon, role: "admin".into(), reason };
        if let Some(live) = self.parts.registry.get(run) {
            let _entered = live.withdraw();
            let (tell, _nobody_waits) = mpsc::unbounded_channel();
            let ticket = Ticket::new(Some(Instant::now() + AGAIN));
            if let Err(why) = self.parts.lane.command(Urgent::Control { control, tell, ticket }, true) {
                tracing::warn!(%run, %why, "the run of an earlier drill is not killed");
            }
            // One that no process entered is not seen as empty by itself.
            self.send(Message::Ended(run));
        } else if let Some(guarded) = self.parts.registry.guarded_of(run) {
            self.parts.log.record(&Record::Control(control.clone()), Some(run), None);
            let (report, at) = guarded.obey(&control, Instant::now() + self.parts.action_deadline);
            let (verdict, proofs) = (report.verdict, report.proofs);
            let record = Record::ControlOutcome { command: control.command, actor: control.actor, verdict, proofs, at };
            self.parts.log.record(&record, Some(run), None);
        }
    }

    /// Has the health of the node and the API show what is known.
    fn report(&mut self) {
        let failed = self.drills.failed.as_ref().map(|drill| {
            format!("drill {} failed, {}: it is not proved that this node can stop a run", drill.name, drill.why())
        });
        let (known, now) = (self.drills.known(self.parts.started_ns), clock::wall_ns());
        let overdue = self.parts.schedule.filter(|schedule| schedule.overdue_since_ns(&known, now).is_some());
        let overdue = overdue.map(|schedule| {
            let last = match &self.drills.last {
                Some(drill) => format!("; the last drill, {}: {}", drill.result.name(), drill.why()),
                None => String::new(),
            };
            format!(
                "no drill has proved for longer than drill.every ({}) that this node can stop a run{last}",
                schedule.every
            )
        });
        let changed = [self.failed.update(failed), self.overdue.update(overdue)];
        if changed.iter().any(Option::is_some) {
            self.publish();
        }
        changed.into_iter().flatten().for_each(|message| self.send(message));
    }

    fn publish(&self) {
        let (known, now) = (self.drills.known(self.parts.started_ns), clock::wall_ns());
        let schedule = self.parts.schedule;
        self.parts.shared.show(View {
            drills: self.drills.clone(),
            due_ns: schedule.map(|schedule| schedule.due_ns(&known, self.delay, now)),
            overdue: schedule.is_some_and(|schedule| schedule.overdue_since_ns(&known, now).is_some()),
            counts: self.counts,
        });
    }

    fn keep(&self) {
        if let Err(error) = self.parts.file.write(&self.drills) {
            tracing::warn!(why = chain(&error), "the results of drills are not stored: a restart forgets them");
        }
    }

    fn send(&self, message: Message) {
        // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
        let _closed = self.parts.pipeline.send(message);
    }
}

/// The actor of scheduled drills.
fn schedule() -> Actor {
    Actor::Schedule { name: "drill".into() }
}

/// A drill that failed before anything was done.
fn nothing_done(under: Option<&Under>, name: &str, began_ns: i64) -> Drill {
    Drill {
        run: None,
        name: name.to_owned(),
        result: Finding::Failed,
        stopped_in: None,
        steps: Vec::new(),
        failed: None,
        problem: None,
        began_ns,
        took: Span(u64::try_from(clock::wall_ns().saturating_sub(began_ns)).unwrap_or(0)),
        actor: under.map_or(Actor::Daemon, |under| under.actor.clone()),
        reason: under.map(|under| under.reason.clone()).unwrap_or_default(),
    }
}

/// A random part of the jitter.
fn delay(schedule: Option<Schedule>) -> Span {
    let most = schedule.map_or(0, |schedule| schedule.jitter.0);
    let random = getrandom::u64().unwrap_or_else(|_| clock::monotonic_ns());
    Span(if most == 0 { 0 } else { random % most.saturating_add(1) })
}

//! The pipeline: one thread that owns the engine's state. Everything that enters the core passes here, in one order.
//!
//! ```text
//! sensors, starts  ─► queue ─┐
//!                            ├─► number ─► step ─► decisions ─► interpreter (at once), audit log, recording
//! commands, orders ─► lane ──┘                                     │
//!                      └──────────── outcomes, evidence ◄──────────┘
//! ```
//! The lane is emptied before each input, so no flood in the queue delays a command or an outcome.
//!
//! Invariants: only this thread steps the engine; containment is begun before its record is written; an outcome's record
//! follows its decision's in the log. This thread waits for nobody (ADR 18 lists the locks it takes, and who holds each for
//! how long): it touches no file but those of runs' cgroups that are open already. The queue is bounded: a flood makes the sensors wait, the
//! kernel's ring fill, and the loss is counted there.

pub mod amdgpu_ingest;
pub mod attribution;
mod blindness;
pub mod containment;
mod decided;
mod differences;
mod ends;
pub mod gpu_ownership;
mod hardware;
pub mod health;
mod judge;
pub mod klog;
pub mod lane;
mod lives;
pub mod mailbox;
pub mod metrics;
pub mod nvml_ingest;
mod pause;
pub mod pulse;
pub mod queue;
#[cfg(test)]
mod queue_tests;
pub mod recording;
pub mod removal;
mod rules;
mod run_gpus;
mod sync;
mod unsure;

use crate::{
    fair::{Fair, User},
    interpreter::{ActuatorReport, Interpreter},
    log::Log,
    platform::{clock, sched},
    runs::{LiveRun, Registry, reaper::Reaper},
    shadows::{self, Feed},
};
use containment::{Answer, Containments, PendingAnswers};
use ends::{END_AFTER, Ends};
use failsafe_core::{
    Action, GpuId, Input, Kind, Mode, MonoTime, Outcome, Policy, RunId, Subject, Value,
    actor::OWNER,
    input::{self, Control, Gap},
    record::Record,
    signal::Source,
    silence::Silence,
    xid::Storms,
};
use failsafe_matchers::shadow::Now;
use judge::Judge;
use lane::{Command, Lane, Urgent};
use mailbox::Mailbox;
use recording::Recordings;
use removal::Remover;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc::RecvTimeoutError},
    time::{Duration, Instant},
};

/// Messages that may wait for the pipeline; the channel holds room for all of them at once.
pub const QUEUE: usize = 1_024;
/// Last values of the metrics of a run that are shown at most.
const METRICS_SHOWN: usize = 64;
/// The core is told the time at least this often.
const TICK: Duration = Duration::from_secs(1);

/// Events that are taken in before it is looked whether a user who had none has some now.
const TURNS: usize = 32;

/// What enters the pipeline.
pub enum Message {
    /// An input, numbered here.
    Input(Input),
    /// Inputs that came together, in their order.
    Inputs(Vec<Input>),
    /// Events of the kernel's ring wait there.
    Events(Arc<Mailbox>),
    /// A run was attached in the kernel; it is judged once this is answered.
    Started {
        /// The run.
        live: Arc<LiveRun>,
        /// What spoke against its GPUs, where it is for repair.
        repair: Vec<String>,
        /// Which of its rules this kernel does not keep, and why.
        broken: Vec<String>,
        /// Who waits.
        done: tokio::sync::oneshot::Sender<()>,
    },
    /// A run taken up again at the daemon's start, with what was found.
    Adopted {
        /// The run.
        live: Arc<LiveRun>,
        /// What was found, in words.
        found: String,
        /// Until when it is known to have been frozen, where somebody else thawed it since.
        frozen_until_ns: Option<u64>,
    },
    /// From here on what is decided about the run is carried out, or only recorded.
    Mode(RunId, Mode),
    /// The run's cgroup is empty or gone.
    Ended(RunId),
    /// The guard found the run's cgroup frozen, as it should be.
    StillFrozen(RunId),
    /// Something waits in the control lane, see [`lane`].
    Urgent,
    /// Answered when what came before it is judged, and the containment that follows is begun.
    Judged(tokio::sync::oneshot::Sender<()>),
    /// Answered with the last values of the metrics of a run, and how many there are more.
    Metrics {
        /// The run.
        run: RunId,
        /// The answer.
        done: tokio::sync::oneshot::Sender<(Vec<failsafe_core::decision::Observation>, usize)>,
    },
    /// A shadow begins or ends.
    Shadow(shadows::ShadowChange),
    /// Of the node's health.
    Health(health::Message),
    /// From the kernel's log.
    Kernel(Box<klog::Message>),
    /// What was done to a run before it was taken up, in its place among the messages about it.
    ActuatorReport(ActuatorReport),
    /// Stop.
    Stop,
}

/// The way in.
pub type Sender = queue::Sender<Message>;

/// What the pipeline needs of the daemon.
pub struct Parts {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The audit log.
    pub log: Log,
    /// The interpreter.
    pub interpreter: Interpreter,
    /// Commands and outcomes, taken before anything else.
    pub lane: Lane,
    /// The recordings.
    pub recordings: Recordings,
    /// The way to the policies that are judged beside those in force.
    pub shadows: Feed,
    /// Most bytes of one recording.
    pub recording_max_bytes: u64,
    /// Removes the cgroups of runs that are over.
    pub remover: Remover,
    /// Tidies up after ended runs.
    pub reaper: Reaper,
    /// The health of the node.
    pub health: health::HealthStore,
    /// This boot's id.
    pub boot_id: String,
}

/// The pipeline.
pub struct Pipeline {
    parts: Parts,
    judge: Judge,
    runs: BTreeMap<RunId, Arc<LiveRun>>,
    containments: Containments,
    waiting: PendingAnswers,
    ends: Ends,
    storms: Storms,
    silence: Silence,
    /// Signals of GPUs of which it is on record that they cannot be read.
    unread: BTreeSet<(GpuId, Kind)>,
    /// Outcomes that are known when a decision is begun: they are recorded behind it.
    at_once: Vec<Outcome>,
    /// Commands about runs that are made and not yet started here.
    early: Vec<Command>,
    /// Rules that could not be judged.
    unsure: unsure::Unsure,
    /// Room for the events that are taken in next.
    batch: Vec<Input>,
    /// Those that wait for their user's turn.
    fair: Fair<Input>,
    /// Lines about decisions in the daemon's own log.
    lines: decided::Lines,
    /// Whose rules are looked at next.
    turns: rules::Turns,
    /// Sets the pulse of this thread, see [`pulse`].
    alive: Box<dyn FnMut() + Send>,
    /// When this thread last came by.
    progress: pause::Progress,
    /// How a restart differs, in words, while the inputs that say so are judged.
    differences: Option<String>,
    /// When the processor was last left to the processes of a run that freezes.
    gave_way: Option<Instant>,
}

impl Pipeline {
    /// A pipeline without runs.
    pub fn new(parts: Parts) -> Pipeline {
        Pipeline {
            parts,
            judge: Judge::default(),
            runs: BTreeMap::new(),
            containments: Containments::default(),
            waiting: PendingAnswers::default(),
            ends: Ends::default(),
            storms: Storms::default(),
            silence: Silence::default(),
            unread: BTreeSet::new(),
            at_once: Vec::new(),
            early: Vec::new(),
            unsure: unsure::Unsure::default(),
            batch: Vec::new(),
            fair: Fair::default(),
            lines: decided::Lines::default(),
            turns: rules::Turns::default(),
            alive: Box::new(|| {}),
            progress: pause::Progress::default(),
            differences: None,
            gave_way: None,
        }
    }

    /// Works until told to stop. `alive` is called after each input and at least once a tick: the heartbeat depends on it.
    pub fn work(mut self, queue: &queue::Receiver<Message>, alive: impl FnMut() + Send + 'static) {
        self.alive = Box::new(alive);
        sched::freeze_path("pipeline");
        let mut ticked = Instant::now();
        loop {
            let wait = TICK.saturating_sub(ticked.elapsed());
            let wait = if self.ends.kills().is_empty() { wait } else { wait.min(END_AFTER / 4) };
            let message = match queue.recv_timeout(wait) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stop(),
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
            };
            self.urgent();
            if let Some(message) = message {
                self.take(message);
            }
            self.settle_killed();
            self.parts.recordings.hand_on();
            self.parts.shadows.hand_on();
            (self.alive)();
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.parts.reaper.hand_on();
                self.parts.health.tick(MonoTime(clock::monotonic_ns()));
                if !self.runs.is_empty() {
                    let now = MonoTime(clock::monotonic_ns());
                    self.feed(Input::Tick(now));
                    self.listen_for_silence(now);
                }
            }
        }
    }

    /// A time in which this thread made no progress: nothing was seen, so nothing that is missing of it counts as silence.
    fn notice_pause(&mut self) {
        let now = MonoTime(clock::monotonic_ns());
        let Some(length) = self.progress.pause(now) else { return };
        let what = format!("the daemon made no progress for {length}: this time counts as silence of no run");
        let gap = Gap { seq: 0, at: now, source: Source::Guard, run: None, gpu: None, what, lost: 0, blind: false };
        tracing::warn!(%length, "the daemon made no progress");
        self.parts.log.record(&Record::Gap(gap), None, None);
        self.silence.paused(now, length);
        if !self.runs.is_empty() {
            self.feed(Input::Paused { at: now, length });
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.input(input),
            Message::Inputs(inputs) => {
                self.differences = differences::of(&inputs);
                inputs.into_iter().for_each(|input| {
                    self.input(input);
                    self.urgent();
                });
                self.differences = None;
            }
            Message::Events(mailbox) => self.events(&mailbox),
            Message::Started { live, repair, broken, done } => {
                let policy_name = named(&live.policy);
                let broken = first(broken);
                let record = Record::RunStarted { run: live.run.clone(), policy_name, broken, repair };
                self.parts.log.record(&record, Some(live.run.id), None);
                self.start(live);
                let _gone = done.send(());
            }
            Message::Adopted { live, found, frozen_until_ns } => {
                let record = Record::RunAdopted { run: live.run.clone(), found, part: live.part, frozen_until_ns };
                self.parts.log.record(&record, Some(live.run.id), None);
                self.start(live);
            }
            Message::Mode(run, mode) => {
                if self.runs.contains_key(&run) {
                    self.feed(Input::Mode { run, mode, at: MonoTime(clock::monotonic_ns()) });
                }
            }
            Message::Ended(run) => {
                if !self.runs.get(&run).is_some_and(|live| live.is_over()) {
                    self.ends.is_not_empty(run);
                } else if self.ends.is_settled(run, Instant::now()) {
                    self.end_if_vacant(run);
                }
            }
            Message::StillFrozen(run) => {
                if let Some(outcome) = self.containments.cgroup_frozen(run, MonoTime(clock::monotonic_ns())) {
                    self.outcome(outcome);
                }
            }
            Message::Judged(done) => drop(done.send(())),
            Message::Metrics { run, done } => drop(done.send(self.judge.state.last_metrics(run, METRICS_SHOWN))),
            Message::Shadow(order) => self.shadow(order),
            Message::Health(message) => self.parts.health.message(message),
            Message::Kernel(message) => self.kernel_says(*message),
            Message::ActuatorReport(told) => self.told(told),
            Message::Urgent | Message::Stop => {}
        }
    }

    /// Takes in what waits in a mailbox, users in turns. What comes meanwhile takes part, up to what the mailbox has room for: then other
    /// messages have their turn. Nothing is left over, as messages behind this one mean what came before them.
    fn events(&mut self, mailbox: &Mailbox) {
        let mut batch = std::mem::take(&mut self.batch);
        let mut taken = 0;
        loop {
            if taken < mailbox.room() {
                mailbox.take(&mut batch);
                taken += batch.len();
                for input in batch.drain(..) {
                    let user = self.user_of(&input);
                    self.fair.put(user, input);
                }
            }
            for _ in 0..TURNS {
                let Some(input) = self.fair.next() else {
                    self.batch = batch;
                    return;
                };
                self.input(input);
                self.urgent();
            }
        }
    }

    /// The user of the run that an input is about.
    fn user_of(&self, input: &Input) -> User {
        let run = match input {
            Input::Signal(signal) => signal.subject.run(),
            Input::Gap(gap) => gap.run,
            Input::SeriesEnded { run, .. } => Some(*run),
            _ => None,
        };
        run.and_then(|run| self.runs.get(&run)).map(|live| live.run.owner_uid)
    }

    /// Takes in what waits in the control lane: never behind a flood of events, reads or starts. Called between two inputs, however many
    /// come together, so it shows as well that this thread makes progress.
    fn urgent(&mut self) {
        (self.alive)();
        self.notice_pause();
        while let Some(next) = self.parts.lane.next() {
            match next {
                Urgent::Command(command) => self.command(command),
                Urgent::Report(told) => self.told(told),
            }
        }
    }

    fn command(&mut self, command: Command) {
        // A run is listed from when the kernel holds it, a moment before it is started here.
        if let Command::Control { control, .. } = &command
            && !self.runs.contains_key(&control.run)
        {
            if self.parts.registry.get(control.run).is_some() {
                self.early.retain(|early| !early.is_withdrawn());
                self.early.push(command);
            }
            return;
        }
        if let Command::Control { control, .. } = &command
            && !self.may_begin(control)
        {
            command.refuse();
            return;
        }
        if !command.begin() {
            return;
        }
        match command {
            Command::Control { control, tell, .. } => self.control(control, tell),
            Command::Order { order, done, .. } => self.parts.health.message(health::Message::Order(order, done)),
        }
    }

    /// Whether a command is still allowed: another order may have come since its caller was authorised. The owner of a run may thaw
    /// what the owner alone froze, and only while the kernel's latch is off (ADR 78). A latch that cannot be read counts as on.
    fn may_begin(&self, control: &Control) -> bool {
        if control.command != input::Command::Thaw || control.role != OWNER {
            return true;
        }
        let kernel = self.parts.registry.kernel();
        let is_latched = self
            .runs
            .get(&control.run)
            .is_none_or(|live| kernel.blind().is_none() && kernel.is_blocked(live.slot).unwrap_or(true));
        !is_latched && self.judge.state.is_ordered_by_owner_alone(control.run)
    }

    /// Whether the owner orders a freeze of a run whose cgroup somebody else has frozen: a thaw of the owner must not lift that.
    fn is_frozen_by_others(&self, control: &Control) -> bool {
        let orders = control.command == input::Command::Freeze && control.role == OWNER;
        orders
            && !self.judge.state.is_frozen(control.run)
            && self.runs.get(&control.run).is_some_and(|live| live.cgroup.freeze_requested().unwrap_or(true))
    }

    fn input(&mut self, mut input: Input) {
        if self.is_echo(&input) {
            return;
        }
        let gpus = self.latest_gpus(&mut input);
        if let Input::Gap(gap) = &input {
            tracing::warn!(source = %gap.source, run = ?gap.run, lost = gap.lost, blind = gap.blind, what = gap.what, "gap");
            self.parts.log.record(&Record::Gap(gap.clone()), gap.run, None);
        }
        if let Input::Unread(unread) = &input {
            self.note_unread(unread);
        }
        if let Input::Signal(signal) = &input {
            self.heard_of(signal);
        }
        let unsure = match &input {
            Input::Signal(signal) => match signal.subject.run().and_then(|run| self.runs.get(&run)) {
                Some(live) => self.unsure.gaps(live.run.id, &live.policy, signal),
                None => Vec::new(),
            },
            _ => Vec::new(),
        };
        let settled = match &input {
            Input::Signal(signal) => match (&signal.subject, &signal.kind, &signal.value) {
                (Subject::Gpu(gpu), Kind::GpuUtilization, Value::Integer(now)) => {
                    self.containments.gpu(gpu, signal.at, *now)
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        self.feed(input);
        for outcome in settled {
            self.outcome(outcome);
        }
        if let Some(record) = gpus {
            self.parts.log.record(&record.0, Some(record.1), None);
        }
        // After the decision, which nothing may delay.
        unsure.into_iter().for_each(|gap| self.input(Input::Gap(gap)));
    }

    /// A shadow begins with what is known of the run now, or ends, between two inputs.
    fn shadow(&mut self, order: shadows::ShadowChange) {
        match order {
            shadows::ShadowChange::Begin(beginning) => match self.judge.state.gpus(beginning.run()) {
                Some(gpus) => {
                    let frozen = self.judge.state.is_frozen(beginning.run());
                    let now = Now { gpus: gpus.clone(), frozen, at: MonoTime(clock::monotonic_ns()) };
                    self.parts.shadows.begin(beginning, now);
                }
                None => beginning.refuse(),
            },
            shadows::ShadowChange::End(ending) => self.parts.shadows.end(ending),
        }
    }

    fn control(&mut self, mut control: Control, tell: tokio::sync::mpsc::UnboundedSender<Answer>) {
        let run = control.run;
        control.seq = self.judge.next_seq();
        self.parts.log.record(&Record::Control(control.clone()), Some(run), None);
        let of_others = self.is_frozen_by_others(&control);
        let decisions = self.feed(Input::Control(control));
        if of_others {
            self.judge.state.others_want_it_frozen(run);
            if let (Some(live), Some(containment)) = (self.runs.get(&run), self.judge.state.containment(run)) {
                live.status().containment.clone_from(containment);
            }
        }
        for decision in decisions {
            let main = decision.actions.iter().find(|a| matches!(a, Action::Freeze | Action::Thaw | Action::Kill));
            if let (Some(main), true) = (main, decision.id.run == run) {
                self.waiting.add(decision.id, *main, tell.clone());
            }
        }
    }
}

/// Rules that a run's beginning names one by one.
const NAMED_RULES: usize = 32;

fn first(mut all: Vec<String>) -> Vec<String> {
    if all.len() > NAMED_RULES {
        let more = all.len() - NAMED_RULES;
        all.truncate(NAMED_RULES);
        all.push(format!("and {more} more"));
    }
    all
}

fn named(policy: &Policy) -> String {
    format!("{} v{}", policy.name, policy.version)
}

#[cfg(test)]
mod tests;

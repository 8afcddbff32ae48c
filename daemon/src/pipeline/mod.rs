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

pub mod amd;
pub mod attribution;
mod blindness;
pub mod containment;
mod ends;
pub mod gpus;
mod hardware;
pub mod health;
mod judge;
pub mod klog;
pub mod lane;
pub mod mailbox;
pub mod metrics;
pub mod pulse;
pub mod queue;
#[cfg(test)]
mod queue_tests;
pub mod recording;
pub mod removal;
mod rules;
mod sync;
mod unsure;
pub mod whose;

use crate::{
    interpreter::{ActuatorReport, Interpreter},
    log::Log,
    platform::{clock, sched},
    runs::{LiveRun, Registry, reaper::Reaper},
};
use containment::{Answer, Containments, PendingAnswers};
use ends::{END_AFTER, Ends};
use failsafe_core::{
    Action, Decision, GpuId, Input, Kind, Mode, MonoTime, Outcome, Policy, RunId, Subject, Value,
    decision::{Cause, Upkeep, Verdict},
    drill::is_drill,
    engine,
    input::Control,
    record::{Record, RuleText},
    replay::Recorded,
    silence::Silence,
    xid::Storms,
};
use judge::{Judge, Stepped};
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
/// The core is told the time at least this often.
const TICK: Duration = Duration::from_secs(1);

/// How long a stop waits for the proof that runs which are over have ended.
const LAST_ENDS: Duration = Duration::from_secs(2);

/// After a freeze the processor is left to the run for this time, at most once in [`GIVES_WAY_EVERY`]. See ADR 23.
const GIVES_WAY_FOR: Duration = Duration::from_micros(100);
const GIVES_WAY_EVERY: Duration = Duration::from_millis(2);

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
            gave_way: None,
        }
    }

    /// Works until told to stop. `alive` is called after each message and at least once a tick: the heartbeat depends on it.
    pub fn work(mut self, queue: &queue::Receiver<Message>, mut alive: impl FnMut()) {
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
            alive();
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

    fn take(&mut self, message: Message) {
        match message {
            Message::Input(input) => self.input(input),
            Message::Inputs(inputs) => inputs.into_iter().for_each(|input| {
                self.input(input);
                self.urgent();
            }),
            Message::Events(mailbox) => {
                let mut batch = std::mem::take(&mut self.batch);
                mailbox.take(&mut batch);
                batch.drain(..).for_each(|input| {
                    self.input(input);
                    self.urgent();
                });
                self.batch = batch;
            }
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
            Message::Health(message) => self.parts.health.message(message),
            Message::Kernel(message) => self.kernel_says(*message),
            Message::ActuatorReport(told) => self.told(told),
            Message::Urgent | Message::Stop => {}
        }
    }

    /// Takes in what waits in the control lane: never behind a flood of events, reads or starts.
    fn urgent(&mut self) {
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
        if !command.begin() {
            return;
        }
        match command {
            Command::Control { control, tell, .. } => self.control(control, tell),
            Command::Order { order, done, .. } => self.parts.health.message(health::Message::Order(order, done)),
        }
    }

    fn told(&mut self, told: ActuatorReport) {
        match told {
            ActuatorReport::Outcome(outcome) => {
                let run = self.runs.get(&outcome.decision.run);
                let status = run.map(|r| r.status().clone()).unwrap_or_default();
                let gpus = run.map(|r| containment::proved_by(&status.gpus, &r.run.mig)).unwrap_or_default();
                // A thaw that gave way to a later freeze shows nothing of what that one has proved, and the reverse.
                let overtaken = match outcome.action {
                    Action::Thaw => status.containment.is_frozen(),
                    Action::Freeze => !status.containment.is_frozen(),
                    _ => false,
                };
                let outcome = if overtaken { outcome } else { self.containments.frozen(outcome, &gpus) };
                self.outcome(outcome);
            }
            ActuatorReport::Evidence { decision, snapshot } => {
                let record = Record::Evidence { decision: decision.id.n, snapshot };
                self.parts.log.record(&record, Some(decision.id.run), Some(decision.incident));
            }
        }
    }

    fn input(&mut self, input: Input) {
        if self.is_echo(&input) {
            return;
        }
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
        // After the decision, which nothing may delay.
        unsure.into_iter().for_each(|gap| self.input(Input::Gap(gap)));
    }

    fn start(&mut self, live: Arc<LiveRun>) {
        let run = live.run.clone();
        let path = self.parts.registry.store().recording(run.id, live.part);
        self.parts.recordings.open(&run, live.part, &live.policy, path, self.parts.recording_max_bytes);
        self.silence.started(&run, &live.policy);
        let id = run.id;
        self.judge.prepare(id, &(run.policy, live.policy.clone()), live.status().containment.clone());
        let mode = live.mode();
        self.runs.insert(id, live);
        if mode == Mode::Observe {
            // Before the start, which may decide something already.
            self.feed(Input::Mode { run: id, mode, at: run.registered });
        }
        self.feed(Input::RunStarted(run));
        let (own, others) = std::mem::take(&mut self.early).into_iter().partition(|early| early.run() == Some(id));
        self.early = others;
        let own: Vec<Command> = own;
        own.into_iter().for_each(|command| self.command(command));
    }

    /// Ends a run once its end is proved; until then it is judged as before.
    fn end_if_vacant(&mut self, id: RunId) {
        let Some(live) = self.runs.get(&id) else { return };
        if live.is_vacant() {
            self.end(id);
        } else {
            self.parts.remover.ask(live);
        }
    }

    /// The last work: a run that is over by now ends, though the sampler may not have seen that yet. Without a run the daemon then removes
    /// everything from the kernel.
    fn stop(&mut self) {
        self.urgent();
        let deadline = Instant::now() + LAST_ENDS;
        loop {
            let over: Vec<RunId> = self.runs.values().filter(|run| run.is_over()).map(|run| run.run.id).collect();
            // One that is being brought back may fill its run again.
            let waits = over.iter().any(|run| !self.ends.is_recaptured(*run));
            if !waits || Instant::now() >= deadline {
                return;
            }
            for run in over {
                if self.ends.is_settled(run, Instant::now()) {
                    self.end_if_vacant(run);
                }
            }
            std::thread::sleep(Duration::from_millis(5));
            self.urgent();
        }
    }

    fn end(&mut self, id: RunId) {
        let Some(live) = self.runs.remove(&id) else { return };
        let waiting = self.ends.ended(id);
        let suppressed = self.judge.state.suppressed(&self.judge.policies, id);
        self.feed(Input::RunEnded { run: id, at: MonoTime(clock::monotonic_ns()) });
        self.record(id, Input::RunEnded { run: id, at: MonoTime(clock::monotonic_ns()) }, &[]);
        self.containments.ended(id);
        self.silence.ended(id);
        self.unsure.ended(id);
        let frozen_ns = live.end(clock::wall_ns()).frozen_ns;
        for (answer, tell) in &waiting {
            let _gone = tell.send(answer.clone());
        }
        // The entry names the recording by its hash, so the thread that has the recording queues it. It stands behind the outcome
        // in the log: if it is durable, both are.
        let (log, stamp, name) = (self.parts.log.clone(), self.parts.log.stamp(), live.run.name.clone());
        self.parts.recordings.close(id, move |recording| {
            let record = Record::RunEnded { run: id, name, recording, suppressed, unwatched: None, frozen_ns };
            log.record_at_then(stamp, &record, Some(id), None, move |done| {
                for (answer, tell) in waiting.into_iter().filter(|_| done.is_ok()) {
                    let _gone = tell.send(Answer { durable: true, ..answer });
                }
            });
        });
        tracing::info!(run = %id, name = live.run.name, "run ended");
        if !self.runs.values().any(|other| other.run.policy == live.run.policy) {
            self.judge.forget(&live.run.policy);
        }
        self.parts.reaper.take(live);
    }

    /// Ends runs that were killed as soon as that is sure, and answers whoever killed one that does not end.
    fn settle_killed(&mut self) {
        for run in self.ends.kills() {
            if self.runs.get(&run).is_some_and(|live| live.is_over()) {
                if self.ends.is_settled(run, Instant::now()) {
                    self.end_if_vacant(run);
                }
            } else {
                for (answer, tell) in self.ends.given_up(run, Instant::now()) {
                    let _gone = tell.send(Answer { durable: true, ..answer });
                }
            }
        }
    }

    fn control(&mut self, mut control: Control, tell: tokio::sync::mpsc::UnboundedSender<Answer>) {
        let run = control.run;
        control.seq = self.judge.next_seq();
        self.parts.log.record(&Record::Control(control.clone()), Some(run), None);
        let decisions = self.feed(Input::Control(control));
        for decision in decisions {
            let main = decision.actions.iter().find(|a| matches!(a, Action::Freeze | Action::Thaw | Action::Kill));
            if let (Some(main), true) = (main, decision.id.run == run) {
                self.waiting.add(decision.id, *main, tell.clone());
            }
        }
    }

    fn outcome(&mut self, mut outcome: Outcome) {
        self.show_disarmed(&mut outcome);
        if let Action::Recapture { .. } = outcome.action {
            self.ends.recaptured(outcome.decision.run);
        }
        // Before the answer: whoever waits for it then finds the run as it was answered.
        let stepped = self.advance(Input::Outcome(outcome.clone()));
        match &outcome.verdict {
            Verdict::Proved => {
                tracing::info!(incident = %outcome.incident, action = %outcome.action, took = %outcome.took, "proved")
            }
            Verdict::Partial(missing) => {
                tracing::warn!(incident = %outcome.incident, action = %outcome.action, ?missing, "partial");
            }
            Verdict::Failed(cause) => {
                tracing::error!(incident = %outcome.incident, action = %outcome.action, cause, "failed")
            }
        }
        let last =
            !matches!(outcome.verdict, Verdict::Partial(_)) || !self.containments.is_partial(outcome.decision.run);
        let tell = self.waiting.of(&outcome, last);
        let record = Record::Outcome(outcome.clone());
        let (run, incident) = (Some(outcome.decision.run), Some(outcome.incident));
        let answer = Answer { outcome: outcome.clone(), durable: false, last };
        let is_dead = outcome.action == Action::Kill
            && outcome.verdict == Verdict::Proved
            && self.runs.get(&outcome.decision.run).is_some_and(|live| live.is_over());
        if is_dead {
            self.ends.killed(outcome.decision.run, tell.map(|tell| (answer, tell)), Instant::now());
            self.parts.log.record(&record, run, incident);
            self.carry_out(stepped);
            return;
        }
        match tell {
            Some(tell) => {
                let _gone = tell.send(answer.clone());
                self.parts.log.record_then(&record, run, incident, move |done| {
                    if done.is_ok() {
                        let _gone = tell.send(Answer { durable: true, ..answer });
                    }
                });
            }
            None => {
                self.parts.log.record(&record, run, incident);
            }
        }
        self.carry_out(stepped);
    }

    /// Numbers an input, steps the engine, begins what it decided, and then writes it all down.
    fn feed(&mut self, input: Input) -> Vec<Decision> {
        let stepped = self.advance(input);
        self.carry_out(stepped)
    }

    /// Numbers an input, steps the engine, and publishes what it desires now.
    fn advance(&mut self, input: Input) -> Stepped {
        let stepped = self.judge.step(input);
        self.publish(&stepped);
        stepped
    }

    /// The containment of the runs for which it may have changed. Before what is decided is begun: a thaw that is still
    /// running then gives way to a freeze.
    fn publish(&self, Stepped { input, decisions }: &Stepped) {
        let of_input = match input {
            Input::RunStarted(run) => Some(run.id),
            Input::Outcome(outcome) => Some(outcome.decision.run),
            // These change it by their decisions only.
            Input::Signal(_)
            | Input::Gap(_)
            | Input::Unread(_)
            | Input::Silent(_)
            | Input::SeriesEnded { .. }
            | Input::Mode { .. }
            | Input::RunGpus { .. }
            | Input::RunEnded { .. }
            | Input::Tick(_)
            | Input::Control(_) => None,
        };
        let changed: BTreeSet<RunId> = of_input.into_iter().chain(decisions.iter().map(|d| d.id.run)).collect();
        for id in changed {
            let (Some(live), Some(containment)) = (self.runs.get(&id), self.judge.state.containment(id)) else {
                continue;
            };
            let mut status = live.status();
            status.containment.clone_from(containment);
            if let Input::Outcome(outcome) = input {
                status.frozen.takes(outcome, containment);
                // Of one run at a time, with a few outcomes.
                if let Some(seen) = &mut status.drill {
                    seen.push(outcome.clone());
                }
            }
        }
    }

    fn carry_out(&mut self, Stepped { input, decisions }: Stepped) -> Vec<Decision> {
        for decision in &decisions {
            self.begin(decision, &input);
        }
        // After the containment, which nothing may delay.
        if !matches!(input, Input::Tick(_)) {
            self.parts.health.take(&input);
        }
        match &input {
            Input::Signal(signal) if signal.subject.run().is_some() => {
                if let Some(run) = signal.subject.run().filter(|run| self.runs.contains_key(run)) {
                    if let (Value::Event(event), Some(live)) = (&signal.value, self.runs.get(&run)) {
                        live.count(event, signal.repeats);
                    }
                    self.record(run, input, &decisions);
                }
            }
            _ => {
                let runs = self.runs.keys().copied();
                let concerned: Vec<RunId> =
                    runs.filter(|run| engine::concerns(&self.judge.state, &input, *run)).collect();
                concerned.into_iter().for_each(|run| self.record(run, input.clone(), &decisions));
            }
        }
        // Outcomes come after the decision's record, and step the engine again.
        for outcome in std::mem::take(&mut self.at_once) {
            self.told(ActuatorReport::Outcome(outcome));
        }
        decisions
    }

    /// Records an input of the run, and what of it was decided about the run.
    fn record(&mut self, run: RunId, input: Input, decisions: &[Decision]) {
        self.parts.recordings.entry(run, Recorded::Input(input));
        for decision in decisions.iter().filter(|d| d.id.run == run) {
            self.parts.recordings.entry(run, Recorded::Decision(decision.clone()));
        }
    }

    /// A process freezes when it gets a processor, which this thread would keep for the record of the decision. It leaves it for a
    /// moment, and only now and then: freezes that follow at once do not wait.
    fn give_way(&mut self, decision: &Decision) {
        let freezes = decision.mode == Mode::Enforce && decision.actions.contains(&Action::Freeze);
        if freezes && self.gave_way.is_none_or(|last| last.elapsed() >= GIVES_WAY_EVERY) {
            std::thread::sleep(GIVES_WAY_FOR);
            self.gave_way = Some(Instant::now());
        }
    }

    fn begin(&mut self, decision: &Decision, input: &Input) {
        let Some(live) = self.runs.get(&decision.id.run).cloned() else { return };
        if let Some(view) = self.judge.state.run(decision.id.run) {
            let mut status = live.status();
            status.decisions = view.decisions;
            status.incidents = view.incidents;
            status.incident = (view.frozen || view.blocked).then_some(decision.incident);
        }
        self.ends.begun(decision);
        let decided = self.parts.log.stamp();
        let refused = self.parts.interpreter.begin(&live, decision, || self.judge.state.last_signals(decision.id.run));
        self.at_once.extend(refused);
        self.give_way(decision);
        let rule = match &decision.cause {
            Cause::Rule { rule, .. } => live.policy.rule(rule).map(|rule| RuleText {
                rationale: rule.rationale.clone(),
                owner: rule.owner.clone(),
                playbook: rule.playbook.clone(),
                policy: named(&live.policy),
                effect: rule.effect,
            }),
            _ => None,
        };
        let actions: Vec<String> = decision.actions.iter().map(Action::to_string).collect();
        tracing::warn!(
            run = %decision.id.run, name = live.run.name, incident = %decision.incident, cause = ?decision.cause,
            actions = actions.join(","), mode = ?decision.mode, "decision"
        );
        let blind = matches!(decision.cause, Cause::Upkeep { what: Upkeep::Blind })
            .then(|| blindness::cause(&self.judge.state, &self.judge.policies, decision, input));
        let drill = is_drill(&live.run.labels);
        let record = Record::Decision { decision: decision.clone(), rule, blind, drill };
        self.parts.log.record_at(decided, &record, Some(decision.id.run), Some(decision.incident));
        if decision.mode == Mode::Enforce {
            self.cordons(decision, &live.run.name);
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

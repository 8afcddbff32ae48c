//! The guard: ten times a second it checks that the desired freeze and latch of each run hold, and writes them again if not.
//!
//! ```text
//! guard:    root's cgroup.freeze and cgroup.events, latch   (open files and one map: never waits, needs no descriptor)
//! sweeper:  the levels below the root                        (walks: may take long, may fail, is tried again)
//! ```
//! Owns when each run is looked at next. Invariants: the guard writes only what is desired while it holds the run's gate, and
//! a thaw takes that gate after it cleared the desired freeze; a failed write is retried, at least once a second, for as
//! long as it is desired, and its error is shown until the kernel proves the freeze and the latch, or neither is desired; a
//! freeze that somebody else undid is reported to the pipeline.

mod retries;

use crate::{
    actuators::cgroup::{Hold, freeze::sweep, is_still_frozen},
    pipeline::{Message, Sender, pulse::Pulse},
    platform::sched,
    runs::{LiveRun, Registry, translate::guarded},
};
use failsafe_core::{
    Containment, RunId,
    containment::{ContainmentState, Measure},
    event::Event,
};
use retries::Retries;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::TrySendError,
    },
    time::{Duration, Instant},
};

/// How often the guard looks at the runs for which a freeze or a latch is desired.
const EVERY: Duration = Duration::from_millis(100);
/// The sweeper spends at most one part in so many of its time on one run.
const SHARE: u32 = 10;

/// Messages that may wait for room in the pipeline's queue: what is not told is seen again at the next look.
const UNSENT: usize = 1_024;

/// What a look at a run has found.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// What is desired holds: it was read back.
    Holds,
    /// It is written, and the kernel does not show yet that it holds.
    Unproved(&'static str),
    /// Somebody else is at it, who has the gate: nothing was looked at.
    Busy,
    /// The kernel refused it.
    Failed(String),
}

impl Look {
    /// The worse of the two.
    fn and(self, other: Look) -> Look {
        let rank = |look: &Look| match look {
            Look::Holds => 0,
            Look::Unproved(_) => 1,
            Look::Busy => 2,
            Look::Failed(_) => 3,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}

/// What the guard keeps in force of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    frozen: bool,
    latched: bool,
}

impl Held {
    fn of(containment: &Containment) -> Held {
        let mut held = Held::default();
        for step in containment.steps().iter().filter(|step| step.desired.is_some()) {
            match step.measure {
                Measure::Freeze => held.frozen = true,
                Measure::Latch => held.latched = true,
                // Nothing undoes a kill.
                Measure::Kill => {}
            }
        }
        held
    }
}

/// The guard's thread.
pub struct Guard {
    registry: Arc<Registry>,
    pipeline: Sender,
    retries: Retries,
    /// What the pipeline's queue had no room for.
    unsent: Vec<Message>,
}

impl Guard {
    /// A guard; [`Guard::work`] runs it.
    pub fn new(registry: Arc<Registry>, pipeline: Sender) -> Guard {
        Guard { registry, pipeline, retries: Retries::default(), unsent: Vec::new() }
    }

    /// Guards until `stop`.
    pub fn work(mut self, stop: &AtomicBool, pulse: &Pulse) {
        sched::freeze_path("guard");
        while !stop.load(Ordering::Relaxed) {
            pulse.beat();
            for message in std::mem::take(&mut self.unsent) {
                self.send_or_keep(message);
            }
            let live = self.registry.live();
            self.retries.retain(|id| live.iter().any(|run| run.run.id == id));
            for run in &live {
                let held = Held::of(&run.status().containment);
                if held != Held::default() {
                    self.look(run, held);
                } else {
                    self.settled(run);
                }
            }
            let next = self.retries.next(Instant::now());
            std::thread::park_timeout(next.map_or(EVERY, |due| due.clamp(Duration::from_millis(1), EVERY)));
        }
    }

    fn look(&mut self, run: &Arc<LiveRun>, Held { frozen, latched }: Held) {
        let id = run.run.id;
        if !self.retries.is_due(id, Instant::now()) {
            return;
        }
        let latched = if latched { self.latch(run) } else { Look::Holds };
        let done = if frozen { self.root(run) } else { Look::Holds };
        match latched.and(done) {
            Look::Holds => self.settled(run),
            Look::Busy => self.retries.put_off(id, Instant::now()),
            Look::Unproved(why) => {
                self.retries.put_off(id, Instant::now());
                // Without a failure before, the state `partial` shows it.
                if self.retries.has_failed(id) {
                    run.status().containment_error = Some(why.into());
                    self.registry.touched().note(id);
                }
            }
            Look::Failed(why) => {
                if self.retries.failed(id, Instant::now()) {
                    tracing::error!(run = %id, why, "the run cannot be contained; the guard retries until it can");
                }
                run.status().containment_error = Some(why);
                self.registry.touched().note(id);
            }
        }
    }

    fn settled(&mut self, run: &LiveRun) {
        if self.retries.settled(run.run.id) {
            tracing::warn!(run = %run.run.id, "the guard has settled the run's containment after failed writes");
            run.status().containment_error = None;
            self.registry.touched().note(run.run.id);
        }
    }

    /// The root alone: it holds all that is below it.
    fn root(&mut self, run: &LiveRun) -> Look {
        let Some(_gate) = run.try_gate() else { return Look::Busy };
        if !run.status().containment.is_frozen() {
            return Look::Holds;
        }
        let looked = run.cgroup.freeze_requested().and_then(|requested| {
            if !requested {
                run.cgroup.refuse_if_own()?;
                run.cgroup.write_file("cgroup.freeze", b"1")?;
            }
            Ok((requested, run.cgroup.events()?))
        });
        let (requested, events) = match looked {
            Ok(looked) => looked,
            Err(error) if error.is_vanished() => {
                self.send_or_keep(Message::Ended(run.run.id));
                return Look::Holds;
            }
            Err(error) => return Look::Failed(error.chain()),
        };
        let (was_frozen, partial) = {
            let status = run.status();
            (status.frozen.is_frozen(), status.containment.state() == ContainmentState::Partial)
        };
        if !requested && was_frozen {
            self.send_or_keep(foreign_thaw(run, 1));
        }
        if partial && events.frozen && events.populated {
            self.send_or_keep(Message::StillFrozen(run.run.id));
        }
        if events.populated && !events.frozen {
            return Look::Unproved("cgroup.freeze is 1, but not every process is frozen yet (cgroup.events: frozen 0)");
        }
        Look::Holds
    }

    fn latch(&self, run: &LiveRun) -> Look {
        let kernel = self.registry.kernel();
        // Nothing is latched without eBPF, which `start` and `list` say.
        if kernel.blind().is_some() || kernel.is_blocked(run.slot) == Some(true) {
            return Look::Holds;
        }
        let Some(_gate) = run.try_gate() else { return Look::Busy };
        if !run.status().containment.is_latched() || run.ended().is_some() {
            return Look::Holds;
        }
        match kernel.set_block(run.slot, run.epoch, true) {
            Ok(()) => Look::Holds,
            Err(error) => Look::Failed(format!("egress latch: {error}")),
        }
    }

    /// Never waits: what finds the queue full is sent at the next look.
    fn send_or_keep(&mut self, message: Message) {
        if let Err(TrySendError::Full(message)) = self.pipeline.try_send(message)
            && self.unsent.len() < UNSENT
        {
            self.unsent.push(message);
        }
    }
}

/// The thread that looks at the levels below the roots.
pub struct Sweeper {
    registry: Arc<Registry>,
    pipeline: Sender,
    due: BTreeMap<RunId, Instant>,
}

impl Sweeper {
    /// A sweeper; [`Sweeper::work`] runs it.
    pub fn new(registry: Arc<Registry>, pipeline: Sender) -> Sweeper {
        Sweeper { registry, pipeline, due: BTreeMap::new() }
    }

    /// Sweeps until `stop`.
    pub fn work(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let live = self.registry.live();
            self.due.retain(|id, _| live.iter().any(|run| run.run.id == *id));
            for run in live.iter().filter(|run| run.status().containment.is_frozen()) {
                let began = Instant::now();
                if self.due.get(&run.run.id).is_some_and(|due| *due > began) {
                    continue;
                }
                self.run(run);
                let next = (began.elapsed() * SHARE).max(EVERY);
                self.due.insert(run.run.id, Instant::now() + next);
            }
            std::thread::park_timeout(EVERY);
        }
    }

    fn run(&self, run: &LiveRun) {
        let (swept, was_frozen) = {
            let status = run.status();
            (status.swept, status.frozen.is_frozen())
        };
        if !was_frozen {
            // Its verification sweeps.
            return;
        }
        if !swept {
            let _levels = run.levels.lock().unwrap_or_else(PoisonError::into_inner);
            let done = sweep(&run.cgroup, None, &|| run.status().containment.is_frozen());
            match done.unfinished {
                None => run.status().swept = true,
                Some(why) => tracing::warn!(run = %run.run.id, why, "levels below a frozen root are not all frozen"),
            }
            return;
        }
        match is_still_frozen(&run.cgroup) {
            Ok(Hold::Loose { levels, .. }) => {
                let below = levels.iter().filter(|level| level.as_path() != run.cgroup.path()).count();
                // A thaw may have begun meanwhile, whose work this is.
                if below > 0 && run.status().containment.is_frozen() {
                    let _later = self.pipeline.try_send(foreign_thaw(run, u32::try_from(below).unwrap_or(u32::MAX)));
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(run = %run.run.id, error = %error.chain(), "the levels of a frozen run cannot be read");
            }
        }
    }
}

fn foreign_thaw(run: &LiveRun, levels: u32) -> Message {
    Message::Input(guarded(run.run.id, Event::ForeignThaw { levels }))
}

#[cfg(test)]
mod tests;

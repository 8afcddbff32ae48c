//! One drill: makes its run, has the node stop it by the policy, and checks each step by what the kernel shows.
//!
//! ```text
//! registry: make ─► pipeline: judged ─► process in the cgroup ─► it violates ─► kernel: latch ─► ring ─► pipeline: freeze ─► verify
//!      (as any other run)                                      ping: no answer ◄─ frozen and latched ◄──────────────────────┘
//!      thaw, kill: by the control lane, as an operator's          ping: answer ◄─ thawed        killed, ended, cgroup removed
//! ```
//! Invariants: each wait has a limit and ends when the daemon stops; whatever fails, the process is killed and the run ends; the
//! threads of the freeze path wait for nothing here.

use super::{
    Parts,
    target::{DENIED, Target},
};
use crate::{
    guard::kernel::KernelError,
    pipeline::{
        Message,
        containment::Answer,
        lane::{Command as Urgent, Ticket},
    },
    platform::clock,
    runs::{
        LiveRun,
        claims::Unclaimed,
        grants,
        start::{Place, StartError, Wanted},
    },
};
use failsafe_core::{
    Action, Actor, Mode, MonoTime, Outcome, Policy,
    decision::Verdict,
    drill::{Done, Drill, Finding, LABEL, POLICY, Step},
    input::{Command, Control},
    policy::parse::parse,
    time::Span,
};
use std::{
    cell::Cell,
    collections::BTreeMap,
    io,
    os::unix::process::ExitStatusExt,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};

/// A step takes at most this long, and as long as an action may take more than that.
const STEP: Duration = Duration::from_secs(5);
/// How long the frozen process has to be silent.
const SILENT: Duration = Duration::from_millis(200);
/// How often a state is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// The pipeline ends a run once it was found empty for 100 ms: it is asked again after this time.
const EMPTY_FOR: Duration = Duration::from_millis(150);

/// Why a drill proves nothing.
enum Missed {
    /// A step failed.
    Failed(Step, String),
    /// The node only observes.
    Observed,
    /// It cannot be done now, for a reason that says nothing about containment.
    NotDone(String),
}

type Stepped<T> = Result<T, Missed>;

fn failed<E: ToString>(step: Step) -> impl Fn(E) -> Missed {
    move |why| Missed::Failed(step, why.to_string())
}

/// Who asks for a drill, and why.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who.
    pub actor: Actor,
    /// Why.
    pub reason: String,
}

/// Does a drill. It returns when nothing is left of the run, or that is what failed.
pub(super) fn drill(parts: &Parts, name: &str, asked: &Asked, stop: &dyn Fn() -> bool) -> Drill {
    let (began_ns, began) = (clock::wall_ns(), Instant::now());
    let mut attempt = Attempt {
        parts,
        name,
        stop,
        cut_short: Cell::new(false),
        live: None,
        target: None,
        said: None,
        stopped_in: None,
        steps: Vec::new(),
    };
    let done = attempt.all(asked);
    let (result, failed, problem) = match done {
        Ok(()) => (Finding::Proved, None, None),
        Err(Missed::Observed) => {
            let why = "the node observes: nothing is refused or frozen, so containment could not be proved";
            (Finding::Unproved, None, Some(why.to_owned()))
        }
        // What was not waited for until its limit did not fail. A step that failed before that keeps its reason.
        Err(Missed::Failed(step, _)) if attempt.cut_short.get() => {
            (Finding::NotDone, None, Some(format!("the daemon was stopped during step {step}")))
        }
        Err(Missed::NotDone(why)) => (Finding::NotDone, None, Some(why)),
        Err(Missed::Failed(step, why)) => (Finding::Failed, Some(step), Some(why)),
    };
    let left = if result == Finding::Proved { None } else { attempt.clean_up() };
    let problem = match (problem, left) {
        (Some(why), Some(left)) => Some(format!("{why}; {left}")),
        (why, left) => why.or(left),
    };
    Drill {
        run: attempt.live.as_ref().map(|live| live.run.id),
        name: name.to_owned(),
        result,
        stopped_in: attempt.stopped_in,
        steps: attempt.steps,
        failed,
        problem,
        began_ns,
        took: span(began.elapsed()),
        actor: asked.actor.clone(),
        reason: asked.reason.clone(),
    }
}

struct Attempt<'a> {
    parts: &'a Parts,
    name: &'a str,
    stop: &'a dyn Fn() -> bool,
    /// A wait ended because the daemon stops, before its limit.
    cut_short: Cell<bool>,
    live: Option<Arc<LiveRun>>,
    target: Option<Target>,
    /// What the process said before it was frozen.
    said: Option<u8>,
    stopped_in: Option<Span>,
    steps: Vec<Done>,
}

impl Attempt<'_> {
    fn all(&mut self, asked: &Asked) -> Stepped<()> {
        if self.parts.registry.modes().of(&labels()) == Mode::Observe {
            return Err(Missed::Observed);
        }
        let (live, mut target) = self.timed(Step::Start, Self::start)?;
        let stopped = self.timed(Step::Stop, |this| this.stop(&live, &mut target));
        // What is left to be done is done whatever came of the stop.
        let stopped = stopped.and_then(|()| self.timed(Step::Still, |this| this.is_still(&live, &mut target)));
        let stopped = stopped.and_then(|()| self.timed(Step::Thaw, |this| this.thaw(&live, &mut target, asked)));
        let stopped = stopped.and_then(|()| self.timed(Step::Kill, |this| this.kill(&live, &mut target, asked)));
        self.target = Some(target);
        stopped?;
        self.timed(Step::End, |this| this.ends(&live))
    }

    fn timed<T>(&mut self, step: Step, work: impl FnOnce(&mut Self) -> Stepped<T>) -> Stepped<T> {
        let began = Instant::now();
        let done = work(self)?;
        self.steps.push(Done { step, took: span(began.elapsed()) });
        Ok(done)
    }

    /// Until when a step that ends with an action has to be done.
    fn limit(&self) -> Instant {
        Instant::now() + STEP + self.parts.action_deadline
    }

    fn start(&mut self) -> Stepped<(Arc<LiveRun>, Target)> {
        let (step, registry) = (Step::Start, &self.parts.registry);
        let policy: Policy = parse("drill", POLICY).map_err(failed(step))?;
        if let Some(why) = (self.parts.refusal)(&policy) {
            return Err(Missed::Failed(step, format!("this node cannot enforce the policy of drills: {why}")));
        }
        let broken = grants::broken(&policy, &grants::grants(registry.kernel()));
        let wanted = Wanted {
            name: self.name.to_owned(),
            labels: labels(),
            policy,
            gpus: Default::default(),
            mig: BTreeMap::new(),
            owner_uid: 0,
            unlimited: true,
            learnt: Vec::new(),
        };
        let made = registry.make(wanted, Place::Below(self.parts.cgroup_parent.clone()), &self.parts.boot_id);
        let live = made.map_err(not_made)?;
        let _unclaimed = Unclaimed::of(&live);
        self.live = Some(live.clone());
        let (done, mut judged) = oneshot::channel();
        self.send(Message::Started { live: live.clone(), repair: Vec::new(), broken, done });
        self.until(self.limit(), || judged.try_recv().ok())
            .ok_or_else(|| Missed::Failed(step, "the run was not taken up".to_owned()))?;
        let mut target = Target::start().map_err(|error| failed(step)(format!("its process: {error}")))?;
        let ready = self.hears(&mut target, self.limit()).map_err(failed(step))?.is_some_and(Target::is_ready);
        let pid = target.pid();
        if !ready {
            return Err(Missed::Failed(step, format!("its process {pid} does not answer")));
        }
        live.cgroup.attach(pid).map_err(|error| failed(step)(error.chain()))?;
        let inside = live.cgroup.procs().map_err(|error| failed(step)(error.chain()))?;
        if !inside.contains(&pid) || !live.enter() {
            return Err(Missed::Failed(step, format!("its process {pid} did not get into its cgroup")));
        }
        Ok((live, target))
    }

    fn stop(&mut self, live: &LiveRun, target: &mut Target) -> Stepped<()> {
        target.violate().map_err(failed(Step::Stop))?;
        let limit = self.limit();
        let Some(frozen) = self.until(limit, || outcome(live, Action::Freeze)) else {
            if live.mode() == Mode::Observe {
                return Err(Missed::Observed);
            }
            let seen = self.hears(target, Instant::now()).ok().flatten().map_or("nothing", answered);
            let last = last(live, Action::Freeze);
            return Err(Missed::Failed(
                Step::Stop,
                format!("not proved frozen in time ({last}); its process says: {seen}"),
            ));
        };
        self.stopped_in = Some(frozen.took);
        let events = live.cgroup.events().map_err(|error| failed(Step::Stop)(error.chain()))?;
        if !(events.frozen && events.populated) {
            let why = format!("cgroup.events: populated {}, frozen {}", events.populated, events.frozen);
            return Err(Missed::Failed(Step::Stop, why));
        }
        match self.parts.registry.kernel().is_blocked(live.slot) {
            Some(true) => Ok(()),
            Some(false) => Err(Missed::Failed(Step::Stop, "the kernel did not latch the run".to_owned())),
            None => Err(Missed::Failed(Step::Stop, "the latch of the run cannot be read".to_owned())),
        }
    }

    fn is_still(&mut self, live: &LiveRun, target: &mut Target) -> Stepped<()> {
        // Where the kernel does not hold the caller itself, it can answer before it is frozen.
        while let Some(byte) = self.hears(target, Instant::now()).map_err(failed(Step::Still))? {
            self.said = Some(byte);
        }
        target.ping().map_err(failed(Step::Still))?;
        match self.hears(target, Instant::now() + SILENT).map_err(failed(Step::Still))? {
            Some(byte) => {
                Err(Missed::Failed(Step::Still, format!("its process runs although it is frozen: {}", answered(byte))))
            }
            None if self.cut_short.get() => Err(Missed::Failed(Step::Still, "it was not waited for".to_owned())),
            None if live.cgroup.events().is_ok_and(|events| events.frozen) => Ok(()),
            None => Err(Missed::Failed(Step::Still, "it did not stay frozen".to_owned())),
        }
    }

    fn thaw(&mut self, live: &LiveRun, target: &mut Target, asked: &Asked) -> Stepped<()> {
        self.control(live, Command::Thaw, Step::Thaw, asked)?;
        if self.parts.registry.kernel().is_blocked(live.slot) != Some(false) {
            return Err(Missed::Failed(Step::Thaw, "the latch of the run is still set".to_owned()));
        }
        // What it was frozen in, and then what it was asked meanwhile.
        let limit = self.limit();
        let mut hear = || self.hears(target, limit).map_err(failed(Step::Thaw));
        match self.said.map_or_else(&mut hear, |said| Ok(Some(said)))? {
            Some(DENIED) => {}
            seen => {
                let seen = seen.map_or("nothing", answered);
                return Err(Missed::Failed(Step::Thaw, format!("the call was not denied: its process says: {seen}")));
            }
        }
        match hear()? {
            Some(byte) if Target::is_pong(byte) => Ok(()),
            _ => Err(Missed::Failed(Step::Thaw, "its process does not continue".to_owned())),
        }
    }

    fn kill(&mut self, live: &LiveRun, target: &mut Target, asked: &Asked) -> Stepped<()> {
        self.control(live, Command::Kill, Step::Kill, asked)?;
        let status = self.until(self.limit(), || target.ended());
        match status.map(|status| status.signal()) {
            Some(Some(9)) => Ok(()),
            Some(_) => Err(Missed::Failed(Step::Kill, "its process ended otherwise than by the kill".to_owned())),
            None => Err(Missed::Failed(Step::Kill, "its process has not ended".to_owned())),
        }
    }

    /// Gives a command as an operator does, and waits until it is proved.
    fn control(&self, live: &LiveRun, command: Command, step: Step, asked: &Asked) -> Stepped<()> {
        let (tell, mut answers) = mpsc::unbounded_channel::<Answer>();
        let limit = self.limit();
        let control = Control {
            seq: 0,
            at: MonoTime(clock::monotonic_ns()),
            run: live.run.id,
            command,
            actor: asked.actor.clone(),
            role: "admin".into(),
            reason: format!("drill: {}", asked.reason),
        };
        let ticket = Ticket::new(Some(limit));
        self.parts
            .lane
            .command(Urgent::Control { control, tell, ticket: ticket.clone() }, true)
            .map_err(failed(step))?;
        let answer = self.until(limit, || answers.try_recv().ok().filter(|answer| answer.last));
        let _begun = ticket.withdraw();
        match answer.map(|answer| answer.outcome.verdict) {
            Some(Verdict::Proved) => Ok(()),
            Some(Verdict::Partial(missing)) => Err(Missed::Failed(step, missing.join("; "))),
            Some(Verdict::Failed(cause)) => Err(Missed::Failed(step, cause)),
            None => Err(Missed::Failed(step, format!("not proved in time ({})", last(live, command.into())))),
        }
    }

    fn ends(&mut self, live: &LiveRun) -> Stepped<()> {
        let gone = || self.parts.registry.get(live.run.id).is_none() && !live.cgroup.path().exists();
        self.until(self.limit(), || gone().then_some(()))
            .ok_or_else(|| Missed::Failed(Step::End, format!("cgroup {} is still there", live.cgroup.path().display())))
    }

    /// Ends what is left. The text is what could not be ended.
    fn clean_up(&mut self) -> Option<String> {
        let ended = self.target.as_mut().is_none_or(|target| target.end().is_some());
        self.target = None;
        let live = self.live.clone()?;
        let _entered = live.withdraw();
        let gone = || self.parts.registry.get(live.run.id).is_none();
        let limit = Instant::now() + STEP;
        while !gone() && Instant::now() < limit && !(self.stop)() {
            self.send(Message::Ended(live.run.id));
            thread::sleep(EMPTY_FOR);
        }
        let left = if ended { "its run has not ended" } else { "its process could not be killed" };
        (!gone() && !(self.stop)()).then(|| left.to_owned())
    }

    /// Looks until there is something, the time is over, or the daemon stops.
    fn until<T>(&self, limit: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            if Instant::now() >= limit {
                return None;
            }
            if (self.stop)() {
                self.cut_short.set(true);
                return None;
            }
            thread::sleep(LOOK);
        }
    }

    /// The next answer of the process, in the same way.
    fn hears(&self, target: &mut Target, limit: Instant) -> io::Result<Option<u8>> {
        let heard = target.hear(limit, self.stop)?;
        if heard.is_none() && Instant::now() < limit {
            self.cut_short.set(true);
        }
        Ok(heard)
    }

    fn send(&self, message: Message) {
        // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
        let _closed = self.parts.pipeline.send(message);
    }
}

/// That no run was made. Where no slot is free, the runs that live are contained as before.
fn not_made(error: StartError) -> Missed {
    match error {
        StartError::Kernel(KernelError::Full) => Missed::NotDone(error.to_string()),
        error => failed(Step::Start)(error),
    }
}

fn labels() -> BTreeMap<String, String> {
    [(LABEL.to_owned(), "true".to_owned())].into()
}

/// The proved outcome of an action on the run of a drill.
fn outcome(live: &LiveRun, action: Action) -> Option<Outcome> {
    let status = live.status();
    let seen = status.drill.iter().flatten();
    seen.rev().find(|outcome| outcome.action == action && outcome.verdict == Verdict::Proved).cloned()
}

/// What came of the action last, in words.
fn last(live: &LiveRun, action: Action) -> String {
    let status = live.status();
    let seen = status.drill.iter().flatten().rev().find(|outcome| outcome.action == action);
    match seen.map(|outcome| &outcome.verdict) {
        None => format!("no {action} was carried out"),
        Some(Verdict::Proved) => format!("{action} is proved"),
        Some(Verdict::Partial(missing)) => format!("{action} in part: {}", missing.join("; ")),
        Some(Verdict::Failed(cause)) => format!("{action} failed: {cause}"),
    }
}

fn answered(byte: u8) -> &'static str {
    match byte {
        DENIED => "the call was denied",
        b'O' => "the call succeeded",
        b'E' => "the call failed, and was not denied",
        _ => "it runs",
    }
}

fn span(took: Duration) -> Span {
    Span(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_slots_are_no_failure_of_containment_and_a_refusal_of_the_kernel_is() {
        assert!(
            matches!(not_made(StartError::Kernel(KernelError::Full)), Missed::NotDone(why) if why.contains("runs live"))
        );
        for error in [KernelError::Ebpf("x".into()), KernelError::Blind("x".into())] {
            assert!(matches!(not_made(error.into()), Missed::Failed(Step::Start, _)));
        }
    }
}

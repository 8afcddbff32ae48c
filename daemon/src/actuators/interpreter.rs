//! The one interpreter of actions: what a [`Decision`] says is done here, read back, and told as an [`Outcome`].
//!
//! ```text
//! begin (pipeline's thread): latch, write cgroup.freeze on every level          a few microseconds a level
//!   └► job ─► worker: verify, snapshot, kill, thaw, recapture ─► Outcome, Evidence ─► pipeline
//! ```
//!
//! Invariants: `begin` never waits; the order of a decision's actions is kept; freezes and thaws of one run do not overlap.
//! A snapshot is taken after the freeze (the frozen tree holds still) and before a kill, within its budget.

use super::{
    cgroup::{self, snapshot},
    outcome::{self, Report},
};
use crate::{
    config::Config,
    platform::{CgroupError, ProcFs, clock},
    runs::{
        LiveRun, Registry,
        kernel::{Kernel, KernelError},
    },
};
use failsafe_core::{
    Action, Decision, Mode, MonoTime, Outcome,
    decision::{Proof, Seen, Verdict},
    record::Snapshot,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    time::{Duration, Instant},
};

/// Threads that carry out decisions: as many runs can be contained at once without waiting for one another.
const WORKERS: usize = 4;

/// What a worker has to tell the pipeline.
#[derive(Debug)]
pub enum Told {
    /// An action's outcome.
    Outcome(Outcome),
    /// Evidence for the audit log.
    Evidence {
        /// The decision it belongs to.
        decision: Box<Decision>,
        /// The state.
        snapshot: Snapshot,
    },
}

type Tell = Arc<dyn Fn(Told) + Send + Sync>;

struct Job {
    live: Arc<LiveRun>,
    decision: Decision,
    frozen: Option<Result<cgroup::freeze::Started, CgroupError>>,
    /// How the latch was set and read back, and when that was.
    blocked: Option<(Result<(), String>, u64)>,
    signals: Vec<Seen>,
}

/// The interpreter.
pub struct Interpreter {
    registry: Arc<Registry>,
    jobs: Sender<Job>,
}

impl Interpreter {
    /// Starts the workers; they end when the interpreter is dropped.
    ///
    /// # Errors
    /// A thread could not be made.
    pub fn spawn(registry: Arc<Registry>, config: &Config, tell: Tell) -> std::io::Result<Interpreter> {
        let (jobs, receiver) = mpsc::channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for n in 0..WORKERS {
            let worker = Worker {
                registry: registry.clone(),
                deadline: config.action_deadline(),
                budget: Duration::from_millis(config.snapshot_budget_ms),
                tell: tell.clone(),
            };
            let receiver = receiver.clone();
            std::thread::Builder::new().name(format!("actuator-{n}")).spawn(move || worker.work(&receiver))?;
        }
        Ok(Interpreter { registry, jobs })
    }

    /// Begins an enforced decision: what stops the run is asked of the kernel before this returns.
    /// `signals`, the evidence, is gathered only after that.
    pub fn begin(&self, live: &Arc<LiveRun>, decision: &Decision, signals: impl FnOnce() -> Vec<Seen>) {
        if decision.mode == Mode::Observe {
            return;
        }
        let has = |action| decision.actions.contains(&action);
        let stamped = |done: Result<(), KernelError>| (done.map_err(|e| e.to_string()), clock::monotonic_ns());
        let (kernel, block) = (self.registry.kernel(), has(Action::Block));
        // The latch first: it is one write, and the freeze takes longer the more processes there are.
        let blocked = block.then(|| stamped(kernel.set_block(live.slot, live.epoch, true)));
        let frozen = has(Action::Freeze).then(|| cgroup::freeze::start(&live.cgroup));
        let job = Job { live: live.clone(), decision: decision.clone(), frozen, blocked, signals: signals() };
        if self.jobs.send(job).is_err() {
            tracing::error!(run = %live.run.id, "no actuator is left to carry out a decision");
        }
    }
}

struct Worker {
    registry: Arc<Registry>,
    deadline: Duration,
    budget: Duration,
    tell: Tell,
}

impl Worker {
    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            match job {
                Ok(job) => self.carry_out(job),
                Err(_) => return,
            }
        }
    }

    fn carry_out(&self, mut job: Job) {
        let frozen = job.frozen.take();
        let mut froze = None;
        if let Some(started) = frozen {
            let report = self.freeze(&job, started);
            froze = Some(matches!(report.verdict, Verdict::Proved));
            self.tell_outcome(&job, Action::Freeze, report);
        }
        for action in job.decision.actions.clone() {
            let report = match action {
                // Done above, first of all.
                Action::Freeze => continue,
                // The pipeline's, which owns the node's health.
                Action::CordonGpu | Action::CordonNode => continue,
                Action::Notify => outcome::notify(),
                Action::Block => match job.blocked.take() {
                    Some((done, at_ns)) => outcome::block(done, at_ns),
                    None => continue,
                },
                Action::Snapshot => {
                    let held = froze == Some(true) || job.live.status().hold_frozen;
                    let (report, snapshot) = self.snapshot(&job, held);
                    if let Some(snapshot) = snapshot {
                        (self.tell)(Told::Evidence { decision: Box::new(job.decision.clone()), snapshot });
                    }
                    report
                }
                Action::Kill => outcome::kill(&cgroup::kill(&job.live.cgroup, self.until())),
                Action::Thaw => self.thaw(&job),
                Action::Recapture { pid } => recapture(&job.live, pid),
            };
            self.tell_outcome(&job, action, report);
        }
    }

    fn until(&self) -> Instant {
        Instant::now() + self.deadline
    }

    fn freeze(&self, job: &Job, started: Result<cgroup::freeze::Started, CgroupError>) -> Report {
        let _gate = job.live.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match started {
            Ok(started) => cgroup::freeze::verify(&job.live.cgroup, started, self.until()),
            Err(error) => cgroup::FreezeOutcome::from_error(&error),
        };
        job.live.note_freeze(&outcome);
        outcome::freeze(&outcome)
    }

    fn thaw(&self, job: &Job) -> Report {
        let _gate = job.live.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = job.live.status().keep_frozen.take().unwrap_or_default();
        // A later decision may be carried out already: what it wants stands in the status before it acts.
        let (frozen_again, latched_again) = (|| job.live.status().hold_frozen, || job.live.status().blocked);
        // The latch goes first: a thawed run finds everything as its policy has it, and whom a stop rule stopped is woken
        // while it is still frozen.
        let kernel = self.registry.kernel();
        let again = || Err("a later decision set it again".to_owned());
        let unlatched = if kernel.blind().is_some() {
            Ok(())
        } else if latched_again() {
            release(kernel, &job.live, true).and_then(|()| again())
        } else {
            release(kernel, &job.live, false).and_then(|()| {
                if !latched_again() {
                    return Ok(());
                }
                kernel.set_block(job.live.slot, job.live.epoch, true).map_err(|e| e.to_string()).and_then(|()| again())
            })
        };
        let thawed = cgroup::thaw_unless(&job.live.cgroup, &keep, self.until(), &frozen_again);
        outcome::thaw(&thawed, unlatched)
    }

    fn snapshot(&self, job: &Job, frozen: bool) -> (Report, Option<Snapshot>) {
        match snapshot(&job.live.cgroup, self.budget) {
            Ok(tree) => {
                let report = outcome::snapshot(&tree);
                (report, Some(outcome::evidence(tree, job.signals.clone(), frozen)))
            }
            Err(error) => (Report::failed(error.chain()), None),
        }
    }

    fn tell_outcome(&self, job: &Job, action: Action, report: Report) {
        let at = MonoTime(report.at_ns.unwrap_or_else(clock::monotonic_ns));
        let decision = &job.decision;
        (self.tell)(Told::Outcome(Outcome {
            decision: decision.id,
            incident: decision.incident,
            action,
            verdict: report.verdict,
            proofs: report.proofs,
            at,
            took: at.since(decision.at),
        }));
    }
}

/// Lifts what a stop rule did, and keeps an egress latch that is `blocked` for another reason.
fn release(kernel: &Kernel, live: &LiveRun, blocked: bool) -> Result<(), String> {
    let stopped = kernel.release(live.slot, live.epoch, blocked).map_err(|e| e.to_string())?;
    let members = live.cgroup.all_procs().unwrap_or_default();
    // An id that is no longer in the run has ended, or belongs to somebody else by now.
    for pid in stopped.into_iter().filter(|pid| members.contains(pid)) {
        if let Ok(raw) = i32::try_from(pid) {
            let _ended = nix::sys::signal::kill(nix::unistd::Pid::from_raw(raw), nix::sys::signal::Signal::SIGCONT);
        }
    }
    Ok(())
}

fn recapture(live: &LiveRun, pid: u32) -> Report {
    match ProcFs::default().identity(pid) {
        Ok(Some(who)) => outcome::recapture(&cgroup::recapture(&live.cgroup, who)),
        Ok(None) => Report::proved(vec![Proof { fact: format!("/proc/{pid}"), seen: "the process has ended".into() }]),
        Err(error) => Report::failed(error.to_string()),
    }
}

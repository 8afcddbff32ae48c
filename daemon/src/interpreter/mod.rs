//! Carries out the actions of a [`Decision`], reads the effect back from the kernel, and reports an [`Outcome`] for
//! each.
//!
//! ```text
//! begin (pipeline's thread): latch, write cgroup.freeze at the root          two writes, no wait
//!   └► job ─► verify (1 thread, all runs at once, short steps) ─┬► evidence (2) ─┬► kill (4)
//!                                                               └────────────────┴► thaw (2)
//!      each action ─► Outcome, Evidence ─► pipeline
//! ```
//!
//! Invariants: `begin` never waits; the order of a decision's actions is kept; a lane does one kind of work, so that slow
//! evidence or a slow kill of some runs delays no verification; in a lane, kills come first, and users have turns; at most [`MAX_JOBS`]
//! decisions of a run wait.
//! A snapshot is taken after the freeze (the frozen tree holds still) and before a kill, within its budget.

mod lanes;
mod turns;
mod verify;

use crate::{
    actuators::{
        cgroup,
        outcome::{self, Report},
    },
    config::Config,
    counted::Counted,
    platform::{CgroupError, clock},
    runs::{LiveRun, Registry},
};
use failsafe_core::{Action, Decision, Mode, MonoTime, Outcome, decision::Observation, record::Snapshot};
use std::{
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    time::Duration,
};

/// Decisions of one run that may wait to be carried out.
pub const MAX_JOBS: usize = 64;

/// What a worker has to tell the pipeline.
#[derive(Debug)]
pub enum ActuatorReport {
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

type Tell = Arc<dyn Fn(ActuatorReport) + Send + Sync>;

/// A decision on its way through the lanes.
struct Job {
    live: Arc<LiveRun>,
    decision: Decision,
    /// Actions that are still to be done, first one first.
    rest: Vec<Action>,
    frozen: Option<Result<cgroup::freeze::Started, CgroupError>>,
    /// How the latch was set and read back, and when that was.
    blocked: Option<(Result<(), String>, u64)>,
    /// Whether this decision's freeze is proved.
    held: bool,
    signals: Vec<Observation>,
    _counted: Counted,
}

/// The interpreter.
pub struct Interpreter {
    registry: Arc<Registry>,
    jobs: Sender<Job>,
}

/// What every worker needs.
#[derive(Clone)]
struct Work {
    registry: Arc<Registry>,
    deadline: Duration,
    budget: Duration,
    tell: Tell,
}

impl Interpreter {
    /// Starts the workers; they end when the interpreter is dropped.
    ///
    /// # Errors
    /// A thread could not be made.
    pub fn spawn(registry: Arc<Registry>, config: &Config, tell: Tell) -> std::io::Result<Interpreter> {
        let work = Work {
            registry: registry.clone(),
            deadline: config.action_deadline(),
            budget: Duration::from_millis(config.snapshot_budget_ms),
            tell,
        };
        let lanes = lanes::spawn(&work)?;
        let (jobs, receiver) = mpsc::channel();
        let verifier = verify::Verifier::new(work, lanes);
        std::thread::Builder::new().name("verify".into()).spawn(move || verifier.work(&receiver))?;
        Ok(Interpreter { registry, jobs })
    }

    /// Begins an enforced decision: what stops the run is asked of the kernel before this returns. `signals`, the evidence,
    /// is gathered only after that. Returns outcomes of actions for which no room was left.
    pub fn begin(
        &self,
        live: &Arc<LiveRun>,
        decision: &Decision,
        signals: impl FnOnce() -> Vec<Observation>,
    ) -> Vec<Outcome> {
        if decision.mode == Mode::Observe {
            return Vec::new();
        }
        let has = |action| decision.actions.contains(&action);
        // The latch first: it is one write, and the freeze takes longer the more processes there are.
        let blocked = has(Action::Block).then(|| {
            let done = self.registry.kernel().set_block(live.slot, live.epoch, true);
            (done.map_err(|e| e.to_string()), clock::monotonic_ns())
        });
        let frozen = has(Action::Freeze).then(|| cgroup::freeze::start(&live.cgroup));
        let (waiting, counted) = Counted::one_of(&live.jobs);
        if waiting >= MAX_JOBS {
            let cause = format!("{waiting} decisions about this run wait to be carried out (limit {MAX_JOBS})");
            let (mut frozen, mut blocked) = (frozen, blocked);
            let refused = decision.actions.iter().filter(|a| !matches!(a, Action::CordonGpu | Action::CordonNode));
            let mut report = |action: &Action| match action {
                // It is written all the same, and the guard sees it through.
                Action::Freeze => frozen.take().map(|started| outcome::freeze_at_once(&live.cgroup, started, &cause)),
                Action::Block => blocked.take().map(|(done, at_ns)| outcome::block(done, at_ns)),
                Action::Notify => Some(outcome::notify()),
                _ => None,
            };
            let refused =
                refused.map(|action| (action, report(action).unwrap_or_else(|| Report::failed(cause.clone()))));
            return refused.map(|(action, report)| outcome_of(decision, *action, report)).collect();
        }
        let job = Job {
            live: live.clone(),
            decision: decision.clone(),
            rest: decision.actions.clone(),
            frozen,
            blocked,
            held: false,
            signals: signals(),
            _counted: counted,
        };
        if self.jobs.send(job).is_err() {
            tracing::error!(run = %live.run.id, "no actuator is left to carry out a decision");
        }
        Vec::new()
    }
}

impl Work {
    fn report_outcome(&self, job: &Job, action: Action, report: Report) {
        (self.tell)(ActuatorReport::Outcome(outcome_of(&job.decision, action, report)));
    }
}

fn outcome_of(decision: &Decision, action: Action, report: Report) -> Outcome {
    let at = MonoTime(report.at_ns.unwrap_or_else(clock::monotonic_ns));
    Outcome {
        decision: decision.id,
        incident: decision.incident,
        action,
        verdict: report.verdict,
        proofs: report.proofs,
        at,
        took: at.since(decision.at),
    }
}

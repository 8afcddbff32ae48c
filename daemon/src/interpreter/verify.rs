//! Proves freezes: one thread looks after all of them, in short steps, so that none waits behind another.
//!
//! Owns the freezes that are not proved yet. A step reads `cgroup.events` of a run's root; what takes longer (naming who
//! holds a freeze up, evidence, kills, thaws) goes to its own lane.

use super::{Job, Work, lanes::Lanes};
use crate::actuators::{
    cgroup::{
        FreezeOutcome,
        freeze::{Step, Verification},
    },
    outcome::{self, Report},
};
use failsafe_core::{Action, decision::Verdict};
use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

/// While a run's gate is held by a thaw, its freeze is looked at this often.
const GATE: Duration = Duration::from_millis(1);

struct Pending {
    job: Job,
    verification: Verification,
    due: Instant,
}

/// The thread's state.
pub(super) struct Verifier {
    work: Work,
    lanes: Lanes,
    pending: Vec<Pending>,
}

impl Verifier {
    pub(super) fn new(work: Work, lanes: Lanes) -> Verifier {
        Verifier { work, lanes, pending: Vec::new() }
    }

    /// Works until the interpreter is gone and nothing is pending.
    pub(super) fn work(mut self, jobs: &Receiver<Job>) {
        crate::platform::sched::freeze_path("verify");
        let mut open = true;
        while open || !self.pending.is_empty() {
            let now = Instant::now();
            let due = self.pending.iter().map(|p| p.due.saturating_duration_since(now)).min();
            let job = match due {
                Some(wait) if !open => {
                    std::thread::sleep(wait);
                    None
                }
                Some(wait) => match jobs.recv_timeout(wait) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => {
                        open = false;
                        None
                    }
                },
                None => match jobs.recv() {
                    Ok(job) => Some(job),
                    Err(_) => {
                        open = false;
                        None
                    }
                },
            };
            if let Some(job) = job {
                self.begin(job);
            }
            self.look();
        }
    }

    fn begin(&mut self, mut job: Job) {
        match job.frozen.take() {
            None => self.lanes.go_on(&self.work, job),
            Some(Ok(started)) => {
                let verification = Verification::new(started, Instant::now() + self.work.deadline);
                self.pending.push(Pending { job, verification, due: Instant::now() });
            }
            Some(Err(error)) => self.done(job, &FreezeOutcome::from_error(&error)),
        }
    }

    fn look(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while let Some(pending) = self.pending.get_mut(at) {
            if pending.due > now {
                at += 1;
                continue;
            }
            match step(pending) {
                Next::Look(after) => {
                    pending.due = now + after;
                    at += 1;
                }
                Next::Done(outcome) => {
                    let Pending { job, .. } = self.pending.swap_remove(at);
                    self.done(job, &outcome);
                }
                Next::Superseded => {
                    let Pending { mut job, .. } = self.pending.swap_remove(at);
                    self.work.report_outcome(&job, Action::Freeze, Report::superseded());
                    job.held = false;
                    self.lanes.go_on(&self.work, job);
                }
                Next::Late => {
                    let Pending { job, verification, .. } = self.pending.swap_remove(at);
                    self.lanes.late(&self.work, job, verification);
                }
            }
        }
    }

    fn done(&self, mut job: Job, outcome: &FreezeOutcome) {
        frozen(&self.work, &mut job, outcome);
        self.lanes.go_on(&self.work, job);
    }
}

/// Tells what became of a decision's freeze.
pub(super) fn frozen(work: &Work, job: &mut Job, outcome: &FreezeOutcome) {
    job.live.note_freeze(outcome);
    let report = outcome::freeze(outcome);
    job.held = matches!(report.verdict, Verdict::Proved);
    work.report_outcome(job, Action::Freeze, report);
}

enum Next {
    Look(Duration),
    Done(FreezeOutcome),
    /// A later decision thawed the run before this one was proved.
    Superseded,
    Late,
}

fn step(pending: &mut Pending) -> Next {
    let live = &pending.job.live;
    // A thaw under way holds it: what it leaves is looked at after it.
    let Some(_gate) = live.try_gate() else { return Next::Look(GATE) };
    if !live.status().containment.is_frozen() {
        return Next::Superseded;
    }
    let levels = live.levels.try_lock();
    match pending.verification.step(&live.cgroup, levels.is_ok()) {
        Step::Done(outcome) => Next::Done(outcome),
        Step::Again => Next::Look(Duration::ZERO),
        Step::Wait(after) => Next::Look(after),
        Step::Late => Next::Late,
    }
}

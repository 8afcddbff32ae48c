//! The lanes behind verification: evidence, kills and thaws, each with threads of its own.
//!
//! Owns the queues, in which kills come first and users have turns ([`super::turns`]). A lane does the first of a job's remaining
//! actions, then hands the job on; lanes form no circle, so they end one after the other when the interpreter is dropped. What may hang in the kernel (reading a process's arguments)
//! runs on a thread that is given up after its time.

use super::{
    ActuatorReport, Job, Work,
    turns::{Entrance, Place, Waiting, waiting},
    verify,
};
use crate::{
    actuators::{
        cgroup::{self, ThawOutcome, freeze::Verification, snapshot},
        outcome::{self, Report},
    },
    counted::Counted,
    guard::kernel::Kernel,
    platform::{ProcFs, apart},
    runs::LiveRun,
};
use failsafe_core::{Action, decision::Proof, record::Snapshot};
use std::{
    io,
    sync::{Arc, LazyLock, Mutex, PoisonError, atomic::AtomicUsize, mpsc},
    time::{Duration, Instant},
};

/// Threads of each lane.
const EVIDENCE: usize = 2;
const KILL: usize = 4;
const THAW: usize = 2;
/// How much longer than its budget evidence may take before its thread is given up.
const GRACE: Duration = Duration::from_millis(500);
/// How long a kill waits at most until its snapshot is begun; then it goes on without. What is being read is waited for as well.
const PATIENCE: Duration = Duration::from_secs(1);
const NOT_WAITED: &str = "it was left out: the kill has waited for other snapshots for too long";
/// Threads that were given up and hang still; with so many, evidence is not begun.
const MAX_HANGING: usize = 8;
static HANGING: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

enum Task {
    /// Do the job's remaining actions.
    Go(Job),
    /// First say who holds up a freeze whose deadline has passed.
    Late(Job, Verification),
}

/// The ways out of a lane; `None`: what belongs there is done in this one.
#[derive(Clone, Default)]
pub(super) struct Lanes {
    evidence: Option<Entrance<Task>>,
    kill: Option<Entrance<Task>>,
    thaw: Option<Entrance<Task>>,
}

/// Starts all threads. They end when the last `Lanes` that leads to them is gone.
pub(super) fn spawn(work: &Work) -> std::io::Result<Lanes> {
    let kill = lane("kill", KILL, work, &Lanes::default())?;
    let thaw = lane("thaw", THAW, work, &Lanes::default())?;
    let after = Lanes { evidence: None, kill: Some(kill), thaw: Some(thaw) };
    let evidence = lane("evidence", EVIDENCE, work, &after)?;
    Ok(Lanes { evidence: Some(evidence), ..after })
}

fn lane(name: &str, threads: usize, work: &Work, next: &Lanes) -> std::io::Result<Entrance<Task>> {
    let (tasks, queue) = waiting();
    let queue = Arc::new(Mutex::new(queue));
    for n in 0..threads {
        let (work, next, queue) = (work.clone(), next.clone(), queue.clone());
        std::thread::Builder::new().name(format!("{name}-{n}")).spawn(move || serve(&work, &next, &queue))?;
    }
    Ok(tasks)
}

fn serve(work: &Work, next: &Lanes, tasks: &Mutex<Waiting<Task>>) {
    loop {
        let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).next();
        match task {
            Some((Task::Go(mut job), waited)) => {
                if !job.rest.is_empty() {
                    let action = job.rest.remove(0);
                    match action {
                        Action::Snapshot if waited >= PATIENCE && job.rest.contains(&Action::Kill) => {
                            work.report_outcome(&job, action, Report::failed(NOT_WAITED));
                        }
                        _ => work.act(&mut job, action),
                    }
                }
                next.go_on(work, job);
            }
            Some((Task::Late(mut job, verification), _)) => {
                work.late(&mut job, verification);
                next.go_on(work, job);
            }
            None => return,
        }
    }
}

/// Whose the task of a job is, and whether it is urgent: what it has to do contains somebody.
fn place(job: &Job) -> Place {
    let contains = |action: &Action| matches!(action, Action::Kill | Action::Recapture { .. });
    Place { owner: job.live.known().owner_uid, is_urgent: job.rest.iter().any(contains) }
}

impl Lanes {
    /// Does what is quick, and hands the job to the lane of its next action.
    pub(super) fn go_on(&self, work: &Work, mut job: Job) {
        while let Some(action) = job.rest.first().copied() {
            let lane = match action {
                Action::Snapshot | Action::Recapture { .. } => &self.evidence,
                Action::Kill => &self.kill,
                Action::Thaw => &self.thaw,
                _ => &None,
            };
            if let Some(lane) = lane {
                if !lane.send(place(&job), Task::Go(job)) {
                    tracing::error!(%action, "no actuator is left to carry out an action");
                }
                return;
            }
            job.rest.remove(0);
            work.act(&mut job, action);
        }
    }

    /// Hands on a freeze whose deadline has passed.
    pub(super) fn late(&self, work: &Work, mut job: Job, verification: Verification) {
        match &self.evidence {
            Some(lane) => {
                if !lane.send(place(&job), Task::Late(job, verification)) {
                    tracing::error!("no actuator is left to name who holds up a freeze");
                }
            }
            None => {
                work.late(&mut job, verification);
                self.go_on(work, job);
            }
        }
    }
}

impl Work {
    fn act(&self, job: &mut Job, action: Action) {
        let report = match action {
            // Done first of all; cordons are the pipeline's, which owns the node's health.
            Action::Freeze | Action::CordonGpu | Action::CordonNode => return,
            Action::Notify => outcome::notify(),
            Action::Block => match job.blocked.take() {
                Some((done, at_ns)) => outcome::block(done, at_ns),
                None => return,
            },
            Action::Snapshot => {
                let held = job.held || job.live.status().containment.is_frozen();
                let (report, snapshot) = self.snapshot(job, held);
                if let Some(snapshot) = snapshot {
                    (self.tell)(ActuatorReport::Evidence { decision: Box::new(job.decision.clone()), snapshot });
                }
                report
            }
            Action::Kill => outcome::kill(&cgroup::kill(&job.live.cgroup, self.until())),
            Action::Thaw => self.thaw(job),
            Action::Recapture { pid } => recapture(&job.live, pid),
        };
        self.report_outcome(job, action, report);
    }

    fn until(&self) -> Instant {
        Instant::now() + self.deadline
    }

    fn late(&self, job: &mut Job, mut verification: Verification) {
        let cgroup = job.live.clone();
        // It reads what the kernel itself writes, never the memory of a process, through files that are open already.
        let shared = |work: Reading| std::thread::Builder::new().name("reading".into()).spawn(work).map(drop);
        let outcome = timed(self.budget + GRACE, shared, move || verification.late(&cgroup.cgroup));
        let outcome = outcome.unwrap_or(cgroup::FreezeOutcome::Partial { culprits: Vec::new(), took: self.deadline });
        verify::frozen(self, job, &outcome);
    }

    fn thaw(&self, job: &Job) -> Report {
        // Whoever freezes levels below the root gives way first, then whoever freezes the root.
        let _levels = job.live.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let _gate = job.live.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let keep = job.live.status().keep_frozen.take();
        // A later decision may be carried out already: what it wants stands in the status before it acts.
        let frozen_again = || job.live.status().containment.is_frozen();
        let latched_again = || job.live.status().containment.is_latched();
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
                let block = kernel.set_block(job.live.slot, job.live.epoch, true);
                block.map_err(|e| e.to_string()).and_then(|()| again())
            })
        };
        let levels = keep.as_deref().unwrap_or_default();
        let thawed = cgroup::thaw_unless(&job.live.cgroup, levels, self.until(), &frozen_again);
        if matches!(thawed, ThawOutcome::Superseded | ThawOutcome::Failed { .. }) {
            // It is still held: the next thaw has to leave the same levels frozen.
            job.live.status().keep_frozen = keep;
        }
        outcome::thaw(&thawed, unlatched)
    }

    fn snapshot(&self, job: &Job, frozen: bool) -> (Report, Option<Snapshot>) {
        let (cgroup, budget) = (job.live.cgroup.unopened(), self.budget);
        // It reads the memory of processes, which may be a file of a file system that does not answer.
        let own = |work: Reading| apart::spawn("reading", work);
        match timed(budget + GRACE, own, move || snapshot(&cgroup.open()?, budget)) {
            Some(Ok(mut tree)) => {
                let report = outcome::snapshot(&tree);
                let lines = tree.processes.iter_mut().filter_map(|process| process.argv.as_mut());
                lines.for_each(|argv| self.registry.kernel().redact(job.live.run.id, argv));
                (report, Some(outcome::evidence(tree, job.signals.clone(), frozen)))
            }
            Some(Err(error)) => (Report::failed(error.chain()), None),
            None => (
                Report::failed(format!(
                    "reading the processes did not return within {} ms: one may hang in the kernel",
                    (budget + GRACE).as_millis()
                )),
                None,
            ),
        }
    }
}

type Reading = Box<dyn FnOnce() + Send>;

/// Runs what may hang on a thread that `spawn` makes; `None` when it is not done in time, or too many hang already.
fn timed<T: Send + 'static>(
    limit: Duration,
    spawn: impl FnOnce(Reading) -> io::Result<()>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (hanging, counted) = Counted::one_of(&HANGING);
    if hanging >= MAX_HANGING {
        return None;
    }
    let (done, wait) = mpsc::sync_channel(1);
    spawn(Box::new(move || {
        let _counted = counted;
        let _late = done.send(work());
    }))
    .ok()?;
    wait.recv_timeout(limit).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_given_up_and_its_thread_is_counted_until_it_ends() {
        let (release, hang) = mpsc::channel::<()>();
        let own = |work: Reading| apart::spawn("reading", work);
        assert!(timed(Duration::from_millis(10), own, move || hang.recv()).is_none());
        assert_eq!(timed(Duration::from_secs(10), own, || 7), Some(7), "others are read meanwhile");
        drop(release);
    }
}

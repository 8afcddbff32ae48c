//! Runs that are bounded and not judged: what an earlier daemon left of them in the kernel stays in force, and people see why.
//!
//! The registry owns them, beside the live runs. A run enters when it cannot be taken up (`adopt.rs`), and leaves when it is, or when
//! its end is proved. An administrator may freeze, thaw and kill it: by its cgroup, and without a decision, for the core does not know
//! the run.

use super::{
    LiveRun, Registry,
    past::{GUARDED, Past},
};
use crate::{
    actuators::{
        cgroup,
        outcome::{self, Report},
    },
    platform::{Cgroup, clock},
};
use failsafe_core::{
    Containment, MonoTime, RunId,
    containment::StepResult,
    input::{Command, Control, Gap, Run},
    signal::Source,
};
use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Instant,
};

/// A run that is bounded and not judged.
#[derive(Debug)]
pub struct GuardedRun {
    /// As it was registered, as far as that is known.
    pub run: Run,
    /// Name of its policy; empty where that is not known.
    pub policy_name: String,
    /// Why it is not judged.
    pub why: String,
    /// Its cgroup; `None` where it could not be opened.
    pub cgroup: Option<Cgroup>,
    /// Number of its last recording.
    pub part: u32,
    /// Since when it is guarded.
    pub since: MonoTime,
    /// It could not be taken up for lack of room: to be tried again as soon as there is some.
    pub full: bool,
    /// The cgroup that earlier daemons' programs bound; `None`: nothing in the kernel bounds it.
    pub(super) root: Option<u64>,
    /// Those programs only observe it: they refuse nothing of its policy. `None`: that cannot be read.
    pub(super) observed: Option<bool>,
    /// Nothing leaves it: the latch of those programs is on.
    pub latched: bool,
    /// Events of it that were read and judged by nobody.
    pub(super) missed: AtomicU64,
    /// When processes were last seen in it, nanoseconds since the epoch; 0: never.
    pub(super) seen: AtomicI64,
    /// What the audit log has of it, with the commands since.
    pub(super) past: Mutex<Past>,
}

impl GuardedRun {
    /// Whether the kernel bounds it.
    pub fn is_bounded(&self) -> bool {
        self.root.is_some()
    }

    /// Whether it is meant to be frozen.
    pub fn is_held(&self) -> bool {
        self.past().containment.is_frozen()
    }

    /// What is desired and proved of its containment.
    pub fn containment(&self) -> Containment {
        self.past().containment.clone()
    }

    /// Whether this path of `/proc/PID/cgroup` is in it.
    pub fn contains(&self, path: &Path) -> bool {
        match &self.cgroup {
            Some(cgroup) => cgroup.contains(path),
            None => !self.run.cgroup.is_empty() && path.starts_with(Path::new("/").join(&self.run.cgroup)),
        }
    }

    /// The same in one line, for lists.
    pub fn reason(&self) -> String {
        let bounds = match (self.is_bounded(), self.observed) {
            (false, _) => ", and nothing in the kernel bounds it",
            (true, Some(true)) => ", and the kernel only observes it: it refuses nothing",
            (true, None) => ", and whether the kernel only observes it cannot be read (another version left it)",
            (true, Some(false)) => "",
        };
        format!("{GUARDED}{bounds}: {}", self.why)
    }

    /// Whether all its processes stand still; false where that cannot be read.
    pub fn stands_still(&self) -> bool {
        let Some(cgroup) = &self.cgroup else { return false };
        cgroup.freeze_requested().unwrap_or_default() && cgroup.events().is_ok_and(|events| events.frozen)
    }

    /// Carries a command out and reads back what came of it, and when.
    pub fn obey(&self, control: &Control, deadline: Instant) -> (Report, MonoTime) {
        let Some(of_run) = &self.cgroup else {
            return (Report::failed("its cgroup is not known"), MonoTime(clock::monotonic_ns()));
        };
        // The desired state is published before the action: from here on it is kept so.
        self.past().containment.commanded(control);
        let report = self.carry_out(control.command, of_run, deadline);
        let (verdict, proofs) = (report.verdict.clone(), report.proofs.clone());
        let at = MonoTime(report.at_ns.unwrap_or_else(clock::monotonic_ns));
        self.past().containment.carried_out(control.command.into(), StepResult { verdict, proofs, at }, None);
        (report, at)
    }

    fn carry_out(&self, command: Command, of_run: &Cgroup, deadline: Instant) -> Report {
        match command {
            Command::Freeze => outcome::freeze(&match cgroup::freeze::start(of_run) {
                Ok(started) => cgroup::freeze::verify(of_run, started, deadline),
                Err(error) => cgroup::FreezeOutcome::from_error(&error),
            }),
            Command::Thaw => {
                let unlatched = match self.latched {
                    true => Err("on until the run is judged again: its programs are an earlier daemon's".into()),
                    false => Ok(()),
                };
                outcome::thaw(&cgroup::thaw(of_run, &[], deadline), unlatched)
            }
            Command::Kill => outcome::kill(&cgroup::kill(of_run, deadline)),
        }
    }

    /// Freezes it again where it is to be frozen and a level is not told to.
    pub(crate) fn hold(&self) {
        let Some(of_run) = self.cgroup.as_ref().filter(|_| self.is_held()) else { return };
        if let Ok(cgroup::Hold::Loose { .. }) = cgroup::is_still_frozen(of_run)
            && let Err(error) = cgroup::freeze::start(of_run)
        {
            tracing::error!(run = %self.run.id, error = error.chain(), "a guarded run cannot be frozen again");
        }
    }

    /// The record of it.
    pub(super) fn gap(&self) -> Gap {
        gap(self.run.id, self.reason(), true)
    }

    pub(super) fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether somebody lives in it; the answer is whether it is proved that nobody does.
    pub fn is_empty(&self) -> bool {
        match self.cgroup.as_ref().map(Cgroup::events) {
            Some(Ok(events)) if events.populated => self.seen.store(clock::wall_ns(), Ordering::Relaxed),
            Some(Ok(_)) => return true,
            Some(Err(error)) => return error.is_vanished(),
            None => {}
        }
        false
    }

    /// When processes were last seen in it.
    pub(super) fn seen_ns(&self) -> Option<i64> {
        Some(self.seen.load(Ordering::Relaxed)).filter(|seen| *seen != 0)
    }

    pub(super) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }
}

/// A record about a run that is none of a sensor's.
pub(crate) fn gap(run: RunId, what: String, blind: bool) -> Gap {
    let at = MonoTime(clock::monotonic_ns());
    Gap { seq: 0, at, source: Source::Guard, run: Some(run), gpu: None, what, lost: 0, blind }
}

impl Registry {
    /// The guarded runs, by id.
    pub fn guarded(&self) -> Vec<Arc<GuardedRun>> {
        self.guarded.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The live runs, and the guarded ones that are not live, each by id. The guarded ones are looked at first: a run that is taken up
    /// is live before it stops being guarded, so that it is among one of them.
    pub fn live_and_guarded(&self) -> (Vec<Arc<LiveRun>>, Vec<Arc<GuardedRun>>) {
        let mut guarded = self.guarded();
        let live = self.live();
        guarded.retain(|run| live.binary_search_by_key(&run.run.id, |live| live.run.id).is_err());
        (live, guarded)
    }

    /// Whether the run of that id is guarded. Whoever looks among the live runs, too, looks here first, as in
    /// [`live_and_guarded`](Self::live_and_guarded).
    pub fn is_guarded(&self, id: RunId) -> bool {
        self.guarded.read().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }

    /// Whether the run of that id lives or is guarded.
    pub fn is_held(&self, id: RunId) -> bool {
        let guarded = self.is_guarded(id);
        self.get(id).is_some() || guarded
    }

    /// The guarded run of that id.
    pub(crate) fn guarded_of(&self, id: RunId) -> Option<Arc<GuardedRun>> {
        self.guarded.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The run, judged or guarded, that a process of this cgroup is in.
    pub fn inside(&self, path: &Path) -> Option<RunId> {
        // First, as in `live_and_guarded`.
        let guarded = self.guarded();
        let live = self.of_cgroup(path).map(|live| live.run.id);
        live.or_else(|| Some(guarded.iter().find(|run| run.contains(path))?.run.id))
    }

    /// All guarded runs in one line, for the health of the node; `None`: there are none.
    pub fn guarded_note(&self) -> Option<String> {
        let guarded = self.guarded();
        let one = |run: &Arc<GuardedRun>| format!("{} ({})", run.run.name, run.why);
        let first: Vec<String> = guarded.iter().take(3).map(one).collect();
        let more = guarded.len().saturating_sub(first.len());
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let observed: Vec<&str> =
            guarded.iter().filter(|run| run.observed == Some(true)).map(|run| run.run.name.as_str()).collect();
        let observed = match observed.as_slice() {
            [] => String::new(),
            all => format!(
                "; the kernel only observes {} and refuses nothing: {}",
                all.len(),
                all[..all.len().min(3)].join(", ")
            ),
        };
        (!first.is_empty()).then(|| {
            format!(
                "{} bounded by the kernel and judged by nobody: {}{more}{observed}; see `failsafectl list`",
                count(guarded.len()),
                first.join(", ")
            )
        })
    }
}

fn count(runs: usize) -> String {
    if runs == 1 { "1 run is".into() } else { format!("{runs} runs are") }
}

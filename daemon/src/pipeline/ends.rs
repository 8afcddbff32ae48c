//! When runs end: cgroups that were found empty, processes that are being moved back, and runs that were killed.
//!
//! Owns these three facts of each run, and who waits for the end of a killed one; the pipeline owns the runs. Pure: time is
//! given. Invariants: a run is settled only after its cgroup was empty for [`END_AFTER`], and while none of its processes is
//! being moved back; whoever killed a run is answered once: at its end, or after [`KILL_SETTLES`].

use super::containment::Answer;
use failsafe_core::{Action, Decision, Mode, RunId};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::UnboundedSender;

/// A run ends when its cgroup has been empty for this long.
pub(super) const END_AFTER: Duration = Duration::from_millis(100);
/// Whoever killed a run is answered when it has ended, or after this time.
const KILL_SETTLES: Duration = Duration::from_secs(2);

/// An answer, and who waits for it.
pub(super) type KillReply = (Answer, UnboundedSender<Answer>);

struct Killed {
    since: Instant,
    waiting: Vec<KillReply>,
}

/// What is known of the ends of runs.
#[derive(Default)]
pub(super) struct Ends {
    /// Since when the cgroups of runs were found empty.
    emptied: BTreeMap<RunId, Instant>,
    /// Runs with a proved kill. A caller who is answered before the end would find the run alive.
    killed: BTreeMap<RunId, Killed>,
    /// Processes that are being moved back, by run.
    recaptures: BTreeMap<RunId, u32>,
}

impl Ends {
    /// The cgroup of the run is not empty, or has to be looked at again.
    pub(super) fn is_not_empty(&mut self, run: RunId) {
        self.emptied.remove(&run);
    }

    /// The cgroup of the run is empty: whether that is settled. It is also empty when its last process was moved out. The
    /// run ends only after the kernel's event that a process left, and after the processes that are being moved back.
    pub(super) fn is_settled(&mut self, run: RunId, now: Instant) -> bool {
        let since = *self.emptied.entry(run).or_insert(now);
        now.saturating_duration_since(since) >= END_AFTER && !self.is_recaptured(run)
    }

    /// Whether a process is being moved back, which may fill the run again.
    pub(super) fn is_recaptured(&self, run: RunId) -> bool {
        self.recaptures.contains_key(&run)
    }

    /// A decision is begun, which may move processes back.
    pub(super) fn begun(&mut self, decision: &Decision) {
        if decision.mode == Mode::Observe {
            return;
        }
        let back = decision.actions.iter().filter(|action| matches!(action, Action::Recapture { .. })).count();
        if let Ok(back @ 1..) = u32::try_from(back) {
            *self.recaptures.entry(decision.id.run).or_default() += back;
        }
    }

    /// A process was moved back, or could not be: the next look at the cgroup shows whether it is empty.
    pub(super) fn recaptured(&mut self, run: RunId) {
        self.is_not_empty(run);
        let left = self.recaptures.remove(&run).unwrap_or_default().saturating_sub(1);
        if left > 0 {
            self.recaptures.insert(run, left);
        }
    }

    /// The run was killed, with proof; `waiting` is answered at its end.
    pub(super) fn killed(&mut self, run: RunId, waiting: Option<KillReply>, now: Instant) {
        let killed = self.killed.entry(run).or_insert_with(|| Killed { since: now, waiting: Vec::new() });
        killed.waiting.extend(waiting);
    }

    /// Killed runs that have not ended yet.
    pub(super) fn kills(&self) -> Vec<RunId> {
        self.killed.keys().copied().collect()
    }

    /// Whoever waits for the end of a killed run that somebody came into after it was empty; none before [`KILL_SETTLES`].
    pub(super) fn given_up(&mut self, run: RunId, now: Instant) -> Vec<KillReply> {
        let late = |killed: &Killed| now.saturating_duration_since(killed.since) >= KILL_SETTLES;
        if !self.killed.get(&run).is_some_and(late) {
            return Vec::new();
        }
        self.killed.remove(&run).map(|killed| killed.waiting).unwrap_or_default()
    }

    /// The run has ended. Returns those who killed it and wait.
    pub(super) fn ended(&mut self, run: RunId) -> Vec<KillReply> {
        self.emptied.remove(&run);
        self.recaptures.remove(&run);
        self.killed.remove(&run).map(|killed| killed.waiting).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::{
        MonoTime, Outcome, PolicyDigest,
        decision::{Cause, Confidence, DecisionId, IncidentId, Severity, Upkeep, Verdict},
        time::Span,
    };

    fn run() -> RunId {
        RunId(uuid::Uuid::from_u128(1))
    }

    fn recapture(mode: Mode) -> Decision {
        Decision {
            id: DecisionId { run: run(), n: 1 },
            incident: IncidentId::new(run(), 1),
            at: MonoTime(1),
            cause: Cause::Upkeep { what: Upkeep::Escape },
            actions: vec![Action::Recapture { pid: 7 }, Action::Recapture { pid: 8 }, Action::Notify],
            because: Vec::new(),
            values: Vec::new(),
            confidence: Confidence::High,
            severity: Severity::Critical,
            mode,
            policy: PolicyDigest([1; 32]),
        }
    }

    fn waiting() -> (KillReply, tokio::sync::mpsc::UnboundedReceiver<Answer>) {
        let (tell, answers) = tokio::sync::mpsc::unbounded_channel();
        let outcome = Outcome {
            decision: DecisionId { run: run(), n: 1 },
            incident: IncidentId::new(run(), 1),
            action: Action::Kill,
            verdict: Verdict::Proved,
            proofs: Vec::new(),
            at: MonoTime(1),
            took: Span(1),
        };
        ((Answer { outcome, durable: false, last: true }, tell), answers)
    }

    #[test]
    fn a_run_is_settled_after_its_cgroup_was_empty_for_a_while() {
        let (mut ends, began) = (Ends::default(), Instant::now());
        assert!(!ends.is_settled(run(), began));
        assert!(ends.is_settled(run(), began + END_AFTER));
        ends.is_not_empty(run());
        assert!(!ends.is_settled(run(), began + END_AFTER), "it counts from the next look");
    }

    #[test]
    fn a_run_is_not_settled_while_its_processes_are_moved_back() {
        let (mut ends, began) = (Ends::default(), Instant::now());
        ends.begun(&recapture(Mode::Observe));
        assert!(!ends.is_recaptured(run()), "what is only observed moves nobody");
        ends.begun(&recapture(Mode::Enforce));
        assert!(!ends.is_settled(run(), began) && !ends.is_settled(run(), began + END_AFTER));
        ends.recaptured(run());
        assert!(ends.is_recaptured(run()), "one of two");
        ends.recaptured(run());
        assert!(!ends.is_settled(run(), began + END_AFTER), "the cgroup has to be looked at again");
        assert!(ends.is_settled(run(), began + END_AFTER * 2));
    }

    #[test]
    fn whoever_killed_a_run_is_answered_once() {
        let (mut ends, began) = (Ends::default(), Instant::now());
        let ((first, _first), (second, _second)) = (waiting(), waiting());
        ends.killed(run(), Some(first), began);
        ends.killed(run(), Some(second), began + KILL_SETTLES / 2);
        assert_eq!(ends.kills(), [run()]);
        assert!(ends.given_up(run(), began + KILL_SETTLES / 2).is_empty());
        assert_eq!(ends.given_up(run(), began + KILL_SETTLES).len(), 2);
        assert!(ends.ended(run()).is_empty() && ends.kills().is_empty());
        let (third, _third) = waiting();
        ends.killed(run(), Some(third), began);
        assert_eq!(ends.ended(run()).len(), 1);
    }
}

//! For how long a run has been frozen, over its whole life: by the outcomes of freezes and thaws, live or from the log.
//!
//! Time in which no daemon looked counts where the run was found frozen after it, and not where somebody else had thawed it.

use failsafe_core::{Action, Containment, Outcome, containment::ContainmentState, decision::Verdict};

/// The time that a run is frozen. A freeze counts from its first outcome that did not fail to the proved thaw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrozenTime {
    /// Since when it is frozen, `CLOCK_MONOTONIC` ns; `None` while it is not.
    since: Option<u64>,
    /// Time frozen before that, ns.
    before_ns: u64,
}

impl FrozenTime {
    /// Takes the outcome of an action; `containment` has it already. A freeze that a thaw overtook begins nothing, and a
    /// thaw that gave way to a later freeze ends nothing.
    pub fn takes(&mut self, outcome: &Outcome, containment: &Containment) {
        match (outcome.action, &outcome.verdict) {
            (_, Verdict::Failed(_)) => {}
            (Action::Freeze, _) if containment.state() != ContainmentState::Running => self.begins(outcome.at.0),
            (Action::Thaw, _) if !containment.is_frozen() => self.ends(outcome.at.0),
            _ => {}
        }
    }

    /// It is frozen at this time; an earlier begin counts.
    pub fn begins(&mut self, at_ns: u64) {
        self.since.get_or_insert(at_ns);
    }

    /// It is frozen no longer.
    pub fn ends(&mut self, at_ns: u64) {
        self.before_ns = self.total_ns(at_ns);
        self.since = None;
    }

    /// Somebody else thawed it after `until_ns`, when it was last known to be frozen. It is frozen again from `again_ns` on.
    pub fn was_thawed(&mut self, until_ns: u64, again_ns: u64) {
        if self.since.is_some() {
            self.ends(until_ns);
            self.begins(again_ns);
        }
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.since.is_some()
    }

    /// All the time until `now_ns`, ns.
    pub fn total_ns(&self, now_ns: u64) -> u64 {
        self.before_ns + self.since.map_or(0, |since| now_ns.saturating_sub(since))
    }

    /// All the time, ns; `None` while it is frozen, since then the end is not known.
    pub fn closed_ns(&self) -> Option<u64> {
        self.since.is_none().then_some(self.before_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::{
        MonoTime, RunId,
        decision::{DecisionId, IncidentId},
        input::Contained,
        time::Span,
    };

    fn outcome(action: Action, verdict: Verdict, at_ns: u64) -> Outcome {
        let run = RunId(uuid::Uuid::nil());
        Outcome {
            decision: DecisionId { run, n: 1 },
            incident: IncidentId::new(run, 1),
            action,
            verdict,
            proofs: Vec::new(),
            at: MonoTime(at_ns),
            took: Span(1),
        }
    }

    #[test]
    fn frozen_time_is_the_sum_over_freezes_and_a_failed_one_counts_nothing() {
        let held = Containment::of(Contained { frozen: true, ..Contained::default() }, MonoTime(1));
        let free = Containment::default();
        let mut time = FrozenTime::default();
        time.takes(&outcome(Action::Freeze, Verdict::Failed("EBUSY".into()), 5), &held);
        assert_eq!((time.is_frozen(), time.closed_ns()), (false, Some(0)));
        time.takes(&outcome(Action::Freeze, Verdict::Partial(Vec::new()), 10), &held);
        time.takes(&outcome(Action::Freeze, Verdict::Proved, 12), &held);
        assert_eq!((time.total_ns(15), time.closed_ns()), (5, None));
        time.takes(&outcome(Action::Thaw, Verdict::Failed("EIO".into()), 20), &held);
        assert_eq!(time.total_ns(21), 11);
        time.takes(&outcome(Action::Thaw, Verdict::Proved, 30), &free);
        time.takes(&outcome(Action::Freeze, Verdict::Proved, 100), &held);
        time.takes(&outcome(Action::Thaw, Verdict::Proved, 101), &free);
        assert_eq!((time.total_ns(500), time.closed_ns()), (21, Some(21)));
    }

    #[test]
    fn time_in_which_somebody_else_had_thawed_the_run_does_not_count() {
        let mut time = FrozenTime::default();
        time.was_thawed(5, 7);
        assert!(!time.is_frozen(), "it was not frozen");
        time.begins(10);
        time.was_thawed(30, 100);
        assert_eq!((time.is_frozen(), time.total_ns(110)), (true, 20 + 10));
        time.was_thawed(0, 200);
        assert_eq!(time.total_ns(203), 20 + 3, "what nobody saw does not count");
    }

    #[test]
    fn an_outcome_that_a_later_decision_overtook_begins_and_ends_no_frozen_time() {
        let held = Containment::of(Contained { frozen: true, ..Contained::default() }, MonoTime(1));
        let mut time = FrozenTime::default();
        time.takes(&outcome(Action::Freeze, Verdict::Partial(Vec::new()), 10), &Containment::default());
        assert!(!time.is_frozen(), "the run was thawed before");
        time.takes(&outcome(Action::Freeze, Verdict::Proved, 20), &held);
        time.takes(&outcome(Action::Thaw, Verdict::Partial(Vec::new()), 30), &held);
        assert!(time.is_frozen(), "the thaw gave way to a later freeze");
    }
}

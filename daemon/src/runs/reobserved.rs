//! What a starting daemon finds of a freeze, a thaw or a block that its predecessor had begun.
//!
//! Invariant: a freeze that is on is never called lifted, though a process in an uninterruptible system call does not stand still
//! yet.

use failsafe_core::{
    Action, Decision, MonoTime, Outcome,
    decision::{Proof, Verdict},
    time::Span,
};

/// What the cgroup of a run shows of a freeze.
#[derive(Debug, Clone, Copy)]
pub(super) struct FoundFreeze {
    /// `cgroup.freeze` is 1.
    pub requested: bool,
    /// The kernel says that every process stands still.
    pub proved: bool,
}

impl FoundFreeze {
    /// In words, for the log. `decided`: the log has a freeze that nobody lifted.
    pub fn words(self, decided: bool) -> &'static str {
        match (decided, self.requested, self.proved) {
            (true, true, true) => "frozen, as decided",
            (true, true, false) => "decided to be frozen; the freeze is on, but not every process stands still yet",
            (true, false, _) => "decided to be frozen, found running",
            (false, true, true) => "found frozen, without a decision in the log: it is held until somebody thaws it",
            (false, true, false) => {
                "found with a freeze on, without a decision in the log, and not every process stands still yet: it is held until \
                 somebody thaws it"
            }
            (false, false, _) => "running",
        }
    }
}

/// The outcome of an action that an earlier daemon did not live to record, by what is found now.
pub(super) fn reobserved(
    decision: &Decision,
    action: Action,
    found: FoundFreeze,
    latched: bool,
    now: MonoTime,
) -> Outcome {
    let interrupted =
        |what: &str| Verdict::Failed(format!("interrupted by the daemon's end: re-observed at its restart, {what}"));
    let (verdict, seen) = match action {
        Action::Freeze if found.proved => (Verdict::Proved, "populated 1, frozen 1"),
        Action::Freeze if found.requested => {
            (interrupted("not every process of the run stands still"), "cgroup.freeze 1, frozen 0")
        }
        Action::Freeze => (interrupted("the run is not frozen"), "frozen 0"),
        // Also where not every process stands still yet: nobody has lifted the freeze.
        Action::Thaw if found.requested => (interrupted("the run is still frozen"), "cgroup.freeze 1"),
        Action::Thaw => (Verdict::Proved, "frozen 0"),
        Action::Block if latched => (Verdict::Proved, "egress latch on"),
        Action::Block => (interrupted("the latch is off"), "egress latch off"),
        _ => (interrupted("the run lives"), "populated 1"),
    };
    Outcome {
        decision: decision.id,
        incident: decision.incident,
        action,
        verdict,
        proofs: vec![Proof { fact: "re-observed at restart".into(), seen: seen.into() }],
        at: now,
        // The clock of an earlier daemon is this boot's clock too: both are CLOCK_MONOTONIC.
        took: Span(now.0.saturating_sub(decision.at.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_freeze_that_is_on_is_not_called_lifted_while_a_process_does_not_stand_still_yet() {
        let partial = FoundFreeze { requested: true, proved: false };
        assert!(partial.words(true).contains("the freeze is on") && partial.words(false).contains("a freeze on"));
        let decision = testing::decision(Action::Freeze);
        let verdict = |action, found| reobserved(&decision, action, found, false, MonoTime(7)).verdict;
        let free = FoundFreeze { requested: false, proved: false };
        let whole = FoundFreeze { requested: true, proved: true };
        assert_eq!(verdict(Action::Freeze, whole), Verdict::Proved);
        assert_eq!(verdict(Action::Thaw, free), Verdict::Proved);
        for (action, found, words) in [
            (Action::Freeze, partial, "not every process"),
            (Action::Freeze, free, "is not frozen"),
            (Action::Thaw, partial, "still frozen"),
            (Action::Thaw, whole, "still frozen"),
        ] {
            let Verdict::Failed(why) = verdict(action, found) else { panic!("{action:?} {found:?}") };
            assert!(why.contains(words), "{why}");
        }
    }
}

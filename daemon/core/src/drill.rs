//! Drills: a run that the node starts only to stop it, as a proof that it can. Names, the policy, the result, and the schedule.
//!
//! ```text
//! start ─► stop (violation ─► latched, frozen) ─► still ─► thaw ─► kill ─► end        each step has a time limit
//! ```
//! Invariants: pure. A run is one of a drill by its label, which nobody but the daemon can set. Only a drill of which every step
//! was proved counts as a proof.

use crate::{actor::Actor, subject::RunId, time::Span};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The label of the run of a drill. Labels that begin with `failsafe.` are the daemon's.
pub const LABEL: &str = "failsafe.drill";
/// How the names of such runs begin, and no others.
pub const PREFIX: &str = "failsafe-drill-";
/// The policy of such runs. An open of a device file is denied on every supported kernel, and needs no network.
pub const POLICY: &str = include_str!("drill/policy.toml");

/// Whether a run with these labels is one of a drill.
pub fn is_drill(labels: &BTreeMap<String, String>) -> bool {
    labels.contains_key(LABEL)
}

/// Whether a name reads like one of a drill.
pub fn is_reserved(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(PREFIX))
}

/// A step of a drill, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The run is made, and its process is in it.
    Start,
    /// Its process violates the policy; the kernel latches the run, and the run is frozen and proved frozen.
    Stop,
    /// The frozen process does nothing.
    Still,
    /// The run is thawed; its process continues, and the call was denied.
    Thaw,
    /// Its process is killed.
    Kill,
    /// The run has ended, and its cgroup is removed.
    End,
}

impl Step {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Step::Start => "start",
            Step::Stop => "stop",
            Step::Still => "still",
            Step::Thaw => "thaw",
            Step::Kill => "kill",
            Step::End => "end",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a drill shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// Every step was proved.
    Proved,
    /// Containment could not be proved, because the node only observes. This is no success.
    Unproved,
    /// The drill could not be done, or not to its end, for a reason that says nothing about containment: no run fits, or the daemon was
    /// stopped. This is no success.
    NotDone,
    /// A step failed.
    Failed,
}

impl Finding {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Finding::Proved => "proved",
            Finding::Unproved => "unproved",
            Finding::NotDone => "not-done",
            Finding::Failed => "failed",
        }
    }
}

/// A step that was done, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Which.
    pub step: Step,
    /// How long.
    pub took: Span,
}

/// The result of a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// The run; none where none was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Its name.
    pub name: String,
    /// What the drill shows.
    pub result: Finding,
    /// From the violation to the proof that the run is frozen; none where that was not reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_in: Option<Span>,
    /// The steps that were done.
    pub steps: Vec<Done>,
    /// The step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Step>,
    /// Why it is not proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// When it began, nanoseconds since the epoch.
    pub began_ns: i64,
    /// How long it took.
    pub took: Span,
    /// Who asked.
    pub actor: Actor,
    /// Why.
    pub reason: String,
}

impl Drill {
    /// When it ended, nanoseconds since the epoch.
    pub fn ended_ns(&self) -> i64 {
        self.began_ns.saturating_add(signed(self.took.0))
    }

    /// Why it is not proved, with the step, in words.
    pub fn why(&self) -> String {
        let why = self.problem.as_deref().unwrap_or("not known");
        self.failed.map_or_else(|| why.to_owned(), |step| format!("step {step}: {why}"))
    }
}

/// When drills are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Time between two drills.
    pub every: Span,
    /// Largest random delay of each.
    pub jitter: Span,
}

/// What a schedule goes by. Times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// When the schedule was turned on.
    pub since_ns: i64,
    /// When the daemon started.
    pub started_ns: i64,
    /// When the last drill ended, and whether it is repeated soon: it failed, or was not done.
    pub last: Option<(i64, bool)>,
    /// When the last drill ended that proved a stop.
    pub proved_ns: Option<i64>,
}

/// The first drill is done so long after the schedule is turned on.
const FIRST: Span = Span::from_secs(60);
/// A drill that failed or was not done is repeated after this time.
const AGAIN: Span = Span::from_secs(600);
/// Longer than a drill can take. A drill is overdue only after it, and so long after the start of the daemon.
const GRACE: Span = Span::from_secs(60);

impl Schedule {
    /// When the next drill is due, with this random part of the jitter. A last drill that is still to come shows that the clock was set
    /// back: then one is due now.
    pub fn due_ns(&self, known: &Known, delay: Span, now_ns: i64) -> i64 {
        let delay = delay.0.min(self.jitter.0);
        let after = |at: i64, wait: u64| at.saturating_add(signed(wait));
        match known.last {
            Some((at, _)) if at > now_ns => now_ns,
            Some((at, true)) => after(at, self.every.0.min(AGAIN.0)),
            Some((at, false)) => after(at, self.every.0.saturating_add(delay)),
            None => after(known.since_ns.min(now_ns), self.every.0.min(FIRST.0).saturating_add(delay)),
        }
    }

    /// Since when no drill has proved a stop, where that is too long ago.
    pub fn overdue_since_ns(&self, known: &Known, now_ns: i64) -> Option<i64> {
        let since = known.proved_ns.filter(|at| *at <= now_ns).unwrap_or(known.since_ns.min(now_ns));
        let age = u64::try_from(now_ns.saturating_sub(since)).unwrap_or(0);
        let up = u64::try_from(now_ns.saturating_sub(known.started_ns)).unwrap_or(0);
        (age > self.longest().0 && up > GRACE.0).then_some(since)
    }

    /// How long nothing changes by the passing of time: until a drill is due, or overdue. At most [`Schedule::LOOK`], because the clock may
    /// be set.
    pub fn rests(&self, known: &Known, delay: Span, now_ns: i64) -> Span {
        let left = |at: i64| u64::try_from(at.saturating_sub(now_ns)).unwrap_or(0);
        let proved = known.proved_ns.filter(|at| *at <= now_ns).unwrap_or(known.since_ns.min(now_ns));
        let overdue =
            proved.saturating_add(signed(self.longest().0)).max(known.started_ns.saturating_add(signed(GRACE.0)));
        // Overdue is what lies after that instant.
        let overdue = Some(left(overdue.saturating_add(1))).filter(|left| *left > 0);
        let rest = left(self.due_ns(known, delay, now_ns)).min(overdue.unwrap_or(u64::MAX));
        Span(rest.min(Schedule::LOOK.0))
    }

    /// How long a node may be without a proof.
    fn longest(&self) -> Span {
        Span(self.every.0.saturating_add(self.jitter.0).saturating_add(GRACE.0.max(self.every.0 / 10)))
    }

    /// The schedule is looked at so often at least.
    pub const LOOK: Span = Span::from_secs(60);
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Effect, parse::parse};

    const S: i64 = 1_000_000_000;
    const DAY: Schedule = Schedule { every: Span::from_secs(86_400), jitter: Span::from_secs(3_600) };

    #[test]
    fn the_policy_of_drills_stops_by_one_rule() {
        let policy = parse("drill", POLICY).unwrap();
        assert_eq!(policy.name, "failsafe-drill");
        assert_eq!(policy.rules.iter().map(|rule| rule.effect).collect::<Vec<_>>(), [Effect::Stop]);
    }

    #[test]
    fn names_of_drills_are_reserved_in_every_spelling() {
        for name in ["failsafe-drill-1", "Failsafe-Drill-x", "failsafe-drill-"] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["failsafe-drill", "drill", "my-failsafe-drill-1", "\u{e9}ailsafe-drill-"] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn the_next_drill_is_due_after_the_last_one_and_sooner_after_a_failure() {
        let now = 1_000_000 * S;
        let known = Known { since_ns: now, started_ns: now, ..Known::default() };
        let due = |known: &Known, delay| DAY.due_ns(known, Span::from_secs(delay), now) - now;
        assert_eq!(due(&known, 5), 65 * S);
        assert_eq!(due(&Known { last: Some((now, false)), ..known }, 5), 86_405 * S);
        assert_eq!(due(&Known { last: Some((now, false)), ..known }, 9_999), 90_000 * S, "at most the jitter");
        assert_eq!(due(&Known { last: Some((now, true)), ..known }, 5), 600 * S);
        assert_eq!(due(&Known { last: Some((now + S, false)), ..known }, 5), 0, "the clock was set back");
        let short = Schedule { every: Span::from_secs(10), jitter: Span(0) };
        assert_eq!(short.due_ns(&Known { last: Some((now, true)), ..known }, Span(0), now) - now, 10 * S);
    }

    #[test]
    fn a_drill_is_overdue_when_no_stop_was_proved_for_longer_than_the_schedule_allows() {
        let at = 1_000_000 * S;
        let known = Known { since_ns: at, started_ns: at, ..Known::default() };
        let most = (86_400 + 3_600 + 8_640) * S;
        assert_eq!(DAY.overdue_since_ns(&known, at + most), None);
        assert_eq!(DAY.overdue_since_ns(&known, at + most + 1), Some(at), "none was ever done");
        let proved = Known { proved_ns: Some(at + S), ..known };
        assert_eq!(DAY.overdue_since_ns(&proved, at + most + 1), None);
        assert_eq!(DAY.overdue_since_ns(&proved, at + most + S + 1), Some(at + S));
        let failed = Known { last: Some((at + most, true)), ..known };
        assert_eq!(DAY.overdue_since_ns(&failed, at + most + 1), Some(at), "a failed drill proves nothing");
        let restarted = Known { started_ns: at + 10 * most, ..proved };
        assert_eq!(DAY.overdue_since_ns(&restarted, at + 10 * most + 60 * S), None, "there was no time for one");
        assert_eq!(DAY.overdue_since_ns(&restarted, at + 10 * most + 60 * S + 1), Some(at + S));
    }

    #[test]
    fn nothing_is_to_be_done_until_a_drill_is_due_or_overdue() {
        let at = 1_000_000 * S;
        let known = Known { since_ns: at, started_ns: at, ..Known::default() };
        let rests = |known: &Known, now| DAY.rests(known, Span(0), now);
        assert_eq!(rests(&known, at + 15 * S), Span::from_secs(45), "the first one");
        assert_eq!(rests(&known, at + 61 * S), Span(0));
        let done = Known { last: Some((at, false)), proved_ns: Some(at), ..known };
        assert_eq!(rests(&done, at), Schedule::LOOK, "the clock may be set meanwhile");
        assert_eq!(rests(&done, at + 86_399 * S), Span::from_secs(1));
        // Drills fail, and the time comes from which they are overdue.
        let most = (86_400 + 3_600 + 8_640) * S;
        let failed = Known { last: Some((at + most - 9 * S, true)), ..done };
        assert_eq!(rests(&failed, at + most - 2 * S), Span(2_000_000_001));
        assert_eq!(DAY.overdue_since_ns(&failed, at + most - 2 * S + 2_000_000_001), Some(at));
        assert_eq!(rests(&failed, at + most + S), Schedule::LOOK, "it is overdue by then");
    }

    #[test]
    fn a_result_is_stored_without_what_is_not_known() {
        let drill = Drill {
            run: None,
            name: "failsafe-drill-1".into(),
            result: Finding::Failed,
            stopped_in: None,
            steps: vec![Done { step: Step::Start, took: Span(5) }],
            failed: Some(Step::Stop),
            problem: Some("not frozen within 5 s".into()),
            began_ns: 7,
            took: Span(3),
            actor: Actor::Daemon,
            reason: "test".into(),
        };
        let text = serde_json::to_string(&drill).unwrap();
        assert!(!text.contains("stopped_in") && text.contains("\"failed\":\"stop\""), "{text}");
        assert_eq!(serde_json::from_str::<Drill>(&text).unwrap(), drill);
        assert_eq!((drill.ended_ns(), drill.why()), (10, "step stop: not frozen within 5 s".to_owned()));
    }
}

//! Counts for monitoring: what was decided and what came of it, since the daemon started.
//!
//! ```text
//! Record ─► Note::of (small, taken where the record is written) ─► Tally::take ─► counts
//! adopted run ─► Tally::adopted, counters of live runs ─► Tally::seen ─► Tally::settle ─► totals that never decrease
//! ```
//! Invariants: pure; bounded, whatever rules and runs users make: what has no room is counted under [`OTHER`]. Totals of what the
//! kernel counted begin at 0 with the daemon and never decrease when a run ends.

use crate::{
    decision::{Action, Cause, Mode, Verdict},
    drill::is_drill,
    egress::Totals,
    record::Record,
    subject::RunId,
    time::Span,
    visible::beginning,
};
use std::collections::{BTreeMap, VecDeque};

/// The rule under which is counted what has no room of its own.
pub const OTHER: &str = "other";
/// Largest number of combinations of action, rule and mode.
const INTERVENTIONS: usize = 512;
/// Largest length of the name of a rule, in bytes.
const NAME: usize = 64;
/// Runs of drills that are remembered: one drill is done at a time.
const DRILLS: usize = 16;
/// Ended runs of which the final counts are awaited.
const AWAITED: usize = 4_096;
const MS: u64 = 1_000_000;
/// Bounds of the durations, in nanoseconds.
pub const BOUNDS: [u64; 13] = [
    MS / 2,
    MS,
    2 * MS,
    5 * MS,
    10 * MS,
    20 * MS,
    50 * MS,
    100 * MS,
    200 * MS,
    500 * MS,
    1_000 * MS,
    2_000 * MS,
    10_000 * MS,
];

/// What is counted of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A run of a drill began. What is decided about it is not counted.
    Drill(RunId),
    /// A decision.
    Decision {
        /// About which run.
        run: RunId,
        /// The rule, or what else decided.
        rule: String,
        /// Its actions.
        actions: Vec<Action>,
        /// Whether they are carried out.
        mode: Mode,
    },
    /// An outcome.
    Outcome {
        /// About which run.
        run: RunId,
        /// Of which action.
        action: Action,
        /// The name of its verdict.
        result: &'static str,
        /// From the cause to the last proof.
        took: Span,
    },
    /// A sensor became blind, or lost events.
    Gap {
        /// The sensor.
        source: &'static str,
        /// Whether it is blind from now on.
        blind: bool,
        /// Events that it lost.
        lost: u64,
    },
    /// Entries of the log that were summed up.
    Limited(u64),
    /// A policy was refused.
    PolicyRefused,
    /// The final counts of a run.
    Final(RunId, Totals),
}

impl Note {
    /// What is counted of a record, if anything.
    pub fn of(record: &Record) -> Option<Note> {
        Some(match record {
            Record::RunStarted { run, .. } | Record::RunAdopted { run, .. } if is_drill(&run.labels) => {
                Note::Drill(run.id)
            }
            Record::Decision { decision, .. } => {
                let rule = match &decision.cause {
                    Cause::Rule { rule, .. } => shortened(rule),
                    Cause::Operator(_) => "operator".to_owned(),
                    Cause::Upkeep { what } => format!("failsafe:{what}"),
                };
                let (run, actions) = (decision.id.run, decision.actions.clone());
                Note::Decision { run, rule, actions, mode: decision.mode }
            }
            Record::Outcome(outcome) => {
                let result = match outcome.verdict {
                    Verdict::Proved => "proved",
                    Verdict::Partial(_) => "partial",
                    Verdict::Failed(_) => "failed",
                };
                let (run, action) = (outcome.decision.run, outcome.action);
                Note::Outcome { run, action, result, took: outcome.took }
            }
            Record::Gap(gap) => Note::Gap { source: gap.source.name(), blind: gap.blind, lost: gap.lost },
            Record::Limited(limited) => Note::Limited(limited.entries),
            Record::PolicyRefused { .. } => Note::PolicyRefused,
            Record::RunTotals { run, totals, .. } => Note::Final(*run, *totals),
            _ => return None,
        })
    }
}

/// The beginning of a name that has room in a label.
fn shortened(name: &str) -> String {
    beginning(name, NAME).to_owned()
}

/// Durations of one action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many.
    pub count: u64,
    /// Their sum, ns.
    pub sum_ns: u64,
    /// How many took at most as long as each of [`BOUNDS`].
    pub within: [u64; BOUNDS.len()],
}

/// What a sensor did not see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gaps {
    /// How often it became blind.
    pub times: u64,
    /// Events that it lost.
    pub lost: u64,
}

/// The counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// By action, rule, and whether it is carried out.
    pub interventions: BTreeMap<(&'static str, String, bool), u64>,
    /// By action and result.
    pub actions: BTreeMap<(&'static str, &'static str), u64>,
    /// Of proved outcomes, by action.
    pub durations: BTreeMap<&'static str, Durations>,
    /// By sensor.
    pub gaps: BTreeMap<&'static str, Gaps>,
    /// Entries of the log that were summed up.
    pub limited: u64,
    /// Policies that were refused.
    pub policies_refused: u64,
}

/// The counts, and what the kernel counted of runs.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Counts,
    /// Of runs that ended.
    settled: Totals,
    runs: BTreeMap<RunId, Counted>,
    /// The last runs of drills.
    drills: VecDeque<RunId>,
}

#[derive(Debug, Default)]
struct Counted {
    /// What was counted before this daemon looked first.
    before: Totals,
    /// What that is, is not known: it is what is counted at the next look.
    begins_later: bool,
    now: Totals,
    is_final: bool,
}

impl Counted {
    fn look(&mut self, totals: Totals) {
        if std::mem::take(&mut self.begins_later) {
            self.before = totals;
        }
        self.now = larger(self.now, totals);
    }
}

impl Tally {
    /// Counts a note.
    pub fn take(&mut self, note: Note) {
        let counts = &mut self.counts;
        match note {
            Note::Drill(run) => {
                self.drills.push_back(run);
                if self.drills.len() > DRILLS {
                    self.drills.pop_front();
                }
            }
            Note::Decision { run, .. } | Note::Outcome { run, .. } | Note::Final(run, _)
                if self.drills.contains(&run) => {}
            Note::Decision { rule, actions, mode, .. } => {
                for action in actions {
                    let mut key = (action.name(), rule.clone(), mode == Mode::Enforce);
                    if !counts.interventions.contains_key(&key) && counts.interventions.len() >= INTERVENTIONS {
                        key.1 = OTHER.to_owned();
                    }
                    add(counts.interventions.entry(key).or_default(), 1);
                }
            }
            Note::Outcome { action, result, took, .. } => {
                add(counts.actions.entry((action.name(), result)).or_default(), 1);
                if result == "proved" {
                    let durations = counts.durations.entry(action.name()).or_default();
                    add(&mut durations.count, 1);
                    add(&mut durations.sum_ns, took.0);
                    let within = durations.within.iter_mut().zip(BOUNDS).filter(|(_, bound)| took.0 <= *bound);
                    within.for_each(|(count, _)| add(count, 1));
                }
            }
            Note::Gap { source, blind, lost } => {
                let gaps = counts.gaps.entry(source).or_default();
                add(&mut gaps.times, u64::from(blind));
                add(&mut gaps.lost, lost);
            }
            Note::Limited(entries) => add(&mut counts.limited, entries),
            Note::PolicyRefused => add(&mut counts.policies_refused, 1),
            Note::Final(run, totals) => {
                let counted = self.runs.entry(run).or_default();
                counted.look(totals);
                counted.is_final = true;
                self.forget_ended();
            }
        }
    }

    /// Keeps the counts of the oldest ended runs, and not the runs: nobody may ever ask for the sum.
    fn forget_ended(&mut self) {
        while self.runs.len() > AWAITED {
            let oldest = self.runs.iter().find(|(_, counted)| counted.is_final).map(|(run, _)| *run);
            let Some(ended) = oldest.and_then(|run| self.runs.remove(&run)) else { return };
            self.settled = sum(self.settled, less(ended.now, ended.before));
        }
    }

    /// An earlier daemon's run was taken up, of which this much was counted then: it is not this daemon's. `None`: that is not known, and
    /// what is counted until the next look is not this daemon's either.
    pub fn adopted(&mut self, run: RunId, totals: Option<Totals>) {
        let before = totals.unwrap_or_default();
        let counted = Counted { before, begins_later: totals.is_none(), now: before, is_final: false };
        self.runs.entry(run).or_insert(counted);
    }

    /// What the kernel counted of a live run so far. `earlier`: the run is older than this daemon, so that what was counted before the
    /// first look is not this daemon's.
    pub fn count(&mut self, run: RunId, totals: Totals, earlier: bool) {
        let first = || Counted { before: if earlier { totals } else { Totals::default() }, ..Counted::default() };
        self.runs.entry(run).or_insert_with(first).look(totals);
    }

    /// Adds up what the kernel counted. Runs that are not in `live` and have their final counts are forgotten.
    pub fn settle(&mut self, live: impl Fn(&RunId) -> bool) -> Totals {
        let awaited = self.runs.iter().filter(|(run, counted)| !live(run) && !counted.is_final).count();
        let mut too_many = awaited.saturating_sub(AWAITED);
        let (mut settled, mut total) = (self.settled, Totals::default());
        // The oldest first: the order of run ids is that of their times.
        self.runs.retain(|run, counted| {
            let own = less(counted.now, counted.before);
            let gives_up = !live(run) && !counted.is_final && too_many > 0;
            too_many -= usize::from(gives_up);
            if gives_up || (counted.is_final && !live(run)) {
                settled = sum(settled, own);
                return false;
            }
            total = sum(total, own);
            true
        });
        self.settled = settled;
        sum(settled, total)
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

fn add(count: &mut u64, more: u64) {
    *count = count.saturating_add(more);
}

fn larger(a: Totals, b: Totals) -> Totals {
    each(a, b, u64::max)
}

fn less(a: Totals, b: Totals) -> Totals {
    each(a, b, u64::saturating_sub)
}

fn sum(a: Totals, b: Totals) -> Totals {
    each(a, b, u64::saturating_add)
}

fn each(a: Totals, b: Totals, of: impl Fn(u64, u64) -> u64) -> Totals {
    Totals {
        egress_bytes: of(a.egress_bytes, b.egress_bytes),
        ingress_bytes: of(a.ingress_bytes, b.ingress_bytes),
        denied_calls: of(a.denied_calls, b.denied_calls),
        denied_ops: of(a.denied_ops, b.denied_ops),
        observed_ops: of(a.observed_ops, b.observed_ops),
        dropped_packets: of(a.dropped_packets, b.dropped_packets),
        budget_drops: of(a.budget_drops, b.budget_drops),
        events: of(a.events, b.events),
        events_lost: of(a.events_lost, b.events_lost),
        untracked: of(a.untracked, b.untracked),
        dns_queries: of(a.dns_queries, b.dns_queries),
        dns_bytes: of(a.dns_bytes, b.dns_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: u128) -> RunId {
        RunId(uuid::Uuid::from_u128(n))
    }

    fn denied(denied_calls: u64) -> Totals {
        Totals { denied_calls, ..Totals::default() }
    }

    fn decision(rule: &str) -> Note {
        let actions = vec![Action::Freeze, Action::Notify];
        Note::Decision { run: run(7), rule: rule.to_owned(), actions, mode: Mode::Enforce }
    }

    #[test]
    fn rules_without_room_are_counted_as_other_and_none_is_lost() {
        let mut tally = Tally::default();
        (0..2_000).for_each(|n| tally.take(decision(&format!("rule-{n}"))));
        tally.take(decision("rule-0"));
        let counts = tally.counts().interventions;
        assert!(counts.len() <= INTERVENTIONS + 2, "{}", counts.len());
        assert_eq!(counts.values().sum::<u64>(), 2 * 2_001);
        assert_eq!(counts[&("freeze", "rule-0".to_owned(), true)], 2);
        assert!(counts[&("freeze", OTHER.to_owned(), true)] > 1_000);
    }

    #[test]
    fn the_run_of_a_drill_is_in_no_count() {
        let mut tally = Tally::default();
        tally.take(Note::Drill(run(7)));
        tally.take(decision("drill"));
        tally.take(Note::Outcome { run: run(7), action: Action::Kill, result: "failed", took: Span(1) });
        tally.take(Note::Final(run(7), denied(5)));
        assert_eq!((tally.counts(), tally.settle(|_| false)), (Counts::default(), Totals::default()));
        (100..200).for_each(|n| tally.take(Note::Drill(run(n))));
        assert_eq!(tally.drills.len(), DRILLS);
    }

    #[test]
    fn a_long_name_of_a_rule_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let cut = shortened(&format!("{}\u{e9}\u{e9}", "x".repeat(63)));
        assert_eq!(cut, "x".repeat(63));
    }

    #[test]
    fn durations_are_counted_within_their_bounds_and_only_where_the_action_is_proved() {
        let mut tally = Tally::default();
        for (result, ms) in [("proved", 1), ("proved", 30), ("proved", 60_000), ("partial", 1)] {
            tally.take(Note::Outcome { run: run(7), action: Action::Freeze, result, took: Span(ms * MS) });
        }
        let durations = tally.counts().durations["freeze"];
        assert_eq!((durations.count, durations.sum_ns), (3, 60_031 * MS));
        assert_eq!(durations.within, [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(tally.counts().actions[&("freeze", "partial")], 1);
    }

    #[test]
    fn totals_never_decrease_when_a_run_ends() {
        let mut tally = Tally::default();
        tally.count(run(1), denied(5), false);
        tally.count(run(2), denied(1), false);
        assert_eq!(tally.settle(|_| true).denied_calls, 6);
        // It has ended, and its final counts are not there yet.
        assert_eq!(tally.settle(|id| *id == run(2)).denied_calls, 6);
        tally.take(Note::Final(run(1), denied(7)));
        assert_eq!(tally.settle(|id| *id == run(2)).denied_calls, 8);
        assert_eq!(tally.settle(|id| *id == run(2)).denied_calls, 8);
        assert_eq!(tally.runs.len(), 1);
        // Final counts of a run that was live in the same look are not counted twice.
        tally.take(Note::Final(run(2), denied(3)));
        tally.count(run(2), denied(2), false);
        assert_eq!(tally.settle(|id| *id == run(2)).denied_calls, 10);
        assert_eq!(tally.settle(|_| false).denied_calls, 10);
    }

    #[test]
    fn what_was_counted_before_the_daemon_started_is_not_counted_again() {
        let mut tally = Tally::default();
        tally.count(run(1), denied(50), true);
        assert_eq!(tally.settle(|_| true).denied_calls, 0);
        tally.count(run(1), denied(53), true);
        assert_eq!(tally.settle(|_| true).denied_calls, 3);
    }

    #[test]
    fn an_adopted_run_that_ends_before_the_first_look_counts_from_its_adoption() {
        let mut tally = Tally::default();
        tally.adopted(run(1), Some(denied(50)));
        tally.take(Note::Final(run(1), denied(53)));
        assert_eq!(tally.settle(|_| false).denied_calls, 3);
        tally.adopted(run(2), None);
        tally.take(Note::Final(run(2), denied(53)));
        assert_eq!(tally.settle(|_| false).denied_calls, 3, "what was counted before is not known");
    }

    #[test]
    fn what_an_adopted_run_does_before_the_first_look_is_counted() {
        let mut tally = Tally::default();
        tally.adopted(run(1), Some(denied(50)));
        tally.count(run(1), denied(54), true);
        assert_eq!(tally.settle(|_| true).denied_calls, 4);
        tally.adopted(run(2), None);
        tally.count(run(2), denied(7), true);
        tally.count(run(2), denied(8), true);
        assert_eq!(tally.settle(|_| true).denied_calls, 5);
    }

    #[test]
    fn ended_runs_without_final_counts_are_bounded_and_keep_their_counts() {
        let mut tally = Tally::default();
        let many = AWAITED as u128 + 100;
        (0..many).for_each(|n| tally.count(run(n), denied(1), false));
        assert_eq!(u128::from(tally.settle(|_| false).denied_calls), many);
        assert_eq!(tally.runs.len(), AWAITED);
    }

    #[test]
    fn ended_runs_are_bounded_and_keep_their_counts_although_nobody_asks_for_the_sum() {
        let mut tally = Tally::default();
        let many = 2 * AWAITED as u128;
        tally.count(run(0), denied(1), false);
        (1..many).for_each(|n| tally.take(Note::Final(run(n), denied(1))));
        assert_eq!(tally.runs.len(), AWAITED);
        assert!(tally.runs.contains_key(&run(0)), "it has not ended");
        assert_eq!(u128::from(tally.settle(|_| false).denied_calls), many);
    }
}

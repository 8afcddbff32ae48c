//! Which rules of a run do not judge at the moment, and which do not trip again yet: kept where `describe` reads it, put into
//! the answer to a thaw, and into the log.

use super::Pipeline;
use failsafe_core::{
    Action, Input, Kind, MonoTime, Outcome, Proof, RunId, Signal, decision::Verdict, input::Gap, record::Record,
};
use std::collections::BTreeMap;

/// Rules of the runs of one user that are looked at in a tick. Those of runs beyond it follow in the next ticks, in turns.
const LOOKED_AT: usize = 2_048;

/// Which runs are looked at next, by user.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: BTreeMap<u32, RunId>,
}

impl Turns {
    /// The runs of each user whose turn it is, given each live run with its user and the number of its rules. Every run has a turn after
    /// at most as many ticks as the rules of its user are times [`LOOKED_AT`]; a run of another user does not count.
    fn next(&mut self, live: impl IntoIterator<Item = (RunId, u32, usize)>) -> Vec<RunId> {
        let mut users: BTreeMap<u32, Vec<(RunId, usize)>> = BTreeMap::new();
        live.into_iter().for_each(|(run, user, rules)| users.entry(user).or_default().push((run, rules)));
        self.last.retain(|user, _| users.contains_key(user));
        let mut out = Vec::new();
        for (user, runs) in users {
            let first = self.last.get(&user).map_or(0, |last| runs.partition_point(|(run, _)| run <= last));
            let mut room = LOOKED_AT;
            for (run, rules) in runs.iter().cycle().skip(first).take(runs.len()) {
                out.push(*run);
                self.last.insert(user, *run);
                room = room.saturating_sub(*rules);
                if room == 0 {
                    break;
                }
            }
        }
        out
    }
}

impl Pipeline {
    /// Metrics that rules need and nobody reports any more: a gap of the run, and the engine decides by `on_blind`. How long this takes
    /// depends on the policies of users, so commands, outcomes and the heartbeat are served after each run.
    pub(super) fn listen_for_silence(&mut self, now: MonoTime) {
        let (runs, state) = (&self.runs, &self.judge.state);
        let frozen = |id: RunId| runs.get(&id).is_some_and(|live| live.status().containment.is_frozen());
        for input in self.silence.tick(now, frozen, |id| state.is_suspended(id)) {
            self.silent(input);
            self.urgent();
        }
        let live = self.runs.iter().map(|(id, live)| (*id, live.run.owner_uid, live.policy.rules.len()));
        for id in self.turns.next(live) {
            let rules = self.judge.state.rules(&self.judge.policies, id, now);
            if let Some(live) = self.runs.get(&id) {
                live.status().rules = rules;
            }
            self.urgent();
        }
    }

    /// A metric that had been missing is reported again: the engine learns that before its value.
    pub(super) fn heard_of(&mut self, signal: &Signal) {
        if let (Kind::Metric(name), Some(run)) = (&signal.kind, signal.subject.run())
            && let Some(again) = self.silence.heard(run, name, signal.at)
        {
            self.silent(Input::Silent(again));
        }
    }

    fn silent(&mut self, input: Input) {
        let gap: Gap = match &input {
            Input::Silent(silent) => silent.gap(),
            Input::Missing(missing) => missing.gap(),
            _ => return,
        };
        tracing::warn!(source = %gap.source, run = ?gap.run, blind = gap.blind, what = gap.what, "gap");
        let run = gap.run;
        self.parts.log.record(&Record::Gap(gap), run, None);
        self.feed(input);
    }

    /// After a thaw some rules do not trip again at once: the answer and the log name each, and until when.
    pub(super) fn show_disarmed(&self, outcome: &mut Outcome) {
        if outcome.action != Action::Thaw || matches!(outcome.verdict, Verdict::Failed(_)) {
            return;
        }
        let rules = self.judge.state.rules(&self.judge.policies, outcome.decision.run, outcome.at);
        if let Some(live) = self.runs.get(&outcome.decision.run) {
            live.status().rules = rules.clone();
        }
        outcome.proofs.extend(rules.disarmed.into_iter().map(|seen| Proof { fact: "disarmed".into(), seen }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn run(n: u128) -> RunId {
        RunId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn a_user_with_many_rules_makes_no_run_of_another_user_wait() {
        let mut turns = Turns::default();
        let live: Vec<(RunId, u32, usize)> = (0..64).map(|n| (run(n), 1, 1_024)).chain([(run(99), 2, 3)]).collect();
        let mut seen = BTreeSet::new();
        for _ in 0..32 {
            let next = turns.next(live.clone());
            assert_eq!(next.len(), 3, "two runs of the one user, and that of the other: {next:?}");
            assert!(next.contains(&run(99)));
            seen.extend(next);
        }
        assert_eq!(seen.len(), live.len(), "each run has its turn");
        assert_eq!(turns.next([(run(99), 2, 3)]), [run(99)]);
        assert_eq!(turns.last.len(), 1, "a user without runs is forgotten");
    }

    #[test]
    fn runs_with_few_rules_are_looked_at_in_every_tick() {
        let mut turns = Turns::default();
        let live: Vec<(RunId, u32, usize)> = (0..100).map(|n| (run(n), 1, 20)).collect();
        for _ in 0..3 {
            assert_eq!(turns.next(live.clone()).len(), 100);
        }
    }
}

//! Which rules of a run do not judge at the moment, and which do not trip again yet: kept where `describe` reads it, put into
//! the answer to a thaw, and into the log.

use super::Pipeline;
use failsafe_core::{
    Action, Input, Kind, MonoTime, Outcome, Proof, RunId, Signal, decision::Verdict, input::Silent, record::Record,
};

impl Pipeline {
    /// Metrics that rules need and nobody reports any more: each is a gap, and the engine decides by `on_blind`.
    pub(super) fn listen_for_silence(&mut self, now: MonoTime) {
        let runs = &self.runs;
        let frozen = |id: RunId| runs.get(&id).is_some_and(|live| live.status().containment.is_frozen());
        for silent in self.silence.tick(now, frozen) {
            self.silent(silent);
        }
        for (id, live) in &self.runs {
            live.status().rules = self.judge.state.rules(&self.judge.policies, *id, now);
        }
    }

    /// A metric that had been missing is reported again: the engine learns that before its value.
    pub(super) fn heard_of(&mut self, signal: &Signal) {
        if let (Kind::Metric(name), Some(run)) = (&signal.kind, signal.subject.run())
            && let Some(again) = self.silence.heard(run, name, signal.at)
        {
            self.silent(again);
        }
    }

    fn silent(&mut self, silent: Silent) {
        let gap = silent.gap();
        tracing::warn!(source = %gap.source, run = %silent.run, blind = gap.blind, what = gap.what, "gap");
        self.parts.log.record(&Record::Gap(gap), Some(silent.run), None);
        self.feed(Input::Silent(silent));
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

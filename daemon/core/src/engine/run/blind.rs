//! What its policy decides when something of a run is not seen, and what is shown of that.

use super::{RunState, decide::Because};
use crate::{
    decision::{Action, Cause, Confidence, Decision, Mode, Severity, Upkeep},
    engine::RulesView,
    input::{Gap, Missing, NAMED, Silent, Unread},
    policy::{OnBlind, Policy, Rule},
    time::MonoTime,
};

impl RunState {
    /// Whether something that its policy needs is not seen.
    pub(super) fn is_blind(&self) -> bool {
        self.blindness.is_any(|gpu| self.has_gpu(gpu))
    }

    pub(in crate::engine) fn gap(&mut self, policy: &Policy, gap: &Gap, out: &mut Vec<Decision>) {
        let sensor = (gap.source, gap.gpu.clone());
        let saw = !gap.blind && !self.blindness.sensors.remove(&sensor);
        if gap.blind && self.blindness.goes_blind(sensor) {
            self.decide_blind(policy, gap.at, vec![gap.seq], out);
        }
        // A gap can also be about what one event does not show. The run causes such gaps itself: they hide no other event.
        if !saw || gap.lost > 0 {
            self.trees.iter_mut().flatten().for_each(|tree| tree.lost(gap.source, gap.at));
        }
        self.judge_trees(policy, gap.at, out);
    }

    pub(in crate::engine) fn tick(&mut self, policy: &Policy, now: MonoTime, out: &mut Vec<Decision>) {
        for source in self.blindness.stale(self.registered, !self.gpus.is_empty(), now) {
            if self.blindness.goes_blind((source, None)) {
                self.decide_blind(policy, now, Vec::new(), out);
            }
        }
        self.skip_suspension(now);
        self.judge_trees(policy, now, out);
    }

    /// A signal of a GPU that no sensor reads any more: the rules on it are blind, the others are not.
    pub(in crate::engine) fn unread(&mut self, policy: &Policy, unread: &Unread, out: &mut Vec<Decision>) {
        let Some(why) = &unread.why else {
            self.blindness.unread.remove(&(unread.gpu.clone(), unread.kind.clone()));
            self.judge_trees(policy, unread.at, out);
            return;
        };
        let watched = policy.rules.iter().any(|rule| rule.when.reads().contains(&&unread.kind));
        if watched && self.blindness.cannot_read(unread, why) {
            self.decide_blind(policy, unread.at, vec![unread.seq], out);
        }
        self.judge_trees(policy, unread.at, out);
    }

    /// A metric that rules need is missing: these rules are blind.
    pub(in crate::engine) fn silent(&mut self, policy: &Policy, silent: &Silent, out: &mut Vec<Decision>) {
        let Some(why) = &silent.why else {
            self.blindness.silent.remove(&silent.metric);
            self.judge_trees(policy, silent.at, out);
            return;
        };
        if self.goes_silent(&silent.metric, why) {
            self.decide_blind(policy, silent.at, vec![silent.seq], out);
        }
        self.judge_trees(policy, silent.at, out);
    }

    /// Several metrics that rules need are missing at once: one decision for all.
    pub(in crate::engine) fn missing(&mut self, policy: &Policy, missing: &Missing, out: &mut Vec<Decision>) {
        let mut news = false;
        for (metric, why) in &missing.metrics {
            news |= self.goes_silent(metric, why);
        }
        if news {
            self.decide_blind(policy, missing.at, vec![missing.seq], out);
        }
        self.judge_trees(policy, missing.at, out);
    }

    /// Whether a rule needs the metric and it was not missing before.
    fn goes_silent(&mut self, metric: &str, why: &str) -> bool {
        self.index.has_metric(metric) && self.blindness.silent.insert(metric.to_owned(), why.to_owned()).is_none()
    }

    pub(in crate::engine) fn blind_to(&self) -> Vec<String> {
        self.blindness.reasons()
    }

    pub(in crate::engine) fn blind_rules(&self, policy: &Policy) -> (Vec<String>, usize) {
        if !self.blindness.is_anything() {
            return (Vec::new(), 0);
        }
        let blind = policy.rules.iter().filter(|rule| self.blindness.hides(&rule.when));
        let line = |rule: &&Rule| format!("rule {}: {}", rule.id, self.blindness.reasons_of(&rule.when).join("; "));
        (blind.clone().take(NAMED).map(|rule| line(&rule)).collect(), blind.count())
    }

    pub(in crate::engine) fn rules_view(&self, policy: &Policy, now: MonoTime) -> RulesView {
        let mut view = RulesView::default();
        let is_blind = self.blindness.is_anything();
        for ((rule, state), tree) in policy.rules.iter().zip(&self.rules).zip(&self.trees) {
            let why = if is_blind { self.blindness.reasons_of(&rule.when) } else { Vec::new() };
            if !why.is_empty() {
                view.blind.push(format!("rule {}: {}", rule.id, why.join("; ")));
            }
            view.disarmed.extend(state.disarmed(rule, now));
            if let Some(tree) = tree {
                view.disarmed.extend(tree.disarmed(rule, now));
                view.unknown.extend(tree.unknown(rule, &self.sight()));
            }
        }
        view
    }

    fn decide_blind(&mut self, policy: &Policy, at: MonoTime, seqs: Vec<u64>, out: &mut Vec<Decision>) {
        let actions = match policy.on_blind {
            OnBlind::Freeze => vec![Action::Freeze, Action::Snapshot, Action::Notify],
            OnBlind::Refuse | OnBlind::Continue => vec![Action::Notify],
        };
        let because = Because {
            at,
            seqs,
            values: Vec::new(),
            severity: Severity::Critical,
            confidence: Confidence::High,
            mode: Mode::Enforce,
        };
        self.decide(Cause::Upkeep { what: Upkeep::Blind }, actions, because, out);
    }
}

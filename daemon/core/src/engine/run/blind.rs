//! Which sensors, signals and metrics of a run are missing, and what its policy decides then.

use super::{RunState, decide::Because};
use crate::{
    decision::{Action, Cause, Confidence, Decision, Mode, Severity, Upkeep},
    engine::{RulesView, STALE_AFTER, sampled},
    input::{Gap, Silent, Unread},
    policy::{OnBlind, Policy},
    signal::{Kind, Signal, Source},
    subject::{GpuId, Subject},
    time::MonoTime,
};

impl RunState {
    /// Whether something that its policy needs is not seen.
    pub(super) fn is_blind(&self) -> bool {
        let sensor = self.blind.iter().any(|(_, gpu)| gpu.as_ref().is_none_or(|gpu| self.has_gpu(gpu)));
        sensor || !self.unread.is_empty() || !self.silent.is_empty()
    }

    pub(super) fn hear(&mut self, signal: &Signal) {
        // An event shows that its hook works, not that the counters are read.
        if sampled(signal.source) && signal.kind != Kind::Event {
            self.heard.insert(signal.source, signal.at);
            self.blind.remove(&(signal.source, None));
            if let (Subject::Gpu(gpu), false) = (&signal.subject, self.blind.is_empty()) {
                self.blind.remove(&(signal.source, Some(gpu.clone())));
            }
        }
    }

    pub(in crate::engine) fn gap(&mut self, policy: &Policy, gap: &Gap, out: &mut Vec<Decision>) {
        let key = (gap.source, gap.gpu.clone());
        let saw = !gap.blind && !self.blind.remove(&key);
        if gap.blind {
            self.go_blind(policy, key, gap.at, vec![gap.seq], out);
        }
        // A gap can also be about what one event does not show. The run causes such gaps itself: they hide no other event.
        if !saw || gap.lost > 0 {
            self.trees.iter_mut().flatten().for_each(|tree| tree.lost(gap.source, gap.at));
        }
        self.judge_trees(policy, gap.at, out);
    }

    pub(in crate::engine) fn tick(&mut self, policy: &Policy, now: MonoTime, out: &mut Vec<Decision>) {
        let stale = |source: &Source| {
            let heard = self.heard.get(source).copied().unwrap_or(self.registered);
            let expected = *source != Source::Nvml || !self.gpus.is_empty();
            sampled(*source) && expected && now.since(heard) > STALE_AFTER
        };
        if self.needs.iter().any(stale) {
            let stale: Vec<Source> = self.needs.iter().copied().filter(stale).collect();
            for source in stale {
                self.go_blind(policy, (source, None), now, Vec::new(), out);
            }
        }
        self.judge_trees(policy, now, out);
    }

    fn go_blind(
        &mut self,
        policy: &Policy,
        key: (Source, Option<GpuId>),
        at: MonoTime,
        seqs: Vec<u64>,
        out: &mut Vec<Decision>,
    ) {
        if self.needs.contains(&key.0) && self.blind.insert(key) {
            self.decide_blind(policy, at, seqs, out);
        }
    }

    /// A signal of a GPU that no sensor reads any more: the rules on it are blind, the others are not.
    pub(in crate::engine) fn unread(&mut self, policy: &Policy, unread: &Unread, out: &mut Vec<Decision>) {
        let key = (unread.gpu.clone(), unread.kind.clone());
        let Some(why) = &unread.why else {
            self.unread.remove(&key);
            self.judge_trees(policy, unread.at, out);
            return;
        };
        let watched = policy.rules.iter().any(|rule| rule.when.reads().contains(&&unread.kind));
        let blind = self.blind.contains(&(unread.source, None))
            || self.blind.contains(&(unread.source, Some(unread.gpu.clone())));
        if watched && !blind && self.unread.insert(key, why.clone()).is_none() {
            self.decide_blind(policy, unread.at, vec![unread.seq], out);
        }
        self.judge_trees(policy, unread.at, out);
    }

    /// A metric that rules need is missing: these rules are blind.
    pub(in crate::engine) fn silent(&mut self, policy: &Policy, silent: &Silent, out: &mut Vec<Decision>) {
        let Some(why) = &silent.why else {
            self.silent.remove(&silent.metric);
            self.judge_trees(policy, silent.at, out);
            return;
        };
        let needed = policy.rules.iter().any(|rule| rule.when.metrics().contains(silent.metric.as_str()));
        if needed && self.silent.insert(silent.metric.clone(), why.clone()).is_none() {
            self.decide_blind(policy, silent.at, vec![silent.seq], out);
        }
        self.judge_trees(policy, silent.at, out);
    }

    pub(in crate::engine) fn blind_to(&self) -> Vec<String> {
        let sensors = self.blind.iter().map(|(source, gpu)| match gpu {
            Some(gpu) => format!("the {source} sensor does not see {gpu}"),
            None => format!("the {source} sensor is blind"),
        });
        let unread = self.unread.iter().map(|((gpu, kind), why)| format!("{kind} of {gpu} cannot be read: {why}"));
        sensors.chain(unread).chain(self.silent.values().cloned()).collect()
    }

    pub(in crate::engine) fn rules_view(&self, policy: &Policy, now: MonoTime) -> RulesView {
        let mut view = RulesView::default();
        for ((rule, state), tree) in policy.rules.iter().zip(&self.rules).zip(&self.trees) {
            let (sources, reads) = (rule.when.sources(), rule.when.reads());
            let blind = self.blind.iter().filter(|(source, _)| sources.contains(source));
            let sensor = blind.map(|(source, gpu)| match gpu {
                Some(gpu) => format!("the {source} sensor does not see {gpu}"),
                None => format!("the {source} sensor is blind"),
            });
            let unread = self.unread.iter().filter(|((_, kind), _)| reads.contains(&kind));
            let unread = unread.map(|((gpu, kind), why)| format!("{kind} of {gpu} cannot be read: {why}"));
            let metrics = rule.when.metrics();
            let silent = metrics.iter().filter_map(|name| self.silent.get(*name)).cloned();
            let why: Vec<String> = sensor.chain(unread).chain(silent).collect();
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

//! Values and events of a run are given to its rules. A rule that trips leads to a decision.

use super::{RunState, decide::Because};
use crate::{
    decision::{Action, Cause, Decision, Mode, Observation},
    engine::{
        OBSERVED_DENIALS, PACED, REAL_TRIPS_AGAIN, UNREAD_IS_UNKNOWN, leaf::Sight, rule::Observes, tree::Evidence,
    },
    policy::{Condition, Policy, Rule, Tree},
    signal::{Kind, Series, Signal, Value},
    subject::{GpuId, Subject},
    time::MonoTime,
};
use std::collections::BTreeSet;

impl RunState {
    pub(in crate::engine) fn signal(&mut self, policy: &Policy, signal: &Signal, out: &mut Vec<Decision>) {
        self.blindness.hear(signal);
        if let (Kind::Suspended, Value::Integer(still)) = (&signal.kind, &signal.value) {
            self.note_suspension(*still != 0, signal.at);
        }
        if let Value::Event(event) = &signal.value {
            self.event_upkeep(policy, event, signal, out);
        }
        self.keep(signal);
        self.judge(policy, signal, out);
        for derived in self.detectors.take(signal) {
            self.keep(&derived);
            self.judge(policy, &derived, out);
        }
    }

    /// Keeps the value as the last of its signal.
    fn keep(&mut self, signal: &Signal) {
        if !matches!(signal.value, Value::Event(_)) {
            let judged = matches!(&signal.kind, Kind::Metric(_)) && !self.index.of_signal(signal).is_empty();
            self.last.keep(signal, judged);
        }
    }

    /// Gives the signal to the rules on it, in their order.
    fn judge(&mut self, policy: &Policy, signal: &Signal, out: &mut Vec<Decision>) {
        for n in 0.. {
            let Some(index) = self.index.of_signal(signal).get(n).copied() else { return };
            let Some(rule) = policy.rules.get(index) else { continue };
            if let Condition::Tree(tree) = &rule.when {
                if let Some(state) = self.trees.get_mut(index).and_then(Option::as_mut) {
                    state.take(rule, policy, signal, self.observed, &self.manifest);
                }
                self.judge_tree(index, rule, tree, signal.at, Some(signal.seq), out);
                continue;
            }
            let denials = self.observed || !self.is_as_engine_before(OBSERVED_DENIALS) && policy.observes(rule);
            let real_trips_again = !self.is_as_engine_before(REAL_TRIPS_AGAIN);
            let paced = !self.is_as_engine_before(PACED);
            let observes = Observes { denials, run: self.observed, real_trips_again, paced };
            if let Some(trip) = self.rules[index].signal(rule, signal, observes) {
                // The ranks of a run diverge together: one decision stops it, and is enough.
                let again =
                    self.containment.is_frozen() && signal.value.series().is_some() && self.stopped_by.contains(&index);
                if again {
                    continue;
                }
                let mode = if trip.observed || self.observed { Mode::Observe } else { rule.mode };
                if !self.is_in_pace(&rule.actions, mode, signal.at) {
                    self.rules[index].suppress(trip.suppressed);
                    continue;
                }
                if mode == Mode::Enforce && rule.actions.contains(&Action::Freeze) {
                    self.stopped_by.insert(index);
                }
                let suppressed = trip.suppressed + self.rules[index].take_suppressed();
                let cause = Cause::Rule { rule: rule.id.clone(), condition: rule.condition(), suppressed };
                let because = Because { mode, ..Because::of(signal, rule) };
                self.decide(cause, rule.actions.clone(), because, out);
            }
        }
    }

    /// Judges the last values of a rule that tripped while the run was only watched.
    pub(super) fn judge_standing(&mut self, index: usize, rule: &Rule, at: MonoTime, out: &mut Vec<Decision>) {
        let Some(mut state) = self.rules.get_mut(index).map(std::mem::take) else { return };
        let of_run = || Subject::Run(self.id);
        let subject = |gpu: Option<&GpuId>| gpu.map_or_else(of_run, |gpu| Subject::Gpu(gpu.clone()));
        // A value that is not seen at present, or of a GPU that the run no longer has, is judged when it is seen again.
        let seen = |kind: &Kind, gpu: Option<&GpuId>, series: Option<&Series>| {
            !self.sight().hides(kind, gpu) && self.last_of(subject(gpu), kind, series).is_some()
        };
        let standing = state.enforce(rule, at, seen);
        let kind = rule.when.signals().first().copied().cloned();
        for (gpu, series) in standing {
            let value = kind.as_ref().and_then(|kind| {
                let subject = gpu.clone().map_or(Subject::Run(self.id), Subject::Gpu);
                self.last_of(subject, kind, series.as_ref()).cloned()
            });
            if !self.is_in_pace(&rule.actions, rule.mode, at) {
                state.suppress(0);
                continue;
            }
            if rule.mode == Mode::Enforce && rule.actions.contains(&Action::Freeze) {
                self.stopped_by.insert(index);
            }
            let suppressed = if self.is_as_engine_before(PACED) { 0 } else { state.take_suppressed() };
            let cause = Cause::Rule { rule: rule.id.clone(), condition: rule.condition(), suppressed };
            let because = Because {
                at,
                seqs: value.iter().map(|value| value.seq).collect(),
                values: value.into_iter().collect(),
                severity: rule.severity,
                confidence: rule.confidence,
                mode: rule.mode,
            };
            self.decide(cause, rule.actions.clone(), because, out);
        }
        if let Some(slot) = self.rules.get_mut(index) {
            *slot = state;
        }
    }

    /// Judges every condition of several parts: time has passed, or what is seen has changed.
    pub(super) fn judge_trees(&mut self, policy: &Policy, at: MonoTime, out: &mut Vec<Decision>) {
        for (index, rule) in policy.rules.iter().enumerate() {
            if let Condition::Tree(tree) = &rule.when {
                self.judge_tree(index, rule, tree, at, None, out);
            }
        }
    }

    fn judge_tree(
        &mut self,
        index: usize,
        rule: &Rule,
        tree: &Tree,
        at: MonoTime,
        seq: Option<u64>,
        out: &mut Vec<Decision>,
    ) {
        let Some(mut state) = self.trees.get_mut(index).and_then(Option::take) else { return };
        for n in 0..state.instances() {
            if !state.judge(n, rule, tree, &self.sight(), at) {
                continue;
            }
            if self.observed && rule.mode == Mode::Enforce {
                state.hold_back(n);
            }
            let Some(proof) = state.proof(n, self.sight().judges_real) else { continue };
            let mode = if proof.observed { Mode::Observe } else { rule.mode };
            if !self.is_in_pace(&rule.actions, mode, at) {
                self.rules[index].suppress(0);
                continue;
            }
            let mut values: Vec<Observation> = Vec::new();
            for seen in proof.values {
                let seen = match seen {
                    Evidence::Event(event) => Some(event),
                    Evidence::Last(subject, kind, series) => self.last_of(subject, &kind, series.as_ref()).cloned(),
                };
                values.extend(seen.filter(|seen| !values.contains(seen)));
            }
            // What is cordoned is found by the first value on a GPU.
            values.sort_by_key(|seen| !matches!(seen.subject, Subject::Gpu(_)));
            let seqs: BTreeSet<u64> = values.iter().map(|seen| seen.seq).chain(seq).collect();
            let holds = if proof.all { String::new() } else { format!(" [holds: {}]", proof.words.join("; ")) };
            let on = proof.gpu.map(|gpu| format!(" on {gpu}")).unwrap_or_default();
            let cause = Cause::Rule {
                rule: rule.id.clone(),
                condition: format!("{}{on}{holds}", rule.condition()),
                suppressed: self.rules[index].take_suppressed(),
            };
            let because = Because {
                at,
                seqs: seqs.into_iter().collect(),
                values,
                severity: rule.severity,
                confidence: rule.confidence.min(proof.confidence),
                mode,
            };
            self.decide(cause, rule.actions.clone(), because, out);
        }
        if let Some(slot) = self.trees.get_mut(index) {
            *slot = Some(state);
        }
    }

    pub(super) fn sight(&self) -> Sight<'_> {
        Sight {
            blind: &self.blindness.sensors,
            unread: &self.blindness.unread,
            silent: &self.blindness.silent,
            frozen: self.containment.is_frozen() || self.frozen_by_others,
            registered: self.registered,
            unread_is_absent: self.is_as_engine_before(UNREAD_IS_UNKNOWN),
            judges_real: !self.is_as_engine_before(REAL_TRIPS_AGAIN),
            enforces: !self.observed,
        }
    }

    /// The last value of a signal of a GPU, or of the run.
    fn last_of(&self, subject: Subject, kind: &Kind, series: Option<&Series>) -> Option<&Observation> {
        let subjects = [subject, Subject::Run(self.id), Subject::Node];
        let exact = subjects.iter().find_map(|subject| self.last.get(subject, kind, series));
        exact.or_else(|| subjects.iter().find_map(|subject| self.last.newest(subject, kind)))
    }
}

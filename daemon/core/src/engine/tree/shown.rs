//! What a condition shows: the values that made it true, what of it is not known, and what a tripped rule waits for.

use super::{TreeState, instance::Instance, program::Step};
use crate::{
    decision::{Confidence, Observation},
    engine::leaf::{LeafState, Sight},
    policy::{Over, Rule, Test, Truth, tree::PHASE_METRIC},
    signal::{Kind, Series},
    subject::{GpuId, Subject},
    time::MonoTime,
};

/// Series of one test whose values a decision keeps.
const SERIES_SHOWN: usize = 8;

/// What made a condition true.
pub(in crate::engine) struct Proof {
    pub gpu: Option<GpuId>,
    /// The tests that made it true, in words.
    pub words: Vec<String>,
    /// Whether these are all tests of the condition.
    pub all: bool,
    /// Their values, as far as they have any.
    pub values: Vec<Evidence>,
    pub confidence: Confidence,
    /// It is true of what would have been denied.
    pub observed: bool,
}

/// A value that made a test true.
pub(in crate::engine) enum Evidence {
    /// An event.
    Event(Observation),
    /// The last value of a signal.
    Last(Subject, Kind, Option<Series>),
}

impl TreeState {
    /// What made the condition true, at its last judgement. `judges_real`: see [`Sight`].
    pub(in crate::engine) fn proof(&self, n: usize, judges_real: bool) -> Option<Proof> {
        let instance = self.instances.get(n)?;
        let mut tests = Vec::new();
        let root = self.program.steps.len().checked_sub(1)?;
        let confidence = self.program.witnesses(root, true, &instance.truths, &mut tests);
        let mut proof = Proof {
            gpu: instance.gpu.clone(),
            words: Vec::new(),
            all: tests.len() == self.program.leaves.len(),
            values: Vec::new(),
            confidence,
            observed: judges_real && instance.observed,
        };
        for (n, wanted) in tests {
            let (Some(leaf), Some(state)) = (self.program.leaves.get(n), self.state(instance, n)) else { continue };
            let mut word = if wanted { leaf.to_string() } else { format!("not {leaf}") };
            let scores = state.scores(&leaf.test, Truth::from(wanted));
            if !scores.is_empty() {
                // What was found is evidence that no value has.
                proof.all = false;
                let shown = scores.iter().take(SERIES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
                let of = if matches!(leaf.test, Test::Compare { .. }) { "bound" } else { "score" };
                word.push_str(&format!(": {of} {shown}"));
            }
            if let Some(counted) = state.counted().filter(|_| wanted) {
                proof.all = false;
                word.push_str(&format!(": {counted}"));
            }
            proof.words.push(word);
            match (&leaf.test, leaf.test.kind()) {
                (Test::Event { .. } | Test::Count { .. }, _) if wanted => {
                    proof.observed |= !judges_real && state.was_observed();
                    proof.values.extend(state.happened().cloned().map(Evidence::Event));
                }
                (Test::Absent { series: Over::Any, .. }, Some(kind)) if state.has_series() => {
                    // The last value of each series that is silent.
                    let series = state.witnesses(&leaf.test, Truth::from(wanted)).take(SERIES_SHOWN);
                    proof.values.extend(
                        series
                            .map(|series| Evidence::Last(self.subject(instance, kind), kind.clone(), series.cloned())),
                    );
                }
                (Test::Absent { .. }, Some(kind)) => {
                    // The last value that came, if any did: of a metric that of whatever series is kept.
                    proof.values.push(Evidence::Last(self.subject(instance, kind), kind.clone(), None));
                }
                (Test::Phase { .. }, _) => {
                    let kind = Kind::Metric(PHASE_METRIC.to_owned());
                    let series = state.witnesses(&leaf.test, Truth::from(wanted)).take(SERIES_SHOWN);
                    proof
                        .values
                        .extend(series.map(|series| {
                            Evidence::Last(self.subject(instance, &kind), kind.clone(), series.cloned())
                        }));
                }
                (test, Some(kind)) => {
                    if let Test::Compare { than, .. } = test
                        && let Some(other) = than.signal()
                    {
                        proof.values.push(Evidence::Last(self.subject(instance, other), other.clone(), None));
                    }
                    let series = state.witnesses(&leaf.test, Truth::from(wanted)).take(SERIES_SHOWN);
                    proof.values.extend(
                        series
                            .map(|series| Evidence::Last(self.subject(instance, kind), kind.clone(), series.cloned())),
                    );
                }
                _ => {}
            }
        }
        Some(proof)
    }

    fn state<'s>(&'s self, instance: &'s Instance, leaf: usize) -> Option<&'s LeafState> {
        let of_gpus = self.program.leaves.get(leaf)?.test.is_of_gpus();
        if of_gpus { instance.own.get(leaf) } else { self.shared.get(leaf) }
    }

    /// The GPU, of a signal of GPUs; of others the caller knows the run.
    fn subject(&self, instance: &Instance, kind: &Kind) -> Subject {
        match &instance.gpu {
            Some(gpu) if kind.is_of_a_gpu() => Subject::Gpu(gpu.clone()),
            _ => Subject::Node,
        }
    }

    /// Where the rule tripped and does not trip again yet, with what it waits for.
    pub(in crate::engine) fn disarmed(&self, rule: &Rule, now: MonoTime) -> Vec<String> {
        let tripped = self.instances.iter().filter(|instance| instance.tripped);
        tripped
            .map(|instance| {
                let again = match instance.rearmed_at {
                    Some(at) => format!(", or for {} more", at.since(now)),
                    None => String::new(),
                };
                format!("rule {} ({}): until its condition no longer holds{again}", rule.id, instance.name())
            })
            .collect()
    }

    /// Where the condition is unknown, with what is not known.
    pub(in crate::engine) fn unknown(&self, rule: &Rule, sight: &Sight<'_>) -> Vec<String> {
        if self.of_gpus && self.instances.is_empty() {
            return vec![format!("rule {}: the run has no GPU", rule.id)];
        }
        let unknown = self.instances.iter().filter(|instance| instance.truth() == Truth::Unknown);
        unknown
            .map(|instance| {
                let mut whys: Vec<String> = Vec::new();
                for (step, what) in self.program.steps.iter().enumerate() {
                    let Step::Leaf(n) = what else { continue };
                    let (Some(leaf), Some(state)) = (self.program.leaves.get(*n), self.state(instance, *n)) else {
                        continue;
                    };
                    if instance.truths.get(step) == Some(&Truth::Unknown) {
                        let gpu = instance.gpu.as_ref().filter(|_| leaf.test.is_of_gpus());
                        whys.push(state.unknown(&leaf.test, gpu, sight));
                    }
                }
                whys.dedup();
                format!("rule {} ({}): {}", rule.id, instance.name(), whys.join("; "))
            })
            .collect()
    }
}

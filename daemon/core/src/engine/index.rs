//! Which rules a signal is given to: made once for each run, so that a rule on something else costs nothing.

use super::tree::TreeState;
use crate::{
    event::EventKind,
    policy::{Condition, Policy},
    signal::{Kind, Signal, Value},
};
use std::collections::BTreeMap;

/// The rules on each signal and each kind of event, by their places in the policy.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    signals: BTreeMap<Kind, Vec<usize>>,
    events: BTreeMap<EventKind, Vec<usize>>,
}

impl Index {
    pub(super) fn of(policy: &Policy, trees: &[Option<TreeState>]) -> Index {
        let mut index = Index::default();
        for (n, (rule, tree)) in policy.rules.iter().zip(trees).enumerate() {
            let (mut signals, mut events) = tree.as_ref().map(TreeState::inputs).unwrap_or_default();
            match &rule.when {
                Condition::Threshold { kind, .. } | Condition::NotFinite { kind } => signals.push(kind.clone()),
                Condition::Event(wanted) => events.push(wanted.kind),
                Condition::Tree(_) => {}
            }
            signals.sort();
            signals.dedup();
            events.sort();
            events.dedup();
            signals.into_iter().for_each(|kind| index.signals.entry(kind).or_default().push(n));
            events.into_iter().for_each(|kind| index.events.entry(kind).or_default().push(n));
        }
        index
    }

    /// Whether a rule needs the metric.
    pub(super) fn has_metric(&self, name: &str) -> bool {
        self.signals.contains_key(&Kind::Metric(name.to_owned()))
    }

    /// The rules that the signal is given to, in their order.
    pub(super) fn of_signal(&self, signal: &Signal) -> &[usize] {
        let rules = match &signal.value {
            Value::Event(event) => self.events.get(&event.kind()),
            Value::Integer(_) | Value::Real(_) | Value::Claimed(_) => self.signals.get(&signal.kind),
        };
        rules.map_or(&[], Vec::as_slice)
    }
}

//! The last value of each signal of a run: evidence of decisions, and of snapshots.
//!
//! Invariant: a value that replaces another of the same signal allocates nothing.

use crate::{
    decision::Observation,
    signal::{Kind, Series, Signal, Value},
    subject::Subject,
};
use std::{borrow::Borrow, cmp::Ordering, collections::BTreeMap};

/// Metrics of a run whose last value is kept as evidence, each series by itself where a rule judges the metric. Rules see
/// every metric, kept or not.
const METRICS_KEPT: usize = 256;

/// The last values of one run.
#[derive(Debug, Clone, Default)]
pub(super) struct Last(BTreeMap<Owned, Observation>);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Owned(Subject, Kind, Option<Series>);

/// A key of the map, borrowed from where its parts are.
trait Key {
    fn parts(&self) -> (&Subject, &Kind, Option<&Series>);
}

impl Key for Owned {
    fn parts(&self) -> (&Subject, &Kind, Option<&Series>) {
        (&self.0, &self.1, self.2.as_ref())
    }
}

impl Key for (&Subject, &Kind, Option<&Series>) {
    fn parts(&self) -> (&Subject, &Kind, Option<&Series>) {
        *self
    }
}

impl<'k> Borrow<dyn Key + 'k> for Owned {
    fn borrow(&self) -> &(dyn Key + 'k) {
        self
    }
}

impl PartialEq for dyn Key + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Key + '_ {}

impl PartialOrd for dyn Key + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Key + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl Last {
    /// A run names its metrics itself: without a bound it could fill the daemon's memory with names. What rules judge comes
    /// first; of other metrics the last value of any series is kept.
    pub(super) fn keep(&mut self, signal: &Signal, judged: bool) {
        let series = signal.value.series().filter(|_| judged);
        let key = (&signal.subject, &signal.kind, series);
        if let Some(seen) = self.0.get_mut(&key as &dyn Key) {
            (seen.seq, seen.at, seen.repeats) = (signal.seq, signal.at, signal.repeats);
            match (&mut seen.value, &signal.value) {
                (Value::Integer(old), Value::Integer(new)) => *old = *new,
                (Value::Real(old), Value::Real(new)) => *old = *new,
                (Value::Claimed(old), Value::Claimed(new)) if old.series == new.series => {
                    (old.value, old.step) = (new.value, new.step);
                }
                (old, new) => *old = new.clone(),
            }
            return;
        }
        if !judged && matches!(signal.kind, Kind::Metric(_)) {
            let metrics = self.0.keys().filter(|Owned(_, kind, _)| matches!(kind, Kind::Metric(_))).count();
            if metrics >= METRICS_KEPT {
                return;
            }
        }
        let key = Owned(signal.subject.clone(), signal.kind.clone(), series.cloned());
        self.0.insert(key, Observation::of(signal));
    }

    pub(super) fn get(&self, subject: &Subject, kind: &Kind, series: Option<&Series>) -> Option<&Observation> {
        self.0.get(&(subject, kind, series) as &dyn Key)
    }

    /// The newest of all series.
    pub(super) fn newest(&self, subject: &Subject, kind: &Kind) -> Option<&Observation> {
        let all = self.0.iter().filter(|(Owned(of, known, _), _)| of == subject && known == kind);
        all.map(|(_, seen)| seen).max_by_key(|seen| (seen.at, seen.seq))
    }

    pub(super) fn all(&self) -> Vec<Observation> {
        self.0.values().cloned().collect()
    }

    /// The last values of metrics, by name and rank, and how many there are beyond `most`.
    pub(super) fn metrics(&self, most: usize) -> (Vec<Observation>, usize) {
        let all = || self.0.iter().filter(|(Owned(_, kind, _), _)| matches!(kind, Kind::Metric(_)));
        (all().take(most).map(|(_, seen)| seen.clone()).collect(), all().count().saturating_sub(most))
    }

    pub(super) fn retain(&mut self, keeps: impl Fn(&Subject) -> bool) {
        self.0.retain(|Owned(subject, _, _), _| keeps(subject));
    }

    /// A series has ended.
    pub(super) fn retire(&mut self, series: &Series) {
        self.0.retain(|Owned(_, _, of), _| of.as_ref() != Some(series));
    }
}

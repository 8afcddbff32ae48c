//! The last value of each series of a metric, for rules that are judged over several at once.

use crate::{
    policy::Over,
    signal::{MAX_SERIES, Series},
};
use std::collections::BTreeMap;

/// How a value, or all of them, stand to a rule's bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judged {
    /// Beyond it.
    pub bad: bool,
    /// Back on the other side of `clear`.
    pub cleared: bool,
}

/// The live series of one rule.
#[derive(Debug, Clone, Default)]
pub(super) struct Members(BTreeMap<Series, f64>);

impl Members {
    pub(super) fn take(&mut self, series: &Series, value: f64) {
        if let Some(last) = self.0.get_mut(series) {
            *last = value;
        } else if self.0.len() < MAX_SERIES {
            self.0.insert(series.clone(), value);
        }
    }

    pub(super) fn remove(&mut self, series: &Series) {
        self.0.remove(series);
    }

    /// A series that is not a number is beyond no bound and clears none: a rule on `not-finite` is for it.
    pub(super) fn judge(&self, over: Over, one: impl Fn(f64) -> Judged) -> Judged {
        let mut each = self.0.values().map(|value| one(*value));
        let whole = |value: Option<f64>| {
            let judged = value.map_or(Judged { bad: false, cleared: false }, &one);
            Judged { cleared: judged.cleared && !self.0.values().any(|value| value.is_nan()), ..judged }
        };
        let numbers = || self.0.values().copied().filter(|value| !value.is_nan());
        match over {
            Over::Any => {
                let (bad, cleared) = (each.clone().any(|j| j.bad), each.all(|j| j.cleared));
                Judged { bad, cleared }
            }
            Over::All => {
                let (bad, cleared) = (each.clone().all(|j| j.bad), each.any(|j| j.cleared));
                Judged { bad: bad && !self.0.is_empty(), cleared }
            }
            Over::Mean => whole(Some(self.0.values().sum::<f64>() / self.0.len() as f64)),
            Over::Max => whole(numbers().reduce(f64::max)),
            Over::Min => whole(numbers().reduce(f64::min)),
        }
    }
}

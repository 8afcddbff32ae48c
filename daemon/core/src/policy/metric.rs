//! How a rule judges a metric that the run reports: over which series, when the metric counts as missing, and when the rule
//! trips again after a thaw.
//!
//! A policy that names none of this has the digest that it had before these fields existed.

use super::{Condition, Policy, Rule};
use crate::time::Span;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A metric that nobody reported for this long after the start is missing, unless the policy says otherwise.
const GRACE: Span = Span::from_secs(300);
/// After a thaw a value that is still not finite trips again after this, unless the rule says otherwise.
pub const REARM_NOT_FINITE: Span = Span::from_secs(60);

/// Over which of a metric's series a rule judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// Each series by itself: one that is beyond the bound is enough.
    #[default]
    Any,
    /// All series at once.
    All,
    /// Their mean.
    Mean,
    /// The greatest.
    Max,
    /// The least.
    Min,
}

impl Over {
    /// Every selection, in the order of the reference.
    pub const ALL: [Over; 5] = [Over::Any, Over::All, Over::Mean, Over::Max, Over::Min];

    /// The name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Over::Any => "any",
            Over::All => "all",
            Over::Mean => "mean",
            Over::Max => "max",
            Over::Min => "min",
        }
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one rule says about the metric that it judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct MetricRule {
    /// Over which series.
    #[serde(skip_serializing_if = "is_default")]
    pub over: Over,
    /// How long after the start the metric may be missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<Span>,
    /// How long after its last value it may be missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<Span>,
    /// After how long a rule that tripped trips again after a thaw, though its value has not cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rearm: Option<Span>,
}

/// The policy's `[metrics]`: what holds for each rule on a metric that has no value of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// As [`MetricRule::grace`].
    pub grace: Span,
    /// As [`MetricRule::stale`]; without it, the longer of `grace` and ten times the metric's usual interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<Span>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics { grace: GRACE, stale: None }
    }
}

impl MetricRule {
    pub(super) fn is_default(&self) -> bool {
        is_default(self)
    }
}

impl Metrics {
    pub(super) fn is_default(&self) -> bool {
        is_default(self)
    }
}

impl Rule {
    /// The condition in words, with the series that it is judged over.
    pub fn condition(&self) -> String {
        match (&self.when, self.metric.over) {
            (_, Over::Any) | (Condition::Event(_) | Condition::Tree(_), _) => self.when.to_string(),
            (Condition::Threshold { .. } | Condition::NotFinite { .. }, over) => {
                format!("{} over {over} of the series", self.when)
            }
        }
    }

    /// After how long it trips again after a thaw though its value has not cleared; `None`: not before it clears.
    pub fn rearm(&self) -> Option<Span> {
        match self.when {
            Condition::NotFinite { .. } => Some(self.metric.rearm.unwrap_or(REARM_NOT_FINITE)),
            Condition::Threshold { .. } | Condition::Event(_) | Condition::Tree(_) => self.metric.rearm,
        }
    }
}

impl Policy {
    /// How long after the start the rule's metric may be missing.
    pub fn grace(&self, rule: &Rule) -> Span {
        rule.metric.grace.unwrap_or(self.metrics.grace)
    }

    /// How long after its last value the rule's metric may be missing, where policy or rule say so.
    pub fn stale(&self, rule: &Rule) -> Option<Span> {
        rule.metric.stale.or(self.metrics.stale)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

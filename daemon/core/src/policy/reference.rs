//! What a signal is compared with, where that is not a constant: its own first values, or another signal.

use super::Bound;
use crate::{
    signal::{Kind, Real},
    time::Span,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Values that a baseline has at least: the beginning lasts longer where fewer came in its time or steps.
pub const LEAST_VALUES: u64 = 10;
/// Values that are kept for a median; of more every second, fourth and so on is kept.
pub const MEDIAN_VALUES: usize = 1_024;

/// A bound that moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relative {
    /// What the signal is compared with.
    pub to: Reference,
    /// It is multiplied by this.
    pub factor: Real,
    /// And this is added then.
    pub offset: Bound,
}

/// What a signal is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// Its own first values.
    First {
        /// How long they last.
        first: Amount,
        /// What is taken of them.
        statistic: Statistic,
    },
    /// Another signal.
    Signal {
        /// Which.
        kind: Kind,
    },
    /// A number of the run's manifest.
    Manifest {
        /// Its section and name: `hyperparameters.target_loss`.
        key: String,
    },
}

/// A part of a run: a time, or steps of the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// A time.
    Time(Span),
    /// So many steps.
    Steps(u64),
}

/// What is taken of several values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistic {
    /// The value in the middle.
    #[default]
    Median,
    /// The arithmetic mean.
    Mean,
}

/// The sections of a manifest that have numbers.
pub const MANIFEST_SECTIONS: &[&str] = &["hyperparameters", "config", "seeds"];
/// The longest name of an entry of a manifest, bytes.
const MANIFEST_NAME: usize = 128;

/// Whether a number of a manifest can have this key.
pub fn is_manifest_key(key: &str) -> bool {
    key.split_once('.').is_some_and(|(section, name)| {
        let good = |c: char| !c.is_control() && c != '/';
        MANIFEST_SECTIONS.contains(&section) && (1..=MANIFEST_NAME).contains(&name.len()) && name.chars().all(good)
    })
}

impl Statistic {
    /// The name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Statistic::Median => "median",
            Statistic::Mean => "mean",
        }
    }
}

impl Relative {
    /// The other signal that it reads.
    pub fn signal(&self) -> Option<&Kind> {
        match &self.to {
            Reference::Signal { kind } => Some(kind),
            Reference::First { .. } | Reference::Manifest { .. } => None,
        }
    }

    /// The number of the run's manifest that it reads.
    pub fn manifest(&self) -> Option<&str> {
        match &self.to {
            Reference::Manifest { key } => Some(key),
            Reference::First { .. } | Reference::Signal { .. } => None,
        }
    }

    /// The memory that it needs for each series, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.to {
            Reference::First { statistic: Statistic::Median, .. } => MEDIAN_VALUES * size_of::<f64>(),
            Reference::First { statistic: Statistic::Mean, .. }
            | Reference::Signal { .. }
            | Reference::Manifest { .. } => 0,
        }
    }

    /// In words, for a signal of that kind: "1.5 times the median of its first 500 steps".
    pub fn show(&self, kind: &Kind) -> String {
        let times = if self.factor == Real(1.0) { String::new() } else { format!("{} times ", self.factor) };
        let what = match &self.to {
            Reference::First { first, statistic } => format!("the {} of its first {first}", statistic.name()),
            Reference::Signal { kind } => kind.to_string(),
            Reference::Manifest { key } => format!("{key} of the run's manifest"),
        };
        let offset = match self.offset {
            Bound::Integer(0) => String::new(),
            Bound::Real(Real(0.0)) => String::new(),
            offset => format!(" plus {}", offset.show(kind.unit())),
        };
        format!("{times}{what}{offset}")
    }

    /// The bound, where the reference has this value. `None`: it is not a number, or too large.
    pub fn bound(&self, reference: f64) -> Option<f64> {
        let offset = match self.offset {
            Bound::Integer(offset) => offset as f64,
            Bound::Real(offset) => offset.0,
        };
        Some(reference * self.factor.0 + offset).filter(|bound| bound.is_finite())
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Time(span) => span.fmt(f),
            Amount::Steps(steps) => write!(f, "{steps} steps"),
        }
    }
}

//! The value of a signal: an integer in its kind's unit, an event, or a number that the run reported.

use super::{Kind, Series};
use crate::event::Event;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A signal's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// An integer in the kind's unit.
    Integer(i64),
    /// A metric of the run in recordings of version 5 and older, which have neither step nor series.
    Real(Real),
    /// What happened.
    Event(Event),
    /// A metric that the run reported. Nothing but the run vouches for it.
    Claimed(Claimed),
}

/// A number that a run reported about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The number.
    pub value: Real,
    /// The training step, where the run gave one.
    pub step: Option<u64>,
    /// Which of the run's series it belongs to.
    pub series: Series,
}

impl fmt::Display for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (claimed by {}", self.value, self.series)?;
        match self.step {
            Some(step) => write!(f, " at step {step})"),
            None => f.write_str(")"),
        }
    }
}

impl Value {
    /// The number, where the value is a metric of the run.
    pub fn real(&self) -> Option<f64> {
        match self {
            Value::Real(real) => Some(real.0),
            Value::Claimed(claimed) => Some(claimed.value.0),
            Value::Integer(_) | Value::Event(_) => None,
        }
    }

    /// The number with its step, of a value that is one. What judges by size alone takes integers and reals alike.
    pub fn number(&self) -> Option<(f64, Option<u64>)> {
        match self {
            Value::Integer(value) => Some((*value as f64, None)),
            Value::Real(real) => Some((real.0, None)),
            Value::Claimed(claimed) => Some((claimed.value.0, claimed.step)),
            Value::Event(_) => None,
        }
    }

    /// The series, where the value is a metric that has one.
    pub fn series(&self) -> Option<&Series> {
        match self {
            Value::Claimed(claimed) => Some(&claimed.series),
            Value::Real(_) | Value::Integer(_) | Value::Event(_) => None,
        }
    }

    /// The value as a person reads it.
    pub fn show(&self, kind: &Kind) -> String {
        match self {
            Value::Integer(value) => kind.unit().show(*value),
            Value::Real(real) => real.to_string(),
            Value::Claimed(claimed) => claimed.to_string(),
            Value::Event(event) => event.to_string(),
        }
    }
}

/// A double whose NaN and infinities survive JSON: written as text there, as its bits elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct Real(pub f64);

impl PartialEq for Real {
    /// Equal bits: NaN equals itself, or a replay could never agree with what it replays.
    fn eq(&self, other: &Real) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Real {}

impl fmt::Display for Real {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Real {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(&self.0) } else { s.serialize_u64(self.0.to_bits()) }
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Real, D::Error> {
        if d.is_human_readable() {
            let text = String::deserialize(d)?;
            text.parse().map(Real).map_err(|_| serde::de::Error::custom(format!("`{text}` is not a real number")))
        } else {
            u64::deserialize(d).map(|bits| Real(f64::from_bits(bits)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_survives_json_and_postcard() {
        for real in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1, -0.0, 1e300] {
            let text = serde_json::to_string(&Real(real)).unwrap();
            assert_eq!(serde_json::from_str::<Real>(&text).unwrap(), Real(real), "{text}");
            let bytes = postcard::to_allocvec(&Real(real)).unwrap();
            assert_eq!(postcard::from_bytes::<Real>(&bytes).unwrap(), Real(real));
        }
    }
}

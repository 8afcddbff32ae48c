//! What a signal holds: an integer in its kind's unit, a real number of the run's own, or an event.

use super::Kind;
use crate::event::Event;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A signal's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// An integer in the kind's unit.
    Integer(i64),
    /// A real number; only the run's own metrics have these.
    Real(Real),
    /// What happened.
    Event(Event),
}

impl Value {
    /// The value as a person reads it.
    pub fn show(&self, kind: &Kind) -> String {
        match self {
            Value::Integer(value) => kind.unit().show(*value),
            Value::Real(real) => real.to_string(),
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

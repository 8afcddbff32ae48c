//! Values that a client exports again.
//!
//! An SDK of OpenTelemetry exports the last value of each set of attributes, each time. With the step among the attributes, each step
//! is a set of its own, and one spike would be a new value of its step with each export. So a value with a step counts once.

use crate::Value;
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

/// Most values of a generation. At least the newest half of what is remembered is this many.
const REMEMBERED: usize = 10_000;

/// The values with a step that one client sent. Bounded: a value that was not sent for a long time is forgotten.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repeats {
    new: HashSet<u64>,
    old: HashSet<u64>,
}

impl Repeats {
    /// Whether the client sent the same value of the same step before. One without a step is always a new one.
    pub(crate) fn has(&mut self, source: &str, value: &Value) -> bool {
        let Some(step) = value.step else { return false };
        let mut hasher = DefaultHasher::new();
        (source, &value.name, &value.rank, step, value.value.to_bits()).hash(&mut hasher);
        let hash = hasher.finish();
        let has = self.new.contains(&hash) || self.old.contains(&hash);
        if self.new.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(hash);
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(step: Option<u64>, value: f64) -> Value {
        Value { name: "loss".into(), value, step, rank: None }
    }

    #[test]
    fn a_value_of_a_step_counts_once_and_a_changed_one_again() {
        let mut repeats = Repeats::default();
        for value in [value(Some(3), 80.0), value(Some(4), 80.0), value(Some(3), f64::NAN), value(Some(3), 2.0)] {
            assert!(!repeats.has("a", &value), "{value:?} is new");
            assert!(repeats.has("a", &value), "{value:?} was sent before");
        }
        assert!(!repeats.has("b", &value(Some(3), 80.0)), "another resource or scope");
    }

    #[test]
    fn a_value_without_a_step_is_always_new() {
        let mut repeats = Repeats::default();
        assert!(!repeats.has("a", &value(None, 80.0)) && !repeats.has("a", &value(None, 80.0)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_has_the_newest_values() {
        let mut repeats = Repeats::default();
        for step in 0..10 * REMEMBERED as u64 {
            assert!(!repeats.has("a", &value(Some(step), 1.0)));
            assert!(repeats.new.len() + repeats.old.len() <= 2 * REMEMBERED);
        }
        let newest = 10 * REMEMBERED as u64 - REMEMBERED as u64;
        assert!(repeats.has("a", &value(Some(newest), 1.0)));
    }
}

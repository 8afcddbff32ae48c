//! What the log states of a counter that only counts up and is not on the disk: in the NV memory of a TPM. A log that was replaced by
//! an older copy, with heads, key and checkpoints, states less than the counter has.
//!
//! ```text
//!  entry `counter` with value N+1 ─► durable ─► counter: N to N+1
//! ```
//!
//! Invariant of this order: at any crash the counter has what the log states last, or one less. So a counter with more is a
//! rollback, and no crash looks like one. A new counter begins with a value that nobody knows before: an entry without value is
//! written first, then the counter is made, then the entry with its value.

use serde_json::json;
use std::path::Path;

use crate::clock::Stamp;
use crate::entry::{Draft, Entry, kind};
use crate::reader::Filter;
use crate::search::{Query, Search, SearchError};

/// The fields of the entry.
const VALUE: &str = "value";
const FAILED: &str = "failed";
const MISSING: &str = "missing";

/// What the last entry about the counter states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stated {
    /// There is no such entry.
    #[default]
    Nothing,
    /// A counter is about to be made.
    Beginning,
    /// The counter has this value, or is about to be counted up to it.
    Value(u64),
}

/// What to do to have the log and the counter agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// They agree.
    Agreed,
    /// State that a counter is about to be made, make it, and state its value.
    Begin,
    /// State this value, which the counter has.
    State(u64),
    /// Count up by one, to this value: it is stated already.
    Count(u64),
    /// State this value, and count up by one to it.
    Next(u64),
}

/// The entry that states it.
#[must_use]
pub fn draft(stated: Option<u64>, now: Stamp) -> Draft {
    Draft::new(kind::COUNTER, now, json!({ (VALUE): stated }))
}

/// The entry that states that no counter could be made, and why.
#[must_use]
pub fn none(why: &str, now: Stamp) -> Draft {
    Draft::new(kind::COUNTER, now, json!({ (VALUE): null, (FAILED): why }))
}

/// The entry that states the same value once more, and that the TPM with the counter is missing.
#[must_use]
pub fn missing(value: u64, why: &str, now: Stamp) -> Draft {
    Draft::new(kind::COUNTER, now, json!({ (VALUE): value, (MISSING): why }))
}

/// Whether `entry` states that the TPM is missing: a finding about it is in the log already.
#[must_use]
pub fn is_missing(entry: &Entry) -> bool {
    entry.kind == kind::COUNTER && entry.body.get(MISSING).is_some()
}

/// What `entry` states of the counter, if it does.
#[must_use]
pub fn of(entry: &Entry) -> Option<Stated> {
    let states = entry.kind == kind::COUNTER;
    states.then(|| match (entry.body[VALUE].as_u64(), entry.body.get(FAILED)) {
        (Some(value), _) => Stated::Value(value),
        (None, Some(_)) => Stated::Nothing,
        (None, None) => Stated::Beginning,
    })
}

/// The last entry about the counter, if there is one, of the log of which `log` is the last file.
///
/// # Errors
/// The log cannot be read.
pub fn last(log: &Path) -> Result<Option<Entry>, SearchError> {
    let filter = Filter { kinds: vec![kind::COUNTER.to_owned()], ..Filter::default() };
    let mut last = None;
    for entry in Search::open(log, Query { filter, tail: Some(1), ..Query::default() })? {
        last = Some(entry?);
    }
    Ok(last)
}

/// Compares what the log states with the value of the counter; `None`: there is no counter. Returns what is to be done, and what is
/// amiss, in words.
#[must_use]
pub fn compare(stated: Stated, counter: Option<u64>) -> (Step, Option<String>) {
    match (stated, counter) {
        (Stated::Nothing | Stated::Beginning, None) => (Step::Begin, None),
        (Stated::Beginning, Some(value)) => (Step::State(value), None),
        (Stated::Value(stated), Some(value)) if stated == value => (Step::Agreed, None),
        (Stated::Value(stated), Some(value)) if stated.checked_sub(1) == Some(value) => (Step::Count(stated), None),
        (Stated::Value(stated), Some(value)) if stated < value => (
            Step::Next(value.saturating_add(1)),
            Some(format!(
                "the log was rolled back: it states {stated} for the counter of the TPM, but the counter has {value}; entries that \
                 were written after entry `counter` {stated} are missing"
            )),
        ),
        (Stated::Value(stated), Some(value)) => (
            Step::Next(value.saturating_add(1)),
            Some(format!(
                "it cannot be excluded that the log was rolled back: it states {stated} for the counter of the TPM, but the counter \
                 has only {value}: it is the counter of another TPM, or the log is of another node"
            )),
        ),
        (Stated::Value(stated), None) => (
            Step::Begin,
            Some(format!(
                "it cannot be excluded that the log was rolled back: it states {stated} for the counter of the TPM, but the TPM has no \
                 counter: it was cleared, or the counter removed, or the TPM replaced"
            )),
        ),
        (Stated::Nothing, Some(value)) => (
            Step::Next(value.saturating_add(1)),
            Some(format!(
                "it cannot be excluded that the log was rolled back or replaced: the counter of the TPM has {value} by an earlier log \
                 of this node, and the log states no value"
            )),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_at_any_point_is_no_rollback() {
        // Each step of the two orders, as a crash leaves it, and what repairs it.
        let begun = [
            (Stated::Nothing, None, Step::Begin),
            (Stated::Beginning, None, Step::Begin),
            (Stated::Beginning, Some(41), Step::State(41)),
            (Stated::Value(41), Some(41), Step::Agreed),
            (Stated::Value(42), Some(41), Step::Count(42)),
            (Stated::Value(42), Some(42), Step::Agreed),
        ];
        for (stated, counter, step) in begun {
            assert_eq!(compare(stated, counter), (step, None), "{stated:?} {counter:?}");
        }
    }

    #[test]
    fn everything_else_is_amiss_and_is_continued_from_the_counter() {
        let rolled_back = compare(Stated::Value(7), Some(8));
        assert_eq!(rolled_back.0, Step::Next(9));
        assert!(rolled_back.1.unwrap().starts_with("the log was rolled back"));
        let cases = [
            (Stated::Value(7), Some(5), Step::Next(6)),
            (Stated::Value(0), Some(1), Step::Next(2)),
            (Stated::Value(7), None, Step::Begin),
            (Stated::Nothing, Some(3), Step::Next(4)),
        ];
        for (stated, counter, step) in cases {
            let (found, why) = compare(stated, counter);
            assert!(found == step && why.is_some(), "{stated:?} {counter:?} {found:?}");
        }
    }
}

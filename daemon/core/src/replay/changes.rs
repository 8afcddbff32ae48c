//! What the engine decides otherwise than earlier engines did from the same inputs. A replay that differs is explained by it.
//!
//! Whoever changes what the engine decides raises [`ENGINE`], and lets [`State::of`](crate::State::of) decide as before or adds a row. The golden recordings show whether that is so.

use crate::{input::Run, policy::Policy, signal::Kind};

/// The engine of this source. A recording has the number of the engine that decided; those without one have that of their format
/// version.
pub const ENGINE: u32 = 14;

/// One change of what is decided.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// The first engine that decides so.
    pub engine: u32,
    /// What is decided now, and what was before.
    pub what: &'static str,
    /// The runs that it can concern.
    concerns: fn(&Run, &Policy) -> bool,
}

/// All changes since the oldest recordings that are read, in order.
pub const CHANGES: &[Change] = &[Change {
    engine: 6,
    what: "a run with MIG devices is judged by the utilisation and memory of these devices; early builds of engine 5 judged it \
           by those of the whole GPU",
    concerns: |run, policy| {
        let of_slices = |rule: &crate::policy::Rule| {
            let is_of_slices = |kind: &&Kind| kind.is_of_slices() || kind.made_of().iter().any(Kind::is_of_slices);
            rule.when.signals().iter().any(is_of_slices)
        };
        !run.mig.is_empty() && policy.rules.iter().any(of_slices)
    },
}];

/// The changes since `engine` that can make a replay of this run differ.
pub fn changes_since(engine: u32, run: &Run, policy: &Policy) -> Vec<&'static Change> {
    CHANGES.iter().filter(|change| change.engine > engine && (change.concerns)(run, policy)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_change_has_the_number_of_the_engine_at_most() {
        assert!(CHANGES.is_sorted_by_key(|change| change.engine));
        assert!(CHANGES.iter().all(|change| change.engine <= ENGINE), "raise ENGINE");
    }
}

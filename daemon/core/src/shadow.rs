//! Shadows: a policy that is judged live beside the one in force, without effect, and how their decisions differ.
//!
//! ```text
//! one input ─► decisions in force ─┐
//!          └─► decisions of shadow ─┴─► Pairing (of one run) ─► Tally: the same | only one of them | earlier | later
//! ```
//! Pure: time is given. Invariants: everything is bounded, and what finds no room is counted; a decision is counted once, as the same,
//! as one that only one of the two took, or, together with its partner of another time, as earlier or later.

mod pairing;
mod tally;

pub use pairing::{Of, PAIR_WITHIN, Pairing};
pub use tally::{Difference, Example, Key, Lack, Row, Summary, Tally};

use crate::{
    decision::{Action, Cause, Decision, Mode, Upkeep},
    policy::Policy,
    visible::shortened,
};

/// Most bytes of the text of an example.
const TEXT: usize = 240;

/// Whether a decision is compared: those of rules, and those that a policy has failsafe take of itself. What an operator asks for, and
/// what only keeps a real containment in force, is no choice of a policy.
pub fn is_compared(decision: &Decision) -> bool {
    matches!(decision.cause, Cause::Rule { .. } | Cause::Upkeep { what: Upkeep::Blind | Upkeep::Drift })
}

/// Whether the rule that made the decision only observes.
fn observes(decision: &Decision, policy: &Policy) -> bool {
    match &decision.cause {
        Cause::Rule { rule, .. } => policy.rule(rule).is_some_and(|rule| rule.mode == Mode::Observe),
        Cause::Upkeep { .. } | Cause::Operator(_) => false,
    }
}

/// What a decision is compared by: what made it, and what it does. A rule that only observes differs from one that acts.
fn key(decision: &Decision, policy: &Policy) -> Key {
    let what = match &decision.cause {
        Cause::Rule { rule, .. } => format!("rule {rule}"),
        Cause::Upkeep { what: Upkeep::Blind } => "on_blind".to_owned(),
        Cause::Upkeep { what: Upkeep::Drift } => "on_drift".to_owned(),
        Cause::Upkeep { what } => what.to_string(),
        Cause::Operator(_) => "operator".to_owned(),
    };
    let names: Vec<&str> = decision.actions.iter().map(|action| action.name()).collect();
    let would = if observes(decision, policy) { "would " } else { "" };
    Key { what, actions: format!("{would}{}", names.join(", ")) }
}

/// Whether the run would not have gone on as it did after this decision.
pub fn contains(decision: &Decision, policy: &Policy) -> bool {
    !observes(decision, policy) && decision.actions.iter().any(|action: &Action| action.contains())
}

/// Why it was decided, in one line.
fn text(decision: &Decision) -> String {
    let seen = decision.values.first().map(|value| format!(": {}", value.show())).unwrap_or_default();
    let text = match &decision.cause {
        Cause::Rule { condition, .. } => format!("{condition}{seen}"),
        Cause::Upkeep { what } => format!("{what}{seen}"),
        Cause::Operator(_) => "operator".to_owned(),
    };
    shortened(text, TEXT)
}

#[cfg(test)]
mod tests;

//! Replay: recorded inputs through the same engine, and how the decisions compare with those recorded.

use crate::{
    decision::{Cause, Decision},
    engine::{State, step},
    input::Input,
    policy::{Policy, PolicyDigest, PolicySet},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

mod changes;
mod compute;

pub use changes::{CHANGES, Change, ENGINE, changes_since};
pub use compute::{Compute, StopDifference, StopKind, Until};

/// One entry of a recording: what went in, and what came out of it, in order. Binary formats have its enum variants by number:
/// see [`crate::recording`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum Recorded {
    /// An input.
    Input(Input),
    /// A decision that the last input caused.
    Decision(Decision),
}

/// How a replay went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replay {
    /// Inputs fed.
    pub inputs: u64,
    /// Decisions of the recording.
    pub recorded: Vec<Decision>,
    /// Decisions of the replay.
    pub replayed: Vec<Decision>,
    /// Index of the first decision that differs, where one does.
    pub differs_at: Option<usize>,
}

impl Replay {
    /// Whether the decisions are the same, bit for bit.
    pub fn identical(&self) -> bool {
        self.differs_at.is_none()
    }
}

/// Feeds a recording of one run to the engine as it was at that number, under `policy`, which stands in for the recorded one where it is another.
///
/// # Errors
/// What a reader of the recording reports is passed on.
pub fn replay<E>(
    policy: Policy,
    engine: u32,
    entries: impl IntoIterator<Item = Result<Recorded, E>>,
) -> Result<Replay, E> {
    let digest: PolicyDigest = policy.digest();
    let policies = PolicySet::from([(digest, Arc::new(policy))]);
    let mut state = State::of(engine);
    let mut same_policy = false;
    let mut replay = Replay { inputs: 0, recorded: Vec::new(), replayed: Vec::new(), differs_at: None };
    for entry in entries {
        match entry? {
            Recorded::Input(mut input) => {
                if let Input::RunStarted(run) = &mut input {
                    same_policy = run.policy == digest;
                    run.policy = digest;
                }
                replay.inputs += 1;
                replay.replayed.extend(step(&policies, &mut state, &input));
            }
            Recorded::Decision(decision) => replay.recorded.push(decision),
        }
    }
    let equal = |a: &Decision, b: &Decision| a == b || same_policy && same_but_for_words(a, b);
    let same = replay.recorded.iter().zip(&replay.replayed).take_while(|(a, b)| equal(a, b)).count();
    let whole = same == replay.recorded.len() && same == replay.replayed.len();
    replay.differs_at = (!whole).then_some(same);
    Ok(replay)
}

/// Whether they differ at most in how the rule's condition is worded: another version may word the same bound otherwise.
fn same_but_for_words(a: &Decision, b: &Decision) -> bool {
    let (Cause::Rule { rule, suppressed, .. }, Cause::Rule { condition, .. }) = (&a.cause, &b.cause) else {
        return false;
    };
    let worded = Cause::Rule { rule: rule.clone(), condition: condition.clone(), suppressed: *suppressed };
    Decision { cause: worded, ..a.clone() } == *b
}

//! The engine and what it needs: its state, the policies of live runs, and the number of the last input.
//!
//! Owns them; only the pipeline's thread has it. Invariants: inputs are numbered without a gap; the policy of a run is here
//! from before its start until no live run is pinned to it.

use failsafe_core::{
    Containment, Decision, Input, Policy, PolicyDigest, PolicySet, RunId, State,
    input::{Gap, Missing, Silent, Unread},
    step,
};
use std::sync::Arc;

/// An input that the engine was stepped by, and what it decided.
pub(super) struct Stepped {
    pub(super) input: Input,
    pub(super) decisions: Vec<Decision>,
}

/// The engine's owner.
#[derive(Default)]
pub(super) struct Judge {
    pub(super) state: State,
    pub(super) policies: PolicySet,
    seq: u64,
}

impl Judge {
    /// Numbers an input and steps the engine by it.
    pub(super) fn step(&mut self, mut input: Input) -> Stepped {
        self.seq += 1;
        match &mut input {
            Input::Signal(signal) => signal.seq = self.seq,
            Input::Control(control) => control.seq = self.seq,
            Input::Gap(Gap { seq, .. })
            | Input::Unread(Unread { seq, .. })
            | Input::Silent(Silent { seq, .. })
            | Input::Missing(Missing { seq, .. }) => *seq = self.seq,
            Input::Tick(_)
            | Input::Paused { .. }
            | Input::Outcome(_)
            | Input::RunStarted(_)
            | Input::RunGpus { .. }
            | Input::RunEnded { .. }
            | Input::SeriesEnded { .. }
            | Input::Manifest { .. }
            | Input::Mode { .. } => {}
        }
        let decisions = step(&self.policies, &mut self.state, &input);
        Stepped { input, decisions }
    }

    /// The number that the next input gets.
    pub(super) fn next_seq(&self) -> u64 {
        self.seq + 1
    }

    /// Prepares the start of a run: its policy, and what is known of its containment.
    pub(super) fn prepare(&mut self, run: RunId, policy: &(PolicyDigest, Arc<Policy>), containment: Containment) {
        self.policies.insert(policy.0, policy.1.clone());
        self.state.recall(run, containment);
    }

    /// No live run is pinned to this policy any more.
    pub(super) fn forget(&mut self, policy: &PolicyDigest) {
        self.policies.remove(policy);
    }
}

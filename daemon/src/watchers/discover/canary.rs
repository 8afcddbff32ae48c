//! The policy of a discovered run: the one of its rule, or the candidate of a canary of that name.

use super::Discovery;
use failsafe_core::{Policy, discover::Rule};

impl Discovery {
    /// The policy of a cgroup that gets a run, and the label of the canary that it was drawn for. A requeued job has the same path, and is
    /// drawn alike.
    ///
    /// # Errors
    /// Why the policy in force, or a promoted candidate, cannot be used.
    pub(super) fn policy_of(&self, rule: &Rule, path: &str) -> Result<(Policy, Option<String>), String> {
        let (policy, digest) = self.policies.with_digest(&rule.policy)?;
        let canaries = self.parts.registry.canaries();
        let Some(drawn) = canaries.draw(&rule.policy, digest, &[&rule.name, path]) else {
            return Ok(((*policy).clone(), None));
        };
        let Some(candidate) = drawn.candidate else { return Ok(((*policy).clone(), Some(drawn.label))) };
        if let Some(why) = (self.parts.refusal)(&candidate) {
            // The policy in force may be looser: after a promotion it must not come back by itself.
            if drawn.promoted {
                return Err(format!("the promoted candidate of the canary: {why}"));
            }
            tracing::warn!(path, policy = rule.policy, why, "a run gets the policy in force: the candidate is refused");
            return Ok(((*policy).clone(), None));
        }
        Ok(((*candidate).clone(), Some(drawn.label)))
    }
}

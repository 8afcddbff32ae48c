//! The shadow of a rule: each run of the rule gets it when it is discovered, or when a pass finds that it has none.

use super::Discovery;
use crate::{
    pipeline::Message,
    shadows::{Asked, By},
};
use failsafe_core::{
    Actor, RunId,
    discover::{LABEL, Rule},
};
use std::sync::Arc;

impl Discovery {
    /// Has the policy judged that the rule names as its shadow. A run that gets none is bounded all the same; a later pass tries again.
    pub(super) fn judge_beside(&mut self, run: RunId, rule: &Rule) {
        let Some(name) = &rule.shadow else { return };
        if self.parts.shadows.has_of_rule(run, &rule.name) {
            return;
        }
        let Some(live) = self.parts.registry.get(run) else { return };
        if live.run.labels.get(LABEL) != Some(&rule.name) {
            return;
        }
        // Its error is in the health of the node.
        let Ok(policy) = self.policies.get(name) else { return };
        let asked = Asked {
            run: live.known().clone(),
            enforced: live.policy.clone(),
            policy: Arc::new(policy.clone()),
            by: By::Rule(rule.name.clone()),
            actor: Actor::Daemon,
        };
        match self.parts.shadows.add(asked) {
            Ok((order, _not_waited_for)) => self.send(Message::Shadow(order)),
            Err(why) => {
                tracing::warn!(%run, rule = rule.name, shadow = name, %why, "a run is judged without its shadow")
            }
        }
    }
}

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
impl Discovery {
    /// Has the policy judged that the rule names as its shadow. A run that gets none is bounded all the same; a later pass tries again, and
    /// the report of shadows has the number of such runs.
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
        let Ok((policy, digest)) = self.policies.with_digest(name) else { return };
        let asked = Asked {
            run: live.known().clone(),
            enforced: live.policy.clone(),
            policy,
            digest,
            by: By::Rule(rule.name.clone()),
            reserved: false,
            actor: Actor::Daemon,
        };
        match self.parts.shadows.add(asked) {
            Ok((order, _not_waited_for)) => self.send(Message::Shadow(order)),
            Err(why) if !self.parts.shadows.leave_out(&rule.name, run, &why) => {}
            Err(why) => {
                tracing::warn!(%run, rule = rule.name, shadow = name, %why, "a run is judged without its shadow")
            }
        }
    }

    /// Forgets the runs without a shadow that have ended, but for their number.
    pub(super) fn forget_left_out(&self) {
        self.parts.shadows.retain_left_out(|run| self.parts.registry.get(run).is_some());
    }
}

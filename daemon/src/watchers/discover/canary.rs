//! The policy of a discovered run: the one of its rule, or the candidate of a canary of that name.
//!
//! Invariant: a canary leaves no cgroup without a run. Its processes run already, so a candidate that cannot be used, in whatever stage,
//! gives way to the policy in force, and the run has an entry that says so.

use super::Discovery;
use crate::runs::canaries::Drawn;
use failsafe_core::{Policy, canary::Side, discover::Rule};
use std::sync::Arc;

/// What a discovered run is to be judged by.
#[derive(Debug)]
pub(super) struct Chosen {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The label of the canary that it was drawn for.
    pub label: Option<String>,
    /// Why it is not the candidate that it was drawn for.
    pub instead: Option<String>,
    /// The policy in force, where this is a candidate.
    in_force: Option<Arc<Policy>>,
}

impl Chosen {
    fn of(in_force: Arc<Policy>, drawn: Option<Drawn>, refusal: impl FnOnce(&Policy) -> Option<String>) -> Chosen {
        let Some(Drawn { candidate, label, promoted: _ }) = drawn else {
            return Chosen { policy: in_force, label: None, instead: None, in_force: None };
        };
        let Some(candidate) = candidate else {
            return Chosen { policy: in_force, label: Some(label), instead: None, in_force: None };
        };
        let refused = refusal(&candidate);
        let chosen = Chosen { policy: candidate, label: Some(label), instead: None, in_force: Some(in_force) };
        match refused {
            Some(why) => chosen.instead(&format!("this node refuses it: {why}")).unwrap_or_else(|same| same),
            None => chosen,
        }
    }

    /// The policy in force in the place of a candidate.
    ///
    /// # Errors
    /// This is the policy in force.
    pub fn instead(self, why: &str) -> Result<Chosen, Chosen> {
        match self.in_force {
            Some(policy) => {
                let instead = format!(
                    "it is judged by the policy in force and not by the candidate {} v{} of the canary {}: {why}",
                    self.policy.name,
                    self.policy.version,
                    self.label.as_deref().and_then(Side::of_label).map_or("?", |(canary, _)| canary)
                );
                Ok(Chosen { policy, label: None, instead: Some(instead), in_force: None })
            }
            None => Err(self),
        }
    }
}

impl Discovery {
    /// The policy of a cgroup that gets a run. A requeued job has the same path, and is drawn alike.
    ///
    /// # Errors
    /// Why the policy in force cannot be used.
    pub(super) fn policy_of(&self, rule: &Rule, path: &str) -> Result<Chosen, String> {
        let (policy, digest) = self.policies.with_digest(&rule.policy)?;
        let drawn = self.parts.registry.canaries().draw(&rule.policy, digest, &[&rule.name, path]);
        Ok(Chosen::of(policy, drawn, &*self.parts.refusal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::policy::parse::parse;

    fn policy(name: &str) -> Arc<Policy> {
        Arc::new(parse("p", &format!("[policy]\nname = \"{name}\"\nowner = \"o\"\n")).unwrap())
    }

    fn drawn(promoted: bool) -> Option<Drawn> {
        Some(Drawn { candidate: Some(policy("new")), promoted, label: "p@1 candidate".into() })
    }

    #[test]
    fn a_candidate_that_cannot_be_used_gives_way_to_the_policy_in_force_in_each_stage() {
        for promoted in [false, true] {
            let refused = Chosen::of(policy("old"), drawn(promoted), |_| Some("a sensor is blind".into()));
            assert_eq!((refused.policy.name.as_str(), &refused.label), ("old", &None));
            let instead = refused.instead.unwrap();
            assert!(
                instead.contains("candidate new v1 of the canary p@1:") && instead.ends_with("a sensor is blind"),
                "{instead}"
            );

            let accepted = Chosen::of(policy("old"), drawn(promoted), |_| None);
            assert_eq!((accepted.policy.name.as_str(), &accepted.instead), ("new", &None));
            assert!(accepted.label.is_some());
            let in_force = accepted.instead("it cannot be attached").unwrap();
            assert_eq!((in_force.policy.name.as_str(), &in_force.label), ("old", &None));
            assert!(in_force.instead.as_ref().unwrap().ends_with("it cannot be attached"));
            assert!(in_force.instead("again").is_err(), "there is no other");
        }
    }

    #[test]
    fn a_run_that_is_compared_with_the_candidate_has_the_policy_in_force_and_its_label() {
        let control = Some(Drawn { candidate: None, promoted: false, label: "p@1 control".into() });
        let chosen = Chosen::of(policy("old"), control, |_| panic!("it is in use"));
        assert_eq!((chosen.policy.name.as_str(), chosen.label.as_deref()), ("old", Some("p@1 control")));
        assert!(chosen.instead("why").is_err());
    }
}

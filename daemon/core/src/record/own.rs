//! What the policy has about a decision that failsafed makes without a rule.

use super::RuleText;
use crate::{
    decision::Upkeep,
    policy::{Effect, OnBlind, OnDrift, OnEscape, Policy},
};

impl RuleText {
    /// Why failsafed decides this of itself in a run of `policy`. `named`: name and version of the policy.
    pub fn of_upkeep(policy: &Policy, named: String, what: Upkeep) -> RuleText {
        let (rationale, playbook) = match what {
            Upkeep::Blind => (on_blind(policy.on_blind), Some("docs/playbooks/sensor-blind.md")),
            Upkeep::Drift => (on_drift(policy.on_drift), Some("docs/attestation.md#restart-gate")),
            Upkeep::Escape => (on_escape(policy.on_escape), None),
            Upkeep::ForeignThaw => (
                "failsafed keeps a contained run contained until an administrator thaws it with failsafectl. No policy \
                 changes that.",
                None,
            ),
            Upkeep::Latched => (
                "A rule with effect = \"stop\" blocked the run in the kernel. failsafed freezes such a run. No policy \
                 changes that.",
                None,
            ),
            Upkeep::FoundFrozen => (
                "failsafed keeps a run frozen that it finds frozen at its start, because the log does not show who froze \
                 it. No policy changes that.",
                None,
            ),
            Upkeep::Retry => (
                "failsafed repeats a freeze, a block or a kill that failed. No policy changes that.",
                Some("docs/playbooks/guarded-or-partial.md"),
            ),
        };
        RuleText {
            rationale: rationale.to_owned(),
            owner: policy.owner.clone(),
            playbook: playbook.map(str::to_owned),
            policy: named,
            effect: Effect::default(),
        }
    }
}

fn on_blind(on_blind: OnBlind) -> &'static str {
    match on_blind {
        OnBlind::Freeze => {
            "The policy has on_blind = \"freeze\": the run is frozen when a sensor that one of its rules needs is blind."
        }
        OnBlind::Refuse => {
            "The policy has on_blind = \"refuse\": no run starts while a sensor that one of its rules needs is blind. A \
             run that lives is only reported."
        }
        OnBlind::Continue => {
            "The policy has on_blind = \"continue\": a run with a rule of which the sensor is blind is only reported."
        }
    }
}

fn on_drift(on_drift: OnDrift) -> &'static str {
    match on_drift {
        OnDrift::Hold => {
            "The policy has on_drift = \"hold\": a restart that differs from the run that it continues is frozen until \
             an administrator thaws it."
        }
        OnDrift::Notify => "The policy has on_drift = \"notify\": a restart that differs is only reported.",
    }
}

fn on_escape(on_escape: OnEscape) -> &'static str {
    match on_escape {
        OnEscape::Recapture => {
            "The policy has on_escape = \"recapture\": a process that the run moves out of its cgroup is moved back. Of \
             a frozen run every process is moved back."
        }
        OnEscape::Observe => {
            "The policy has on_escape = \"observe\": a process that leaves the cgroup of the run is only reported. Of a \
             frozen run every process is moved back."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse::parse;

    const ALL: [Upkeep; 7] = [
        Upkeep::Escape,
        Upkeep::ForeignThaw,
        Upkeep::Latched,
        Upkeep::FoundFrozen,
        Upkeep::Blind,
        Upkeep::Retry,
        Upkeep::Drift,
    ];

    #[test]
    fn every_decision_of_failsafed_itself_names_policy_owner_and_why() {
        let settings = [
            "on_blind = \"freeze\"\non_drift = \"hold\"\non_escape = \"observe\"\n",
            "on_blind = \"continue\"\non_drift = \"notify\"\non_escape = \"recapture\"\n",
            "on_blind = \"refuse\"\n",
        ];
        for settings in settings {
            let rule = "[[rule]]\nid = \"x\"\nrationale = \"x\"\nwhen = { event = \"oom\" }\nactions = [\"notify\"]\n";
            let text = format!("[policy]\nname = \"p\"\nowner = \"on-call@example.org\"\n{settings}\n{rule}");
            let policy = parse("p", &text).unwrap();
            for what in ALL {
                let RuleText { rationale, owner, playbook, policy: named, effect } =
                    RuleText::of_upkeep(&policy, "p v1".into(), what);
                assert_eq!((owner.as_str(), named.as_str()), ("on-call@example.org", "p v1"));
                assert!(effect.is_observe() && rationale.ends_with('.'), "{what}: {rationale}");
                let key = format!("on_{what}");
                if let Some(set) = settings.lines().find(|line| line.starts_with(&key)) {
                    assert!(rationale.starts_with(&format!("The policy has {set}:")), "{rationale}");
                }
                if let Some(playbook) = playbook {
                    let file = playbook.split('#').next().unwrap();
                    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
                    assert!(std::path::Path::new(root).join(file).is_file(), "{playbook}");
                }
            }
        }
    }
}

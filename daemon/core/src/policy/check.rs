//! Holding a policy against what a node can see.

use super::{OnBlind, Policy};
use crate::signal::Source;
use std::collections::BTreeMap;

/// Sensors that are blind on a node, each with the reason.
pub type Blind = BTreeMap<Source, String>;

/// Why a policy may not be pinned on this node, or `None`; `on_blind = "continue"` always may.
pub fn refusal(policy: &Policy, blind: &Blind) -> Option<String> {
    if policy.on_blind == OnBlind::Continue {
        return None;
    }
    let mut why: Vec<String> = Vec::new();
    for source in policy.needs() {
        if let Some(reason) = blind.get(&source) {
            let rules: Vec<&str> =
                policy.rules.iter().filter(|r| r.when.source() == source).map(|r| r.id.as_str()).collect();
            let who = if rules.is_empty() {
                "the egress list or watched calls need".into()
            } else {
                format!("rule(s) {} need", rules.join(", "))
            };
            why.push(format!("{who} the {source} sensor, which is blind: {reason}"));
        }
    }
    let advice = "; fix the sensor, or let the policy say on_blind = \"continue\"";
    (!why.is_empty()).then(|| format!("policy `{}`: {}{advice}", policy.name, why.join("; ")))
}

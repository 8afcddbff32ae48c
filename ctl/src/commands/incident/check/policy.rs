//! The policy: the decisions name it by its digest.

use super::{Findings, Incident, Name, Parts};
use failsafe_core::{Policy, PolicyDigest};
use std::collections::BTreeSet;

pub(super) fn check(parts: &Parts, incident: &Incident<'_>, findings: &mut Findings) {
    let named: BTreeSet<PolicyDigest> = incident.decisions.iter().map(|decided| decided.decision.policy).collect();
    let Some(content) = parts.get(Name::Policy) else {
        let why = parts.why_missing(&Name::Policy.to_string()).unwrap_or("no reason is given");
        findings.lacks("policy", format!("it is not in the file: {why}"));
        return;
    };
    let digest = PolicyDigest::of_content(content);
    match named.first() {
        Some(only) if named.len() == 1 && *only == digest => {
            let policy = serde_json::from_slice::<Policy>(content).ok();
            let policy = policy.map(|policy| format!("{} v{}, ", policy.name, policy.version)).unwrap_or_default();
            findings.proved.push(("policy", format!("{policy}{digest}: the one that every decision names")));
        }
        Some(only) if named.len() == 1 => findings.problem(format!(
            "{}: its digest is {digest}, but the decisions name {only}: it is another policy",
            Name::Policy
        )),
        _ => findings.problem(format!("the decisions name {} policies, but a run has one", named.len())),
    }
}

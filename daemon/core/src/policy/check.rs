//! Holding a policy against what a node can see.

use super::{OnBlind, Policy, Rule};
use crate::signal::{Kind, Source};
use std::collections::BTreeMap;

/// Sensors that are blind on a node, each with the reason.
pub type Blind = BTreeMap<Source, String>;

/// Signals that this node, or the GPUs in question, do not have, or that cannot be read of them, each with the reason.
pub type Unwatched = BTreeMap<Kind, String>;

/// Why a policy may not be pinned on this node, or `None`; `on_blind = "continue"` always may.
pub fn refusal(policy: &Policy, blind: &Blind, unwatched: &Unwatched) -> Option<String> {
    if policy.on_blind == OnBlind::Continue {
        return None;
    }
    let mut why: Vec<String> = Vec::new();
    for source in policy.needs() {
        if let Some(reason) = blind.get(&source) {
            let rules: Vec<&str> =
                policy.rules.iter().filter(|r| r.when.sources().contains(&source)).map(|r| r.id.as_str()).collect();
            let who = if rules.is_empty() {
                "the egress list or watched calls need".into()
            } else {
                format!("rule(s) {} need", rules.join(", "))
            };
            why.push(format!("{who} the {source} sensor, which is blind: {reason}"));
        }
    }
    let seen = |rule: &&Rule| !rule.when.sources().iter().any(|source| blind.contains_key(source));
    for rule in policy.rules.iter().filter(seen) {
        why.extend(
            lacks(rule, unwatched)
                .map(|(kind, reason)| format!("rule {} needs {kind}, which cannot be watched: {reason}", rule.id)),
        );
    }
    let advice = "; fix the sensor, or let the policy say on_blind = \"continue\"";
    (!why.is_empty()).then(|| format!("policy `{}`: {}{advice}", policy.name, why.join("; ")))
}

/// Signals that the rule judges, directly or through what they are made of, and that cannot be watched, with the reason.
pub fn lacks<'a>(rule: &'a Rule, unwatched: &'a Unwatched) -> impl Iterator<Item = (&'a Kind, &'a str)> {
    let read = rule.when.reads();
    let mut kinds = rule.when.signals();
    kinds.retain(|kind| !read.contains(kind));
    kinds.extend(read);
    kinds.sort();
    kinds.dedup();
    kinds.into_iter().filter_map(|kind| Some((kind, unwatched.get(kind)?.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse::parse;

    fn policy(signal: &str, rest: &str) -> Policy {
        let text = format!(
            "[policy]\nname = \"p\"\nowner = \"o\"\n{rest}[[rule]]\nid = \"r\"\nrationale = \"x\"\n\
             when = {{ signal = \"{signal}\", above = {} }}\nactions = [\"notify\"]\n",
            if signal == "gpu.temperature" { "\"90 C\"" } else { "\"60 s\"" }
        );
        parse("p", &text).unwrap()
    }

    #[test]
    fn a_rule_on_a_signal_that_no_gpu_has_is_refused_also_through_a_derived_signal() {
        let (see, blind) = (Blind::new(), Blind::from([(Source::Nvml, "gone".to_owned())]));
        let without = |kind| Unwatched::from([(kind, "GPU-1 does not have it".to_owned())]);
        let hot = policy("gpu.temperature", "");
        let why = refusal(&hot, &see, &without(Kind::GpuTemperature)).unwrap();
        assert!(why.contains("rule r needs gpu.temperature") && why.contains("GPU-1 does not have it"), "{why}");
        assert_eq!(refusal(&hot, &see, &without(Kind::GpuPower)), None);
        let why = refusal(&hot, &blind, &without(Kind::GpuTemperature)).unwrap();
        assert!(!why.contains("GPU-1"), "a sensor that is blind as a whole is reason enough: {why}");
        let node = without(Kind::CpuTime);
        let why = refusal(&policy("cpu.time", ""), &see, &node).unwrap();
        assert!(why.contains("rule r needs cpu.time"), "a signal of any source: {why}");
        let held = policy("gpu.derived.clock_held", "");
        let why = refusal(&held, &see, &without(Kind::GpuClockSmMax)).unwrap();
        assert!(why.contains("gpu.clock_sm_max"), "{why}");
        let willing = policy("gpu.temperature", "on_blind = \"continue\"\n");
        assert_eq!(refusal(&willing, &see, &without(Kind::GpuTemperature)), None);
    }
}

//! The names that a policy may write: sections, fields, and the values of closed sets.

use super::{Confidence, Mode, OnBlind, OnDead, OnDrift, OnEscape, Phase, Protocol, Severity, Statistic};

pub(in crate::policy) const SECTIONS: &[&str] =
    &["include", "policy", "egress", "exec", "limits", "syscalls", "derived", "metrics", "rule", "template", "use"];
/// Fields of an included file.
pub(in crate::policy) const INCLUDE: &[&str] = &["file", "sha256"];
/// Fields of a template.
pub(in crate::policy) const TEMPLATE: &[&str] = &["name", "parameters", "defaults", "rule"];
/// Fields of a use of a template.
pub(in crate::policy) const USE: &[&str] = &["template", "with"];
pub(in crate::policy) const HEAD: &[&str] =
    &["name", "version", "owner", "description", "on_blind", "on_escape", "on_drift", "on_dead_daemon", "dead_after"];
pub(in crate::policy) const EGRESS: &[&str] = &["mode", "allow", "budget", "dns_servers"];
pub(in crate::policy) const ALLOW: &[&str] = &["cidr", "host", "ports", "protocol"];
pub(in crate::policy) const BUDGET: &[&str] = &["name", "to", "bytes", "rate"];
pub(in crate::policy) const EXEC: &[&str] = &["mode", "allow"];
pub(in crate::policy) const LIMITS: &[&str] = &["processes", "forks_per_second"];
pub(in crate::policy) const SYSCALLS: &[&str] = &["watch"];
pub(in crate::policy) const METRICS: &[&str] = &["grace", "stale"];
pub(in crate::policy) const DERIVED: &[&str] =
    &["spinning", "idle_power", "stalled", "clock_held", "thermal_slope", "ecc_rate", "memory_slope", "straggler"];
pub(in crate::policy) const DERIVED_SHARES: &[(&str, &[&str])] = &[
    ("spinning", &["utilization", "power"]),
    ("idle_power", &["utilization", "power"]),
    ("stalled", &["low", "high"]),
    ("clock_held", &["utilization", "clock"]),
];
pub(in crate::policy) const DERIVED_OVERS: &[&str] = &["thermal_slope", "ecc_rate", "memory_slope", "straggler"];
pub(in crate::policy) const OVER: &[&str] = &["over"];
const BEFORE_WHEN: &[&str] =
    &["id", "rationale", "owner", "severity", "confidence", "labels", "playbook", "mode", "effect"];
const AFTER_WHEN: &[&str] = &["actions", "cooldown"];
pub(in crate::policy) const RULE: &[&str] =
    &joined::<{ BEFORE_WHEN.len() + 1 + AFTER_WHEN.len() }>(&[BEFORE_WHEN, &["when"], AFTER_WHEN]);
/// Fields of a rule that people write into `when`.
pub(in crate::policy) const RULE_ONLY: &[&str] =
    &joined::<{ BEFORE_WHEN.len() + AFTER_WHEN.len() }>(&[BEFORE_WHEN, AFTER_WHEN]);
/// Fields of `when` beside `signal`.
pub(in crate::policy) const OF_SIGNALS: &[&str] =
    &["signal", "above", "below", "clear", "for", "over", "is", "grace", "stale", "rearm", "absent", "detect"];
/// Fields of `when` beside `event`, in the order in which a policy's digest has them.
pub const OF_EVENTS: &[&str] = &[
    "path",
    "argv",
    "comm",
    "uid",
    "address",
    "port",
    "protocol",
    "family",
    "verdict",
    "assurance",
    "name",
    "kind",
    "access",
    "gain",
    "what",
    "budget",
    "code",
    "status",
    "class",
    "since",
];
/// Fields of conditions of several parts, and of their parts.
pub(in crate::policy) const OF_TREES: &[&str] =
    &["all", "any", "not", "at_least", "of", "within", "count", "keep_firing_for", "phase", "warm_up", "confidence"];
/// Every field of `when`.
pub(in crate::policy) const WHEN: &[&str] = &joined::<{ OF_SIGNALS.len() + 1 + OF_EVENTS.len() + OF_TREES.len() }>(&[
    OF_SIGNALS,
    &["event"],
    OF_EVENTS,
    OF_TREES,
]);

/// Several lists of names as one.
const fn joined<const N: usize>(lists: &[&[&'static str]]) -> [&'static str; N] {
    let mut all = [""; N];
    let (mut list, mut at) = (0, 0);
    while list < lists.len() {
        let mut name = 0;
        while name < lists[list].len() {
            all[at] = lists[list][name];
            (name, at) = (name + 1, at + 1);
        }
        list += 1;
    }
    all
}

/// The modes by their names.
pub const MODES: &[(&str, Mode)] = &[("enforce", Mode::Enforce), ("observe", Mode::Observe)];
pub(in crate::policy) const ON_BLIND: &[(&str, OnBlind)] =
    &[("refuse", OnBlind::Refuse), ("continue", OnBlind::Continue), ("freeze", OnBlind::Freeze)];
pub(in crate::policy) const ON_ESCAPE: &[(&str, OnEscape)] =
    &[("recapture", OnEscape::Recapture), ("observe", OnEscape::Observe)];
pub(in crate::policy) const ON_DRIFT: &[(&str, OnDrift)] = &[("notify", OnDrift::Notify), ("hold", OnDrift::Hold)];
pub(in crate::policy) const ON_DEAD: &[(&str, OnDead)] =
    &[("keep", OnDead::Keep), ("deny-egress", OnDead::DenyEgress), ("deny-all", OnDead::DenyAll)];
pub(in crate::policy) const SEVERITIES: &[(&str, Severity)] =
    &[("info", Severity::Info), ("warning", Severity::Warning), ("critical", Severity::Critical)];
pub(in crate::policy) const CONFIDENCES: &[(&str, Confidence)] =
    &[("low", Confidence::Low), ("medium", Confidence::Medium), ("high", Confidence::High)];
pub(in crate::policy) const STATISTICS: &[(&str, Statistic)] =
    &[("median", Statistic::Median), ("mean", Statistic::Mean)];
/// Fields of a bound that moves.
pub(in crate::policy) const RELATIVE: &[&str] = &["first", "statistic", "signal", "manifest", "factor", "offset"];
/// The phases by their names.
pub const PHASES: &[(&str, Phase)] = &[
    ("warm-up", Phase::WarmUp),
    ("train", Phase::Train),
    ("evaluate", Phase::Evaluate),
    ("checkpoint", Phase::Checkpoint),
];
pub(in crate::policy) const PROTOCOLS: &[(&str, Protocol)] = &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;
    use serde::Serialize;

    fn agree<T: Serialize>(choices: &[(&str, T)]) {
        for (name, value) in choices {
            assert_eq!(serde_json::to_value(value).unwrap(), *name);
        }
    }

    #[test]
    fn the_names_of_choices_are_those_that_are_stored() {
        agree(MODES);
        agree(ON_BLIND);
        agree(ON_ESCAPE);
        agree(ON_DRIFT);
        agree(ON_DEAD);
        agree(SEVERITIES);
        agree(CONFIDENCES);
        agree(PROTOCOLS);
        agree(PHASES);
        agree(STATISTICS);
    }

    #[test]
    fn every_field_of_every_event_can_be_written() {
        for kind in EventKind::ALL {
            for field in kind.fields() {
                assert!(OF_EVENTS.contains(&field.name()), "{} of {}", field.name(), kind.name());
            }
        }
        let all: Vec<&str> = OF_SIGNALS.iter().chain(&["event"]).chain(OF_EVENTS).chain(OF_TREES).copied().collect();
        assert_eq!(WHEN, all);
    }
}

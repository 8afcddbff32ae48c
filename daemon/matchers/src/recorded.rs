//! What a recording under one policy cannot answer about another: events that the kernel did not report then.
//!
//! The kernel reports calls that are let through, and opens and calls at all, only where a rule could match them. A rule of another
//! policy on such events finds none in the recording, which does not mean that none happened. Invariant: in doubt it is not recorded.

use crate::compile;
use failsafe_core::{
    Kind, Policy,
    event::{EventKind, Field, Verdict},
    policy::{Effect, EventMatch, Pattern, Rule},
};
use std::collections::BTreeSet;

/// What of a rule or section of the other policy cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecorded {
    /// The rule; `None`: a section of the policy.
    pub rule: Option<String>,
    /// What is not in the recording, and why.
    pub what: String,
}

/// The signals of rules of which a recording has no value; `came`: those of which it has one.
#[must_use]
pub fn never_came(policy: &Policy, came: &BTreeSet<Kind>) -> Vec<Unrecorded> {
    let of_rule = |rule: &Rule| {
        let read = rule.when.reads();
        let signals = rule.when.signals().into_iter().filter(|kind| !kind.is_derived()).cloned();
        let metrics = rule.when.metrics().into_iter().map(|name| Kind::Metric(name.to_owned()));
        let wanted: BTreeSet<Kind> = signals.chain(read.into_iter().cloned()).chain(metrics).collect();
        let missing = wanted.into_iter().filter(|kind| !came.contains(kind));
        let one = |kind: Kind| {
            let why = match kind {
                Kind::Metric(_) => "the run did not report it",
                _ => "the recording has no value of it",
            };
            Unrecorded { rule: Some(rule.id.clone()), what: format!("{kind}: {why}") }
        };
        missing.map(one).collect::<Vec<_>>()
    };
    policy.rules.iter().flat_map(of_rule).collect()
}

/// What of `new` a recording under `old` cannot answer, as far as events go.
#[must_use]
pub fn unrecorded(old: &Policy, new: &Policy) -> Vec<Unrecorded> {
    let mut out = Vec::new();
    for rule in &new.rules {
        for wanted in rule.when.events() {
            if let Some(what) = lacks(old, new, wanted, rule.effect) {
                let one = Unrecorded { rule: Some(rule.id.clone()), what: format!("{wanted}: {what}") };
                if !out.contains(&one) {
                    out.push(one);
                }
            }
        }
    }
    let section = |what: &str| Unrecorded { rule: None, what: what.to_owned() };
    if new.limits != old.limits && new.limits.is_some() {
        out.push(section("[limits]: what it would deny is not computed"));
    }
    let budgets = |policy: &Policy| policy.egress.as_ref().map(|egress| egress.budgets.clone()).unwrap_or_default();
    if budgets(new) != budgets(old) && !budgets(new).is_empty() {
        out.push(section("[[egress.budget]]: what it would drop is not computed"));
    }
    out
}

fn lacks(old: &Policy, new: &Policy, wanted: &EventMatch, effect: Effect) -> Option<String> {
    let watch = compile::watch(old);
    let denial_only = wanted.given(Field::Verdict).is_some_and(|any_of| !any_of.iter().any(is_allowed));
    let not_reported = |what: &str| Some(format!("the recorded policy {what}"));
    match wanted.kind {
        // Always reported.
        EventKind::Exec
        | EventKind::Exit
        | EventKind::Oom
        | EventKind::Leave
        | EventKind::ForeignThaw
        | EventKind::Latched
        | EventKind::Drift
        | EventKind::Xid
        | EventKind::GpuEvent
        | EventKind::ForeignGpuProcess
        | EventKind::Protect => None,
        EventKind::Fork if denial_only && new.limits != old.limits => {
            not_reported("has other [limits], and what these deny is not computed")
        }
        EventKind::Fork => None,
        EventKind::Connect | EventKind::Send | EventKind::Bind => {
            let reported = match wanted.kind {
                EventKind::Connect => watch.connect,
                EventKind::Send => watch.send,
                _ => watch.bind,
            };
            let probes = wanted.given(Field::Verdict).is_some_and(|any_of| any_of.iter().any(is_probe));
            if probes && !watch.probe {
                return not_reported("reports no connects of datagram sockets that send nothing");
            }
            // Refusals are always reported: the same lists refuse the same.
            let same_lists = new.egress == old.egress && effect == Effect::Observe && !denies_nets(new);
            if reported || denial_only && same_lists {
                return None;
            }
            not_reported(if denial_only || effect != Effect::Observe {
                "does not report calls that it lets through, and some of them may be denied by this one"
            } else {
                "does not report calls that it lets through"
            })
        }
        EventKind::Budget if new.egress.as_ref().map(|e| &e.budgets) == old.egress.as_ref().map(|e| &e.budgets) => None,
        EventKind::Budget => not_reported("has other budgets"),
        EventKind::Syscall => {
            let names = wanted.given(Field::Name).unwrap_or_default();
            let missing = names.iter().filter_map(|name| match name {
                Pattern::Exact(call) if old.watch.contains(call) => None,
                Pattern::Exact(call) => Some(call.as_str()),
                _ => Some("these calls"),
            });
            let missing: Vec<&str> = missing.collect();
            if missing.is_empty() { None } else { not_reported(&format!("does not watch {}", missing.join(", "))) }
        }
        EventKind::Open
        | EventKind::Listen
        | EventKind::Socket
        | EventKind::Privilege
        | EventKind::ExecMemory
        | EventKind::Dns => {
            let wider = |rule: &failsafe_core::policy::Rule| rule.when.events().iter().any(|seen| covers(seen, wanted));
            if old.rules.iter().any(wider) {
                None
            } else {
                not_reported("has no rule on such events, so they are not reported")
            }
        }
    }
}

/// Whether a rule on `seen` has the kernel report every event that `wanted` could match. Only what the kernel selects by counts.
fn covers(seen: &EventMatch, wanted: &EventMatch) -> bool {
    let by_the_daemon = |field: Field| matches!(field, Field::Verdict | Field::Assurance | Field::Comm | Field::Uid);
    seen.kind == wanted.kind
        && seen.fields.iter().filter(|field| !by_the_daemon(field.field)).all(|field| {
            let holds = |pattern: &Pattern| field.any_of.iter().any(|wide| within(wide, pattern));
            wanted.given(field.field).is_some_and(|any_of| any_of.iter().all(holds))
        })
}

/// Whether everything that fits `narrow` fits `wide`.
fn within(wide: &Pattern, narrow: &Pattern) -> bool {
    match (wide, narrow) {
        (a, b) if a == b => true,
        (Pattern::Prefix(wide), Pattern::Exact(narrow) | Pattern::Prefix(narrow)) => narrow.starts_with(wide.as_str()),
        _ => false,
    }
}

fn is_allowed(pattern: &Pattern) -> bool {
    *pattern == Pattern::Exact(Verdict::Allowed.name().to_owned())
}

fn is_probe(pattern: &Pattern) -> bool {
    *pattern == Pattern::Exact(Verdict::Probe.name().to_owned())
}

/// Whether a rule denies destinations beside the list.
fn denies_nets(policy: &Policy) -> bool {
    policy.rules.iter().any(|rule| {
        rule.effect != Effect::Observe
            && rule.when.event().is_some_and(|event| {
                matches!(event.kind, EventKind::Connect | EventKind::Send | EventKind::Bind)
                    && (event.given(Field::Address).is_some() || event.given(Field::Port).is_some())
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::policy::parse::parse;

    const LIST: &str = "[egress]\nallow = [{ cidr = \"10.0.0.0/8\" }]\n";

    fn policy(text: &str) -> Policy {
        parse("p", &format!("[policy]\nname = \"p\"\nowner = \"o\"\n{text}"))
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn rule(when: &str) -> String {
        format!("[[rule]]\nid = \"r{}\"\nrationale = \"x\"\nwhen = {{ {when} }}\nactions = [\"notify\"]\n", when.len())
    }

    #[test]
    fn events_that_the_recorded_policy_did_not_report_are_not_recorded() {
        let denied = "event = \"connect\", verdict = \"denied\"";
        for (old, new, lacking) in [
            (String::new(), rule("event = \"exec\", path = \"/tmp/*\""), ""),
            (String::new(), rule("event = \"oom\""), ""),
            (String::new(), rule("event = \"open\", path = \"/etc/shadow\""), "has no rule on such events"),
            (rule("event = \"open\", path = \"/etc/*\""), rule("event = \"open\", path = \"/etc/shadow\""), ""),
            (rule("event = \"open\", path = \"/etc/shadow\""), rule("event = \"open\", path = \"/etc/*\""), "no rule"),
            (
                rule("event = \"open\", path = \"/etc/*\", access = \"write\""),
                rule("event = \"open\", path = \"/etc/a\""),
                "no rule",
            ),
            (rule("event = \"open\""), rule("event = \"open\", path = \"/etc/a\""), ""),
            (
                rule("event = \"syscall\", name = \"ptrace\""),
                rule("event = \"syscall\", name = [\"ptrace\", \"bpf\"]"),
                "does not watch bpf",
            ),
            ("[syscalls]\nwatch = [\"ptrace\"]\n".into(), rule("event = \"syscall\", name = \"ptrace\""), ""),
            (LIST.into(), format!("{LIST}{}", rule(denied)), ""),
            (String::new(), format!("{LIST}{}", rule(denied)), "does not report calls that it lets through, and some"),
            (rule("event = \"connect\""), format!("{LIST}{}", rule(denied)), ""),
            (
                LIST.into(),
                format!("{LIST}{}", rule("event = \"connect\"")),
                "does not report calls that it lets through",
            ),
            (String::new(), rule("event = \"privilege\", gain = \"setuid\""), "has no rule on such events"),
            (rule("event = \"privilege\""), rule("event = \"privilege\", gain = \"setuid\""), ""),
        ] {
            let found = unrecorded(&policy(&old), &policy(&new));
            let says = found.iter().any(|one| one.what.contains(lacking));
            assert!(found.is_empty() == lacking.is_empty() && (lacking.is_empty() || says), "{old}\n{new}\n{found:?}");
        }
    }

    #[test]
    fn limits_and_budgets_that_differ_are_not_computed() {
        let limits = "[limits]\nprocesses = 5\n";
        let fork = rule("event = \"fork\", verdict = \"denied\"");
        let found = unrecorded(&policy(&fork), &policy(&format!("{limits}{fork}")));
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(unrecorded(&policy(&format!("{limits}{fork}")), &policy(&format!("{limits}{fork}"))), []);
        let budget = format!("{LIST}[[egress.budget]]\nname = \"b\"\nto = [\"10.0.0.0/8\"]\nbytes = \"1 GiB\"\n");
        let found = unrecorded(&policy(LIST), &policy(&format!("{budget}{}", rule("event = \"budget\""))));
        assert_eq!(found.len(), 2, "{found:?}");
    }
}

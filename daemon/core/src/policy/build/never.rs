//! Warnings for rules that never trip as they are written, and for actions that have nothing to act on. They are not errors: what
//! never happens on this kernel may be meant for another one.

use super::Builder;
use crate::{
    decision::Action,
    event::{EventKind, Field, Verdict},
    policy::{Bound, Condition, EventMatch, Node, Op, Pattern, Rule, Test, diagnostic::quote},
    signal::Kind,
    unit::Unit,
};
use std::ops::Range;

/// The sections that a policy has.
#[derive(Clone, Copy)]
pub(super) struct Sections {
    pub egress: bool,
    pub exec: bool,
    pub limits: bool,
}

impl Builder<'_> {
    /// `rules` with their places in the text.
    pub(super) fn never(&mut self, rules: &[Rule], places: &[Range<usize>], sections: Sections) {
        for (rule, place) in rules.iter().zip(places) {
            let of_event = |wanted: &EventMatch| [texts(wanted), verdicts(wanted, rules, sections)].concat();
            let whys = match &rule.when {
                Condition::Threshold { kind, op, bound, .. } => below_nothing(kind, *op, *bound),
                Condition::Event(wanted) => of_event(wanted),
                Condition::NotFinite { .. } => Vec::new(),
                Condition::Tree(tree) => {
                    let mut whys = Vec::new();
                    if can_hold(&tree.root, &of_event, &mut whys) {
                        // The rule can trip, but not by every part of it.
                        for why in std::mem::take(&mut whys) {
                            let message = format!("a part of the condition never holds: {why}");
                            self.wrong.warning(place.clone(), message, None);
                        }
                    }
                    whys
                }
            };
            for why in whys {
                self.wrong.warning(place.clone(), format!("the rule never trips: {why}"), None);
            }
            if rule.actions.contains(&Action::CordonGpu) && !is_of_gpu(&rule.when) {
                let message =
                    "`cordon-gpu` does nothing here: the rule does not trip on a GPU; `cordon-node` cordons the node";
                self.wrong.warning(place.clone(), message, None);
            }
        }
    }
}

/// Whether a part of a condition can hold; why its tests that cannot hold do not. Every test can fail.
fn can_hold(node: &Node, of_event: &impl Fn(&EventMatch) -> Vec<String>, whys: &mut Vec<String>) -> bool {
    match node {
        Node::Leaf(leaf) => {
            let never = match &leaf.test {
                Test::Threshold { kind, op, bound, .. } => below_nothing(kind, *op, *bound),
                Test::Event { wanted, .. } | Test::Count { wanted, .. } => of_event(wanted),
                Test::Compare { .. }
                | Test::NotFinite { .. }
                | Test::Detect { .. }
                | Test::Absent { .. }
                | Test::Phase { .. }
                | Test::Age { .. }
                | Test::Steps { .. } => Vec::new(),
            };
            let can = never.is_empty();
            whys.extend(never);
            can
        }
        Node::Not(part) => {
            can_hold(part, of_event, whys);
            true
        }
        many => {
            // Each part is looked at, so that all that is amiss is reported.
            let parts = many.parts().iter().map(|part| can_hold(part, of_event, whys));
            parts.filter(|can| *can).count() >= many.needed()
        }
    }
}

fn below_nothing(kind: &Kind, op: Op, bound: Bound) -> Vec<String> {
    match (op, bound) {
        (Op::Below, Bound::Integer(..=0)) if !matches!(kind.unit(), Unit::MilliCelsius | Unit::Real) => {
            vec![format!("{kind} is never below 0")]
        }
        _ => Vec::new(),
    }
}

/// Fields of which no pattern can match.
fn texts(wanted: &EventMatch) -> Vec<String> {
    let mut whys = Vec::new();
    for field in &wanted.fields {
        let nevers: Vec<String> =
            field.any_of.iter().filter_map(|pattern| never(wanted.kind, field.field, pattern)).collect();
        if !nevers.is_empty() && nevers.len() == field.any_of.len() {
            whys.extend(nevers);
        }
    }
    whys
}

fn never(kind: EventKind, field: Field, pattern: &Pattern) -> Option<String> {
    let (text, begins) = match pattern {
        Pattern::Exact(text) | Pattern::Prefix(text) => (text, true),
        Pattern::Suffix(text) | Pattern::Holds(text) => (text, false),
        Pattern::Number(_) | Pattern::Net(_) => return None,
    };
    let shown = quote(text);
    match (kind, field) {
        (EventKind::Exec | EventKind::Open, Field::Path)
            if begins && !text.starts_with('/') && !text.starts_with("memfd") =>
        {
            Some(format!("a path begins with `/`, but {shown} does not: write the whole path, or `*/{text}`"))
        }
        (EventKind::Exec | EventKind::Open, Field::Path) if text.contains('*') => {
            Some(format!("`*` means any text at the start or the end only, and {shown} has one inside"))
        }
        (EventKind::Dns, Field::Name) if text.chars().any(char::is_uppercase) => {
            Some(format!("names are in lower case, but {shown} is not"))
        }
        _ => None,
    }
}

/// A rule on denials, where nothing denies.
fn verdicts(wanted: &EventMatch, rules: &[Rule], sections: Sections) -> Vec<String> {
    let denials = [Verdict::Denied.name(), Verdict::WouldDeny.name()];
    let is_denial = |pattern: &Pattern| matches!(pattern, Pattern::Exact(text) if denials.contains(&text.as_str()));
    let only_denied = |wanted: &EventMatch| {
        let verdict = wanted.fields.iter().find(|field| field.field == Field::Verdict);
        verdict.is_some_and(|field| !field.any_of.is_empty() && field.any_of.iter().all(is_denial))
    };
    if !only_denied(wanted) {
        return Vec::new();
    }
    let (section, name) = match wanted.kind {
        EventKind::Connect | EventKind::Send => (sections.egress, "[egress]"),
        EventKind::Exec => (sections.exec, "[exec]"),
        EventKind::Fork => (sections.limits, "[limits]"),
        EventKind::Open => (false, "a rule on `open` with `effect = \"deny\"`"),
        _ => return Vec::new(),
    };
    let denies = |other: &Rule| {
        let event = other.when.event().filter(|_| !other.effect.is_observe());
        // A stop rule on denials denies nothing by itself.
        event.is_some_and(|event| event.kind == wanted.kind && !only_denied(event))
    };
    match section || rules.iter().any(denies) {
        true => Vec::new(),
        false => vec![format!("nothing in this policy denies `{}`: add {name}", wanted.kind.name())],
    }
}

fn is_of_gpu(when: &Condition) -> bool {
    match when {
        Condition::Threshold { kind, .. } | Condition::NotFinite { kind } => kind.to_string().starts_with("gpu."),
        Condition::Event(wanted) => {
            matches!(wanted.kind, EventKind::Xid | EventKind::GpuEvent | EventKind::ForeignGpuProcess)
        }
        Condition::Tree(tree) => tree.is_of_gpus(),
    }
}

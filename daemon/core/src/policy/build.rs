//! From TOML to meaning: units, names, ranges and contradictions are checked here, all of them, before one is reported.

mod derived;
mod egress;
mod guard;
mod metric;
mod when;

use super::{
    Condition, Effect, EventMatch, Pattern, Policy, Rule,
    diagnostic::{Diagnostic, nearest},
    groups,
    raw::{RawPolicy, RawRule},
};
use crate::{
    decision::Action,
    event::{EventKind, Field},
    time::Span,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};
use toml::Spanned;

/// An event rule trips again only after this unless the rule says otherwise.
const COOLDOWN: Span = Span::from_secs(10);
/// The window of a rate unless the rule says otherwise.
const RATE_WINDOW: Span = Span::from_secs(5);

pub(super) fn build(text: &str, raw: RawPolicy) -> Result<Policy, Vec<Diagnostic>> {
    let mut b = Builder { text, wrong: Vec::new() };
    let name = b.name(&raw.policy.name, "policy name");
    let mut watch: BTreeSet<String> = BTreeSet::new();
    for call in raw.syscalls.iter().flat_map(|s| &s.watch) {
        watch.extend(b.syscalls(call.get_ref(), call.span()).iter().map(|call| (*call).to_owned()));
    }
    let egress = raw.egress.map(|egress| b.egress(&egress));
    let exec = raw.exec.map(|exec| b.exec_list(&exec));
    let limits = raw.limits.map(|limits| b.limits(&limits));
    let derived = b.derived(&raw.derived);
    let metrics = b.metrics(&raw.metrics);
    let dead_after = b.dead_after(&raw.policy);
    let owner = raw.policy.owner;
    let mut rules: Vec<Rule> = Vec::new();
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for rule in raw.rule {
        let span = rule.id.span();
        if let Some(built) = b.rule(rule, &owner) {
            if let Condition::Event(EventMatch { kind: EventKind::Syscall, fields }) = &built.when {
                for pattern in fields.iter().filter(|m| m.field == Field::Name).flat_map(|m| &m.any_of) {
                    if let Pattern::Exact(call) = pattern {
                        watch.insert(call.clone());
                    }
                }
            }
            b.budget_stop(&built, egress.as_ref(), span.clone());
            if let Some(line) = first.get(&built.id) {
                b.error(span, format!("rule id `{}` is already taken on line {line}", built.id), None);
            } else {
                first.insert(built.id.clone(), Diagnostic::at(text, span, "", None).line);
                rules.push(built);
            }
        }
    }
    if !b.wrong.is_empty() {
        b.wrong.sort_by_key(|d| (d.line, d.column));
        return Err(b.wrong);
    }
    Ok(Policy {
        name,
        version: raw.policy.version,
        owner,
        description: raw.policy.description,
        on_blind: raw.policy.on_blind,
        on_escape: raw.policy.on_escape,
        on_dead_daemon: raw.policy.on_dead_daemon.unwrap_or_default(),
        dead_after,
        egress,
        exec,
        limits,
        watch,
        derived,
        metrics,
        rules,
    })
}

struct Builder<'a> {
    text: &'a str,
    wrong: Vec<Diagnostic>,
}

impl Builder<'_> {
    fn error(&mut self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.wrong.push(Diagnostic::at(self.text, span, message, help));
    }

    fn name(&mut self, name: &Spanned<String>, what: &str) -> String {
        let text = name.get_ref();
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !good {
            self.error(
                name.span(),
                format!("{what} `{text}`: expected 1 to 64 of letters, digits, `-`, `_`, `.`"),
                None,
            );
        }
        text.clone()
    }

    /// The calls that a name or a group stands for; none when it is unknown.
    fn syscalls(&mut self, name: &str, span: Range<usize>) -> &'static [&'static str] {
        if let Some(calls) = groups::expand(name) {
            return calls;
        }
        let help = nearest(name, groups::names()).map(|near| format!("did you mean `{near}`?"));
        let expected = groups::names().collect::<Vec<_>>().join(", ");
        self.error(span, format!("system call `{name}` cannot be watched, expected one of {expected}"), help);
        &[]
    }

    fn duration(&mut self, field: &str, text: &Spanned<String>) -> Option<Span> {
        let t = text.get_ref().trim();
        let span = Span::parse(t);
        if span.is_none() {
            self.error(
                text.span(),
                format!("{field}: `{t}` is not a duration, expected e.g. \"500 ms\", \"3s\", \"2m\""),
                None,
            );
        }
        span
    }

    fn rule(&mut self, raw: RawRule, policy_owner: &str) -> Option<Rule> {
        let id = self.name(&raw.id, "rule id");
        if raw.rationale.get_ref().trim().is_empty() {
            self.error(
                raw.rationale.span(),
                format!("rule `{id}`: rationale is empty, expected why this bound exists"),
                None,
            );
        }
        let actions = self.actions(&id, &raw.actions);
        let is_event = raw.when.get_ref().event.is_some();
        let cooldown = raw.cooldown.as_ref().and_then(|text| {
            if !is_event {
                self.error(text.span(), "cooldown is for event rules; a signal rule re-arms when it clears", None);
            }
            self.duration("cooldown", text)
        });
        let when = self.condition(&id, &raw.when);
        let metric = self.metric_rule(&id, raw.when.get_ref(), when.as_ref());
        let effect = raw.effect.as_ref().map_or(Effect::Observe, |effect| *effect.get_ref());
        self.effect(&id, &raw, when.as_ref());
        let mut actions = actions?;
        if effect == Effect::Stop && !actions.contains(&Action::Freeze) {
            actions = Action::IN_POLICY.into_iter().filter(|a| *a == Action::Freeze || actions.contains(a)).collect();
        }
        Some(Rule {
            id,
            rationale: raw.rationale.into_inner(),
            owner: raw.owner.unwrap_or_else(|| policy_owner.to_owned()),
            severity: raw.severity,
            confidence: raw.confidence,
            labels: raw.labels,
            playbook: raw.playbook,
            mode: raw.mode,
            effect,
            when: when?,
            actions,
            cooldown: cooldown.unwrap_or(COOLDOWN),
            metric,
        })
    }

    /// The actions in the order in which they are carried out, whatever the order they are written in.
    fn actions(&mut self, rule: &str, raw: &Spanned<Vec<Spanned<Action>>>) -> Option<Vec<Action>> {
        if raw.get_ref().is_empty() {
            self.error(
                raw.span(),
                format!("rule `{rule}`: no actions, expected at least one of notify, snapshot, block, freeze, kill"),
                None,
            );
            return None;
        }
        let mut given: Vec<Action> = Vec::new();
        for action in raw.get_ref() {
            let name = action.get_ref();
            if !Action::IN_POLICY.contains(name) {
                self.error(action.span(), format!("rule `{rule}`: `{name}` is for operators, not for policies"), None);
            } else if given.contains(name) {
                self.error(action.span(), format!("rule `{rule}`: action `{name}` is given twice"), None);
            }
            given.push(*name);
        }
        Some(Action::IN_POLICY.into_iter().filter(|action| given.contains(action)).collect())
    }
}

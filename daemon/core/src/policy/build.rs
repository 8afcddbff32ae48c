//! From TOML to meaning: units, names, ranges and contradictions are checked here, all of them, before one is reported.

mod when;

use super::{
    Condition, Egress, EgressAllow, EventMatch, Pattern, Policy, Rule, WATCHABLE,
    diagnostic::{Diagnostic, nearest},
    raw::{Literal, RawAllow, RawPolicy, RawRule},
};
use crate::{
    decision::Action,
    event::{EventKind, Field},
    time::Span,
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
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
        watch.extend(b.syscall(call.get_ref(), call.span()));
    }
    let egress = raw.egress.map(|egress| {
        let allow = egress.allow.iter().filter_map(|entry| b.allow(entry)).collect();
        Egress { mode: egress.mode, allow }
    });
    let owner = raw.policy.owner;
    let mut rules: Vec<Rule> = Vec::new();
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for rule in raw.rule {
        let span = rule.id.span();
        if let Some(built) = b.rule(rule, &owner) {
            if let Condition::Event(EventMatch { kind: EventKind::Syscall, fields }) = &built.when {
                for pattern in fields.iter().filter(|m| m.field == Field::Name).flat_map(|m| &m.any_of) {
                    if let Pattern::Exact(call) = pattern {
                        watch.extend(b.syscall(call, span.clone()));
                    }
                }
            }
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
        egress,
        watch,
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

    fn syscall(&mut self, name: &str, span: Range<usize>) -> Option<String> {
        if WATCHABLE.contains(&name) {
            return Some(name.to_owned());
        }
        let help = nearest(name, WATCHABLE).map(|near| format!("did you mean `{near}`?"));
        self.error(
            span,
            format!("system call `{name}` cannot be watched, expected one of {}", WATCHABLE.join(", ")),
            help,
        );
        None
    }

    fn allow(&mut self, raw: &RawAllow) -> Option<EgressAllow> {
        let cidr = self.net(raw.cidr.get_ref(), raw.cidr.span());
        let mut ports = Vec::new();
        if let Some(list) = &raw.ports {
            for literal in list.get_ref().as_slice() {
                ports.extend(self.ports(literal, list.span()));
            }
        }
        Some(EgressAllow { cidr: cidr?.trunc(), ports, protocol: raw.protocol })
    }

    fn net(&mut self, text: &str, span: Range<usize>) -> Option<IpNet> {
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        if net.is_none() {
            self.error(span, format!("`{text}` is not a network, expected CIDR such as 10.0.0.0/8 or fd00::/8"), None);
        }
        net
    }

    fn ports(&mut self, literal: &Literal, span: Range<usize>) -> Option<(u16, u16)> {
        let range = match literal {
            Literal::Integer(n) => u16::try_from(*n).ok().map(|p| (p, p)),
            Literal::Text(text) => {
                let (low, high) = text.split_once('-').unwrap_or((text, text));
                low.trim().parse().ok().zip(high.trim().parse().ok())
            }
            Literal::Float(_) => None,
        };
        let range = range.filter(|(low, high)| low <= high && *high > 0);
        if range.is_none() {
            self.error(span, "ports: expected a port or a range such as 443 or \"8000-8999\"", None);
        }
        range
    }

    fn duration(&mut self, field: &str, text: &Spanned<String>) -> Option<Span> {
        let t = text.get_ref().trim();
        let split = t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
        let factor = match t[split..].trim() {
            "ms" => Some(1_000_000u64),
            "s" => Some(1_000_000_000),
            "m" | "min" => Some(60_000_000_000),
            "h" => Some(3_600_000_000_000),
            _ => None,
        };
        let span = t[..split].parse::<u64>().ok().zip(factor).and_then(|(n, f)| n.checked_mul(f)).map(Span);
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
        Some(Rule {
            id,
            rationale: raw.rationale.into_inner(),
            owner: raw.owner.unwrap_or_else(|| policy_owner.to_owned()),
            severity: raw.severity,
            confidence: raw.confidence,
            labels: raw.labels,
            playbook: raw.playbook,
            mode: raw.mode,
            when: when?,
            actions: actions?,
            cooldown: cooldown.unwrap_or(COOLDOWN),
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

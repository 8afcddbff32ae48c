//! From TOML to meaning: units, names, ranges and contradictions are checked here, all of them, before one is reported.

use super::{
    Bound, Condition, Egress, EgressAllow, EventMatch, FieldMatch, Op, Pattern, Policy, Rule, WATCHABLE,
    diagnostic::{Diagnostic, nearest},
    raw::{Literal, OneOrMany, RawAllow, RawPolicy, RawRule, RawWhen},
};
use crate::{
    decision::Action,
    event::{EventKind, Field},
    signal::{Kind, Real, Shape, Value},
    time::Span,
    unit::{self, Unit},
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

    fn condition(&mut self, rule: &str, raw: &Spanned<RawWhen>) -> Option<Condition> {
        let span = raw.span();
        let when = raw.get_ref();
        match (&when.signal, &when.event) {
            (Some(signal), None) => self.signal_condition(rule, when, signal, span),
            (None, Some(event)) => self.event_condition(rule, when, event),
            _ => {
                self.error(
                    span,
                    format!("rule `{rule}`: expected exactly one of `signal` and `event` in `when`"),
                    None,
                );
                None
            }
        }
    }

    fn signal_condition(
        &mut self,
        rule: &str,
        when: &RawWhen,
        signal: &Spanned<String>,
        span: Range<usize>,
    ) -> Option<Condition> {
        for (name, field) in event_fields(when) {
            self.error(field.span(), format!("rule `{rule}`: `{name}` is a field of events, not of signals"), None);
        }
        let Some(kind) = Kind::parse(signal.get_ref()) else {
            let names: Vec<String> = Kind::ALL.iter().map(Kind::to_string).collect();
            let help = nearest(signal.get_ref(), names.iter().map(String::as_str))
                .map(|near| format!("did you mean `{near}`?"));
            self.error(
                signal.span(),
                format!("unknown signal `{}`, expected one of {} or metric.NAME", signal.get_ref(), names.join(", ")),
                help,
            );
            return None;
        };
        if let Some(is) = &when.is {
            return self.not_finite(when, is, kind);
        }
        let (op, literal) = match (&when.above, &when.below) {
            (Some(above), None) => (Op::Above, above),
            (None, Some(below)) => (Op::Below, below),
            (Some(above), Some(below)) => {
                let contradictory = self.bound(&kind, above).zip(self.bound(&kind, below));
                let nothing = contradictory.is_some_and(|((above, _), (below, _))| !less(above, below));
                let message = if nothing {
                    format!("rule `{rule}`: contradictory bounds: no value is both above and below these")
                } else {
                    format!("rule `{rule}`: one bound a rule, expected `above` or `below`; write two rules for a band")
                };
                self.error(below.span(), message, None);
                return None;
            }
            (None, None) => {
                self.error(span, format!("rule `{rule}`: expected `above`, `below` or `is` beside `signal`"), None);
                return None;
            }
        };
        let (bound, rate) = self.bound(&kind, literal)?;
        if rate && kind.shape() != Shape::Counter {
            self.error(literal.span(), format!("{kind} is a level, so it has no rate: leave `/s` out"), None);
            return None;
        }
        let over = match &when.over {
            Some(text) if !rate => {
                self.error(text.span(), "`over` is the window of a rate, but the bound has no `/s`", None);
                return None;
            }
            Some(text) => Some(self.duration("over", text).filter(|s| s.0 > 0)?),
            None => rate.then_some(RATE_WINDOW),
        };
        let hold = match &when.hold {
            Some(text) => self.duration("for", text)?,
            None => Span(0),
        };
        let clear = match &when.clear {
            None => bound,
            Some(literal) => {
                let (clear, clear_rate) = self.bound(&kind, literal)?;
                let wrong_side = match op {
                    Op::Above => less(bound, clear),
                    Op::Below => less(clear, bound),
                };
                if wrong_side || clear_rate != rate {
                    let side = if op == Op::Above { "at or below" } else { "at or above" };
                    self.error(
                        literal.span(),
                        format!(
                            "rule `{rule}`: contradictory bounds: expected `clear` {side} the bound, in the same unit"
                        ),
                        None,
                    );
                    return None;
                }
                clear
            }
        };
        Some(Condition::Threshold { kind, op, bound, clear, hold, over })
    }

    fn not_finite(&mut self, when: &RawWhen, is: &Spanned<String>, kind: Kind) -> Option<Condition> {
        if is.get_ref() != "not-finite" {
            self.error(
                is.span(),
                format!("`is = \"{}\"`: expected \"not-finite\" (NaN or infinite)", is.get_ref()),
                None,
            );
            return None;
        }
        if kind.unit() != Unit::Real {
            self.error(
                is.span(),
                format!("{kind} is an integer, so it is always finite; `is` is for metric.NAME"),
                None,
            );
            return None;
        }
        let others =
            [("above", when.above.as_ref().map(Spanned::span)), ("below", when.below.as_ref().map(Spanned::span))];
        let texts = [("for", when.hold.as_ref().map(Spanned::span)), ("over", when.over.as_ref().map(Spanned::span))];
        for (name, span) in others.into_iter().chain(texts) {
            if let Some(span) = span {
                self.error(span, format!("`{name}` cannot stand beside `is`"), None);
            }
        }
        Some(Condition::NotFinite { kind })
    }

    fn bound(&mut self, kind: &Kind, literal: &Spanned<Literal>) -> Option<(Bound, bool)> {
        let unit = kind.unit();
        let expected = unit.example();
        match literal.get_ref() {
            Literal::Float(real) if unit == Unit::Real && real.is_finite() => {
                return Some((Bound::Real(Real(*real)), false));
            }
            Literal::Integer(n) if unit == Unit::Real => return Some((Bound::Real(Real(*n as f64)), false)),
            Literal::Integer(n) if matches!(unit, Unit::Count | Unit::Bits) => {
                return Some((Bound::Integer(*n), false));
            }
            Literal::Text(text) if unit != Unit::Real => match unit::parse(text, unit) {
                Ok((value, rate)) => return Some((Bound::Integer(value), rate)),
                Err(why) => {
                    self.error(literal.span(), format!("`{text}` {why}; {kind} expects e.g. {expected}"), None);
                    return None;
                }
            },
            _ => {}
        }
        let what = if unit == Unit::Real {
            "expected a finite number without a unit"
        } else {
            "the bound has no unit or the wrong type"
        };
        self.error(literal.span(), format!("{what}; {kind} expects e.g. {expected}"), None);
        None
    }

    fn event_condition(&mut self, rule: &str, when: &RawWhen, event: &Spanned<String>) -> Option<Condition> {
        let Some(kind) = EventKind::ALL.into_iter().find(|kind| kind.name() == event.get_ref()) else {
            let names = EventKind::ALL.map(EventKind::name);
            let help = nearest(event.get_ref(), names).map(|near| format!("did you mean `{near}`?"));
            self.error(
                event.span(),
                format!("unknown event `{}`, expected one of {}", event.get_ref(), names.join(", ")),
                help,
            );
            return None;
        };
        let literals = [("above", &when.above), ("below", &when.below), ("clear", &when.clear)];
        for (name, literal) in literals {
            if let Some(literal) = literal {
                self.error(literal.span(), format!("rule `{rule}`: `{name}` is for signals, not for events"), None);
            }
        }
        for (name, text) in [("for", &when.hold), ("over", &when.over), ("is", &when.is)] {
            if let Some(text) = text {
                self.error(text.span(), format!("rule `{rule}`: `{name}` is for signals, not for events"), None);
            }
        }
        let mut fields = Vec::new();
        for (name, raw) in event_fields(when) {
            match kind.fields().iter().find(|field| field.name() == name) {
                Some(field) => {
                    let patterns =
                        raw.get_ref().as_slice().iter().map(|literal| self.pattern(*field, literal, raw.span()));
                    let any_of: Option<Vec<Pattern>> = patterns.collect();
                    fields.push(FieldMatch { field: *field, any_of: any_of.filter(|list| !list.is_empty())? });
                }
                None => {
                    let has: Vec<&str> = kind.fields().iter().map(|f| f.name()).collect();
                    let message =
                        format!("event `{}` has no field `{name}`, expected one of {}", kind.name(), has.join(", "));
                    self.error(raw.span(), message, None);
                }
            }
        }
        if kind == EventKind::Syscall && !fields.iter().any(|m| m.field == Field::Name) {
            self.error(event.span(), format!("rule `{rule}`: expected `name` with the system calls to watch"), None);
            return None;
        }
        Some(Condition::Event(EventMatch { kind, fields }))
    }

    fn pattern(&mut self, field: Field, literal: &Literal, span: Range<usize>) -> Option<Pattern> {
        match (field, literal) {
            (Field::Uid | Field::Port | Field::Code | Field::Status | Field::Protocol, Literal::Integer(n)) => {
                Some(Pattern::Number(*n))
            }
            (Field::Protocol, Literal::Text(name)) if name == "tcp" => Some(Pattern::Number(6)),
            (Field::Protocol, Literal::Text(name)) if name == "udp" => Some(Pattern::Number(17)),
            (Field::Address, Literal::Text(text)) => self.net(text, span).map(Pattern::Net),
            (Field::Verdict, Literal::Text(text)) if matches!(text.as_str(), "allowed" | "denied" | "would-deny") => {
                Some(Pattern::Exact(text.clone()))
            }
            (Field::Name, Literal::Text(text)) => self.syscall(text, span).map(Pattern::Exact),
            (Field::Path | Field::Argv | Field::Comm, Literal::Text(text)) => Some(text_pattern(text)),
            _ => {
                let expected = match field {
                    Field::Verdict => "allowed, denied or would-deny",
                    Field::Protocol => "tcp, udp or a number",
                    Field::Address => "a network such as 10.0.0.0/8",
                    Field::Uid | Field::Port | Field::Code | Field::Status => "a number",
                    _ => "a text, with * at its start or end for any text",
                };
                self.error(span, format!("`{}`: expected {expected}", field.name()), None);
                None
            }
        }
    }
}

fn text_pattern(text: &str) -> Pattern {
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(_), Some(_)) if text.len() >= 2 => Pattern::Holds(text[1..text.len() - 1].to_owned()),
        (Some(rest), _) => Pattern::Suffix(rest.to_owned()),
        (_, Some(rest)) => Pattern::Prefix(rest.to_owned()),
        _ => Pattern::Exact(text.to_owned()),
    }
}

fn less(a: Bound, b: Bound) -> bool {
    match b {
        Bound::Integer(value) => a.passed(Op::Above, &Value::Integer(value)),
        Bound::Real(value) => a.passed(Op::Above, &Value::Real(value)),
    }
}

fn event_fields(when: &RawWhen) -> impl Iterator<Item = (&'static str, &Spanned<OneOrMany>)> {
    [
        ("path", &when.path),
        ("argv", &when.argv),
        ("comm", &when.comm),
        ("uid", &when.uid),
        ("address", &when.address),
        ("port", &when.port),
        ("protocol", &when.protocol),
        ("verdict", &when.verdict),
        ("name", &when.name),
        ("code", &when.code),
        ("status", &when.status),
    ]
    .into_iter()
    .filter_map(|(name, field)| field.as_ref().map(|f| (name, f)))
}

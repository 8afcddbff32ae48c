//! A rule's `when`: a signal against a bound, or an event with its fields.

use super::{Builder, RATE_WINDOW, tree::is_tree};
use crate::{
    event::{self, EventKind, Field},
    policy::{
        Bound, Condition, EventMatch, FieldMatch, Op, Pattern,
        diagnostic::{nearest, quote},
        raw::{Literal, RawWhen},
    },
    signal::{Kind, Real, Shape, Value},
    time::Span,
    unit::{self, Unit},
};
use std::{collections::BTreeSet, ops::Range};
use toml::Spanned;

impl Builder<'_> {
    pub(super) fn condition(&mut self, when: &RawWhen) -> Option<Condition> {
        if is_tree(when) {
            return self.tree(when);
        }
        if let Some(within) = &when.within {
            let message =
                "`within` is for an event in `all`, `any`, `not` or `of`; an event alone trips when it happens";
            self.error(within.span(), message, None);
        }
        self.confidence_beside(when);
        self.single(when)
    }

    /// A test of one signal or one event.
    pub(super) fn single(&mut self, when: &RawWhen) -> Option<Condition> {
        match (&when.signal, &when.event) {
            (Some(signal), None) => self.signal_condition(when, signal),
            (None, Some(event)) => self.event_condition(when, event),
            (Some(_), Some(event)) => {
                self.error(event.span(), "expected exactly one of `signal` and `event`, found both", None);
                None
            }
            (None, None) => {
                if !when.unreadable {
                    let message = "expected `signal`, `event`, `all`, `any`, `not` or `at_least`: what trips the rule";
                    self.error(when.span.clone(), message, None);
                }
                None
            }
        }
    }

    fn signal_condition(&mut self, when: &RawWhen, signal: &Spanned<String>) -> Option<Condition> {
        for (name, field) in &when.fields {
            self.error(field.span(), format!("`{name}` is a field of events, not of signals"), None);
        }
        let (kind, known) = self.signal(signal);
        // Durations are checked even where nothing is known of the signal.
        let hold = when.hold.as_ref().map(|text| self.duration(text));
        // With the signal that was probably meant, so that mistakes in the rest are found too.
        let condition = self.judged(when, kind?, hold.unwrap_or(Some(Span(0))));
        condition.filter(|_| known)
    }

    fn judged(&mut self, when: &RawWhen, kind: Kind, hold: Option<Span>) -> Option<Condition> {
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
                    "contradictory bounds: no value is both above and below these"
                } else {
                    "one bound a rule, expected `above` or `below`; write two rules for a band"
                };
                self.error(below.span(), message, None);
                return None;
            }
            (None, None) => {
                if !when.unreadable {
                    self.error(
                        when.span.clone(),
                        "expected `above`, `below`, `is`, `detect` or `absent` beside `signal`",
                        None,
                    );
                }
                if let Some(clear) = &when.clear {
                    self.bound(&kind, clear);
                }
                return None;
            }
        };
        let bound = self.bound(&kind, literal);
        let clear = when.clear.as_ref().map(|literal| (literal, self.bound(&kind, literal)));
        let over =
            when.over.as_ref().filter(|_| !matches!(kind, Kind::Metric(_))).map(|text| (text, self.window(text)));
        let (bound, rate) = bound?;
        if rate && kind.shape() == Shape::Gauge {
            self.error(literal.span(), format!("{kind} is a level, so it has no rate: leave `/s` out"), None);
            return None;
        }
        let over = match over {
            Some((text, _)) if !rate => {
                self.error(text.span(), "`over` is the window of a rate, but the bound has no `/s`", None);
                return None;
            }
            Some((_, window)) => Some(window?),
            None => rate.then_some(RATE_WINDOW),
        };
        let clear = match clear {
            None => bound,
            Some((literal, clear)) => {
                let (clear, clear_rate) = clear?;
                let wrong_side = match op {
                    Op::Above => less(bound, clear),
                    Op::Below => less(clear, bound),
                };
                if wrong_side || clear_rate != rate {
                    let side = if op == Op::Above { "at or below" } else { "at or above" };
                    let message = format!("contradictory bounds: expected `clear` {side} the bound, in the same unit");
                    self.error(literal.span(), message, None);
                    return None;
                }
                clear
            }
        };
        Some(Condition::Threshold { kind, op, bound, clear, hold: hold?, over })
    }

    fn window(&mut self, text: &Spanned<String>) -> Option<Span> {
        let window = self.duration(text)?;
        if window == Span(0) {
            self.error(text.span(), format!("{}, expected a window above 0", quote(text.get_ref())), None);
            return None;
        }
        Some(window)
    }

    /// The signal, or the one that was probably meant, and whether it is certain.
    pub(super) fn signal(&mut self, signal: &Spanned<String>) -> (Option<Kind>, bool) {
        let text = signal.get_ref();
        if let Some(kind) = Kind::parse(text) {
            return (Some(kind), true);
        }
        let names: Vec<String> = Kind::ALL.iter().map(Kind::to_string).collect();
        let metric = text
            .split_once('.')
            .filter(|(family, _)| !self.wrong.full() && nearest(family, ["metric"]).is_some())
            .map(|(_, name)| format!("metric.{name}"));
        let meant = match metric {
            Some(metric) => Some(metric).filter(|metric| Kind::parse(metric).is_some()),
            None if self.wrong.full() => None,
            None => nearest(text, names.iter().map(String::as_str)).map(str::to_owned),
        };
        let help = match &meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if text.starts_with("metric.") => {
                "the name of a metric has 1 to 64 characters of letters, digits, `_`, `-`, `.`, `/`".to_owned()
            }
            None => {
                let families: BTreeSet<&str> = names.iter().filter_map(|name| Some(name.split_once('.')?.0)).collect();
                let families: Vec<String> = families.into_iter().map(|family| format!("{family}.*")).collect();
                format!("signals are {} and metric.NAME; docs/policy-index.md lists them", families.join(", "))
            }
        };
        self.error(signal.span(), format!("unknown signal {}", quote(text)), Some(help));
        (meant.and_then(|meant| Kind::parse(&meant)), false)
    }

    fn not_finite(&mut self, when: &RawWhen, is: &Spanned<String>, kind: Kind) -> Option<Condition> {
        if is.get_ref() != "not-finite" {
            self.error(is.span(), format!("{}, expected \"not-finite\" (NaN or infinite)", quote(is.get_ref())), None);
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
        let texts = [("for", when.hold.as_ref().map(Spanned::span))];
        for (name, span) in others.into_iter().chain(texts) {
            if let Some(span) = span {
                self.error(span, format!("`{name}` cannot stand beside `is`"), None);
            }
        }
        Some(Condition::NotFinite { kind })
    }

    pub(super) fn bound(&mut self, kind: &Kind, literal: &Spanned<Literal>) -> Option<(Bound, bool)> {
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
                    self.error(
                        literal.span(),
                        format!("{} {why}; {kind} expects for example {expected}", quote(text)),
                        None,
                    );
                    return None;
                }
            },
            _ => {}
        }
        let what = if unit == Unit::Real {
            "expected a finite number without a unit"
        } else {
            "the bound needs its unit, in quotes"
        };
        self.error(literal.span(), format!("{what}; {kind} expects for example {expected}"), None);
        None
    }

    fn event_condition(&mut self, when: &RawWhen, event: &Spanned<String>) -> Option<Condition> {
        let name = event.get_ref().as_str();
        let (mut kind, mut good) = (EventKind::named(name), true);
        if kind.is_none() {
            let names: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
            let help = self.suggest(name, names.iter().copied());
            // With the event that was probably meant, so that mistakes in its fields are found too.
            (kind, good) = (nearest(name, names.iter().copied()).and_then(EventKind::named), false);
            let message = format!("unknown event {}, expected one of {}", quote(name), names.join(", "));
            self.error(event.span(), message, help);
        }
        let literals = [("above", &when.above), ("below", &when.below), ("clear", &when.clear)];
        let literals = literals.map(|(name, field)| (name, field.as_ref().map(Spanned::span)));
        let texts = [
            ("for", &when.hold),
            ("over", &when.over),
            ("is", &when.is),
            ("grace", &when.grace),
            ("stale", &when.stale),
            ("absent", &when.absent),
        ];
        let texts = texts.map(|(name, field)| (name, field.as_ref().map(Spanned::span)));
        for (name, span) in literals.into_iter().chain(texts) {
            if let Some(span) = span {
                self.error(span, format!("`{name}` is for signals, not for events"), None);
            }
        }
        let kind = kind?;
        let mut fields = Vec::new();
        for (name, raw) in &when.fields {
            match kind.fields().iter().find(|field| field.name() == *name) {
                Some(field) => {
                    let literals = &raw.get_ref().0;
                    let patterns: Vec<Option<Vec<Pattern>>> = literals
                        .iter()
                        .map(|literal| self.patterns(kind, *field, literal.get_ref(), literal.span()))
                        .collect();
                    good &= patterns.iter().all(Option::is_some);
                    if literals.is_empty() {
                        self.error(raw.span(), "the list is empty, so nothing matches", None);
                    }
                    let any_of = patterns.into_iter().flatten().flatten().collect();
                    fields.push(FieldMatch { field: *field, any_of });
                }
                None => {
                    let has: Vec<&str> = kind.fields().iter().map(|f| f.name()).collect();
                    let expected = if has.is_empty() {
                        "it has no fields".to_owned()
                    } else {
                        format!("expected one of {}", has.join(", "))
                    };
                    self.error(raw.span(), format!("event `{}` has no field `{name}`, {expected}", kind.name()), None);
                }
            }
        }
        if kind == EventKind::Syscall && !when.fields.iter().any(|(name, _)| *name == "name") {
            if !when.unreadable {
                self.error(event.span(), "expected `name` with the system calls to watch", None);
            }
            return None;
        }
        good.then_some(Condition::Event(EventMatch { kind, fields }))
    }

    /// The patterns that one literal stands for: several when it names a group of system calls.
    fn patterns(
        &mut self,
        kind: EventKind,
        field: Field,
        literal: &Literal,
        span: Range<usize>,
    ) -> Option<Vec<Pattern>> {
        if let (EventKind::Syscall, Field::Name, Literal::Text(text)) = (kind, field, literal) {
            let calls = self.syscalls(text, span);
            return (!calls.is_empty()).then(|| calls.iter().map(|call| Pattern::Exact((*call).to_owned())).collect());
        }
        self.pattern(kind, field, literal, span).map(|pattern| vec![pattern])
    }

    fn pattern(&mut self, kind: EventKind, field: Field, literal: &Literal, span: Range<usize>) -> Option<Pattern> {
        let names = kind.closed_names(field);
        match (field, literal) {
            (
                Field::Uid | Field::Port | Field::Code | Field::Status | Field::Protocol | Field::Family,
                Literal::Integer(n),
            ) => Some(Pattern::Number(*n)),
            (Field::Protocol, Literal::Text(name)) if name == "tcp" => Some(Pattern::Number(6)),
            (Field::Protocol, Literal::Text(name)) if name == "udp" => Some(Pattern::Number(17)),
            (Field::Family, Literal::Text(name)) if event::family(name).is_some() => {
                event::family(name).map(|number| Pattern::Number(i64::from(number)))
            }
            (Field::Address, Literal::Text(text)) => self.net(text, span).map(Pattern::Net),
            (_, Literal::Text(text)) if names.contains(&text.as_str()) => Some(Pattern::Exact(text.clone())),
            (
                Field::Path | Field::Argv | Field::Comm | Field::Name | Field::What | Field::Budget,
                Literal::Text(text),
            ) if names.is_empty() => Some(text_pattern(text)),
            _ => {
                let expected = match field {
                    _ if !names.is_empty() => format!("one of {}", names.join(", ")),
                    Field::Protocol => "tcp, udp or a number".to_owned(),
                    Field::Family => {
                        format!("{} or a number", event::family_names().collect::<Vec<_>>().join(", "))
                    }
                    Field::Address => "a network such as 10.0.0.0/8".to_owned(),
                    Field::Uid | Field::Port | Field::Code | Field::Status => "a number".to_owned(),
                    _ => "a text, with * at its start or end for any text".to_owned(),
                };
                let (written, help) = match literal {
                    Literal::Text(text) => (quote(text), self.suggest(text, named(field, names))),
                    Literal::Integer(n) => (format!("`{n}`"), None),
                    Literal::Float(n) => (format!("`{n}`"), None),
                };
                self.error(span, format!("{written}, expected {expected}"), help);
                None
            }
        }
    }
}

/// The names that may be suggested for a field: of protocols and families numbers can be written too.
fn named(field: Field, names: &[&'static str]) -> Vec<&'static str> {
    match field {
        Field::Protocol => vec!["tcp", "udp"],
        Field::Family => event::family_names().collect(),
        _ => names.to_vec(),
    }
}

pub(super) fn text_pattern(text: &str) -> Pattern {
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

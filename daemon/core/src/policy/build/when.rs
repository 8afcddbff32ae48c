//! A rule's `when`: a signal against a bound, or an event with its fields.

use super::{Builder, RATE_WINDOW};
use crate::{
    event::{self, EventKind, Field},
    policy::{
        Bound, Condition, EventMatch, FieldMatch, Op, Pattern,
        diagnostic::nearest,
        raw::{Literal, OneOrMany, RawWhen},
    },
    signal::{Kind, Real, Shape, Value},
    time::Span,
    unit::{self, Unit},
};
use std::ops::Range;
use toml::Spanned;

impl Builder<'_> {
    pub(super) fn condition(&mut self, rule: &str, raw: &Spanned<RawWhen>) -> Option<Condition> {
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
        if rate && kind.shape() == Shape::Gauge {
            self.error(literal.span(), format!("{kind} is a level, so it has no rate: leave `/s` out"), None);
            return None;
        }
        let over = match &when.over {
            // Over which series, see `metric_rule`.
            Some(_) if matches!(kind, Kind::Metric(_)) => None,
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
        let texts = [("for", when.hold.as_ref().map(Spanned::span))];
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
        let Some(kind) = EventKind::ALL.iter().copied().find(|kind| kind.name() == event.get_ref()) else {
            let names: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
            let help = nearest(event.get_ref(), names.iter().copied()).map(|near| format!("did you mean `{near}`?"));
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
                        raw.get_ref().as_slice().iter().map(|literal| self.patterns(kind, *field, literal, raw.span()));
                    let any_of: Option<Vec<Vec<Pattern>>> = patterns.collect();
                    let any_of = any_of?.concat();
                    if any_of.is_empty() {
                        self.error(raw.span(), format!("`{name}`: the list is empty, so nothing matches"), None);
                    }
                    fields.push(FieldMatch { field: *field, any_of });
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
        let names = names(kind, field);
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
                self.error(span, format!("`{}`: expected {expected}", field.name()), None);
                None
            }
        }
    }
}

/// The names that a field of a closed set may have.
fn names(kind: EventKind, field: Field) -> &'static [&'static str] {
    match (field, kind) {
        (Field::Verdict, _) => event::Verdict::NAMES,
        (Field::Assurance, _) => event::Assurance::NAMES,
        (Field::Kind, EventKind::ExecMemory) => event::MemoryKind::NAMES,
        (Field::Kind, _) => event::ExecKind::NAMES,
        (Field::Access, _) => event::Access::NAMES,
        (Field::Gain, _) => event::Gain::NAMES,
        (Field::What, EventKind::GpuEvent) => event::GpuEvent::NAMES,
        _ => &[],
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

pub(super) fn event_fields(when: &RawWhen) -> impl Iterator<Item = (&'static str, &Spanned<OneOrMany>)> {
    [
        ("path", &when.path),
        ("argv", &when.argv),
        ("comm", &when.comm),
        ("uid", &when.uid),
        ("address", &when.address),
        ("port", &when.port),
        ("protocol", &when.protocol),
        ("family", &when.family),
        ("verdict", &when.verdict),
        ("assurance", &when.assurance),
        ("name", &when.name),
        ("kind", &when.kind),
        ("access", &when.access),
        ("gain", &when.gain),
        ("what", &when.what),
        ("budget", &when.budget),
        ("code", &when.code),
        ("status", &when.status),
    ]
    .into_iter()
    .filter_map(|(name, field)| field.as_ref().map(|f| (name, f)))
}

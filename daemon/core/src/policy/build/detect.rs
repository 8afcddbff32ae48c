//! `detect`: a method with its parameters, over the values of one signal.

use super::Builder;
use crate::{
    detect::{Detect, Given, Param, Range},
    policy::{
        Bound, Condition, Over, Test,
        diagnostic::quote,
        raw::{Literal, RawWhen},
    },
    signal::{Kind, Real, Shape},
    time::Span,
};
use std::collections::BTreeMap;
use toml::Spanned;

/// The memory that the detectors of a condition need for each series, and its counts of events, in bytes.
pub(in crate::policy) fn bytes(when: &Condition) -> usize {
    let Condition::Tree(tree) = when else { return 0 };
    let of = |test: &Test| match test {
        Test::Detect { detect, .. } => detect.bytes(),
        Test::Count { count, .. } => *count as usize * BYTES_OF_EVENT,
        Test::Compare { than, .. } => than.bytes(),
        Test::Threshold { .. }
        | Test::NotFinite { .. }
        | Test::Absent { .. }
        | Test::Event { .. }
        | Test::Phase { .. }
        | Test::Age { .. }
        | Test::Steps { .. } => 0,
    };
    tree.leaves().iter().map(|leaf| of(&leaf.test)).sum()
}

/// What a counted event needs: time and repeats, once as it happened and once as it would have been denied.
const BYTES_OF_EVENT: usize = 32;

impl Builder<'_> {
    /// `over` of a test that judges each series of a metric by itself; `why` says so in the mistake.
    pub(super) fn each_series(&mut self, when: &RawWhen, kind: &Kind, why: &str) -> Over {
        match (&when.over, kind) {
            (None, _) => Over::Any,
            (Some(over), Kind::Metric(_)) => {
                let series = self.over_series(over, None);
                if !matches!(series, Over::Any | Over::All) {
                    let message = format!("{why}: no {series}, expected any or all");
                    self.error(over.span(), message, None);
                }
                series
            }
            (Some(over), _) => {
                self.error(over.span(), format!("`over` is for metrics; {kind} has no series"), None);
                Over::Any
            }
        }
    }

    /// The test of a `when` with `detect`, and its `for`.
    pub(super) fn detected(&mut self, when: &RawWhen) -> Option<(Test, Span)> {
        let raw = when.detect.as_ref()?;
        let literals = [("above", &when.above), ("below", &when.below), ("clear", &when.clear)];
        let literals = literals.into_iter().filter_map(|(name, literal)| Some((name, literal.as_ref()?.span())));
        let texts = [("is", &when.is), ("within", &when.within), ("event", &when.event)];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.span())));
        let fields = when.fields.iter().map(|(name, value)| (*name, value.span()));
        let count = when.count.iter().map(|count| ("count", count.span()));
        let relative = when.relative.iter().map(|relative| (relative.side, relative.span.clone()));
        for (name, span) in literals.chain(relative).chain(texts).chain(count).chain(fields) {
            self.error(span, format!("`{name}` cannot stand beside `detect`"), None);
        }
        let hold = when.hold.as_ref().map_or(Some(Span(0)), |text| self.duration(text));
        let Some(signal) = &when.signal else {
            if !when.unreadable {
                let message = "expected `signal` beside `detect`: the values that are judged";
                self.error(raw.span.clone(), message, None);
            }
            return None;
        };
        let (kind, known) = self.signal(signal);
        let kind = kind?;
        if kind.shape() == Shape::Counter {
            let message = format!("{kind} is a total, which only grows; `detect` is for levels and metrics");
            self.error(signal.span(), message, None);
            return None;
        }
        let series = self.each_series(when, &kind, "`detect` judges each series by itself");
        let mut given = BTreeMap::new();
        let mut good = known && !raw.unreadable;
        for (param, literal) in &raw.given {
            match self.param(&kind, param, literal) {
                Some(value) => drop(given.insert(param.name, value)),
                None => good = false,
            }
        }
        if !good {
            return None;
        }
        match Detect::new(raw.spec?, given) {
            Ok(detect) => Some((Test::Detect { kind, detect, series }, hold?)),
            Err((name, expected)) => {
                let place = raw.given.iter().find(|(param, _)| param.name == name);
                let (span, message) = match place {
                    Some((_, literal)) => (literal.span(), format!("{}, expected {expected}", show(literal))),
                    None => (raw.span.clone(), format!("expected the parameter `{name}` in `detect`: {expected}")),
                };
                self.error(span, message, None);
                None
            }
        }
    }

    fn param(&mut self, kind: &Kind, param: &Param, literal: &Spanned<Literal>) -> Option<Given> {
        let given = match (&param.range, literal.get_ref()) {
            (Range::Level, _) => {
                let (bound, rate) = self.bound(kind, literal)?;
                if rate {
                    self.error(literal.span(), "a value of the signal, not a rate: leave `/s` out", None);
                    return None;
                }
                return Some(match bound {
                    Bound::Integer(value) => Given::Integer(value),
                    Bound::Real(real) => Given::Number(real),
                });
            }
            (Range::Number { .. }, Literal::Integer(n)) => Some(Given::Number(Real(*n as f64))),
            (Range::Number { .. }, Literal::Float(n)) => Some(Given::Number(Real(*n))),
            (Range::Count { .. }, Literal::Integer(n)) => u64::try_from(*n).ok().map(Given::Count),
            (Range::Choice(_), Literal::Text(text)) => Some(Given::Choice(text.clone())),
            (Range::Time { .. }, Literal::Text(text)) => {
                Some(Given::Time(self.duration(&Spanned::new(literal.span(), text.clone()))?))
            }
            _ => None,
        };
        // Whether it is within its range is checked with the others.
        if given.is_none() {
            self.error(literal.span(), format!("{}, expected {}", show(literal), param.expected()), None);
        }
        given
    }
}

fn show(literal: &Spanned<Literal>) -> String {
    match literal.get_ref() {
        Literal::Text(text) => quote(text),
        Literal::Integer(n) => format!("`{n}`"),
        Literal::Float(n) => format!("`{n}`"),
    }
}

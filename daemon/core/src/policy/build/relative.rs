//! A bound that moves: the signal's own first values, another signal, or a number of the run's manifest.

use super::Builder;
use crate::{
    policy::{
        Amount, Bound, Op, Reference, Relative, Test,
        diagnostic::quote,
        raw::{Literal, RawRelative, RawWhen},
        reference::{MANIFEST_SECTIONS, is_manifest_key},
    },
    signal::{Kind, Real, Shape},
    time::Span,
    unit::Unit,
};
use toml::Spanned;

/// The largest factor: beyond it a bound is a mistake in the unit.
const FACTOR_MOST: f64 = 1e6;
/// Steps that can be counted at most.
const STEPS_MOST: u64 = 1_000_000_000;

impl Builder<'_> {
    /// The test of a `when` with a bound that moves, and its `for`.
    pub(super) fn compared(&mut self, when: &RawWhen) -> Option<(Test, Span)> {
        let raw = when.relative.first()?;
        let literals = [("above", &when.above), ("below", &when.below), ("clear", &when.clear)];
        let literals = literals.into_iter().filter_map(|(name, literal)| Some((name, literal.as_ref()?.span())));
        let texts = [("is", &when.is), ("within", &when.within), ("event", &when.event)];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.span())));
        let count = when.count.iter().map(|count| ("count", count.span()));
        let more = when.relative.iter().skip(1).map(|other| (other.side, other.span.clone()));
        let fields = when.fields.iter().map(|(name, value)| (*name, value.span()));
        for (name, span) in literals.chain(texts).chain(count).chain(more).chain(fields) {
            self.error(span, format!("`{name}` cannot stand beside a table `{}`", raw.side), None);
        }
        let hold = when.hold.as_ref().map_or(Some(Span(0)), |text| self.duration(text));
        let Some(signal) = &when.signal else {
            if !when.unreadable {
                self.error(raw.span.clone(), format!("expected `signal` beside `{}`", raw.side), None);
            }
            return None;
        };
        let (kind, known) = self.signal(signal);
        let kind = kind?;
        let series = self.each_series(when, &kind, "each series is compared by itself");
        let factor = raw.factor.as_ref().map_or(Some(Real(1.0)), |factor| self.factor(factor));
        let offset = match &raw.offset {
            Some(offset) => self.offset(&kind, offset),
            None if kind.unit() == Unit::Real => Some(Bound::Real(Real(0.0))),
            None => Some(Bound::Integer(0)),
        };
        let to = self.reference(raw, &kind);
        let op = if raw.side == "above" { Op::Above } else { Op::Below };
        let than = Relative { to: to?, factor: factor?, offset: offset? };
        (known && !raw.unreadable).then_some((Test::Compare { kind, op, than, series }, hold?))
    }

    fn reference(&mut self, raw: &RawRelative, kind: &Kind) -> Option<Reference> {
        if let Some(key) = &raw.manifest {
            return self.of_manifest(raw, kind, key);
        }
        match (&raw.first, &raw.signal) {
            (Some(first), None) => {
                if kind.shape() == Shape::Counter {
                    let message = format!("{kind} is a total, which only grows: its first values say nothing of it");
                    self.error(first.span(), message, None);
                    return None;
                }
                let amount = self.time_or_steps(first)?;
                let steps = matches!(amount, Amount::Steps(_));
                if steps && !matches!(kind, Kind::Metric(_)) {
                    self.error(first.span(), format!("steps are for metrics; {kind} has none, expected a time"), None);
                    return None;
                }
                let statistic = raw.statistic.as_ref().map(|of| *of.get_ref()).unwrap_or_default();
                Some(Reference::First { first: amount, statistic })
            }
            (None, Some(signal)) => {
                if let Some(statistic) = &raw.statistic {
                    self.error(statistic.span(), "`statistic` is for `first`", None);
                }
                let (other, known) = self.signal(signal);
                let other = other.filter(|_| known)?;
                if other.unit() != kind.unit() || other.shape() != kind.shape() {
                    let message = format!("{other} cannot be compared with {kind}: they differ in unit or kind");
                    self.error(signal.span(), message, None);
                    return None;
                }
                if other == *kind {
                    self.error(signal.span(), format!("{kind} is compared with itself"), None);
                    return None;
                }
                Some(Reference::Signal { kind: other })
            }
            (Some(_), Some(signal)) => {
                self.error(signal.span(), "expected one of `first` and `signal`, found both", None);
                None
            }
            (None, None) => {
                if !raw.unreadable {
                    let message = format!(
                        "expected `first`, `signal` or `manifest`, such as {} = {{ first = \"10m\", factor = 2 }}",
                        raw.side
                    );
                    self.error(raw.span.clone(), message, None);
                }
                None
            }
        }
    }

    fn of_manifest(&mut self, raw: &RawRelative, kind: &Kind, key: &Spanned<String>) -> Option<Reference> {
        let others = [("first", &raw.first), ("signal", &raw.signal)];
        let others = others.into_iter().filter_map(|(name, other)| Some((name, other.as_ref()?.span())));
        let mut good = true;
        for (name, span) in others.chain(raw.statistic.iter().map(|statistic| ("statistic", statistic.span()))) {
            self.error(span, format!("`{name}` cannot stand beside `manifest`"), None);
            good = false;
        }
        if !matches!(kind, Kind::Metric(_)) {
            // A number in a manifest has no unit.
            let message = format!("a number of a manifest has no unit: it can bound a metric, and {kind} is none");
            self.error(key.span(), message, None);
            good = false;
        }
        if !is_manifest_key(key.get_ref()) {
            let message = format!(
                "{}, expected a section and a name without `/`, such as \"hyperparameters.target_loss\"; the section is one of {}",
                quote(key.get_ref()),
                MANIFEST_SECTIONS.join(", ")
            );
            self.error(key.span(), message, None);
            good = false;
        }
        good.then(|| Reference::Manifest { key: key.get_ref().clone() })
    }

    fn factor(&mut self, factor: &Spanned<Literal>) -> Option<Real> {
        let number = match factor.get_ref() {
            Literal::Integer(n) => *n as f64,
            Literal::Float(n) => *n,
            Literal::Text(_) => f64::NAN,
        };
        if !(number > 0.0 && number <= FACTOR_MOST) {
            self.error(
                factor.span(),
                format!("expected a number above 0, at most {FACTOR_MOST}, without quotes"),
                None,
            );
            return None;
        }
        Some(Real(number))
    }

    fn offset(&mut self, kind: &Kind, offset: &Spanned<Literal>) -> Option<Bound> {
        let (bound, rate) = self.bound(kind, offset)?;
        if rate {
            self.error(offset.span(), "a value of the signal, not a rate: leave `/s` out", None);
            return None;
        }
        Some(bound)
    }

    /// A time, or steps: "10m" or "500 steps".
    pub(super) fn time_or_steps(&mut self, text: &Spanned<String>) -> Option<Amount> {
        let written = text.get_ref().trim();
        let steps = written.strip_suffix("steps").or_else(|| written.strip_suffix("step"));
        let Some(steps) = steps else {
            return self.some_time(text, Span(1)).map(Amount::Time);
        };
        let number = steps.trim().parse::<u64>().ok().filter(|n| (1..=STEPS_MOST).contains(n));
        if number.is_none() {
            let message = format!("{}, expected a whole number of steps from 1 to {STEPS_MOST}", quote(written));
            self.error(text.span(), message, None);
        }
        number.map(Amount::Steps)
    }
}

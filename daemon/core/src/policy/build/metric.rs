//! `[metrics]`, and what a rule says about the metric that it judges.

use super::{Builder, tree::is_tree};
use crate::{
    policy::{
        Condition, MetricRule, Metrics, Over,
        diagnostic::quote,
        raw::{RawMetrics, RawWhen},
    },
    signal::Kind,
    time::Span,
};
use toml::Spanned;

/// The shortest time after which a metric can count as missing: the daemon looks once a second.
const LEAST: Span = Span::from_secs(1);

impl Builder<'_> {
    pub(super) fn metrics(&mut self, raw: &RawMetrics) -> Metrics {
        let grace = raw.grace.as_ref().and_then(|text| self.missing_after(text));
        let stale = raw.stale.as_ref().and_then(|text| self.missing_after(text));
        let usual = Metrics::default();
        Metrics { grace: grace.unwrap_or(usual.grace), stale }
    }

    /// What the rule says about its metric. `over` names the series here; the window of a rate is read with the bound.
    pub(super) fn metric_rule(&mut self, when: &RawWhen, condition: Option<&Condition>) -> MetricRule {
        let named = when.signal.as_ref().and_then(|name| Kind::parse(name.get_ref()));
        if named.as_ref().is_some_and(|kind| !matches!(kind, Kind::Metric(_))) {
            for (name, text) in [("grace", &when.grace), ("stale", &when.stale)] {
                if let Some(text) = text {
                    self.error(text.span(), format!("`{name}` is for rules on metric.NAME"), None);
                }
            }
        }
        let over = match (&named, &when.over) {
            // Of a condition of several parts, or of what only such a condition can have, each test has its own.
            (Some(Kind::Metric(_)), Some(text)) if !is_tree(when) => self.over_series(text, condition),
            _ => Over::Any,
        };
        let grace = when.grace.as_ref().and_then(|text| self.missing_after(text));
        let stale = when.stale.as_ref().and_then(|text| self.missing_after(text));
        let rearm = when.rearm.as_ref().and_then(|text| {
            if when.event.is_some() {
                let message = "`rearm` is for signals; a rule on an event trips again after a thaw";
                self.error(text.span(), message, None);
            }
            let bare = text.get_ref().trim().strip_prefix("after ").unwrap_or(text.get_ref()).to_owned();
            self.duration(&Spanned::new(text.span(), bare))
        });
        MetricRule { over, grace, stale, rearm }
    }

    pub(super) fn over_series(&mut self, text: &Spanned<String>, condition: Option<&Condition>) -> Over {
        let names = Over::ALL.map(Over::name);
        let Some(over) = Over::ALL.into_iter().find(|over| over.name() == text.get_ref()) else {
            let help = self.suggest(text.get_ref(), names);
            let message = format!(
                "{}: a metric is judged over its series, expected one of {}",
                quote(text.get_ref()),
                names.join(", ")
            );
            self.error(text.span(), message, help);
            return Over::Any;
        };
        if matches!(condition, Some(Condition::NotFinite { .. })) && !matches!(over, Over::Any | Over::All) {
            let message = format!("`is = \"not-finite\"` has no {over}, expected any or all");
            self.error(text.span(), message, None);
        }
        over
    }

    fn missing_after(&mut self, text: &Spanned<String>) -> Option<Span> {
        let span = self.duration(text)?;
        if span < LEAST {
            self.error(text.span(), format!("{}, expected at least {LEAST}", quote(text.get_ref())), None);
            return None;
        }
        Some(span)
    }
}

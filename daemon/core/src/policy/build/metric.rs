//! `[metrics]`, and what a rule says about the metric that it judges.

use super::Builder;
use crate::{
    policy::{
        Condition, MetricRule, Metrics, Over,
        diagnostic::nearest,
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
        let grace = raw.grace.as_ref().and_then(|text| self.missing_after("metrics.grace", text));
        let stale = raw.stale.as_ref().and_then(|text| self.missing_after("metrics.stale", text));
        let usual = Metrics::default();
        Metrics { grace: grace.unwrap_or(usual.grace), stale }
    }

    /// What the rule says about its metric. `over` names the series here; the window of a rate is read with the bound.
    pub(super) fn metric_rule(&mut self, rule: &str, when: &RawWhen, condition: Option<&Condition>) -> MetricRule {
        let named = when.signal.as_ref().and_then(|name| Kind::parse(name.get_ref()));
        if !matches!(named, Some(Kind::Metric(_))) {
            for (name, text) in [("grace", &when.grace), ("stale", &when.stale)] {
                if let Some(text) = text {
                    self.error(text.span(), format!("rule `{rule}`: `{name}` is for metric.NAME"), None);
                }
            }
        }
        let over = match (&named, &when.over) {
            (Some(Kind::Metric(_)), Some(text)) => self.over_series(rule, text, condition),
            _ => Over::Any,
        };
        let grace = when.grace.as_ref().and_then(|text| self.missing_after("grace", text));
        let stale = when.stale.as_ref().and_then(|text| self.missing_after("stale", text));
        let rearm = when.rearm.as_ref().and_then(|text| {
            if when.event.is_some() {
                let message = format!("rule `{rule}`: `rearm` is for signals; an event rule trips again after a thaw");
                self.error(text.span(), message, None);
            }
            let bare = text.get_ref().trim().strip_prefix("after ").unwrap_or(text.get_ref()).to_owned();
            self.duration("rearm", &Spanned::new(text.span(), bare))
        });
        MetricRule { over, grace, stale, rearm }
    }

    fn over_series(&mut self, rule: &str, text: &Spanned<String>, condition: Option<&Condition>) -> Over {
        let names = Over::ALL.map(Over::name);
        let Some(over) = Over::ALL.into_iter().find(|over| over.name() == text.get_ref()) else {
            let help = nearest(text.get_ref(), names).map(|near| format!("did you mean `{near}`?"));
            let message = format!(
                "rule `{rule}`: over = \"{}\": a metric is judged over its series, expected one of {}",
                text.get_ref(),
                names.join(", ")
            );
            self.error(text.span(), message, help);
            return Over::Any;
        };
        if matches!(condition, Some(Condition::NotFinite { .. })) && !matches!(over, Over::Any | Over::All) {
            let message = format!("rule `{rule}`: `is = \"not-finite\"` has no {over}, expected any or all");
            self.error(text.span(), message, None);
        }
        over
    }

    fn missing_after(&mut self, field: &str, text: &Spanned<String>) -> Option<Span> {
        let span = self.duration(field, text)?;
        if span < LEAST {
            self.error(text.span(), format!("{field}: `{}`, expected at least {LEAST}", text.get_ref()), None);
            return None;
        }
        Some(span)
    }
}

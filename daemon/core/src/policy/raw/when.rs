//! A rule's `when` as it is written.

use super::{EventKind, Fields, Known, Literal, Mistakes, OF_EVENTS, OF_SIGNALS, OneOrMany, RULE_ONLY, WHEN};
use std::ops::Range;
use toml::Spanned;

pub(in crate::policy) struct RawWhen {
    pub signal: Option<Spanned<String>>,
    pub above: Option<Spanned<Literal>>,
    pub below: Option<Spanned<Literal>>,
    pub clear: Option<Spanned<Literal>>,
    pub hold: Option<Spanned<String>>,
    pub over: Option<Spanned<String>>,
    pub is: Option<Spanned<String>>,
    pub grace: Option<Spanned<String>>,
    pub stale: Option<Spanned<String>>,
    pub rearm: Option<Spanned<String>>,
    pub event: Option<Spanned<String>>,
    /// The fields of events that are given.
    pub fields: Vec<(&'static str, Spanned<OneOrMany>)>,
    pub span: Range<usize>,
    /// Something in it could not be read, so that what seems to be missing may only be unreadable.
    pub unreadable: bool,
}

impl RawWhen {
    pub(super) fn of_rule(wrong: &mut Mistakes, rule: &mut Fields<'_>) -> Option<RawWhen> {
        let suggest = suggestions(rule);
        let known = Known {
            what: "`when`",
            fields: WHEN,
            suggest: &suggest,
            elsewhere: Some((RULE_ONLY, "beside `when`, not in it")),
        };
        let mut when = rule.table(wrong, "when", &known)?;
        Some(RawWhen {
            signal: when.text(wrong, "signal"),
            above: when.literal(wrong, "above"),
            below: when.literal(wrong, "below"),
            clear: when.literal(wrong, "clear"),
            hold: when.duration(wrong, "for"),
            over: when.text(wrong, "over"),
            is: when.text(wrong, "is"),
            grace: when.duration(wrong, "grace"),
            stale: when.duration(wrong, "stale"),
            rearm: when.duration(wrong, "rearm"),
            event: when.text(wrong, "event"),
            fields: when.each(wrong, OF_EVENTS),
            span: when.span.clone(),
            unreadable: when.unreadable,
        })
    }
}

/// The fields that this `when` can use: those of its event, or those of signals.
fn suggestions(rule: &Fields<'_>) -> Vec<&'static str> {
    let (signal, event) = (rule.text_within("when", "signal"), rule.text_within("when", "event"));
    match (signal, event) {
        (Some(_), None) => OF_SIGNALS.to_vec(),
        (None, Some(event)) => match EventKind::ALL.iter().find(|kind| kind.name() == event) {
            Some(kind) => {
                let fields = OF_EVENTS.iter().filter(|name| kind.fields().iter().any(|field| field.name() == **name));
                std::iter::once("event").chain(fields.copied()).collect()
            }
            None => std::iter::once("event").chain(OF_EVENTS.iter().copied()).collect(),
        },
        (None, None) | (Some(_), Some(_)) => WHEN.to_vec(),
    }
}

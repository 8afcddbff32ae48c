//! A rule's `when` as it is written, with the parts in it.

use super::{
    CONFIDENCES, Confidence, EventKind, Fields, Known, Literal, MAX_DEPTH, Mistakes, OF_EVENTS, OF_SIGNALS, OneOrMany,
    PHASES, Phase, RULE_ONLY, RawDetect, RawRelative, WHEN,
};
use std::ops::Range;
use toml::{Spanned, de::DeTable};

pub(in crate::policy) struct RawWhen {
    pub signal: Option<Spanned<String>>,
    pub above: Option<Spanned<Literal>>,
    pub below: Option<Spanned<Literal>>,
    /// Tables in place of a bound: `above` and `below`.
    pub relative: Vec<RawRelative>,
    pub clear: Option<Spanned<Literal>>,
    pub hold: Option<Spanned<String>>,
    pub over: Option<Spanned<String>>,
    pub is: Option<Spanned<String>>,
    pub grace: Option<Spanned<String>>,
    pub stale: Option<Spanned<String>>,
    pub rearm: Option<Spanned<String>>,
    pub absent: Option<Spanned<String>>,
    pub detect: Option<RawDetect>,
    pub event: Option<Spanned<String>>,
    /// The fields of events that are given.
    pub fields: Vec<(&'static str, Spanned<OneOrMany>)>,
    pub within: Option<Spanned<String>>,
    pub count: Option<Spanned<i64>>,
    pub keep: Option<Spanned<String>>,
    pub warm_up: Option<Spanned<String>>,
    pub phase: Option<Spanned<Phase>>,
    pub confidence: Option<Spanned<Confidence>>,
    pub at_least: Option<Spanned<i64>>,
    /// `all`, `any`, `not` and `of` that are given.
    pub branches: Vec<RawBranch>,
    pub span: Range<usize>,
    /// Something in it could not be read, so that what seems to be missing may only be unreadable.
    pub unreadable: bool,
}

/// One of `all`, `any`, `not` and `of`, with its parts; `not` has one.
pub(in crate::policy) struct RawBranch {
    pub name: &'static str,
    pub parts: Vec<RawWhen>,
    pub span: Range<usize>,
}

impl RawWhen {
    pub(super) fn of_rule(wrong: &mut Mistakes, rule: &mut Fields<'_>) -> Option<RawWhen> {
        let (signal, event) = (rule.text_within("when", "signal"), rule.text_within("when", "event"));
        let suggest = suggestions(signal, event, OF_OUTERMOST);
        let known = Known {
            what: "`when`",
            fields: WHEN,
            suggest: &suggest,
            elsewhere: Some((RULE_ONLY, "beside `when`, not in it")),
        };
        let when = rule.table(wrong, "when", &known)?;
        Some(RawWhen::of_fields(wrong, when, 1))
    }

    fn of_part(wrong: &mut Mistakes, table: &DeTable<'_>, span: Range<usize>, depth: usize) -> RawWhen {
        let text = |name: &str| table.get(name).and_then(|value| value.get_ref().as_str());
        let suggest = suggestions(text("signal"), text("event"), &["phase"]);
        let known = Known {
            what: "a part of `when`",
            fields: WHEN,
            suggest: &suggest,
            elsewhere: Some((RULE_ONLY, "beside `when`, not in it")),
        };
        let fields = Fields::of_table(wrong, table, span, &known);
        RawWhen::of_fields(wrong, fields, depth)
    }

    fn of_fields(wrong: &mut Mistakes, mut when: Fields<'_>, depth: usize) -> RawWhen {
        let branches = ["all", "any", "not", "of"].into_iter().filter_map(|name| branch(wrong, &mut when, name, depth));
        let branches = branches.collect();
        let relative = ["above", "below"].into_iter().filter_map(|side| RawRelative::read(wrong, &mut when, side));
        let relative = relative.collect();
        let mut bound = |side| if RawRelative::is(&when, side) { None } else { when.literal(wrong, side) };
        let (above, below) = (bound("above"), bound("below"));
        RawWhen {
            signal: when.text(wrong, "signal"),
            above,
            below,
            relative,
            clear: when.literal(wrong, "clear"),
            hold: when.duration(wrong, "for"),
            over: when.text(wrong, "over"),
            is: when.text(wrong, "is"),
            grace: when.duration(wrong, "grace"),
            stale: when.duration(wrong, "stale"),
            rearm: when.duration(wrong, "rearm"),
            absent: when.duration(wrong, "absent"),
            detect: RawDetect::read(wrong, &mut when),
            event: when.text(wrong, "event"),
            fields: when.each(wrong, OF_EVENTS),
            within: when.duration(wrong, "within"),
            count: when.whole_number(wrong, "count"),
            keep: when.duration(wrong, "keep_firing_for"),
            warm_up: when.duration(wrong, "warm_up"),
            phase: when.spanned_choice(wrong, "phase", PHASES),
            confidence: when.spanned_choice(wrong, "confidence", CONFIDENCES),
            at_least: when.whole_number(wrong, "at_least"),
            branches,
            span: when.span.clone(),
            unreadable: when.unreadable,
        }
    }
}

fn branch(wrong: &mut Mistakes, when: &mut Fields<'_>, name: &'static str, depth: usize) -> Option<RawBranch> {
    let span = when.span_of(name)?;
    if depth >= MAX_DEPTH {
        let message = format!("the condition is nested deeper than {MAX_DEPTH} levels: use fewer, or write two rules");
        wrong.error(span, message, None);
        when.unreadable = true;
        return None;
    }
    let form = "{ signal = \"metric.loss\", above = 20 }";
    let tables = if name == "not" { when.one_table(wrong, name, form) } else { when.tables(wrong, name, form) };
    let parts = tables.into_iter().map(|(table, span)| RawWhen::of_part(wrong, table, span, depth + 1)).collect();
    Some(RawBranch { name, parts, span })
}

/// Fields that a rule's `when` of a single signal can have beside those of signals.
const OF_OUTERMOST: &[&str] = &["keep_firing_for", "phase", "warm_up"];

/// The fields that this `when` can use: those of its event, or those of signals with `more`.
fn suggestions(signal: Option<&str>, event: Option<&str>, more: &[&'static str]) -> Vec<&'static str> {
    match (signal, event) {
        (Some(_), None) => [OF_SIGNALS, more].concat(),
        (None, Some(event)) => match EventKind::named(event) {
            Some(kind) => {
                let fields = OF_EVENTS.iter().filter(|name| kind.fields().iter().any(|field| field.name() == **name));
                std::iter::once("event").chain(fields.copied()).collect()
            }
            None => std::iter::once("event").chain(OF_EVENTS.iter().copied()).collect(),
        },
        (None, None) | (Some(_), Some(_)) => WHEN.to_vec(),
    }
}

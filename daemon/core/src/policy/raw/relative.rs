//! A bound that moves, as it is written: a table in place of a number beside `above` or `below`.

use super::{Fields, Known, Literal, Mistakes, RELATIVE, STATISTICS, Statistic};
use std::ops::Range;
use toml::{Spanned, de::DeValue};

/// A table beside `above` or `below`.
pub(in crate::policy) struct RawRelative {
    /// `above` or `below`.
    pub side: &'static str,
    pub first: Option<Spanned<String>>,
    pub statistic: Option<Spanned<Statistic>>,
    pub signal: Option<Spanned<String>>,
    pub manifest: Option<Spanned<String>>,
    pub factor: Option<Spanned<Literal>>,
    pub offset: Option<Spanned<Literal>>,
    pub span: Range<usize>,
    pub unreadable: bool,
}

impl RawRelative {
    /// Whether the field is a table.
    pub(super) fn is(when: &Fields<'_>, side: &'static str) -> bool {
        when.value(side).is_some_and(|value| matches!(value.get_ref(), DeValue::Table(_)))
    }

    pub(super) fn read(wrong: &mut Mistakes, when: &mut Fields<'_>, side: &'static str) -> Option<RawRelative> {
        if !RawRelative::is(when, side) {
            return None;
        }
        let mut table = when.table(wrong, side, &Known::new("a bound that moves", RELATIVE))?;
        Some(RawRelative {
            side,
            first: table.text(wrong, "first"),
            statistic: table.spanned_choice(wrong, "statistic", STATISTICS),
            signal: table.text(wrong, "signal"),
            manifest: table.text(wrong, "manifest"),
            factor: table.literal(wrong, "factor"),
            offset: table.literal(wrong, "offset"),
            span: table.span.clone(),
            unreadable: table.unreadable,
        })
    }
}

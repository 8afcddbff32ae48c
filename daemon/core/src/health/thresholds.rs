//! The numbers of health: from when on something speaks against a GPU. Data, in `policies/gpu-health.toml`; a node's own file
//! may hold others.
//!
//! Invariants: the file is read strictly, and all that is wrong with it is told at once; what a node's own file does not name
//! is as built in.

use super::{
    checks::table::{CHECKS, Check, Test},
    wear::WORN,
    xids,
};
use crate::{
    policy::diagnostic::{Diagnostic, Diagnostics, nearest},
    signal::Kind,
    time::Span,
    unit::{self, Unit},
};
use serde::Deserialize;
use std::{collections::BTreeSet, ops::RangeInclusive};
use toml::Spanned;

const FILE: &str = "policies/gpu-health.toml";
const BUILT_IN: &str = include_str!("../../../../policies/gpu-health.toml");
/// Largest file that is read.
const MAX_BYTES: usize = 1 << 18;
/// As many as are remembered of what is counted by its instants.
const TIMES: RangeInclusive<i64> = 1..=64;

/// The numbers of every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thresholds {
    /// In the order of [`codes`].
    bounds: Vec<Bounds>,
}

/// The numbers of one check; those that it does not have are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bounds {
    /// Above which, up to which, by how much, or how often.
    pub bound: i64,
    /// While another value is at least this.
    pub busy: i64,
    /// Within how long.
    pub within: Span,
    /// Bad for so long before it counts.
    pub hold: Span,
    /// Good for so long before it is over.
    pub clear: Span,
}

/// Every code, with what its bound is called and counted in, and whether it has a window, and is held.
fn codes() -> impl Iterator<Item = (&'static str, Numbers)> {
    let of_check = |check: &'static Check| {
        let (bound, within) = match check.test {
            Test::Above | Test::SumAbove(_) | Test::BelowPeers => (Some("above"), false),
            Test::AtMost | Test::AtMostWhile(_) => (Some("at_most"), false),
            Test::Grows => (Some("grows"), true),
            Test::ComesOn(_) => (Some("times"), true),
            Test::BelowPeak => (Some("expected"), false),
            Test::Reaches(_)
            | Test::Below(_)
            | Test::BelowWhile(..)
            | Test::OneOf(_)
            | Test::NoneOf(_)
            | Test::NoneOfWhen(..)
            | Test::FabricHealth
            | Test::On(_)
            | Test::PcieReplays => (None, false),
        };
        let unit = if bound == Some("times") { Unit::Count } else { check.kind.unit() };
        let busy = check.busy().map(Kind::unit);
        (check.code, Numbers { bound, unit, busy, within, held: true })
    };
    let counted = |name| Numbers { bound: Some(name), unit: Unit::Count, busy: None, within: true, held: false };
    let worn = WORN.iter().map(move |(code, ..)| (*code, counted("grows")));
    CHECKS.iter().map(of_check).chain(worn).chain([(xids::FATAL_REPEATED, counted("times"))])
}

/// Which numbers a check has.
struct Numbers {
    bound: Option<&'static str>,
    unit: Unit,
    busy: Option<Unit>,
    within: bool,
    held: bool,
}

impl Numbers {
    fn names(&self) -> Vec<&'static str> {
        let within = self.within.then_some("within");
        let held: &[&str] = if self.held { &["hold", "clear"] } else { &[] };
        let busy = self.busy.is_some().then_some("busy");
        self.bound.into_iter().chain(busy).chain(within).chain(held.iter().copied()).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    check: Vec<RawCheck>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheck {
    code: Spanned<String>,
    above: Option<Spanned<Number>>,
    at_most: Option<Spanned<Number>>,
    grows: Option<Spanned<Number>>,
    times: Option<Spanned<Number>>,
    expected: Option<Spanned<Number>>,
    busy: Option<Spanned<Number>>,
    within: Option<Spanned<String>>,
    hold: Option<Spanned<String>>,
    clear: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a whole number or a text with a unit, such as 15 or \"5 C\"")]
enum Number {
    Integer(i64),
    Text(String),
}

impl Thresholds {
    /// The built-in ones.
    ///
    /// # Errors
    /// None in a build that passed its tests.
    pub fn built_in() -> Result<Thresholds, Diagnostics> {
        Thresholds::read(FILE, BUILT_IN, None)
    }

    /// Reads a node's own. `file` only names it in errors.
    ///
    /// # Errors
    /// All that is wrong, each with file, line, column and what was expected.
    pub fn parse(file: &str, text: &str) -> Result<Thresholds, Diagnostics> {
        Thresholds::read(file, text, Some(Thresholds::built_in()?))
    }

    fn read(file: &str, text: &str, base: Option<Thresholds>) -> Result<Thresholds, Diagnostics> {
        let fail = |list| Diagnostics { file: file.to_owned(), list };
        if text.len() > MAX_BYTES {
            let message = format!("the thresholds have {} bytes, expected at most {MAX_BYTES}", text.len());
            return Err(fail(vec![Diagnostic::at("", 0..0, message, None)]));
        }
        let raw: Raw = toml::from_str(text).map_err(|error| fail(vec![Diagnostic::of_toml(text, &error)]))?;
        let whole = base.is_none();
        let mut bounds = base.map_or_else(|| codes().map(|_| Bounds::default()).collect(), |base| base.bounds);
        let mut reader = Reader { text, wrong: Vec::new() };
        let mut named = BTreeSet::new();
        for check in &raw.check {
            let code = check.code.get_ref().as_str();
            let Some((n, (_, numbers))) = codes().enumerate().find(|(_, (known, _))| *known == code) else {
                let help = nearest(code, codes().map(|(code, _)| code)).map(|near| format!("did you mean `{near}`?"));
                let known: Vec<&str> = codes().map(|(code, _)| code).collect();
                let message = format!("check `{code}` is not known, expected one of {}", known.join(", "));
                reader.wrong.push(Diagnostic::at(text, check.code.span(), message, help));
                continue;
            };
            if !named.insert(n) {
                let message = format!("check `{code}` is there twice");
                reader.wrong.push(Diagnostic::at(text, check.code.span(), message, None));
            }
            reader.check(check, &numbers, whole, &mut bounds[n]);
        }
        for (_, (code, _)) in codes().enumerate().filter(|(n, _)| whole && !named.contains(n)) {
            reader.wrong.push(Diagnostic::at(text, 0..0, format!("check `{code}` is missing"), None));
        }
        if reader.wrong.is_empty() { Ok(Thresholds { bounds }) } else { Err(fail(reader.wrong)) }
    }

    /// Every check with its numbers.
    pub(super) fn checks(&self) -> impl Iterator<Item = (&'static Check, Bounds)> {
        CHECKS.iter().zip(self.bounds.iter().copied())
    }

    /// Those of the wear of this number.
    pub(super) fn wear(&self, n: usize) -> Bounds {
        self.bounds.get(CHECKS.len() + n).copied().unwrap_or_default()
    }

    /// Those of fatal XIDs.
    pub(super) fn fatal(&self) -> Bounds {
        self.wear(WORN.len())
    }
}

/// Reads the checks of a file.
struct Reader<'a> {
    text: &'a str,
    wrong: Vec<Diagnostic>,
}

impl Reader<'_> {
    /// Puts the numbers that stand there in place of those that `bounds` has.
    fn check(&mut self, raw: &RawCheck, numbers: &Numbers, whole: bool, bounds: &mut Bounds) {
        let code = raw.code.get_ref();
        let names = numbers.names();
        let given = [
            ("above", &raw.above),
            ("at_most", &raw.at_most),
            ("grows", &raw.grows),
            ("times", &raw.times),
            ("expected", &raw.expected),
        ];
        for (field, number) in given {
            let Some(number) = self.wanted(code, field, number.as_ref(), &names, whole) else { continue };
            if let Some(bound) = self.bound(code, field, number, numbers.unit) {
                bounds.bound = bound;
            }
        }
        let unit = numbers.busy.unwrap_or(Unit::Count);
        if let Some(number) = self.wanted(code, "busy", raw.busy.as_ref(), &names, whole)
            && let Some(busy) = self.bound(code, "busy", number, unit)
        {
            bounds.busy = busy;
        }
        let day = Span::from_secs(86_400);
        let spans = [
            ("within", &raw.within, &mut bounds.within, Span::from_secs(1), Span(day.0 * 31)),
            ("hold", &raw.hold, &mut bounds.hold, Span(0), Span::from_secs(3_600)),
            ("clear", &raw.clear, &mut bounds.clear, Span(0), day),
        ];
        for (field, text, into, least, most) in spans {
            let Some(text) = self.wanted(code, field, text.as_ref(), &names, whole) else { continue };
            match Span::parse(text.get_ref()).filter(|span| (least..=most).contains(span)) {
                Some(span) => *into = span,
                None => {
                    let message = format!(
                        "check `{code}`: `{field}` is `{}`, expected a time from {least} to {most}, such as \"10m\"",
                        text.get_ref()
                    );
                    self.wrong.push(Diagnostic::at(self.text, text.span(), message, None));
                }
            }
        }
    }

    /// A field that is there and that the check has; one without the other is an error.
    fn wanted<'r, T>(
        &mut self,
        code: &str,
        field: &str,
        given: Option<&'r Spanned<T>>,
        names: &[&str],
        whole: bool,
    ) -> Option<&'r Spanned<T>> {
        match given {
            Some(given) if !names.contains(&field) => {
                let expected = names.join(", ");
                let message = format!("check `{code}` has no `{field}`, expected one of {expected}");
                self.wrong.push(Diagnostic::at(self.text, given.span(), message, None));
                None
            }
            None if whole && names.contains(&field) => {
                self.wrong.push(Diagnostic::at(self.text, 0..0, format!("check `{code}`: `{field}` is missing"), None));
                None
            }
            given => given,
        }
    }

    fn bound(&mut self, code: &str, field: &str, number: &Spanned<Number>, unit: Unit) -> Option<i64> {
        let plain = matches!(unit, Unit::Count | Unit::Bits);
        let (value, shown) = match number.get_ref() {
            Number::Integer(value) => (plain.then_some(*value), value.to_string()),
            Number::Text(text) => {
                (unit::parse(text, unit).ok().filter(|(_, rate)| !rate && !plain).map(|(value, _)| value), text.clone())
            }
        };
        let good = |value: &i64| match field {
            "times" => TIMES.contains(value),
            "at_most" => true,
            _ => *value >= 0,
        };
        let value = value.filter(good);
        if value.is_none() {
            let expected = match (field, plain) {
                ("times", _) => format!("a whole number from {} to {}", TIMES.start(), TIMES.end()),
                (_, true) => "a whole number, 0 or more".to_owned(),
                (_, false) => format!("a value such as {}", unit.example()),
            };
            let message = format!("check `{code}`: `{field}` is `{shown}`, expected {expected}");
            self.wrong.push(Diagnostic::at(self.text, number.span(), message, None));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Thresholds::parse("f.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_built_in_ones_name_every_check_and_a_nodes_own_only_what_it_changes() {
        let built_in = Thresholds::built_in().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(built_in.bounds.len(), codes().count());
        assert_eq!(Thresholds::parse("f.toml", "").unwrap(), built_in);
        let own = "[[check]]\ncode = \"ecc-storm\"\nwithin = \"1h\"\n\n\
                   [[check]]\ncode = \"temperature-margin\"\nat_most = \"5 C\"\n\n\
                   [[check]]\ncode = \"xid-fatal-repeated\"\ntimes = 2\n";
        let own = Thresholds::parse("f.toml", own).unwrap_or_else(|e| panic!("{e}"));
        let changed: Vec<_> = codes()
            .zip(built_in.bounds.iter().zip(&own.bounds))
            .filter(|(_, (was, is))| was != is)
            .map(|((code, _), (was, is))| (code, *was, *is))
            .collect();
        let [(storm, was, is), (margin, _, degrees), (fatal, _, times)] = changed[..] else { panic!("{changed:?}") };
        assert_eq!((storm, is), ("ecc-storm", Bounds { within: Span::from_secs(3_600), ..was }));
        assert_eq!((margin, degrees.bound, fatal, times.bound), ("temperature-margin", 5_000, "xid-fatal-repeated", 2));
    }

    #[test]
    fn mistakes_are_reported_with_their_place_and_what_was_expected() {
        let check = |code: &str, rest: &str| format!("# a line\n[[check]]\ncode = {code:?}\n{rest}\n");
        for (text, expected) in [
            (check("ecc-storn", ""), "f.toml:3:8: check `ecc-storn` is not known, expected one of retired-pages"),
            (check("ecc-storn", ""), "did you mean `ecc-storm`?"),
            (
                check("ecc-storm", "above = 3"),
                "f.toml:4:9: check `ecc-storm` has no `above`, expected one of grows, within, hold, clear",
            ),
            (
                check("ecc-storm", "grows = -1"),
                "f.toml:4:9: check `ecc-storm`: `grows` is `-1`, expected a whole number, 0 or more",
            ),
            (check("ecc-storm", "grows = \"3 C\""), "`grows` is `3 C`, expected a whole number"),
            (check("ecc-storm", "grows = 1.5"), "f.toml:4:9: expected a whole number or a text with a unit"),
            (check("temperature-margin", "at_most = 5"), "`at_most` is `5`, expected a value such as \"85 C\""),
            (check("hw-slowdown", "times = 0"), "`times` is `0`, expected a whole number from 1 to 64"),
            (
                check("hw-slowdown", "within = \"soon\""),
                "f.toml:4:10: check `hw-slowdown`: `within` is `soon`, expected a time from",
            ),
            (check("hw-slowdown", "within = \"0s\""), "`within` is `0s`, expected a time from 1.0 s"),
            (check("pcie-width", "hold = \"2h\""), "`hold` is `2h`, expected a time from 0 ns to 3600.0 s"),
            (check("row-remap-rate", "clear = \"1m\""), "has no `clear`, expected one of grows, within"),
            (check("pcie-width", "") + &check("pcie-width", ""), "check `pcie-width` is there twice"),
            (check("pcie-width", "holds = \"1m\""), "did you mean `hold`?"),
        ] {
            let told = wrong(&text);
            assert!(told.contains(expected), "{text}\ngives\n{told}\nnot\n{expected}");
        }
    }
}

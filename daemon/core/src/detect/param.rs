//! The parameters of a method: their kinds, their ranges, and how they are written.

use crate::{signal::Real, time::Span, unit::Unit};
use serde::{Deserialize, Serialize};

/// A parameter.
#[derive(Debug)]
pub struct Param {
    /// Its name in policies.
    pub name: &'static str,
    /// What it is, for the reference.
    pub what: &'static str,
    /// What it may be.
    pub range: Range,
}

/// What a parameter may be, and what it is where it is not given.
#[derive(Debug)]
pub enum Range {
    /// A real number without a unit.
    Number {
        /// Where it is not given.
        default: f64,
        /// At least.
        least: f64,
        /// At most.
        most: f64,
    },
    /// A whole number.
    Count {
        /// Where it is not given.
        default: u64,
        /// At least.
        least: u64,
        /// At most.
        most: u64,
    },
    /// One of these; the first where it is not given.
    Choice(&'static [&'static str]),
    /// A duration.
    Time {
        /// Where it is not given; it is required where there is none.
        default: Option<Span>,
        /// At least.
        least: Span,
        /// At most.
        most: Span,
    },
    /// A value of the signal in its unit; required.
    Level,
}

/// What a policy gives for a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Given {
    /// A real number.
    Number(Real),
    /// A whole number.
    Count(u64),
    /// A name.
    Choice(String),
    /// A duration.
    Time(Span),
    /// A value of an integer signal, in its unit.
    Integer(i64),
}

impl Param {
    pub(super) const fn number(
        name: &'static str,
        (default, least, most): (f64, f64, f64),
        what: &'static str,
    ) -> Param {
        Param { name, what, range: Range::Number { default, least, most } }
    }

    pub(super) const fn count(
        name: &'static str,
        (default, least, most): (u64, u64, u64),
        what: &'static str,
    ) -> Param {
        Param { name, what, range: Range::Count { default, least, most } }
    }

    pub(super) const fn side(of: &'static [&'static str]) -> Param {
        Param { name: "side", what: "on which side of what is usual a value counts", range: Range::Choice(of) }
    }

    /// What a policy may write.
    pub fn expected(&self) -> String {
        match &self.range {
            Range::Number { least, most, .. } => format!("a number from {least} to {most}"),
            Range::Count { least, most, .. } => format!("a whole number from {least} to {most}"),
            Range::Choice(of) => format!("one of {}", of.join(", ")),
            Range::Time { least, most, .. } => format!("a duration from {least} to {most}"),
            Range::Level => "a value of the signal, with its unit".to_owned(),
        }
    }

    pub(super) fn default(&self) -> Option<Given> {
        Some(match &self.range {
            Range::Number { default, .. } => Given::Number(Real(*default)),
            Range::Count { default, .. } => Given::Count(*default),
            Range::Choice(of) => Given::Choice((*of.first()?).to_owned()),
            Range::Time { default, .. } => Given::Time((*default)?),
            Range::Level => return None,
        })
    }

    /// The default as a policy would have it; `None` where the parameter is required.
    pub fn shown_default(&self) -> Option<String> {
        self.default().map(|given| given.show(Unit::Real))
    }

    pub(super) fn check(&self, given: &Given) -> Result<(), String> {
        let good = match (&self.range, given) {
            (Range::Number { least, most, .. }, Given::Number(real)) => (*least..=*most).contains(&real.0),
            (Range::Count { least, most, .. }, Given::Count(count)) => (*least..=*most).contains(count),
            (Range::Choice(of), Given::Choice(name)) => of.contains(&name.as_str()),
            (Range::Time { least, most, .. }, Given::Time(span)) => (*least..=*most).contains(span),
            (Range::Level, Given::Number(real)) => real.0.is_finite(),
            (Range::Level, Given::Integer(_)) => true,
            _ => false,
        };
        if good { Ok(()) } else { Err(self.expected()) }
    }
}

impl Given {
    /// As a policy has it.
    pub fn show(&self, unit: Unit) -> String {
        match self {
            Given::Number(real) => real.to_string(),
            Given::Count(count) => count.to_string(),
            Given::Choice(name) => name.clone(),
            Given::Time(span) => span.to_string(),
            Given::Integer(value) => unit.show_bound(*value),
        }
    }
}

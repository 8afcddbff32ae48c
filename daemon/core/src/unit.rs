//! Units: every integer signal has one base unit, and a policy's literals carry theirs (`"85 C"`, `"10 MiB/s"`).

use crate::{decimal::decimal, time::Span};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The base unit of a signal's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// A plain count (packets, processes, errors).
    Count,
    /// Thousandths of a degree Celsius.
    MilliCelsius,
    /// Milliwatts.
    Milliwatts,
    /// Millijoules.
    Millijoules,
    /// Thousandths of a percent.
    MilliPercent,
    /// Megahertz.
    Megahertz,
    /// Microseconds.
    Microseconds,
    /// A set of bits (NVML clock event reasons).
    Bits,
    /// A real number of the run's own, without a unit known to failsafe.
    Real,
}

impl Unit {
    /// Suffixes a literal may carry, with the multiplier into the base unit.
    fn suffixes(self) -> &'static [(&'static str, i64)] {
        match self {
            Unit::Bytes => &[
                ("B", 1),
                ("KiB", 1 << 10),
                ("MiB", 1 << 20),
                ("GiB", 1 << 30),
                ("TiB", 1 << 40),
                ("kB", 1_000),
                ("MB", 1_000_000),
                ("GB", 1_000_000_000),
                ("TB", 1_000_000_000_000),
            ],
            Unit::Count => &[("", 1)],
            Unit::MilliCelsius => &[("C", 1_000), ("°C", 1_000), ("mC", 1)],
            Unit::Milliwatts => &[("W", 1_000), ("kW", 1_000_000), ("mW", 1)],
            Unit::Millijoules => {
                &[("J", 1_000), ("kJ", 1_000_000), ("mJ", 1), ("Wh", 3_600_000), ("kWh", 3_600_000_000)]
            }
            Unit::MilliPercent => &[("%", 1_000)],
            Unit::Megahertz => &[("MHz", 1), ("GHz", 1_000)],
            Unit::Microseconds => &[
                ("us", 1),
                ("ms", 1_000),
                ("s", 1_000_000),
                ("m", 60_000_000),
                ("min", 60_000_000),
                ("h", 3_600_000_000),
                ("d", 86_400_000_000),
            ],
            Unit::Bits => &[("", 1)],
            Unit::Real => &[("", 1)],
        }
    }

    /// What a literal of this unit looks like, for error messages.
    pub fn example(self) -> &'static str {
        match self {
            Unit::Bytes => "\"10 GiB\" or \"10 MiB/s\"",
            Unit::Count => "100 or \"100 /s\"",
            Unit::MilliCelsius => "\"85 C\"",
            Unit::Milliwatts => "\"300 W\"",
            Unit::Millijoules => "\"10 kJ\" or \"300 J/s\"",
            Unit::MilliPercent => "\"95 %\"",
            Unit::Megahertz => "\"1200 MHz\"",
            Unit::Microseconds => "\"500 ms\" or \"1500 ms/s\"",
            Unit::Bits => "8",
            Unit::Real => "2.5",
        }
    }

    /// A value of this unit as a person reads it.
    pub fn show(self, value: i64) -> String {
        let scaled = |div: i64, unit: &str| {
            let (whole, frac) = (value / div, (value % div).unsigned_abs());
            let digits = div.ilog10() as usize;
            let frac = format!("{frac:0digits$}");
            let frac = frac.trim_end_matches('0');
            let sign = if value < 0 && whole == 0 { "-" } else { "" };
            if frac.is_empty() { format!("{sign}{whole} {unit}") } else { format!("{sign}{whole}.{frac} {unit}") }
        };
        match self {
            Unit::Bytes => bytes(value),
            Unit::Count | Unit::Real => value.to_string(),
            Unit::MilliCelsius => scaled(1_000, "C"),
            Unit::Milliwatts => scaled(1_000, "W"),
            Unit::Millijoules => scaled(1_000, "J"),
            Unit::MilliPercent => scaled(1_000, "%"),
            Unit::Megahertz => format!("{value} MHz"),
            Unit::Microseconds => scaled(1_000, "ms"),
            Unit::Bits => format!("{value:#x}"),
        }
    }
}

impl Unit {
    /// A bound of a policy: exact. A number of bytes that [`Unit::show`] would round is shown in the unit, decimal or binary,
    /// in which it needs the fewest digits.
    pub fn show_bound(self, value: i64) -> String {
        let rounded = self.show(value);
        if self != Unit::Bytes || parse(&rounded, self) == Ok((value, false)) {
            return rounded;
        }
        let in_unit = |(name, factor): &(&'static str, i64)| {
            let thousandths = i128::from(value) * 1_000;
            let factor = i128::from(*factor);
            if thousandths % factor != 0 || i128::from(value).abs() < factor {
                return None;
            }
            let (whole, part) = (thousandths / factor / 1_000, (thousandths / factor % 1_000).abs());
            let part = format!(".{part:03}");
            Some((
                format!("{whole}{}", part.trim_end_matches('0').trim_end_matches('.')),
                std::cmp::Reverse(factor),
                *name,
            ))
        };
        let shortest =
            self.suffixes().iter().filter_map(in_unit).min_by_key(|(digits, factor, _)| (digits.len(), *factor));
        shortest.map_or(rounded, |(digits, _, name)| format!("{digits} {name}"))
    }
}

fn bytes(value: i64) -> String {
    let steps = [("TiB", 40u32), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let magnitude = value.unsigned_abs();
    for (name, shift) in steps {
        if magnitude >> shift > 0 {
            // Tenths are enough for a person; the exact figure is in the record.
            let tenths = (u128::from(magnitude) * 10) >> shift;
            let sign = if value < 0 { "-" } else { "" };
            return format!("{sign}{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{value} B")
}

/// Why a literal could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiteralError {
    /// Not a number.
    NotANumber,
    /// The number has a unit that this signal does not have.
    WrongUnit(String),
    /// The number is beyond the range of a 64-bit integer of the base unit, or finer than it.
    OutOfRange,
}

impl fmt::Display for LiteralError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LiteralError::NotANumber => f.write_str("is not a number with a unit"),
            LiteralError::WrongUnit(unit) if unit.is_empty() => f.write_str("has no unit"),
            LiteralError::WrongUnit(unit) => write!(f, "has the unit `{unit}`"),
            LiteralError::OutOfRange => f.write_str("does not fit the signal's integer unit"),
        }
    }
}

/// Reads `text` as a value of `unit`; the flag says whether it is a rate (`/s`).
pub fn parse(text: &str, unit: Unit) -> Result<(i64, bool), LiteralError> {
    let text = text.trim();
    let (text, rate) = match text.strip_suffix("/s") {
        Some(rest) => (rest.trim_end(), true),
        None => (text, false),
    };
    // A duration of several parts, such as 1h30m, is one wherever a time is written.
    if let Some(span) = Span::parse(text).filter(|span| unit == Unit::Microseconds && span.0.is_multiple_of(1_000)) {
        return i64::try_from(span.0 / 1_000).map(|us| (us, rate)).map_err(|_| LiteralError::OutOfRange);
    }
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | '_'))).unwrap_or(text.len());
    let (number, suffix) = (&text[..split], text[split..].trim());
    let digits: String = number.chars().filter(|c| *c != '_').collect();
    let factor = unit.suffixes().iter().find(|(name, _)| *name == suffix).map(|(_, factor)| *factor);
    let scaled = decimal(&digits, factor.unwrap_or(1)).ok_or(LiteralError::NotANumber)?;
    match factor {
        None => Err(LiteralError::WrongUnit(suffix.to_owned())),
        Some(_) => scaled.map(|value| (value, rate)).ok_or(LiteralError::OutOfRange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_exact() {
        assert_eq!(parse("85 C", Unit::MilliCelsius), Ok((85_000, false)));
        assert_eq!(parse("85.5C", Unit::MilliCelsius), Ok((85_500, false)));
        assert_eq!(parse("-0.5 C", Unit::MilliCelsius), Ok((-500, false)));
        assert_eq!(parse("10 MiB/s", Unit::Bytes), Ok((10 << 20, true)));
        assert_eq!(parse("1.5 GiB", Unit::Bytes), Ok((3 << 29, false)));
        assert_eq!(parse("1_000", Unit::Count), Ok((1_000, false)));
        assert_eq!(parse("95%", Unit::MilliPercent), Ok((95_000, false)));
    }

    #[test]
    fn wrong_literals_say_what_is_wrong() {
        assert_eq!(parse("85 W", Unit::MilliCelsius), Err(LiteralError::WrongUnit("W".into())));
        assert_eq!(parse("85", Unit::MilliCelsius), Err(LiteralError::WrongUnit(String::new())));
        assert_eq!(parse("hot", Unit::MilliCelsius), Err(LiteralError::NotANumber));
        assert_eq!(parse("0.5 B", Unit::Bytes), Err(LiteralError::OutOfRange));
        assert_eq!(parse("99999999999 TiB", Unit::Bytes), Err(LiteralError::OutOfRange));
    }

    #[test]
    fn times_take_what_durations_take() {
        for text in ["250us", "500 ms", "3s", "1.5s", "5m", "5min", "1h30m", "7d"] {
            let ns = Span::parse(text).unwrap().0;
            assert_eq!(parse(text, Unit::Microseconds), Ok((i64::try_from(ns / 1_000).unwrap(), false)), "{text}");
        }
        assert_eq!(parse("1500 ms/s", Unit::Microseconds), Ok((1_500_000, true)));
        assert_eq!(parse("5 W", Unit::Microseconds), Err(LiteralError::WrongUnit("W".into())));
    }

    #[test]
    fn a_bound_is_shown_exactly() {
        for text in
            ["10 GB", "1.5 GB", "100 MB", "1500 MiB", "2 kB", "512 B", "10.0 GiB", "1.5 GiB", "2.0 TiB", "20 TB"]
        {
            let (value, _) = parse(text, Unit::Bytes).unwrap();
            assert_eq!(Unit::Bytes.show_bound(value), text);
        }
        for value in [0, 1, 999, 1_000, 1_001, 123_456_789, -5_000_000_000, i64::MAX, i64::MIN + 1] {
            assert_eq!(parse(&Unit::Bytes.show_bound(value), Unit::Bytes), Ok((value, false)), "{value}");
        }
        assert_eq!(Unit::MilliCelsius.show_bound(85_000), "85 C");
    }

    #[test]
    fn values_read_well() {
        assert_eq!(Unit::MilliCelsius.show(91_250), "91.25 C");
        assert_eq!(Unit::MilliCelsius.show(-500), "-0.5 C");
        assert_eq!(Unit::Bytes.show(3 << 29), "1.5 GiB");
        assert_eq!(Unit::Bytes.show(512), "512 B");
        assert_eq!(Unit::MilliPercent.show(97_000), "97 %");
    }
}

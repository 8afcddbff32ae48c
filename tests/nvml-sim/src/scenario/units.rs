//! The units a scenario speaks in. A value is a bare number in the base unit or
//! a text with a suffix (`"60 GiB"`, `"85C"`); bounds catch a value in the wrong unit.

use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A unit: its name for messages, what a value may be, and its suffixes.
pub(crate) trait Unit: Copy {
    const NAME: &'static str;
    /// Largest value, in the base unit; the smallest is 0.
    const MAX: f64;
    /// Suffix and factor to the base unit; the base unit's own comes first.
    const SUFFIXES: &'static [(&'static str, f64)];
}

macro_rules! units {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $max:expr, $suffixes:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq)]
            pub(crate) enum $name {}
            impl Unit for $name {
                const NAME: &'static str = $text;
                const MAX: f64 = $max;
                const SUFFIXES: &'static [(&'static str, f64)] = $suffixes;
            }
        )*
    };
}

const KIB: f64 = 1024.0;

units! {
    /// Degrees Celsius.
    Celsius = "a temperature in C", 255.0, &[("C", 1.0)];
    /// Watts.
    Watt = "a power in W", 10_000.0, &[("W", 1.0), ("mW", 1e-3), ("kW", 1e3)];
    /// Per cent, 0 to 100.
    Percent = "a share in %", 100.0, &[("%", 1.0)];
    /// Bytes.
    Byte = "a size in bytes", 1e15, &[
        ("B", 1.0), ("KiB", KIB), ("MiB", KIB * KIB), ("GiB", KIB * KIB * KIB),
        ("kB", 1e3), ("MB", 1e6), ("GB", 1e9),
    ];
    /// Megahertz.
    MegaHertz = "a clock in MHz", 100_000.0, &[("MHz", 1.0), ("GHz", 1e3)];
    /// A count of things.
    Count = "a count", 1e15, &[];
}

/// One value of a unit, in its base unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scalar<U>(pub(crate) f64, pub(crate) PhantomData<U>);

impl<U: Unit> Scalar<U> {
    pub(super) fn checked<E: de::Error>(value: f64) -> Result<Self, E> {
        if value.is_finite() && (0.0..=U::MAX).contains(&value) {
            Ok(Self(value, PhantomData))
        } else {
            Err(E::custom(format!("{value} is not {} between 0 and {}", U::NAME, U::MAX)))
        }
    }
}

impl<'de, U: Unit> de::Deserialize<'de> for Scalar<U> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor(PhantomData))
    }
}

struct ScalarVisitor<U>(PhantomData<U>);

impl<U: Unit> Visitor<'_> for ScalarVisitor<U> {
    type Value = Scalar<U>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(U::NAME)
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Scalar::checked(value as f64)
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Scalar::checked(value)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let split = text.find(|c: char| c.is_alphabetic() || c == '%').unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let factor = U::SUFFIXES.iter().find(|(known, _)| *known == suffix.trim());
        match (number.trim().parse::<f64>(), factor) {
            (Ok(number), Some((_, factor))) => Scalar::checked(number * factor),
            _ => Err(E::custom(format!("\"{text}\" is not {}{}", U::NAME, suffixes::<U>()))),
        }
    }
}

fn suffixes<U: Unit>() -> String {
    let known: Vec<_> = U::SUFFIXES.iter().map(|(suffix, _)| *suffix).collect();
    match known.as_slice() {
        [] => ": write a bare number".to_owned(),
        known => format!(": write a bare number or one of the units {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug)]
    struct One<U: Unit> {
        #[serde(bound(deserialize = "U: Unit"))]
        v: Scalar<U>,
    }

    fn read<U: Unit>(value: &str) -> Result<f64, String> {
        let parsed: Result<One<U>, _> = toml::from_str(&format!("v = {value}"));
        parsed.map(|it| it.v.0).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn numbers_and_suffixes() {
        assert_eq!(read::<Byte>("\"1.5 GiB\""), Ok(1.5 * 1024.0 * 1024.0 * 1024.0));
        assert_eq!(read::<Byte>("4096"), Ok(4096.0));
        assert_eq!(read::<Watt>("\"350000mW\""), Ok(350.0));
        assert_eq!(read::<Celsius>("84.5"), Ok(84.5));
        assert_eq!(read::<Percent>("\"97 %\""), Ok(97.0));
    }

    #[test]
    fn wrong_units_and_ranges_say_so() {
        assert!(read::<Watt>("350000").unwrap_err().contains("a power in W between 0 and 10000"));
        assert!(read::<Celsius>("\"85F\"").unwrap_err().contains("\"85F\" is not a temperature in C"));
        assert!(read::<Percent>("-1").is_err());
        assert!(read::<Percent>("nan").is_err());
        assert!(read::<Count>("\"3 apples\"").is_err());
    }
}

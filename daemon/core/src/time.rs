//! Time as the core knows it: nanoseconds of `CLOCK_MONOTONIC`, always handed in, never read.

use crate::decimal::decimal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An instant of `CLOCK_MONOTONIC` in nanoseconds, the clock of `bpf_ktime_get_ns` (see `bpf-helpers(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct MonoTime(pub u64);

impl MonoTime {
    /// Nanoseconds since `earlier`; 0 when `earlier` is later.
    pub fn since(self, earlier: MonoTime) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// The same instant, where the time of this length until `at` does not count: this much later, and not behind `at`. It never moves
    /// back.
    pub fn skip(self, length: Span, at: MonoTime) -> MonoTime {
        MonoTime(self.0.saturating_add(length.0)).min(at).max(self)
    }
}

/// A length of time in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Span(pub u64);

impl Span {
    /// A span of whole milliseconds.
    pub const fn from_millis(ms: u64) -> Span {
        Span(ms * 1_000_000)
    }

    /// A span of whole seconds.
    pub const fn from_secs(s: u64) -> Span {
        Span(s * 1_000_000_000)
    }

    /// Reads `500 ms`, `3s`, `1.5h`, `2m` (or `2min`), `7d`, and several parts from the largest to the smallest: `1h30m`.
    /// Every duration of a policy, a catalogue and the configuration is read by it.
    pub fn parse(text: &str) -> Option<Span> {
        let mut rest = text.trim();
        let (mut total, mut larger) = (0u64, i64::MAX);
        loop {
            let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, tail) = rest.split_at(split);
            let tail = tail.trim_start();
            let end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (_, factor) = Span::UNITS.into_iter().find(|(name, _)| *name == &tail[..end])?;
            if factor >= larger {
                return None;
            }
            total = total.checked_add(u64::try_from(decimal(number, factor)??).ok()?)?;
            larger = factor;
            rest = tail[end..].trim_start();
            if rest.is_empty() {
                return Some(Span(total));
            }
        }
    }

    /// The units of durations, in nanoseconds.
    pub(crate) const UNITS: [(&str, i64); 7] = [
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("min", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ];
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0;
        match ns {
            0..1_000 => write!(f, "{ns} ns"),
            1_000..1_000_000 => write!(f, "{} us", ns / 1_000),
            1_000_000..1_000_000_000 => write!(f, "{}.{} ms", ns / 1_000_000, ns / 100_000 % 10),
            _ => write!(f, "{}.{} s", ns / 1_000_000_000, ns / 100_000_000 % 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_all_their_forms() {
        for (text, ns) in [
            ("0s", 0),
            ("250us", 250_000),
            ("500 ms", 500_000_000),
            (" 3s ", 3_000_000_000),
            ("1.5s", 1_500_000_000),
            ("2m", 120_000_000_000),
            ("2min", 120_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1h 30m 5s", 5_405_000_000_000),
            ("168h", 604_800_000_000_000),
            ("7d", 604_800_000_000_000),
        ] {
            assert_eq!(Span::parse(text), Some(Span(ns)), "{text}");
        }
        for bad in ["", "5", "s", "-5s", "5 x", "5m1h", "5s5s", "1..5s", ".s", "soon", "99999999999d", "5s,", "1e3s"] {
            assert_eq!(Span::parse(bad), None, "{bad}");
        }
    }
}

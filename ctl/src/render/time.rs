//! Times for people: local wall time, and how long something took or is ago.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

/// A wall time in `zone`, with milliseconds; `never` for 0.
pub fn wall(ns: i128, zone: &TimeZone) -> String {
    stamp(ns, zone, "%Y-%m-%d %H:%M:%S%.3f")
}

/// The same with microseconds and the offset from UTC, where exactness matters.
pub fn exact(ns: i128, zone: &TimeZone) -> String {
    stamp(ns, zone, "%Y-%m-%d %H:%M:%S%.6f %:z")
}

fn stamp(ns: i128, zone: &TimeZone, format: &str) -> String {
    if ns == 0 {
        return "never".to_owned();
    }
    match Timestamp::from_nanosecond(ns) {
        Ok(stamp) => stamp.to_zoned(zone.clone()).strftime(format).to_string(),
        Err(_) => format!("{ns} ns"),
    }
}

/// A signed distance in time, with three to four digits: `+1.234 ms`.
pub fn delta(ns: i128) -> String {
    let (sign, n) = if ns < 0 { ('-', -ns) } else { ('+', ns) };
    let (whole, rest, unit) = match n {
        0..1_000 => return format!("{sign}{n} ns"),
        1_000..1_000_000 => (n / 1_000, n % 1_000, "us"),
        1_000_000..1_000_000_000 => (n / 1_000_000, n / 1_000 % 1_000, "ms"),
        1_000_000_000..120_000_000_000 => (n / 1_000_000_000, n / 1_000_000 % 1_000, "s"),
        _ => return format!("{sign}{}", long(n / 1_000_000_000)),
    };
    format!("{sign}{whole}.{rest:03} {unit}")
}

/// A length of time of whole seconds, its two largest parts: `3d 4h`.
pub fn long(seconds: i128) -> String {
    let parts = [(seconds / 86_400, "d"), (seconds / 3_600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = parts.iter().position(|(n, _)| *n > 0).unwrap_or(3);
    let shown: Vec<String> =
        parts[first..].iter().take(2).filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// How long ago, by `now`.
pub fn ago(ns: i64, now: i64) -> String {
    if ns == 0 { "never".to_owned() } else { long(i128::from(now.saturating_sub(ns).max(0)) / 1_000_000_000) }
}

/// A time that somebody wrote: an age (`10m`), a time with a zone, or one of `zone`; nanoseconds since the epoch.
pub fn instant(text: &str, now: i64, zone: &TimeZone) -> Option<i64> {
    let text = text.trim();
    let ns = |at: Timestamp| i64::try_from(at.as_nanosecond()).ok();
    // As policies write durations; jiff has no days here.
    if let Some(age) = failsafe_core::time::Span::parse(text) {
        return now.checked_sub(i64::try_from(age.0).ok()?);
    }
    if let Ok(age) = text.parse::<SignedDuration>() {
        return now.checked_sub(i64::try_from(age.unsigned_abs().as_nanos()).ok()?);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return ns(at);
    }
    text.parse::<DateTime>().ok()?.to_zoned(zone.clone()).ok().and_then(|at| ns(at.timestamp()))
}

/// Now, nanoseconds since the epoch.
pub fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_times_are_understood() {
        let now = 1_700_000_000_000_000_000;
        let at = |text| instant(text, now, &TimeZone::UTC);
        assert_eq!(at("10m"), Some(now - 600_000_000_000));
        assert_eq!(at("-2h"), Some(now - 7_200_000_000_000));
        assert_eq!(at("7d"), Some(now - 604_800_000_000_000));
        assert_eq!(at("1h30m"), Some(now - 5_400_000_000_000));
        assert_eq!(at("5min"), Some(now - 300_000_000_000));
        assert_eq!(at("1970-01-01T00:00:01Z"), Some(1_000_000_000));
        assert_eq!(at("1970-01-02"), Some(86_400_000_000_000));
        assert_eq!(at("1970-01-01 00:01"), Some(60_000_000_000));
        for bad in ["", "soon", "10", "2026-13-01"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_read_well() {
        let ns = 1_795_469_696_123_456_789;
        assert_eq!(wall(ns, &TimeZone::UTC), "2026-11-23 21:34:56.123");
        let cet = TimeZone::fixed(jiff::tz::offset(1));
        assert_eq!(exact(ns, &cet), "2026-11-23 22:34:56.123456 +01:00");
        assert_eq!(wall(0, &cet), "never");
        assert_eq!(wall(i128::MAX, &cet), format!("{} ns", i128::MAX));
    }

    #[test]
    fn distances_read_well() {
        for (ns, text) in [
            (0, "+0 ns"),
            (999, "+999 ns"),
            (81_234, "+81.234 us"),
            (-1_500_000, "-1.500 ms"),
            (2_000_000_000, "+2.000 s"),
            (7_380_000_000_000, "+2h 3m"),
            (86_400_000_000_000, "+1d"),
        ] {
            assert_eq!(delta(ns), text);
        }
        assert_eq!(long(0), "0s");
        assert_eq!(ago(5_000_000_000, 66_000_000_000), "1m 1s");
    }
}

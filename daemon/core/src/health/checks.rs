//! The thresholds: which values of a GPU speak against it. One table; where each figure comes from stands beside it.
//!
//! Owns the last values and the windows of counters. A check trips when its value has been bad for `hold`, and clears when
//! it has been good for `clear`.

mod fabric;
pub(in crate::health) mod table;

use super::thresholds::{Bounds, Thresholds};
use crate::{
    signal::Kind,
    time::{MonoTime, Span},
};
use std::collections::{BTreeMap, VecDeque};
use table::{CHECKS, Check, MINUTE, Test, text};

/// A day.
pub(super) const DAY: Span = Span::from_secs(86_400);
/// Points of one window; a window thins out rather than grow.
const POINTS: usize = 256;

/// What a check found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CheckResult {
    Nothing,
    Bad(String),
    Cleared,
}

/// What the checks of one GPU remember.
#[derive(Debug, Clone, Default)]
pub(super) struct Checks {
    last: BTreeMap<Kind, i64>,
    peak: BTreeMap<&'static str, i64>,
    windows: BTreeMap<&'static str, VecDeque<(MonoTime, i64)>>,
    bad_since: BTreeMap<&'static str, MonoTime>,
    good_since: BTreeMap<&'static str, MonoTime>,
}

impl Checks {
    /// Checks that know the highest values of an earlier time.
    pub(super) fn with_peaks(kept: &BTreeMap<String, i64>) -> Checks {
        let peak = CHECKS.iter().filter_map(|check| Some((check.code, *kept.get(check.code)?))).collect();
        Checks { peak, ..Checks::default() }
    }

    /// The highest values, by the check's code.
    pub(super) fn peaks(&self) -> BTreeMap<String, i64> {
        self.peak.iter().map(|(code, value)| ((*code).to_owned(), *value)).collect()
    }

    /// The last value of a kind.
    pub(super) fn last(&self, kind: &Kind) -> Option<i64> {
        self.last.get(kind).copied()
    }

    /// A value: what each check on it finds. `peers` is the highest value of comparable GPUs of the node.
    pub(super) fn value(
        &mut self,
        thresholds: &Thresholds,
        kind: &Kind,
        value: i64,
        peers: Option<i64>,
        at: MonoTime,
    ) -> Vec<(&'static Check, CheckResult)> {
        if !judges(kind) {
            return Vec::new();
        }
        let before = self.last.insert(kind.clone(), value);
        thresholds
            .checks()
            .filter(|(check, _)| check.kind == *kind)
            .map(|(check, bounds)| {
                let found = match self.bad(check, bounds, value, before, peers, at) {
                    Some(bad) => self.judge(check, bounds, bad, value, at),
                    None => {
                        self.good_since.remove(check.code);
                        self.bad_since.remove(check.code);
                        CheckResult::Nothing
                    }
                };
                (check, found)
            })
            .filter(|(_, found)| *found != CheckResult::Nothing)
            .collect()
    }

    fn judge(&mut self, check: &'static Check, bounds: Bounds, bad: bool, value: i64, at: MonoTime) -> CheckResult {
        if bad {
            self.good_since.remove(check.code);
            let since = *self.bad_since.entry(check.code).or_insert(at);
            let held = at.since(since) >= bounds.hold;
            return if held { CheckResult::Bad(text(check, bounds, value)) } else { CheckResult::Nothing };
        }
        self.bad_since.remove(check.code);
        let since = *self.good_since.entry(check.code).or_insert(at);
        if at.since(since) >= bounds.clear { CheckResult::Cleared } else { CheckResult::Nothing }
    }

    /// Whether the value is bad; `None` where it says nothing now.
    fn bad(
        &mut self,
        check: &'static Check,
        bounds: Bounds,
        value: i64,
        before: Option<i64>,
        peers: Option<i64>,
        at: MonoTime,
    ) -> Option<bool> {
        let other = |kind: &Kind| self.last.get(kind).copied();
        let Bounds { bound, within, busy, .. } = bounds;
        if check.busy().is_some_and(|kind| other(kind).is_none_or(|value| value < busy)) {
            return None;
        }
        Some(match &check.test {
            Test::Above => value > bound,
            Test::SumAbove(kind) => value.saturating_add(other(kind).unwrap_or(0)) > bound,
            Test::Reaches(kind) => other(kind).is_some_and(|bound| bound > 0 && value >= bound),
            Test::Below(kind) | Test::BelowWhile(kind, _) => {
                other(kind).is_some_and(|bound| value > 0 && value < bound)
            }
            Test::AtMost | Test::AtMostWhile(_) => value <= bound,
            Test::BelowPeers => value < peers?.saturating_sub(bound),
            Test::NoneOfWhen(values, kind, is) => other(kind)? == *is && !values.contains(&value),
            Test::FabricHealth => !fabric::faults(value).is_empty(),
            Test::OneOf(values) => values.contains(&value),
            Test::NoneOf(values) => !values.contains(&value),
            Test::BelowPeak => {
                let peak = self.peak.entry(check.code).or_insert(value);
                *peak = (*peak).max(value);
                value < if bound > 0 { bound } else { *peak }
            }
            Test::Grows => self.growth(check.code, value, within, at) > bound,
            Test::ComesOn(mask) => {
                let came = value & mask != 0 && before.is_some_and(|before| before & mask == 0);
                let total = self.windows.get(check.code).and_then(|w| w.back()).map_or(0, |(_, total)| *total);
                self.growth(check.code, total + i64::from(came), within, at) >= bound
            }
            Test::On(mask) => value & mask != 0,
            Test::PcieReplays => {
                let link = other(&Kind::GpuPcieGeneration).zip(other(&Kind::GpuPcieWidth));
                let grown = self.growth(check.code, value, MINUTE, at);
                link.is_some_and(|(generation, width)| grown > replay_limit(generation, width))
            }
        })
    }

    fn growth(&mut self, code: &'static str, total: i64, within: Span, at: MonoTime) -> i64 {
        let window = self.windows.entry(code).or_default();
        if window.back().is_some_and(|(_, last)| *last > total) {
            // The counter was reset: what was before says nothing of what is now.
            window.clear();
        }
        while window.get(1).is_some_and(|(next, _)| at.since(*next) >= within) {
            window.pop_front();
        }
        // Many samples in a long window: only changes, and a few of the rest, are worth a point.
        let dense = window.len() >= POINTS;
        match window.back_mut() {
            Some((_, last)) if *last == total => {}
            Some((_, last)) if dense => *last = total,
            _ => window.push_back((at, total)),
        }
        window.front().map_or(0, |(_, first)| total.saturating_sub(*first))
    }
}

/// Replays a minute that a bit error rate of 10^-12 gives: gigatransfers a second, times 60, times lanes, over 1000.
fn replay_limit(generation: i64, width: i64) -> i64 {
    let hundred_mt = match generation {
        ..=1 => 25,
        2 => 50,
        3 => 80,
        4 => 160,
        5 => 320,
        _ => 640,
    };
    let limit = hundred_mt * 60 * width.clamp(1, 32);
    limit / 10_000 + i64::from(limit % 10_000 > 0)
}

/// Whether the reason is a check's.
pub(super) fn is_code(code: &str) -> bool {
    CHECKS.iter().any(|check| check.code == code)
}

/// Whether a GPU is judged by it.
pub(super) fn judges(kind: &Kind) -> bool {
    CHECKS.iter().any(|check| concerns(check, kind))
}

fn concerns(check: &Check, kind: &Kind) -> bool {
    check.kind == *kind
        || match &check.test {
            Test::SumAbove(other)
            | Test::Reaches(other)
            | Test::Below(other)
            | Test::AtMostWhile(other)
            | Test::NoneOfWhen(_, other, _) => other == kind,
            Test::BelowWhile(other, busy) => other == kind || busy == kind,
            Test::BelowPeers => *kind == Kind::GpuNvlinkLinks,
            Test::PcieReplays => matches!(kind, Kind::GpuPcieGeneration | Kind::GpuPcieWidth),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replays_are_judged_by_the_links_speed_and_width() {
        assert_eq!(replay_limit(5, 16), 31);
        assert_eq!(replay_limit(4, 16), 16);
        assert_eq!(replay_limit(3, 8), 4);
        assert_eq!(replay_limit(1, 1), 1);
    }

    #[test]
    fn a_long_window_stays_small() {
        let (mut checks, thresholds) = (Checks::default(), Thresholds::built_in().unwrap());
        for i in 0..10_000i64 {
            let at = MonoTime(u64::try_from(i).unwrap() * 50_000_000);
            checks.value(&thresholds, &Kind::GpuPcieUncorrectable, i, None, at);
        }
        assert!(checks.windows["pcie-uncorrectable"].len() <= POINTS);
    }
}

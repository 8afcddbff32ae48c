//! The thresholds: which values of a GPU speak against it. One table; where each figure comes from stands beside it.
//!
//! Owns the last values and the windows of counters. A check trips when its value has been bad for `hold`, and clears when
//! it has been good for `clear`.

use super::level::Level;
use crate::{
    signal::Kind,
    time::{MonoTime, Span},
    xid::Advice,
};
use std::collections::{BTreeMap, VecDeque};

/// A day.
pub(super) const DAY: Span = Span::from_secs(86_400);
/// Points of one window; a window thins out rather than grow.
const POINTS: usize = 256;
/// NVML's clock event reasons for which hardware slows down: slowdown, thermal slowdown, power brake.
const HW_SLOWDOWN: i64 = 0x8 | 0x40 | 0x80;

/// When a value is bad.
#[derive(Debug)]
enum Test {
    /// Above this.
    Above(i64),
    /// With another kind's value, above this.
    SumAbove(Kind, i64),
    /// At or above the value of another kind.
    Reaches(Kind),
    /// Below the value of another kind.
    Below(Kind),
    /// Below the highest value seen.
    BelowPeak,
    /// At or below this.
    AtMost(i64),
    /// One of these.
    OneOf(&'static [i64]),
    /// A total that grows by more than this within the window.
    Grows(i64, Span),
    /// One of the bits comes on at least so often within the window.
    ComesOn(i64, usize, Span),
    /// PCIe replays a minute above what the link's speed and width excuse.
    PcieReplays,
}

/// A check.
#[derive(Debug)]
pub(super) struct Check {
    /// The reason's code.
    pub code: &'static str,
    kind: Kind,
    test: Test,
    hold: Span,
    clear: Span,
    /// What it makes of the GPU.
    pub level: Level,
    /// What to do.
    pub advice: Advice,
}

/// What a check found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Bad(String),
    Cleared,
}

const AT_ONCE: Span = Span(0);
const MINUTE: Span = Span::from_secs(60);
const TEN_MINUTES: Span = Span::from_secs(600);

const fn check(
    code: &'static str,
    kind: Kind,
    test: Test,
    (hold, clear): (Span, Span),
    level: Level,
    advice: Advice,
) -> Check {
    Check { code, kind, test, hold, clear, level, advice }
}

static CHECKS: [Check; 23] = [
    // DCGM fails a GPU at 63 retired pages, and looks askance at more than 15 from double-bit errors.
    check(
        "retired-pages",
        Kind::GpuRetiredPagesDouble,
        Test::SumAbove(Kind::GpuRetiredPagesSingle, 62),
        (AT_ONCE, MINUTE),
        Level::Unhealthy,
        Advice::ContactSupport,
    ),
    check(
        "retired-pages-double-bit",
        Kind::GpuRetiredPagesDouble,
        Test::Above(15),
        (AT_ONCE, MINUTE),
        Level::Degraded,
        Advice::ContactSupport,
    ),
    check(
        "retired-pages-pending",
        Kind::GpuRetiredPagesPending,
        Test::Above(0),
        (AT_ONCE, MINUTE),
        Level::Degraded,
        Advice::ResetGpu,
    ),
    // gpud: pending wants a reset, failure an inspection. DCGM: 512 uncorrectable remaps are the end.
    check(
        "row-remap-pending",
        Kind::GpuRemappedRowsPending,
        Test::Above(0),
        (AT_ONCE, MINUTE),
        Level::Degraded,
        Advice::ResetGpu,
    ),
    check(
        "row-remap-failure",
        Kind::GpuRemappedRowsFailure,
        Test::Above(0),
        (AT_ONCE, MINUTE),
        Level::Unhealthy,
        Advice::InspectHardware,
    ),
    check(
        "row-remaps",
        Kind::GpuRemappedRowsUncorrectable,
        Test::Above(511),
        (AT_ONCE, MINUTE),
        Level::Unhealthy,
        Advice::ContactSupport,
    ),
    check(
        "row-remap-banks",
        Kind::GpuRemapBanksExhausted,
        Test::Above(0),
        (AT_ONCE, MINUTE),
        Level::Degraded,
        Advice::ContactSupport,
    ),
    check(
        "ecc-uncorrected",
        Kind::GpuEccUncorrected,
        Test::Above(0),
        (AT_ONCE, MINUTE),
        Level::Degraded,
        Advice::ResetGpu,
    ),
    check(
        "ecc-storm",
        Kind::GpuEccUncorrected,
        Test::Grows(9, TEN_MINUTES),
        (AT_ONCE, TEN_MINUTES),
        Level::Unhealthy,
        Advice::ResetGpu,
    ),
    // NVIDIA's own flag: with it, the card is to be replaced.
    check(
        "ecc-sram-threshold",
        Kind::GpuEccSramThreshold,
        Test::Above(0),
        (AT_ONCE, MINUTE),
        Level::Unhealthy,
        Advice::ContactSupport,
    ),
    check(
        "pcie-replays",
        Kind::GpuPcieReplays,
        Test::PcieReplays,
        (AT_ONCE, TEN_MINUTES),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "pcie-uncorrectable",
        Kind::GpuPcieUncorrectable,
        Test::Grows(0, TEN_MINUTES),
        (AT_ONCE, TEN_MINUTES),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "pcie-width",
        Kind::GpuPcieWidth,
        Test::Below(Kind::GpuPcieWidthMax),
        (MINUTE, MINUTE),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    // gpud: 0.6 a minute over ten minutes.
    check(
        "hw-slowdown",
        Kind::GpuThrottle,
        Test::ComesOn(HW_SLOWDOWN, 6, TEN_MINUTES),
        (AT_ONCE, TEN_MINUTES),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "temperature-slowdown",
        Kind::GpuTemperature,
        Test::Reaches(Kind::GpuTemperatureSlowdown),
        (Span::from_secs(30), TEN_MINUTES),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "temperature-shutdown",
        Kind::GpuTemperature,
        Test::Reaches(Kind::GpuTemperatureShutdown),
        (AT_ONCE, TEN_MINUTES),
        Level::Unhealthy,
        Advice::InspectHardware,
    ),
    // Hopper and later give no threshold but the distance to it.
    check(
        "temperature-margin",
        Kind::GpuTemperatureMargin,
        Test::AtMost(0),
        (Span::from_secs(30), TEN_MINUTES),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "memory-temperature",
        Kind::GpuMemoryTemperature,
        Test::Reaches(Kind::GpuMemoryTemperatureLimit),
        (Span::from_secs(30), TEN_MINUTES),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    // DCGM: one replay or recovery, or 100 CRC errors a second.
    check(
        "nvlink-crc",
        Kind::GpuNvlinkCrcErrors,
        Test::Grows(1_000, Span::from_secs(10)),
        (AT_ONCE, TEN_MINUTES),
        Level::Degraded,
        Advice::FollowWorkflow,
    ),
    check(
        "nvlink-replays",
        Kind::GpuNvlinkReplays,
        Test::Grows(0, MINUTE),
        (AT_ONCE, TEN_MINUTES),
        Level::Degraded,
        Advice::FollowWorkflow,
    ),
    check(
        "nvlink-recoveries",
        Kind::GpuNvlinkRecoveries,
        Test::Grows(0, MINUTE),
        (AT_ONCE, TEN_MINUTES),
        Level::Degraded,
        Advice::FollowWorkflow,
    ),
    check(
        "nvlink-down",
        Kind::GpuNvlinkActive,
        Test::BelowPeak,
        (Span::from_secs(30), MINUTE),
        Level::Degraded,
        Advice::FollowWorkflow,
    ),
    // NVML's field 230: 1 reset, 2 reboot, 4 drain and reset. 3, drain P2P, leaves the GPU usable by itself.
    check(
        "recovery-action",
        Kind::GpuRecoveryAction,
        Test::OneOf(&[1, 2, 4]),
        (AT_ONCE, MINUTE),
        Level::Unhealthy,
        Advice::AskDriver,
    ),
];

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
    /// A value: what each check on it finds.
    pub(super) fn value(&mut self, kind: &Kind, value: i64, at: MonoTime) -> Vec<(&'static Check, Found)> {
        if !CHECKS.iter().any(|check| concerns(check, kind)) {
            return Vec::new();
        }
        let before = self.last.insert(kind.clone(), value);
        CHECKS
            .iter()
            .filter(|check| check.kind == *kind)
            .map(|check| {
                let bad = self.bad(check, value, before, at);
                (check, self.judge(check, bad, value, at))
            })
            .filter(|(_, found)| *found != Found::Nothing)
            .collect()
    }

    fn judge(&mut self, check: &'static Check, bad: bool, value: i64, at: MonoTime) -> Found {
        if bad {
            self.good_since.remove(check.code);
            let since = *self.bad_since.entry(check.code).or_insert(at);
            return if at.since(since) >= check.hold { Found::Bad(text(check, value)) } else { Found::Nothing };
        }
        self.bad_since.remove(check.code);
        let since = *self.good_since.entry(check.code).or_insert(at);
        if at.since(since) >= check.clear { Found::Cleared } else { Found::Nothing }
    }

    fn bad(&mut self, check: &'static Check, value: i64, before: Option<i64>, at: MonoTime) -> bool {
        let other = |kind: &Kind| self.last.get(kind).copied();
        match &check.test {
            Test::Above(bound) => value > *bound,
            Test::SumAbove(kind, bound) => value.saturating_add(other(kind).unwrap_or(0)) > *bound,
            Test::Reaches(kind) => other(kind).is_some_and(|bound| bound > 0 && value >= bound),
            Test::Below(kind) => other(kind).is_some_and(|bound| value > 0 && value < bound),
            Test::AtMost(bound) => value <= *bound,
            Test::OneOf(values) => values.contains(&value),
            Test::BelowPeak => {
                let peak = self.peak.entry(check.code).or_insert(value);
                *peak = (*peak).max(value);
                value < *peak
            }
            Test::Grows(more_than, within) => self.growth(check.code, value, *within, at) > *more_than,
            Test::ComesOn(mask, times, within) => {
                let came = value & mask != 0 && before.is_some_and(|before| before & mask == 0);
                let total = self.windows.get(check.code).and_then(|w| w.back()).map_or(0, |(_, total)| *total);
                let grown = self.growth(check.code, total + i64::from(came), *within, at);
                grown >= i64::try_from(*times).unwrap_or(i64::MAX)
            }
            Test::PcieReplays => {
                let link = other(&Kind::GpuPcieGeneration).zip(other(&Kind::GpuPcieWidth));
                let grown = self.growth(check.code, value, MINUTE, at);
                link.is_some_and(|(generation, width)| grown > replay_limit(generation, width))
            }
        }
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

fn concerns(check: &Check, kind: &Kind) -> bool {
    check.kind == *kind
        || match &check.test {
            Test::SumAbove(other, _) | Test::Reaches(other) | Test::Below(other) => other == kind,
            Test::PcieReplays => matches!(kind, Kind::GpuPcieGeneration | Kind::GpuPcieWidth),
            _ => false,
        }
}

fn text(check: &Check, value: i64) -> String {
    let kind = &check.kind;
    let saw = format!("{kind} is {}", kind.unit().show(value));
    match &check.test {
        Test::Above(bound) => format!("{saw}, above {}", kind.unit().show(*bound)),
        Test::SumAbove(other, bound) => format!("{saw}, with {other} above {bound}"),
        Test::Reaches(other) => format!("{saw}, at or above {other}"),
        Test::Below(other) => format!("{saw}, below {other}"),
        Test::BelowPeak => format!("{saw}, fewer than there were"),
        Test::AtMost(bound) => format!("{saw}, at most {}", kind.unit().show(*bound)),
        Test::OneOf(_) => format!("{saw}: {}", recovery(value)),
        Test::Grows(by, within) => format!("{saw}, grown by more than {by} within {within}"),
        Test::ComesOn(_, times, within) => format!("{saw}: hardware slowed down {times} times within {within}"),
        Test::PcieReplays => format!("{saw}, grown within a minute by more than the link's speed and width excuse"),
    }
}

/// What NVML's field 230 asks for.
fn recovery(value: i64) -> &'static str {
    match value {
        1 => "the driver asks for a GPU reset",
        2 => "the driver asks for a reboot",
        4 => "the driver asks to drain the GPU and reset it",
        _ => "the driver asks for an action",
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
        let mut checks = Checks::default();
        for i in 0..10_000i64 {
            let at = MonoTime(u64::try_from(i).unwrap() * 50_000_000);
            checks.value(&Kind::GpuPcieUncorrectable, i, at);
        }
        assert!(checks.windows["pcie-uncorrectable"].len() <= POINTS);
    }
}

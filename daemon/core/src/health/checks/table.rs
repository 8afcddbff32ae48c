//! The table of thresholds, and how each is told.

use super::super::level::Level;
use crate::{signal::Kind, time::Span, xid::Advice};

/// NVML's clock event reasons for which hardware slows down: slowdown, thermal slowdown, power brake.
const HW_SLOWDOWN: i64 = 0x8 | 0x40 | 0x80;

/// When a value is bad.
#[derive(Debug)]
pub(super) enum Test {
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
pub(in crate::health) struct Check {
    /// The reason's code.
    pub(in crate::health) code: &'static str,
    pub(super) kind: Kind,
    pub(super) test: Test,
    pub(super) hold: Span,
    pub(super) clear: Span,
    /// What it makes of the GPU.
    pub(in crate::health) level: Level,
    /// What to do.
    pub(in crate::health) advice: Advice,
}

const AT_ONCE: Span = Span(0);
pub(super) const MINUTE: Span = Span::from_secs(60);
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

pub(super) static CHECKS: [Check; 23] = [
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

pub(super) fn text(check: &Check, value: i64) -> String {
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

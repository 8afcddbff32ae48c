//! What is looked at, and how each finding is told. The numbers are [`crate::health::Thresholds`].

use super::{
    super::{level::Level, recovery, thresholds::Bounds},
    fabric,
};
use crate::{signal::Kind, time::Span, xid::Advice};

/// NVML's clock event reasons for which hardware slows down: slowdown, thermal slowdown, power brake.
const HW_SLOWDOWN: i64 = 0x8 | 0x40 | 0x80;

/// When a value is bad.
#[derive(Debug)]
pub(in crate::health) enum Test {
    /// Above the bound.
    Above,
    /// With another kind's value, above the bound.
    SumAbove(Kind),
    /// At or above the value of another kind.
    Reaches(Kind),
    /// Below the value of another kind.
    Below(Kind),
    /// Below the highest value seen.
    BelowPeak,
    /// Below the highest of the node's GPUs with as many NVLinks, by more than the bound.
    BelowPeers,
    /// Below the value of another kind, while a third is at least `busy`.
    BelowWhile(Kind, Kind),
    /// At or below the bound.
    AtMost,
    /// At or below the bound, while another kind is at least `busy`.
    AtMostWhile(Kind),
    /// One of these.
    OneOf(&'static [i64]),
    /// None of these: what is not known is bad.
    NoneOf(&'static [i64]),
    /// None of these, while another kind has this value.
    NoneOfWhen(&'static [i64], Kind, i64),
    /// NVML's mask of the fabric's health has a field that reports a fault.
    FabricHealth,
    /// A total that grows by more than the bound within the window.
    Grows,
    /// One of the bits comes on at least so often within the window.
    ComesOn(i64),
    /// One of the bits is on.
    On(i64),
    /// PCIe replays a minute above what the link's speed and width excuse.
    PcieReplays,
}

/// A check.
#[derive(Debug)]
pub(in crate::health) struct Check {
    /// The reason's code.
    pub(in crate::health) code: &'static str,
    pub(in crate::health) kind: Kind,
    pub(in crate::health) test: Test,
    /// What it makes of the GPU.
    pub(in crate::health) level: Level,
    /// What to do.
    pub(in crate::health) advice: Advice,
}

impl Check {
    /// The kind that tells whether the check applies now; its value must be at least `busy`.
    pub(in crate::health) fn busy(&self) -> Option<&Kind> {
        match &self.test {
            Test::AtMostWhile(busy) | Test::BelowWhile(_, busy) => Some(busy),
            _ => None,
        }
    }
}

pub(super) const MINUTE: Span = Span::from_secs(60);

const fn check(code: &'static str, kind: Kind, test: Test, level: Level, advice: Advice) -> Check {
    Check { code, kind, test, level, advice }
}

pub(in crate::health) static CHECKS: [Check; 35] = [
    check(
        "retired-pages",
        Kind::GpuRetiredPagesDouble,
        Test::SumAbove(Kind::GpuRetiredPagesSingle),
        Level::Unhealthy,
        Advice::ContactSupport,
    ),
    check(
        "retired-pages-double-bit",
        Kind::GpuRetiredPagesDouble,
        Test::Above,
        Level::Degraded,
        Advice::ContactSupport,
    ),
    check("retired-pages-pending", Kind::GpuRetiredPagesPending, Test::Above, Level::Degraded, Advice::ResetGpu),
    check("row-remap-pending", Kind::GpuRemappedRowsPending, Test::Above, Level::Degraded, Advice::ResetGpu),
    check("row-remap-failure", Kind::GpuRemappedRowsFailure, Test::Above, Level::Unhealthy, Advice::InspectHardware),
    check("row-remaps", Kind::GpuRemappedRowsUncorrectable, Test::Above, Level::Unhealthy, Advice::ContactSupport),
    check("row-remap-banks", Kind::GpuRemapBanksExhausted, Test::Above, Level::Degraded, Advice::ContactSupport),
    check("ecc-uncorrected", Kind::GpuEccUncorrected, Test::Above, Level::Degraded, Advice::ResetGpu),
    check("ecc-storm", Kind::GpuEccUncorrected, Test::Grows, Level::Unhealthy, Advice::ResetGpu),
    check("ecc-sram-threshold", Kind::GpuEccSramThreshold, Test::Above, Level::Unhealthy, Advice::ContactSupport),
    check("pcie-replays", Kind::GpuPcieReplays, Test::PcieReplays, Level::Degraded, Advice::InspectHardware),
    check("pcie-uncorrectable", Kind::GpuPcieUncorrectable, Test::Grows, Level::Degraded, Advice::InspectHardware),
    check(
        "pcie-width",
        Kind::GpuPcieWidth,
        Test::Below(Kind::GpuPcieWidthMax),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check("hw-slowdown", Kind::GpuThrottle, Test::ComesOn(HW_SLOWDOWN), Level::Degraded, Advice::InspectHardware),
    check("hw-slowdown-held", Kind::GpuThrottle, Test::On(HW_SLOWDOWN), Level::Degraded, Advice::InspectHardware),
    check(
        "temperature-slowdown",
        Kind::GpuTemperature,
        Test::Reaches(Kind::GpuTemperatureSlowdown),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "temperature-shutdown",
        Kind::GpuTemperature,
        Test::Reaches(Kind::GpuTemperatureShutdown),
        Level::Unhealthy,
        Advice::InspectHardware,
    ),
    check("temperature-margin", Kind::GpuTemperatureMargin, Test::AtMost, Level::Degraded, Advice::InspectHardware),
    check(
        "memory-temperature",
        Kind::GpuMemoryTemperature,
        Test::Reaches(Kind::GpuMemoryTemperatureLimit),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check("nvlink-crc", Kind::GpuNvlinkCrcErrors, Test::Grows, Level::Degraded, Advice::FollowWorkflow),
    check("nvlink-replays", Kind::GpuNvlinkReplays, Test::Grows, Level::Degraded, Advice::FollowWorkflow),
    check("nvlink-recoveries", Kind::GpuNvlinkRecoveries, Test::Grows, Level::Degraded, Advice::FollowWorkflow),
    check("nvlink-down", Kind::GpuNvlinkActive, Test::BelowPeak, Level::Degraded, Advice::FollowWorkflow),
    check(
        recovery::ACTION,
        Kind::GpuRecoveryAction,
        Test::NoneOf(recovery::USABLE),
        Level::Unhealthy,
        Advice::AskDriver,
    ),
    check("memory-total", Kind::GpuMemoryTotal, Test::AtMost, Level::Degraded, Advice::InspectHardware),
    check(
        "pcie-generation",
        Kind::GpuPcieGeneration,
        Test::BelowWhile(Kind::GpuPcieGenerationMax, Kind::GpuUtilization),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "power-stuck",
        Kind::GpuPower,
        Test::AtMostWhile(Kind::GpuUtilization),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "temperature-stuck",
        Kind::GpuTemperature,
        Test::AtMostWhile(Kind::GpuUtilization),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "clock-stuck",
        Kind::GpuClockSm,
        Test::AtMostWhile(Kind::GpuUtilization),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check(
        "fan-stopped",
        Kind::GpuFanRpm,
        Test::AtMostWhile(Kind::GpuFanTarget),
        Level::Degraded,
        Advice::InspectHardware,
    ),
    check("nvlink-fewer-than-peers", Kind::GpuNvlinkActive, Test::BelowPeers, Level::Degraded, Advice::FollowWorkflow),
    // 0: the GPU is on no fabric. 3: registered.
    check("fabric-state", Kind::GpuFabricState, Test::NoneOf(&[0, 3]), Level::Degraded, Advice::FollowWorkflow),
    check(
        "fabric-status",
        Kind::GpuFabricStatus,
        Test::NoneOfWhen(&[0], Kind::GpuFabricState, 3),
        Level::Degraded,
        Advice::FollowWorkflow,
    ),
    check("fabric-health", Kind::GpuFabricHealth, Test::FabricHealth, Level::Degraded, Advice::FollowWorkflow),
    check(recovery::DRAIN_P2P, Kind::GpuRecoveryAction, Test::OneOf(&[3]), Level::Degraded, Advice::DrainGpu),
];

pub(super) fn text(check: &Check, bounds: Bounds, value: i64) -> String {
    let kind = &check.kind;
    let Bounds { bound, within, .. } = bounds;
    let saw = format!("{kind} is {}", kind.unit().show(value));
    match &check.test {
        Test::Above => format!("{saw}, above {}", kind.unit().show(bound)),
        Test::SumAbove(other) => format!("{saw}, with {other} above {bound}"),
        Test::Reaches(other) => format!("{saw}, at or above {other}"),
        Test::Below(other) => format!("{saw}, below {other}"),
        Test::BelowPeak if bound > 0 => format!("{saw}, expected {bound}"),
        Test::BelowPeak => format!("{saw}, fewer than there were"),
        Test::BelowPeers => format!("{saw}, fewer than on another GPU of the node with as many links"),
        Test::AtMost => format!("{saw}, at most {}", kind.unit().show(bound)),
        Test::BelowWhile(other, busy) => {
            format!("{saw}, below {other} while {busy} is at least {}", at_least(busy, bounds))
        }
        Test::AtMostWhile(busy) => format!("{saw} while {busy} is at least {}", at_least(busy, bounds)),
        Test::NoneOfWhen(..) => format!("{saw}: the registration with the fabric failed with this error of NVML"),
        Test::FabricHealth => format!("{saw}: {}", fabric::faults(value).join(", ")),
        Test::OneOf(_) | Test::NoneOf(_) if *kind == Kind::GpuFabricState => {
            format!("{saw}: the GPU is not registered with the NVLink fabric")
        }
        Test::OneOf(_) | Test::NoneOf(_) => match recovery::asks(value) {
            Some(asks) => format!("{saw}: {}", asks.text),
            None => saw,
        },
        Test::Grows => format!("{saw}, grown by more than {bound} within {within}"),
        Test::ComesOn(_) => format!("{saw}: hardware slowed down {bound} times within {within}"),
        Test::On(_) => format!("{saw}: hardware has held it back for {}", bounds.hold),
        Test::PcieReplays => format!("{saw}, grown within a minute by more than the link's speed and width excuse"),
    }
}

fn at_least(busy: &Kind, bounds: Bounds) -> String {
    busy.unit().show(bounds.busy)
}

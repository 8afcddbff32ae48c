//! The board: its fans, and the range of its power limits.

use super::{Reader, groups::thousand};
use crate::sensors::nvml::sampler::raw;
use failsafe_core::signal::Kind;
use nvml_wrapper::{Device, error::NvmlError};

/// Fans that a board can have; more is a driver that says nonsense.
const MOST_FANS: u32 = 32;

/// What there is of a board with fans only.
const HANG_ON_FANS: [Kind; 5] =
    [Kind::GpuFanSpeed, Kind::GpuFanSpeedMax, Kind::GpuFanTarget, Kind::GpuFanRpm, Kind::GpuFansManual];

impl Reader {
    /// The fans of a board that has some; a module that its machine cools has none.
    pub(super) fn fans(&mut self) {
        if !self.wanted(&Kind::GpuFans) && HANG_ON_FANS.iter().all(|kind| !self.wanted(kind)) {
            return;
        }
        let count = |n: &u32| (*n > 0).then(|| i64::from(*n));
        let fans = self.first("nvmlDeviceGetNumFans", (Kind::GpuFans, count), |d| d.num_fans());
        let Some(fans) = fans.filter(|fans| *fans <= MOST_FANS) else {
            return self.without_fans();
        };
        self.one(
            "nvmlDeviceGetFanSpeed_v2",
            [
                // Of several fans the slowest is the one that may have failed.
                (Kind::GpuFanSpeed, |speeds: &Vec<u32>| speeds.iter().min().map(|s| thousand(*s))),
                (Kind::GpuFanSpeedMax, |speeds| speeds.iter().max().map(|s| thousand(*s))),
            ],
            |d| each(d, fans, |d, fan| d.fan_speed(fan)),
        );
        self.one(
            "nvmlDeviceGetTargetFanSpeed",
            [(Kind::GpuFanTarget, |speeds: &Vec<u32>| speeds.iter().max().map(|s| thousand(*s)))],
            |d| each(d, fans, raw::fan_target),
        );
        self.one(
            "nvmlDeviceGetFanSpeedRPM",
            [(Kind::GpuFanRpm, |turns: &Vec<u32>| turns.iter().min().map(|n| i64::from(*n)))],
            |d| each(d, fans, raw::fan_rpm),
        );
        let manual = |manual: &Vec<bool>| i64::try_from(manual.iter().filter(|it| **it).count()).ok();
        self.one("nvmlDeviceGetFanControlPolicy_v2", [(Kind::GpuFansManual, manual)], |d| {
            each(d, fans, raw::fan_is_manual)
        });
    }

    fn without_fans(&mut self) {
        // Where it is not known how many there are, it is not known either that there are none.
        if self.absent.contains(&Kind::GpuFans) {
            for kind in HANG_ON_FANS {
                if !self.absent.contains(&kind) {
                    self.lacks(kind);
                }
            }
        }
    }

    /// What the power limit can be set to, what it was set to, and the board's own. They change when somebody changes them.
    pub(super) fn power_limits(&mut self) {
        let mw = |mw: &u32| Some(i64::from(*mw));
        self.one("nvmlDeviceGetPowerManagementDefaultLimit", [(Kind::GpuPowerLimitDefault, mw)], |d| {
            d.power_management_limit_default()
        });
        self.one("nvmlDeviceGetPowerManagementLimit", [(Kind::GpuPowerLimitSet, mw)], |d| d.power_management_limit());
        self.one(
            "nvmlDeviceGetPowerManagementLimitConstraints",
            [
                (Kind::GpuPowerLimitMin, |range: &(u32, u32)| Some(i64::from(range.0))),
                (Kind::GpuPowerLimitMax, |range| Some(i64::from(range.1))),
            ],
            |d| d.power_management_limit_constraints().map(|range| (range.min_limit, range.max_limit)),
        );
    }
}

fn each<T>(
    device: &Device<'static>,
    fans: u32,
    ask: impl Fn(&Device<'static>, u32) -> Result<T, NvmlError>,
) -> Result<Vec<T>, NvmlError> {
    (0..fans).map(|fan| ask(device, fan)).collect()
}

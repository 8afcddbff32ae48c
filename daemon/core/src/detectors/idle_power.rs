//! Idle at high power: something draws power that utilisation does not account for.

use super::{Detector, Seen, window::Lasting};
use crate::signal::Kind;

const IDLE: i64 = 5_000;
const HIGH_POWER: i64 = 50_000;

#[derive(Debug, Clone, Default)]
pub(super) struct IdlePower(Lasting);

impl Detector for IdlePower {
    fn take(&mut self, seen: &Seen<'_>) -> Option<i64> {
        let share = seen.of(&Kind::GpuPowerShare)?;
        let idle = seen.last(&Kind::GpuUtilization)? <= IDLE;
        Some(self.0.take(idle && share > HIGH_POWER, seen.at))
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

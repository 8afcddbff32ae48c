//! Idle at high power: something draws power that utilisation does not account for.

use super::{Detector, Sample, window::Lasting};
use crate::{policy::derived::Load, signal::Kind};

#[derive(Debug, Clone)]
pub(super) struct IdlePower {
    from: Load,
    lasting: Lasting,
}

impl IdlePower {
    pub(super) fn new(from: Load) -> IdlePower {
        IdlePower { from, lasting: Lasting::default() }
    }
}

impl Detector for IdlePower {
    fn take(&mut self, seen: &Sample<'_>) -> Option<i64> {
        let share = seen.of(&Kind::GpuPowerShare)?;
        let idle = seen.last(&Kind::GpuUtilization)? <= self.from.utilization;
        Some(self.lasting.take(idle && share > self.from.power, seen.at))
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

//! Busy at low power: a rank that spins in a collective shows 100 % utilisation and next to no work.

use super::{Detector, Sample, window::Lasting};
use crate::{policy::derived::Load, signal::Kind};

#[derive(Debug, Clone)]
pub(super) struct Spin {
    from: Load,
    lasting: Lasting,
}

impl Spin {
    pub(super) fn new(from: Load) -> Spin {
        Spin { from, lasting: Lasting::default() }
    }
}

impl Detector for Spin {
    fn take(&mut self, seen: &Sample<'_>) -> Option<i64> {
        let share = seen.of(&Kind::GpuPowerShare)?;
        let busy = seen.last(&Kind::GpuUtilization)? >= self.from.utilization;
        Some(self.lasting.take(busy && share < self.from.power, seen.at))
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

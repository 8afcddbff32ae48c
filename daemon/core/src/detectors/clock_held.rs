//! Clocks held down: the GPU works, and its multiprocessors run far below what they can.

use super::{Detector, Sample, window::Lasting};
use crate::{policy::derived::Held, signal::Kind};

#[derive(Debug, Clone)]
pub(super) struct ClockHeld {
    from: Held,
    lasting: Lasting,
}

impl ClockHeld {
    pub(super) fn new(from: Held) -> ClockHeld {
        ClockHeld { from, lasting: Lasting::default() }
    }
}

impl Detector for ClockHeld {
    fn take(&mut self, seen: &Sample<'_>) -> Option<i64> {
        let clock = seen.of(&Kind::GpuClockSm)?;
        let most = seen.last(&Kind::GpuClockSmMax)?;
        let works = seen.last(&Kind::GpuUtilization)? >= self.from.utilization;
        let held = clock.saturating_mul(100_000) < most.saturating_mul(self.from.clock);
        Some(self.lasting.take(works && held, seen.at))
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

//! Clocks held down: the GPU works, and its multiprocessors run far below what they can.

use super::{Detector, Seen, window::Lasting};
use crate::signal::Kind;

const WORKS: i64 = 50_000;

#[derive(Debug, Clone, Default)]
pub(super) struct ClockHeld(Lasting);

impl Detector for ClockHeld {
    fn take(&mut self, seen: &Seen<'_>) -> Option<i64> {
        let clock = seen.of(&Kind::GpuClockSm)?;
        let most = seen.last(&Kind::GpuClockSmMax)?;
        let works = seen.last(&Kind::GpuUtilization)? >= WORKS;
        // Below 70 % of the highest clock.
        let held = clock.saturating_mul(10) < most.saturating_mul(7);
        Some(self.0.take(works && held, seen.at))
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

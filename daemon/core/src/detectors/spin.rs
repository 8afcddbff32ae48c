//! Busy at low power: a rank that spins in a collective shows 100 % utilisation and next to no work.

use super::{Detector, Seen, window::Lasting};
use crate::signal::Kind;

const BUSY: i64 = 95_000;
const LOW_POWER: i64 = 35_000;

#[derive(Debug, Clone, Default)]
pub(super) struct Spin(Lasting);

impl Detector for Spin {
    fn take(&mut self, seen: &Seen<'_>) -> Option<i64> {
        let share = seen.of(&Kind::GpuPowerShare)?;
        let busy = seen.last(&Kind::GpuUtilization)? >= BUSY;
        Some(self.0.take(busy && share < LOW_POWER, seen.at))
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

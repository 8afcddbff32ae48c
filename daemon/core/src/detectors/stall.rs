//! Stalled: utilisation stands still at nothing or everything, GPU memory does not change, and the run reports no metric.
//! A run that reports its steps is seen to hang soon; one that reports nothing only by its GPU.

use super::{Detector, Sample, window::micros};
use crate::{policy::derived::Pinned, signal::Kind, time::MonoTime};

#[derive(Debug, Clone)]
pub(super) struct Stall {
    pinned: Pinned,
    moved: MonoTime,
    memory: Option<i64>,
    high: Option<bool>,
}

impl Stall {
    pub(super) fn new(pinned: Pinned, at: MonoTime) -> Stall {
        Stall { pinned, moved: at, memory: None, high: None }
    }
}

impl Detector for Stall {
    fn take(&mut self, seen: &Sample<'_>) -> Option<i64> {
        if let Some(memory) = seen.of(&Kind::GpuMemory) {
            if self.memory.replace(memory).is_some_and(|before| before != memory) {
                self.moved = seen.at;
            }
            return None;
        }
        let utilization = seen.of(&Kind::GpuUtilization)?;
        let high = match utilization {
            low if low <= self.pinned.low => Some(false),
            high if high >= self.pinned.high => Some(true),
            _ => None,
        };
        // Going from nothing to everything is work, too.
        if high.is_none() || high != self.high {
            self.moved = seen.at;
        }
        self.high = high;
        Some(micros(seen.at.since(self.moved)))
    }

    fn progress(&mut self, at: MonoTime) {
        self.moved = self.moved.max(at);
    }

    fn copy(&self) -> Box<dyn Detector> {
        Box::new(self.clone())
    }
}

//! A straggler among the run's GPUs: by how much its mean utilisation lies below their median, or, where that is more, its mean
//! SM clock, as a share of the greatest, below theirs. In a collective the others wait for it at full utilisation: only its
//! clock tells it from them. Other runs' GPUs say nothing of this run, so they do not count; nor do the clocks of idle ones.

use super::window::Window;
use crate::{
    subject::GpuId,
    time::{MonoTime, Span},
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default)]
pub(super) struct Straggler(BTreeMap<GpuId, Pace>);

#[derive(Debug, Clone)]
struct Pace {
    utilization: Window,
    clock: Window,
}

impl Straggler {
    /// Takes a GPU's utilisation and, while it works, its SM clock as a share of the greatest, both in milli-percent.
    pub(super) fn take(
        &mut self,
        gpu: &GpuId,
        (utilization, clock): (i64, Option<i64>),
        over: Span,
        at: MonoTime,
    ) -> Option<i64> {
        let new = || Pace { utilization: Window::new(over), clock: Window::new(over) };
        let pace = self.0.entry(gpu.clone()).or_insert_with(new);
        pace.utilization.push(utilization, at);
        match clock {
            Some(clock) => pace.clock.push(clock, at),
            None => pace.clock.clear(),
        }
        let idle = self.behind(gpu, |pace| pace.utilization.mean());
        let slow = self.behind(gpu, |pace| pace.clock.mean());
        idle.max(slow)
    }

    /// By how much the GPU lies below the median of those that have a mean.
    fn behind(&self, gpu: &GpuId, mean: fn(&Pace) -> Option<i64>) -> Option<i64> {
        let own = mean(self.0.get(gpu)?)?;
        let mut means: Vec<i64> = self.0.values().filter_map(mean).collect();
        if means.len() < 2 {
            return None;
        }
        means.sort_unstable();
        // Of two, the better one.
        let median = means[means.len() / 2];
        Some(median.saturating_sub(own).max(0))
    }

    pub(super) fn retain(&mut self, gpus: &BTreeSet<GpuId>) {
        self.0.retain(|gpu, _| gpus.contains(gpu));
    }
}

//! A straggler among the run's GPUs: by how much its mean utilisation lies below their median. Other runs' GPUs
//! say nothing of this run, so they do not count.

use super::window::Window;
use crate::{
    subject::GpuId,
    time::{MonoTime, Span},
};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default)]
pub(super) struct Straggler(BTreeMap<GpuId, Window>);

impl Straggler {
    pub(super) fn take(&mut self, gpu: &GpuId, utilization: i64, over: Span, at: MonoTime) -> Option<i64> {
        self.0.entry(gpu.clone()).or_insert_with(|| Window::new(over)).push(utilization, at);
        let own = self.0.get(gpu)?.mean()?;
        let mut means: Vec<i64> = self.0.values().filter_map(Window::mean).collect();
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

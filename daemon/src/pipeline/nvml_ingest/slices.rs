//! Values of MIG devices, and which of them an instance is.

use super::{GpuRepeatState, NvmlIngest};
use crate::{
    node::{GpuView, NodeView},
    sensors::nvml::{Current, MigDevice, Sample},
};
use failsafe_core::{GpuId, Kind, event::Slice};
use std::collections::BTreeSet;

impl NvmlIngest {
    /// The utilisation of a MIG device, milli-percent.
    pub(super) fn busy(&self, device: &MigDevice) -> Option<i64> {
        let (value, _) = self.gpus.get(&GpuId(device.uuid.clone()))?.current.values.get(&Kind::GpuUtilization)?;
        Some(*value)
    }

    pub(super) fn show_slice(&self, slice: &GpuId, seen: &GpuRepeatState, sample: &Sample) {
        let mut node = self.node();
        let holds = |view: &&mut GpuView| view.info.mig_devices.iter().any(|device| device.uuid == slice.0);
        let Some(whole) = node.gpus.values_mut().find(holds) else { return };
        let view = whole.slices.entry(slice.0.clone()).or_default();
        let Current { values, unsupported, failing } = &seen.current;
        view.readings = values.iter().map(|(kind, (value, _))| (kind.clone(), *value)).collect();
        if !sample.unsupported.is_empty() || view.unsupported.len() != unsupported.len() {
            view.unsupported = unsupported.iter().cloned().collect();
        }
        view.failing = failing.iter().map(|(what, why)| format!("{slice}: {what}: {why}")).collect();
        view.unread = seen.failing.unwatched();
    }

    /// Of MIG devices that are no more nothing is known.
    pub(super) fn forget_slices(&mut self) {
        let mut there = BTreeSet::new();
        for view in self.node().gpus.values_mut() {
            let own: BTreeSet<&String> = view.info.mig_devices.iter().map(|device| &device.uuid).collect();
            view.slices.retain(|uuid, _| own.contains(uuid));
            there.extend(own.into_iter().map(|uuid| GpuId(uuid.clone())));
        }
        self.gpus.retain(|gpu, _| !gpu.is_mig() || there.contains(gpu));
    }
}

/// A GPU instance with the MIG devices that are it now; `None` where no instance is meant.
pub(in crate::pipeline) fn slice(node: &NodeView, gpu: &str, of: (Option<u32>, Option<u32>)) -> Option<Slice> {
    let (gpu_instance, compute_instance) = (of.0?, of.1);
    let all = node.gpus.get(&GpuId(gpu.to_owned())).map(|view| view.info.mig_devices.as_slice()).unwrap_or_default();
    let is_it = |device: &&MigDevice| {
        device.gpu_instance == Some(gpu_instance)
            && (compute_instance.is_none() || device.compute_instance == compute_instance)
    };
    let devices = all.iter().filter(is_it).map(|device| device.uuid.clone()).collect();
    Some(Slice { gpu_instance, compute_instance, devices })
}

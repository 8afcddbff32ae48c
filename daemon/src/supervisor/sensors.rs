//! The sensors that are not of single runs: GPUs, the kernel log, and metrics that runs report.

use super::{base::Base, judging::Judging, prepare::record_nvml};
use crate::{
    config::Config,
    pipeline::{self, gpu_ownership::GpuOwnership, klog, nvml_ingest::Gpus},
    platform::ProcFs,
    sensors::{amdgpu::Amdgpu, kmsg::Kmsg, metrics::Running},
};
use failsafe_core::klog::Lines;

/// The sensors that are not of single runs.
pub(super) struct Sensors {
    pub(super) gpus: Gpus,
    _amdgpu: Option<Amdgpu>,
    _kmsg: Option<Kmsg>,
    _metrics: Running,
}

impl Sensors {
    pub(super) fn start(base: &Base, config: &Config, lines: Lines, judging: &Judging) -> anyhow::Result<Sensors> {
        let (registry, node, pipeline) = (&base.registry, &base.node, &judging.pipeline);
        // Not kept here: it holds the registry.
        let ownership = GpuOwnership::new(registry, ProcFs::default());
        let gpus = Gpus::start(config, registry, pipeline, node, &ownership, judging.slots.clone())?;
        record_nvml(&base.log_owner.log(), node);
        Ok(Sensors {
            gpus,
            _amdgpu: pipeline::amdgpu_ingest::start(config, registry, pipeline, node, &ownership)?,
            _kmsg: klog::start(config, lines, &judging.log_before, pipeline, node),
            _metrics: pipeline::metrics::start(config, registry, pipeline)?,
        })
    }

    /// Ends their threads, those of the GPUs last.
    pub(super) fn stop(self) {
        let Sensors { gpus, _amdgpu, _kmsg, _metrics } = self;
        drop((_metrics, _kmsg, _amdgpu));
        gpus.stop();
    }
}

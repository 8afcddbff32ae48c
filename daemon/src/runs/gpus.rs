//! Which GPUs are a run's: those that it declared, and those that were found.
//!
//! A GPU that a process of the run uses, as the driver says, is a fact. So is an open device file, but it says less: CUDA and tools such
//! as `nvidia-smi` open each GPU that they can reach. So an open file counts only while it is not known which GPUs the run uses.

use super::Status;
use failsafe_core::{
    GpuId,
    record::{FoundGpu, GpuBy},
};
use std::collections::BTreeSet;

/// What the environment of a process of the run says of its GPUs. The run chooses it: it is shown, and nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedGpus {
    /// The variable.
    pub variable: String,
    /// Its value, shortened.
    pub value: String,
    /// The GPUs that this means now.
    pub gpus: BTreeSet<GpuId>,
    /// The process.
    pub pid: u32,
}

impl Status {
    /// A process of the run uses the GPU. Whether the run's GPUs change.
    pub fn uses_gpu(&mut self, gpu: &GpuId, pid: u32) -> bool {
        let known = self.found_gpus.get(gpu).map(|found| found.by);
        if known == Some(GpuBy::Process) || (known.is_none() && self.gpus.contains(gpu)) {
            return false;
        }
        let before = self.gpus.clone();
        let opened = self.found_gpus.extract_if(.., |_, found| found.by == GpuBy::Open);
        opened.for_each(|(opened, _)| {
            self.gpus.remove(&opened);
        });
        self.finds_gpu(gpu, GpuBy::Process, pid);
        self.gpus != before
    }

    /// A process of the run has the GPU's device file open. Whether the run's GPUs change.
    pub fn opens_gpu(&mut self, gpu: &GpuId, pid: u32) -> bool {
        let is_known = self.found_gpus.values().any(|found| found.by == GpuBy::Process);
        !is_known && !self.gpus.contains(gpu) && self.finds_gpu(gpu, GpuBy::Open, pid)
    }

    /// Whether the GPU is the run's by more than an open file.
    pub fn holds_gpu(&self, gpu: &GpuId) -> bool {
        self.gpus.contains(gpu) && self.found_gpus.get(gpu).is_none_or(|found| found.by == GpuBy::Process)
    }

    fn finds_gpu(&mut self, gpu: &GpuId, by: GpuBy, pid: u32) -> bool {
        self.found_gpus.insert(gpu.clone(), FoundGpu { gpu: gpu.clone(), by, pid });
        self.gpus.insert(gpu.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str) -> GpuId {
        GpuId(name.into())
    }

    #[test]
    fn a_gpu_that_is_used_ends_those_that_are_only_opened() {
        let mut status = Status::default();
        assert!(status.opens_gpu(&gpu("a"), 7) && status.opens_gpu(&gpu("b"), 7));
        assert!(!status.opens_gpu(&gpu("a"), 7) && !status.holds_gpu(&gpu("a")));
        assert!(status.uses_gpu(&gpu("b"), 8));
        assert_eq!(status.gpus, [gpu("b")].into());
        assert!(status.holds_gpu(&gpu("b")));
        assert!(!status.opens_gpu(&gpu("a"), 7), "which GPUs it uses is known");
        assert!(!status.uses_gpu(&gpu("b"), 9) && status.uses_gpu(&gpu("c"), 9));
        assert_eq!(status.gpus, [gpu("b"), gpu("c")].into());
    }

    #[test]
    fn a_declared_gpu_stays_the_runs() {
        let mut status = Status { gpus: [gpu("a")].into(), ..Status::default() };
        assert!(!status.uses_gpu(&gpu("a"), 7) && status.holds_gpu(&gpu("a")));
        assert!(status.uses_gpu(&gpu("b"), 7));
        assert_eq!(status.gpus, [gpu("a"), gpu("b")].into());
    }
}

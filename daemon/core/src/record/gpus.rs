//! GPUs that became known to be those of a run, and what shows it.

use crate::subject::GpuId;
use serde::{Deserialize, Serialize};

/// A GPU that was not declared, and became known to be a run's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundGpu {
    /// The GPU.
    pub gpu: GpuId,
    /// What shows it.
    pub by: GpuBy,
    /// The process.
    pub pid: u32,
}

/// Why a GPU that was not declared is a run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuBy {
    /// A process of the run uses it, as the driver reports.
    Process,
    /// A process of the run has its device file open.
    Open,
}

impl std::fmt::Display for GpuBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            GpuBy::Process => "used by",
            GpuBy::Open => "opened by",
        })
    }
}

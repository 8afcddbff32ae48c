//! Whom a signal speaks of: the node, a GPU, a run, or one process of a run.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// A run's id: a UUIDv7, made at registration by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Uuid);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RunId {
    type Err = uuid::Error;
    fn from_str(s: &str) -> Result<RunId, uuid::Error> {
        Uuid::parse_str(s).map(RunId)
    }
}

/// A GPU's UUID as NVML gives it (`nvmlDeviceGetUUID`), e.g. `GPU-5a1c...`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GpuId(pub String);

impl GpuId {
    /// Whether it is one of AMD's, whose ids the daemon makes.
    pub fn is_amd(&self) -> bool {
        self.0.starts_with("amdgpu-")
    }

    /// Whether it is a MIG device, a part of a GPU, by the form of NVML's UUIDs.
    pub fn is_mig(&self) -> bool {
        self.0.starts_with("MIG-")
    }
}

impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A process: its pid, and the start time that tells it from a later process of the same pid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Process {
    /// Process id (thread group id) in the host's pid namespace.
    pub pid: u32,
    /// Parent's process id.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// `start_boottime` of the group leader, nanoseconds since boot; 0 where the source does not know it.
    pub start_ns: u64,
    /// The kernel's `comm`, at most 15 bytes, lossily decoded.
    pub comm: String,
}

/// Whom a signal speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// The whole node.
    Node,
    /// One GPU.
    Gpu(GpuId),
    /// One run.
    Run(RunId),
    /// One process of a run.
    Process {
        /// The run that the kernel attributes the process to.
        run: RunId,
        /// The process.
        process: Process,
    },
}

impl Subject {
    /// The run that the subject is, or is part of.
    pub fn run(&self) -> Option<RunId> {
        match self {
            Subject::Run(run) | Subject::Process { run, .. } => Some(*run),
            Subject::Node | Subject::Gpu(_) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Node => f.write_str("node"),
            Subject::Gpu(gpu) => write!(f, "{gpu}"),
            Subject::Run(run) => write!(f, "run {run}"),
            Subject::Process { process, .. } => write!(f, "process {} ({})", process.pid, process.comm),
        }
    }
}

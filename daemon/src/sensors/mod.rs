//! Sensors: what reads the machine and the runs, named by their source. Pure reading; nothing here judges or acts.

pub mod amdgpu;
pub mod cgroup;
pub mod ebpf;
pub mod kmsg;
pub mod metrics;
pub mod nvidia_proc;
pub mod nvml;
mod plausible;
pub mod repeat;

/// A count as signals have it: what does not fit is the largest value.
pub(crate) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

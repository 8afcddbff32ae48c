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

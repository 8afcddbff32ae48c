//! Actuators, named by what they act on.

pub mod cgroup;
pub mod gpu;
pub(crate) mod outcome;

//! Actuators, named by what they act on, and the one interpreter of the core's actions.

pub mod cgroup;
pub mod gpu;
pub mod guard;
pub mod interpreter;
pub(crate) mod outcome;

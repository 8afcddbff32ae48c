//! The edge to the kernel: mounts, cgroups, processes, clocks and users, as plain blocking calls.
//!
//! Owns no state beyond the file descriptors it hands out. Nothing here decides anything: readers return what
//! the kernel says, with the path and the operation in every error, and the rest of the daemon sees the kernel
//! only through these types.
//!
//! Invariants:
//! - the only module of this crate, with the NVML edge, where `unsafe` may appear (today: [`apart`], [`bpf`], [`device`], [`heap`], [`peer`], [`peercred`], [`pidfd`], [`received`],
//!   [`sched`]);
//! - no async: callers run these on worker threads;
//! - readers of `/proc` take a root path, so that tests read fixtures from a temporary folder;
//! - a process or cgroup that vanishes is an ordinary answer (`None`, [`CgroupError::is_vanished`]), not a fault.

pub mod apart;
pub mod bpf;
pub mod cgroup;
pub mod clock;
pub mod connections;
pub mod device;
pub mod heap;
pub mod mounts;
pub mod peer;
pub mod peercred;
pub mod pidfd;
pub mod proc;
pub mod received;
pub mod sched;
pub mod users;

pub use cgroup::{Cgroup, CgroupError, CgroupRoot, Events, Members};
pub use mounts::Mounts;
pub use proc::{ProcFs, ProcessId};

//! What the end-to-end tests share: a failsafed of a test's own on the real kernel, the runs it starts, and waiting for what
//! has to come true. The tests themselves stand in `tests/`, one file a subject.
//!
//! ```text
//! on_node(test, settings, |node| ...) ─► Node: failsafed + private state, sockets, cgroup, pins ─► Launch ─► Started
//!                                          dropped: daemon, processes, cgroups, pins and mounts are gone
//! ```
//!
//! Invariants: nothing outside the node's own folder, cgroup and pins is touched; only programs of this build are started;
//! nothing is waited for without a deadline. A test that cannot run here is skipped visibly, see [`skip`].

#![forbid(unsafe_code)]

mod caller;
mod cgroup;
mod channel;
mod cluster;
mod command_output;
mod crowd;
pub mod gateway;
mod gpu;
mod hooks;
pub mod howto;
mod hung;
mod kernel_log;
mod mount;
mod node;
#[path = "../../patience.rs"]
mod patience;
mod podman;
mod programs;
mod run;
#[path = "../../skip.rs"]
mod skip;
mod slurm;
mod wait;

pub use caller::Caller;
pub use cgroup::{TestCgroup, cgroup_of, cgroup2, frozen, members, populated, remove_tree};
pub use channel::with_channel;
pub use cluster::{beside_slurm, on_cluster, run_ended, run_of_step};
pub use command_output::CommandOutput;
pub use crowd::Crowd;
pub use gpu::{TWO_GPUS, on_gpu_node};
pub use hooks::Hooks;
pub use hung::HungFs;
pub use kernel_log::kernel_time_us;
pub use mount::{Tmpfs, Unwritable};
pub use node::{Node, on_node, sentinel};
pub use patience::patience;
pub use podman::{IMAGE, Podman, podman_is_missing};
pub use programs::program;
pub use run::{Launch, Started};
pub use skip::skip;
pub use slurm::{Slurm, slurm_is_missing};
pub use wait::{PATIENCE, soon, wait_for, wait_for_answer, wait_for_some};

/// The unprivileged user that the tests act as beside root.
pub const NOBODY: u32 = 65_534;

//! The guard: what the kernel enforces for a run, by eBPF programs, their maps, latches and pins.
//!
//! ```text
//!                     add_run / set_egress / set_block             read_counters
//!   daemon  ───────────────┬──────────────────────────────────────────▲────────
//!                          ▼                                          │
//!   maps        runs  egress4/6  latches                   counters  drops    events (ring)
//!                          │                                          ▲          │
//!   programs   attribution by cgroup ancestry ── judge ── count ──────┴──────────┤
//!                                                                                ▼
//!                                                         sensors/ebpf, a thread of its own
//! ```
//! [`Ebpf`] owns the object's programs, maps and links; nothing else writes them. Policy is data: after loading, only
//! maps change (watched system calls apart, whose programs are attached while something needs them). [`kernel::Kernel`] is what
//! the rest of the daemon uses: it knows which run has which slot.
//!
//! Invariants:
//! - a run is attributed in the kernel, by the cgroup ancestry of the task or socket at that moment, never by pid;
//! - an allow-list is swapped whole: built beside the old one, put in force by one map write;
//! - the daemon's death leaves guards in force where bpffs is mounted ([`pins`]), and never loosens them; the next goes on from there ([`carry`]).
//!
//! Known leaks: AF_PACKET and RDMA pass no cgroup hook; a socket made outside the run and handed in is judged by its
//! maker's cgroup; see `ebpf/src/net.h`.

mod attach;
mod carry;
pub(crate) mod compile;
mod counters;
mod error;
pub mod fold;
mod handles;
pub mod kernel;
pub mod kernel_quota;
mod latches;
mod left;
mod load;
mod netns;
mod own;
#[cfg(test)]
mod parity;
pub mod pin_folder;
mod pins;
mod probe;
mod quotas;
mod refusals;
mod runs;
mod syscalls;
mod tables;
mod tally;

pub use counters::RunCounters;
pub use error::Error;
pub use handles::{Heartbeat, Latches};
pub use kernel_quota::{Holder, KernelQuota, QuotaError};
pub use left::{Foreign, LeftEvents, PreviousRun};
pub use load::{Config, Ebpf};
pub use own::Own;
pub use probe::{Group, ProgramState, ProgramStatus};
pub use refusals::Sights;
pub use runs::{RunAttachment, RunSpec, Tables, Told, Watch};
pub use syscalls::{ALL_CALLS, Via};
pub use tally::Outage;

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
//! [`object::Object`] owns the programs and maps and knows no run. Parts above it borrow it: tables, latches, attachments. [`Ebpf`]
//! holds them together with what is known about each run, and [`kernel::Kernel`], which the rest of the daemon uses, knows which
//! run has which slot. The order of the files is a stack (`xtask/src/tidy/layers.rs`). Policy is data: after loading, only maps change
//! (watched system calls apart, whose programs are attached while something needs them).
//!
//! Invariants:
//! - a run is attributed in the kernel, by the cgroup ancestry of the task or socket at that moment, never by pid;
//! - an allow-list is swapped whole: built beside the old one, put in force by one map write;
//! - the daemon's death leaves guards in force where bpffs is mounted ([`pins`]), and never loosens them; the next goes on from there ([`carry`]).
//!
//! Known leaks: AF_PACKET and RDMA pass no cgroup hook; a socket made outside the run and handed in is judged by its
//! maker's cgroup; see `ebpf/src/net.h`.

mod attach;
mod budgets;
mod carry;
mod counters;
mod early;
mod ebpf;
mod error;
mod files;
mod handles;
mod host;
pub mod kernel;
pub mod kernel_quota;
mod latches;
mod learnt;
mod left;
mod live;
mod load;
mod maps;
mod members;
mod netns;
mod object;
mod own;
#[cfg(test)]
mod parity;
pub mod pin_folder;
mod pins;
mod probe;
mod provisional;
mod refusals;
mod resolver;
mod runs;
mod syscalls;
mod tables;
mod tally;
mod totals;

pub use ebpf::Ebpf;
pub use error::Error;
pub use handles::{Heartbeat, Latches};
pub use kernel_quota::{Holder, KernelQuota, QuotaError};
pub use left::{Foreign, LeftEvents, Outage, PreviousRun, Ring};
pub use live::{RunAttachment, RunSpec};
pub use object::Config;
pub use own::Own;
pub use probe::{Group, ProgramState, ProgramStatus};
pub use provisional::Provisional;
pub use refusals::Sights;
pub use resolver::of_node as node_resolver;
pub use syscalls::Via;
pub use totals::{Counted, Total};

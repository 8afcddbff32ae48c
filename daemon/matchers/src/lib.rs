//! The matchers of the kernel's programs in user space, and the tables that the kernel is given for them.
//!
//! ```text
//! Policy ─► compile ─► EgressPolicy, Rules, Watch ─► fold ─► tables::Tables ─► (guard/ of the daemon writes the maps)
//! ```
//! Each matcher exists three times: as the rules state it ([`egress::verdict`], [`rules::effects`]), as a look-up in the folded
//! table, and in the eBPF programs. Property tests hold the first two against each other, and the daemon's `guard/parity`
//! holds the third against them.
//!
//! Invariant: nothing here reads a file, a clock or the kernel (what is known of files and of the resolver is handed in), so that `failsafectl` can ask the same questions offline.
#![forbid(unsafe_code)]

pub mod calls;
pub mod compile;
pub mod connections;
pub mod egress;
pub mod fold;
pub mod hosts;
pub mod keys;
pub mod recorded;
pub mod rejudge;
pub mod rules;
pub mod shadow;
#[cfg(any(test, feature = "strategies"))]
pub mod strategies;
pub mod tables;
pub mod watch;
pub mod would;

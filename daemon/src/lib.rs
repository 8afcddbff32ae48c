//! failsafed: watches runs and GPUs, judges what it sees by the pure core, contains, records, and serves.
//!
//! ```text
//! sensors/ ─► pipeline/ (owns the engine's state) ─► actuators/ ─► outcomes back into pipeline/
//!                 └─► log (audit), recordings          api/ reads the registry and sends commands into pipeline/
//! ```
//!
//! `supervisor` starts and ends everything; `platform` is the edge to the kernel.

pub mod actuators;
pub mod api;
pub mod attest;
mod causes;
pub mod config;
mod counted;
mod fair;
pub mod guard;
pub mod interpreter;
pub mod log;
pub mod node;
pub mod pipeline;
pub mod platform;
pub mod policies;
pub mod redact;
pub mod runs;
pub mod sensors;
pub mod shadows;
pub mod signing;
pub mod supervisor;
pub mod systemd;
pub mod tpm;
pub mod watchers;

#[cfg(test)]
#[path = "../../tests/skip.rs"]
mod skip;

#[cfg(test)]
mod testing;

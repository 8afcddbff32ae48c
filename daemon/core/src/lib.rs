//! The pure core of failsafe: [`Input`]s go in, [`Decision`]s come out.
//!
//! ```text
//!  policy::parse ─► PolicySet ─┐
//!  Input (signal, tick, outcome, control, gap) ─► engine::step(&PolicySet, &mut State, &Input) ─► Decision
//! ```
//!
//! Invariants: nothing here reads a clock, a file, the environment or a random number; every collection iterates in a
//! fixed order. The same inputs and the same policy digests give the same decisions, bit for bit: [`replay`] relies on it.

#![forbid(unsafe_code)]

pub mod actor;
pub mod canary;
pub mod changes;
pub mod containment;
mod decimal;
pub mod decision;
pub mod detect;
mod detectors;
mod digest;
pub mod discover;
pub mod drill;
pub mod egress;
pub mod engine;
pub mod event;
pub mod health;
pub mod incidents;
pub mod input;
pub mod klog;
pub mod policy;
pub mod record;
pub mod recording;
pub mod replay;
pub mod shadow;
pub mod signal;
pub mod silence;
pub mod standing;
pub mod subject;
pub mod tally;
pub mod time;
pub mod unit;
pub mod visible;
pub mod xid;

pub use actor::Actor;
pub use containment::Containment;
pub use decision::{Action, Decision, Mode, Outcome, Proof};
pub use digest::PolicyDigest;
pub use engine::{State, step};
pub use input::Input;
pub use policy::{Policy, PolicySet};
pub use signal::{Kind, Signal, Value};
pub use subject::{GpuId, RunId, Subject};
pub use time::MonoTime;

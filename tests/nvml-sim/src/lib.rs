//! A stand-in for `libnvidia-ml.so.1`: NVML's C ABI over a scenario file.
//!
//! Built as a cdylib it is what a machine without a GPU loads in place of the
//! driver's library; built as an rlib it gives tests the scenario parser and the
//! path of that cdylib. Nobody who loads it is told apart from a client of the
//! real library, so whatever is measured on it must be labelled *simulated* by
//! the one who measures.
//!
//! ```text
//!  C caller -> exports/ -> edge ----> library --------> model (pure) -> answer
//!              (symbols)   (pointers)  | refcount        presets, series
//!                                      | scenario store
//!                                      | clock, faults, event sets
//! ```
//!
//! Invariants: raw pointers are read and written in `edge` only; the model and
//! the scenario know no pointer, lock or clock; every exported function asks the
//! faults before it answers; no lock is held while a call is delayed or hangs, so
//! a hung call on one GPU leaves the others answering.

#![deny(unsafe_code)]

mod abi;
mod artifact;
mod clock;
mod edge;
mod events;
mod exports;
mod faults;
mod library;
mod model;
#[cfg(test)]
#[path = "../../patience.rs"]
mod patience;
mod scenario;

pub use abi::{Layout, layouts};
pub use artifact::library_path;
pub use exports::exported;
pub use scenario::{Scenario, ScenarioError};

/// Environment variable that names the scenario file, read at the first `nvmlInit`.
pub const SCENARIO_ENV: &str = "FAILSAFE_NVML_SCENARIO";

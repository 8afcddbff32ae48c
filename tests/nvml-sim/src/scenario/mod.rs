//! What the simulated machine does: the scenario file, read strictly and checked.
//!
//! ```text
//!  file -> parse (TOML, spans) -> tables (fields) -> check (between fields) -> Scenario
//!                                 units, series                    store: re-read on change
//! ```
//!
//! Invariant: a `Scenario` that exists is consistent: GPU indices in faults exist,
//! UUIDs and PCI addresses are unique, relative paths are resolved against the
//! file's folder.

mod board;
mod check;
mod parse;
mod pci;
mod series;
mod store;
mod tables;
mod units;
mod wave;

pub(crate) use board::{EccLocation, MigProfile};
pub use parse::ScenarioError;
pub(crate) use pci::PciAddress;
pub(crate) use series::{Series, Steps};
pub(crate) use store::ScenarioStore;
pub(crate) use tables::{Driver, Event, GpuTable, Process, ProcessKind, ProcessPid};
pub(crate) use units::{Count, Unit};

use crate::faults::Fault;
use std::path::{Path, PathBuf};

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub(crate) driver: Driver,
    pub(crate) clock: ClockSource,
    /// Whether the file is looked at in every call; otherwise what was read first holds.
    pub(crate) live: bool,
    pub(crate) gpus: Vec<GpuSpec>,
    pub(crate) faults: Vec<Fault>,
}

/// Where scenario time comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClockSource {
    /// Seconds since the first `nvmlInit` of this process.
    Wall,
    /// The number of seconds in this file.
    File(PathBuf),
}

/// One GPU: who it is, and its table of the file.
#[derive(Clone, Debug)]
pub(crate) struct GpuSpec {
    pub(crate) uuid: String,
    pub(crate) serial: String,
    pub(crate) pci: PciAddress,
    pub(crate) table: GpuTable,
}

impl Scenario {
    /// Reads and checks the scenario at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or is not a scenario: then path, line, column and field are named.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        parse::load(path)
    }

    /// How many GPUs the scenario has.
    #[must_use]
    pub fn gpu_count(&self) -> usize {
        self.gpus.len()
    }
}

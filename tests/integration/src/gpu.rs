//! Nodes with simulated GPUs.

use crate::{Node, on_node, program};
use anyhow::{Context, Result};
use std::fs;

/// A scenario of two GPUs that are well and idle; what is appended belongs to the second.
pub const TWO_GPUS: &str = "[[gpu]]\nmodel = \"H100\"\ntemperature = 60\npower = 300\nutilization = 0\nmemory_used = \"1 GiB\"\n\n\
                            [[gpu]]\nmodel = \"H100\"\ntemperature = 60\npower = 300\nutilization = 0\nmemory_used = \"1 GiB\"\n\n";

/// As [`on_node`], on a node whose GPUs are those of `scenario`; `tables` are further tables of the daemon's configuration.
///
/// # Errors
/// Those of the test, or the daemon did not start.
pub fn on_gpu_node(test: &str, scenario: &str, tables: &str, run: impl FnOnce(&mut Node) -> Result<()>) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("failsafe-it-gpu-").tempdir().context("making a folder")?;
    let file = folder.path().join("scenario.toml");
    fs::write(&file, scenario).context("writing the scenario")?;
    let library = program("libnvidia_ml.so")?.display().to_string();
    let settings = format!("#! FAILSAFE_NVML_SCENARIO={}\n[nvml]\nlibrary = {library:?}\n{tables}", file.display());
    on_node(test, &settings, run)
}

//! river's detectors on the same values, where a Python that has river is named.

use crate::{bench::report::Report, shell};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{env, path::Path, process::Command};

const SCRIPT: &str = include_str!("river.py");

/// Adds river's figures, or why there are none.
///
/// # Errors
/// The script fails.
pub fn run(report: &mut Report, folder: &Path) -> Result<()> {
    let Some(python) = env::var_os("FAILSAFE_RIVER_PYTHON") else {
        report.condition("river", "not measured: FAILSAFE_RIVER_PYTHON does not name a Python that has river");
        return Ok(());
    };
    let text = shell::read(Command::new(python).args(["-c", SCRIPT]).arg(folder))?;
    let line = text.lines().last().context("the script printed nothing")?;
    let figures: serde_json::Map<String, Value> = serde_json::from_str(line).context("no JSON")?;
    for (name, value) in figures {
        match name.as_str() {
            "version" => report.condition("river", value),
            _ => report.figure(&format!("river_{name}"), value),
        }
    }
    Ok(())
}

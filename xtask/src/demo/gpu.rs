//! The demo's GPU: a scenario for the simulated NVML whose time stands in a file, so that the story decides when the card
//! gets hot.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// An H100 that is at 62 C until second 10 and at 94 C from second 20; its work is drained by second 40.
const SCENARIO: &str = r#"
clock = "file"
clock_file = "gpu.clock"

[[gpu]]
model = "H100"
temperature = [[10, 62], [20, 94]]
power = [[10, 410], [20, 690], [30, 690], [40, 80]]
utilization = [[0, 97], [30, 97], [40, 0]]

[[gpu.process]]
pid_file = "gpu.pid"
memory = "20 GiB"
"#;

/// The simulated card.
pub struct Gpu {
    folder: PathBuf,
}

impl Gpu {
    /// A card whose scenario, clock and process list lie in `folder`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn new(folder: &Path) -> Result<Gpu> {
        let gpu = Gpu { folder: folder.to_owned() };
        fs::write(gpu.scenario(), SCENARIO).context("writing the GPU's scenario")?;
        gpu.set_clock(0.0)?;
        Ok(gpu)
    }

    /// The scenario file.
    pub fn scenario(&self) -> PathBuf {
        self.folder.join("gpu.toml")
    }

    /// Sets the card's time, in seconds of its scenario.
    ///
    /// # Errors
    /// The file cannot be replaced.
    pub fn set_clock(&self, seconds: f64) -> Result<()> {
        self.replace("gpu.clock", &seconds.to_string())
    }

    /// The process that works on the card.
    ///
    /// # Errors
    /// The file cannot be replaced.
    pub fn set_process(&self, pid: u32) -> Result<()> {
        self.replace("gpu.pid", &pid.to_string())
    }

    /// In one step, so that no reader sees half of it.
    fn replace(&self, name: &str, text: &str) -> Result<()> {
        let (to, from) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        fs::write(&from, text)
            .and_then(|()| fs::rename(&from, &to))
            .with_context(|| format!("writing {}", to.display()))
    }
}

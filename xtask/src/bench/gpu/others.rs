//! The other programs: nvitop and gpustat, polling the same simulated library from Python, and the node exporter, which
//! reads the machine and no GPU. What is missing is told and left out.

use super::{Running, usage};
use crate::{bench::footprint, setup, shell};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What each tool does for one look: its own way to read every GPU and its processes.
const NVITOP: &str = "from nvitop import Device\ndevices = Device.all()\ndef look():\n    for d in devices:\n        d.as_snapshot()\n        d.processes()\n";
const GPUSTAT: &str = "import gpustat\ndef look():\n    gpustat.new_query()\n";
const LOOP: &str = "import sys, time\ninterval = float(sys.argv[1])\nnext = time.monotonic()\nwhile True:\n    look()\n    sys.stdout.write('.')\n    sys.stdout.flush()\n    next += interval\n    time.sleep(max(0, next - time.monotonic()))\n";

/// What a program used.
pub struct Seen {
    /// Milliseconds per second.
    pub cpu: f64,
    /// Resident MiB.
    pub rss: f64,
    /// How often it really looked, per second.
    pub looks: f64,
}

/// A program beside ours.
pub struct Other {
    pub name: &'static str,
    /// It reads GPUs, and ours is held against it.
    pub polls_gpus: bool,
    hz: u64,
    start: Start,
}

enum Start {
    Python { python: PathBuf, script: PathBuf, library: PathBuf },
    Exporter,
}

/// Those that can be had here.
///
/// # Errors
/// A script cannot be written.
pub fn all(folder: &Path, library: &Path, hz: u64) -> Result<Vec<Other>> {
    setup::nvml_references();
    let mut found = Vec::new();
    let python = shell::built(false).with_file_name("nvml-clients").join("bin/python");
    for (name, look) in [("nvitop", NVITOP), ("gpustat", GPUSTAT)] {
        if !python.exists() {
            eprintln!("gpu: {name} is not here, and left out");
            continue;
        }
        // Not by the name of the module, which Python would then import.
        let script = folder.join(format!("poll-{name}.py"));
        fs::write(&script, format!("{look}{LOOP}")).with_context(|| format!("writing {}", script.display()))?;
        let start = Start::Python { python: python.clone(), script, library: library.to_owned() };
        found.push(Other { name, polls_gpus: true, hz, start });
    }
    found.push(Other { name: "node_exporter", polls_gpus: false, hz, start: Start::Exporter });
    Ok(found)
}

impl Other {
    /// What it uses on this scenario.
    pub fn usage(&self, scenario: &Path, window: Duration) -> Result<Seen> {
        match &self.start {
            Start::Python { python, script, library } => {
                let mut command = Command::new(python);
                command.arg(script).arg((1.0 / self.hz as f64).to_string());
                // The clients load libnvidia-ml.so.1 by its name.
                command.env("LD_LIBRARY_PATH", library.parent().unwrap_or(Path::new(".")));
                command.env("FAILSAFE_NVML_SCENARIO", scenario);
                let mut running = Running::start(&mut command)?;
                let began = Instant::now();
                let measured = usage(&running.pids(), window);
                let looks = running.printed.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
                // One that has failed costs little.
                if let Some(status) = running.child.try_wait().context("looking at a Python tool")? {
                    anyhow::bail!("{} ended: {status}", self.name);
                }
                measured.map(|(cpu, rss)| Seen { cpu, rss, looks })
            }
            Start::Exporter => {
                let exporter = footprint::exporter()?;
                let stop = AtomicBool::new(false);
                thread::scope(|scope| {
                    scope.spawn(|| {
                        while !stop.load(Ordering::Relaxed) {
                            // A scrape that fails makes the exporter look cheap: the next one tells.
                            let _ = footprint::scrape(exporter.port());
                            thread::sleep(Duration::from_secs_f64(1.0 / self.hz as f64));
                        }
                    });
                    let measured = usage(&[exporter.pid()], window);
                    stop.store(true, Ordering::Relaxed);
                    footprint::scrape(exporter.port())?;
                    measured.map(|(cpu, rss)| Seen { cpu, rss, looks: self.hz as f64 })
                })
            }
        }
    }
}

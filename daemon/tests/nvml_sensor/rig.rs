//! A sensor with its sampler on a scenario of the test's own, and the time it steps.

use anyhow::{Context, Result, bail};
use failsafed::{
    platform::ProcFs,
    sensors::nvml::{Current, GpuProcess, Hello, NvmlConfig, NvmlEvent, NvmlSensor, ProcessKind, Sample},
};
#[path = "../support/until.rs"]
mod until;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};
use tempfile::TempDir;
pub use until::until;

pub const PATIENCE: Duration = Duration::from_secs(30);
pub const GPU0: &str = "GPU-00000000-0000-0000-0000-000000000001";
pub const GPU1: &str = "GPU-00000000-0000-0000-0000-000000000002";

/// A sensor on a scenario of its own; dropping it stops the sensor and removes the folder.
pub struct Rig {
    pub events: Receiver<NvmlEvent>,
    pub sensor: Option<NvmlSensor>,
    folder: TempDir,
}

impl Rig {
    /// On a scenario at second 0.
    pub fn new(scenario: &str) -> Result<Rig> {
        Rig::with(scenario, |_| {})
    }

    pub fn with(scenario: &str, change: impl FnOnce(&mut NvmlConfig)) -> Result<Rig> {
        let folder = tempfile::tempdir()?;
        let library = folder.path().join("libnvidia-ml.so.1");
        // A copy: the mode of what cargo built depends on the umask, and only a library that nobody else may write is loaded.
        fs::copy(nvidia_ml::library_path()?, &library)?;
        fs::set_permissions(&library, Permissions::from_mode(0o644))?;
        replace(folder.path(), "now", "0")?;
        replace(folder.path(), "scenario.toml", &on_file_clock(scenario))?;
        let mut config = NvmlConfig::new(Some(library), Duration::from_millis(50));
        config.deadline = Duration::from_secs(1);
        config.library_retry = Duration::from_millis(100);
        config.exe = PathBuf::from(env!("CARGO_BIN_EXE_failsafed"));
        let file = folder.path().join("scenario.toml").display().to_string();
        config.env = vec![(nvidia_ml::SCENARIO_ENV.to_owned(), file)];
        change(&mut config);
        let (tell, events) = channel();
        let sensor = NvmlSensor::spawn(config, move |event| drop(tell.send(event)))?;
        Ok(Rig { events, sensor: Some(sensor), folder })
    }

    pub fn at(&self, seconds: f64) -> Result<()> {
        replace(self.folder.path(), "now", &seconds.to_string())
    }

    pub fn rewrite(&self, scenario: &str) -> Result<()> {
        replace(self.folder.path(), "scenario.toml", &on_file_clock(scenario))
    }

    /// Puts a file beside the scenario.
    pub fn put(&self, name: &str, text: &str) -> Result<()> {
        replace(self.folder.path(), name, text)
    }

    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// The first event from now on that `wanted` takes.
    pub fn wait<T>(&self, what: &str, mut wanted: impl FnMut(NvmlEvent) -> Option<T>) -> Result<T> {
        let until = Instant::now() + PATIENCE;
        let mut others = Vec::new();
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    if !matches!(event, NvmlEvent::Sample(_)) {
                        others.push(event.clone());
                    }
                    if let Some(found) = wanted(event) {
                        return Ok(found);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("waited for {what}; there were {others:#?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("the sensor ended before {what}; there were {others:#?}"),
            }
        }
    }

    pub fn hello(&self) -> Result<Hello> {
        self.wait("hello", |event| if let NvmlEvent::Hello(hello) = event { Some(hello) } else { None })
    }

    pub fn sample(&self, what: &str, wanted: impl Fn(&Sample) -> bool) -> Result<Sample> {
        self.wait(what, |event| match event {
            NvmlEvent::Sample(sample) if wanted(&sample) => Some(sample),
            _ => None,
        })
    }

    /// All that is known of a GPU once XIDs are registered: the samples up to there put together.
    pub fn whole(&self, gpu: &str) -> Result<Current> {
        let mut current = Current::default();
        self.wait("a whole sample", |event| match event {
            NvmlEvent::Sample(sample) if sample.gpu == gpu => {
                current.take(&sample);
                (!current.failing.contains_key("gpu.xid")).then(|| current.clone())
            }
            _ => None,
        })
    }

    /// Why this GPU, or all of NVML, is blind.
    pub fn blind(&self, whose: Option<&str>) -> Result<(String, Option<u64>)> {
        self.wait("blindness", |event| match event {
            NvmlEvent::Blind { gpu, why, since_ns } if gpu.as_deref() == whose => Some((why, since_ns)),
            _ => None,
        })
    }

    pub fn sees(&self, whose: Option<&str>) -> Result<()> {
        self.wait("sight", |event| match event {
            NvmlEvent::Sees { gpu } if gpu.as_deref() == whose => Some(()),
            _ => None,
        })
    }
}

pub fn on_file_clock(scenario: &str) -> String {
    format!("clock = \"file\"\nclock_file = \"now\"\n{scenario}")
}

pub fn replace(folder: &Path, name: &str, text: &str) -> Result<()> {
    let fresh = folder.join("fresh");
    fs::write(&fresh, text)?;
    fs::rename(fresh, folder.join(name)).context("replacing a file of the scenario")
}

pub fn gpu(uuid: &str, more: &str) -> String {
    format!("[[gpu]]\nmodel = \"H100\"\nuuid = \"{uuid}\"\n{more}\n")
}

pub fn fault(function: &str, rest: &str) -> String {
    format!("[[fault]]\nfunction = \"{function}\"\n{rest}\n")
}

pub fn process(pid: u32, memory: u64) -> GpuProcess {
    let kind = ProcessKind::Compute;
    GpuProcess { pid, memory: Some(memory), kind, gpu_instance: None, compute_instance: None, sm: None }
}

/// The processes whose parent is this one.
pub fn children() -> Result<Vec<u32>> {
    let (proc, mut found) = (ProcFs::default(), Vec::new());
    for entry in fs::read_dir("/proc")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok())
            && proc.stat(pid)?.is_some_and(|stat| stat.ppid == std::process::id() && stat.state != 'Z')
        {
            found.push(pid);
        }
    }
    Ok(found)
}

pub fn only_child() -> Result<u32> {
    let children = children()?;
    let [pid] = children[..] else { bail!("not one child but {children:?}") };
    Ok(pid)
}

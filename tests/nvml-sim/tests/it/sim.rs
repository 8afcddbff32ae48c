//! A scenario of a test's own, time it steps by itself, and NVML loaded on them.

use super::patience::poll;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use tempfile::TempDir;

/// A folder with a scenario and a clock; both go when it is dropped.
pub struct Sim {
    folder: TempDir,
}

impl Sim {
    /// A scenario at second 0.
    pub fn new(text: &str) -> Self {
        let sim = Self { folder: tempfile::tempdir().unwrap() };
        sim.at(0.0);
        sim.rewrite(text);
        sim
    }

    /// A scenario on the wall clock.
    pub fn wall(text: &str) -> Self {
        let sim = Self { folder: tempfile::tempdir().unwrap() };
        sim.replace("scenario.toml", text);
        sim
    }

    /// One of the scenarios in `tests/scenarios/gpu`, on this test's clock.
    pub fn ready(name: &str) -> Self {
        let path = scenarios().join(name);
        Self::new(&fs::read_to_string(path).unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Sets the time, in seconds.
    pub fn at(&self, t: f64) {
        self.replace("now", &t.to_string());
    }

    /// Changes the scenario under the library's feet.
    pub fn rewrite(&self, text: &str) {
        self.replace("scenario.toml", &format!("clock = \"file\"\nclock_file = \"now\"\n{text}"));
    }

    /// Waits until a hung call has come back. One that does not is let go by taking the
    /// faults away, so that the test fails and does not hang with it.
    pub fn await_return<T>(&self, call: &ScopedJoinHandle<'_, T>) {
        let back = poll(Duration::from_secs(10), || Ok::<_, Infallible>(call.is_finished().then_some(())));
        if back.is_ok_and(|back| back.is_none()) {
            self.rewrite("[[gpu]]\nmodel = \"H100\"\n");
            panic!("the call did not come back");
        }
    }

    fn replace(&self, name: &str, text: &str) {
        let fresh = self.path("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, self.path(name)).unwrap();
    }

    /// NVML through nvml-wrapper, from the built library.
    pub fn try_nvml(&self) -> Result<Nvml, NvmlError> {
        // SAFETY: nextest gives each test a process, and a test sets this before it has threads of its own.
        unsafe { std::env::set_var(nvidia_ml::SCENARIO_ENV, self.path("scenario.toml")) };
        Nvml::builder().lib_path(nvidia_ml::library_path().unwrap().as_os_str()).init()
    }

    pub fn nvml(&self) -> Nvml {
        self.try_nvml().unwrap()
    }
}

/// The folder of ready scenarios.
pub fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/gpu")
}

//! GPUs, through NVML in a process of its own.
//!
//! NVML calls can block without end, so the daemon never makes one: it starts itself again as the sampler
//! ([`sampler`]), reads frames from it ([`frame`]), and kills and restarts it when nothing comes ([`watch`]). What is known of a GPU from
//! one pass to the next is put together by [`Current`].
//! ```text
//!  sampler process --frames over a pipe--> sensor thread --NvmlEvent--> sink
//!        ^--------- SIGKILL, respawn -----------'
//! ```
//! Owns the child and what is known of each GPU's sight. Invariants: at most one sampler exists, also when it cannot be
//! killed; what cannot be seen is said as `Blind`, once, and never reads as healthy; the child dies with the daemon.

mod asked;
pub mod check;
mod child;
mod current;
pub mod frame;
pub mod info;
pub mod library;
mod rates;
pub mod sampler;
mod spared;
mod watch;

pub use asked::{NotLetGo, NvmlControl};
pub use check::{CheckArgs, check_main};
pub use current::Current;
pub use frame::{GpuProcess, Happened, Hello, ProcessKind, Sample, Unreachable, Xid};
pub use info::{Fabric, GpuInfo, MigDevice, NvLink, Peer};
pub use library::{LibraryError, trusted_library};
pub use sampler::{SamplerArgs, sampler_main};

use crate::config::Every;
use asked::Asked;
use failsafe_core::signal::Kind;
use std::{
    path::PathBuf,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

/// How GPUs are watched.
#[derive(Debug, Clone)]
pub struct NvmlConfig {
    /// The library, from root's configuration; without it the loader finds `libnvidia-ml.so.1`.
    pub library: Option<PathBuf>,
    /// Time between samples of each GPU.
    pub interval: Duration,
    /// Least time between two readings of what changes slowly.
    pub slow: Duration,
    /// Groups and signals that are read otherwise.
    pub every: Every,
    /// Silence longer than this is blindness.
    pub deadline: Duration,
    /// One GPU among answering ones whose call does not come back for so long gets the sampler replaced.
    pub patience: Duration,
    /// The deadline until the first frame of a new sampler: attaching to sleeping GPUs takes seconds.
    pub start_deadline: Duration,
    /// How often a missing library is looked for.
    pub library_retry: Duration,
    /// The daemon's binary: run with `nvml-sampler` and [`SamplerArgs`].
    pub exe: PathBuf,
    /// Environment added for the sampler, for tests.
    pub env: Vec<(String, String)>,
}

impl NvmlConfig {
    /// Deadline of three intervals, at least 2 s; 20 s to start; a missing library is looked for once a minute.
    pub fn new(library: Option<PathBuf>, interval: Duration) -> NvmlConfig {
        let deadline = (interval * 3).max(Duration::from_secs(2));
        NvmlConfig {
            library,
            interval,
            slow: Duration::from_secs(5),
            every: Every::new(),
            deadline,
            patience: Duration::from_secs(30).max(deadline * 3),
            start_deadline: deadline.max(Duration::from_secs(20)),
            library_retry: Duration::from_secs(60),
            exe: PathBuf::from("/proc/self/exe"),
            env: Vec::new(),
        }
    }
}

/// What the sensor has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NvmlEvent {
    /// NVML answers; its GPUs. Said again when the set of GPUs changes and after each restart of the sampler.
    Hello(Hello),
    /// What a GPU is, when that has changed since it was last told.
    Info(Box<GpuInfo>),
    /// One GPU's values: all at first, then those that were due.
    Sample(Sample),
    /// An XID event.
    Xid(Xid),
    /// Another event.
    Happened(Happened),
    /// What came together was told: nothing more is to come for a while.
    Pause,
    /// Nothing is seen of one GPU, or of any. Said once per reason.
    Blind {
        /// The GPU's UUID; all of them when absent.
        gpu: Option<String>,
        /// Why, for a person.
        why: String,
        /// When the last reading came, `CLOCK_MONOTONIC`, nanoseconds; `None` when there was none yet.
        since_ns: Option<u64>,
    },
    /// What was blind is seen again.
    Sees {
        /// The GPU's UUID; `None` is the whole sensor. A GPU that was reported blind by itself also recovers by itself.
        gpu: Option<String>,
    },
}

/// The values of a sample, as signals of its GPU.
pub fn signals(sample: &Sample) -> impl Iterator<Item = (Kind, i64)> {
    sample.readings.iter().cloned()
}

/// Whether the reason of a blindness is that the GPU is lost from the bus, in nvml-wrapper's words.
pub fn means_lost(why: &str) -> bool {
    why.contains(&nvml_wrapper::error::NvmlError::GpuLost.to_string())
}

/// Whether NVML's error says that the GPU works again only after a reset (`NVML_ERROR_RESET_REQUIRED`).
pub fn means_reset_required(why: &str) -> bool {
    why.contains(&nvml_wrapper::error::NvmlError::ResetRequired.to_string())
}

/// The running sensor; dropping it stops it.
#[derive(Debug)]
pub struct NvmlSensor {
    asked: Arc<Asked>,
    thread: Option<JoinHandle<()>>,
}

impl NvmlSensor {
    /// Starts the sensor's thread, which starts the sampler. `sink` is called on that thread and must not block for long.
    ///
    /// # Errors
    /// When the thread or its event descriptor cannot be made.
    pub fn spawn(config: NvmlConfig, sink: impl FnMut(NvmlEvent) + Send + 'static) -> std::io::Result<NvmlSensor> {
        let asked = Arc::new(Asked::new()?);
        let heard = Arc::clone(&asked);
        // The child asks to die with its parent *thread*: this one lives as long as the sensor.
        let thread = thread::Builder::new()
            .name("nvml".to_owned())
            .spawn(move || watch::Watch::new(config, &heard, sink).work())?;
        Ok(NvmlSensor { asked, thread: Some(thread) })
    }

    /// The way to ask it for something.
    pub fn control(&self) -> NvmlControl {
        NvmlControl(Arc::clone(&self.asked))
    }

    /// Kills and reaps the sampler and ends the thread. A sampler that cannot be killed is left to init.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.asked.stop();
            if thread.join().is_err() {
                tracing::error!("the NVML sensor's thread panicked");
            }
        }
    }
}

impl Drop for NvmlSensor {
    fn drop(&mut self) {
        self.end();
    }
}

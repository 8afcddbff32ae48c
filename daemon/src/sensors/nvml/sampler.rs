//! The sampler process: the daemon's own binary, talking to NVML so that the daemon need not.
//!
//! An NVML call can block for ever, even beyond SIGKILL; what blocks here is seen by the parent as silence.
//! ```text
//!  main: init, Hello, then Alive, twice a second at most; never calls NVML again, so it always answers
//!   +- workers, who take turns with the GPUs: Sample at every interval      (a hung GPU leaves the others answering)
//!   +- one thread for events: Xid, Happened
//!   +- one thread that counts GPUs: a change ends the process, and the parent starts a fresh one
//! ```
//! Handles are made once per process: whenever they become void (driver reloaded) or a GPU comes or goes, the process
//! ends with `Ends { Restart }`. There is no `nvmlShutdown`: the end of the process closes every descriptor of the driver.

mod events;
mod gpu;
mod identity;
mod pool;
mod raw;
mod read;
mod shared;
mod time;

use super::{
    frame::{Fault, Frame, Hello, Unreachable},
    rates::Rates,
};
use crate::{config::Rated, platform::clock};
use anyhow::Context;
use nix::{
    sys::{prctl, signal::Signal},
    unistd::{dup, dup2_stdout, getppid},
};
use nvml_wrapper::{Nvml, error::NvmlError};
pub use shared::{EVENTS, XID};
use shared::{End, GpuLookup, Shared};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// How long `Hello` waits for GPUs that are slow to give a handle.
const COLLECT: Duration = Duration::from_secs(3);
/// How often the GPUs are counted.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// How often the process says that it lives, at most: a quarter of the shortest silence that is taken for a hang
/// ([`super::NvmlConfig::new`]).
const ALIVE_EVERY: Duration = Duration::from_millis(500);
/// Threads here need little; the default would count against the address space only.
const STACK: usize = 256 << 10;

/// Arguments of the sampler process; only the daemon starts it.
#[derive(Debug, Clone, clap::Args)]
pub struct SamplerArgs {
    /// The library; without it the dynamic loader finds `libnvidia-ml.so.1`.
    #[arg(long, value_name = "PATH")]
    pub library: Option<PathBuf>,
    /// Time between samples.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub interval_ms: u64,
    /// Least time between two readings of what changes slowly (ECC, rows, PCIe, NVLink).
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    pub slow_ms: u64,
    /// A group or signal that is read otherwise: `NAME:MS`. May be given again.
    #[arg(long, value_name = "NAME:MS", value_parser = every)]
    pub every: Vec<(Rated, Duration)>,
    /// A GPU to be left alone at first, and for how long: `INDEX:SECONDS`. May be given again.
    #[arg(long, value_name = "INDEX:SECONDS", value_parser = spared)]
    pub spare: Vec<(u32, u64)>,
    /// Make so many passes on every GPU, print how long each took, and end.
    #[arg(long, value_name = "PASSES")]
    pub time: Option<usize>,
    /// The process that started this one; when that is gone, so is this.
    #[arg(long, value_name = "PID")]
    pub parent: Option<i32>,
}

fn spared(text: &str) -> Result<(u32, u64), String> {
    let parts = text.split_once(':').and_then(|(index, seconds)| Some((index.parse().ok()?, seconds.parse().ok()?)));
    parts.ok_or_else(|| format!("{text} is not INDEX:SECONDS"))
}

fn every(text: &str) -> Result<(Rated, Duration), String> {
    let (name, ms) = text.split_once(':').ok_or_else(|| format!("{text} is not NAME:MS"))?;
    let ms = ms.parse().map_err(|_| format!("{ms} is no number of milliseconds"))?;
    Ok((Rated::parse(name)?, Duration::from_millis(ms)))
}

/// Samples until the parent goes, the handles are void, or the pipe closes. Its standard output carries frames only.
///
/// # Errors
/// When standard output cannot be set up; what NVML says goes to the parent as a frame.
pub fn sampler_main(args: SamplerArgs) -> anyhow::Result<()> {
    if let Some(passes) = args.time {
        return time::passes(&args, passes);
    }
    prctl::set_pdeathsig(Signal::SIGKILL).context("asking to die with the daemon")?;
    if args.parent.is_some_and(|parent| parent != getppid().as_raw()) {
        return Ok(());
    }
    // A library that prints must not print into the frames.
    let out = File::from(dup(std::io::stdout()).context("keeping standard output")?);
    dup2_stdout(std::io::stderr()).context("leading standard output to standard error")?;
    let (ends, ended) = mpsc::channel();
    let shared = Arc::new(Shared::new(out, ends));
    let end = sample(&args, &shared, &ended);
    shared.send(&Frame::Ends { fault: end.fault, why: end.why });
    // Threads may be inside calls that never come back.
    std::process::exit(0)
}

fn sample(args: &SamplerArgs, shared: &Arc<Shared>, ended: &mpsc::Receiver<End>) -> End {
    let interval = Duration::from_millis(args.interval_ms.max(10));
    let every = args.every.iter().cloned().collect();
    let rates = Arc::new(Rates::new(interval, Duration::from_millis(args.slow_ms.max(10)), &every));
    let nvml = match load(args.library.as_deref()) {
        Ok(nvml) => nvml,
        Err(end) => return end,
    };
    let count = match nvml.device_count() {
        Ok(count) => count,
        Err(error) => return End { fault: Fault::Init, why: format!("nvmlDeviceGetCount_v2: {error}") },
    };
    let mut hello = greeting(nvml);
    let (found, finds) = mpsc::channel();
    let gpus = (0..count).map(|index| {
        let mut gpu = gpu::Gpu::new(nvml, index, &rates, shared, &found);
        let spare = args.spare.iter().find(|(spared, _)| *spared == index).map_or(0, |(_, seconds)| *seconds);
        if spare > 0 {
            let why = format!("it is left alone for {spare} s: calls on it did not come back, or it is being reset");
            gpu.nothing(why, false);
        }
        (gpu, Duration::from_secs(spare))
    });
    let gpus: Vec<_> = gpus.collect();
    let flush = Arc::clone(shared);
    let pool = match pool::Pool::start(gpus, interval, move || flush.flush()) {
        Ok(pool) => pool,
        Err(error) => return End { fault: Fault::Restart, why: format!("starting a thread: {error}") },
    };
    drop(found);
    let until = Instant::now() + COLLECT;
    let answered = |hello: &Hello| hello.gpus.len() + hello.unreachable.len() >= count as usize;
    while !answered(&hello)
        && let Ok(find) = finds.recv_timeout(until.saturating_duration_since(Instant::now()))
    {
        take(&mut hello, shared, find);
    }
    for index in 0..count {
        if !hello.gpus.iter().any(|g| g.index == index) && !hello.unreachable.iter().any(|u| u.index == index) {
            let why = "its first call has not come back".to_owned();
            hello.unreachable.push(Unreachable { index, why, failed: false });
        }
    }
    shared.send(&Frame::Hello(hello.clone()));
    // No sample comes before it.
    pool.open();
    let threads = [
        spawn("events", {
            let shared = Arc::clone(shared);
            move || events::watch(nvml, &shared)
        }),
        spawn("count", {
            let shared = Arc::clone(shared);
            move || count_gpus(nvml, count, &shared)
        }),
    ];
    if let Some(error) = threads.into_iter().find_map(Result::err) {
        return End { fault: Fault::Restart, why: format!("starting a thread: {error}") };
    }
    // Samples are words as well: this only has to come before silence is taken for a hang.
    let alive = interval.max(ALIVE_EVERY);
    let mut busy = Vec::new();
    loop {
        match ended.recv_timeout(alive) {
            Ok(end) => return end,
            Err(_) => busy = shared.alive(busy),
        }
        let mut late = false;
        while let Ok(find) = finds.try_recv() {
            late |= take(&mut hello, shared, find);
        }
        if late {
            shared.send(&Frame::Hello(hello.clone()));
        }
    }
}

/// Adds what a GPU's thread found; true when a GPU answers, or answers with an error.
fn take(hello: &mut Hello, shared: &Shared, found: GpuLookup) -> bool {
    let index = found.index();
    hello.unreachable.retain(|u| u.index != index);
    match found {
        GpuLookup::Gpu(gpu, device) => {
            shared.add(&gpu.uuid, device);
            hello.gpus.push(*gpu);
            hello.gpus.sort_by_key(|g| g.index);
            true
        }
        GpuLookup::Nothing(unreachable) => {
            // An error is news; a GPU that is left alone was reported when it hung.
            let failed = unreachable.failed;
            hello.unreachable.push(unreachable);
            failed
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work).map(drop)
}

/// NVML for the rest of the process's life: threads that may hang hold it, so it is never given back.
fn load(library: Option<&Path>) -> Result<&'static Nvml, End> {
    let name = library.unwrap_or(Path::new("libnvidia-ml.so.1"));
    match Nvml::builder().lib_path(name.as_os_str()).init() {
        Ok(nvml) => Ok(Box::leak(Box::new(nvml))),
        Err(NvmlError::LibloadingError(error)) => {
            let error = error.to_string();
            let missing = error.contains("No such file");
            let why = if missing { "not found" } else { "cannot be loaded" };
            Err(End { fault: Fault::Library, why: format!("{} {why}: {error}", name.display()) })
        }
        Err(NvmlError::FailedToLoadSymbol(error)) => {
            Err(End { fault: Fault::Library, why: format!("{} is not an NVML library: {error}", name.display()) })
        }
        Err(error) => Err(End { fault: Fault::Init, why: format!("nvmlInit_v2: {error}") }),
    }
}

fn greeting(nvml: &Nvml) -> Hello {
    let driver = nvml.sys_driver_version().unwrap_or_default();
    let nvml = nvml.sys_nvml_version().unwrap_or_default();
    let simulated = simulated(&driver, &nvml, Path::new("/"));
    Hello { driver, nvml, simulated, ..Hello::default() }
}

/// Whether what the library says is not measured on a GPU: it says so, or the kernel has no driver of its version.
pub(super) fn simulated(driver: &str, nvml: &str, root: &Path) -> bool {
    driver.contains("sim") || nvml.contains("sim") || !driver_loaded(driver, root)
}

/// Whether the kernel has the NVIDIA driver of exactly this version: a real library refuses to work with any other.
fn driver_loaded(version: &str, root: &Path) -> bool {
    let has = |file: &str| {
        fs::read_to_string(root.join(file))
            .is_ok_and(|text| !version.is_empty() && text.split_ascii_whitespace().any(|word| word == version))
    };
    has("sys/module/nvidia/version") || has("proc/driver/nvidia/version")
}

/// Ends the process when GPUs come or go.
fn count_gpus(nvml: &Nvml, known: u32, shared: &Shared) {
    loop {
        thread::sleep(COUNT_EVERY);
        match nvml.device_count() {
            Ok(count) if count == known => {}
            Ok(count) => shared.restart(format!("NVML counts {count} GPUs, no longer {known}")),
            Err(error) if read::standing(&error) == read::HandleState::Void => {
                shared.restart(format!("nvmlDeviceGetCount_v2: {error}"));
            }
            // What else it says, the GPUs' own threads hear too.
            Err(_) => {}
        }
    }
}

/// Writes a line for the daemon's own log. The sampler goes on where nobody reads it.
fn complain(what: &str, error: &dyn std::fmt::Display) {
    let _nobody_reads = writeln!(std::io::stderr(), "nvml sampler: {what}: {error}");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here is left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Now, as frames tell it.
fn now_ns() -> u64 {
    clock::monotonic_ns()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_driver_makes_a_reading_real() {
        let root = tempfile::tempdir().unwrap();
        assert!(!driver_loaded("575.57.08", root.path()));
        fs::create_dir_all(root.path().join("proc/driver/nvidia")).unwrap();
        let text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.57.08  Tue May 20\nGCC version: 12\n";
        fs::write(root.path().join("proc/driver/nvidia/version"), text).unwrap();
        assert!(driver_loaded("575.57.08", root.path()));
        assert!(!driver_loaded("575.57", root.path()));
        assert!(!driver_loaded("", root.path()));
    }
}

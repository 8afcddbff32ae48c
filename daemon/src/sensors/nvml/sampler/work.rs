//! What the sampler's threads share, and the thread of one GPU.
//!
//! [`Shared`] owns the pipe: one lock, one frame at a time. No lock is held during an NVML call.

use super::{
    super::frame::{Busy, Fault, Frame, GpuInfo, Unreachable},
    now_ns,
    read::{self, Standing},
};
use nvml_wrapper::{Device, Nvml, error::NvmlError};
use std::{
    collections::BTreeMap,
    fs::File,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

/// A GPU lost for this long makes the process start afresh, which closes what may hinder its reset.
const LOST_TOO_LONG: Duration = Duration::from_secs(60);
/// The longest wait between two tries to get a lost GPU's handle again.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// Why the process ends.
#[derive(Debug)]
pub struct End {
    pub fault: Fault,
    pub why: String,
}

/// What a GPU's thread found at its start.
pub enum Found {
    Gpu(GpuInfo, Device<'static>),
    Nothing(Unreachable),
}

impl Found {
    pub fn index(&self) -> u32 {
        match self {
            Found::Gpu(gpu, _) => gpu.index,
            Found::Nothing(gpu) => gpu.index,
        }
    }
}

/// The pipe, the GPUs, and who is inside which call.
pub struct Shared {
    out: Mutex<File>,
    ends: Mutex<mpsc::Sender<End>>,
    busy: Mutex<Vec<Arc<Busyness>>>,
    gpus: Mutex<Gpus>,
}

/// GPUs that answer, and what is known of their XID events.
#[derive(Default)]
pub struct Gpus {
    /// Grows when a GPU is added.
    pub generation: u64,
    pub devices: Vec<(String, Device<'static>)>,
    /// Why XIDs of a GPU cannot be seen; `None`: they can. Unsupported and failing are told apart.
    pub xid: BTreeMap<String, Option<NoXid>>,
}

/// Why XIDs cannot be seen.
#[derive(Clone)]
pub enum NoXid {
    Unsupported,
    Failing(String),
}

/// The name of XID events in a sample's lists.
pub const XID: &str = "gpu.xid";

impl Shared {
    pub fn new(out: File, ends: mpsc::Sender<End>) -> Shared {
        Shared { out: Mutex::new(out), ends: Mutex::new(ends), busy: Mutex::default(), gpus: Mutex::default() }
    }

    /// Sends one frame. A closed pipe is the daemon's end, and so this process's.
    pub fn send(&self, frame: &Frame) {
        if let Err(error) = frame.write(&mut *lock(&self.out)) {
            eprintln!("nvml sampler: {error}");
            std::process::exit(1);
        }
    }

    pub fn restart(&self, why: String) {
        // The receiver lives as long as the process.
        let _gone = lock(&self.ends).send(End { fault: Fault::Restart, why });
    }

    pub fn busy(&self) -> Vec<Busy> {
        lock(&self.busy).iter().filter_map(|b| b.show()).collect()
    }

    /// A new place to note calls of one GPU.
    pub fn watch(&self, gpu: String) -> Arc<Busyness> {
        let busy = Arc::new(Busyness { gpu: Mutex::new(gpu), call: Mutex::new(None) });
        lock(&self.busy).push(Arc::clone(&busy));
        busy
    }

    pub fn add(&self, gpu: &str, device: Device<'static>) {
        let mut gpus = self.gpus();
        gpus.generation += 1;
        gpus.xid.insert(gpu.to_owned(), Some(NoXid::Failing("not registered yet".to_owned())));
        gpus.devices.push((gpu.to_owned(), device));
    }

    pub fn gpus(&self) -> MutexGuard<'_, Gpus> {
        lock(&self.gpus)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here is left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which call a thread is inside.
pub struct Busyness {
    gpu: Mutex<String>,
    call: Mutex<Option<(&'static str, u64)>>,
}

impl Busyness {
    pub fn calls(&self, call: &'static str) {
        *lock(&self.call) = Some((call, now_ns()));
    }

    pub fn done(&self) {
        *lock(&self.call) = None;
    }

    fn show(&self) -> Option<Busy> {
        let (call, since_ns) = (*lock(&self.call))?;
        Some(Busy { gpu: lock(&self.gpu).clone(), call: call.to_owned(), since_ns })
    }
}

/// Holds threads back until it opens.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *lock(&self.open) = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut open = lock(&self.open);
        while !*open {
            open = self.opened.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Another value of the same handle.
pub fn same(nvml: &'static Nvml, device: &Device<'_>) -> Device<'static> {
    // SAFETY: the handle came from this library, which lives as long as the process, and stays valid until nvmlShutdown,
    // which is never called; NVML's handles may be used from any thread at once (nvml.h, "thread safe").
    unsafe { Device::new(device.handle(), nvml) }
}

/// The thread of one GPU: finds it, then samples it at every interval until the process ends.
pub fn work(
    nvml: &'static Nvml,
    index: u32,
    interval: Duration,
    shared: &Shared,
    found: &mpsc::Sender<Found>,
    gate: &Gate,
) {
    let busy = shared.watch(format!("index {index}"));
    let mut told = None;
    let (gpu, mut device) = loop {
        let answer = find(nvml, index, &busy);
        busy.done();
        match answer {
            Ok(found) => break found,
            Err(error) => {
                let why = error.to_string();
                if told.as_ref() != Some(&why) {
                    let _gone = found.send(Found::Nothing(Unreachable { index, why: why.clone() }));
                    told = Some(why);
                }
                thread::sleep(Duration::from_secs(5));
            }
        }
    };
    *lock(&busy.gpu) = gpu.uuid.clone();
    let uuid = gpu.uuid.clone();
    // Another handle of the same GPU: a lost one is remade here alone.
    let _gone = found.send(Found::Gpu(gpu, same(nvml, &device)));
    gate.pass();
    let mut next = Instant::now();
    let mut lost: Option<Lost> = None;
    loop {
        let (mut sample, standing) = read::read(&device, &uuid, &busy);
        match shared.gpus().xid.get(&uuid) {
            Some(Some(NoXid::Unsupported)) => sample.unsupported.push(XID.to_owned()),
            Some(Some(NoXid::Failing(why))) => sample.failing.push((XID.to_owned(), why.clone())),
            Some(None) | None => {}
        }
        shared.send(&Frame::Sample(sample));
        match standing {
            Standing::Well => lost = None,
            Standing::Void => shared.restart("NVML's handles have become void".to_owned()),
            Standing::Lost => {
                let lost = lost.get_or_insert_with(Lost::now);
                if lost.since.elapsed() > LOST_TOO_LONG {
                    shared.restart(format!("{uuid} has been lost for a minute"));
                }
                if lost.due() {
                    busy.calls("nvmlDeviceGetHandleByIndex_v2");
                    if let Ok(again) = nvml.device_by_index(index)
                        && again.uuid().is_ok_and(|again| again == uuid)
                    {
                        device = again;
                    }
                    busy.done();
                }
            }
        }
        next += interval;
        let now = Instant::now();
        match next.checked_duration_since(now) {
            Some(wait) => thread::sleep(wait),
            // A late sample is not caught up with.
            None => next = now,
        }
    }
}

struct Lost {
    since: Instant,
    retry: Instant,
    wait: Duration,
}

impl Lost {
    fn now() -> Lost {
        let now = Instant::now();
        Lost { since: now, retry: now, wait: Duration::from_secs(1) }
    }

    fn due(&mut self) -> bool {
        let due = Instant::now() >= self.retry;
        if due {
            self.retry = Instant::now() + self.wait;
            self.wait = (self.wait * 2).min(MAX_RETRY);
        }
        due
    }
}

fn find(nvml: &'static Nvml, index: u32, busy: &Busyness) -> Result<(GpuInfo, Device<'static>), NvmlError> {
    busy.calls("nvmlDeviceGetHandleByIndex_v2");
    let device = nvml.device_by_index(index)?;
    busy.calls("nvmlDeviceGetUUID");
    let uuid = device.uuid()?;
    busy.calls("nvmlDeviceGetName");
    let name = device.name().ok();
    busy.calls("nvmlDeviceGetPciInfo_v3");
    let pci = device.pci_info().ok().map(|pci| pci.bus_id);
    busy.calls("nvmlDeviceGetMemoryInfo_v2");
    let memory_total = device.memory_info().ok().map(|memory| memory.total);
    busy.calls("nvmlDeviceGetEnforcedPowerLimit");
    let power_limit = device.enforced_power_limit().ok().map(u64::from);
    Ok((GpuInfo { uuid, index, name, pci, memory_total, power_limit }, device))
}

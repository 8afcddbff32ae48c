//! What the sampler's threads share, and the thread of one GPU.
//!
//! [`Shared`] owns the pipe: one lock, one frame at a time. No lock is held during an NVML call.

use super::{
    super::{
        frame::{Busy, Fault, Frame, Unreachable},
        info::GpuInfo,
    },
    identity, now_ns,
    read::{Rates, Reader, Standing},
};
use nvml_wrapper::{Device, Nvml};
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
    Gpu(Box<GpuInfo>, Device<'static>),
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
    /// UUIDs, each with the index that came first.
    claims: Mutex<BTreeMap<String, u32>>,
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
        let (busy, gpus, claims) = Default::default();
        Shared { out: Mutex::new(out), ends: Mutex::new(ends), busy, gpus, claims }
    }

    /// The other index that has this UUID, if there is one; else it is this index's from now on.
    fn claimed(&self, uuid: &str, index: u32) -> Option<u32> {
        let holder = *lock(&self.claims).entry(uuid.to_owned()).or_insert(index);
        (holder != index).then_some(holder)
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
        let busy = Busyness::new(gpu);
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
    pub fn new(gpu: String) -> Arc<Busyness> {
        Arc::new(Busyness { gpu: Mutex::new(gpu), call: Mutex::new(None) })
    }

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

/// What the thread of one GPU is told at its start.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    pub index: u32,
    pub interval: Duration,
    pub rates: Rates,
    /// The GPU is left alone for so long: its last sampler hung on it.
    pub spare: Duration,
}

/// The thread of one GPU: finds it, then samples it at every interval until the process ends.
pub fn work(nvml: &'static Nvml, task: Task, shared: &Shared, found: &mpsc::Sender<Found>, gate: &Gate) {
    let Task { index, interval, rates, spare } = task;
    if !spare.is_zero() {
        let why =
            format!("it is left alone for {} s: calls on it did not come back, or it is being reset", spare.as_secs());
        let _gone = found.send(Found::Nothing(Unreachable { index, why }));
        thread::sleep(spare);
    }
    let busy = shared.watch(format!("index {index}"));
    let mut told = None;
    let (gpu, device) = loop {
        let answer = find(nvml, index, &busy, shared);
        busy.done();
        match answer {
            Ok(found) => break found,
            Err(why) => {
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
    let mut info = gpu.clone();
    // Another handle of the same GPU: a lost one is remade here alone.
    let _gone = found.send(Found::Gpu(Box::new(gpu), same(nvml, &device)));
    gate.pass();
    let mut reader = Reader::new(device, &uuid, &busy, rates);
    let mut next = Instant::now();
    let mut look_again = next;
    let mut lost: Option<Lost> = None;
    loop {
        let (mut sample, standing) = reader.pass();
        match shared.gpus().xid.get(&uuid) {
            Some(Some(NoXid::Unsupported)) => sample.unsupported.push(XID.to_owned()),
            Some(Some(NoXid::Failing(why))) => sample.failing.push((XID.to_owned(), why.clone())),
            Some(None) | None => {}
        }
        shared.send(&Frame::Sample(sample));
        match standing {
            Standing::Well => {
                lost = None;
                if Instant::now() >= look_again {
                    look_again = Instant::now() + rates.rare;
                    tell_what_it_is(nvml, index, &reader, &busy, shared, &mut info);
                }
            }
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
                        reader.device = again;
                        reader.renew();
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

/// Looks again at what the GPU is, and tells it when that has changed.
fn tell_what_it_is(
    nvml: &'static Nvml,
    index: u32,
    reader: &Reader,
    busy: &Busyness,
    shared: &Shared,
    known: &mut GpuInfo,
) {
    let others: Vec<_> = shared.gpus().devices.iter().map(|(gpu, device)| (gpu.clone(), same(nvml, device))).collect();
    let info = identity::read(&reader.device, &known.uuid, index, busy, &others);
    if info != *known {
        shared.send(&Frame::Info(Box::new(info.clone())));
        *known = info;
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

/// The GPU of an index, when no other index has its UUID.
fn find(
    nvml: &'static Nvml,
    index: u32,
    busy: &Busyness,
    shared: &Shared,
) -> Result<(GpuInfo, Device<'static>), String> {
    busy.calls("nvmlDeviceGetHandleByIndex_v2");
    let device = nvml.device_by_index(index).map_err(|error| error.to_string())?;
    busy.calls("nvmlDeviceGetUUID");
    let uuid = device.uuid().map_err(|error| error.to_string())?;
    if let Some(other) = shared.claimed(&uuid, index) {
        return Err(format!("it has the UUID of GPU {other}, {uuid}: they cannot be told apart"));
    }
    Ok((identity::read(&device, &uuid, index, busy, &[]), device))
}

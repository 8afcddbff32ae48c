//! What the sampler's threads share.
//!
//! [`Shared`] owns the pipe: one lock, whole frames only. Samples of one round of the GPUs are written together, since each write
//! wakes the daemon. No lock is held during an NVML call.

use super::{
    super::{
        frame::{Busy, Fault, Frame, FrameError, Unreachable},
        info::GpuInfo,
    },
    complain, lock, now_ns,
};
use nvml_wrapper::{Device, Nvml};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, mpsc},
};

/// Why the process ends.
#[derive(Debug)]
pub struct End {
    pub fault: Fault,
    pub why: String,
}

/// What came of looking for a GPU.
pub enum GpuLookup {
    Gpu(Box<GpuInfo>, Device<'static>),
    Nothing(Unreachable),
}

impl GpuLookup {
    pub fn index(&self) -> u32 {
        match self {
            GpuLookup::Gpu(gpu, _) => gpu.index,
            GpuLookup::Nothing(gpu) => gpu.index,
        }
    }
}

/// The pipe, the GPUs, and who is inside which call.
pub struct Shared {
    out: Mutex<Out>,
    ends: Mutex<mpsc::Sender<End>>,
    busy: Mutex<Vec<Arc<Busyness>>>,
    gpus: Mutex<Gpus>,
    /// UUIDs, each with the index that came first.
    claims: Mutex<BTreeMap<String, u32>>,
}

/// The pipe, and frames that are written with the next that may not wait.
struct Out {
    pipe: File,
    waiting: Vec<u8>,
    /// Something was sent since [`Shared::alive`] last looked.
    spoke: bool,
}

/// GPUs that answer, and what is known of their events.
#[derive(Default)]
pub struct Gpus {
    /// Grows when a GPU is added.
    pub generation: u64,
    pub devices: Vec<(String, Device<'static>)>,
    /// Events of a GPU that cannot be seen: [`XID`] or [`EVENTS`], with the reason.
    pub unseen: BTreeMap<(String, &'static str), Unseen>,
    /// GPUs on which something happened that may have changed anything: all is read of them anew.
    pub anew: BTreeSet<String>,
}

/// Why events cannot be seen. Unsupported and failing are told apart.
#[derive(Clone)]
pub enum Unseen {
    Unsupported,
    Failing(String),
}

/// The name of XID events in a sample's lists.
pub const XID: &str = "gpu.xid";
/// The name of all other events there.
pub const EVENTS: &str = "gpu.events";

impl Gpus {
    /// Events of that name are seen, or why not.
    pub fn sees(&mut self, gpu: &str, events: &'static str, unseen: Option<Unseen>) {
        let key = (gpu.to_owned(), events);
        match unseen {
            Some(why) => drop(self.unseen.insert(key, why)),
            None => drop(self.unseen.remove(&key)),
        }
    }

    /// The names of events of a GPU that are not seen, each with the reason.
    pub fn unseen_of(&self, gpu: &str) -> impl Iterator<Item = (&'static str, &Unseen)> {
        self.unseen.iter().filter(move |((of, _), _)| of == gpu).map(|((_, name), why)| (*name, why))
    }
}

impl Shared {
    pub fn new(out: File, ends: mpsc::Sender<End>) -> Shared {
        let (busy, gpus, claims) = Default::default();
        let out = Mutex::new(Out { pipe: out, waiting: Vec::new(), spoke: false });
        Shared { out, ends: Mutex::new(ends), busy, gpus, claims }
    }

    /// The other index that has this UUID, if there is one; else it is this index's from now on.
    pub fn claimed(&self, uuid: &str, index: u32) -> Option<u32> {
        let holder = *lock(&self.claims).entry(uuid.to_owned()).or_insert(index);
        (holder != index).then_some(holder)
    }

    /// Sends one frame, and before it those that wait.
    pub fn send(&self, frame: &Frame) {
        self.take(frame, true);
    }

    /// Has a frame wait for the next [`Shared::send`] or [`Shared::flush`].
    pub fn keep(&self, frame: &Frame) {
        self.take(frame, false);
    }

    /// Says that the process lives and which calls are under way, unless what it sent meanwhile says as much. `before`: those
    /// that were told last; those that are told now.
    pub fn alive(&self, before: Vec<Busy>) -> Vec<Busy> {
        let busy = self.busy();
        let spoke = std::mem::take(&mut lock(&self.out).spoke);
        if !spoke || !busy.is_empty() || !before.is_empty() {
            self.send(&Frame::Alive { busy: busy.clone() });
            lock(&self.out).spoke = false;
        }
        busy
    }

    /// Sends what waits.
    pub fn flush(&self) {
        ended_with_the_pipe(lock(&self.out).flush().map_err(FrameError::Write));
    }

    fn take(&self, frame: &Frame, now: bool) {
        let mut out = lock(&self.out);
        let taken = frame.write(&mut out.waiting);
        ended_with_the_pipe(taken.and_then(|()| if now { out.flush().map_err(FrameError::Write) } else { Ok(()) }));
    }

    pub fn restart(&self, why: String) {
        // The receiver lives as long as the process.
        let _gone = lock(&self.ends).send(End { fault: Fault::Restart, why });
    }

    fn busy(&self) -> Vec<Busy> {
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
        gpus.sees(gpu, XID, Some(Unseen::Failing("not registered yet".to_owned())));
        gpus.devices.push((gpu.to_owned(), device));
    }

    pub fn gpus(&self) -> MutexGuard<'_, Gpus> {
        lock(&self.gpus)
    }
}

impl Out {
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let written = self.pipe.write_all(&self.waiting);
        self.waiting.clear();
        self.spoke = true;
        written
    }
}

/// A closed pipe is the daemon's end, and so this process's.
fn ended_with_the_pipe(written: Result<(), FrameError>) {
    if let Err(error) = written {
        complain("writing to the daemon", &error);
        std::process::exit(1);
    }
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

    /// The GPU's name is known.
    pub fn names(&self, gpu: &str) {
        gpu.clone_into(&mut lock(&self.gpu));
    }

    pub fn done(&self) {
        *lock(&self.call) = None;
    }

    fn show(&self) -> Option<Busy> {
        let (call, since_ns) = (*lock(&self.call))?;
        Some(Busy { gpu: lock(&self.gpu).clone(), call: call.to_owned(), since_ns })
    }
}

/// Another value of the same handle.
pub fn same(nvml: &'static Nvml, device: &Device<'_>) -> Device<'static> {
    // SAFETY: the handle came from this library, which lives as long as the process, and stays valid until nvmlShutdown,
    // which is never called; NVML's handles may be used from any thread at once (nvml.h, "thread safe").
    unsafe { Device::new(device.handle(), nvml) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::nvml::frame::{Decoder, Sample, Xid};
    use std::io::Read;

    #[test]
    fn it_reports_that_it_lives_when_nothing_else_does_or_a_call_is_under_way() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let (ends, _ended) = mpsc::channel();
        let shared = Shared::new(File::from(write), ends);
        let mut read = File::from(read);
        let mut decoder = Decoder::default();
        let mut heard = |shared: &Shared| {
            // A frame that ends what is read: the pipe never has nothing to give.
            shared.send(&Frame::Xid(Xid {
                mono_ns: 0,
                gpu: String::new(),
                code: 0,
                gpu_instance: None,
                compute_instance: None,
                count: 0,
            }));
            let mut frames = Vec::new();
            loop {
                while let Some(frame) = decoder.next_frame().unwrap() {
                    match frame {
                        Frame::Xid(_) => return frames,
                        frame => frames.push(frame),
                    }
                }
                let mut bytes = [0; 512];
                let n = read.read(&mut bytes).unwrap();
                decoder.push(&bytes[..n]);
            }
        };
        let nothing = shared.alive(Vec::new());
        assert_eq!(heard(&shared), [Frame::Alive { busy: Vec::new() }], "nothing was said");
        let nothing = shared.alive(nothing);
        assert_eq!(heard(&shared), [], "the last frame said so");
        shared.keep(&Frame::Sample(Sample::default()));
        assert!(shared.alive(nothing).is_empty());
        let frames = heard(&shared);
        assert_eq!(frames, [Frame::Sample(Sample::default())], "what waits goes before what is sent");
        let busy = shared.watch("GPU-1".into());
        busy.calls("nvmlDeviceGetPowerUsage");
        let reported = shared.alive(Vec::new());
        assert_eq!((heard(&shared), reported.len()), (vec![Frame::Alive { busy: reported.clone() }], 1));
        busy.done();
        assert!(shared.alive(reported).is_empty());
        assert_eq!(heard(&shared), [Frame::Alive { busy: Vec::new() }], "that it came back is told");
    }
}

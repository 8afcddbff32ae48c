//! One GPU and its turns: it is looked for until it answers, then sampled at every tick until the process ends.
//!
//! Owns the GPU's handle and reader. A lost GPU's handle is asked for again with growing waits.

use super::{
    super::{
        frame::{Frame, Unreachable},
        info::GpuInfo,
        rates::Rates,
    },
    identity,
    pool::{Next, Task},
    read::{HandleState, Reader},
    shared::{Busyness, GpuLookup, Shared, Unseen, same},
};
use nvml_wrapper::{Device, Nvml};
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

/// One that does not answer is looked for again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A GPU lost for this long makes the process start afresh, which closes what may hinder its reset.
const LOST_TOO_LONG: Duration = Duration::from_secs(60);
/// The longest wait between two tries to get a lost GPU's handle again.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// One GPU.
pub struct Gpu {
    nvml: &'static Nvml,
    index: u32,
    rates: Arc<Rates>,
    shared: Arc<Shared>,
    busy: Arc<Busyness>,
    found: mpsc::Sender<GpuLookup>,
    /// Why it does not answer, once that was said.
    reported: Option<String>,
    answers: Option<Answers>,
}

/// What there is of a GPU that answers.
struct Answers {
    reader: Reader,
    slices: Vec<Slice>,
    info: GpuInfo,
    look_again: Instant,
    lost: Option<Lost>,
}

/// A MIG device that tells of itself.
struct Slice {
    reader: Reader,
    gpu_instance: u32,
}

impl Task for Gpu {
    fn turn(&mut self) -> Next {
        match &mut self.answers {
            None => self.seek(),
            Some(answers) => {
                answers.sample(self.nvml, self.index, &self.shared, &self.busy, &self.rates);
                Next::Tick
            }
        }
    }
}

impl Gpu {
    /// The GPU of an index, not yet looked for.
    pub fn new(
        nvml: &'static Nvml,
        index: u32,
        rates: &Arc<Rates>,
        shared: &Arc<Shared>,
        found: &mpsc::Sender<GpuLookup>,
    ) -> Gpu {
        let busy = shared.watch(format!("index {index}"));
        let (rates, shared, found) = (Arc::clone(rates), Arc::clone(shared), found.clone());
        Gpu { nvml, index, rates, shared, busy, found, reported: None, answers: None }
    }

    /// Says why nothing is known of it, unless that was said.
    pub fn nothing(&mut self, why: String, failed: bool) {
        if self.reported.as_ref() != Some(&why) {
            let unreachable = Unreachable { index: self.index, why: why.clone(), failed };
            // Who listens lives as long as the process.
            let _gone = self.found.send(GpuLookup::Nothing(unreachable));
            self.reported = Some(why);
        }
    }

    fn seek(&mut self) -> Next {
        let answer = self.find();
        self.busy.done();
        let (info, device) = match answer {
            Ok(found) => found,
            Err(why) => {
                self.nothing(why, true);
                return Next::After(LOOK_AGAIN);
            }
        };
        self.busy.names(&info.uuid);
        // Another handle of the same GPU: a lost one is remade here alone.
        let _gone = self.found.send(GpuLookup::Gpu(Box::new(info.clone()), same(self.nvml, &device)));
        let reader = Reader::new(device, &info.uuid, &self.busy, &self.rates);
        let mut answers = Answers { reader, slices: Vec::new(), info, look_again: Instant::now(), lost: None };
        answers.cut(&self.busy, &self.rates);
        self.answers = Some(answers);
        Next::Open
    }

    /// The GPU of the index, when no other index has its UUID.
    fn find(&self) -> Result<(GpuInfo, Device<'static>), String> {
        self.busy.calls("nvmlDeviceGetHandleByIndex_v2");
        let device = self.nvml.device_by_index(self.index).map_err(|error| error.to_string())?;
        self.busy.calls("nvmlDeviceGetUUID");
        let uuid = device.uuid().map_err(|error| error.to_string())?;
        if let Some(other) = self.shared.claimed(&uuid, self.index) {
            return Err(format!("it has the UUID of GPU {other}, {uuid}: they cannot be distinguished"));
        }
        Ok((identity::read(&device, &uuid, self.index, &self.busy, &[]), device))
    }
}

impl Answers {
    fn sample(&mut self, nvml: &'static Nvml, index: u32, shared: &Shared, busy: &Arc<Busyness>, rates: &Arc<Rates>) {
        let uuid = &self.info.uuid;
        if shared.gpus().anew.remove(uuid) {
            self.reader.renew();
            self.look_again = Instant::now();
        }
        // The MIG devices are read before the whole GPU: its work is attributed by their utilisation.
        for slice in &mut self.slices {
            if let Some(sample) = slice.reader.slice_pass(&self.reader.device, slice.gpu_instance) {
                shared.keep(&Frame::Sample(sample));
            }
        }
        let (mut sample, standing) = self.reader.pass();
        for (name, unseen) in shared.gpus().unseen_of(uuid) {
            match unseen {
                Unseen::Unsupported => sample.unsupported.push(name.to_owned()),
                Unseen::Failing(why) => sample.failing.push((name.to_owned(), why.clone())),
            }
        }
        shared.keep(&Frame::Sample(sample));
        match standing {
            HandleState::Well => {
                self.lost = None;
                if Instant::now() >= self.look_again {
                    self.look_again = Instant::now() + rates.rare;
                    self.refresh_identity(nvml, index, busy, shared, rates);
                }
            }
            HandleState::Void => shared.restart("NVML's handles have become void".to_owned()),
            HandleState::Lost => {
                let lost = self.lost.get_or_insert_with(Lost::now);
                if lost.since.elapsed() > LOST_TOO_LONG {
                    shared.restart(format!("{uuid} has been lost for a minute"));
                }
                if lost.due() {
                    busy.calls("nvmlDeviceGetHandleByIndex_v2");
                    if let Ok(again) = nvml.device_by_index(index)
                        && again.uuid().is_ok_and(|again| again == *uuid)
                    {
                        self.reader.device = again;
                        self.reader.renew();
                        self.cut(busy, rates);
                    }
                    busy.done();
                }
            }
        }
    }

    /// Reads the identity of the GPU again, and reports it when it has changed.
    fn refresh_identity(
        &mut self,
        nvml: &'static Nvml,
        index: u32,
        busy: &Arc<Busyness>,
        shared: &Shared,
        rates: &Arc<Rates>,
    ) {
        let others: Vec<_> =
            shared.gpus().devices.iter().map(|(gpu, device)| (gpu.clone(), same(nvml, device))).collect();
        let info = identity::read(&self.reader.device, &self.info.uuid, index, busy, &others);
        if info != self.info {
            shared.keep(&Frame::Info(Box::new(info.clone())));
            let cut = info.mig_devices != self.info.mig_devices;
            self.info = info;
            if cut {
                self.cut(busy, rates);
            }
        }
    }

    /// Finds its MIG devices anew: handles of those that were are void once the GPU is cut otherwise.
    fn cut(&mut self, busy: &Arc<Busyness>, rates: &Arc<Rates>) {
        let devices = identity::mig_handles(&self.reader.device, busy);
        let slice = |(uuid, device): (String, Device<'static>)| {
            let gpu_instance = self.info.mig_devices.iter().find(|known| known.uuid == uuid)?.gpu_instance?;
            Some(Slice { reader: Reader::new(device, &uuid, busy, rates), gpu_instance })
        };
        self.slices = devices.into_iter().filter_map(slice).collect();
        busy.done();
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

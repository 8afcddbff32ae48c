//! The sensor's thread: starts samplers one after another and tells sight from blindness.
//!
//! Owns what is known of each GPU. A sampler that has said nothing for the deadline, or of which every GPU hangs, is
//! killed and replaced with growing waits. One hung GPU among answering ones is blind while the others are seen; when its
//! call has not come back after [`NvmlConfig::patience`], the sampler is replaced by one that leaves that GPU alone for a
//! while ([`Spared`]). A sampler that sleeps uninterruptibly is never killed for one GPU: no other could be started.

use super::{
    NvmlConfig, NvmlEvent,
    asked::{Asked, NotLetGo, SensorCommand},
    child::{PipeEvent, Sampler},
    frame::{Busy, Fault, Frame, Hello, Sample},
    library::trusted_library,
    spared::Spared,
};
use crate::platform::ProcFs;
use std::{
    collections::BTreeMap,
    error::Error,
    sync::mpsc,
    time::{Duration, Instant},
};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// After this long a sampler that ends has done well, and the next one starts with the first backoff.
const DONE_WELL: Duration = Duration::from_secs(30);

/// What is known of one GPU.
struct Gpu {
    index: u32,
    /// When it last gave a value.
    seen: Instant,
    seen_ns: Option<u64>,
    /// Why it is blind, once that was said.
    blind: Option<String>,
    /// Listed by the present sampler.
    listed: bool,
}

/// How a sampler's time ended.
enum End {
    Stop,
    /// It sees nothing: say why, wait, start another.
    Blind {
        why: String,
        wait: Option<Duration>,
    },
    /// It asked for a fresh start after it had seen something, or it is to hold another set of GPUs.
    Again,
}

/// The thread's state.
pub struct Watch<'a, F> {
    config: NvmlConfig,
    asked: &'a Asked,
    sink: F,
    gpus: BTreeMap<String, Gpu>,
    /// Why nothing at all is seen, once that was said.
    blind: Option<String>,
    /// Whether the present sampler has given a value.
    saw: bool,
    heard: Instant,
    heard_ns: Option<u64>,
    busy: Vec<Busy>,
    spared: Spared,
    /// Who waits for the present sampler's end.
    waiting: Vec<mpsc::Sender<Result<(), NotLetGo>>>,
}

impl<'a, F: FnMut(NvmlEvent)> Watch<'a, F> {
    pub fn new(config: NvmlConfig, asked: &'a Asked, sink: F) -> Self {
        let heard = Instant::now();
        let (gpus, busy, spared, waiting) = Default::default();
        let (blind, heard_ns, saw) = Default::default();
        Watch { config, asked, sink, gpus, blind, saw, heard, heard_ns, busy, spared, waiting }
    }

    /// Until `stop`.
    pub fn work(mut self) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            // Without a sampler nothing is held: what is asked then is so at once.
            if self.obey() {
                return;
            }
            let started = Instant::now();
            let (end, stuck) = self.one();
            for tell in self.waiting.drain(..) {
                // Whoever asked may have given up.
                let _gone = tell.send(if stuck.is_some() { Err(NotLetGo::Stuck) } else { Ok(()) });
            }
            if let Some(stuck) = stuck
                && self.outlast(stuck)
            {
                return;
            }
            if started.elapsed() > DONE_WELL {
                backoff = FIRST_BACKOFF;
            }
            let wait = match end {
                End::Stop => return,
                End::Again => Duration::ZERO,
                End::Blind { why, wait } => {
                    self.blind(why);
                    wait.unwrap_or_else(|| {
                        let now = backoff;
                        backoff = (backoff * 2).min(MAX_BACKOFF);
                        now
                    })
                }
            };
            if self.asked.stopped_within(wait) {
                return;
            }
        }
    }

    /// Does what was asked, while no sampler lives; true when the sensor is to stop.
    fn obey(&mut self) -> bool {
        let stop = self.take_orders();
        for tell in self.waiting.drain(..) {
            let _gone = tell.send(Ok(()));
        }
        stop
    }

    /// Takes what was asked; true when the sensor is to stop.
    fn take_orders(&mut self) -> bool {
        let Some(orders) = self.asked.take() else { return true };
        for order in orders {
            match order {
                SensorCommand::LetGo(gpu, tell) => {
                    self.spared.let_go(gpu);
                    self.waiting.push(tell);
                }
                SensorCommand::TakeUp(gpu) => {
                    self.spared.take_up(&gpu);
                }
            }
        }
        false
    }

    /// One sampler from start to end; with it the process, if that cannot be killed.
    fn one(&mut self) -> (End, Option<Sampler>) {
        let library = match self.config.library.as_deref().map(trusted_library).transpose() {
            Ok(library) => library,
            Err(error) => {
                let wait = Some(self.config.library_retry);
                return (End::Blind { why: format!("the NVML library is not trusted: {}", chain(&error)), wait }, None);
            }
        };
        self.saw = false;
        self.heard = Instant::now();
        self.busy.clear();
        let spare = self.spared.of_next(|uuid| Some(self.gpus.get(uuid)?.index));
        let mut sampler = match Sampler::start(&self.config, library.as_deref(), &spare) {
            Ok(sampler) => sampler,
            Err(error) => {
                let why = format!("starting the NVML sampler {}: {error}", self.config.exe.display());
                return (End::Blind { why, wait: None }, None);
            }
        };
        let end = self.listen(&mut sampler);
        let pid = sampler.pid();
        match (sampler.kill(), end) {
            (Ok(status), None) => {
                (End::Blind { why: format!("the NVML sampler (pid {pid}) ended: {status}"), wait: None }, None)
            }
            (Ok(_), Some(end)) => (end, None),
            (Err(stuck), end) => {
                let end = end.unwrap_or(End::Blind { why: format!("the NVML sampler (pid {pid}) hangs"), wait: None });
                (end, Some(stuck))
            }
        }
    }

    /// Waits for a process that does not die, and says so; true when the sensor is to stop. No second one is started.
    fn outlast(&mut self, mut stuck: Sampler) -> bool {
        let pid = stuck.pid();
        let state = ProcFs::default().stat(pid).ok().flatten().map_or('?', |stat| stat.state);
        self.blind(format!(
            "the NVML sampler (pid {pid}, state {state}) does not die: a driver call cannot be interrupted"
        ));
        while stuck.ended().is_none() {
            if self.asked.stopped_within(Duration::from_secs(1)) || self.take_orders() {
                return true;
            }
            for tell in self.waiting.drain(..) {
                let _gone = tell.send(Err(NotLetGo::Stuck));
            }
        }
        false
    }

    /// `None` when the pipe closed without a word.
    fn listen(&mut self, sampler: &mut Sampler) -> Option<End> {
        let mut deadline = self.config.start_deadline;
        let mut greeted = false;
        loop {
            // Looking this often keeps a hung GPU's blindness from being said late.
            let until = (self.heard + deadline).min(Instant::now() + self.config.deadline / 4);
            match sampler.hear(self.asked, until) {
                PipeEvent::Asked => return Some(if self.take_orders() { End::Stop } else { End::Again }),
                PipeEvent::Closed(None) => return None,
                PipeEvent::Closed(Some(error)) => {
                    return Some(End::Blind {
                        why: format!("the NVML sampler is broken: {}", chain(&error)),
                        wait: None,
                    });
                }
                PipeEvent::Frames(frames) if frames.is_empty() => {}
                PipeEvent::Frames(frames) => {
                    self.heard = Instant::now();
                    if frames.iter().any(|frame| matches!(frame, Frame::Hello(_))) {
                        greeted = true;
                        deadline = self.config.deadline;
                    }
                    let end = frames.into_iter().find_map(|frame| self.frame(frame));
                    (self.sink)(NvmlEvent::Pause);
                    if end.is_some() {
                        return end;
                    }
                }
            }
            if self.heard.elapsed() > deadline {
                let what =
                    if greeted { "does not answer" } else { "has not started: nvmlInit or nvmlDeviceGetCount hangs" };
                return Some(End::Blind { why: format!("the NVML sampler {what}"), wait: None });
            }
            if greeted && let Some(end) = self.look(sampler.pid()) {
                return Some(end);
            }
        }
    }

    fn frame(&mut self, frame: Frame) -> Option<End> {
        match frame {
            Frame::Hello(hello) => self.hello(hello),
            Frame::Sample(sample) => self.sample(sample),
            Frame::Info(info) => (self.sink)(NvmlEvent::Info(info)),
            Frame::Xid(xid) => (self.sink)(NvmlEvent::Xid(xid)),
            Frame::Happened(event) => (self.sink)(NvmlEvent::Happened(event)),
            Frame::Alive { busy } => self.busy = busy,
            Frame::Ends { fault, why } => {
                return Some(match fault {
                    Fault::Restart if self.saw => {
                        tracing::info!(why, "the NVML sampler starts afresh");
                        End::Again
                    }
                    Fault::Library => End::Blind { why, wait: Some(self.config.library_retry) },
                    Fault::Init | Fault::Restart => End::Blind { why, wait: None },
                });
            }
        }
        None
    }

    fn hello(&mut self, hello: Hello) {
        for gpu in self.gpus.values_mut() {
            gpu.listed = false;
        }
        let now = Instant::now();
        for info in &hello.gpus {
            let new = || Gpu { index: info.index, seen: now, seen_ns: None, blind: None, listed: true };
            let gpu = self.gpus.entry(info.uuid.clone()).or_insert_with(new);
            (gpu.listed, gpu.seen, gpu.index) = (true, now, info.index);
        }
        let nobody = hello.gpus.is_empty() && hello.unreachable.is_empty();
        let because: Vec<_> = hello.unreachable.iter().map(|gpu| format!("GPU {}: {}", gpu.index, gpu.why)).collect();
        let because = because.join("; ");
        (self.sink)(NvmlEvent::Hello(hello));
        let gone: Vec<_> = self.gpus.iter().filter(|(_, gpu)| !gpu.listed).map(|(uuid, _)| uuid.clone()).collect();
        for uuid in gone {
            let why = if because.is_empty() { "no longer counted by NVML" } else { &because };
            self.blind_gpu(&uuid, format!("the GPU is not seen any more: {why}"));
        }
        if nobody {
            self.saw = true;
            self.sees();
        } else if self.gpus.values().all(|gpu| !gpu.listed) {
            self.blind(format!("no GPU answers: {because}"));
        }
    }

    fn sample(&mut self, sample: Sample) {
        let uuid = sample.gpu.clone();
        let blind = self.gpus.get(&uuid).is_some_and(|gpu| gpu.blind.is_some());
        // A GPU of which only a few counters answer would be blind and seeing by turns: it is seen again when more of its
        // signals answer than fail.
        let fails = if blind { sample.failing.len() >= sample.readings.len() } else { sample.readings.is_empty() };
        if fails && !sample.failing.is_empty() {
            let why = sample.failing[0].1.clone();
            // It answers, if only with errors: it does not hang.
            if let Some(gpu) = self.gpus.get_mut(&uuid) {
                gpu.seen = Instant::now();
            }
            (self.sink)(NvmlEvent::Sample(sample));
            self.blind_gpu(&uuid, format!("every call fails: {why}"));
            return;
        }
        self.saw = true;
        self.heard_ns = Some(sample.mono_ns);
        let mut again = false;
        if let Some(gpu) = self.gpus.get_mut(&uuid) {
            (gpu.seen, gpu.seen_ns) = (Instant::now(), Some(sample.mono_ns));
            again = gpu.blind.take().is_some();
        }
        self.sees();
        if again {
            (self.sink)(NvmlEvent::Sees { gpu: Some(uuid) });
        }
        (self.sink)(NvmlEvent::Sample(sample));
    }

    /// Looks for GPUs that hang; the end of this sampler when all do, or when one has done so for long enough.
    fn look(&mut self, pid: u32) -> Option<End> {
        let deadline = self.config.deadline;
        let listed = self.gpus.values().filter(|gpu| gpu.listed).count();
        let hung: Vec<String> = self
            .gpus
            .iter()
            .filter(|(_, gpu)| gpu.listed && gpu.seen.elapsed() > deadline)
            .map(|(uuid, _)| uuid.clone())
            .collect();
        if listed > 0 && hung.len() == listed {
            let why = hung.first().map(|uuid| self.hangs(uuid)).unwrap_or_default();
            // Whose call has been under way for longest holds the others up.
            let first = self.busy.iter().min_by_key(|busy| busy.since_ns).map(|busy| busy.gpu.clone());
            if listed > 1
                && let Some(gpu) = first.and_then(|uuid| self.gpus.get(&uuid))
            {
                self.spared.hung(gpu.index, self.config.patience);
            }
            return Some(End::Blind { why, wait: None });
        }
        let mut end = None;
        for uuid in hung {
            let why = self.hangs(&uuid);
            let gpu = self.gpus.get(&uuid).map(|gpu| (gpu.index, gpu.seen.elapsed()));
            if let Some((index, silent)) = gpu
                && silent > self.config.patience
                && !sleeps_uninterruptibly(pid)
            {
                tracing::warn!(why, "the NVML sampler is replaced by one that leaves that GPU alone for a while");
                self.spared.hung(index, self.config.patience);
                end = Some(End::Again);
            }
            self.blind_gpu(&uuid, why);
        }
        end
    }

    fn hangs(&self, uuid: &str) -> String {
        match self.busy.iter().find(|busy| busy.gpu == uuid) {
            Some(busy) => format!("{} of {uuid} does not come back", busy.call),
            None => format!("{uuid} does not answer"),
        }
    }

    fn blind(&mut self, why: String) {
        if self.blind.as_ref() != Some(&why) {
            self.blind = Some(why.clone());
            (self.sink)(NvmlEvent::Blind { gpu: None, why, since_ns: self.heard_ns });
        }
    }

    fn sees(&mut self) {
        if self.blind.take().is_some() {
            (self.sink)(NvmlEvent::Sees { gpu: None });
        }
    }

    fn blind_gpu(&mut self, uuid: &str, why: String) {
        if let Some(gpu) = self.gpus.get_mut(uuid)
            && gpu.blind.as_ref() != Some(&why)
        {
            gpu.blind = Some(why.clone());
            let since_ns = gpu.seen_ns;
            (self.sink)(NvmlEvent::Blind { gpu: Some(uuid.to_owned()), why, since_ns });
        }
    }
}

/// Whether a thread of the process sleeps inside the driver where no signal reaches it.
fn sleeps_uninterruptibly(pid: u32) -> bool {
    let process = i32::try_from(pid).ok().and_then(|pid| procfs::process::Process::new(pid).ok());
    let tasks = process.and_then(|process| process.tasks().ok()).into_iter().flatten().flatten();
    tasks.filter_map(|task| task.stat().ok()).any(|stat| stat.state == 'D')
}

/// An error with its causes, for a person.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

//! Turns records of the kernel log into signals and health facts. NVML maps a PCI address to a GPU; until NVML has
//! answered once, the driver's files in `/proc` do.
//!
//! ```text
//! kmsg thread ─► Message (what a record says, and its number) ─► pipeline: health and how far it has read, in one step
//! ```
//! Invariant: a record and its number reach the health that is kept together, so that after a crash each is taken in once.
//! What was written before this daemon started is judged for health; a run that was taken up, and had the GPU then, is told.

use super::{Pipeline, Sender, health, nvml_ingest};
use crate::{
    causes::chain,
    config::Config,
    node::{NodeView, SensorView},
    platform::clock,
    sensors::{
        kmsg::{Kmsg, KmsgEvent},
        nvidia_proc,
    },
};
use failsafe_core::{
    GpuId, Input, Kind, MonoTime, Signal, Subject, Value,
    event::{Event, Slice},
    health::{Fact, Level, ReadTo, Target},
    input::Gap,
    klog::{Bus, Lines, LogFact},
    signal::Source,
    xid::{Advice, HealthImpact},
};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A record of the kernel's log that says something.
#[derive(Debug)]
pub struct Message {
    /// What.
    heard: LogFinding,
    /// Its number.
    sequence: u64,
    /// It was written before this daemon started.
    past: bool,
}

/// What a record says, of this node's parts.
#[derive(Debug)]
enum LogFinding {
    Xid { gpu: GpuId, code: u64, slice: Option<Slice>, text: String, at: MonoTime },
    Fact(Fact),
}

/// How far an earlier daemon has read the log of this boot.
#[derive(Debug, Clone)]
pub struct Before {
    /// This boot.
    pub boot_id: String,
    /// The last record that was taken in.
    pub after: Option<u64>,
}

/// Starts the sensor; `None` where the configuration disables it, or it cannot see, which is told.
pub fn start(
    config: &Config,
    lines: Lines,
    before: &Before,
    pipeline: &Sender,
    node: &Arc<Mutex<NodeView>>,
) -> Option<Kmsg> {
    let driver = &config.nvml.driver_proc;
    let new =
        || KernelLogIngest { pipeline: pipeline.clone(), node: node.clone(), driver: driver.clone(), lost: 0, cut: 0 };
    let ingest = new();
    let path = &config.kernel_log.path;
    if config.kernel_log.disabled {
        ingest.see(Some("disabled by the configuration".into()));
        return None;
    }
    let mut heard = new();
    // Before its thread starts: the thread counts what is lost.
    ingest.see(None);
    match Kmsg::spawn(path, lines, before.after, move |event| heard.take(event)) {
        Ok(kmsg) => Some(kmsg),
        Err(error) => {
            let why = chain(&error);
            tracing::warn!(why, "no sight of the kernel's log");
            ingest.see(Some(why));
            None
        }
    }
}

impl Pipeline {
    /// Takes in a record of the kernel's log.
    pub(super) fn kernel_says(&mut self, message: Message) {
        let Message { heard, sequence, past } = message;
        self.parts.health.reads_to(ReadTo { boot_id: self.parts.boot_id.clone(), sequence });
        match heard {
            LogFinding::Fact(fact) => self.parts.health.message(health::Message::Fact(fact)),
            LogFinding::Xid { gpu, code, slice, text, at } => {
                let record = Fact::XidRecord { gpu: gpu.clone(), code, text, at };
                if past {
                    self.xid_of_the_past(gpu, code, slice, at);
                } else {
                    self.input(xid(gpu, code, slice, at));
                }
                // Also of one that NVML reported already: only the log states more than the number.
                self.parts.health.message(health::Message::Fact(record));
            }
        }
    }

    /// An XID that came while no daemon watched. Runs that were taken up and had the GPU then are told; others were not there.
    fn xid_of_the_past(&mut self, gpu: GpuId, code: u64, slice: Option<Slice>, at: MonoTime) {
        if self.parts.health.knows_xid(&gpu, code, at) {
            return;
        }
        let now = clock::monotonic_ns();
        let age = i64::try_from(now.saturating_sub(at.0)).unwrap_or(i64::MAX);
        let wall_ns = clock::wall_ns().saturating_sub(age);
        let had_it = self
            .runs
            .values()
            .any(|live| live.part > 0 && live.run.registered_wall_ns <= wall_ns && live.status().gpus.contains(&gpu));
        tracing::warn!(%gpu, code, had_it, "an XID came while no daemon watched");
        if had_it {
            self.input(xid(gpu, code, slice, at));
        } else {
            self.parts.health.message(health::Message::Fact(Fact::Xid { gpu, code, at }));
        }
    }
}

fn xid(gpu: GpuId, code: u64, slice: Option<Slice>, at: MonoTime) -> Input {
    let value = Value::Event(Event::Xid { code, slice });
    let (subject, kind) = (Subject::Gpu(gpu), Kind::Event);
    Input::Signal(Signal { seq: 0, at, source: Source::Kernel, subject, kind, value, repeats: 0 })
}

struct KernelLogIngest {
    pipeline: Sender,
    node: Arc<Mutex<NodeView>>,
    /// The driver's own files.
    driver: PathBuf,
    /// Records that the kernel overwrote before they were read, and lines that were too long to be read whole.
    lost: u64,
    cut: u64,
}

impl KernelLogIngest {
    fn node(&self) -> MutexGuard<'_, NodeView> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, blind: Option<String>) {
        let mut detail = "kernel log".to_owned();
        if self.lost > 0 || self.cut > 0 {
            detail += &format!("; {} record(s) lost unread, {} line(s) cut", self.lost, self.cut);
        }
        let view = SensorView { blind, detail, last_success_ns: clock::wall_ns() };
        self.node().sensors.insert(Source::Kernel, view);
    }

    fn send(&self, message: super::Message) {
        // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
        let _closed = self.pipeline.send(message);
    }

    fn gap(&self, what: String, lost: u64, blind: bool) {
        let at = MonoTime(clock::monotonic_ns());
        let gap = Gap { seq: 0, at, source: Source::Kernel, run: None, gpu: None, what, lost, blind };
        self.send(super::Message::Input(Input::Gap(gap)));
    }

    fn take(&mut self, event: KmsgEvent) {
        match event {
            KmsgEvent::LogFact { fact, at, sequence, past } => {
                if let Some(heard) = self.heard(fact, at) {
                    self.send(super::Message::Kernel(Box::new(Message { heard, sequence, past })));
                }
            }
            KmsgEvent::Lost { records } => {
                self.lost = self.lost.saturating_add(records);
                self.see(None);
                self.gap("records were overwritten unread".into(), records, false);
            }
            KmsgEvent::Cut => {
                self.cut = self.cut.saturating_add(1);
                self.see(None);
            }
            KmsgEvent::Blind { why } => {
                self.see(Some(why.clone()));
                self.gap(why, 0, true);
            }
        }
    }

    /// The part of the node that the record is about; `None` if it changes no health.
    fn heard(&self, fact: LogFact, at: MonoTime) -> Option<LogFinding> {
        let noted = |target, code, level, text, advice| {
            Some(LogFinding::Fact(Fact::Noted { target, code, level, text, advice, at }))
        };
        match fact {
            LogFact::Xid { bus, code, slice: of, text } => match self.gpu(bus) {
                Some(gpu) => {
                    let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
                    let slice = nvml_ingest::slice(&node, &gpu.0, of);
                    Some(LogFinding::Xid { gpu, code, slice, text, at })
                }
                None => {
                    let text = format!("XID {code} of {}, which is no GPU that NVML or the driver lists", place(bus));
                    let reason = format!("xid-{code}-elsewhere");
                    noted(Target::Node, reason, Level::Degraded, text, Advice::InspectHardware)
                }
            },
            LogFact::GpuLost { bus, line } => match self.gpu(bus) {
                Some(gpu) => Some(LogFinding::Fact(Fact::Lost { gpu, why: line, at })),
                None => {
                    let text = format!("the GPU at {} is lost: {line}", place(bus));
                    noted(Target::Node, "gpu-lost-elsewhere".into(), Level::Degraded, text, Advice::RebootNode)
                }
            },
            LogFact::Note { bus, reason, harm, advice, text } => {
                let level = match harm {
                    HealthImpact::None => {
                        tracing::info!(reason, text, "kernel log");
                        return None;
                    }
                    HealthImpact::Degraded => Level::Degraded,
                    HealthImpact::Unhealthy => Level::Unhealthy,
                };
                let target = self.gpu(bus).map_or(Target::Node, Target::Gpu);
                noted(target, reason, level, text, advice)
            }
        }
    }

    fn gpu(&self, bus: Option<Bus>) -> Option<GpuId> {
        let bus = bus?;
        let listed = self.node().gpus.values().find(|gpu| gpu.bus == Some(bus)).map(|gpu| gpu.uuid.clone());
        listed.or_else(|| nvidia_proc::uuid_at(&self.driver, bus).map(GpuId))
    }
}

fn place(bus: Option<Bus>) -> String {
    bus.map_or_else(|| "an unknown device".into(), |bus| format!("PCI {bus}"))
}

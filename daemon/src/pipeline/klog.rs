//! From what the kernel's log says to signals and facts of health: which GPU a PCI address is, is told by NVML.

use super::{Message, Sender, health};
use crate::{
    api::{NodeView, SensorView},
    config::Config,
    platform::clock,
    runs::kernel::chain,
    sensors::kmsg::{Kmsg, KmsgEvent},
};
use failsafe_core::{
    GpuId, Input, Kind, MonoTime, Signal, Subject, Value,
    event::Event,
    health::{Fact, Level, Target},
    input::Gap,
    klog::{Bus, Lines, Said},
    signal::Source,
    xid::{Advice, Harm},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Starts the sensor; `None` where the configuration disables it, or it cannot see, which is told.
pub fn start(config: &Config, lines: Lines, pipeline: &Sender, node: &Arc<Mutex<NodeView>>) -> Option<Kmsg> {
    let told = Told { pipeline: pipeline.clone(), node: node.clone() };
    let path = &config.kernel_log.path;
    if config.kernel_log.disabled {
        told.see(Some("disabled by the configuration".into()));
        return None;
    }
    let heard = Told { pipeline: pipeline.clone(), node: node.clone() };
    match Kmsg::spawn(path, lines, move |event| heard.take(event)) {
        Ok(kmsg) => {
            told.see(None);
            Some(kmsg)
        }
        Err(error) => {
            let why = chain(&error);
            tracing::warn!(why, "no sight of the kernel's log");
            told.see(Some(why));
            None
        }
    }
}

struct Told {
    pipeline: Sender,
    node: Arc<Mutex<NodeView>>,
}

impl Told {
    fn node(&self) -> MutexGuard<'_, NodeView> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, blind: Option<String>) {
        let view = SensorView { blind, detail: "kernel log".into(), last_success_ns: clock::wall_ns() };
        self.node().sensors.insert(Source::Kernel, view);
    }

    fn tell(&self, message: Message) {
        // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
        let _closed = self.pipeline.send(message);
    }

    fn gap(&self, what: String, lost: u64, blind: bool) {
        let at = MonoTime(clock::monotonic_ns());
        let gap = Gap { seq: 0, at, source: Source::Kernel, run: None, gpu: None, what, lost, blind };
        self.tell(Message::Input(Input::Gap(gap)));
    }

    fn take(&self, event: KmsgEvent) {
        match event {
            KmsgEvent::Said { said, at } => self.said(said, at),
            KmsgEvent::Lost { records } => self.gap("records were overwritten unread".into(), records, false),
            KmsgEvent::Blind { why } => {
                self.see(Some(why.clone()));
                self.gap(why, 0, true);
            }
        }
    }

    fn said(&self, said: Said, at: MonoTime) {
        match said {
            Said::Xid { bus, code } => match self.gpu(bus) {
                Some(gpu) => {
                    let value = Value::Event(Event::Xid { code });
                    let (subject, kind) = (Subject::Gpu(gpu), Kind::Event);
                    let signal = Signal { seq: 0, at, source: Source::Kernel, subject, kind, value };
                    self.tell(Message::Input(Input::Signal(signal)));
                }
                None => {
                    let text = format!("XID {code} of {}, which is no GPU that NVML has told", place(bus));
                    let reason = format!("xid-{code}-elsewhere");
                    self.note(Target::Node, reason, Level::Degraded, text, Advice::InspectHardware, at);
                }
            },
            Said::GpuLost { bus, line } => match self.gpu(bus) {
                Some(gpu) => self.fact(Fact::Lost { gpu, why: line, at }),
                None => {
                    let text = format!("the GPU at {} is lost: {line}", place(bus));
                    self.note(Target::Node, "gpu-lost-elsewhere".into(), Level::Degraded, text, Advice::RebootNode, at);
                }
            },
            Said::Note { bus, reason, harm, advice, text } => {
                let level = match harm {
                    Harm::None => {
                        tracing::info!(reason, text, "kernel log");
                        return;
                    }
                    Harm::Degraded => Level::Degraded,
                    Harm::Unhealthy => Level::Unhealthy,
                };
                let target = self.gpu(bus).map_or(Target::Node, Target::Gpu);
                self.note(target, reason, level, text, advice, at);
            }
        }
    }

    fn note(&self, target: Target, code: String, level: Level, text: String, advice: Advice, at: MonoTime) {
        self.fact(Fact::Noted { target, code, level, text, advice, at });
    }

    fn fact(&self, fact: Fact) {
        self.tell(Message::Health(health::Message::Fact(fact)));
    }

    fn gpu(&self, bus: Option<Bus>) -> Option<GpuId> {
        let bus = bus?;
        self.node().gpus.values().find(|gpu| gpu.bus == Some(bus)).map(|gpu| gpu.uuid.clone())
    }
}

fn place(bus: Option<Bus>) -> String {
    bus.map_or_else(|| "an unknown device".into(), |bus| format!("PCI {bus}"))
}

//! From samples and events of the NVML sensor to inputs of the core: signals of GPUs, blindness, and which run is on which GPU.
//!
//! Owns the map from GPUs to runs. A run's GPUs are those declared when it was registered and those on which a process of
//! it was ever seen: a run that let go of a GPU for a moment is still judged by it. What comes of samples waits until the sensor
//! pauses, at the end of what came from the sampler at once: each message wakes the pipeline. All else is sent at once, after it.

use super::{
    Message, Sender,
    attribution::Work,
    gpu_ownership::{self, GpuOwnership},
    health,
};
use crate::{
    config::Config,
    node::{GpuView, NodeView, SensorView},
    platform::clock,
    runs::Registry,
    sensors::{
        nvml::{self, Current, GpuInfo, Hello, NvmlConfig, NvmlControl, NvmlEvent, NvmlSensor, Sample},
        repeat::Repeats,
    },
};
use failsafe_core::{
    GpuId, Input, Kind, MonoTime, Signal, Subject, Value,
    event::Event,
    health::{Fact, Level, Slot, Target, Unreachable, places},
    input::{Gap, Unread},
    klog::Bus,
    signal::Source,
    xid::Advice,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};
use unread::Failing;

mod slices;
pub(super) mod unread;

pub(super) use slices::slice;

/// The daemon's start waits this long for the first word of NVML, so that a policy is not refused for a sensor that is
/// about to see.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// What a rule with `for` or the proof of a freeze waits for is sent with every sample, changed or not.
const PROMPT: [Kind; 13] = [
    Kind::GpuUtilization,
    Kind::GpuMemoryUtilization,
    Kind::GpuMemory,
    Kind::GpuMemoryShare,
    Kind::GpuTemperature,
    Kind::GpuMemoryTemperature,
    Kind::GpuPower,
    Kind::GpuPowerInstant,
    Kind::GpuPowerShare,
    Kind::GpuClockSm,
    Kind::GpuClockMemory,
    Kind::GpuThrottle,
    Kind::GpuProcesses,
];

/// The running sensor; `None` where the configuration disables it.
pub struct Gpus(Option<NvmlSensor>);

impl Gpus {
    /// Starts the sensor and waits for its first word.
    ///
    /// # Errors
    /// The thread could not be made.
    pub fn start(
        config: &Config,
        registry: &Arc<Registry>,
        pipeline: &Sender,
        node: &Arc<Mutex<NodeView>>,
        ownership: &GpuOwnership,
        known: BTreeMap<GpuId, Slot>,
    ) -> anyhow::Result<Gpus> {
        if !config.nvml.disabled {
            let mut view = node.lock().unwrap_or_else(PoisonError::into_inner);
            for (gpu, slot) in known {
                let bus = slot.pci.as_deref().and_then(Bus::parse);
                let before = GpuView { index: slot.index, bus, ..GpuView::new(gpu.clone()) };
                view.gpus.entry(gpu).or_insert(GpuView { minor: slot.minor, ..before });
            }
        }
        let (word, first) = mpsc::sync_channel(1);
        let mut ingest = NvmlIngest::new(registry, pipeline, node, ownership);
        if config.nvml.disabled {
            ingest.see(Some("disabled by the configuration".into()), "");
            return Ok(Gpus(None));
        }
        ingest.see(Some("NVML has not answered yet".into()), "");
        // One that is missing, or not to be trusted, is looked for again: the node has no sight of GPUs until then.
        let library = config.nvml.library.clone();
        let nvml = NvmlConfig { every: config.every(), ..NvmlConfig::new(library, config.sample_interval()) };
        let sensor = NvmlSensor::spawn(nvml, move |event| {
            ingest.take(event);
            if ingest.sight != Sight::NotYet {
                let _only_the_first_is_waited_for = word.try_send(());
            }
        })?;
        if first.recv_timeout(FIRST_WORD).is_err() {
            tracing::warn!("NVML has not answered within {} s", FIRST_WORD.as_secs());
        }
        Ok(Gpus(Some(sensor)))
    }

    /// The way to have a GPU let go of; `None` where the configuration disables the sensor.
    pub fn control(&self) -> Option<NvmlControl> {
        self.0.as_ref().map(NvmlSensor::control)
    }

    /// Kills and reaps the sampler.
    pub fn stop(self) {
        if let Some(sensor) = self.0 {
            sensor.stop();
        }
    }
}

/// Whether NVML as a whole is seen. A greeting alone is no sight: a GPU that hangs after each restart greets every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    NotYet,
    Sees,
    Blind,
}

struct NvmlIngest {
    registry: Arc<Registry>,
    pipeline: Sender,
    node: Arc<Mutex<NodeView>>,
    ownership: GpuOwnership,
    /// The library and its GPUs, in words.
    what: String,
    sight: Sight,
    gpus: BTreeMap<GpuId, GpuRepeatState>,
    /// Inputs that the pipeline gets next.
    waiting: Vec<Input>,
}

/// What is known of one GPU, and when the core was given each value.
#[derive(Default)]
struct GpuRepeatState {
    current: Current,
    failing: Failing,
    reported: Repeats<Kind>,
}

impl GpuRepeatState {
    /// Whether the core is to get the value now.
    fn is_due(&mut self, kind: &Kind, value: i64, now: Instant) -> bool {
        PROMPT.contains(kind) || self.reported.is_due(kind, value, now)
    }
}

impl NvmlIngest {
    fn new(
        registry: &Arc<Registry>,
        pipeline: &Sender,
        node: &Arc<Mutex<NodeView>>,
        ownership: &GpuOwnership,
    ) -> NvmlIngest {
        NvmlIngest {
            registry: registry.clone(),
            pipeline: pipeline.clone(),
            node: node.clone(),
            ownership: ownership.clone(),
            what: String::new(),
            sight: Sight::NotYet,
            gpus: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    fn take(&mut self, event: NvmlEvent) {
        let waits = matches!(event, NvmlEvent::Sample(_) | NvmlEvent::Info(_));
        self.event(event);
        if !waits {
            self.flush();
        }
    }

    fn event(&mut self, event: NvmlEvent) {
        match event {
            NvmlEvent::Pause => {}
            NvmlEvent::Hello(hello) => {
                self.hello(&hello);
                // With no GPU there is nothing more to wait for.
                if self.sight == Sight::Sees || (self.sight == Sight::NotYet && hello.gpus.is_empty()) {
                    self.sees();
                }
            }
            NvmlEvent::Sample(sample) => {
                if self.sight == Sight::NotYet {
                    self.sees();
                }
                self.sample(&sample);
            }
            NvmlEvent::Info(info) => self.info(*info),
            NvmlEvent::Xid(xid) => {
                let slice = slice(&self.node(), &xid.gpu, (xid.gpu_instance, xid.compute_instance));
                self.happened(&xid.gpu, xid.mono_ns, &Event::Xid { code: xid.code, slice });
            }
            NvmlEvent::Happened(it) => self.happened(&it.gpu, it.mono_ns, &Event::Gpu { what: it.what }),
            NvmlEvent::Blind { gpu, why, .. } => {
                match &gpu {
                    None => {
                        self.sight = Sight::Blind;
                        self.see(Some(why.clone()), "");
                    }
                    Some(uuid) => {
                        self.on_gpu(uuid, |view| view.failing = vec![why.clone()]);
                        if nvml::means_lost(&why) {
                            let (gpu, at) = (GpuId(uuid.clone()), MonoTime(clock::monotonic_ns()));
                            self.fact(Fact::Lost { gpu, why: why.clone(), at });
                        } else if nvml::means_reset_required(&why) {
                            let at = MonoTime(clock::monotonic_ns());
                            self.fact(Fact::Noted {
                                target: Target::Gpu(GpuId(uuid.clone())),
                                code: "gpu-reset-required".into(),
                                level: Level::Unhealthy,
                                text: format!("the driver requires a reset of the GPU: {why}"),
                                advice: Advice::ResetGpu,
                                at,
                            });
                        }
                    }
                }
                self.gap(gpu, why, true);
            }
            NvmlEvent::Sees { gpu } => {
                if gpu.is_none() {
                    self.sees();
                }
                self.gap(gpu, "sees again".into(), false);
            }
        }
    }

    fn sees(&mut self) {
        self.sight = Sight::Sees;
        self.see(None, &self.what);
    }

    fn node(&self) -> std::sync::MutexGuard<'_, NodeView> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn see(&self, blind: Option<String>, detail: &str) {
        let mut node = self.node();
        let last_success_ns = match blind {
            None => clock::wall_ns(),
            Some(_) => node.sensors.get(&Source::Nvml).map_or(0, |view| view.last_success_ns),
        };
        node.sensors.insert(Source::Nvml, SensorView { blind, detail: detail.into(), last_success_ns });
    }

    fn on_gpu(&self, uuid: &str, change: impl FnOnce(&mut GpuView)) {
        if let Some(view) = self.node().gpus.get_mut(&GpuId(uuid.to_owned())) {
            change(view);
        }
    }

    fn fact(&mut self, fact: Fact) {
        self.flush();
        let _closed = self.pipeline.send(Message::Health(health::Message::Fact(fact)));
    }

    fn send(&mut self, input: Input) {
        self.waiting.push(input);
    }

    fn flush(&mut self) {
        if !self.waiting.is_empty() {
            // The next round will have about as much.
            let room = Vec::with_capacity(self.waiting.len());
            // A closed queue means that the pipeline has ended; the supervisor ends the daemon then.
            let _closed = self.pipeline.send(Message::Inputs(std::mem::replace(&mut self.waiting, room)));
        }
    }

    fn gap(&mut self, gpu: Option<String>, what: String, blind: bool) {
        let at = MonoTime(clock::monotonic_ns());
        self.send(Input::Gap(Gap {
            seq: 0,
            at,
            source: Source::Nvml,
            run: None,
            gpu: gpu.map(GpuId),
            what,
            lost: 0,
            blind,
        }));
    }

    fn hello(&mut self, hello: &Hello) {
        let real = format!("driver {}, NVML {}", hello.driver, hello.nvml);
        let what = if hello.simulated { format!("simulated ({real})") } else { real };
        let unreachable: Vec<String> =
            hello.unreachable.iter().map(|u| format!("GPU {}: {}", u.index, u.why)).collect();
        self.what = format!(
            "{what}; {} GPU(s){}{}",
            hello.gpus.len(),
            if unreachable.is_empty() { "" } else { "; " },
            unreachable.join("; ")
        );
        let slot = |gpu: &GpuInfo| Slot { index: gpu.index, minor: gpu.minor, pci: gpu.pci.clone() };
        let unreachable = |u: &nvml::Unreachable| (u.index, Unreachable { why: u.why.clone(), failed: u.failed });
        self.fact(Fact::Listed {
            gpus: hello.gpus.iter().map(|gpu| (GpuId(gpu.uuid.clone()), slot(gpu))).collect(),
            unreachable: hello.unreachable.iter().map(unreachable).collect(),
            at: MonoTime(clock::monotonic_ns()),
        });
        let mut node = self.node();
        node.nvml = what;
        // A GPU that NVML no longer lists stays in view, and keeps its index: NVML gives it to another GPU.
        let old = node.gpus.clone();
        let listed: BTreeSet<GpuId> = hello.gpus.iter().map(|gpu| GpuId(gpu.uuid.clone())).collect();
        let missing = old.keys().any(|gpu| !gpu.is_amd() && !listed.contains(gpu));
        let before = old.iter().filter(|(gpu, _)| !gpu.is_amd()).map(|(gpu, view)| (gpu.clone(), view.index)).collect();
        let indices = hello.gpus.iter().map(|gpu| (GpuId(gpu.uuid.clone()), gpu.index)).collect();
        let places = places(&before, &indices, missing);
        for gpu in &hello.gpus {
            let uuid = GpuId(gpu.uuid.clone());
            let before = old.get(&uuid).cloned();
            let index = places.get(&uuid).copied().unwrap_or(gpu.index);
            let view = GpuView {
                index,
                name: gpu.name.clone().unwrap_or_default(),
                bus: gpu.pci.as_deref().and_then(Bus::parse),
                minor: gpu.minor,
                memory_total: gpu.memory_total.map_or(0, |v| i64::try_from(v).unwrap_or(i64::MAX)),
                power_limit_mw: gpu.power_limit.map_or(0, |v| i64::try_from(v).unwrap_or(i64::MAX)),
                info: gpu.clone(),
                ..before.unwrap_or_else(|| GpuView::new(uuid.clone()))
            };
            node.gpus.insert(uuid, view);
        }
        drop(node);
        self.forget_slices();
    }

    fn info(&mut self, info: GpuInfo) {
        let uuid = info.uuid.clone();
        self.on_gpu(&uuid, |view| view.info = info);
        self.forget_slices();
    }

    fn sample(&mut self, sample: &Sample) {
        let gpu = GpuId(sample.gpu.clone());
        let mut seen = self.gpus.remove(&gpu).unwrap_or_default();
        let unread = seen.failing.take(&seen.current, sample);
        seen.current.take(sample);
        if gpu.is_mig() {
            self.show_slice(&gpu, &seen, sample);
        } else {
            self.of_whole(&gpu, &seen, sample);
        }
        for (kind, why) in unread {
            let (seq, at, source, gpu) = (0, MonoTime(sample.mono_ns), Source::Nvml, gpu.clone());
            self.send(Input::Unread(Unread { seq, at, source, gpu, kind, why }));
        }
        let now = Instant::now();
        for (kind, value) in nvml::signals(sample) {
            if seen.is_due(&kind, value, now) {
                self.signal(Subject::Gpu(gpu.clone()), MonoTime(sample.mono_ns), kind, Value::Integer(value));
            }
        }
        self.gpus.insert(gpu, seen);
    }

    /// A sample of a whole GPU: the runs that its work belongs to, and what is shown of it.
    fn of_whole(&mut self, gpu: &GpuId, seen: &GpuRepeatState, sample: &Sample) {
        let live = self.registry.live();
        let at = MonoTime(sample.mono_ns);
        let value = |kind: &Kind| seen.current.values.get(kind).map(|(value, _)| *value);
        let (utilization, energy) = (value(&Kind::GpuUtilization), value(&Kind::GpuEnergy));
        let mig = self.node().gpus.get(gpu).map(|view| view.info.mig_devices.clone()).unwrap_or_default();
        let mig: Vec<_> = mig.into_iter().map(|device| (self.busy(&device), device)).collect();
        let work = Work { at, utilization, energy };
        let work = gpu_ownership::GpuWork { source: Source::Nvml, gpu, work, mig: &mig };
        // While it is not known who is on the GPU, what was known stays: the time until it is known again is filled then.
        let known = sample.processes.as_ref().map(|processes| self.ownership.take(work, processes, &live));
        let (processes, inputs) = known.map_or((None, Vec::new()), |(processes, inputs)| (Some(processes), inputs));
        let runs = live.iter().filter(|r| r.status().gpus.contains(gpu)).map(|r| r.run.id).collect();
        {
            let mut node = self.node();
            if let Some(view) = node.gpus.get_mut(gpu) {
                show(view, &seen.current, sample);
                view.unread = seen.failing.unwatched();
                view.sampled_ns = clock::wall_ns();
                view.runs = runs;
                if let Some(processes) = processes {
                    (view.processes, view.processes_at) = (processes, Some(at));
                }
            }
            if let Some(sensor) = node.sensors.get_mut(&Source::Nvml) {
                sensor.last_success_ns = clock::wall_ns();
            }
        }
        inputs.into_iter().for_each(|input| self.send(input));
    }

    fn signal(&mut self, subject: Subject, at: MonoTime, kind: Kind, value: Value) {
        self.send(Input::Signal(Signal { seq: 0, at, source: Source::Nvml, subject, kind, value, repeats: 0 }));
    }

    fn happened(&mut self, gpu: &str, mono_ns: u64, event: &Event) {
        // If the GPU of an event is unknown, the event is reported for every GPU: a duplicate is better than a loss.
        let gpus: BTreeSet<GpuId> = match gpu {
            "" => self.node().gpus.keys().cloned().collect(),
            uuid => [GpuId(uuid.to_owned())].into(),
        };
        for gpu in gpus {
            self.signal(Subject::Gpu(gpu), MonoTime(mono_ns), Kind::Event, Value::Event(event.clone()));
        }
    }
}

/// Brings the view of a GPU up to what is known now. Only what this sample changed is touched.
fn show(view: &mut GpuView, current: &Current, sample: &Sample) {
    let Current { values, unsupported, failing } = current;
    for (kind, value) in &sample.readings {
        match view.readings.get_mut(kind) {
            Some(shown) => *shown = *value,
            None => drop(view.readings.insert(kind.clone(), *value)),
        }
    }
    // Something was lost; or, with a view that is new, is missing.
    if view.readings.len() != values.len() {
        view.readings = values.iter().map(|(kind, (value, _))| (kind.clone(), *value)).collect();
    }
    if !sample.unsupported.is_empty() || view.unsupported.len() != unsupported.len() {
        view.unsupported = unsupported.iter().cloned().collect();
    }
    if !(failing.is_empty() && view.info.failing.is_empty() && view.failing.is_empty()) {
        let facts = view.info.failing.iter().map(|(what, why)| format!("{what}: {why}"));
        view.failing = failing.iter().map(|(what, why)| format!("{what}: {why}")).chain(facts).collect();
    }
}

#[cfg(test)]
mod tests;

//! From samples of the amdgpu sensor to inputs of the core and the view of the node.
//!
//! Signals have the same kinds as NVIDIA's, so rules and health judge them by the same code. Processes are attributed
//! to runs in the same way.

use super::{
    Message, Sender,
    attribution::Work,
    gpu_ownership::{self, GpuOwnership},
    nvml_ingest::unread::{Change, Failing},
};
use crate::{
    config::Config,
    node::{GpuView, NodeView, SensorView},
    platform::{ProcFs, clock},
    runs::Registry,
    sensors::amdgpu::{Amdgpu, AmdgpuEvent, Card, Sample},
};
use failsafe_core::{GpuId, Input, Kind, MonoTime, Signal, Subject, Value, input::Unread, klog::Bus, signal::Source};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Starts the sensor.
///
/// # Errors
/// The thread could not be made.
pub fn start(
    config: &Config,
    registry: &Arc<Registry>,
    pipeline: &Sender,
    node: &Arc<Mutex<NodeView>>,
    ownership: &GpuOwnership,
) -> std::io::Result<Option<Amdgpu>> {
    if config.amdgpu.disabled {
        return Ok(None);
    }
    let (registry, pipeline, node, ownership) = (registry.clone(), pipeline.clone(), node.clone(), ownership.clone());
    let runs = registry.clone();
    // A run whose cgroup is gone has no process any more.
    let of_runs = move || runs.live().iter().flat_map(|run| run.cgroup.all_procs().unwrap_or_default()).collect();
    let mut ingest = AmdgpuIngest { registry, pipeline, node, ownership, failing: BTreeMap::new() };
    let (sysfs, proc) = (config.amdgpu.sysfs.clone(), ProcFs::default());
    Amdgpu::spawn(sysfs, proc, config.sample_interval(), of_runs, move |event| ingest.take(event)).map(Some)
}

struct AmdgpuIngest {
    registry: Arc<Registry>,
    pipeline: Sender,
    node: Arc<Mutex<NodeView>>,
    ownership: GpuOwnership,
    /// What cannot be read of each GPU.
    failing: BTreeMap<GpuId, Failing>,
}

impl AmdgpuIngest {
    fn node(&self) -> MutexGuard<'_, NodeView> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self, event: AmdgpuEvent) {
        match event {
            AmdgpuEvent::Cards(cards) => self.cards(&cards),
            AmdgpuEvent::Sample { id, at, sample } => self.sample(GpuId(id), at, &sample),
        }
    }

    fn cards(&self, cards: &[Card]) {
        let mut node = self.node();
        // A node without AMD GPUs has nothing to report of them.
        if !cards.is_empty() {
            let detail = format!("{} AMD GPU(s)", cards.len());
            let view = SensorView { blind: None, detail, last_success_ns: clock::wall_ns() };
            node.sensors.insert(Source::Amdgpu, view);
        }
        for card in cards {
            let id = GpuId(card.id.clone());
            let before = node.gpus.get(&id).cloned();
            let view = GpuView {
                index: card.index,
                name: card.name.clone(),
                bus: card.pci.as_deref().and_then(Bus::parse),
                ..before.unwrap_or_else(|| GpuView::new(id.clone()))
            };
            node.gpus.insert(id, view);
        }
    }

    fn sample(&mut self, gpu: GpuId, at: MonoTime, sample: &Sample) {
        let live = self.registry.live();
        let (utilization, energy) = (sample.readings.get(&Kind::GpuUtilization).copied(), None);
        let seen = gpu_ownership::GpuWork {
            source: Source::Amdgpu,
            gpu: &gpu,
            work: Work { at, utilization, energy },
            mig: &[],
        };
        let (processes, mut inputs) = self.ownership.take(seen, &sample.processes, &live);
        let runs = live.iter().filter(|run| run.status().gpus.contains(&gpu)).map(|run| run.run.id).collect();
        {
            let mut node = self.node();
            if let Some(view) = node.gpus.get_mut(&gpu) {
                let value = |kind: Kind| sample.readings.get(&kind).copied().unwrap_or_default();
                view.readings.clone_from(&sample.readings);
                (view.memory_total, view.power_limit_mw) = (value(Kind::GpuMemoryTotal), value(Kind::GpuPowerLimit));
                view.sampled_ns = clock::wall_ns();
                view.unsupported = sample.unsupported.iter().map(Kind::to_string).collect();
                view.failing = sample.failing.iter().map(|(kind, why)| format!("{kind}: {why}")).collect();
                view.runs = runs;
                (view.processes, view.processes_at) = (processes, Some(at));
            }
            if let Some(sensor) = node.sensors.get_mut(&Source::Amdgpu) {
                sensor.last_success_ns = clock::wall_ns();
            }
        }
        for (kind, value) in &sample.readings {
            let (subject, value) = (Subject::Gpu(gpu.clone()), Value::Integer(*value));
            let signal = Signal { seq: 0, at, source: Source::Amdgpu, subject, kind: kind.clone(), value, repeats: 0 };
            inputs.push(Input::Signal(signal));
        }
        for (kind, why) in self.unread(&gpu, at, sample) {
            let (seq, source, gpu) = (0, Source::Amdgpu, gpu.clone());
            inputs.push(Input::Unread(Unread { seq, at, source, gpu, kind, why }));
        }
        let _closed = self.pipeline.send(Message::Inputs(inputs));
    }

    /// Signals that keep failing, or are read again. The same rule as for NVIDIA's GPUs.
    fn unread(&mut self, gpu: &GpuId, at: MonoTime, sample: &Sample) -> Vec<Change> {
        // Where nothing at all is read, the GPU is blind as a whole.
        if sample.readings.is_empty() {
            return Vec::new();
        }
        let failing = sample.failing.iter().map(|(kind, why)| (kind.clone(), why.as_str()));
        let answered = |kind: &Kind| sample.readings.contains_key(kind) || sample.unsupported.contains(kind);
        self.failing.entry(gpu.clone()).or_default().judge(at, failing, |_| false, answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::queue;
    use crate::{
        guard::kernel::Kernel,
        platform::cgroup::CgroupRoot,
        runs::store::Store,
        sensors::nvml::{GpuProcess, ProcessKind},
    };

    #[test]
    fn a_samples_processes_are_shown_and_all_of_it_is_one_message() {
        let Ok(root) = CgroupRoot::find() else {
            crate::skip::skip("no cgroup2 is mounted");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let (pipeline, queue) = queue::channel(8);
        let registry = Registry::new(root, Kernel::new(Err("none".into())), Store::open(folder.path()).unwrap());
        let (registry, node) = (Arc::new(registry), Arc::<Mutex<NodeView>>::default());
        let ownership = GpuOwnership::new(&registry, ProcFs::default());
        let mut ingest = AmdgpuIngest { registry, pipeline, node: node.clone(), ownership, failing: BTreeMap::new() };
        let gpu = GpuId("amdgpu-1".into());
        node.lock().unwrap().gpus.insert(gpu.clone(), GpuView::new(gpu.clone()));
        let kind = ProcessKind::Compute;
        let (gpu_instance, compute_instance) = (None, None);
        let process = GpuProcess { pid: 7, memory: Some(9), kind, gpu_instance, compute_instance, sm: Some(40) };
        let readings = [(Kind::GpuUtilization, 50_000), (Kind::GpuProcesses, 1)];
        let sample = Sample { readings: readings.clone().into(), processes: vec![process], ..Sample::default() };
        ingest.take(AmdgpuEvent::Sample { id: gpu.0.clone(), at: MonoTime(5), sample });
        let shown = node.lock().unwrap().gpus[&gpu].processes.clone();
        assert_eq!(
            shown.iter().map(|it| (it.pid, it.memory, it.run, it.sm)).collect::<Vec<_>>(),
            [(7, Some(9), None, Some(40))]
        );
        let Ok(Message::Inputs(inputs)) = queue.try_recv() else { panic!("no inputs") };
        let signals = inputs.into_iter().map(|input| match input {
            Input::Signal(Signal { source: Source::Amdgpu, kind, value: Value::Integer(value), .. }) => (kind, value),
            other => panic!("{other:?}"),
        });
        assert_eq!(signals.collect::<Vec<_>>(), readings);
        assert!(queue.try_recv().is_err());
        // A signal that keeps failing is reported, so that health is not judged without it.
        let mut unread = |second: u64, fails: bool| {
            let failing = if fails { vec![(Kind::GpuTemperature, "says `-1`".to_owned())] } else { Vec::new() };
            let mut readings = BTreeMap::from(readings.clone());
            readings.extend((!fails).then_some((Kind::GpuTemperature, 60_000)));
            let sample = Sample { readings, failing, ..Sample::default() };
            ingest.take(AmdgpuEvent::Sample { id: gpu.0.clone(), at: MonoTime(second * 1_000_000_000), sample });
            let Ok(Message::Inputs(inputs)) = queue.try_recv() else { panic!("no inputs") };
            inputs.into_iter().find_map(|input| match input {
                Input::Unread(unread) => Some((unread.source, unread.kind, unread.why.is_some())),
                _ => None,
            })
        };
        assert_eq!(unread(1, true), None);
        assert_eq!(unread(12, true), Some((Source::Amdgpu, Kind::GpuTemperature, true)));
        assert_eq!(unread(13, false), Some((Source::Amdgpu, Kind::GpuTemperature, false)));
    }
}

//! From what the amdgpu sensor says to inputs of the core and the view of the node.
//!
//! The signals are the same as of other GPUs, so that rules and health judge them alike. Which processes are on an AMD GPU is
//! not read yet: a run has the AMD GPUs that it declared.

use super::{Message, Sender};
use crate::{
    api::{GpuView, NodeView, SensorView},
    config::Config,
    platform::clock,
    runs::Registry,
    sensors::amdgpu::{Amdgpu, AmdgpuEvent, Card, Sample},
};
use failsafe_core::{GpuId, Input, Kind, MonoTime, Signal, Subject, Value, klog::Bus, signal::Source};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Starts the sensor.
///
/// # Errors
/// The thread could not be made.
pub fn start(
    config: &Config,
    registry: &Arc<Registry>,
    pipeline: &Sender,
    node: &Arc<Mutex<NodeView>>,
) -> std::io::Result<Option<Amdgpu>> {
    if config.amdgpu.disabled {
        return Ok(None);
    }
    let told = Told { registry: registry.clone(), pipeline: pipeline.clone(), node: node.clone() };
    Amdgpu::spawn(config.amdgpu.sysfs.clone(), config.sample_interval(), move |event| told.take(event)).map(Some)
}

struct Told {
    registry: Arc<Registry>,
    pipeline: Sender,
    node: Arc<Mutex<NodeView>>,
}

impl Told {
    fn node(&self) -> MutexGuard<'_, NodeView> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: AmdgpuEvent) {
        match event {
            AmdgpuEvent::Cards(cards) => self.cards(&cards),
            AmdgpuEvent::Sample { id, at, sample } => self.sample(GpuId(id), at, &sample),
        }
    }

    fn cards(&self, cards: &[Card]) {
        let mut node = self.node();
        // A node without AMD GPUs has nothing to say of them.
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

    fn sample(&self, gpu: GpuId, at: MonoTime, sample: &Sample) {
        let live = self.registry.live();
        let runs = live.into_iter().filter(|run| run.status().gpus.contains(&gpu)).map(|run| run.run.id).collect();
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
            }
            if let Some(sensor) = node.sensors.get_mut(&Source::Amdgpu) {
                sensor.last_success_ns = clock::wall_ns();
            }
        }
        for (kind, value) in &sample.readings {
            let (subject, value) = (Subject::Gpu(gpu.clone()), Value::Integer(*value));
            let signal = Signal { seq: 0, at, source: Source::Amdgpu, subject, kind: kind.clone(), value };
            let _closed = self.pipeline.send(Message::Input(Input::Signal(signal)));
        }
    }
}

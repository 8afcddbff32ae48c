//! From the metrics socket to inputs of the core: a metric belongs to the run whose cgroup its sender is in.

use super::{Message, Sender};
use crate::{
    platform::clock,
    runs::Registry,
    sensors::metrics::{MetricsError, MetricsEvent, MetricsSocket, Running},
};
use failsafe_core::{
    Input, Kind, MonoTime, Signal, Subject, Value,
    input::Gap,
    signal::{Claimed, Real, Source},
};
use std::{path::Path, sync::Arc};

/// Binds the socket and starts its reader.
///
/// # Errors
/// [`MetricsError`] when it cannot be bound, or the thread could not be made.
pub fn start(path: &Path, registry: &Arc<Registry>, pipeline: &Sender) -> anyhow::Result<Running> {
    let socket = MetricsSocket::bind(path)?;
    let (registry, pipeline) = (registry.clone(), pipeline.clone());
    let running = socket.spawn(move |event| {
        if let Some(input) = input(&registry, event) {
            let _closed = pipeline.send(Message::Input(input));
        }
    });
    running.map_err(|source| MetricsError::Socket { op: "start reading", path: path.to_owned(), source }.into())
}

/// `None` for what concerns no run: anybody on the node may write to the socket.
fn input(registry: &Registry, event: MetricsEvent) -> Option<Input> {
    match event {
        MetricsEvent::Metric { mono_ns, cgroup, name, value, step, series, .. } => {
            let run = registry.of_cgroup(&cgroup)?;
            Some(Input::Signal(Signal {
                seq: 0,
                at: MonoTime(mono_ns),
                source: Source::App,
                subject: Subject::Run(run.run.id),
                kind: Kind::Metric(name),
                value: Value::Claimed(Claimed { value: Real(value), step, series }),
                repeats: 0,
            }))
        }
        MetricsEvent::Garbage { count } => {
            tracing::warn!(count, "lines on the metrics socket were no metrics");
            None
        }
        MetricsEvent::Flood { pid, dropped } => {
            tracing::warn!(pid, dropped, "metrics over the sender's limit were dropped");
            let cgroup = crate::platform::ProcFs::default().cgroup(pid).ok().flatten()?;
            let run = registry.of_cgroup(&cgroup)?;
            let what = format!("pid {pid} reported more metrics than its limit");
            let at = MonoTime(clock::monotonic_ns());
            let run = Some(run.run.id);
            Some(Input::Gap(Gap { seq: 0, at, source: Source::App, run, gpu: None, what, lost: dropped, blind: false }))
        }
    }
}

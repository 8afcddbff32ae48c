//! The threads that look at runs, and the heartbeat of those on the way to a freeze.

use super::{base::Base, judging::Judging, threads::Threads};
use crate::{
    config::Config,
    pipeline::{
        self, Message,
        mailbox::Poster,
        pulse::{self, Pulse},
    },
    platform::{clock, sched},
    runs::{Registry, translate},
    sensors::ebpf::EventReader,
    systemd,
    watchers::{
        hold::{Guard, Sweeper},
        keep::Keeping,
        sampler::{Health, Sampler},
    },
};
use failsafe_core::{Input, MonoTime, input::Gap, signal::Source};
use nix::sys::eventfd::EventFd;
use std::{os::fd::AsFd, sync::Arc};

/// The reader of the kernel's ring.
pub(super) const EVENTS: &str = "ebpf-events";

/// Starts the threads that look at runs, and the heart, which beats while those of the freeze path make progress.
pub(super) fn watch(
    base: &mut Base,
    config: &Config,
    judging: &Judging,
    stop_events: &Arc<EventFd>,
    threads: &mut Threads,
) -> anyhow::Result<Arc<Health>> {
    let (registry, pipeline) = (&base.registry, &judging.pipeline);
    let mut pulses = vec![judging.pulse.clone()];
    if let Some(reader) = base.reader.take() {
        let pulse = Pulse::new(EVENTS);
        pulses.push(pulse.clone());
        let (registry, pipeline, stop) = (registry.clone(), pipeline.clone(), stop_events.clone());
        threads.spawn(EVENTS, move || read_events(reader, &registry, &pipeline, &stop, &pulse))?;
    }
    let guard_pulse = Pulse::new("guard");
    pulses.push(guard_pulse.clone());
    let guard = Guard::new(registry.clone(), pipeline.clone());
    threads.spawn_until_stop("guard", move |stop| guard.work(stop, &guard_pulse))?;
    let sweeper = Sweeper::new(registry.clone(), pipeline.clone());
    threads.spawn_until_stop("sweeper", move |stop| sweeper.work(stop))?;
    judging.node_health.pulses().watch(pulses.clone());
    let (alive, watchdog) = (registry.clone(), systemd::Watchdog::new());
    threads.spawn_until_stop("heartbeat", move |stop| {
        pulse::heart(&pulses, stop, || {
            alive.kernel().beat();
            watchdog.feed();
        });
    })?;
    let health = Arc::new(Health::default());
    let sampler = Sampler::new(registry.clone(), pipeline.clone(), config.sample_interval(), health.clone());
    threads.spawn_until_stop("sampler", move |stop| sampler.work(stop))?;
    let (log, boot_id) = (base.log_owner.log(), base.boot_id.clone());
    let state_files = base.state_files.take();
    let keeping = Keeping { registry: registry.clone(), log, pipeline: pipeline.clone(), boot_id, state_files };
    threads.spawn_until_stop("adoption", move |stop| keeping.work(stop))?;
    Ok(health)
}

/// Reads the kernel's ring until `stop`.
fn read_events(reader: EventReader, registry: &Registry, pipeline: &pipeline::Sender, stop: &EventFd, pulse: &Pulse) {
    sched::freeze_path(EVENTS);
    let mut poster = Poster::new(pipeline.clone());
    let judged = |event| {
        if let Some(event) = registry.hold(event)
            && let Some(input) = translate::event(registry.kernel(), event)
        {
            poster.post(input);
        }
    };
    match reader.run_alive(stop.as_fd(), judged, || pulse.beat()) {
        Ok(undecoded) if undecoded > 0 => {
            let what = format!("{undecoded} events could not be decoded");
            let at = MonoTime(clock::monotonic_ns());
            let gap =
                Gap { seq: 0, at, source: Source::Ebpf, run: None, gpu: None, what, lost: undecoded, blind: false };
            let _closed = pipeline.send(Message::Input(Input::Gap(gap)));
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "the event ring cannot be read"),
    }
}

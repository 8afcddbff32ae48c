//! The pipeline: it takes up the runs of an earlier daemon, and judges all runs from then on.

use super::{
    base::Base,
    prepare::{own_files, record_start},
    reload,
    threads::Threads,
};
use crate::{
    config::Config,
    interpreter::Interpreter,
    pipeline::{
        self, Parts, Pipeline,
        health::{HealthStore, Shared},
        klog,
        lane::Lane,
        pulse::Pulse,
        recording::{Flusher, Recordings},
        removal::Remover,
    },
    runs::reaper::Reaper,
    shadows::Shadows,
    watchers::{discover, keep},
};
use anyhow::Context as _;
use failsafe_core::{
    GpuId,
    health::{Slot, Thresholds, Until},
    time::Span,
    xid::Catalogue,
};
use std::{collections::BTreeMap, sync::Arc, thread::JoinHandle};

/// The pipeline, and what other threads need of it.
pub(super) struct Judging {
    pub(super) pipeline: pipeline::Sender,
    pub(super) pulse: Arc<Pulse>,
    pub(super) lane: Lane,
    pub(super) flusher: Flusher,
    pub(super) shadows: Shadows,
    pub(super) node_health: Arc<Shared>,
    /// GPUs that earlier daemons saw.
    pub(super) slots: BTreeMap<GpuId, Slot>,
    pub(super) log_before: klog::Before,
    /// Threads that end by themselves after the pipeline.
    pub(super) tidying: Vec<JoinHandle<()>>,
}

impl Judging {
    /// Takes up the runs of an earlier daemon, and starts the pipeline with what was found of them.
    pub(super) fn start(
        base: &mut Base,
        (config, reloaded): (&Config, &reload::Parts),
        tables: (Catalogue, Thresholds),
        threads: &mut Threads,
    ) -> anyhow::Result<Judging> {
        let (log, registry, boot_id) = (base.log_owner.log(), &base.registry, &base.boot_id);
        let (pipeline, queue) = pipeline::queue::channel(pipeline::QUEUE);
        let lane = Lane::new(pipeline.clone());
        let reports = lane.clone();
        let interpreter = Interpreter::spawn(registry.clone(), config, Arc::new(move |report| reports.report(report)))?;
        let recordings = Recordings::spawn(&log, config.recordings.per_user_mib << 20)?;
        let flusher = recordings.flusher();
        let (shadows, feed) = Shadows::spawn(&log, &config.state_dir)?;
        let unpinned = registry.kernel().unpinned();
        let not_pinned = unpinned.as_deref().map(keep::unpinned_text);
        record_start(&log, &base.node, std::mem::take(&mut base.findings).into_iter().chain(not_pinned).collect());

        // The earlier daemon's programs end with the adoption: what they kept out of the runs' reach is kept from here on. The sockets
        // come later.
        registry.kernel().guard_own(&own_files(config, false));
        let mut early = keep::messages(registry.adopt(&log, boot_id));
        let runs = Arc::downgrade(registry);
        log.know_live(move || runs.upgrade().map(|registry| registry.held()).unwrap_or_default());
        // What an earlier daemon left in the health of the node is over, or goes on.
        early.push(keep::state(keep::GUARDED_CODE, registry.guarded_note()));
        early.push(keep::state(keep::UNPINNED_CODE, unpinned.as_deref().map(keep::unpinned_text)));
        if config.discover.0.is_empty() {
            early.push(keep::state(discover::CODE, None));
        }
        let findings = log.findings().into_iter();
        early.extend(findings.map(|finding| keep::lasting(keep::AUDIT_LOG, finding, Until::Reset)));
        let changed = std::mem::take(&mut base.changed);
        if !changed.is_empty() {
            early.push(keep::lasting(keep::STATE_CODE, changed.join("; "), Until::Reset));
        }

        let (interval, gpus) = (Span::from_millis(config.sample_interval_ms), !config.nvml.disabled);
        let health = HealthStore::open(&config.state_dir, log.clone(), tables, gpus, interval)
            .context("cannot start the health's thread")?;
        let (node_health, slots) = (health.shared(), health.slots());
        let log_before = klog::Before { boot_id: boot_id.clone(), after: health.kernel_log_read(boot_id) };
        let (reaper, reaping) = Reaper::spawn(registry.clone(), log.clone(), reloaded.recordings.clone())?;
        let (remover, removing) = Remover::spawn(pipeline.clone())?;
        let parts = Parts {
            registry: registry.clone(),
            log,
            interpreter,
            lane: lane.clone(),
            recordings,
            shadows: feed,
            recording_max_bytes: config.recording_max_bytes,
            remover,
            reaper,
            health,
            boot_id: boot_id.clone(),
        };
        let pulse = Pulse::new("pipeline");
        let beating = pulse.clone();
        threads.spawn("pipeline", move || Pipeline::new(parts).work(&queue, move || beating.beat()))?;
        for message in early {
            pipeline.send(message).ok().context("the pipeline ended at once")?;
        }
        registry.live().iter().for_each(|live| live.claims.open());
        let tidying = reaping.into_iter().chain([removing]).collect();
        Ok(Judging { pipeline, pulse, lane, flusher, shadows, node_health, slots, log_before, tidying })
    }
}

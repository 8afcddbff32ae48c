//! The supervisor: the only place that starts and ends threads. A critical one's end ends the process, and systemd starts
//! it again; what it contained stays contained meanwhile.
//!
//! ```text
//! lock, log, kernel ─► adopt runs ─► sensors ─► API, ready ─► wait for: signal | a critical thread's end ─► stop
//! ```

mod background;
mod base;
mod judging;
mod prepare;
mod reload;
mod sensors;
mod serve;
mod threads;
mod watch;

pub use reload::{Origin, hold_hangup};

use crate::{
    api::{self, Attestor, Context, Gates, Lanes, Roles, RunChanges},
    config::{Catalogues, Config},
    pipeline::Message,
    platform::clock,
    runs::lineage::Lineages,
    systemd,
    watchers::{canary::CanaryWatch, shadows::ShadowKeep},
};
use anyhow::Context as _;
use background::{discover, drill, follow, list_incidents};
use base::Base;
use failsafe_core::record::Record;
use judging::Judging;
use nix::sys::{
    eventfd::EventFd,
    signal::{SigSet, Signal},
};
use prepare::{own_files, raise_descriptors};
use sensors::Sensors;
use serve::{serve_ordinary, serve_until_stop};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use threads::{Threads, join_by};
use watch::{EVENTS, watch};

/// How long a stop waits until runs that have ended are tidied up after.
const LAST_ENDS: Duration = Duration::from_secs(3);

/// Runs the daemon until it is asked to stop.
///
/// # Errors
/// What keeps it from starting, or the critical part that ended.
pub fn run(config: Config, origin: Origin, catalogues: Catalogues) -> anyhow::Result<()> {
    let started_ns = clock::wall_ns();
    // A blocked mask is inherited: whoever started this may have blocked the signals that stop it.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]).thread_unblock().context("cannot unblock signals")?;
    let descriptors = raise_descriptors();
    let parts = reload::Parts::new(&config);
    let mut base = Base::open(&config)?;
    let (mut threads, mut any_ended) = Threads::new();
    let Catalogues { xids, lines, health: thresholds, roles } = catalogues;
    let judging = Judging::start(&mut base, (&config, &parts), (xids, thresholds), &mut threads)?;
    let stop_events = Arc::new(EventFd::from_value(0)?);
    let health = watch(&mut base, &config, &judging, &stop_events, &mut threads)?;
    let sensors = Sensors::start(&base, &config, lines, &judging)?;
    follow(&base, (&config, &parts), &judging, &mut threads)?;
    let incidents = list_incidents(&base, &mut threads)?;

    let context = Arc::new(Context {
        authority: Roles::new(&config.admin_group, &config.gateway, roles),
        registry: base.registry.clone(),
        log: base.log_owner.log(),
        pipeline: judging.pipeline.clone(),
        lane: judging.lane.clone(),
        lanes: Lanes::new(&config.limits, descriptors)?,
        flusher: judging.flusher.clone(),
        node: base.node.clone(),
        health,
        node_health: judging.node_health.clone(),
        nvml: sensors.gpus.control(),
        resets: Arc::default(),
        boot_id: base.boot_id.clone(),
        started_ns,
        lineages: Lineages::new(&config.state_dir),
        gates: Gates::default(),
        attestor: Attestor::new(&config, base.keys.clone(), base.tpm.clone())?,
        proofs: crate::api::proofs(),
        discovery: Arc::default(),
        drills: Arc::default(),
        counter: base.counter.clone(),
        repeats: Arc::default(),
        shadows: judging.shadows.clone(),
        incidents,
        run_changes: RunChanges::new(started_ns),
        config,
    });
    let reloading = Arc::downgrade(&context);
    std::thread::Builder::new().name("reload".into()).spawn(move || reload::work(origin, &parts, &reloading))?;
    let listener = api::bind(&context.config.socket)?;
    context.registry.kernel().guard_own(&own_files(&context.config, true));
    let stop_accepting = Arc::new(EventFd::from_value(0)?);
    let (accepting, stop_accept) = (context.clone(), stop_accepting.clone());
    threads.spawn("api-accept", move || api::accept(&accepting, listener, &stop_accept))?;
    let switch = context.mode_switch();
    switch.record_start(&context.config.discover.0);
    threads.spawn_until_stop("mode", move |stop| switch.work(stop))?;
    let canaries = CanaryWatch::new(&context.registry, &context.log, &context.pipeline, &context.config.policy_dir);
    threads.spawn_until_stop("canary", move |stop| canaries.work(stop))?;
    let kept = ShadowKeep {
        registry: context.registry.clone(),
        shadows: context.shadows.clone(),
        log: context.log.clone(),
        pipeline: context.pipeline.clone(),
    };
    threads.spawn_until_stop("shadows-kept", move |stop| kept.work(stop))?;
    discover(&context, &mut threads)?;
    drill(&context, &mut threads)?;
    if let Some(rollback) = base.rollback.take() {
        let pipeline = context.pipeline.clone();
        threads.spawn_until_stop("rollback", move |stop| rollback.work(&pipeline, stop))?;
    }
    let stop_ordinary = serve_ordinary(context.clone(), &mut threads)?;
    let served = serve_until_stop(&context, &mut any_ended)?;

    systemd::stopping();
    tracing::info!("failsafed stops");
    let _removed = std::fs::remove_file(&context.config.socket);
    threads.stop();
    // Threads that are joined below may wait for an answer of it.
    base.tpm.close();
    let _woken = stop_events.write(1);
    let _woken = stop_accepting.write(1);
    let _ended = stop_ordinary.send(());
    sensors.stop();
    // What has been taken out of the ring no other daemon reads: it is judged before the pipeline stops.
    threads.join_named(EVENTS);
    let _closed = judging.pipeline.send(Message::Stop);
    threads.join();
    join_by(judging.tidying, Instant::now() + LAST_ENDS);
    context.log.record(&Record::DaemonStopped, None, None);
    base.log_owner.close();
    drop(context);
    base.registry.close();
    served
}

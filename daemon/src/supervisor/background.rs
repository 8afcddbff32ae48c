//! Threads that no freeze waits for: factors, statements, incidents, discovery and drills.

use super::{base::Base, judging::Judging, reload, threads::Threads};
use crate::{
    api::Context,
    attest::Worker,
    config::Config,
    runs::drills::DrillFile,
    watchers::{
        discover::{self, Discovery, gpus::Finder},
        drift::Follower,
        drill::{self, Drilling},
        incidents,
        statements::Statements,
    },
};
use failsafe_attest::Table;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Starts the threads that state and follow the factors of runs.
pub(super) fn follow(
    base: &Base,
    (config, reloaded): (&Config, &reload::Parts),
    judging: &Judging,
    threads: &mut Threads,
) -> anyhow::Result<()> {
    let statements = Statements {
        registry: base.registry.clone(),
        log: base.log_owner.log(),
        keys: base.keys.clone(),
        tpm: base.tpm.clone(),
        node: base.node.clone(),
        worker: Arc::new(Worker::new(config.redact.clone())),
        table: Table::built_in()?,
        nvml_disabled: config.nvml.disabled,
        boot_id: base.boot_id.clone(),
    };
    threads.spawn_until_stop("statements", move |stop| statements.work(stop))?;
    if config.drift.disabled {
        return Ok(());
    }
    let follower = Follower {
        registry: base.registry.clone(),
        log: base.log_owner.log(),
        pipeline: judging.pipeline.clone(),
        node: base.node.clone(),
        worker: Arc::new(Worker::new(config.redact.clone())),
        table: Table::built_in()?,
        config: reloaded.drift.clone(),
        nvml_disabled: config.nvml.disabled,
        boot_id: base.boot_id.clone(),
    };
    Ok(threads.spawn_until_stop("drift", move |stop| follower.work(stop))?)
}

/// Starts the thread that lists the incidents of the log.
pub(super) fn list_incidents(base: &Base, threads: &mut Threads) -> std::io::Result<Arc<incidents::Shared>> {
    let shared = Arc::<incidents::Shared>::default();
    let (registry, log) = (base.registry.clone(), base.log_owner.log());
    let following = incidents::Following { registry, log, shared: shared.clone() };
    threads.spawn_until_stop("incidents", move |stop| following.work(stop))?;
    Ok(shared)
}

/// Starts the thread that makes runs of cgroups, where the configuration has rules for that.
pub(super) fn discover(context: &Arc<Context>, threads: &mut Threads) -> anyhow::Result<()> {
    if context.config.discover.0.is_empty() {
        context.registry.retire_early();
        return Ok(());
    }
    let of = context.clone();
    let parts = discover::Parts {
        registry: context.registry.clone(),
        log: context.log.clone(),
        pipeline: context.pipeline.clone(),
        boot_id: context.boot_id.clone(),
        refusal: Box::new(move |policy| of.refusal(policy, &BTreeSet::new(), &BTreeMap::new())),
        view: context.discovery.clone(),
        shadows: context.shadows.clone(),
    };
    let finder =
        Finder::new(&context.registry, context.node.clone(), context.pipeline.clone(), context.discovery.clone());
    let stop = threads.stop.clone();
    // Nobody waits for its end: it may have to wait for the memory of a process. Discovery reports its hang.
    std::thread::Builder::new().name("run-gpus".into()).spawn(move || finder.work(&stop))?;
    let discovery = Discovery::new(parts, &context.config);
    Ok(threads.spawn_until_stop("discovery", move |stop| discovery.work(stop))?)
}

/// Starts the thread that does drills.
pub(super) fn drill(context: &Arc<Context>, threads: &mut Threads) -> anyhow::Result<()> {
    let (of, config) = (context.clone(), &context.config);
    let drilling = Drilling::new(drill::Parts {
        registry: context.registry.clone(),
        log: context.log.clone(),
        pipeline: context.pipeline.clone(),
        lane: context.lane.clone(),
        boot_id: context.boot_id.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        action_deadline: config.action_deadline(),
        refusal: Box::new(move |policy| of.refusal(policy, &BTreeSet::new(), &BTreeMap::new())),
        schedule: config.drill.schedule(),
        file: DrillFile::new(&config.state_dir),
        started_ns: context.started_ns,
        shared: context.drills.clone(),
    });
    Ok(threads.spawn_until_stop("drill", move |stop| drilling.work(stop))?)
}

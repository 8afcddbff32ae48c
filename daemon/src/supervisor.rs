//! The supervisor: the only place that starts and ends threads. A critical one's end ends the process, and systemd starts
//! it again; what it contained stays contained meanwhile.
//!
//! ```text
//! lock, log, kernel ─► adopt runs ─► sensors ─► API, ready ─► wait for: signal | a critical thread's end ─► stop
//! ```

mod prepare;
mod reload;
mod threads;

pub use reload::{Origin, hold_hangup};

use crate::{
    api::{self, Attestor, Context, Gates, Lanes, Roles, RunChanges},
    attest::{Roots, Worker},
    causes::chain,
    config::{Catalogues, Config, NodeMode},
    guard::pin_folder,
    interpreter::Interpreter,
    log::LogOwner,
    node::NodeView,
    pipeline::{
        self, Message, Parts, Pipeline,
        gpus::Gpus,
        health::{HealthStore, Shared},
        klog,
        lane::Lane,
        mailbox::Poster,
        pulse::{self, Pulse},
        recording::{Flusher, Recordings},
        removal::Remover,
        whose::Whose,
    },
    platform::{CgroupRoot, ProcFs, clock, sched},
    runs::{
        Registry,
        canaries::Canaries,
        drills::DrillFile,
        lineage::Lineages,
        modes::{Modes, Moment},
        reaper::Reaper,
        store::Store,
        translate,
    },
    sensors::{amdgpu::Amdgpu, ebpf::EventReader, kmsg::Kmsg, metrics::Running},
    shadows::Shadows,
    signing::SigningKeys,
    systemd,
    tpm::NodeTpm,
    watchers::{
        canary::CanaryWatch,
        discover::{self, Discovery, gpus::Finder},
        drift::Follower,
        drill::{self, Drilling},
        hold::{Guard, Sweeper},
        incidents,
        keep::{self, Keeping},
        rollback::{self, Rollback},
        sampler::{Health, Sampler},
        shadows::ShadowKeep,
        statements::Statements,
    },
};
use anyhow::Context as _;
use failsafe_attest::Table;
use failsafe_core::{
    GpuId, Input, Mode, MonoTime,
    health::{Slot, Thresholds, Until},
    input::Gap,
    klog::Lines,
    record::Record,
    signal::Source,
    time::Span,
    xid::Catalogue,
};
use failsafe_journal::{StateLock, instance};
use nix::sys::{
    eventfd::EventFd,
    signal::{SigSet, Signal},
};
use prepare::{load, own_files, raise_descriptors, record_nvml, record_start, see_ebpf};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::AsFd,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use threads::{Threads, join_by};
use tokio::signal::unix::{SignalKind, signal};

/// How long a stop waits until runs that have ended are tidied up after.
const LAST_ENDS: Duration = Duration::from_secs(3);
/// The reader of the kernel's ring.
const EVENTS: &str = "ebpf-events";

/// Runs the daemon until it is told to stop.
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

/// What is opened before anything is watched.
struct Base {
    _lock: StateLock,
    log_owner: LogOwner,
    /// What was found wrong with the log, for the record of the start.
    findings: Vec<String>,
    registry: Arc<Registry>,
    /// The reader of the kernel's events, until its thread takes it.
    reader: Option<EventReader>,
    node: Arc<Mutex<NodeView>>,
    boot_id: String,
    keys: Arc<SigningKeys>,
    tpm: Arc<NodeTpm>,
    counter: Arc<rollback::Shared>,
    /// Compares the log with the counter of the TPM, unless the configuration does not use it.
    rollback: Option<Rollback>,
}

impl Base {
    fn open(config: &Config) -> anyhow::Result<Base> {
        let state_dir = &config.state_dir;
        std::fs::create_dir_all(state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
        let lock = StateLock::acquire(state_dir)?;
        let boot_id = clock::boot_id(std::path::Path::new("/proc")).context("no boot id")?.to_string();
        let store = Store::open(state_dir)?;
        let keys = Arc::new(SigningKeys::open(state_dir, clock::wall_ns()));
        if let Err(error) = keys.signer() {
            tracing::error!(error = chain(&error), "nothing can be signed");
        }
        // Outside the state folder: whoever swaps that one does not reach this. It lives as long as the boot.
        let second_head = config.socket.with_file_name(format!("audit-head-{}.json", instance::name(state_dir)));
        if let Some(folder) = second_head.parent() {
            let _told_with_the_head = std::fs::create_dir_all(folder);
        }
        let vouch = Some(config.audit_log.vouch(&keys));
        let (log_owner, findings) = LogOwner::open(state_dir, &second_head, &boot_id, config.audit_log.bounds(), vouch)
            .context("cannot open the audit log")?;
        let root = CgroupRoot::find().context("failsafed needs a cgroup2 mount")?;
        config.bpffs().map_or(Ok(()), pin_folder::prepare)?;
        let (kernel, reader) = load(config);
        let kernel = kernel.with_redactor(config.redact.clone());
        let node = Arc::new(Mutex::new(NodeView::default()));
        let node_mode = match config.mode {
            NodeMode::Enforce => Mode::Enforce,
            NodeMode::Observe => Mode::Observe,
        };
        let (modes, wrong) = Modes::open(node_mode, &config.discover.0, state_dir, &Moment::now(&boot_id));
        let findings: Vec<String> = findings.into_iter().chain(wrong).collect();
        let registry =
            Arc::new(Registry::new(root, kernel, store).with_modes(modes).with_canaries(Canaries::open(state_dir)));
        see_ebpf(&registry, &node);
        let tpm = Arc::new(NodeTpm::new(config.tpm.settings()));
        let counter = Arc::new(rollback::Shared::of(&config.tpm));
        let with_counter = config.tpm.counter && !config.tpm.disabled;
        let rollback = with_counter.then(|| Rollback::new(log_owner.log(), tpm.clone(), &boot_id, counter.clone()));
        Ok(Base { _lock: lock, log_owner, findings, registry, reader, node, boot_id, keys, tpm, counter, rollback })
    }
}

/// The pipeline, and what other threads need of it.
struct Judging {
    pipeline: pipeline::Sender,
    pulse: Arc<Pulse>,
    lane: Lane,
    flusher: Flusher,
    shadows: Shadows,
    node_health: Arc<Shared>,
    /// GPUs that earlier daemons saw.
    slots: BTreeMap<GpuId, Slot>,
    log_before: klog::Before,
    /// Threads that end by themselves after the pipeline.
    tidying: Vec<JoinHandle<()>>,
}

impl Judging {
    /// Takes up the runs of an earlier daemon, and starts the pipeline with what was found of them.
    fn start(
        base: &mut Base,
        (config, reloaded): (&Config, &reload::Parts),
        tables: (Catalogue, Thresholds),
        threads: &mut Threads,
    ) -> anyhow::Result<Judging> {
        let (log, registry, boot_id) = (base.log_owner.log(), &base.registry, &base.boot_id);
        let (pipeline, queue) = pipeline::queue::channel(pipeline::QUEUE);
        let lane = Lane::new(pipeline.clone());
        let reports = lane.clone();
        let interpreter = Interpreter::spawn(registry.clone(), config, Arc::new(move |told| reports.report(told)))?;
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
        threads.spawn("pipeline", move || Pipeline::new(parts).work(&queue, || beating.beat()))?;
        for message in early {
            pipeline.send(message).ok().context("the pipeline ended at once")?;
        }
        registry.live().iter().for_each(|live| live.claims.open());
        let tidying = reaping.into_iter().chain([removing]).collect();
        Ok(Judging { pipeline, pulse, lane, flusher, shadows, node_health, slots, log_before, tidying })
    }
}

/// Starts the threads that look at runs, and the heart, which beats while those of the freeze path make progress.
fn watch(
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
    let keeping = Keeping { registry: registry.clone(), log, pipeline: pipeline.clone(), boot_id };
    threads.spawn_until_stop("adoption", move |stop| keeping.work(stop))?;
    Ok(health)
}

/// Starts the thread that lists the incidents of the log.
fn list_incidents(base: &Base, threads: &mut Threads) -> std::io::Result<Arc<incidents::Shared>> {
    let shared = Arc::<incidents::Shared>::default();
    let (registry, log) = (base.registry.clone(), base.log_owner.log());
    let following = incidents::Following { registry, log, shared: shared.clone() };
    threads.spawn_until_stop("incidents", move |stop| following.work(stop))?;
    Ok(shared)
}

/// Starts the threads that state and follow the factors of runs.
fn follow(
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
        worker: Arc::new(Worker { roots: Roots::default(), redact: config.redact.clone() }),
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
        worker: Arc::new(Worker { roots: Roots::default(), redact: config.redact.clone() }),
        table: Table::built_in()?,
        config: reloaded.drift.clone(),
        nvml_disabled: config.nvml.disabled,
        boot_id: base.boot_id.clone(),
    };
    Ok(threads.spawn_until_stop("drift", move |stop| follower.work(stop))?)
}

/// Starts the thread that makes runs of cgroups, where the configuration has rules for that.
fn discover(context: &Arc<Context>, threads: &mut Threads) -> anyhow::Result<()> {
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
fn drill(context: &Arc<Context>, threads: &mut Threads) -> anyhow::Result<()> {
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

/// The sensors that are not of single runs.
struct Sensors {
    gpus: Gpus,
    _amdgpu: Option<Amdgpu>,
    _kmsg: Option<Kmsg>,
    _metrics: Running,
}

impl Sensors {
    fn start(base: &Base, config: &Config, lines: Lines, judging: &Judging) -> anyhow::Result<Sensors> {
        let (registry, node, pipeline) = (&base.registry, &base.node, &judging.pipeline);
        // Not kept here: it holds the registry.
        let whose = Whose::new(registry, ProcFs::default());
        let gpus = Gpus::start(config, registry, pipeline, node, &whose, judging.slots.clone())?;
        record_nvml(&base.log_owner.log(), node);
        Ok(Sensors {
            gpus,
            _amdgpu: pipeline::amd::start(config, registry, pipeline, node, &whose)?,
            _kmsg: klog::start(config, lines, &judging.log_before, pipeline, node),
            _metrics: pipeline::metrics::start(config, registry, pipeline)?,
        })
    }

    /// Ends their threads, those of the GPUs last.
    fn stop(self) {
        let Sensors { gpus, _amdgpu, _kmsg, _metrics } = self;
        drop((_metrics, _kmsg, _amdgpu));
        gpus.stop();
    }
}

/// Serves ordinary users, on a thread of its own. What is sent ends it.
fn serve_ordinary(context: Arc<Context>, threads: &mut Threads) -> anyhow::Result<tokio::sync::oneshot::Sender<()>> {
    let runtime = api::event_loop()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    threads.spawn("api", move || {
        runtime.block_on(async {
            tokio::select! {
                served = api::serve(context, false) => {
                    if let Err(error) = served {
                        tracing::error!(error = chain(&error), "the lane of ordinary users ended");
                    }
                }
                _ = stopped => {}
            }
        });
        runtime.shutdown_background();
    })?;
    Ok(stop)
}

/// Serves root and the administrators' group on this thread, which nobody else can keep busy, until a signal or the end of a critical
/// thread. The inner error is why the daemon stops.
fn serve_until_stop(
    context: &Arc<Context>,
    any_ended: &mut tokio::sync::mpsc::UnboundedReceiver<&'static str>,
) -> anyhow::Result<anyhow::Result<()>> {
    let runtime = api::event_loop()?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        systemd::ready();
        tracing::info!(socket = %context.config.socket.display(), "failsafed is ready");
        // Streams that follow the log would keep a graceful shutdown waiting for ever: the server is dropped instead.
        tokio::select! {
            served = api::serve(context.clone(), true) => served.map_err(anyhow::Error::from),
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            name = any_ended.recv() => match name {
                Some(name) => Err(anyhow::anyhow!("the {name} thread ended")),
                None => Ok(()),
            },
        }
    });
    runtime.shutdown_background();
    Ok(served)
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

//! The supervisor: the only place that starts and ends threads. A critical one's end ends the process, and systemd starts
//! it again; what it contained stays contained meanwhile.
//!
//! ```text
//! lock, log, kernel ─► adopt runs ─► sensors ─► API, ready ─► wait for: signal | a critical thread's end ─► stop
//! ```

use crate::{
    api::{self, Context, Lanes, Roles},
    config::{self, Catalogues, Config},
    interpreter::Interpreter,
    log::LogOwner,
    node::{NodeView, SensorView},
    pipeline::{
        self, Message, Parts, Pipeline,
        gpus::Gpus,
        health::Keeper,
        klog,
        lane::Lane,
        mailbox::Poster,
        pulse::{self, Pulse},
        recording::Recordings,
        removal::Remover,
        whose::Whose,
    },
    platform::{CgroupRoot, ProcFs, clock, sched},
    runs::{
        Registry,
        kernel::{Kernel, chain},
        reaper::Reaper,
        store::Store,
        translate,
    },
    sensors::ebpf::{self, Ebpf, EventReader, Own},
    systemd,
    watchers::{
        hold::{Guard, Sweeper},
        keep::{self, Keeping},
        sampler::{Health, Sampler},
    },
};
use anyhow::Context as _;
use failsafe_core::{Input, MonoTime, health::Until, input::Gap, record::Record, signal::Source, time::Span};
use failsafe_journal::{StateLock, instance};
use nix::sys::{
    eventfd::EventFd,
    resource::{Resource, getrlimit, setrlimit},
    signal::{SigSet, Signal},
};
use std::{
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// A thread without which the daemon does not do what it says.
struct Critical {
    name: &'static str,
    thread: JoinHandle<()>,
}

impl Critical {
    fn join(self) {
        let Critical { name, thread } = self;
        thread.thread().unpark();
        if thread.join().is_err() {
            tracing::error!(name, "a thread panicked");
        }
    }
}

/// How long a stop waits until runs that have ended are tidied up after.
const LAST_ENDS: Duration = Duration::from_secs(3);
/// The reader of the kernel's ring.
const EVENTS: &str = "ebpf-events";

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// What keeps it from starting, or the critical part that ended.
pub fn run(config: Config, catalogues: Catalogues) -> anyhow::Result<()> {
    let started_ns = clock::wall_ns();
    // A blocked mask is inherited: whoever started this may have blocked the signals that stop it.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]).thread_unblock().context("cannot unblock signals")?;
    let descriptors = raise_descriptors();
    let state_dir = &config.state_dir;
    std::fs::create_dir_all(state_dir).with_context(|| format!("cannot make {}", state_dir.display()))?;
    let _lock = StateLock::acquire(state_dir)?;
    let boot_id = clock::boot_id(std::path::Path::new("/proc")).context("no boot id")?.to_string();
    let store = Store::open(state_dir)?;
    // Outside the state folder: whoever swaps that one does not reach this. It lives as long as the boot.
    let second_head = config.socket.with_file_name(format!("audit-head-{}.json", instance::name(state_dir)));
    if let Some(folder) = second_head.parent() {
        let _told_with_the_head = std::fs::create_dir_all(folder);
    }
    let (log_owner, findings) = LogOwner::open(state_dir, &second_head, &boot_id, config.audit_log.bounds())
        .context("cannot open the audit log")?;
    let log = log_owner.log();

    let root = CgroupRoot::find().context("failsafed needs a cgroup2 mount")?;
    let (kernel, reader) = load(&config);
    let kernel = kernel.with_redactor(config.redact.clone());
    let node = Arc::new(Mutex::new(NodeView::default()));
    let registry = Arc::new(Registry::new(root, kernel, store));
    see_ebpf(&registry, &node);

    let (pipeline, queue) = pipeline::queue::channel(pipeline::QUEUE);
    let lane = Lane::new(pipeline.clone());
    let reports = lane.clone();
    let told = Arc::new(move |told| reports.report(told));
    let interpreter = Interpreter::spawn(registry.clone(), &config, told)?;
    let recordings = Recordings::spawn(&log, config.recordings.per_user_mib << 20)?;
    let flusher = recordings.flusher();
    record_start(&log, &node, findings);

    // The earlier daemon's programs end with the adoption: what they kept out of the runs' reach is kept from here on. The sockets come
    // later.
    registry.kernel().guard_own(&own_files(&config, false));
    let mut early = keep::messages(registry.adopt(&log, &boot_id));
    let runs = Arc::downgrade(&registry);
    log.know_live(move || runs.upgrade().map(|registry| registry.held()).unwrap_or_default());
    // What an earlier daemon left in the health of the node is over, or goes on.
    early.push(keep::guarded_fact(registry.guarded_note()));

    let findings = log.findings().iter();
    early.extend(findings.map(|finding| keep::lasting("audit-log", finding.clone(), Until::Reset)));

    let interval = Span::from_millis(config.sample_interval_ms);
    let health =
        Keeper::open(state_dir, log.clone(), (catalogues.xids, catalogues.health), !config.nvml.disabled, interval)
            .context("cannot start the health's thread")?;
    let (node_health, slots) = (health.shared(), health.slots());
    let log_before = klog::Before { boot_id: boot_id.clone(), after: health.kernel_log_read(&boot_id) };
    let (reaper, reaping) = Reaper::spawn(registry.clone(), log.clone(), config.recordings)?;
    let (remover, removing) = Remover::spawn(pipeline.clone())?;
    let parts = Parts {
        registry: registry.clone(),
        log: log.clone(),
        interpreter,
        lane: lane.clone(),
        recordings,
        recording_max_bytes: config.recording_max_bytes,
        remover,
        reaper,
        health,
        boot_id: boot_id.clone(),
    };
    let (ended, mut any_ended) = tokio::sync::mpsc::unbounded_channel::<&'static str>();
    let (pulse, reader_pulse) = (Pulse::new("pipeline"), Pulse::new(EVENTS));
    let mut pulses = vec![pulse.clone()];
    let mut critical = vec![spawn("pipeline", &ended, move || Pipeline::new(parts).work(&queue, || pulse.beat()))?];
    for message in early {
        pipeline.send(message).ok().context("the pipeline ended at once")?;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let stop_events = Arc::new(EventFd::from_value(0)?);
    if let Some(reader) = reader {
        pulses.push(reader_pulse.clone());
        critical.push(read_events(reader, &registry, &pipeline, &stop_events, &ended, reader_pulse)?);
    }
    let guard_pulse = Pulse::new("guard");
    pulses.push(guard_pulse.clone());
    let (guard, guard_stop) = (Guard::new(registry.clone(), pipeline.clone()), stop.clone());
    critical.push(spawn("guard", &ended, move || guard.work(&guard_stop, &guard_pulse))?);
    let (sweeper, sweeper_stop) = (Sweeper::new(registry.clone(), pipeline.clone()), stop.clone());
    critical.push(spawn("sweeper", &ended, move || sweeper.work(&sweeper_stop))?);
    let (alive, heart_stop, watchdog) = (registry.clone(), stop.clone(), systemd::Watchdog::new());
    critical.push(spawn("heartbeat", &ended, move || {
        pulse::heart(&pulses, &heart_stop, || {
            alive.kernel().beat();
            watchdog.feed();
        });
    })?);
    let health = Arc::new(Health::default());
    let sampler = Sampler::new(registry.clone(), pipeline.clone(), config.sample_interval(), health.clone());
    let sampler_stop = stop.clone();
    critical.push(spawn("sampler", &ended, move || sampler.work(&sampler_stop))?);
    let keeping =
        Keeping { registry: registry.clone(), log: log.clone(), pipeline: pipeline.clone(), boot_id: boot_id.clone() };
    let keeping_stop = stop.clone();
    critical.push(spawn("adoption", &ended, move || keeping.work(&keeping_stop))?);

    // Not kept here: it holds the registry.
    let whose = Whose::new(&registry, ProcFs::default());
    let gpus = Gpus::start(&config, &registry, &pipeline, &node, &whose, slots)?;
    record_nvml(&log, &node);
    let amdgpu = pipeline::amd::start(&config, &registry, &pipeline, &node, &whose)?;
    drop(whose);
    let kmsg = klog::start(&config, catalogues.lines, &log_before, &pipeline, &node);
    let metrics = pipeline::metrics::start(&config.metrics_socket, &registry, &pipeline)?;

    let context = Arc::new(Context {
        authority: Roles::new(&config.admin_group),
        registry: registry.clone(),
        log: log.clone(),
        pipeline: pipeline.clone(),
        lane,
        lanes: Lanes::new(&config.limits, descriptors)?,
        flusher,
        node,
        health,
        node_health,
        nvml: gpus.control(),
        resets: Arc::default(),
        boot_id,
        started_ns,
        config,
    });
    let listener = api::bind(&context.config.socket)?;
    context.registry.kernel().guard_own(&own_files(&context.config, true));
    let stop_accepting = Arc::new(EventFd::from_value(0)?);
    let (accepting, stop_accept) = (context.clone(), stop_accepting.clone());
    critical.push(spawn("api-accept", &ended, move || api::accept(&accepting, listener, &stop_accept))?);
    let (ordinary, ordinary_runtime) = (context.clone(), api::event_loop()?);
    let (stop_ordinary, ordinary_stopped) = tokio::sync::oneshot::channel::<()>();
    critical.push(spawn("api", &ended, move || {
        ordinary_runtime.block_on(async {
            tokio::select! {
                served = api::serve(ordinary, false) => {
                    if let Err(error) = served {
                        tracing::error!(error = chain(&error), "the lane of ordinary users ended");
                    }
                }
                _ = ordinary_stopped => {}
            }
        });
        ordinary_runtime.shutdown_background();
    })?);
    // Root and the administrators' group are served on this thread, which nobody else can keep busy.
    let runtime = api::event_loop()?;
    let served = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        systemd::ready();
        tracing::info!(socket = %context.config.socket.display(), "failsafed is ready");
        let (why, stopped) = tokio::sync::oneshot::channel::<Option<&'static str>>();
        let stopping = async move {
            let ended = tokio::select! {
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                name = any_ended.recv() => name,
            };
            let _nobody = why.send(ended);
        };
        // Streams that follow the log would keep a graceful shutdown waiting for ever: the server is dropped instead.
        tokio::select! {
            served = api::serve(context.clone(), true) => served.map_err(anyhow::Error::from),
            () = stopping => match stopped.await.ok().flatten() {
                Some(name) => Err(anyhow::anyhow!("the {name} thread ended")),
                None => Ok(()),
            },
        }
    });
    runtime.shutdown_background();
    systemd::stopping();
    tracing::info!("failsafed stops");
    let _removed = std::fs::remove_file(&context.config.socket);
    stop.store(true, Ordering::Relaxed);
    let _woken = stop_events.write(1);
    let _woken = stop_accepting.write(1);
    let _ended = stop_ordinary.send(());
    drop(metrics);
    drop(kmsg);
    drop(amdgpu);
    gpus.stop();
    // What has been taken out of the ring no other daemon reads: it is judged before the pipeline stops.
    let (readers, others): (Vec<_>, Vec<_>) = critical.into_iter().partition(|thread| thread.name == EVENTS);
    readers.into_iter().for_each(Critical::join);
    let _closed = pipeline.send(Message::Stop);
    others.into_iter().for_each(Critical::join);
    join_by(reaping.into_iter().chain([removing]), Instant::now() + LAST_ENDS);
    log.record(&Record::DaemonStopped, None, None);
    log_owner.close();
    drop(context);
    registry.close();
    served
}

/// Waits for threads that end by themselves, unless a disk holds them up: then they end with the process.
fn join_by(threads: impl IntoIterator<Item = JoinHandle<()>>, deadline: Instant) {
    for thread in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        if thread.is_finished() {
            let _panicked = thread.join();
        } else {
            tracing::warn!(
                thread = thread.thread().name(),
                "a thread still tidies up after ended runs; the next start goes on"
            );
        }
    }
}

fn spawn(
    name: &'static str,
    ended: &tokio::sync::mpsc::UnboundedSender<&'static str>,
    work: impl FnOnce() + Send + 'static,
) -> anyhow::Result<Critical> {
    struct Tell(&'static str, tokio::sync::mpsc::UnboundedSender<&'static str>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _stopping = self.1.send(self.0);
        }
    }
    let tell = Tell(name, ended.clone());
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        // Dropped on a panic too.
        let _tell = tell;
        work();
    })?;
    Ok(Critical { name, thread })
}

/// As many descriptors as the hard limit allows: what clients get of them is a share, see [`Lanes`].
fn raise_descriptors() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1_024, 1_024));
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
            soft
        }
    }
}

fn load(config: &Config) -> (Kernel, Option<EventReader>) {
    let wanted = ebpf::Config {
        ring_bytes: config.ring_kib * 1_024,
        max_runs: crate::runs::kernel::MAX_RUNS,
        bpffs: config.bpffs().map(Path::to_owned),
        instance: instance::name(&config.state_dir),
        shares: config.kernel_tables,
        lsm: true,
    };
    match Ebpf::load(&wanted).and_then(|mut ebpf| Ok((ebpf.event_reader()?, ebpf))) {
        Ok((reader, ebpf)) => (Kernel::new(Ok(ebpf)), Some(reader)),
        Err(error) => {
            let why = chain(&error);
            tracing::error!(why, "eBPF is not available: runs are watched without it");
            (Kernel::new(Err(why)), None)
        }
    }
}

/// What no run may change: with `sockets`, which are made anew at each start, all of it.
fn own_files(config: &Config, sockets: bool) -> Own {
    let stream = crate::sensors::metrics::stream_path(&config.metrics_socket);
    let own = [&config.socket, &config.metrics_socket, &stream];
    // Those of an earlier daemon are known by the old path still.
    let files = own.into_iter().filter(|path| sockets || path.exists());
    let configured = Path::new(config::DEFAULT_PATH).parent().filter(|folder| folder.exists());
    Own {
        folders: configured.into_iter().chain([config.state_dir.as_path()]).map(Path::to_owned).collect(),
        files: files.cloned().collect(),
        mounts: config.bpffs().map(Path::to_owned).into_iter().collect(),
    }
}

fn see_ebpf(registry: &Registry, node: &Mutex<NodeView>) {
    let kernel = registry.kernel();
    let missing = kernel.missing_guards();
    let blind = match kernel.blind() {
        Some(why) => Some(why.to_owned()),
        None if !missing.is_empty() => Some(format!("the kernel refuses {}", missing.join(", "))),
        None => None,
    };
    let loaded = kernel.programs().iter().filter(|p| p.state == ebpf::ProgramState::Loaded).count();
    let view = SensorView { blind, detail: format!("{loaded} programs loaded"), last_success_ns: clock::wall_ns() };
    let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
    node.sensors.insert(Source::Ebpf, view);
    let seeing = |detail: &str| SensorView { blind: None, detail: detail.into(), last_success_ns: clock::wall_ns() };
    node.sensors.insert(Source::Cgroup, seeing("cgroup files and /proc"));
    node.sensors.insert(Source::App, seeing("metrics socket"));
}

fn record_start(log: &crate::log::Log, node: &Mutex<NodeView>, findings: Vec<String>) {
    let node = node.lock().unwrap_or_else(PoisonError::into_inner);
    let mut blind: Vec<String> = node.blind().into_iter().map(|(source, why)| format!("{source}: {why}")).collect();
    blind.extend(findings);
    for finding in &blind {
        tracing::warn!(finding, "at start");
    }
    let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    log.record(&Record::DaemonStarted { version, kernel, blind }, None, None);
}

fn record_nvml(log: &crate::log::Log, node: &Mutex<NodeView>) {
    let node = node.lock().unwrap_or_else(PoisonError::into_inner);
    let blind = node.blind().remove(&Source::Nvml);
    let seen = blind.is_none().then(|| node.nvml.clone());
    if let Some(why) = &blind {
        tracing::warn!(why, "no sight of GPUs");
    }
    log.record(&Record::Nvml { seen, blind }, None, None);
}

fn read_events(
    reader: EventReader,
    registry: &Arc<Registry>,
    pipeline: &pipeline::Sender,
    stop: &Arc<EventFd>,
    ended: &tokio::sync::mpsc::UnboundedSender<&'static str>,
    pulse: Arc<Pulse>,
) -> anyhow::Result<Critical> {
    let (registry, pipeline, stop) = (registry.clone(), pipeline.clone(), stop.clone());
    spawn(EVENTS, ended, move || {
        sched::freeze_path(EVENTS);
        let mut poster = Poster::new(pipeline.clone());
        let judged = |event| {
            if let Some(input) = translate::event(registry.kernel(), event) {
                poster.post(input);
            }
        };
        let done = reader.run_alive(stop.as_fd(), judged, || pulse.beat());
        match done {
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
    })
}

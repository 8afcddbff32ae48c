//! Steps of the start that read the system and fill what the API shows of it.

use crate::{
    causes::chain,
    config::{self, Config},
    guard::{
        self, Ebpf, Own, ProgramState,
        kernel::{self, Kernel},
    },
    log::Log,
    node::{NodeView, SensorView},
    platform::clock,
    runs::Registry,
    sensors::ebpf::EventReader,
};
use failsafe_core::{record::Record, signal::Source};
use failsafe_journal::instance;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::{
    path::Path,
    sync::{Mutex, PoisonError},
};

/// As many descriptors as the hard limit allows: what clients get of them is a share, see [`Lanes`].
pub(super) fn raise_descriptors() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1_024, 1_024));
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
            soft
        }
    }
}

pub(super) fn load(config: &Config) -> (Kernel, Option<EventReader>) {
    let wanted = guard::Config {
        ring_bytes: config.ring_kib * 1_024,
        max_runs: kernel::MAX_RUNS,
        bpffs: config.bpffs().map(Path::to_owned),
        instance: instance::name(&config.state_dir),
        shares: config.kernel_tables,
        early_states: early_states(config),
        lsm: true,
    };
    match Ebpf::load(&wanted).and_then(|mut ebpf| Ok((EventReader::of(ebpf.take_ring()?), ebpf))) {
        Ok((reader, ebpf)) => (Kernel::new(Ok(ebpf)), Some(reader)),
        Err(error) => {
            let why = chain(&error);
            tracing::error!(why, "eBPF is not available: runs are watched without it");
            (Kernel::new(Err(why)), None)
        }
    }
}

/// How many states the automaton of discovery has; 0: the kernel binds no cgroups.
fn early_states(config: &Config) -> u32 {
    let made = || config.discover.0.automaton(config.discovery.root.to_str()?).ok();
    let wanted = !config.discover.0.is_empty() && config.discovery.early_slots > 0;
    let made = wanted.then(made).flatten();
    made.map_or(0, |automaton| u32::try_from(automaton.states.len()).unwrap_or(0))
}

/// What no run may change: with `sockets`, which are made anew at each start, all of it.
pub(super) fn own_files(config: &Config, sockets: bool) -> Own {
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

pub(super) fn see_ebpf(registry: &Registry, node: &Mutex<NodeView>) {
    let kernel = registry.kernel();
    let missing = kernel.missing_guards();
    let blind = match kernel.blind() {
        Some(why) => Some(why.to_owned()),
        None if !missing.is_empty() => Some(format!("the kernel refuses {}", missing.join(", "))),
        None => None,
    };
    let loaded = kernel.programs().iter().filter(|p| p.state == ProgramState::Loaded).count();
    let view = SensorView { blind, detail: format!("{loaded} programs loaded"), last_success_ns: clock::wall_ns() };
    let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
    node.sensors.insert(Source::Ebpf, view);
    let seeing = |detail: &str| SensorView { blind: None, detail: detail.into(), last_success_ns: clock::wall_ns() };
    node.sensors.insert(Source::Cgroup, seeing("cgroup files and /proc"));
    node.sensors.insert(Source::App, seeing("metrics socket"));
}

pub(super) fn record_start(log: &Log, node: &Mutex<NodeView>, findings: Vec<String>) {
    let node = node.lock().unwrap_or_else(PoisonError::into_inner);
    let mut blind: Vec<String> = node.blind().into_iter().map(|(source, why)| format!("{source}: {why}")).collect();
    blind.extend(findings);
    for finding in &blind {
        tracing::warn!(finding, "at start");
    }
    let kernel = nix::sys::utsname::uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    log.record(&Record::DaemonStarted { version, kernel, blind, orders: log.orders() }, None, None);
}

pub(super) fn record_nvml(log: &Log, node: &Mutex<NodeView>) {
    let node = node.lock().unwrap_or_else(PoisonError::into_inner);
    let blind = node.blind().remove(&Source::Nvml);
    let seen = blind.is_none().then(|| node.nvml.clone());
    if let Some(why) = &blind {
        tracing::warn!(why, "no sight of GPUs");
    }
    log.record(&Record::Nvml { seen, blind }, None, None);
}

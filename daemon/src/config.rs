//! The daemon's configuration: one TOML file and its drop-ins, parsed and validated whole before anything is started.

mod audit_log;
mod check;
mod discovery;
mod drift;
mod drill;
mod gateway;
mod gpu_rates;
mod limits;
mod live;
mod recordings;
mod roles;
mod tables;
mod tpm;

pub use audit_log::AuditLog;
pub use discovery::{DiscoverRules, Discovery};
pub use drift::Drift;
pub use drill::{Drill, Length};
pub use gateway::Gateway;
pub use gpu_rates::{Every, Pace, Rated};
pub use limits::{Limits, Rates, Shares};
pub use live::{Keys, Live};
pub use recordings::Recordings;
pub use roles::{RemoteRole, Roles, is_identity};
pub use tables::TableShares;
pub use tpm::Tpm;

use crate::redact::Redactor;
use check::Wrong;
use failsafe_core::{health::Thresholds, klog::Lines, policy::diagnostic::Diagnostics, xid::Catalogue};
use serde::Deserialize;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the configuration lies unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/failsafe/failsafed.toml";

/// The daemon's configuration. Every field has a default; an unknown one is an error.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Audit log, recordings, policies, the registry of runs.
    pub state_dir: PathBuf,
    /// The gRPC socket.
    pub socket: PathBuf,
    /// The datagram socket for the runs' own metrics.
    pub metrics_socket: PathBuf,
    /// Below which cgroup runs are made, relative to the cgroup2 mount.
    pub cgroup_parent: PathBuf,
    /// Cgroups, with those below, that `failsafectl run` may move a process out of, whatever limits they have.
    pub start_from: Vec<PathBuf>,
    /// Time between samples of counters, cgroup files and NVML, in milliseconds.
    pub sample_interval_ms: u64,
    /// The group whose members may act, beside root.
    pub admin_group: String,
    /// How long a freeze, thaw or kill may take until it is called partial, in milliseconds.
    pub action_deadline_ms: u64,
    /// How long taking a snapshot may take, in milliseconds.
    pub snapshot_budget_ms: u64,
    /// Most bytes of one run's recording.
    pub recording_max_bytes: u64,
    /// Where in the BPF file system links are pinned; empty: they are not, and blocks end with the daemon.
    pub bpffs: PathBuf,
    /// Size of the event ring buffer in KiB, a power of two.
    pub ring_kib: u32,
    /// NVML.
    pub nvml: Nvml,
    /// GPUs.
    pub gpu: Gpu,
    /// The kernel's log.
    pub kernel_log: KernelLog,
    /// AMD's GPUs.
    pub amdgpu: AmdgpuConfig,
    /// How the room in the kernel's tables is shared out.
    pub kernel_tables: TableShares,
    /// What users may use of the gRPC interface.
    pub limits: Limits,
    /// How much of the audit log is kept, and how much each user gets.
    pub audit_log: AuditLog,
    /// How much of ended runs is kept.
    pub recordings: Recordings,
    /// How runs are followed for changes of their factors.
    pub drift: Drift,
    /// How often the node proves that it can stop a run.
    pub drill: Drill,
    /// The node's TPM.
    pub tpm: Tpm,
    /// What is replaced in command lines before they are recorded.
    pub redact: Redactor,
    /// The folder of named policies.
    pub policy_dir: PathBuf,
    /// Whether failsafe acts on runs, or only judges and records.
    pub mode: NodeMode,
    /// The process that serves metrics, and whom it may relay.
    pub gateway: Gateway,
    /// How cgroups are discovered.
    pub discovery: Discovery,
    /// Which cgroups are discovered.
    pub discover: DiscoverRules,
}

/// Whether failsafe acts on the runs of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeMode {
    /// As the policies say.
    #[default]
    Enforce,
    /// Everything is judged and recorded; nothing is refused, frozen or killed but by an operator's command.
    Observe,
}

/// AMD's GPUs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AmdgpuConfig {
    /// Where sysfs is.
    pub sysfs: PathBuf,
    /// True: they are not looked at.
    pub disabled: bool,
}

impl Default for AmdgpuConfig {
    fn default() -> AmdgpuConfig {
        AmdgpuConfig { sysfs: "/sys".into(), disabled: false }
    }
}

/// The kernel's log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KernelLog {
    /// Where it is read.
    pub path: PathBuf,
    /// True: it is not looked at.
    pub disabled: bool,
    /// A file in place of the built-in patterns.
    pub patterns: Option<PathBuf>,
}

impl Default for KernelLog {
    fn default() -> KernelLog {
        KernelLog { path: "/dev/kmsg".into(), disabled: false, patterns: None }
    }
}

/// What the configuration names in files of their own, read.
#[derive(Debug)]
pub struct Catalogues {
    /// XIDs.
    pub xids: Catalogue,
    /// Lines of the kernel's log.
    pub lines: Lines,
    /// Thresholds of the health of GPUs.
    pub health: Thresholds,
    /// Roles of remote identities.
    pub roles: Roles,
}

/// What is held of GPUs, whichever sensor sees them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// A file in place of the built-in XID catalogue.
    pub xid_catalogue: Option<PathBuf>,
    /// A file with thresholds of health that are otherwise on this node than built in.
    pub health: Option<PathBuf>,
    /// NVIDIA's tool, with which a GPU is reset when an operator says so.
    pub nvidia_smi: PathBuf,
}

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu { xid_catalogue: None, health: None, nvidia_smi: "/usr/bin/nvidia-smi".into() }
    }
}

/// NVML's part of the configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nvml {
    /// The library; `None`: `libnvidia-ml.so.1` as the loader finds it.
    pub library: Option<PathBuf>,
    /// True: GPUs are not looked at.
    pub disabled: bool,
    /// What NVIDIA's kernel driver says by itself.
    pub driver_proc: PathBuf,
    /// How often groups of signals, or single ones, are read, where not as built in.
    pub every: BTreeMap<Rated, Pace>,
}

impl Default for Nvml {
    fn default() -> Nvml {
        Nvml { library: None, disabled: false, driver_proc: "/proc/driver/nvidia".into(), every: BTreeMap::new() }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            state_dir: "/var/lib/failsafe".into(),
            socket: "/run/failsafe/failsafed.sock".into(),
            metrics_socket: "/run/failsafe/metrics.sock".into(),
            cgroup_parent: "failsafe".into(),
            start_from: Vec::new(),
            sample_interval_ms: 1_000,
            admin_group: "failsafe".into(),
            action_deadline_ms: 2_000,
            snapshot_budget_ms: 200,
            recording_max_bytes: 256 << 20,
            bpffs: "/sys/fs/bpf".into(),
            ring_kib: 1_024,
            nvml: Nvml::default(),
            gpu: Gpu::default(),
            kernel_log: KernelLog::default(),
            amdgpu: AmdgpuConfig::default(),
            kernel_tables: TableShares::default(),
            limits: Limits::default(),
            audit_log: AuditLog::default(),
            recordings: Recordings::default(),
            drift: Drift::default(),
            drill: Drill::default(),
            tpm: Tpm::default(),
            redact: Redactor::default(),
            policy_dir: "/etc/failsafe/policies.d".into(),
            mode: NodeMode::default(),
            gateway: Gateway::default(),
            discovery: Discovery::default(),
            discover: DiscoverRules::default(),
        }
    }
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Mistakes in a file, with their places.
    #[error("{0}")]
    Wrong(Diagnostics),
}

impl From<failsafe_files::Unread> for ConfigError {
    fn from(unread: failsafe_files::Unread) -> ConfigError {
        let failsafe_files::Unread { path, source } = unread;
        ConfigError::Read { path, source }
    }
}

/// Everything that is wrong with the configuration; each mistake names file, line, field, and what was expected.
#[derive(Debug)]
pub struct Mistakes(pub Vec<ConfigError>);

impl std::fmt::Display for Mistakes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut all = self.0.iter();
        if let Some(first) = all.next() {
            write!(f, "{first}")?;
        }
        all.try_for_each(|next| write!(f, "\n{next}"))
    }
}

impl std::error::Error for Mistakes {}

impl Config {
    /// Reads and validates the file `path` and its drop-ins, `*.toml` in the folder of the same name that ends in `.d`. The
    /// default path may be missing.
    ///
    /// # Errors
    /// [`Mistakes`]: all of them.
    pub fn load(path: Option<&Path>) -> Result<Config, Mistakes> {
        Config::load_keys(path).map(|(config, _)| config)
    }

    /// The same, with the keys that the files set.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_keys(path: Option<&Path>) -> Result<(Config, Keys), Mistakes> {
        Config::load_with(path, Config::wrong)
    }

    fn load_with(path: Option<&Path>, more: impl Fn(&Config) -> Vec<Wrong>) -> Result<(Config, Keys), Mistakes> {
        let (file, optional) = path.map_or((Path::new(DEFAULT_PATH), true), |p| (p, false));
        let texts =
            failsafe_files::read(file, optional).map_err(|errors| errors.into_iter().map(ConfigError::from).collect());
        let merged = texts.and_then(|texts| {
            let merged = failsafe_files::merged(&texts, more);
            merged.map_err(|wrong| wrong.into_iter().map(helped).map(ConfigError::Wrong).collect())
        });
        merged.map(|(config, table)| (config, Keys::of(&table))).map_err(Mistakes)
    }

    /// The same, with the files that the configuration names: all that is wrong with it and with them.
    ///
    /// # Errors
    /// [`Mistakes`]: all of them.
    pub fn load_all(path: Option<&Path>) -> Result<(Config, Keys, Catalogues), Mistakes> {
        let named = RefCell::new(None);
        let loaded = Config::load_with(path, |config| {
            named.replace(Some(config.catalogues()));
            config.wrong()
        });
        match (loaded, named.into_inner()) {
            (Ok((config, keys)), Some(catalogues)) => Ok((config, keys, catalogues?)),
            (Ok((config, keys)), None) => config.catalogues().map(|catalogues| (config, keys, catalogues)),
            (Err(Mistakes(mut all)), named) => {
                all.extend(named.and_then(Result::err).into_iter().flat_map(|Mistakes(more)| more));
                Err(Mistakes(all))
            }
        }
    }

    /// How often what of NVIDIA's GPUs is read, where not as built in.
    pub fn every(&self) -> Every {
        self.nvml.every.iter().map(|(rated, pace)| (rated.clone(), pace.0)).collect()
    }

    /// The XID catalogue, the patterns of the kernel's log, the thresholds of health: the files that are named, or the built-in ones.
    ///
    /// # Errors
    /// [`Mistakes`] of all files, with their places.
    pub fn catalogues(&self) -> Result<Catalogues, Mistakes> {
        let xids = catalogue(self.gpu.xid_catalogue.as_deref(), Catalogue::parse, Catalogue::built_in);
        let lines = catalogue(self.kernel_log.patterns.as_deref(), Lines::parse, Lines::built_in);
        let health = catalogue(self.gpu.health.as_deref(), Thresholds::parse, Thresholds::built_in);
        let roles = catalogue(self.gateway.roles.as_deref(), Roles::parse, Roles::none);
        match (xids, lines, health, roles) {
            (Ok(xids), Ok(lines), Ok(health), Ok(roles)) => Ok(Catalogues { xids, lines, health, roles }),
            (xids, lines, health, roles) => {
                let errors = [xids.err(), lines.err(), health.err(), roles.err()];
                Err(Mistakes(errors.into_iter().flatten().collect()))
            }
        }
    }

    /// Time between samples.
    pub fn sample_interval(&self) -> Duration {
        Duration::from_millis(self.sample_interval_ms)
    }

    /// How long an action may take.
    pub fn action_deadline(&self) -> Duration {
        Duration::from_millis(self.action_deadline_ms)
    }

    /// The bpffs folder, where links are to be pinned.
    pub fn bpffs(&self) -> Option<&Path> {
        (!self.bpffs.as_os_str().is_empty()).then_some(self.bpffs.as_path())
    }
}

/// With a suggestion where the tables of discovery are mixed up.
fn helped(mut wrong: Diagnostics) -> Diagnostics {
    for mistake in &mut wrong.list {
        let help = match (mistake.field.as_str(), mistake.excerpt.trim()) {
            ("discover", line) if line.starts_with("[discover]") => {
                "write `[[discover]]`: each rule is an entry of a list"
            }
            ("discovery", line) if line.starts_with("[[discovery]]") => {
                "write `[[discover]]` for a rule; `[discovery]` has the limits"
            }
            _ => continue,
        };
        mistake.help = Some(help.to_owned());
    }
    wrong
}

/// What is read of a file, or what is built in where none is named.
fn catalogue<T>(
    path: Option<&Path>,
    parse: fn(&str, &str) -> Result<T, Diagnostics>,
    built_in: fn() -> Result<T, Diagnostics>,
) -> Result<T, ConfigError> {
    let Some(path) = path else { return built_in().map_err(ConfigError::Wrong) };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&path.display().to_string(), &text).map_err(ConfigError::Wrong)
}

#[cfg(test)]
mod tests;

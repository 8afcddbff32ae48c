//! The daemon's configuration: one TOML file, parsed and validated whole before anything is started.

mod audit_log;
mod discovery;
mod drift;
mod gpu_rates;
mod limits;
mod recordings;
mod tables;

pub use audit_log::AuditLog;
pub use discovery::{DiscoverRules, Discovery};
pub use drift::Drift;
pub use gpu_rates::{Every, Pace, Rated};
pub use limits::{Limits, Rates, Shares};
pub use recordings::Recordings;
pub use tables::TableShares;

use crate::redact::Redactor;
use failsafe_core::{
    health::Thresholds,
    klog::Lines,
    policy::diagnostic::{Diagnostic, Diagnostics},
    xid::Catalogue,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};
use toml::Spanned;

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
    /// What is replaced in command lines before they are recorded.
    pub redact: Redactor,
    /// The folder of named policies.
    pub policy_dir: PathBuf,
    /// Whether failsafe acts on runs, or only judges and records.
    pub mode: NodeMode,
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
    pub every: BTreeMap<Rated, Spanned<Pace>>,
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
            redact: Redactor::default(),
            policy_dir: "/etc/failsafe/policies.d".into(),
            mode: NodeMode::default(),
            discovery: Discovery::default(),
            discover: DiscoverRules::default(),
        }
    }
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be understood.
    #[error("{0}")]
    Parse(Diagnostics),
    /// A file that the configuration names is wrong.
    #[error("{0}")]
    Catalogue(Diagnostics),
    /// A value is out of its range.
    #[error("{path}: {field}: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What was expected.
        message: String,
    },
}

impl Config {
    /// Reads and validates `path`; the default path may be missing, then all is as by default.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, field and what was expected.
    pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
        let (file, optional) = path.map_or((Path::new(DEFAULT_PATH), true), |p| (p, false));
        match std::fs::read_to_string(file) {
            Ok(text) => Config::parse(file, &text),
            Err(e) if optional && e.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
            Err(source) => Err(ConfigError::Read { path: file.to_owned(), source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| {
            ConfigError::Parse(Diagnostics {
                file: path.display().to_string(),
                list: vec![Diagnostic::of_toml(text, &error)],
            })
        })?;
        let wrong = |field, message: String| Err(ConfigError::Value { path: path.to_owned(), field, message });
        for (field, value) in [
            ("state_dir", &config.state_dir),
            ("socket", &config.socket),
            ("metrics_socket", &config.metrics_socket),
            ("policy_dir", &config.policy_dir),
        ] {
            if !value.is_absolute() {
                return wrong(field, format!("expected an absolute path, not `{}`", value.display()));
            }
        }
        let root = |path: &PathBuf| path.strip_prefix("/").unwrap_or(path).as_os_str().is_empty();
        if config.start_from.iter().any(root) {
            return wrong(
                "start_from",
                "expected cgroups such as `/system.slice/jupyter.service`, not the root".into(),
            );
        }
        if config.cgroup_parent.is_absolute() || config.cgroup_parent.components().count() == 0 {
            return wrong("cgroup_parent", "expected a path relative to the cgroup2 mount, such as `failsafe`".into());
        }
        if !(50..=60_000).contains(&config.sample_interval_ms) {
            return wrong("sample_interval_ms", "expected 50 to 60000".into());
        }
        if !(100..=60_000).contains(&config.action_deadline_ms) {
            return wrong("action_deadline_ms", "expected 100 to 60000".into());
        }
        if !config.ring_kib.is_power_of_two() || !(4..=65_536).contains(&config.ring_kib) {
            return wrong("ring_kib", "expected a power of two from 4 to 65536".into());
        }
        if let Some(message) = config.kernel_tables.wrong() {
            return wrong("kernel_tables", message);
        }
        if let Some((field, message)) = config
            .audit_log
            .wrong()
            .or(config.limits.wrong())
            .or(config.recordings.wrong())
            .or(config.drift.wrong())
            .or(config.discovery.wrong())
        {
            return wrong(field, message);
        }
        let too_fast = config.nvml.every.iter().filter(|(_, pace)| pace.get_ref().0 < config.sample_interval());
        let list: Vec<Diagnostic> = too_fast
            .map(|(rated, pace)| {
                let interval = config.sample_interval_ms;
                let message = format!("nvml.every.{rated}: shorter than sample_interval_ms, which is {interval}");
                Diagnostic::at(text, pace.span(), message, None)
            })
            .collect();
        if !list.is_empty() {
            return Err(ConfigError::Catalogue(Diagnostics { file: path.display().to_string(), list }));
        }
        Ok(config)
    }

    /// How often what of NVIDIA's GPUs is read, where not as built in.
    pub fn every(&self) -> Every {
        self.nvml.every.iter().map(|(rated, pace)| (rated.clone(), pace.get_ref().0)).collect()
    }

    /// The XID catalogue, the patterns of the kernel's log, the thresholds of health: the files that are named, or the built-in ones.
    ///
    /// # Errors
    /// [`ConfigError`], with the place of each mistake.
    pub fn catalogues(&self) -> Result<Catalogues, ConfigError> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })
        };
        let xids = match &self.gpu.xid_catalogue {
            Some(path) => Catalogue::parse(&path.display().to_string(), &read(path)?),
            None => Catalogue::built_in(),
        };
        let lines = match &self.kernel_log.patterns {
            Some(path) => Lines::parse(&path.display().to_string(), &read(path)?),
            None => Lines::built_in(),
        };
        let health = match &self.gpu.health {
            Some(path) => Thresholds::parse(&path.display().to_string(), &read(path)?),
            None => Thresholds::built_in(),
        };
        Ok(Catalogues {
            xids: xids.map_err(ConfigError::Catalogue)?,
            lines: lines.map_err(ConfigError::Catalogue)?,
            health: health.map_err(ConfigError::Catalogue)?,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("f.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_hold_and_mistakes_are_named() {
        assert_eq!(parse("").unwrap().sample_interval_ms, 1_000);
        assert_eq!(parse("[nvml]\nlibrary = \"/x.so\"").unwrap().nvml.library.unwrap(), Path::new("/x.so"));
        for (text, expected) in [
            ("sokcet = \"/x\"", "unknown field `sokcet`"),
            ("socket = \"x\"", "f.toml: socket: expected an absolute path"),
            ("cgroup_parent = \"/sys\"", "relative to the cgroup2 mount"),
            ("start_from = [\"/\"]", "not the root"),
            ("sample_interval_ms = 5", "50 to 60000"),
            ("ring_kib = 1000", "power of two"),
            ("[kernel_tables]\nper_user_percent = 90", "f.toml: kernel_tables: expected per_user_percent"),
            ("[limits.streams]\nper_user = 9\ntotal = 9\nreserve = 99", "limits.streams: expected per_user"),
            ("[audit_log]\nheartbeat = \"5 ms\"", "audit_log.heartbeat: expected 1s to 1h, not 5ms"),
            ("[audit_log]\nkeep_days = 0", "audit_log.keep_days: expected 1 to 36500, not 0"),
            ("[redact]\nname = []", "unknown field `name`"),
            ("[limits]\nmessage_kib = 8", "limits.message_kib: expected 320 to 4096, not 8"),
            ("[limits]\nconnections = { per_user = 1 }", "missing field"),
            ("policy_dir = \"x\"", "f.toml: policy_dir: expected an absolute path"),
            ("mode = \"off\"", "unknown name `off`"),
            ("[discovery]\nroot = \"/x\"", "f.toml: discovery.root: expected a path relative"),
            ("[discovery]\nroot = \"a/../b\"", "discovery.root"),
            ("[discovery]\nruns = 0", "f.toml: discovery.runs: expected 1 to 1000, not 0"),
            ("[[discover]]\nname = \"a\"\npolicy = \"p\"", "expected either `match` or `preset`"),
            ("[[discover]]\nname = \"a\"\npolicy = \"p\"\nmatch = \"/x\"", "relative to the cgroup2 mount"),
            ("[nvml.every]\nslwo = \"5s\"", "f.toml:2:1: "),
            ("[nvml.every]\nslwo = \"5s\"", "no group and no signal is named `slwo`"),
            ("[nvml.every]\nslow = \"5 parsecs\"", "f.toml:2:8: "),
            ("[nvml.every]\nslow = \"2h\"", "`2h`: expected a time up to 1h"),
            ("[nvml.every]\n\"gpu.power\" = \"0s\"", "expected a time up to 1h"),
            ("[nvml.every]\n\"memory.used\" = \"5s\"", "not read of a GPU"),
            (
                "[nvml.every]\nslow = \"500 ms\"",
                "f.toml:2:8: nvml.every.slow: shorter than sample_interval_ms, which is 1000",
            ),
        ] {
            assert!(parse(text).unwrap_err().contains(expected), "{text}");
        }
    }

    #[test]
    fn groups_and_signals_have_rates_of_their_own() {
        let text = "sample_interval_ms = 500\n[nvml.every]\nslow = \"2s\"\n\"gpu.ecc_uncorrected\" = \"500 ms\"\n";
        let every = parse(text).unwrap().every();
        let ms = Duration::from_millis;
        let ecc = Rated::Signal(failsafe_core::Kind::GpuEccUncorrected);
        assert_eq!(every, Every::from([(Rated::Slow, ms(2_000)), (ecc, ms(500))]));
        assert!(parse("").unwrap().every().is_empty());
    }

    #[test]
    fn thresholds_of_health_come_from_the_file_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("health.toml");
        let config = parse(&format!("[gpu]\nhealth = {:?}", file.display().to_string())).unwrap();
        assert!(config.catalogues().unwrap_err().to_string().contains("cannot read"), "a file that is not there");
        std::fs::write(&file, "[[check]]\ncode = \"ecc-storm\"\ngrows = 99\n").unwrap();
        assert_ne!(config.catalogues().unwrap().health, Thresholds::built_in().unwrap());
        std::fs::write(&file, "[[check]]\ncode = \"ecc-storm\"\ngrows = \"many\"\n").unwrap();
        let told = config.catalogues().unwrap_err().to_string();
        assert!(told.contains("health.toml:3:9: check `ecc-storm`: `grows` is `many`"), "{told}");
    }
}

//! The tables of a scenario file, field by field; what one table alone can get wrong is
//! refused here, while TOML still knows the line.

use super::PciAddress;
use super::board::{ComputeMode, Ecc, Fabric, Fans, MigProfile, NvLink, Reasons, RecoveryAction, Rows};
use super::series::{Series, Steps};
use super::units::{Byte, Celsius, Count, MegaHertz, Percent, Scalar, Watt};
use crate::abi::Code;
use crate::abi::consts::event;
use crate::faults::{Corruption, Effect, Functions};
use crate::model::Preset;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScenarioTable {
    pub(super) clock: Option<Spanned<ClockKind>>,
    pub(super) clock_file: Option<Spanned<PathBuf>>,
    pub(super) live: Option<bool>,
    #[serde(default)]
    pub(super) driver: Driver,
    #[serde(default)]
    pub(super) gpu: Vec<Spanned<GpuTable>>,
    #[serde(default)]
    pub(super) fault: Vec<FaultTable>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClockKind {
    Wall,
    File,
}

/// `[driver]`: the versions it reports.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Driver {
    pub(crate) version: String,
    pub(crate) nvml: String,
    /// `1000 * major + 10 * minor`.
    pub(crate) cuda: i32,
    /// Two GPUs may have one UUID: what a broken machine does.
    pub(crate) duplicate_uuids: bool,
}

impl Default for Driver {
    /// The driver that belongs to the header the ABI was taken from.
    fn default() -> Self {
        Self { version: "575.57.08".into(), nvml: "12.575.57.08".into(), cuda: 12_090, duplicate_uuids: false }
    }
}

/// `[[gpu]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GpuTable {
    pub(crate) model: Preset,
    /// How many such GPUs; each gets its own default UUID and address.
    pub(crate) count: Option<usize>,
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<Spanned<String>>,
    pub(crate) serial: Option<String>,
    pub(crate) pci: Option<Spanned<PciAddress>>,

    pub(crate) temperature: Option<Series<Celsius>>,
    pub(crate) memory_temperature: Option<Series<Celsius>>,
    pub(crate) power: Option<Series<Watt>>,
    pub(crate) power_limit: Option<Series<Watt>>,
    /// What was asked for; default what is enforced.
    pub(crate) power_limit_set: Option<Series<Watt>>,
    pub(crate) utilization: Option<Series<Percent>>,
    pub(crate) memory_utilization: Option<Series<Percent>>,
    pub(crate) encoder: Option<Series<Percent>>,
    pub(crate) decoder: Option<Series<Percent>>,
    pub(crate) memory_used: Option<Series<Byte>>,
    pub(crate) sm_clock: Option<Series<MegaHertz>>,
    pub(crate) memory_clock: Option<Series<MegaHertz>>,
    pub(crate) graphics_clock: Option<Series<MegaHertz>>,
    pub(crate) performance_state: Option<Series<Count>>,
    pub(crate) throttle: Option<Steps<Reasons>>,
    /// Present means that the board has one fan.
    pub(crate) fan: Option<Series<Percent>>,
    /// In place of `fan`.
    pub(crate) fans: Option<Spanned<Fans>>,
    pub(crate) sm_active: Option<Series<Percent>>,
    pub(crate) sm_occupancy: Option<Series<Percent>>,
    pub(crate) tensor_active: Option<Series<Percent>>,
    pub(crate) dram_active: Option<Series<Percent>>,
    pub(crate) bar1_used: Option<Series<Byte>>,
    pub(crate) pcie_generation: Option<Series<Count>>,
    pub(crate) pcie_width: Option<Series<Count>>,
    pub(crate) pcie_replays: Option<Series<Count>>,
    pub(crate) pcie_correctable: Option<Series<Count>>,
    pub(crate) pcie_fatal: Option<Series<Count>>,
    pub(crate) recovery_action: Option<Steps<RecoveryAction>>,
    /// Given: MIG is on, with these devices.
    pub(crate) mig: Option<Vec<MigProfile>>,
    #[serde(default)]
    pub(crate) nvlink: NvLink,
    #[serde(default)]
    pub(crate) fabric: Fabric,
    #[serde(default)]
    pub(crate) ecc: Ecc,
    #[serde(default)]
    pub(crate) rows: Rows,
    #[serde(default)]
    pub(crate) fields: Fields,
    #[serde(default)]
    pub(crate) persistence: bool,
    #[serde(default)]
    pub(crate) compute_mode: ComputeMode,
    /// Load (utilisation, power, clocks) reads as idle while none of the GPU's processes runs.
    #[serde(default)]
    pub(crate) follows_processes: bool,
    #[serde(default, rename = "event")]
    pub(crate) events: Vec<Event>,
    #[serde(default, rename = "process")]
    pub(crate) processes: Vec<Process>,
}

/// `[gpu.fields]`: what `nvmlDeviceGetFieldValues` says of a field, by NVML's number, whatever else the scenario says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, u64>")]
pub(crate) struct Fields(pub(crate) BTreeMap<u32, u64>);

impl TryFrom<BTreeMap<String, u64>> for Fields {
    type Error = String;
    fn try_from(table: BTreeMap<String, u64>) -> Result<Self, String> {
        let number = |(name, value): (String, u64)| match name.parse() {
            Ok(field) => Ok((field, value)),
            Err(_) => Err(format!("{name} is no number of a field (NVML_FI_*)")),
        };
        table.into_iter().map(number).collect::<Result<_, _>>().map(Self)
    }
}

/// `[[gpu.event]]`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(try_from = "EventTable")]
pub(crate) struct Event {
    pub(crate) at: f64,
    /// One `nvmlEventType*` bit.
    pub(crate) kind: u64,
    /// The XID; 0 for other kinds.
    pub(crate) data: u64,
    /// The MIG device, by its place in the GPU's list, whose instances an XID is of.
    pub(crate) mig: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventTable {
    at: f64,
    xid: Option<u64>,
    kind: Option<EventKind>,
    mig: Option<usize>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EventKind {
    SingleBitEcc,
    DoubleBitEcc,
    Pstate,
    Clock,
    PowerSource,
    MigConfig,
    EccStorm,
    DramRetirement,
    DramRetirementFailure,
    Poison,
    FatalPoison,
    GpuUnavailable,
    GpuRecoveryAction,
}

impl TryFrom<EventTable> for Event {
    type Error = String;
    fn try_from(table: EventTable) -> Result<Self, String> {
        let (kind, data) = match (table.xid, table.kind) {
            (Some(xid), None) => (event::XID, xid),
            (None, Some(EventKind::SingleBitEcc)) => (event::SINGLE_BIT_ECC, 0),
            (None, Some(EventKind::DoubleBitEcc)) => (event::DOUBLE_BIT_ECC, 0),
            (None, Some(EventKind::Pstate)) => (event::PSTATE, 0),
            (None, Some(EventKind::Clock)) => (event::CLOCK, 0),
            (None, Some(EventKind::PowerSource)) => (event::POWER_SOURCE, 0),
            (None, Some(EventKind::MigConfig)) => (event::MIG_CONFIG, 0),
            (None, Some(EventKind::EccStorm)) => (event::ECC_STORM, 0),
            (None, Some(EventKind::DramRetirement)) => (event::DRAM_RETIREMENT, 0),
            (None, Some(EventKind::DramRetirementFailure)) => (event::DRAM_RETIREMENT_FAILURE, 0),
            (None, Some(EventKind::Poison)) => (event::POISON, 0),
            (None, Some(EventKind::FatalPoison)) => (event::FATAL_POISON, 0),
            (None, Some(EventKind::GpuUnavailable)) => (event::GPU_UNAVAILABLE, 0),
            (None, Some(EventKind::GpuRecoveryAction)) => (event::GPU_RECOVERY_ACTION, 0),
            _ => return Err("an event has exactly one of xid and kind".into()),
        };
        let EventTable { at, mig, .. } = table;
        if mig.is_some() && kind != event::XID {
            return Err("only an xid is of a MIG device".into());
        }
        if at.is_finite() && at >= 0.0 {
            Ok(Self { at, kind, data, mig })
        } else {
            Err(format!("{at} is not a time in seconds from 0 on"))
        }
    }
}

/// `[[gpu.process]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "ProcessTable")]
pub(crate) struct Process {
    pub(crate) pid: ProcessPid,
    pub(crate) memory: f64,
    pub(crate) kind: ProcessKind,
    pub(crate) from: f64,
    pub(crate) until: f64,
    /// Listed only while such a process exists.
    pub(crate) alive_only: bool,
    /// The MIG device that it is on.
    pub(crate) mig: Option<usize>,
    /// Its part of the GPU's work, beside the others'.
    pub(crate) weight: f64,
}

/// Which process.
#[derive(Clone, Debug)]
pub(crate) enum ProcessPid {
    Number(u32),
    /// Read at every call, so a test can name a process it starts later.
    File(PathBuf),
}

/// Which of NVML's process lists it is in.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProcessKind {
    #[default]
    Compute = 0,
    Graphics = 1,
    Mps = 2,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessTable {
    pid: Option<u32>,
    pid_file: Option<PathBuf>,
    memory: Scalar<Byte>,
    #[serde(default)]
    kind: ProcessKind,
    #[serde(default)]
    from: f64,
    until: Option<f64>,
    alive_only: Option<bool>,
    mig: Option<usize>,
    weight: Option<f64>,
}

impl TryFrom<ProcessTable> for Process {
    type Error = String;
    fn try_from(table: ProcessTable) -> Result<Self, String> {
        let (pid, from_file) = match (table.pid, table.pid_file) {
            (Some(pid), None) => (ProcessPid::Number(pid), false),
            (None, Some(path)) => (ProcessPid::File(path), true),
            _ => return Err("a process has exactly one of pid and pid_file".into()),
        };
        let (from, until) = window(table.from, table.until)?;
        let alive_only = table.alive_only.unwrap_or(from_file);
        let weight = table.weight.unwrap_or(1.0);
        if !(weight.is_finite() && weight >= 0.0) {
            return Err(format!("weight = {weight}: expected a number from 0 on"));
        }
        Ok(Self { pid, memory: table.memory.0, kind: table.kind, from, until, alive_only, mig: table.mig, weight })
    }
}

/// `[[fault]]`, but for the GPU, which only the whole file can judge.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawFaultTable")]
pub(super) struct FaultTable {
    pub(super) function: Functions,
    pub(super) gpu: Option<Spanned<usize>>,
    pub(super) from: f64,
    pub(super) until: f64,
    pub(super) latency: Duration,
    pub(super) effect: Effect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFaultTable {
    function: Functions,
    gpu: Option<Spanned<usize>>,
    #[serde(default)]
    from: f64,
    until: Option<f64>,
    error: Option<Code>,
    #[serde(default)]
    hang: bool,
    corrupt: Option<Corruption>,
    latency_us: Option<u64>,
}

impl TryFrom<RawFaultTable> for FaultTable {
    type Error = String;
    fn try_from(raw: RawFaultTable) -> Result<Self, String> {
        let effect = match (raw.error, raw.hang, raw.corrupt) {
            (Some(code), false, None) => Effect::Fail(code),
            (None, true, None) => Effect::Hang,
            (None, false, Some(how)) => Effect::Corrupt(how),
            (None, false, None) if raw.latency_us.is_none() => {
                return Err("a fault says none of error, hang, corrupt and latency_us".into());
            }
            (None, false, None) => Effect::DelayOnly,
            _ => return Err("a fault has one of error, hang and corrupt".into()),
        };
        let (from, until) = window(raw.from, raw.until)?;
        let latency = Duration::from_micros(raw.latency_us.unwrap_or(0));
        Ok(Self { function: raw.function, gpu: raw.gpu, from, until, latency, effect })
    }
}

fn window(from: f64, until: Option<f64>) -> Result<(f64, f64), String> {
    let until = until.unwrap_or(f64::INFINITY);
    if from.is_finite() && from >= 0.0 && until > from {
        Ok((from, until))
    } else {
        Err(format!("from {from} until {until} is no window of time"))
    }
}

impl TryFrom<String> for Functions {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if let Some(prefix) = text.strip_suffix('*') {
            let functions = Self::Prefix(prefix.to_owned());
            if crate::exported().any(|name| functions.matches(name)) {
                return Ok(functions);
            }
        } else if crate::exported().any(|name| name == text) {
            return Ok(Self::One(text));
        }
        let closest = crate::exported().min_by_key(|name| strsim::levenshtein(name, &text));
        Err(format!("no exported function is named {text}; did you mean {}?", closest.unwrap_or("*")))
    }
}

impl<'de> Deserialize<'de> for Functions {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| {
            serde::de::Error::custom(format!("no NVML error is named {name}: known are {}", Self::NAMES.join(", ")))
        })
    }
}

//! The node as its sensors saw it last: what the sensors write, and what the API, the doctor and health's answers read.
//!
//! Plain data behind one lock, held for a moment each time; nothing here asks a sensor.

use crate::sensors::nvml::GpuInfo;
use failsafe_core::{
    GpuId, Kind, MonoTime, RunId,
    klog::Bus,
    policy::check::{Blind, Unwatched},
    signal::Source,
};
use std::collections::{BTreeMap, BTreeSet};

/// A sensor as it stands.
#[derive(Debug, Clone, Default)]
pub struct SensorView {
    /// Why it is blind; `None`: it sees.
    pub blind: Option<String>,
    /// A remark.
    pub detail: String,
    /// Last success, wall clock ns; 0: never.
    pub last_success_ns: i64,
}

/// A process on a GPU.
#[derive(Debug, Clone, Copy)]
pub struct GpuProcessView {
    /// Host pid.
    pub pid: u32,
    /// Bytes, where the driver says.
    pub memory: Option<u64>,
    /// The run it belongs to.
    pub run: Option<RunId>,
    /// Percent of the SMs' time that was its lately; `None` where the GPU does not tell it, or it is alone there.
    pub sm: Option<u32>,
    /// The MIG device that it is on: GPU instance and compute instance.
    pub slice: Option<(u32, Option<u32>)>,
}

/// A GPU as it was last sampled.
#[derive(Debug, Clone)]
pub struct GpuView {
    /// NVML's UUID.
    pub uuid: GpuId,
    /// NVML's index.
    pub index: u32,
    /// Product name.
    pub name: String,
    /// Where it is on PCI.
    pub bus: Option<Bus>,
    /// The minor number N of `/dev/nvidiaN`, where the driver tells it.
    pub minor: Option<u32>,
    /// Total memory, bytes.
    pub memory_total: i64,
    /// Enforced power limit, milliwatts.
    pub power_limit_mw: i64,
    /// What it is.
    pub info: GpuInfo,
    /// Last readings, by kind.
    pub readings: BTreeMap<Kind, i64>,
    /// When, wall clock ns.
    pub sampled_ns: i64,
    /// Runs that use it.
    pub runs: BTreeSet<RunId>,
    /// Processes on it, with their memory and the run they belong to.
    pub processes: Vec<GpuProcessView>,
    /// When they were last known, `CLOCK_MONOTONIC`; `None` before the first time. Later they are as they were then.
    pub processes_at: Option<MonoTime>,
    /// Signals it does not have.
    pub unsupported: Vec<String>,
    /// Signals that fail now, with the reason.
    pub failing: Vec<String>,
    /// Signals that keep failing or were never read, with the reason: no rule can watch them.
    pub unread: BTreeMap<Kind, String>,
    /// What its MIG devices tell of themselves, by UUID.
    pub slices: BTreeMap<String, SliceView>,
}

/// What a MIG device tells of itself.
#[derive(Debug, Clone, Default)]
pub struct SliceView {
    /// Last readings, by kind.
    pub readings: BTreeMap<Kind, i64>,
    /// Signals that it does not have, of those that MIG devices tell.
    pub unsupported: Vec<String>,
    /// Signals that fail now, with the reason.
    pub failing: Vec<String>,
    /// As of a GPU.
    pub unread: BTreeMap<Kind, String>,
}

impl GpuView {
    /// A GPU of which nothing but its UUID is known.
    pub fn new(uuid: GpuId) -> GpuView {
        GpuView {
            uuid,
            index: 0,
            name: String::new(),
            bus: None,
            minor: None,
            memory_total: 0,
            power_limit_mw: 0,
            info: GpuInfo::default(),
            readings: BTreeMap::new(),
            sampled_ns: 0,
            runs: BTreeSet::new(),
            processes: Vec::new(),
            processes_at: None,
            unsupported: Vec::new(),
            failing: Vec::new(),
            unread: BTreeMap::new(),
            slices: BTreeMap::new(),
        }
    }
}

/// Why a text names no GPU of the node.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNamed {
    /// Sensors of two vendors both count from 0.
    #[error("gpu `{0}` is {1} and {2}: name one by its UUID")]
    Ambiguous(String, GpuId, GpuId),
    /// A slice, where a whole GPU is meant.
    #[error("gpu `{0}` is a MIG device of {1}: name that one")]
    MigDevice(String, GpuId),
    /// No GPU has it.
    #[error("gpu `{wanted}`: {}", not_there(.known))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// The GPUs that there are.
        known: Vec<String>,
    },
}

/// What to name instead of a GPU that the node does not have.
fn not_there(known: &[String]) -> String {
    match known {
        [] => "this node has no GPUs that a sensor sees; see `failsafectl gpu list`".to_owned(),
        known => format!("expected a UUID, an index, `minor:N` or `pci:ADDRESS`; this node has {}", known.join(", ")),
    }
}

/// What the sensors say of the node.
#[derive(Debug, Default)]
pub struct NodeView {
    /// The sensors, by source.
    pub sensors: BTreeMap<Source, SensorView>,
    /// The GPUs.
    pub gpus: BTreeMap<GpuId, GpuView>,
    /// Driver version, or `simulated`, or empty.
    pub nvml: String,
}

impl NodeView {
    /// The blind sensors, each with the reason.
    pub fn blind(&self) -> Blind {
        self.sensors.iter().filter_map(|(source, view)| Some((*source, view.blind.clone()?))).collect()
    }

    /// The GPU of that UUID, index, minor number (`minor:N`) or PCI address (`pci:ADDRESS`).
    ///
    /// # Errors
    /// [`NotNamed`].
    pub fn gpu_named(&self, wanted: &str) -> Result<GpuId, NotNamed> {
        let id = GpuId(wanted.to_owned());
        if self.gpus.contains_key(&id) {
            return Ok(id);
        }
        let is_meant = |view: &&GpuView| match wanted.split_once(':') {
            Some(("minor", number)) => view.minor.is_some_and(|minor| minor.to_string() == number),
            Some(("pci", address)) => view.bus.is_some() && view.bus == Bus::parse(address),
            _ => view.index.to_string() == wanted,
        };
        let meant: Vec<&GpuId> = self.gpus.values().filter(is_meant).map(|view| &view.uuid).collect();
        match meant[..] {
            [one] => return Ok(one.clone()),
            [first, second, ..] => {
                return Err(NotNamed::Ambiguous(wanted.to_owned(), first.clone(), second.clone()));
            }
            [] => {}
        }
        let holds = |view: &&GpuView| view.info.mig_devices.iter().any(|device| device.uuid == wanted);
        if let Some(whole) = self.gpus.values().find(holds) {
            return Err(NotNamed::MigDevice(wanted.to_owned(), whole.uuid.clone()));
        }
        let known = self.gpus.values().map(|view| format!("{} ({})", view.index, view.uuid)).collect();
        Err(NotNamed::Unknown { wanted: wanted.to_owned(), known })
    }

    /// The same, or a MIG device by its UUID: then with the GPU that it is of.
    ///
    /// # Errors
    /// [`NotNamed`].
    pub fn gpu_or_slice_named(&self, wanted: &str) -> Result<(GpuId, Option<String>), NotNamed> {
        match self.gpu_named(wanted) {
            Err(NotNamed::MigDevice(slice, whole)) => Ok((whole, Some(slice))),
            named => named.map(|gpu| (gpu, None)),
        }
    }

    /// Signals that one of these GPUs does not have or tell; with none given, that none of the node's has or tells. Of those with MIG
    /// devices in `mig`, what MIG devices tell is asked of these.
    pub fn unwatched(&self, gpus: &BTreeSet<GpuId>, mig: &BTreeMap<GpuId, BTreeSet<String>>) -> Unwatched {
        let mut out: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
        let all = gpus.is_empty();
        let concerned: Vec<&GpuView> = self.gpus.values().filter(|view| all || gpus.contains(&view.uuid)).collect();
        for view in &concerned {
            let given = mig.get(&view.uuid);
            let whole = lacks(view.uuid.to_string(), &view.unsupported, &view.unread);
            let slices = given.into_iter().flatten().filter_map(|uuid| Some((uuid, view.slices.get(uuid)?)));
            let slices = slices.flat_map(|(uuid, it)| lacks(uuid.clone(), &it.unsupported, &it.unread));
            let elsewhere = |kind: &Kind| {
                let is_reported = view.slices.values().any(|slice| slice.readings.contains_key(kind));
                kind.is_of_slices() && (given.is_some() || (all && is_reported))
            };
            let whole = whole.filter(|(kind, _)| !elsewhere(kind));
            for (kind, why) in whole.chain(slices) {
                out.entry(kind).or_default().push(why);
            }
            if given.is_some() {
                for kind in Kind::MADE_OF_BOTH {
                    let why = format!("it is made of signals of {} and of its MIG devices", view.uuid);
                    out.entry(kind).or_default().push(why);
                }
            }
        }
        let least = if all { concerned.len() } else { 1 };
        out.into_iter().filter(|(_, why)| why.len() >= least).map(|(kind, why)| (kind, why.join(", "))).collect()
    }
}

/// What cannot be watched of a GPU or a MIG device, with the reason.
fn lacks<'a>(
    who: String,
    unsupported: &'a [String],
    unread: &'a BTreeMap<Kind, String>,
) -> impl Iterator<Item = (Kind, String)> + 'a {
    let fails = format!("it fails on {who}");
    let lacks = unsupported.iter().filter_map(|name| Kind::parse(name));
    let lacks = lacks.map(move |kind| (kind, format!("{who} does not have it")));
    lacks.chain(unread.iter().map(move |(kind, why)| (kind.clone(), format!("{fails}: {why}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::nvml::MigDevice;

    #[test]
    fn signals_of_mig_devices_are_looked_for_on_those_that_a_run_is_given() {
        let card = GpuId("GPU-a".into());
        let mut view = GpuView::new(card.clone());
        view.unsupported = vec!["gpu.utilization".into(), "gpu.fan_speed".into()];
        let tells = SliceView { readings: [(Kind::GpuUtilization, 0)].into(), ..SliceView::default() };
        let lacks = SliceView { unsupported: vec!["gpu.utilization".into()], ..SliceView::default() };
        view.slices = [("MIG-tells".to_owned(), tells), ("MIG-lacks".to_owned(), lacks)].into();
        let mut node = NodeView::default();
        node.gpus.insert(card.clone(), view);
        let lacking = |gpus: &[GpuId], devices: &[&str]| {
            let devices: BTreeSet<String> = devices.iter().map(|name| (*name).to_owned()).collect();
            let mig = if devices.is_empty() { BTreeMap::new() } else { [(card.clone(), devices)].into() };
            node.unwatched(&gpus.iter().cloned().collect(), &mig)
        };
        let whole = lacking(std::slice::from_ref(&card), &[]);
        assert!(whole.contains_key(&Kind::GpuUtilization) && whole.contains_key(&Kind::GpuFanSpeed), "{whole:?}");
        assert!(!whole.contains_key(&Kind::GpuDerivedSpinning), "a whole card: {whole:?}");
        let of = |device| lacking(std::slice::from_ref(&card), &[device]);
        let readings = of("MIG-tells");
        assert!(
            !readings.contains_key(&Kind::GpuUtilization) && readings.contains_key(&Kind::GpuFanSpeed),
            "{readings:?}"
        );
        assert!(readings[&Kind::GpuDerivedSpinning].contains("of its MIG devices"), "{readings:?}");
        assert_eq!(of("MIG-lacks")[&Kind::GpuUtilization], "MIG-lacks does not have it");
        let any = lacking(&[], &[]);
        assert!(!any.contains_key(&Kind::GpuUtilization) && any.contains_key(&Kind::GpuFanSpeed), "{any:?}");
    }

    #[test]
    fn a_gpu_is_named_by_what_is_its_alone() {
        let mut node = NodeView::default();
        for (name, index) in [("GPU-a", 0), ("GPU-b", 1), ("amdgpu-x", 0)] {
            let id = GpuId(name.into());
            node.gpus.insert(id.clone(), GpuView { index, ..GpuView::new(id) });
        }
        let slice = MigDevice { uuid: "MIG-1".into(), ..MigDevice::default() };
        node.gpus.get_mut(&GpuId("GPU-b".into())).unwrap().info.mig_devices.push(slice);
        assert_eq!(node.gpu_named("1"), Ok(GpuId("GPU-b".into())));
        assert_eq!(node.gpu_named("amdgpu-x"), Ok(GpuId("amdgpu-x".into())));
        let error = |wanted| node.gpu_named(wanted).unwrap_err().to_string();
        assert_eq!(error("0"), "gpu `0` is GPU-a and amdgpu-x: name one by its UUID");
        assert!(error("MIG-1").contains("MIG device of GPU-b"), "{}", error("MIG-1"));
        assert_eq!(node.gpu_or_slice_named("MIG-1"), Ok((GpuId("GPU-b".into()), Some("MIG-1".into()))));
        assert_eq!(node.gpu_or_slice_named("1"), Ok((GpuId("GPU-b".into()), None)));
        assert!(error("7").contains("1 (GPU-b)") && error("").contains("expected a UUID, an index"), "{}", error("7"));
    }
}

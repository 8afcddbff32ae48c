//! `NodeService`: what the node's sensors see, what it costs, and the doctor.

use super::{Context, doctor, health, reset};
use crate::{platform::clock, runs::Standing};
use failsafe_core::{
    GpuId, Kind, RunId,
    health::OrderKind,
    klog::Bus,
    policy::check::{Blind, Unwatched},
    signal::Source,
};
use failsafe_proto::v1;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, atomic::Ordering},
};
use tonic::{Request, Response, Status};

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
    /// Total memory, bytes.
    pub memory_total: i64,
    /// Enforced power limit, milliwatts.
    pub power_limit_mw: i64,
    /// What it is.
    pub info: crate::sensors::nvml::GpuInfo,
    /// Last readings, by kind.
    pub readings: BTreeMap<Kind, i64>,
    /// When, wall clock ns.
    pub sampled_ns: i64,
    /// Runs that use it.
    pub runs: BTreeSet<RunId>,
    /// Processes on it, with their memory and the run they belong to.
    pub processes: Vec<GpuProcessView>,
    /// When they were last known, `CLOCK_MONOTONIC`; `None` before the first time. Later they are as they were then.
    pub processes_at: Option<failsafe_core::MonoTime>,
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
            memory_total: 0,
            power_limit_mw: 0,
            info: crate::sensors::nvml::GpuInfo::default(),
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
    #[error("gpu `{0}`: expected an index or a UUID; this node has [{1}]")]
    Unknown(String, String),
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

    /// The GPU of that UUID or index.
    ///
    /// # Errors
    /// [`NotNamed`].
    pub fn gpu_named(&self, wanted: &str) -> Result<GpuId, NotNamed> {
        let id = GpuId(wanted.to_owned());
        if self.gpus.contains_key(&id) {
            return Ok(id);
        }
        let of_index: Vec<&GpuId> =
            self.gpus.values().filter(|view| view.index.to_string() == wanted).map(|view| &view.uuid).collect();
        match of_index[..] {
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
        let known: Vec<String> = self.gpus.values().map(|view| format!("{} ({})", view.index, view.uuid)).collect();
        Err(NotNamed::Unknown(wanted.to_owned(), known.join(", ")))
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
                let told = view.slices.values().any(|slice| slice.readings.contains_key(kind));
                kind.is_of_slices() && (given.is_some() || (all && told))
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

/// `NodeService`.
pub struct Node(pub Arc<Context>);

#[tonic::async_trait]
impl v1::node_service_server::NodeService for Node {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        self.0.principal(&request)?.on_node()?;
        let context = &self.0;
        let live = context.registry.live();
        let uname = nix::sys::utsname::uname().ok();
        let text = |t: &std::ffi::OsStr| t.to_string_lossy().into_owned();
        let node = context.node.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Response::new(v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            hostname: uname.as_ref().map(|u| text(u.nodename())).unwrap_or_default(),
            kernel: uname.as_ref().map(|u| text(u.release())).unwrap_or_default(),
            boot_id: context.boot_id.clone(),
            at_ns: clock::wall_ns(),
            started_ns: context.started_ns,
            sensors: node.sensors.iter().map(|(source, view)| sensor(context, *source, view)).collect(),
            gpus: node.gpus.values().map(gpu).collect(),
            runs: u32::try_from(live.len()).unwrap_or(u32::MAX),
            frozen: u32::try_from(live.iter().filter(|r| r.status().standing != Standing::Running).count())
                .unwrap_or(u32::MAX),
            log_entries: *context.log.latest().borrow(),
            log_state: context.log.state(),
            nvml: node.nvml.clone(),
            costs: doctor::costs(context),
        }))
    }

    async fn doctor(&self, request: Request<v1::DoctorRequest>) -> Result<Response<v1::DoctorResponse>, Status> {
        self.0.principal(&request)?.on_node()?;
        let context = self.0.clone();
        let checks = tokio::task::spawn_blocking(move || doctor::checks(&context)).await;
        let checks = checks.map_err(|e| Status::internal(format!("the doctor failed: {e}")))?;
        Ok(Response::new(v1::DoctorResponse { checks }))
    }

    async fn health(&self, request: Request<v1::HealthRequest>) -> Result<Response<v1::HealthResponse>, Status> {
        self.0.principal(&request)?.on_node()?;
        Ok(Response::new(health::health(&self.0)))
    }

    async fn reasons(&self, request: Request<v1::ReasonsRequest>) -> Result<Response<v1::ReasonsResponse>, Status> {
        self.0.principal(&request)?.on_node()?;
        health::reasons(&self.0, &request.into_inner()).map(Response::new)
    }

    async fn capacity(&self, request: Request<v1::CapacityRequest>) -> Result<Response<v1::CapacityResponse>, Status> {
        self.0.principal(&request)?.on_node()?;
        Ok(Response::new(health::capacity(&self.0)))
    }

    async fn placeable(
        &self,
        request: Request<v1::PlaceableRequest>,
    ) -> Result<Response<v1::PlaceableResponse>, Status> {
        self.0.principal(&request)?.on_node()?;
        health::placeable(&self.0, &request.into_inner()).map(Response::new)
    }

    type WatchSinceStream = health::Changes;

    async fn watch_since(
        &self,
        request: Request<v1::WatchSinceRequest>,
    ) -> Result<Response<Self::WatchSinceStream>, Status> {
        self.0.principal(&request)?.on_node()?;
        Ok(Response::new(health::watch(&self.0, &request.into_inner())))
    }

    async fn cordon(&self, request: Request<v1::OrderRequest>) -> Result<Response<v1::OrderResponse>, Status> {
        self.order(OrderKind::Cordon, request).await
    }

    async fn uncordon(&self, request: Request<v1::OrderRequest>) -> Result<Response<v1::OrderResponse>, Status> {
        self.order(OrderKind::Uncordon, request).await
    }

    async fn reset_health(&self, request: Request<v1::OrderRequest>) -> Result<Response<v1::OrderResponse>, Status> {
        self.order(OrderKind::Reset, request).await
    }

    async fn reset_gpu(&self, request: Request<v1::ResetGpuRequest>) -> Result<Response<v1::ResetGpuResponse>, Status> {
        let by = self.0.principal(&request)?.may_order()?;
        reset::reset_gpu(&self.0, by, request.into_inner()).await.map(Response::new)
    }
}

impl Node {
    async fn order(
        &self,
        kind: OrderKind,
        request: Request<v1::OrderRequest>,
    ) -> Result<Response<v1::OrderResponse>, Status> {
        let by = self.0.principal(&request)?.may_order()?;
        health::order(&self.0, kind, by, request.into_inner()).await.map(Response::new)
    }
}

pub(super) fn reading_of((kind, value): (&Kind, &i64)) -> v1::Reading {
    v1::Reading { name: kind.to_string(), value: *value, text: kind.unit().show(*value) }
}

fn process(process: &GpuProcessView) -> v1::GpuProcess {
    v1::GpuProcess {
        pid: process.pid,
        memory: process.memory.unwrap_or(0),
        run_id: process.run.map(|run| run.to_string()).unwrap_or_default(),
    }
}

fn sensor(context: &Context, source: Source, view: &SensorView) -> v1::Sensor {
    let last_success_ns = match source {
        Source::Cgroup => context.health.pass.load(Ordering::Relaxed),
        Source::Ebpf => context.health.counters.load(Ordering::Relaxed),
        _ => view.last_success_ns,
    };
    v1::Sensor {
        name: source.name().into(),
        sees: view.blind.is_none(),
        detail: view.blind.clone().unwrap_or_else(|| view.detail.clone()),
        last_success_ns,
    }
}

fn gpu(gpu: &GpuView) -> v1::Gpu {
    use Kind;
    let reading = |kind: Kind| gpu.readings.get(&kind).copied().unwrap_or_default();
    v1::Gpu {
        uuid: gpu.uuid.0.clone(),
        index: gpu.index,
        name: gpu.name.clone(),
        utilization_mpct: reading(Kind::GpuUtilization),
        temperature_mc: reading(Kind::GpuTemperature),
        power_mw: reading(Kind::GpuPower),
        power_limit_mw: gpu.power_limit_mw,
        memory_used: reading(Kind::GpuMemory),
        memory_total: gpu.memory_total,
        sampled_ns: gpu.sampled_ns,
        runs: gpu.runs.iter().map(ToString::to_string).collect(),
        unsupported: gpu.unsupported.clone(),
        failing: gpu.failing.clone(),
        readings: gpu.readings.iter().map(reading_of).collect(),
        processes: gpu.processes.iter().map(process).collect(),
        pci: gpu.bus.map(|bus| bus.to_string()).unwrap_or_default(),
        info: super::gpu_info::gpu_info(gpu),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::nvml::MigDevice;

    #[test]
    fn what_mig_devices_tell_is_asked_of_those_that_a_run_is_given() {
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
        let told = of("MIG-tells");
        assert!(!told.contains_key(&Kind::GpuUtilization) && told.contains_key(&Kind::GpuFanSpeed), "{told:?}");
        assert!(told[&Kind::GpuDerivedSpinning].contains("of its MIG devices"), "{told:?}");
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
        let told = |wanted| node.gpu_named(wanted).unwrap_err().to_string();
        assert_eq!(told("0"), "gpu `0` is GPU-a and amdgpu-x: name one by its UUID");
        assert!(told("MIG-1").contains("MIG device of GPU-b"), "{}", told("MIG-1"));
        assert_eq!(node.gpu_or_slice_named("MIG-1"), Ok((GpuId("GPU-b".into()), Some("MIG-1".into()))));
        assert_eq!(node.gpu_or_slice_named("1"), Ok((GpuId("GPU-b".into()), None)));
        assert!(told("7").contains("1 (GPU-b)") && told("").contains("expected an index"), "{}", told("7"));
    }
}

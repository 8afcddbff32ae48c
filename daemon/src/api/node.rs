//! `NodeService`: what the node's sensors see, what it costs, and the doctor.

use super::{
    Context, doctor, drill,
    gate::Deadline,
    health,
    limits::{Quota, Usage},
    log_state, mode,
    peer::Peer,
    quotas, reset, usage,
};
use crate::{
    node::{GpuProcessView, GpuView, SensorView},
    pipeline::lane::{ROOM, ROOM_IN_ALL},
    platform::clock,
    watchers::keep,
};
use failsafe_core::{Kind, containment::ContainmentState, drill::is_drill, health::OrderKind, signal::Source};
use failsafe_proto::v1;
use std::sync::{Arc, atomic::Ordering};
use tonic::{Request, Response, Status};

/// `NodeService`.
pub struct Node(pub Arc<Context>);

#[tonic::async_trait]
impl v1::node_service_server::NodeService for Node {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        self.0.principal(&request)?.on_node()?;
        let share = Peer::of(&request)?.share();
        let context = self.0.clone();
        let status = self.0.work(share).read(share, move || status(&context));
        Ok(Response::new(status.await?))
    }

    async fn usage(&self, request: Request<v1::UsageRequest>) -> Result<Response<v1::UsageResponse>, Status> {
        let principal = self.0.principal(&request)?;
        let only = (!principal.sees_all()).then(|| principal.uid());
        let share = Peer::of(&request)?.share();
        let context = self.0.clone();
        let read = self.0.work(share).read(share, move || quotas::by_user(&usages(&context), only));
        let (users, users_left_off) = read.await?;
        Ok(Response::new(v1::UsageResponse { users, users_left_off }))
    }

    async fn doctor(&self, request: Request<v1::DoctorRequest>) -> Result<Response<v1::DoctorResponse>, Status> {
        self.0.principal(&request)?.on_node()?;
        let share = Peer::of(&request)?.share();
        let context = self.0.clone();
        let checks = self.0.work(share).read(share, move || doctor::checks(&context));
        Ok(Response::new(v1::DoctorResponse { checks: checks.await? }))
    }

    async fn health(&self, request: Request<v1::HealthRequest>) -> Result<Response<v1::HealthResponse>, Status> {
        self.0.reader(&request)?.on_node()?;
        Ok(Response::new(health::health(&self.0)))
    }

    async fn reasons(&self, request: Request<v1::ReasonsRequest>) -> Result<Response<v1::ReasonsResponse>, Status> {
        self.0.reader(&request)?.on_node()?;
        health::reasons(&self.0, &request.into_inner()).map(Response::new)
    }

    async fn capacity(&self, request: Request<v1::CapacityRequest>) -> Result<Response<v1::CapacityResponse>, Status> {
        self.0.reader(&request)?.on_node()?;
        Ok(Response::new(health::capacity(&self.0)))
    }

    async fn placeable(
        &self,
        request: Request<v1::PlaceableRequest>,
    ) -> Result<Response<v1::PlaceableResponse>, Status> {
        self.0.reader(&request)?.on_node()?;
        health::placeable(&self.0, &request.into_inner()).map(Response::new)
    }

    type WatchSinceStream = health::Changes;

    async fn watch_since(
        &self,
        request: Request<v1::WatchSinceRequest>,
    ) -> Result<Response<Self::WatchSinceStream>, Status> {
        self.0.principal(&request)?.on_node()?;
        let peer = Peer::of(&request)?;
        Ok(Response::new(health::watch(&self.0, peer, &request.into_inner())))
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

    async fn forget_gpu(&self, request: Request<v1::OrderRequest>) -> Result<Response<v1::OrderResponse>, Status> {
        self.order(OrderKind::Forget, request).await
    }

    async fn set_mode(&self, request: Request<v1::SetModeRequest>) -> Result<Response<v1::SetModeResponse>, Status> {
        let orderer = self.0.principal(&request)?.may_set_mode()?;
        mode::set(&self.0, orderer, request.into_inner()).await.map(Response::new)
    }

    async fn reset_gpu(&self, request: Request<v1::ResetGpuRequest>) -> Result<Response<v1::ResetGpuResponse>, Status> {
        let orderer = self.0.principal(&request)?.may_order()?;
        reset::reset_gpu(&self.0, orderer, request.into_inner()).await.map(Response::new)
    }
}

impl Node {
    async fn order(
        &self,
        kind: OrderKind,
        request: Request<v1::OrderRequest>,
    ) -> Result<Response<v1::OrderResponse>, Status> {
        let orderer = self.0.principal(&request)?.may_order()?;
        health::order(&self.0, kind, orderer, Deadline::of(&request), request.into_inner()).await.map(Response::new)
    }
}

fn status(context: &Context) -> v1::StatusResponse {
    let mut live = context.registry.live();
    live.retain(|run| !is_drill(&run.run.labels));
    let uname = nix::sys::utsname::uname().ok();
    let text = |t: &std::ffi::OsStr| t.to_string_lossy().into_owned();
    let node = context.view();
    let usages = usages(context);
    let (users, users_left_off) = quotas::by_user(&usages, None);
    v1::StatusResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        hostname: uname.as_ref().map(|u| text(u.nodename())).unwrap_or_default(),
        kernel: uname.as_ref().map(|u| text(u.release())).unwrap_or_default(),
        boot_id: context.boot_id.clone(),
        at_ns: clock::wall_ns(),
        started_ns: context.started_ns,
        sensors: node.sensors.iter().map(|(source, view)| sensor(context, *source, view)).collect(),
        gpus: node.gpus.values().map(gpu).collect(),
        runs: u32::try_from(live.len()).unwrap_or(u32::MAX),
        frozen: u32::try_from(
            live.iter().filter(|r| r.status().containment.state() != ContainmentState::Running).count(),
        )
        .unwrap_or(u32::MAX),
        log_entries: *context.log.latest().borrow(),
        log_state: log_state::state(context),
        nvml: node.nvml.clone(),
        costs: doctor::costs(context),
        guarded: u32::try_from(context.registry.guarded().len()).unwrap_or(u32::MAX),
        limits: usages.iter().map(limit).collect(),
        users,
        users_left_off,
        log_findings: log_state::findings(context),
        log_asides: context.log.asides().iter().map(|path| path.display().to_string()).collect(),
        mode: Some(mode::shown(context)),
        drill: Some(drill::state(context)),
        no_progress: context.node_health.pulses().stuck().map(|stuck| stuck.thread.to_owned()).unwrap_or_default(),
        not_pinned: context.registry.kernel().unpinned().map(|why| keep::unpinned_text(&why)).unwrap_or_default(),
    }
}

/// What is used of each limit.
fn usages(context: &Context) -> Vec<Usage> {
    let (used, refused) = context.lane.usage();
    let quota = Quota { per_user: 0, total: ROOM, reserve: ROOM_IN_ALL - ROOM };
    let commands =
        Usage { used, refused, bounded: (false, true), ..Usage::of("commands", "waiting for the pipeline", quota) };
    let own = context.lanes.usage().into_iter();
    own.chain([context.attestor.usage(), context.proofs.usage(), commands]).chain(usage::of(context)).collect()
}

pub(super) fn limits(context: &Context) -> Vec<v1::Limit> {
    usages(context).iter().map(limit).collect()
}

fn limit(usage: &Usage) -> v1::Limit {
    v1::Limit {
        name: usage.name.into(),
        unit: usage.unit.into(),
        per_user: usage.bounded.0.then_some(usage.quota.per_user as u64),
        total: usage.quota.total as u64,
        reserve: usage.bounded.1.then_some(usage.quota.reserve as u64),
        used: usage.used as u64,
        reserve_used: usage.reserve_used as u64,
        most_uid: usage.most.map(|(uid, _)| uid),
        most_used: usage.most.map_or(0, |(_, used)| used as u64),
        refused: usage.refused,
        waited: usage.waited,
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

pub(super) fn sensor(context: &Context, source: Source, view: &SensorView) -> v1::Sensor {
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

pub(super) fn gpu(gpu: &GpuView) -> v1::Gpu {
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

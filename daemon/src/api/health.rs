//! The part of `NodeService` that schedulers ask: health, capacity, placement, changes; and the orders of operators.

use super::{
    Context,
    authorize::Orderer,
    control::{lane_refusal, not_begun},
    convert,
    follow::{Answer, Batch, Bounds, Follow, Source},
    peer::Peer,
};
use crate::{
    node::{GpuView, NotNamed},
    pipeline::lane::{Caller, Command, Ticket},
    platform::clock,
    runs::Registry,
    sensors::nvml::MigDevice,
};
use failsafe_core::{
    GpuId, Kind, MonoTime, RunId,
    health::{
        Change, Constraints, Equipment, Level, MigWanted, Order, OrderKind, OrderRefused, PartView, Reason, Target,
        Traits, View, Wanted,
    },
    input::Run,
};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tonic::Status;

/// A stream of changes.
pub type Changes = Answer<v1::HealthChange>;

/// How long an order may take to be on record.
const ORDER: Duration = Duration::from_secs(10);

pub(super) fn health(context: &Context) -> v1::HealthResponse {
    let view = context.node_health.view();
    let gpus = {
        let seen = context.view();
        view.gpus.iter().map(|(gpu, health)| part_of_gpu(seen.gpus.get(gpu), gpu, health)).collect()
    };
    v1::HealthResponse {
        revision: view.revision,
        at_ns: clock::wall_ns(),
        age_ms: MonoTime(clock::monotonic_ns()).since(view.as_of).0 / 1_000_000,
        fresh_ms: view.fresh.0 / 1_000_000,
        node: Some(part(&view.node)),
        gpus,
    }
}

pub(super) fn reasons(context: &Context, request: &v1::ReasonsRequest) -> Result<v1::ReasonsResponse, Status> {
    let view = context.node_health.view();
    let one = (!request.gpu.is_empty()).then(|| find(context, &view, &request.gpu)).transpose()?;
    let seen = context.view();
    let node = one.is_none().then(|| part(&view.node));
    let gpus = view.gpus.iter().filter(|(gpu, _)| one.as_ref().is_none_or(|one| one == *gpu));
    let parts = node.into_iter().chain(gpus.map(|(gpu, health)| part_of_gpu(seen.gpus.get(gpu), gpu, health)));
    Ok(v1::ReasonsResponse {
        revision: view.revision,
        at_ns: clock::wall_ns(),
        parts: parts.filter(|part| !part.reasons.is_empty()).collect(),
    })
}

pub(super) fn capacity(context: &Context) -> v1::CapacityResponse {
    let view = context.node_health.view();
    let held = held(&context.registry);
    let mut out = v1::CapacityResponse {
        revision: view.revision,
        at_ns: clock::wall_ns(),
        node: level(view.node.level) as i32,
        gpus: count(view.gpus.len()),
        runs: count(context.registry.live().len()),
        ..Default::default()
    };
    for (gpu, part) in &view.gpus {
        let busy = held.get(gpu).is_some_and(|runs| !runs.is_empty());
        let slot = match part.level {
            _ if busy => &mut out.held,
            Level::Healthy => &mut out.free,
            Level::Degraded => &mut out.free_degraded,
            Level::Unknown => &mut out.unknown,
            Level::Draining => &mut out.drained,
            Level::Unhealthy => &mut out.unhealthy,
        };
        *slot += 1;
    }
    for (gpu, traits) in equipment(context) {
        out.mig_devices += count(traits.mig_profiles.len());
        if view.gpus.get(&gpu).is_some_and(|part| part.level == Level::Healthy) {
            out.mig_free += count(traits.mig_free.len());
        }
    }
    out
}

pub(super) fn placeable(context: &Context, request: &v1::PlaceableRequest) -> Result<v1::PlaceableResponse, Status> {
    let bad = |why: String| ErrorReason::InvalidRequest.status(why);
    if !request.gpus.is_empty() && request.count > 0 {
        return Err(bad("gpus, count: expected one of them".into()));
    }
    let view = context.node_health.view();
    let named =
        |gpus: &[String]| gpus.iter().map(|gpu| find(context, &view, gpu)).collect::<Result<BTreeSet<GpuId>, Status>>();
    let mig = match request.mig.as_str() {
        "" => None,
        text => Some(
            MigWanted::parse(text)
                .ok_or_else(|| bad(format!("mig: `{text}`: expected on, off, or a profile such as 1g.10gb")))?,
        ),
    };
    let constraints = Constraints {
        model: Some(request.model.clone()).filter(|model| !model.is_empty()),
        memory_free: Some(request.memory_free).filter(|bytes| *bytes > 0),
        mig,
        same_numa_node: request.same_numa_node,
        nvlinked: request.nvlinked,
        exclude: named(&request.exclude)?,
    };
    if request.gpus.is_empty() && request.count == 0 && constraints != Constraints::default() {
        return Err(bad("constraints are of GPUs: expected gpus or count with them".into()));
    }
    let wanted = Wanted {
        gpus: named(&request.gpus)?,
        count: usize::try_from(request.count).unwrap_or(usize::MAX),
        degraded: request.degraded,
        shared: request.shared,
        constraints,
    };
    let answer = view.placeable(&wanted, &held(&context.registry), &equipment(context));
    Ok(v1::PlaceableResponse {
        placeable: answer.placeable,
        gpus: answer.gpus.into_iter().map(|gpu| gpu.0).collect(),
        reasons: answer.reasons,
        revision: view.revision,
        at_ns: clock::wall_ns(),
        node: level(view.node.level) as i32,
    })
}

pub(super) fn watch(context: &Arc<Context>, peer: Arc<Peer>, request: &v1::WatchSinceRequest) -> Changes {
    let source = HealthChanges { context: context.clone(), at: request.revision };
    let growth = request.follow.then(|| context.node_health.watch());
    let follow =
        Follow { work: context.work(peer.share()).clone(), peer, unread: context.config.limits.unread(), growth };
    follow.stream(source)
}

/// Changes after a revision.
struct HealthChanges {
    context: Arc<Context>,
    at: u64,
}

impl Source for HealthChanges {
    type Item = v1::HealthChange;

    fn next(&mut self, _: &Bounds) -> Result<Batch<v1::HealthChange>, Status> {
        let since = self.context.node_health.since(self.at);
        let mut items = Vec::new();
        if since.missed && since.changes.is_empty() {
            self.at = self.context.node_health.view().revision;
            items.push(v1::HealthChange { revision: self.at, missed: true, ..Default::default() });
        }
        for (n, change) in since.changes.iter().enumerate() {
            items.push(told(change, since.missed && n == 0));
            self.at = change.revision;
        }
        Ok(Batch { items, more: false })
    }
}

pub(super) async fn order(
    context: &Context,
    kind: OrderKind,
    orderer: Orderer,
    deadline: Option<Instant>,
    request: v1::OrderRequest,
) -> Result<v1::OrderResponse, Status> {
    let why = reason(request.reason)?;
    let target = match request.gpu.as_str() {
        "" => Target::Node,
        gpu => Target::Gpu(find(context, &context.node_health.view(), gpu)?),
    };
    let (done, answered) = oneshot::channel();
    let Orderer { by, actor } = orderer;
    let order = Order { kind, target: target.clone(), by, actor: Some(actor), why };
    let patience = Instant::now() + ORDER;
    let ticket = Ticket::new(Some(deadline.map_or(patience, |deadline| deadline.min(patience))));
    let caller = Caller(ticket.clone());
    // Orders are of root and the administrators' group only.
    context.lane.command(Command::Order { order, done, ticket }, true).map_err(lane_refusal)?;
    match tokio::time::timeout(ORDER, answered).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error @ OrderRefused::NoSuchGpu(_)))) => {
            return Err(ErrorReason::GpuNotFound.status(error.to_string()));
        }
        Ok(Ok(Err(error))) => return Err(ErrorReason::OrderRefused.status(error.to_string())),
        _ if caller.0.withdraw() => return Err(not_begun("the order")),
        Ok(Err(_)) => return Err(ErrorReason::DaemonStopping.status("the daemon is stopping")),
        Err(_) => return Err(ErrorReason::NotDurable.status("the order stands, but its record is not on disk yet")),
    }
    if let (OrderKind::Forget, Target::Gpu(gpu)) = (kind, &target) {
        context.view().gpus.remove(gpu);
    }
    let view = context.node_health.view();
    let part = match &target {
        Target::Node => Some(part(&view.node)),
        Target::Gpu(gpu) => view.gpus.get(gpu).map(|p| part_of_gpu(context.view().gpus.get(gpu), gpu, p)),
    };
    Ok(v1::OrderResponse { revision: view.revision, part })
}

pub(super) fn reason(text: String) -> Result<String, Status> {
    if text.trim().is_empty() {
        Err(ErrorReason::InvalidRequest.status("reason: expected some words"))
    } else {
        Ok(text)
    }
}

/// A GPU by UUID or index; also one that is only known from before.
pub(super) fn find(context: &Context, view: &View, wanted: &str) -> Result<GpuId, Status> {
    let id = GpuId(wanted.to_owned());
    if view.gpus.contains_key(&id) {
        return Ok(id);
    }
    let node = context.view();
    node.gpu_named(wanted).map_err(|error| match error {
        NotNamed::Ambiguous(..) | NotNamed::MigDevice(..) => ErrorReason::InvalidRequest.status(error.to_string()),
        NotNamed::Unknown { .. } => ErrorReason::GpuNotFound.status(error.to_string()),
    })
}

/// What GPUs are and have, as far as placement asks.
fn equipment(context: &Context) -> Equipment {
    let live = context.registry.live();
    let node = context.view();
    let gpus = &node.gpus;
    let traits = |view: &GpuView| {
        // A run takes the MIG devices that it was given, those that it is on, and all of a card that it was given whole.
        let taken = |device: &MigDevice| {
            let given = |run: &Run| match run.mig.get(&view.uuid) {
                Some(devices) => devices.contains(&device.uuid),
                None => run.gpus.contains(&view.uuid),
            };
            let slice = device.gpu_instance.map(|instance| (instance, device.compute_instance));
            let on = view.processes.iter().any(|p| p.run.is_some() && p.slice.is_some() && p.slice == slice);
            on || live.iter().any(|run| given(&run.run))
        };
        let profile = |device: &MigDevice| device.profile.clone().unwrap_or_else(|| "unknown".into());
        let devices = &view.info.mig_devices;
        let linked = view.info.linked(gpus.values().map(|other| &other.info));
        Traits {
            model: Some(view.name.clone()).filter(|name| !name.is_empty()),
            memory_free: view.readings.get(&Kind::GpuMemoryFree).and_then(|free| u64::try_from(*free).ok()),
            mig: view.info.mig,
            mig_profiles: devices.iter().map(profile).collect(),
            mig_free: devices.iter().filter(|device| !taken(device)).map(profile).collect(),
            numa_node: view.info.numa_node,
            linked: linked.into_iter().map(|gpu| GpuId(gpu.into())).collect(),
        }
    };
    gpus.iter().map(|(gpu, view)| (gpu.clone(), traits(view))).collect()
}

/// Which live runs hold which GPUs, declared or observed.
pub(super) fn held(registry: &Registry) -> BTreeMap<GpuId, BTreeSet<RunId>> {
    let mut held: BTreeMap<GpuId, BTreeSet<RunId>> = BTreeMap::new();
    for live in registry.live() {
        for gpu in &live.status().gpus {
            held.entry(gpu.clone()).or_default().insert(live.run.id);
        }
    }
    held
}

fn part(part: &PartView) -> v1::PartHealth {
    v1::PartHealth {
        level: level(part.level) as i32,
        since_ns: part.since_ns,
        reasons: part.reasons.iter().map(reason_of).collect(),
        ..Default::default()
    }
}

fn part_of_gpu(seen: Option<&GpuView>, gpu: &GpuId, health: &PartView) -> v1::PartHealth {
    v1::PartHealth {
        gpu: gpu.0.clone(),
        index: seen.map_or(0, |g| g.index),
        minor: seen.and_then(|g| g.minor),
        pci: seen.and_then(|g| g.bus).map(|bus| bus.to_string()).unwrap_or_default(),
        mig_devices: seen.map(|g| g.info.mig_devices.iter().map(|d| d.uuid.clone()).collect()).unwrap_or_default(),
        name: seen.map(|g| g.name.clone()).unwrap_or_default(),
        runs: seen.map(|g| g.runs.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        ..part(health)
    }
}

fn reason_of(reason: &Reason) -> v1::HealthReason {
    v1::HealthReason {
        code: reason.code.clone(),
        level: level(reason.level) as i32,
        text: reason.text.clone(),
        since_ns: reason.since_ns,
        last_ns: reason.last_ns,
        count: reason.count,
        advice: reason.advice.name().into(),
    }
}

fn told(change: &Change, missed: bool) -> v1::HealthChange {
    v1::HealthChange {
        revision: change.revision,
        gpu: match &change.target {
            Target::Node => String::new(),
            Target::Gpu(gpu) => gpu.0.clone(),
        },
        from: level(change.from) as i32,
        to: level(change.to) as i32,
        added: change.added.iter().map(reason_of).collect(),
        removed: change.removed.clone(),
        by: change.by.clone().unwrap_or_default(),
        at_ns: change.at_ns,
        missed,
        event: change.event.map(|event| event.what.name().into()).unwrap_or_default(),
        event_times: change.event.map_or(0, |event| event.times),
        actor: change.actor.as_ref().map(convert::actor),
    }
}

fn level(level: Level) -> v1::HealthLevel {
    match level {
        Level::Healthy => v1::HealthLevel::Healthy,
        Level::Degraded => v1::HealthLevel::Degraded,
        Level::Unknown => v1::HealthLevel::Unknown,
        Level::Draining => v1::HealthLevel::Draining,
        Level::Unhealthy => v1::HealthLevel::Unhealthy,
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

//! An operator's reset of a GPU: nothing runs on it, nothing is started on it, and failsafe itself lets go of it.
//!
//! ```text
//! mark ─► nobody holds it? ─► on record ─► the sampler lets go ─► nobody has it open? ─► the vendor's tool ─► on record
//!                                                                                           └► taken up, unmarked
//! ```
//! Invariant: unknown processes do not count as none. A GPU is not reset if its process list cannot be read or is too
//! old.

use super::{
    Context,
    authorize::Orderer,
    health::{find, held, reason},
};
use crate::{
    actuators::gpu,
    causes::chain,
    node::GpuView,
    platform::{ProcFs, clock},
};
use failsafe_core::{GpuId, MonoTime, record::Record, time::Span};
use failsafe_proto::{ErrorReason, v1};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tonic::Status;

/// How long the sampler may take to let go: it is killed and started again, once the one that is just starting has come up.
const LET_GO: Duration = Duration::from_secs(10);

/// GPUs that are being reset. Whoever makes a run holds the lock meanwhile, so that none begins on one of them.
#[derive(Debug, Default)]
pub struct Resets(Mutex<BTreeSet<GpuId>>);

impl Resets {
    /// Keeps resets from beginning.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when one of these GPUs is being reset.
    pub fn none_of(&self, gpus: &BTreeSet<GpuId>) -> Result<MutexGuard<'_, BTreeSet<GpuId>>, Status> {
        let resets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match resets.intersection(gpus).next() {
            Some(gpu) => {
                Err(ErrorReason::GpuInUse.status(format!("{gpu} is being reset: try again when that is done")))
            }
            None => Ok(resets),
        }
    }

    fn begin(self: &Arc<Self>, gpu: &GpuId) -> Result<Resetting, Status> {
        self.none_of(&[gpu.clone()].into())?.insert(gpu.clone());
        Ok(Resetting { resets: self.clone(), gpu: gpu.clone() })
    }
}

/// A GPU that is marked; dropped, it is not.
struct Resetting {
    resets: Arc<Resets>,
    gpu: GpuId,
}

impl Drop for Resetting {
    fn drop(&mut self) {
        self.resets.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.gpu);
    }
}

pub(super) async fn reset_gpu(
    context: &Context,
    orderer: Orderer,
    request: v1::ResetGpuRequest,
) -> Result<v1::ResetGpuResponse, Status> {
    let why = reason(request.reason)?;
    let health = context.node_health.view();
    let gpu = find(context, &health, &request.gpu)?;
    if gpu.is_amd() {
        return Err(ErrorReason::GpuNotResettable.status(format!(
            "{gpu} is an AMD GPU, and {} resets NVIDIA's only: not reset (`amd-smi reset` or the driver does it)",
            context.config.gpu.nvidia_smi.display()
        )));
    }
    let marked = context.resets.begin(&gpu)?;
    if let Some(runs) = held(&context.registry).get(&gpu).filter(|runs| !runs.is_empty()) {
        let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
        return Err(ErrorReason::GpuInUse.status(format!("{gpu} is held by run(s) {}: not reset", runs.join(", "))));
    }
    let seen = context.view().gpus.get(&gpu).cloned();
    if let Err(why) = nobody_on(seen.as_ref(), health.fresh, MonoTime(clock::monotonic_ns())) {
        return Err(ErrorReason::GpuNotResettable.status(format!("{why}: {gpu} is not reset")));
    }
    let minor = seen.and_then(|view| view.info.minor);
    let record = {
        let (log, gpu) = (context.log.clone(), gpu.clone());
        move |done, detail: &str| {
            let Orderer { by, actor } = orderer.clone();
            let (gpu, actor, why, detail) = (gpu.clone(), Some(actor), why.clone(), detail.to_owned());
            log.record(&Record::GpuReset { gpu, by, actor, why, done, detail }, None, None);
        }
    };
    record(None, "");
    let (tool, uuid) = (context.config.gpu.nvidia_smi.clone(), gpu.0.clone());
    let nvml = context.nvml.clone().filter(|_| !gpu.is_amd());
    let done = tokio::task::spawn_blocking(move || {
        let let_go = nvml.as_ref().map_or(Ok(()), |nvml| nvml.let_go(&uuid, LET_GO));
        // Who came while failsafe let go is on no list any more, but has the device open.
        let free = let_go.map_err(|error| chain(&error)).and_then(|()| match minor {
            Some(minor) => gpu::nobody_has(&ProcFs::default(), minor).map_err(|error| chain(&error)),
            None => Ok(()),
        });
        let done = match free {
            Ok(()) => gpu::reset(&tool, &uuid).map_err(|error| chain(&error)),
            Err(why) => Err(format!("not tried: {why}")),
        };
        if let Some(nvml) = nvml {
            nvml.take_up(&uuid);
        }
        // Here, since whoever asked may have gone while the tool still works.
        drop(marked);
        let (done, detail) = done.map_or_else(|why| (false, why), |said| (true, said));
        record(Some(done), &detail);
        v1::ResetGpuResponse { done, detail }
    });
    done.await.map_err(|error| ErrorReason::Internal.status(format!("the reset was cut short: {error}")))
}

/// Whether nobody is on the GPU, as far as that was known lately; else what speaks against it.
fn nobody_on(seen: Option<&GpuView>, fresh: Span, now: MonoTime) -> Result<(), String> {
    let Some(view) = seen else { return Err("it was not seen yet".into()) };
    let failing = view.failing.iter().find(|failing| failing.starts_with("gpu.processes"));
    let age = view.processes_at.map(|at| now.since(at));
    match (failing, age) {
        (Some(failing), _) => Err(format!("who is on it cannot be read ({failing})")),
        (None, None) => Err("who is on it is not known".into()),
        (None, Some(age)) if age > fresh => Err(format!("who is on it was last known {age} ago; {fresh} is the most")),
        (None, Some(_)) if view.processes.is_empty() => Ok(()),
        (None, Some(_)) => {
            let pids: Vec<String> = view.processes.iter().map(|process| process.pid.to_string()).collect();
            Err(format!("pid(s) {} are on it", pids.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::GpuProcessView;

    #[test]
    fn what_is_not_freshly_known_is_not_nobody() {
        let (fresh, now) = (Span::from_secs(10), MonoTime(60_000_000_000));
        let told = |view: &GpuView| {
            nobody_on(Some(view), fresh, now).map_err(|why| why.split(' ').next_back().map(str::to_owned))
        };
        let mut view = GpuView::new(GpuId("GPU-1".into()));
        assert!(nobody_on(None, fresh, now).is_err());
        assert_eq!(told(&view), Err(Some("known".into())), "no list has come yet");
        view.processes_at = Some(MonoTime(49_000_000_000));
        assert_eq!(told(&view), Err(Some("most".into())), "11 s are too old");
        view.processes_at = Some(MonoTime(51_000_000_000));
        assert_eq!(told(&view), Ok(()));
        view.failing = vec!["gpu.temperature: unknown".into(), "gpu.processes: no permission".into()];
        assert!(nobody_on(Some(&view), fresh, now).is_err_and(|why| why.contains("no permission")));
        view.failing.truncate(1);
        view.processes = vec![GpuProcessView { pid: 7, memory: None, run: None, sm: None, slice: None }];
        assert!(nobody_on(Some(&view), fresh, now).is_err_and(|why| why.contains("pid(s) 7")));
    }
}

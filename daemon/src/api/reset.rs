//! An operator's reset of a GPU: nothing runs on it, nothing is started on it, and failsafe itself lets go of it.
//!
//! ```text
//! mark ─► nobody holds it? ─► on record ─► the sampler lets go ─► the vendor's tool ─► on record ─► taken up, unmarked
//! ```

use super::{
    Context,
    health::{find, gpu_views, held, reason},
};
use crate::{actuators::gpu, runs::kernel::chain};
use failsafe_core::{GpuId, record::Record};
use failsafe_proto::v1;
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
            Some(gpu) => Err(Status::failed_precondition(format!("{gpu} is being reset: try again when that is done"))),
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
    by: String,
    request: v1::ResetGpuRequest,
) -> Result<v1::ResetGpuResponse, Status> {
    let why = reason(request.reason)?;
    let gpu = find(context, &context.node_health.view(), &request.gpu)?;
    let marked = context.resets.begin(&gpu)?;
    if let Some(runs) = held(context).get(&gpu).filter(|runs| !runs.is_empty()) {
        let runs: Vec<String> = runs.iter().map(ToString::to_string).collect();
        return Err(Status::failed_precondition(format!("{gpu} is held by run(s) {}: not reset", runs.join(", "))));
    }
    let pids: Vec<String> = gpu_views(context)
        .get(&gpu)
        .map(|g| g.processes.iter().map(|p| p.pid.to_string()).collect())
        .unwrap_or_default();
    if !pids.is_empty() {
        return Err(Status::failed_precondition(format!("pid(s) {} are on {gpu}: not reset", pids.join(", "))));
    }
    let record = {
        let (log, gpu) = (context.log.clone(), gpu.clone());
        move |done, detail: &str| {
            let (gpu, by, why, detail) = (gpu.clone(), by.clone(), why.clone(), detail.to_owned());
            log.record(&Record::GpuReset { gpu, by, why, done, detail }, None, None);
        }
    };
    record(None, "");
    let (tool, uuid) = (context.config.gpu.nvidia_smi.clone(), gpu.0.clone());
    let nvml = context.nvml.clone().filter(|_| !gpu.is_amd());
    let done = tokio::task::spawn_blocking(move || {
        let let_go = nvml.as_ref().map_or(Ok(()), |nvml| nvml.let_go(&uuid, LET_GO));
        let done = match let_go {
            Ok(()) => gpu::reset(&tool, &uuid).map_err(|error| chain(&error)),
            Err(error) => Err(format!("not tried: {error}")),
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
    done.await.map_err(|error| Status::internal(format!("the reset was cut short: {error}")))
}

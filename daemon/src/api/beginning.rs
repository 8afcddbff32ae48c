//! What is known of a start before it: the facts of the node, and those of the process that asks, with its command.

use super::{Context, connection::Maker, runs::blocking};
use crate::{
    attest::{Beginning, Roots},
    runs::started::Said,
};
use failsafe_attest::Fact;
use failsafe_core::GpuId;
use failsafe_proto::ErrorReason;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tonic::Status;

/// Facts before a start.
pub(super) struct StartFacts {
    /// Of the node.
    pub node: Vec<Fact>,
    /// Of the run that would be started.
    pub run: Vec<Fact>,
}

/// Reads them, for a start by `maker` on these GPUs and MIG devices.
///
/// # Errors
/// The process of `maker` is not known, or there is no thread for the readers.
pub(super) async fn facts(
    context: &Arc<Context>,
    maker: &Maker,
    (gpus, mig): (&BTreeSet<GpuId>, &BTreeMap<GpuId, BTreeSet<String>>),
    said: &Said,
) -> Result<StartFacts, Status> {
    let pid = maker.peer().map_err(|why| ErrorReason::CallerUnknown.status(why.chain()))?.id().pid;
    let slices = |gpu| mig.get(gpu).into_iter().flatten().cloned().collect();
    let gpus = gpus.iter().map(|gpu| (gpu.clone(), slices(gpu))).collect();
    let about = context.node_facts();
    let seen = about.gpus.clone();
    let attestor = &context.attestor;
    let asked = attestor.worker.start(about, None, ());
    let asked =
        asked.map_err(|error| ErrorReason::LimitReached.status(format!("no thread for the readers: {error}")))?;
    let node = asked.facts().await;
    let (worker, table) = (attestor.worker.clone(), attestor.table.clone());
    let beginning = Beginning { pid, command: said.command.clone(), environment: said.environment.clone(), gpus };
    let run = blocking(move || beginning.facts(&Roots::default(), &seen, &table, &worker.redact)).await?;
    Ok(StartFacts { node, run })
}

//! `NodeService.SetMode`: an order to observe, and its end.

use super::{Context, authorize::Orderer, runs::blocking};
use crate::runs::{LiveRun, modes::Temporary};
use failsafe_core::Mode;
use failsafe_proto::{ErrorReason, v1};
use std::sync::Arc;
use tonic::Status;

/// The longest order. What is to last longer is configured.
const LONGEST_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// Runs that an answer names.
const NAMED: usize = 32;

/// Does what was asked, and answers how the node stands.
pub(super) async fn set(
    context: &Arc<Context>,
    orderer: Orderer,
    request: v1::SetModeRequest,
) -> Result<v1::SetModeResponse, Status> {
    let v1::SetModeRequest { mode, for_ms, reason } = request;
    if reason.trim().is_empty() || reason.len() > 1_000 {
        return Err(
            ErrorReason::InvalidRequest.status("reason: expected why, in 1 to 1000 bytes; it is kept in the audit log")
        );
    }
    let observe = match v1::NodeMode::try_from(mode) {
        Ok(v1::NodeMode::Observe) => true,
        Ok(v1::NodeMode::Enforce) => false,
        _ => return Err(ErrorReason::InvalidRequest.status("mode: expected ENFORCE or OBSERVE")),
    };
    if observe && !(1..=LONGEST_MS).contains(&for_ms) {
        return Err(ErrorReason::InvalidRequest.status(format!(
            "for_ms: expected 1 to {LONGEST_MS} (7 days): an order to observe ends by itself; to observe for longer, write \
             `mode = \"observe\"` in the configuration"
        )));
    }
    let order = observe.then(|| {
        let now = context.registry.modes().now();
        Temporary::new(&now, for_ms.saturating_mul(1_000_000), reason.clone(), orderer.actor.clone())
    });
    // On a task of its own: a caller who goes away leaves no order that only some runs follow.
    let switch = context.mode_switch();
    let changed = tokio::spawn(blocking(move || switch.change(order, &reason, orderer.actor))).await;
    let changed =
        changed.map_err(|error| ErrorReason::Internal.status(format!("the change was cut short: {error}")))?;
    let (runs, failed) =
        changed?.map_err(|why| ErrorReason::StorageUnavailable.status(format!("nothing was changed: {why}")))?;
    Ok(v1::SetModeResponse { mode: Some(shown(context)), runs, failed })
}

/// The runs with which the kernel does not do what the engine does, the first ones.
fn behind(context: &Context) -> Vec<String> {
    let all = context.registry.behind();
    let one = |run: &Arc<LiveRun>| Some(format!("{} ({}): {}", run.run.name, run.run.id, run.behind()?.text()));
    let mut out: Vec<String> = all.iter().take(NAMED).filter_map(one).collect();
    if all.len() > NAMED {
        out.push(format!("and {} more runs", all.len() - NAMED));
    }
    out
}

/// How the node stands.
pub(super) fn shown(context: &Context) -> v1::ModeState {
    let modes = context.registry.modes();
    let temporary = modes.temporary();
    let of = |mode| match mode {
        Mode::Enforce => v1::NodeMode::Enforce as i32,
        Mode::Observe => v1::NodeMode::Observe as i32,
    };
    v1::ModeState {
        mode: of(modes.node()),
        configured: of(modes.configured()),
        until_ns: temporary.as_ref().map_or(0, |order| order.until_ns),
        reason: temporary.map(|order| order.reason).unwrap_or_default(),
        behind: behind(context),
    }
}

//! What the driver asks to be done with a GPU: NVML's field 230, and the text of XID 154.
//!
//! Invariant: a value that is not known is as bad as the worst, and is reported as unknown.

use super::level::Level;
use crate::xid::Advice;

/// The reason's code.
pub(super) const ACTION: &str = "recovery-action";
/// The reason's code where only traffic between GPUs is affected.
pub(super) const DRAIN_P2P: &str = "recovery-drain-p2p";
/// Values with which the GPU can be used: no action, and peer-to-peer work must end.
pub(super) const USABLE: &[i64] = &[0, 3];

/// What a value asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recovery {
    pub code: &'static str,
    pub level: Level,
    pub text: &'static str,
    pub advice: Advice,
}

/// What the driver asks for; `None` for no action. The values are those of `NV2080_CTRL_GPU_RECOVERY_ACTION` in the driver's
/// ctrl2080gpu.h.
pub(super) fn asks(value: i64) -> Option<Recovery> {
    let bad = |text, advice| Some(Recovery { code: ACTION, level: Level::Unhealthy, text, advice });
    match value {
        0 => None,
        1 => bad("the driver asks for a GPU reset", Advice::ResetGpu),
        2 => bad("the driver asks for a reboot", Advice::RebootNode),
        3 => Some(Recovery {
            code: DRAIN_P2P,
            level: Level::Degraded,
            text: "the driver asks to end work that uses memory of other GPUs",
            advice: Advice::DrainGpu,
        }),
        4 => bad("the driver asks to drain the GPU and reset it", Advice::DrainGpu),
        5 => {
            bad("the driver asks to recover the IMEX domain, which shares memory between nodes", Advice::FollowWorkflow)
        }
        _ => bad("the driver asks for an action that is unknown to failsafe", Advice::AskDriver),
    }
}

//! How many decisions of rules a run may cause. Each costs an entry of the log, an incident and evidence, on a thread that all runs share.
//!
//! Invariant: a decision that contains is made, whatever was decided before it.

use super::RunState;
use crate::{
    decision::{Action, Mode},
    engine::PACED,
    time::MonoTime,
};

/// Decisions of a run that contain nothing: so many at once ...
pub const AT_ONCE: u32 = 64;
/// ... and then one in this time, in nanoseconds: 16 a second.
const EVERY_NS: u64 = 62_500_000;

/// What is left of decisions.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    left: u32,
    filled: MonoTime,
}

impl Pace {
    pub(super) fn new(at: MonoTime) -> Pace {
        Pace { left: AT_ONCE, filled: at }
    }

    fn take(&mut self, at: MonoTime) -> bool {
        let earned = at.since(self.filled).0 / EVERY_NS;
        if earned > 0 {
            let room = u64::from(AT_ONCE - self.left);
            let whole = earned >= room;
            self.left += u32::try_from(earned.min(room)).unwrap_or(0);
            self.filled = if whole { at } else { MonoTime(self.filled.0.saturating_add(earned * EVERY_NS)) };
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

impl RunState {
    /// Whether a decision of a rule is made now. Cordons have a pace of their own, so that no notification takes their place.
    pub(super) fn is_in_pace(&mut self, actions: &[Action], mode: Mode, at: MonoTime) -> bool {
        let acts = mode == Mode::Enforce && !self.observed;
        if self.is_as_engine_before(PACED) || acts && actions.iter().any(|action| action.contains()) {
            return true;
        }
        let cordons = acts && actions.iter().any(|action| matches!(action, Action::CordonGpu | Action::CordonNode));
        if cordons { self.cordons.take(at) } else { self.pace.take(at) }
    }
}

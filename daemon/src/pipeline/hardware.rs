//! Counts an XID once that both NVML and the kernel log report, and carries out cordons, because the pipeline owns
//! the health.

use super::Pipeline;
use crate::platform::clock;
use failsafe_core::{
    Action, Actor, Decision, GpuId, Input, MonoTime, Outcome, Subject, Value,
    decision::{Cause, Verdict},
    event::Event,
    health::{Order, OrderKind, Target},
    input::Unread,
    record::Record,
    xid::DedupResult,
};

impl Pipeline {
    /// Puts on record that a signal cannot be read, or is read again: once, however often it is told.
    pub(super) fn note_unread(&mut self, unread: &Unread) {
        let key = (unread.gpu.clone(), unread.kind.clone());
        let news = if unread.why.is_some() { self.unread.insert(key) } else { self.unread.remove(&key) };
        if news {
            let gap = unread.gap();
            tracing::warn!(gpu = %unread.gpu, blind = gap.blind, what = gap.what, "gap");
            self.parts.log.record(&Record::Gap(gap), None, None);
        }
    }

    /// Whether it is an XID that was told a moment ago, perhaps by another sensor.
    pub(super) fn is_echo(&mut self, input: &Input) -> bool {
        let Input::Signal(signal) = input else { return false };
        let (Subject::Gpu(gpu), Value::Event(Event::Xid { code, slice })) = (&signal.subject, &signal.value) else {
            return false;
        };
        // The same of two instances is two.
        let place = slice.as_ref().map_or_else(|| gpu.0.clone(), |slice| format!("{gpu} {}", slice.gpu_instance));
        match self.storms.hear(&place, *code, signal.source, signal.at) {
            DedupResult::Tell { held_back } => {
                tracing::warn!(%gpu, code, held_back, source = %signal.source, "XID");
                false
            }
            DedupResult::Storm | DedupResult::Echo => true,
        }
    }

    /// Cordons are health's, which lives here: they are done at once, and told like any other outcome.
    pub(super) fn cordons(&mut self, decision: &Decision, run: &str) {
        for action in decision.actions.iter().filter(|a| matches!(a, Action::CordonGpu | Action::CordonNode)) {
            let target = match action {
                Action::CordonGpu => gpu_of(decision).map(Target::Gpu),
                _ => Some(Target::Node),
            };
            let (verdict, proofs) = match target {
                None => (Verdict::Failed("the rule did not trip on a GPU".into()), Vec::new()),
                Some(target) => {
                    let by = match &decision.cause {
                        Cause::Rule { rule, .. } => format!("rule {rule} of run {run}"),
                        _ => format!("run {run}"),
                    };
                    let why = decision.incident.to_string();
                    let actor = Some(Actor::Daemon);
                    let order = Order { kind: OrderKind::Cordon, target, by, actor, why };
                    match self.parts.health.cordon(&order) {
                        Ok(proof) => (Verdict::Proved, vec![proof]),
                        Err(error) => (Verdict::Failed(error.to_string()), Vec::new()),
                    }
                }
            };
            let at = MonoTime(clock::monotonic_ns());
            let (action, took) = (*action, at.since(decision.at));
            let (decision, incident) = (decision.id, decision.incident);
            let outcome = Outcome { decision, incident, action, verdict, proofs, at, took };
            self.at_once.push(outcome);
        }
    }
}

/// The GPU that a decision's rule tripped on.
fn gpu_of(decision: &Decision) -> Option<GpuId> {
    decision.values.iter().find_map(|seen| match (&seen.subject, &seen.value) {
        (Subject::Gpu(gpu), _) => Some(gpu.clone()),
        (_, Value::Event(Event::ForeignGpuProcess { gpu, .. })) => Some(GpuId(gpu.clone())),
        _ => None,
    })
}

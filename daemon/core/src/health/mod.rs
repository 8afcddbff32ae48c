//! Health: whether work may be placed on each GPU and on the node, and why not.
//!
//! ```text
//! Input (signal, XID, gap, tick), Fact, Order ─► Health ─► Change ─► audit log, watchers, the state folder
//!                                                  └► View ─► placeable?
//! ```
//!
//! Owns the level of each part and the reasons for it. Invariants: no clock (time is in what comes in); what is not seen, or
//! was seen too long ago, is `unknown`, never `healthy`; `unhealthy` is left only by an order; a reason that comes and goes is
//! held until it has been gone for a while.

mod checks;
mod level;
mod listing;
mod order;
mod part;
mod place;
mod recovery;
mod thresholds;
mod view;
mod wear;
mod xids;

pub use level::{Change, Happened, Level, Reason, Target, Until};
pub use listing::places;
pub use order::{Fact, Order, OrderKind, OrderRefused, Slot, Unreachable};
pub use place::{Closed, Constraints, Equipment, MigWanted, Placement, Traits, Wanted};
pub use thresholds::Thresholds;
pub use view::{NO_PROGRESS, PartView, View};

use crate::{
    event::{Event, GpuEvent},
    input::{Gap, Input, Unread},
    signal::{Kind, Signal, Source, Value},
    subject::{GpuId, Subject},
    time::{MonoTime, Span},
    xid::{Advice, Catalogue},
};
use part::Part;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// The code of an operator's or a rule's cordon.
pub const CORDONED: &str = "cordoned";
/// The code of a part that is not seen.
pub const BLIND: &str = "blind";
/// The code of a part of which signals cannot be read by which it is judged.
pub const UNREAD: &str = "signals-unread";
/// The same event of the same GPU is told again after this; what came between is counted.
const EVENT_AGAIN: Span = Span::from_secs(60);
/// The code of an answer that is too old.
pub const STALE: &str = "stale";

/// How health starts.
#[derive(Debug, Clone, Copy)]
pub struct Start {
    /// Now.
    pub at: MonoTime,
    /// Wall clock minus `CLOCK_MONOTONIC`, nanoseconds: times are for people, and are kept over a boot.
    pub wall_offset_ns: i64,
    /// How old a sample may be.
    pub fresh: Span,
    /// Whether GPUs are looked at; then the node is unknown until NVML answers.
    pub gpus: bool,
}

/// What outlives a restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    revision: u64,
    node: part::KeptPart,
    gpus: BTreeMap<GpuId, part::KeptPart>,
    #[serde(default)]
    kernel_log: Option<ReadTo>,
}

/// How far the kernel's log is in what is kept: beside what it said, in one file, so that no crash counts a line twice or not
/// at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadTo {
    /// The boot whose log it is; each begins with another.
    pub boot_id: String,
    /// The last record that is in it.
    pub sequence: u64,
}

/// The health of a node and its GPUs.
#[derive(Debug, Clone)]
pub struct Health {
    catalogue: Arc<Catalogue>,
    thresholds: Arc<Thresholds>,
    fresh: Span,
    wall_offset_ns: i64,
    now: MonoTime,
    revision: u64,
    node: Part,
    gpus: BTreeMap<GpuId, Part>,
    kernel_log: Option<ReadTo>,
    /// When each event of each GPU was last told, and how often it came since.
    events: BTreeMap<(GpuId, GpuEvent), (Option<MonoTime>, u64)>,
}

impl Health {
    /// Health of a node of which nothing is known but what was kept.
    pub fn new(catalogue: Arc<Catalogue>, thresholds: Arc<Thresholds>, kept: Kept, start: Start) -> Health {
        let Start { at, wall_offset_ns, fresh, gpus } = start;
        let now = Stamp::new(at, wall_offset_ns);
        let unseen = |part| Part::restored(part, "no sample has come yet", now);
        let node = match gpus {
            true => Part::restored(kept.node, "NVML has not answered yet", now),
            false => Part::from_kept(kept.node, now),
        };
        let gpus = kept.gpus.into_iter().map(|(gpu, part)| (gpu, unseen(part))).collect();
        let kernel_log = kept.kernel_log;
        Health {
            catalogue,
            thresholds,
            fresh,
            wall_offset_ns,
            now: at,
            // A damaged file has no number from which no other follows.
            revision: kept.revision.min(u64::MAX / 2),
            node,
            gpus,
            kernel_log,
            events: BTreeMap::new(),
        }
    }

    /// What is to be kept.
    pub fn keep(&self) -> Kept {
        Kept {
            revision: self.revision,
            node: self.node.keep(),
            gpus: self.gpus.iter().map(|(gpu, part)| (gpu.clone(), part.keep())).collect(),
            kernel_log: self.kernel_log.clone(),
        }
    }

    /// How far the kernel's log was taken in.
    pub fn read_to(&self) -> Option<&ReadTo> {
        self.kernel_log.as_ref()
    }

    /// What the kernel's log says up to here is taken in with the next fact or input.
    pub fn reads_to(&mut self, to: ReadTo) {
        self.kernel_log = Some(to);
    }

    /// Whether this XID, told late by the kernel's log, is one that was heard when it came.
    pub fn knows_xid(&self, gpu: &GpuId, code: u64, at: MonoTime) -> bool {
        self.gpus.get(gpu).is_some_and(|part| part.knows_xid(code, self.stamp(at)))
    }

    /// Takes in an input of the core.
    pub fn take(&mut self, input: &Input) -> Vec<Change> {
        match input {
            // Health is of whole GPUs: what a MIG device tells of itself says how busy it is.
            Input::Signal(Signal { subject: Subject::Gpu(gpu), .. }) | Input::Unread(Unread { gpu, .. })
                if gpu.is_mig() =>
            {
                Vec::new()
            }
            Input::Signal(signal) => match &signal.subject {
                Subject::Gpu(gpu) => self.gpu_signal(&gpu.clone(), signal),
                _ => Vec::new(),
            },
            Input::Gap(gap) if gap.source == Source::Nvml => self.gap(gap),
            Input::Unread(unread) => self.unread(unread),
            Input::Tick(at) => self.tick(*at),
            _ => Vec::new(),
        }
    }

    /// Takes in a fact.
    pub fn fact(&mut self, fact: &Fact) -> Vec<Change> {
        match fact {
            Fact::Listed { gpus, unreachable, at } => {
                self.advance(*at);
                let now = self.stamp(*at);
                listing::list(&mut self.gpus, gpus, unreachable, now);
                if gpus.is_empty() && unreachable.is_empty() {
                    self.node.drop_reason(BLIND);
                }
                self.settle(None)
            }
            Fact::Xid { gpu, code, at } => {
                self.advance(*at);
                let now = self.stamp(*at);
                let part = self.gpus.entry(gpu.clone()).or_insert_with(|| Part::unseen(now));
                if part.xid(&self.catalogue, &self.thresholds, *code, now) { self.settle(None) } else { Vec::new() }
            }
            Fact::XidRecord { gpu, code, text, at } => {
                self.advance(*at);
                let now = self.stamp(*at);
                let part = self.gpus.entry(gpu.clone()).or_insert_with(|| Part::unseen(now));
                let changed = part.xid_record(&self.catalogue, &self.thresholds, *code, text, now);
                if changed { self.settle(None) } else { Vec::new() }
            }
            Fact::Lost { gpu, why, at } => {
                let text = format!("the GPU is lost: {why}");
                let target = Target::Gpu(gpu.clone());
                self.note(&target, "gpu-lost", Level::Unhealthy, (text, Advice::RebootNode), Until::Day, *at)
            }
            Fact::Over { target, code, at } => {
                self.advance(*at);
                let part = match target {
                    Target::Node => Some(&mut self.node),
                    Target::Gpu(gpu) => self.gpus.get_mut(gpu),
                };
                if part.is_some_and(|part| part.drop_reason(code)) { self.settle(None) } else { Vec::new() }
            }
            Fact::Noted { target, code, level, text, advice, at } => {
                self.note(target, code, *level, (text.clone(), *advice), Until::Day, *at)
            }
            Fact::Lasting { target, code, text, until, at } => {
                self.note(target, code, Level::Degraded, (text.clone(), Advice::RecordOnly), *until, *at)
            }
        }
    }

    /// Obeys an order.
    ///
    /// # Errors
    /// [`OrderRefused`].
    pub fn order(&mut self, order: &Order, at: MonoTime) -> Result<Vec<Change>, OrderRefused> {
        self.advance(at);
        let now = self.stamp(at);
        if order.kind == OrderKind::Forget {
            return self.forget(order, now);
        }
        let part = match &order.target {
            Target::Node => &mut self.node,
            Target::Gpu(gpu) => self.gpus.get_mut(gpu).ok_or_else(|| OrderRefused::NoSuchGpu(gpu.clone()))?,
        };
        match order.kind {
            OrderKind::Cordon => {
                let text = format!("cordoned by {}: {}", order.by, order.why);
                part.note(CORDONED, Level::Draining, text, Advice::RecordOnly, now);
            }
            OrderKind::Uncordon => {
                part.drop_reason(CORDONED);
            }
            OrderKind::Reset | OrderKind::Forget => part.reset(),
        }
        Ok(self.settle(Some(order)))
    }

    /// Removes a GPU that NVML does not list. The last change of it says by whom.
    fn forget(&mut self, order: &Order, now: Stamp) -> Result<Vec<Change>, OrderRefused> {
        let Target::Gpu(gpu) = &order.target else { return Err(OrderRefused::NotAGpu) };
        let part = self.gpus.get(gpu).ok_or_else(|| OrderRefused::NoSuchGpu(gpu.clone()))?;
        if !part.is_missing() {
            return Err(OrderRefused::Present(gpu.clone()));
        }
        let mut change = part.forgotten(order.target.clone(), now);
        self.gpus.remove(gpu);
        self.revision += 1;
        change.revision = self.revision;
        order.sign(&mut change);
        let mut changes = vec![change];
        changes.extend(self.settle(Some(order)));
        Ok(changes)
    }

    /// Where each GPU is that is or was in this node.
    pub fn slots(&self) -> BTreeMap<GpuId, Slot> {
        self.gpus.iter().filter_map(|(gpu, part)| Some((gpu.clone(), part.slot()?.clone()))).collect()
    }

    /// The node as it stands.
    pub fn view(&self) -> View {
        View {
            revision: self.revision,
            as_of: self.now,
            fresh: self.fresh,
            node: self.node.view(),
            gpus: self.gpus.iter().map(|(gpu, part)| (gpu.clone(), part.view())).collect(),
        }
    }

    fn gpu_signal(&mut self, gpu: &GpuId, signal: &Signal) -> Vec<Change> {
        self.advance(signal.at);
        let now = self.stamp(signal.at);
        let peers = self.peers(gpu, &signal.kind);
        let part = self.gpus.entry(gpu.clone()).or_insert_with(|| Part::unseen(now));
        let changed = match &signal.value {
            Value::Event(Event::Xid { code, .. }) => part.xid(&self.catalogue, &self.thresholds, *code, now),
            Value::Event(Event::Gpu { what }) => return self.happened(gpu, *what, signal.at),
            Value::Integer(value) if signal.source == Source::Nvml => {
                part.sample(&self.thresholds, &signal.kind, *value, peers, now) | self.node.drop_reason(BLIND)
            }
            Value::Integer(value) if signal.source == Source::Amdgpu => {
                part.sample(&self.thresholds, &signal.kind, *value, peers, now)
            }
            _ => false,
        };
        if changed { self.settle(None) } else { Vec::new() }
    }

    /// The most NVLinks that are up on another GPU of the node with as many links.
    fn peers(&self, gpu: &GpuId, kind: &Kind) -> Option<i64> {
        if *kind != Kind::GpuNvlinkActive {
            return None;
        }
        let links = self.gpus.get(gpu)?.last(&Kind::GpuNvlinkLinks)?;
        let others =
            self.gpus.iter().filter(|(other, part)| *other != gpu && part.last(&Kind::GpuNvlinkLinks) == Some(links));
        others.filter_map(|(_, part)| part.last(&Kind::GpuNvlinkActive)).max()
    }

    /// What happened on a GPU is a change that watchers and the record are told of, once a minute of the same kind.
    fn happened(&mut self, gpu: &GpuId, what: GpuEvent, at: MonoTime) -> Vec<Change> {
        if what.is_ordinary() {
            return Vec::new();
        }
        let last = self.events.entry((gpu.clone(), what)).or_default();
        last.1 += 1;
        if last.0.is_some_and(|last_at| at.since(last_at) < EVENT_AGAIN) {
            return Vec::new();
        }
        let (_, times) = std::mem::replace(last, (Some(at), 0));
        let now = self.stamp(at);
        let Some(part) = self.gpus.get(gpu) else { return Vec::new() };
        self.revision += 1;
        let change = part.happened(Target::Gpu(gpu.clone()), Happened { what, times }, now);
        vec![Change { revision: self.revision, ..change }]
    }

    fn gap(&mut self, gap: &Gap) -> Vec<Change> {
        self.advance(gap.at);
        let now = self.stamp(gap.at);
        match (&gap.gpu, gap.blind) {
            (Some(gpu), true) => {
                self.gpus.entry(gpu.clone()).or_insert_with(|| Part::unseen(now)).blind(&gap.what, now)
            }
            // A sample says that it is seen; this alone does not.
            (Some(_), false) => {}
            (None, true) => {
                self.node.blind(&format!("NVML sees nothing: {}", gap.what), now);
                for (_, part) in self.gpus.iter_mut().filter(|(gpu, _)| !gpu.is_amd()) {
                    part.blind(&format!("NVML sees nothing: {}", gap.what), now);
                }
            }
            (None, false) => {
                self.node.drop_reason(BLIND);
            }
        }
        self.settle(None)
    }

    /// A signal by which a GPU is judged cannot be read, or is read again.
    fn unread(&mut self, unread: &Unread) -> Vec<Change> {
        self.advance(unread.at);
        let now = self.stamp(unread.at);
        let part = self.gpus.entry(unread.gpu.clone()).or_insert_with(|| Part::unseen(now));
        part.unread(&unread.kind, unread.why.as_deref(), now);
        self.settle(None)
    }

    fn note(
        &mut self,
        target: &Target,
        code: &str,
        level: Level,
        (text, advice): (String, Advice),
        until: Until,
        at: MonoTime,
    ) -> Vec<Change> {
        self.advance(at);
        let now = self.stamp(at);
        let part = match target {
            Target::Node => &mut self.node,
            Target::Gpu(gpu) => self.gpus.entry(gpu.clone()).or_insert_with(|| Part::unseen(now)),
        };
        part.note_until(until, code, level, text, advice, now);
        self.settle(None)
    }

    fn tick(&mut self, at: MonoTime) -> Vec<Change> {
        self.advance(at);
        let now = self.stamp(at);
        let fresh = self.fresh;
        for part in self.gpus.values_mut() {
            part.tick(fresh, now);
            part.forget_old_events(now);
        }
        self.node.forget_old_events(now);
        self.settle(None)
    }

    fn advance(&mut self, at: MonoTime) {
        self.now = self.now.max(at);
    }

    fn stamp(&self, at: MonoTime) -> Stamp {
        Stamp::new(at, self.wall_offset_ns)
    }

    /// Levels anew; a change for each part whose level or reasons are others now.
    fn settle(&mut self, order: Option<&Order>) -> Vec<Change> {
        let now = self.stamp(self.now);
        let mut changes = Vec::new();
        let mut report_change = |revision: &mut u64, target: Target, part: &mut Part, level: Level| {
            if let Some(mut change) = part.settle(target, level, now) {
                *revision += 1;
                change.revision = *revision;
                if let Some(order) = order {
                    order.sign(&mut change);
                }
                changes.push(change);
            }
        };
        for (gpu, part) in &mut self.gpus {
            let level = part.own_level();
            report_change(&mut self.revision, Target::Gpu(gpu.clone()), part, level);
        }
        let level = level::of_node(self.node.own_level(), self.gpus.values().map(Part::own_level));
        report_change(&mut self.revision, Target::Node, &mut self.node, level);
        changes
    }
}

/// An instant, on both clocks.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    at: MonoTime,
    wall_ns: i64,
}

impl Stamp {
    fn new(at: MonoTime, wall_offset_ns: i64) -> Stamp {
        Stamp { at, wall_ns: i64::try_from(at.0).unwrap_or(i64::MAX).saturating_add(wall_offset_ns) }
    }
}

#[cfg(test)]
mod tests;

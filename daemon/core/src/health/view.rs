//! How the node and its GPUs stand, as it is told.

use super::{Level, Reason, STALE, Until};
use crate::{
    subject::GpuId,
    time::{MonoTime, Span},
    xid::Advice,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A part as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartView {
    /// Its level.
    pub level: Level,
    /// Since when, ns since the epoch.
    pub since_ns: i64,
    /// Why it is not healthy, the worst first.
    pub reasons: Vec<Reason>,
}

/// The node as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Grows with every change.
    pub revision: u64,
    /// When health last took something in.
    pub as_of: MonoTime,
    /// An older answer is `unknown`.
    pub fresh: Span,
    /// The node: its own reasons and, summed up, its GPUs'.
    pub node: PartView,
    /// Its GPUs.
    pub gpus: BTreeMap<GpuId, PartView>,
}

impl View {
    /// The view as it is to be told at `now`: `unknown` where nothing was taken in for too long.
    #[must_use]
    pub fn at(mut self, now: MonoTime) -> View {
        let age = now.since(self.as_of);
        if age <= self.fresh {
            return self;
        }
        let text = format!("the last word is {age} old; {} is the most", self.fresh);
        for part in self.gpus.values_mut().chain([&mut self.node]) {
            let stale = Reason {
                code: STALE.to_owned(),
                level: Level::Unknown,
                text: text.clone(),
                since_ns: part.since_ns,
                last_ns: part.since_ns,
                count: 1,
                advice: Advice::InspectHardware,
                until: Until::Day,
            };
            part.level = part.level.worst(Level::Unknown);
            part.reasons.push(stale);
        }
        self
    }
}

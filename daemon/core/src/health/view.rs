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

/// The code of a node on which a thread that freezes makes no progress.
pub const NO_PROGRESS: &str = "no-progress";

impl View {
    /// Whether something was taken in lately, as seen at `now`.
    #[must_use]
    pub fn is_fresh(&self, now: MonoTime) -> bool {
        now.since(self.as_of) <= self.fresh
    }

    /// The view of a node on which this thread of the freeze path has made no progress for that long: nothing says that a run of it can be
    /// frozen now. It ends when the thread makes progress.
    #[must_use]
    pub fn without_progress(mut self, thread: &str, since: Span, wall_ns: i64) -> View {
        let began_ns = wall_ns.saturating_sub(i64::try_from(since.0).unwrap_or(i64::MAX));
        let reason = Reason {
            code: NO_PROGRESS.to_owned(),
            level: Level::Unhealthy,
            text: format!(
                "the thread `{thread}`, which is needed to freeze runs, has made no progress for {since}: violations are not acted upon"
            ),
            since_ns: began_ns,
            last_ns: wall_ns,
            count: 1,
            advice: Advice::RecordOnly,
            until: Until::Over,
        };
        if self.node.level < Level::Unhealthy {
            self.node.since_ns = began_ns;
        }
        self.node.level = self.node.level.worst(Level::Unhealthy);
        self.node.reasons.insert(0, reason);
        self
    }

    /// The view as it is to be told at `now`: `unknown` where nothing was taken in for too long.
    #[must_use]
    pub fn at(mut self, now: MonoTime) -> View {
        if self.is_fresh(now) {
            return self;
        }
        let age = now.since(self.as_of);
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

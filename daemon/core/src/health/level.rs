//! Levels, the reasons for them, and changes of them: what people, schedulers and the audit log are told.

use crate::{actor::Actor, event::GpuEvent, subject::GpuId, xid::Advice};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How well a part is. In the order in which one hides another: a cordoned GPU out of sight is told as draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nothing speaks against it.
    Healthy,
    /// It works, but not as it should: work may be placed on it by those who accept that.
    Degraded,
    /// It is not seen, or was not seen lately enough.
    Unknown,
    /// Nothing new is to be placed on it.
    Draining,
    /// It must not be used until somebody resets it.
    Unhealthy,
}

impl Level {
    /// The name in files and answers.
    pub fn name(self) -> &'static str {
        match self {
            Level::Healthy => "healthy",
            Level::Degraded => "degraded",
            Level::Unknown => "unknown",
            Level::Draining => "draining",
            Level::Unhealthy => "unhealthy",
        }
    }

    /// The one of two that hides the other.
    #[must_use]
    pub fn worst(self, other: Level) -> Level {
        self.max(other)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The node's level: its own, or what its GPUs make of it. One bad GPU degrades a node; it is as bad as they are only when
/// all of them are at least that bad.
pub(super) fn of_node(own: Level, gpus: impl Iterator<Item = Level>) -> Level {
    let (mut best, mut worst) = (Level::Unhealthy, Level::Healthy);
    let mut any = false;
    for level in gpus {
        any = true;
        best = best.min(level);
        worst = worst.max(level);
    }
    let of_gpus = match (any, worst) {
        (false, _) | (true, Level::Healthy) => Level::Healthy,
        (true, _) => best.max(Level::Degraded),
    };
    own.worst(of_gpus)
}

/// Whose health.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The node.
    Node,
    /// One of its GPUs.
    Gpu(GpuId),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Node => f.write_str("node"),
            Target::Gpu(gpu) => gpu.fmt(f),
        }
    }
}

/// Something that speaks against a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A stable word for programs, such as `xid-79` or `row-remap-failure`.
    pub code: String,
    /// What it makes of the part.
    pub level: Level,
    /// In words, with the evidence.
    pub text: String,
    /// Since when, ns since the epoch.
    pub since_ns: i64,
    /// When it was last seen.
    pub last_ns: i64,
    /// How often.
    pub count: u64,
    /// What to do.
    pub advice: Advice,
    /// What ends it.
    #[serde(default, skip_serializing_if = "Until::is_default")]
    pub until: Until,
}

/// What ends a reason. Reasons of unhealthy parts, of signals, and cordons have rules of their own, see [`super`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// A day without another event of this kind, or a reset.
    #[default]
    Day,
    /// A reset: nothing later shows that it is over.
    Reset,
    /// A [`Fact::Over`](super::Fact::Over): it is a state that lasts. A reset does not change it.
    Over,
}

impl Until {
    fn is_default(&self) -> bool {
        *self == Until::Day
    }
}

/// An event of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// What.
    pub what: GpuEvent,
    /// How often since it was last told, with this time.
    pub times: u64,
}

/// A part's level or reasons changed, or something happened on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Counts all changes of the node.
    pub revision: u64,
    /// Whose.
    pub target: Target,
    /// The level before.
    pub from: Level,
    /// The level now.
    pub to: Level,
    /// Reasons that are new.
    pub added: Vec<Reason>,
    /// Codes of reasons that are gone.
    pub removed: Vec<String>,
    /// Whose order, and why, where it was one.
    pub by: Option<String>,
    /// Who asked, where it was an order; none in entries of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// What happened on the GPU, which by itself changes neither: what it has done to the GPU, its signals tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<Happened>,
    /// When, ns since the epoch.
    pub at_ns: i64,
}

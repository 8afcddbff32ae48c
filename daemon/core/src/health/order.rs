//! What health is told beside the core's inputs: facts of other sensors, and orders of people and policies.

use super::level::{Change, Level, Target, Until};
use crate::{actor::Actor, subject::GpuId, time::MonoTime, xid::Advice};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What health is told beside the core's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// NVML lists these GPUs, and no others.
    Listed {
        /// Those that answer, each with its place.
        gpus: BTreeMap<GpuId, Slot>,
        /// Those that NVML counts and that do not answer, by NVML's index.
        unreachable: BTreeMap<u32, Unreachable>,
        /// When.
        at: MonoTime,
    },
    /// An XID that concerns no run: it came while no daemon watched.
    Xid {
        /// The GPU.
        gpu: GpuId,
        /// NVIDIA's number.
        code: u64,
        /// When it came.
        at: MonoTime,
    },
    /// What the kernel log states of an XID beside its number. The number itself comes as an input or as [`Fact::Xid`].
    XidRecord {
        /// The GPU.
        gpu: GpuId,
        /// NVIDIA's number.
        code: u64,
        /// What follows the number in the record.
        text: String,
        /// When it came.
        at: MonoTime,
    },
    /// A GPU is lost: it answers nothing until it is reset or the node is booted.
    Lost {
        /// The GPU.
        gpu: GpuId,
        /// What said so.
        why: String,
        /// When.
        at: MonoTime,
    },
    /// What was noted under this code is over.
    Over {
        /// Of which part.
        target: Target,
        /// The reason's code.
        code: String,
        /// When.
        at: MonoTime,
    },
    /// A state of a part that lasts: degraded until something ends it.
    Lasting {
        /// Which part.
        target: Target,
        /// The reason's code.
        code: String,
        /// What it is.
        text: String,
        /// What ends it.
        until: Until,
        /// When.
        at: MonoTime,
    },
    /// Something else speaks against a part: the kernel's log.
    Noted {
        /// Which part.
        target: Target,
        /// The reason's code.
        code: String,
        /// What it makes of the part.
        level: Level,
        /// In words.
        text: String,
        /// What to do.
        advice: Advice,
        /// When.
        at: MonoTime,
    },
}

/// Where a GPU is. The UUID is its identity; these are names that a person or a scheduler uses for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Slot {
    /// NVML's index. It shifts when a GPU before it is missing.
    pub index: u32,
    /// The minor number N of `/dev/nvidiaN`.
    pub minor: Option<u32>,
    /// The PCI address.
    pub pci: Option<String>,
}

/// A GPU that NVML counts but that gives no handle or no UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// What the call returned, or that it has not returned.
    pub why: String,
    /// The error says that the GPU must be reset or replaced, and not only that it has not answered yet.
    pub failed: bool,
}

/// What somebody may order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderKind {
    /// Place nothing new here.
    Cordon,
    /// Placing is allowed again.
    Uncordon,
    /// The cause was repaired: the reasons are removed and the part is evaluated again.
    Reset,
    /// The GPU was removed on purpose: it is no longer expected. Refused while NVML lists it.
    Forget,
}

/// An authorised order of a person or of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub kind: OrderKind,
    /// Of which part.
    pub target: Target,
    /// Who, in words: a user with its role, or a rule.
    pub by: String,
    /// Who asked; none in entries of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// Why.
    pub why: String,
}

impl Order {
    /// Notes that the change is what was ordered.
    pub(super) fn sign(&self, change: &mut Change) {
        change.by = Some(format!("{}: {}", self.by, self.why));
        change.actor.clone_from(&self.actor);
    }
}

/// Why an order is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefused {
    /// The node does not have the GPU.
    #[error("this node has no GPU {0}")]
    NoSuchGpu(GpuId),
    /// A GPU that is there cannot be forgotten.
    #[error("GPU {0} is present: only a GPU that NVML does not list can be forgotten")]
    Present(GpuId),
    /// Only GPUs can be forgotten.
    #[error("the node itself cannot be forgotten: name a GPU")]
    NotAGpu,
}

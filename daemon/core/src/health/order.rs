//! What health is told beside the core's inputs: facts of other sensors, and orders of people and policies.

use super::level::{Level, Target};
use crate::{subject::GpuId, time::MonoTime, xid::Advice};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What health is told beside the core's inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// NVML lists these GPUs, and no others.
    Listed {
        /// All of them.
        gpus: BTreeSet<GpuId>,
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

/// What somebody may order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderKind {
    /// Place nothing new here.
    Cordon,
    /// Placing is allowed again.
    Uncordon,
    /// What speaks against the part is dealt with; it is judged anew.
    Reset,
}

/// An authorised order of a person or of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub kind: OrderKind,
    /// Of which part.
    pub target: Target,
    /// Who: a user with its role, or a rule.
    pub by: String,
    /// Why.
    pub why: String,
}

/// An order about a GPU that this node does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this node has no GPU {0}")]
pub struct NoSuchGpu(pub GpuId);

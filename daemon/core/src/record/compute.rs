//! What a run computes with: changed factors, moments of signed statements, checkpoints.

use crate::event::FactorClass;
use serde::{Deserialize, Serialize};

/// A factor of a run's fingerprint with two known values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactorChange {
    /// The factor.
    pub path: String,
    /// The value before; none: it was known to be absent.
    pub old: Option<String>,
    /// The value now; none: it is known to be absent.
    pub new: Option<String>,
    /// What the difference can change.
    pub class: FactorClass,
}

/// A moment in the life of a run of which a statement is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// Its first programs were loaded.
    Start,
    /// An incident was opened.
    Incident,
    /// It has ended.
    End,
}

impl At {
    /// The name in statements and answers.
    pub fn name(self) -> &'static str {
        match self {
            At::Start => "start",
            At::Incident => "incident",
            At::End => "end",
        }
    }
}

/// A checkpoint of a run, as its owner announces it. The daemon does not open the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Where it is.
    pub path: String,
    /// The step of training; none where it was not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// Whether it is known to be good.
    #[serde(default)]
    pub good: bool,
    /// `sha256:HEX` of its content, made by whoever announces it.
    pub digest: String,
    /// Size of its content, in bytes.
    pub bytes: u64,
}

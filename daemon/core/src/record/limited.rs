//! Entries that were not written because the budget of a user is spent.

use crate::subject::RunId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Entries that were not written because the budget of a user is spent, summed up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limited {
    /// The user.
    pub uid: u32,
    /// The run that they were about.
    pub run: Option<RunId>,
    /// How many.
    pub entries: u64,
    /// How long they were, in bytes.
    pub bytes: u64,
    /// How many of each kind.
    pub kinds: BTreeMap<String, u64>,
    /// The numbers of the first 1,024 decisions among them.
    pub decisions: Vec<u32>,
    /// How many of them are beginnings of discovered runs. Each is written as an entry of its own as well if somebody or a rule intervenes
    /// on its run later.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub beginnings: u64,
    /// The largest number of a decision among them; 0: none.
    pub last_decision: u32,
    /// The largest number of an incident among them.
    pub last_incident: u32,
    /// SHA-256 over their bodies, each followed by a line end.
    pub sha256: String,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

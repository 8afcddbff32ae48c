//! By what the owner of a discovered run is found after its start.

use serde::{Deserialize, Serialize};
use std::fmt;

/// By what the owner of a run was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnerBy {
    /// The folder of its cgroup belongs to this user.
    Folder,
    /// All processes in its cgroup are of this user.
    Processes,
}

impl fmt::Display for OwnerBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OwnerBy::Folder => "the folder of its cgroup belongs to this user",
            OwnerBy::Processes => "all its processes are of this user",
        })
    }
}

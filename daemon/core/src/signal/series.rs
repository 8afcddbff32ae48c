//! Series of a metric: each rank of a run, or each of its processes, reports values of its own.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Series of one run that are kept apart.
pub const MAX_SERIES: usize = 256;
/// Longest rank label, bytes.
pub const MAX_RANK: usize = 32;

/// Which of a run's series a value belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Series {
    /// A label that the run gave: the rank.
    Rank(String),
    /// The reporting process, where the run gave no rank.
    Process {
        /// Process id in the host's pid namespace.
        pid: u32,
        /// Start time in clock ticks since boot: tells it from a later process with the same pid.
        start_ticks: u64,
    },
}

impl Series {
    /// The series of a rank label; `None` where the label is empty, too long, or has other characters than letters, digits,
    /// `-`, `_` and `.`.
    pub fn rank(label: &str) -> Option<Series> {
        let good = (1..=MAX_RANK).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        good.then(|| Series::Rank(label.to_owned()))
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Series::Rank(label) => write!(f, "rank {label}"),
            Series::Process { pid, .. } => write!(f, "pid {pid}"),
        }
    }
}

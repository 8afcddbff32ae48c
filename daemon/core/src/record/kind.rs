//! The kinds of records, by which `failsafectl events` filters.

use super::Record;

impl Record {
    /// All that [`Record::kind`] returns.
    pub const KINDS: [&'static str; 14] = [
        "decision",
        "outcome",
        "evidence",
        "control",
        "run",
        "policy",
        "gap",
        "health",
        "order",
        "daemon",
        "drift",
        "manifest",
        "statement",
        "drill",
    ];

    /// The entry's kind: what `failsafectl events` shows and filters by.
    pub fn kind(&self) -> &'static str {
        match self {
            Record::DaemonStarted { .. }
            | Record::Nvml { .. }
            | Record::DaemonStopped
            | Record::StateFiles { .. }
            | Record::RunsRemoved { .. } => "daemon",
            Record::RunStarted { .. }
            | Record::StartKept { .. }
            | Record::RunAdopted { .. }
            | Record::RunEnded { .. }
            | Record::RunTotals { .. }
            | Record::RunGpus { .. }
            | Record::RunOwner { .. }
            | Record::Egress { .. }
            | Record::Rerun { .. }
            | Record::RecordingClosed { .. } => "run",
            Record::Statement { .. } => "statement",
            Record::Drill(_) => "drill",
            Record::PolicyRefused { .. } | Record::Shadow { .. } | Record::Canary { .. } => "policy",
            Record::Control(_) | Record::ControlOutcome { .. } => "control",
            Record::Decision { .. } => "decision",
            Record::Outcome(_) => "outcome",
            Record::Evidence { .. } => "evidence",
            Record::Health(_) => "health",
            Record::Order(_) | Record::GpuReset { .. } | Record::KeyRotated { .. } | Record::Mode { .. } => "order",
            Record::Drift { .. } => "drift",
            Record::Manifest { .. } | Record::Checkpoint { .. } => "manifest",
            Record::Gap(_) | Record::Limited(_) => "gap",
        }
    }
}

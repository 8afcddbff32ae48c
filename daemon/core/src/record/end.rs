//! What is recorded of the end of a run: its recording, what was not decided any more, and who saw the end.

use serde::{Deserialize, Serialize};

/// What became of a recording, as it stood when it was closed. `failsafectl replay` compares the file with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingSeal {
    /// Its number: how many daemons had looked after the run before the one that wrote it.
    pub part: u32,
    /// Frames, the end marker not counted.
    pub frames: u64,
    /// The hash of its last frame in hex, which covers all frames and the header; none where there is no recording.
    pub hash: Option<String>,
    /// Whether it has everything from its beginning to its end.
    pub complete: bool,
    /// Why it is not complete, or not on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Events that matched a rule and led to no decision, because the rule's cooldown lasted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppressed {
    /// The rule's id.
    pub rule: String,
    /// How many since its last decision.
    pub events: u64,
}

/// The end of a run that no daemon watched: it lies between two times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwatched {
    /// When the run was last seen alive, nanoseconds since the epoch; none where nothing shows it.
    pub last_seen_ns: Option<i64>,
    /// When a daemon noticed the end, nanoseconds since the epoch.
    pub noticed_ns: i64,
    /// What shows the end, and what the kernel counted since a daemon last looked, in words.
    pub found: String,
}

impl Unwatched {
    /// What is found of a run of an earlier boot.
    pub const EARLIER_BOOT: &'static str = "it was of an earlier boot";

    /// Whether the end of the boot ended the run.
    pub fn is_reboot(&self) -> bool {
        self.found.starts_with(Self::EARLIER_BOOT)
    }
}

//! A replay in brief, for a page that has more than the replay on it.

use super::{Lost, RecordingEnd, Report};

/// The result of a replay in brief.
pub(in crate::commands) struct Summary<'a> {
    /// The recordings that were read.
    pub names: Vec<&'a str>,
    /// What somebody changed.
    pub problems: &'a [String],
    /// What cannot be compared.
    pub notes: &'a [String],
    /// Decisions that are not covered.
    pub not_covered: &'a [String],
    /// Why nothing was compared with the log.
    pub skipped: Option<&'a str>,
    /// Recordings that cannot be read.
    pub lost: &'a [Lost],
    /// Inputs that were replayed.
    pub inputs: u64,
    /// Decisions in the recordings.
    pub decisions: usize,
    /// Whether the log has the hash of every recording.
    pub sealed: bool,
    /// Whether the replay decided otherwise.
    pub differs: bool,
    /// Whether another engine explains that.
    pub explained: bool,
    /// Which engines decided, where they differ.
    pub engine: String,
    /// Whether all that was decided is compared.
    pub whole: bool,
    /// Whether no recording is cut off.
    pub complete: bool,
}

impl Report {
    /// What it shows about an incident, for somebody who has only these recordings.
    pub(in crate::commands) fn summary(&self) -> Summary<'_> {
        let mut engine = String::new();
        if self.differs_at.is_some() {
            self.engines(&mut engine);
        }
        let names = self.recordings.iter().map(|one| one.name.as_str());
        Summary {
            names: names.collect(),
            problems: &self.problems,
            notes: &self.audit.notes,
            not_covered: &self.not_covered,
            skipped: self.audit.skipped.as_deref(),
            lost: &self.lost,
            inputs: self.replay.inputs,
            decisions: self.replay.recorded.len(),
            sealed: self.audit.hash == Some(true),
            differs: self.differs_at.is_some(),
            explained: self.differs_at.is_some() && self.explained(),
            engine,
            whole: self.is_whole(),
            complete: self.recordings.iter().all(|one| matches!(one.end, RecordingEnd::Finished | RecordingEnd::Open)),
        }
    }
}

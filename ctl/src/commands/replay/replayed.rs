//! One recording, fed to the engine.

use super::{compare::What, recording::Recording};
use failsafe_core::replay::{Change, ENGINE, Replay, changes_since};
use failsafe_journal::RecordingEnd;
use serde_json::{Value, json};

/// One recording and its replay.
#[derive(Debug)]
pub(super) struct Replayed {
    pub name: String,
    pub number: Option<u32>,
    pub end: RecordingEnd,
    /// The decisions of the last input, if it is left out.
    pub left_out: Option<Vec<u32>>,
    pub replay: Replay,
    /// The engine that decided.
    pub engine: u32,
    /// What this engine decides otherwise than that one, as far as it concerns the run.
    pub changes: Vec<&'static Change>,
}

impl Replayed {
    pub(super) fn new(what: &What, recording: &Recording, number: Option<u32>, replay: Replay) -> Replayed {
        let changes = match what {
            What::Same => changes_since(recording.engine(), recording.run(), recording.policy()),
            What::Other { .. } => Vec::new(),
        };
        Replayed {
            name: recording.file().to_owned(),
            number,
            end: recording.end(),
            left_out: recording.left_out().map(<[u32]>::to_vec),
            replay,
            engine: recording.engine(),
            changes,
        }
    }

    /// Whether an earlier engine may have decided otherwise from the same inputs.
    pub(super) fn explained(&self) -> bool {
        self.engine > ENGINE || !self.changes.is_empty()
    }

    pub(super) fn json(&self) -> Value {
        let (end, detail) = end_json(&self.end);
        json!({
            "name": self.name,
            "number": self.number,
            "problem": null,
            "recording_end": end,
            "recording_end_detail": detail,
            "last_input_left_out": self.left_out.is_some(),
            "inputs": self.replay.inputs,
            "decisions": self.replay.recorded.len(),
            "engine": self.engine,
        })
    }
}

pub(super) fn end_json(end: &RecordingEnd) -> (&'static str, Value) {
    match end {
        RecordingEnd::Finished => ("finished", Value::Null),
        RecordingEnd::Open => ("open", Value::Null),
        RecordingEnd::Stopped(stopped) => ("stopped", json!(stopped)),
        RecordingEnd::Torn { offset, bytes } => ("torn", json!({ "offset": offset, "bytes": bytes })),
        RecordingEnd::Damaged => ("damaged", Value::Null),
    }
}

pub(super) fn end_text(end: &RecordingEnd) -> String {
    match end {
        RecordingEnd::Finished => "complete".to_owned(),
        RecordingEnd::Open => "open: the run still lives, or the daemon ended without finishing it".to_owned(),
        RecordingEnd::Stopped(stopped) => {
            format!("TRUNCATED after {} entries: {:?}", stopped.frames, stopped.reason)
        }
        RecordingEnd::Torn { offset, bytes } => {
            format!("INCOMPLETE: the last {bytes} bytes, from byte {offset}, are not a complete entry")
        }
        RecordingEnd::Damaged => "DAMAGED".to_owned(),
    }
}

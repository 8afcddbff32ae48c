//! What was claimed about a run, by the audit log: its manifest and its checkpoints.

use failsafe_attest::Manifest;
use failsafe_core::{
    RunId,
    record::{Checkpoint, Record},
};
use failsafe_journal::{Entry, Filter, Query, Search};
use std::{collections::VecDeque, path::Path};

/// Checkpoints that are kept of a run, the last ones.
pub const CHECKPOINTS: usize = 100;

/// What is claimed about a run.
#[derive(Debug, Default)]
pub struct Claims {
    /// The last manifest, and when it was set, wall clock ns.
    pub manifest: Option<(Manifest, u64)>,
    /// The last checkpoints with the time of each, oldest first.
    pub checkpoints: VecDeque<(Checkpoint, u64)>,
}

/// Reads the log at `log`.
///
/// # Errors
/// It cannot be read, or a manifest in it cannot.
pub fn claims(log: &Path, run: RunId) -> Result<Claims, String> {
    let filter = Filter { run: Some(run.to_string()), kinds: vec!["manifest".to_owned()], ..Filter::default() };
    let mut claims = Claims::default();
    for entry in Search::open(log, Query { filter, ..Query::default() }).map_err(|error| error.to_string())? {
        let Entry { wall_ns, body, .. } = entry.map_err(|error| error.to_string())?;
        match serde_json::from_value(body) {
            Ok(Record::Manifest { manifest, .. }) => {
                let manifest = Manifest::from_json(manifest.as_bytes());
                claims.manifest = Some((manifest.map_err(|error| error.to_string())?, wall_ns));
            }
            Ok(Record::Checkpoint { checkpoint, .. }) => {
                if claims.checkpoints.len() == CHECKPOINTS {
                    claims.checkpoints.pop_front();
                }
                claims.checkpoints.push_back((checkpoint, wall_ns));
            }
            _ => {}
        }
    }
    Ok(claims)
}

//! Discovered runs whose beginning is not in the audit log, because their owner has spent the budget.
//!
//! A user's own `run` is refused then. A job of a scheduler becomes a run all the same, for the alternative is a job without a policy.
//! What would be written about the life of each such run is summed up for its owner, until somebody or a rule intervenes: then its
//! beginning is written first, and everything that follows.
//!
//! Pure. Bounded by the live runs, and by the ended ones of which the owner is remembered.

use failsafe_core::{RunId, discover::LABEL, record::Record};
use failsafe_journal::Draft;
use std::collections::BTreeMap;

/// An entry that is not written yet, and its size in bytes.
pub(super) type Waits = (Draft, u64);

/// The runs. The entry of the beginning is kept until the run ends.
#[derive(Debug, Default)]
pub(super) struct Unlisted(BTreeMap<RunId, Option<Waits>>);

/// What becomes of an entry about a run.
pub(super) enum Fate {
    /// It is judged like any other.
    Judged,
    /// It is summed up for the owner; so is the beginning of the run, once.
    Summed(Option<Waits>),
}

impl Unlisted {
    /// The run that begins with this entry is discovered, and its owner's budget is spent.
    pub(super) fn begins(&mut self, record: &Record, draft: &Draft, bytes: u64) -> bool {
        match record {
            Record::RunStarted { run, .. } if run.labels.contains_key(LABEL) => {
                self.0.insert(run.id, Some((draft.clone(), bytes)));
                true
            }
            _ => false,
        }
    }

    /// What becomes of an entry about a run that has begun.
    pub(super) fn fate(&mut self, run: RunId, record: &Record) -> Fate {
        let Some(beginning) = self.0.get_mut(&run) else { return Fate::Judged };
        match record {
            Record::Decision { .. } | Record::Outcome(_) | Record::Evidence { .. } => Fate::Judged,
            Record::Control(_) | Record::ControlOutcome { .. } => Fate::Judged,
            Record::RunEnded { .. } => Fate::Summed(beginning.take()),
            _ => Fate::Summed(None),
        }
    }

    /// Somebody or a rule intervenes on the run: gives the entry of its beginning, which is written now.
    pub(super) fn list(&mut self, run: RunId) -> Option<Waits> {
        // An ended run stays: its beginning is in a summary.
        self.0.get(&run)?.as_ref()?;
        self.0.remove(&run)?
    }

    /// The owner of the run is not remembered any more.
    pub(super) fn forget(&mut self, run: RunId) {
        self.0.remove(&run);
    }

    /// The beginnings that are not written, when the log is closed.
    pub(super) fn take_all(&mut self) -> Vec<(RunId, Waits)> {
        self.0.iter_mut().filter_map(|(run, waits)| Some((*run, waits.take()?))).collect()
    }
}

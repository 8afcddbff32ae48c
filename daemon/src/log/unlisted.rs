//! Discovered runs whose beginning is not in the audit log, because their owner has spent the budget.
//!
//! A user's own `run` is refused then. A job of a scheduler becomes a run all the same, for the alternative is a job without a policy.
//! What would be written about the life of each such run is summed up for its owner, from its beginning on, until somebody or a rule
//! intervenes: then its beginning is written as well, and everything that follows.
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

    /// The owner of a run became known: the entry of its beginning has the owner when it is written.
    pub(super) fn belongs_to(&mut self, run: RunId, uid: u32) {
        if let Some(Some((draft, _))) = self.0.get_mut(&run) {
            draft.body["run"]["owner_uid"] = uid.into();
        }
    }

    /// Whether the beginning of a run is in the log, or will be: all that is written about others is a summary.
    pub(super) fn is_listed(&self, run: RunId) -> bool {
        !self.0.contains_key(&run)
    }

    /// Whether an entry about a run is summed up for the owner. Others are judged like those about any run.
    pub(super) fn sums_up(&mut self, run: RunId, record: &Record) -> bool {
        let Some(beginning) = self.0.get_mut(&run) else { return false };
        match record {
            Record::Decision { .. } | Record::Outcome(_) | Record::Evidence { .. } => false,
            Record::Control(_) | Record::ControlOutcome { .. } => false,
            Record::RunEnded { .. } => {
                *beginning = None;
                true
            }
            _ => true,
        }
    }

    /// Somebody or a rule intervenes on the run: gives the entry of its beginning, which is written now.
    pub(super) fn list(&mut self, run: RunId) -> Option<Waits> {
        // An ended run stays: only a summary has its beginning.
        self.0.get(&run)?.as_ref()?;
        self.0.remove(&run)?
    }

    /// The owner of the run is not remembered any more.
    pub(super) fn forget(&mut self, run: RunId) {
        self.0.remove(&run);
    }
}

//! How far the decisions of each run are known: whether a decision that is seen begins an incident, and whether a run had an open
//! incident that was given up.
//!
//! A run numbers its decisions and its incidents from 1, and each incident has at least one decision. So between two decisions that
//! were seen, an incident begins with the later one if there are no more decisions than incidents between them. Everything else may
//! have begun before the entries that were read, or in entries that are not in the log. Invariant: bounded; of a run that is
//! forgotten, the answer is "not known".

use crate::{RunId, decision::Decision};
use std::collections::BTreeMap;

/// Runs that are remembered. Run ids begin with the time: the oldest run is forgotten first.
const RUNS: usize = 16_384;

/// What is known of the runs.
#[derive(Debug, Default)]
pub(super) struct Sequences(BTreeMap<RunId, RunSequence>);

#[derive(Debug, Default)]
struct RunSequence {
    /// All its decisions so far were seen.
    whole: bool,
    /// The last decision and its incident.
    last: Option<(u32, u32)>,
    /// An open incident of it was given up.
    gave_up_open: bool,
}

impl Sequences {
    /// The run began: no decision of it is from before.
    pub(super) fn started(&mut self, run: RunId) {
        let seen = self.of(run);
        seen.whole |= seen.last.is_none();
    }

    /// Takes a decision up. True: it is certainly the first one of its incident.
    pub(super) fn decided(&mut self, decision: &Decision) -> bool {
        let (n, incident) = (decision.id.n, decision.incident.n);
        let seen = self.of(decision.id.run);
        let (last, of) = seen.last.unwrap_or_default();
        let (decisions, incidents) = (i64::from(n) - i64::from(last), i64::from(incident) - i64::from(of));
        let begins = incidents > 0 && decisions <= incidents;
        seen.whole = decisions == 1 && (seen.whole || last == 0);
        seen.last = Some((n, incident));
        begins
    }

    /// An open incident of the run was given up.
    pub(super) fn gave_up_open(&mut self, run: RunId) {
        self.of(run).gave_up_open = true;
    }

    /// Whether an open incident of the run was given up. It is over from here on.
    pub(super) fn had_open(&mut self, run: RunId) -> bool {
        self.0.get_mut(&run).is_some_and(|seen| std::mem::take(&mut seen.gave_up_open))
    }

    /// The run ended. True: all its decisions were seen.
    pub(super) fn ended(&mut self, run: RunId) -> bool {
        self.0.remove(&run).is_some_and(|seen| seen.whole)
    }

    fn of(&mut self, run: RunId) -> &mut RunSequence {
        if self.0.len() >= RUNS && !self.0.contains_key(&run) {
            self.0.pop_first();
        }
        self.0.entry(run).or_default()
    }
}

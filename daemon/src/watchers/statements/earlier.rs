//! What is left of before: statements that are stored, and ended runs of which the last one is missing.

use super::{Followed, Statements};
use crate::runs::{
    account::of_totals,
    statements::{INCIDENTS, Which},
    store::EndedRun,
};
use failsafe_attest::{
    Fact, Missing, Status,
    envelope::{self, Verified},
};
use failsafe_core::{
    RunId,
    egress::Account,
    record::{At, Record},
};
use failsafe_journal::{Filter, Query, Search};

/// Ended runs that are looked at when the daemon starts, the last ones.
const LOOKED_AT: usize = 256;
/// The group of what a manifest claims.
const CLAIMED: &str = "run/manifest";

impl Statements {
    /// Ended runs of which the statement of the end is neither stored nor given up: an earlier daemon stopped before it, or no daemon
    /// watched the end.
    pub(super) fn earlier(&self) -> Vec<Followed> {
        let store = self.registry.store();
        let ended = self.registry.ended();
        let last = ended.iter().rev().take(LOOKED_AT);
        let missing = last.filter(|ended| !Which::End.is_kept(store, ended.run.id));
        missing.filter_map(|ended| self.unfinished(ended)).collect()
    }

    fn unfinished(&self, ended: &EndedRun) -> Option<Followed> {
        let id = ended.run.id;
        let kinds = ["run", "statement"].map(str::to_owned).to_vec();
        let filter = Filter { run: Some(id.to_string()), kinds, ..Filter::default() };
        let mut account: Option<Account> = None;
        let search = Search::open(self.log.path(), Query { filter, ..Query::default() }).ok()?;
        let mut started = false;
        for entry in search.flatten() {
            match serde_json::from_value(entry.body) {
                Ok(Record::Egress { account: found, .. }) => account = Some(found),
                Ok(Record::RunStarted { .. }) => started = true,
                Ok(Record::Statement { at: At::End, .. }) => return None,
                _ => {}
            }
        }
        // Without its beginning the log does not have all of the run: the statement may have been given up.
        let policy = || self.registry.store().policy(&ended.run.policy).ok();
        let account =
            account.unwrap_or_else(|| of_totals(policy().as_ref(), ended.totals, "no daemon watched the run's end"));
        started.then(|| Followed::of_ended(ended.run.clone(), account))
    }

    /// The facts of the run in the last statement that was stored before `which`, and when they were read. `None`: there is none, or it
    /// is not one of this node about this run.
    pub(super) fn before(&self, run: RunId, which: Which) -> Option<(Vec<Fact>, i64)> {
        let store = self.registry.store();
        let incidents = (1..=INCIDENTS).rev().map(Which::Incident).filter(|it| *it != which);
        let of_run = |which: Which| {
            let bytes = which.read(store, run).ok()??;
            let Verified { statement, key, .. } = envelope::verify(&bytes, None).ok()?;
            // Somebody may have put another file there.
            self.keys.listed().ok()?.iter().find(|listed| listed.public == key)?;
            let moment = statement.predicate.moment.as_ref().filter(|moment| moment.run == run.to_string())?;
            let read_ns = moment.read_ns.parse().ok()?;
            let claimed =
                |path: &str| path.strip_prefix(CLAIMED).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            let factors = statement.predicate.factors.into_iter();
            let factors = factors.filter(|factor| factor.path.starts_with("run/") && !claimed(&factor.path));
            let facts = factors.map(|factor| Fact {
                value: match factor.status {
                    Status::Ok => Ok(factor.value),
                    status => Err(Missing { status, reason: factor.reason }),
                },
                path: factor.path,
                source: factor.source,
                assurance: factor.assurance,
            });
            Some((facts.collect(), read_ns))
        };
        // The one that was read last: the start's may be younger than an incident's.
        incidents.chain([Which::Start]).filter_map(of_run).max_by_key(|(_, read_ns): &(Vec<Fact>, i64)| *read_ns)
    }
}

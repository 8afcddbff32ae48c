//! Retention of what ended runs leave in the state folder: `runs/ID/` with the recordings, and copies of policies.
//!
//! ```text
//! ended-runs thread: a run has ended, or an hour has passed ─► look ─► plan (pure) ─► entry in the log ─► remove
//! ```
//! Invariants: nothing of a live or guarded run is removed, and nothing that cannot be read; what is removed is in the log first,
//! where the run's end has the hash of its recording; one user's runs are never removed for another user's.

use super::{Registry, store::StoreError};
use crate::{config::Recordings, log::Log};
use failsafe_core::{PolicyDigest, RunId, record::Record};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A policy's copy that no run needs is kept this long: a start writes it before the run.
const POLICY_REST: Duration = Duration::from_secs(3_600);
/// Runs that an entry of the log names.
const NAMED: usize = 200;
const DAY_NS: i64 = 86_400 * 1_000_000_000;

/// What is kept of a run, ended or not.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub id: RunId,
    pub uid: u32,
    pub policy: PolicyDigest,
    /// `None`: it lives, or nobody knows.
    pub ended_ns: Option<i64>,
    pub bytes: u64,
}

impl Recordings {
    /// The ended runs that are to go, and why. Without `now_ns` none goes because of its age.
    pub(super) fn plan(&self, mut runs: Vec<Kept>, now_ns: Option<i64>) -> BTreeMap<&'static str, Vec<Kept>> {
        let mut gone: BTreeMap<&'static str, Vec<Kept>> = BTreeMap::new();
        let age = i64::try_from(self.days).unwrap_or(i64::MAX).saturating_mul(DAY_NS);
        runs.sort_by_key(|run| run.ended_ns);
        let mut users: BTreeMap<u32, Vec<Kept>> = BTreeMap::new();
        for run in runs {
            let old = |ended: i64| now_ns.is_some_and(|now| now.saturating_sub(ended) > age);
            if run.ended_ns.is_some_and(old) {
                gone.entry("older than recordings.days").or_default().push(run);
            } else {
                users.entry(run.uid).or_default().push(run);
            }
        }
        for (uid, runs) in &mut users {
            let ended = |runs: &[Kept]| runs.iter().filter(|run| run.ended_ns.is_some()).count();
            while ended(runs) > self.runs_per_user
                && let Some(run) = oldest(runs)
            {
                gone.entry("more runs than recordings.runs_per_user").or_default().push(run);
            }
            let (most, why) = match uid {
                0 => (self.root_mib, "root's runs have more than recordings.root_mib"),
                _ => (self.per_user_mib, "the user's runs have more than recordings.per_user_mib"),
            };
            while bytes(runs) > most << 20
                && let Some(run) = oldest(runs)
            {
                gone.entry(why).or_default().push(run);
            }
        }
        users.remove(&0);
        // Whoever has the most gives way.
        while users.values().map(|runs| bytes(runs)).sum::<u64>() > self.total_mib << 20 {
            let ended = users.values_mut().filter(|runs| runs.iter().any(|run| run.ended_ns.is_some()));
            let Some(run) = ended.max_by_key(|runs| bytes(runs)).and_then(oldest) else { break };
            gone.entry("all users' runs have more than recordings.total_mib").or_default().push(run);
        }
        gone
    }
}

fn bytes(runs: &[Kept]) -> u64 {
    runs.iter().map(|run| run.bytes).sum()
}

/// Takes the run that ended first.
fn oldest(runs: &mut Vec<Kept>) -> Option<Kept> {
    let at = runs.iter().position(|run| run.ended_ns.is_some())?;
    Some(runs.remove(at))
}

impl Registry {
    /// Removes what is not kept. On a thread that may wait for the disk. Nothing is removed because of its age while the
    /// wall clock cannot be right: one wrong second of the clock makes everything old.
    ///
    /// # Errors
    /// The folders cannot be listed.
    pub(super) fn retain(&self, keep: &Recordings, log: &Log, now_ns: i64) -> Result<(), StoreError> {
        let held: BTreeSet<RunId> = self.held().into_iter().collect();
        let (mut runs, unreadable) = self.store.kept()?;
        // Whose they are and when they ended, as the audit log has it: `run.json` may have been changed.
        let checked: BTreeMap<RunId, (u32, i64)> =
            self.ended().iter().map(|run| (run.run.id, (run.run.owner_uid, run.ended_ns))).collect();
        for run in runs.iter_mut().filter(|run| run.ended_ns.is_some()) {
            if let Some((uid, ended_ns)) = checked.get(&run.id) {
                (run.uid, run.ended_ns) = (*uid, Some(*ended_ns));
            }
        }
        for run in runs.iter_mut().filter(|run| held.contains(&run.id)) {
            run.ended_ns = None;
        }
        let gone = keep.plan(runs.clone(), log.believes_clock().then_some(now_ns));
        for (why, runs) in &gone {
            for some in runs.chunks(NAMED) {
                let (runs, bytes) = (some.iter().map(|run| run.id).collect(), bytes(some));
                log.record(&Record::RunsRemoved { runs, bytes, why: (*why).to_owned() }, None, None);
                tracing::info!(runs = some.len(), bytes, why, "ended runs are removed");
                some.iter().for_each(|run| self.store.forget(run.id));
            }
        }
        let gone: BTreeSet<RunId> = gone.values().flatten().map(|run| run.id).collect();
        if unreadable == 0 {
            let mut needed: BTreeSet<PolicyDigest> =
                runs.iter().filter(|run| !gone.contains(&run.id)).map(|run| run.policy).collect();
            needed.extend(self.live().iter().map(|live| live.run.policy));
            needed.extend(self.guarded().iter().map(|guarded| guarded.run.policy));
            self.store.drop_policies(&needed, POLICY_REST);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: u64, uid: u32, ended: Option<i64>, mib: u64) -> Kept {
        let id = format!("00000000-0000-0000-0000-{n:012}").parse().unwrap();
        Kept { id, uid, policy: PolicyDigest([1; 32]), ended_ns: ended, bytes: mib << 20 }
    }

    fn gone(keep: Recordings, runs: &[Kept]) -> Vec<RunId> {
        let mut gone: Vec<RunId> =
            keep.plan(runs.to_vec(), Some(100 * DAY_NS)).values().flatten().map(|run| run.id).collect();
        gone.sort();
        gone
    }

    #[test]
    fn the_oldest_of_the_user_that_has_too_much_go_and_nothing_that_lives() {
        let keep = Recordings { per_user_mib: 100, total_mib: 200, root_mib: 50, runs_per_user: 3, days: 90 };
        let day = |n: i64| Some(n * DAY_NS);
        let runs = [
            run(1, 1000, day(50), 60),
            run(2, 1000, day(60), 60),
            run(3, 1000, None, 20),
            run(4, 1001, day(40), 10),
            run(5, 0, day(30), 40),
            run(6, 0, day(31), 40),
            run(7, 1002, day(5), 1),
            run(8, 1003, None, 500),
        ];
        let ids = |all: &[usize]| all.iter().map(|n| runs[n - 1].id).collect::<Vec<_>>();
        // 8 lives and has more than all may have: the ended ones of others go only as far as nothing else helps.
        assert_eq!(gone(keep, &runs[..7]), ids(&[1, 5, 7]));
        let many: Vec<Kept> = (10..20).map(|n| run(n, 1004, day(i64::try_from(n).unwrap() + 20), 0)).collect();
        assert_eq!(gone(keep, &many).len(), 7, "the count is bounded too");
        let alone = [run(1, 1000, None, 500), run(2, 1000, day(99), 1)];
        assert_eq!(gone(keep, &alone), vec![alone[1].id], "a live run is never removed");
    }

    #[test]
    fn age_removes_nothing_while_the_clock_is_not_believed_and_bytes_still_do() {
        let keep = Recordings { per_user_mib: 100, total_mib: 200, root_mib: 50, runs_per_user: 3, days: 90 };
        let runs = [run(1, 1000, Some(0), 1), run(2, 1001, Some(0), 101)];
        let gone =
            |now_ns| -> Vec<RunId> { keep.plan(runs.to_vec(), now_ns).values().flatten().map(|run| run.id).collect() };
        assert_eq!(gone(None), [runs[1].id]);
        assert_eq!(gone(Some(100 * DAY_NS)).len(), 2);
    }

    #[test]
    fn when_all_have_too_much_the_one_with_the_most_gives_way() {
        let keep = Recordings { per_user_mib: 100, total_mib: 150, ..Recordings::default() };
        let now = 99 * DAY_NS;
        let mut runs: Vec<Kept> = (0..9).map(|n| run(n, 1000, Some(now), 10)).collect();
        runs.extend((10..18).map(|n| run(n, 1001, Some(now - 1), 10)));
        runs.push(run(20, 1002, Some(now - 2), 5));
        let gone = gone(keep, &runs);
        assert!(!gone.contains(&runs[17].id), "a user with little keeps it, however old");
        assert_eq!(gone.len(), 3);
    }
}

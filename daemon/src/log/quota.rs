//! How much of the audit log a user's runs may take, so that nobody fills it for others: a budget of bytes for each user, one for
//! all users together, and none for root.
//!
//! ```text
//! Log::record ─► class of the record ─► Meter::admit ─► written
//!                                            │ budget spent
//!                                            └─► summed up for each run (kinds, decisions, SHA-256) ─► `log-limited` entry
//! ```
//! Invariants:
//! - What a restarted daemon needs (beginnings, ends, guarded runs) and what an administrator does is always written. Discovered runs of
//!   a user who has spent the budget are an exception: see [`super::unlisted`].
//! - An intervention on a run is written as long as its owner has not spent the budget twice: the second one is for interventions
//!   alone, so that nothing else that a user does keeps them out.
//! - What is not written is counted, hashed and named by an entry of its own: for each run after a minute, and then after twice as long
//!   each time, up to an hour.
//! - An entry about a run counts for its owner, also after its end.
//! - Pure: time is given. One lock, held for a look-up.

use super::unlisted::Unlisted;
use failsafe_core::{
    Action, Actor, Decision, Mode, RunId,
    record::{Limited, Record},
    signal::Source,
};
use failsafe_journal::Draft;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};

/// Sizes of the budgets, in bytes per day. A day's worth can be used at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Of one user; as much again for interventions.
    pub per_user: u64,
    /// Of all users but root.
    pub total: u64,
}

/// How a record is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Always written; counted where it is about a user's run.
    Always,
    /// Written from the second budget where the first is spent.
    Intervention,
    /// Written while there is a budget.
    Ordinary,
}

/// Refused policies that are written one by one, for each user; another one each [`REFUSAL_EVERY`].
const REFUSALS: u64 = 20;
const REFUSAL_EVERY: u64 = 30 * SECOND;
/// The first summary about a run is followed by the next one after this time at the earliest, and each further one after twice as long:
/// summaries count for no budget, so they must be few.
const SUMMARY_EVERY: u64 = 60 * SECOND;
const SUMMARY_SLOWEST: u64 = 3_600 * SECOND;
/// Users that are remembered; the ones that used nothing lately are forgotten.
const USERS: usize = 4_096;
/// Ended runs of which the owner is remembered: entries about them count for that user.
const ENDED: usize = 65_536;
/// Decisions that a summary names one by one.
const NAMED: usize = 1_024;
const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 86_400 * SECOND;

/// What is left of the budgets.
#[derive(Debug)]
pub(super) struct Meter {
    budget: Budget,
    users: BTreeMap<u32, User>,
    total: Bucket,
    /// Owners of the runs that live, and of the last [`ENDED`] that ended.
    owners: BTreeMap<RunId, u32>,
    /// Those that ended, in this order.
    ended: VecDeque<RunId>,
    held: BTreeMap<(u32, Option<RunId>), Held>,
    unlisted: Unlisted,
    /// Entries that were not written one by one.
    summed: u64,
    due: Option<u64>,
}

/// What of the budgets is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spent {
    /// The budgets.
    pub budget: Budget,
    /// By all users but root, bytes.
    pub all: u64,
    /// By each user who has used any, bytes; more than the budget where the user has overdrawn it.
    pub users: Vec<(u32, u64)>,
    /// How many entries were summed up.
    pub summed: u64,
}

/// What is written.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// An entry that comes first: the beginning of the run, which was summed up.
    pub first: Option<Draft>,
    /// Whether the entry itself is. One that is not becomes part of a summary.
    pub itself: bool,
}

#[derive(Debug)]
struct User {
    bytes: Bucket,
    refusals: Bucket,
}

/// A budget that fills up again over time; it can be overdrawn.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    size: u64,
    /// Time in which it fills up from nothing.
    fills: u64,
    left: i128,
    at: u64,
}

#[derive(Debug, Default)]
struct Held {
    limited: Limited,
    hash: Sha256,
    /// When the last summary was written, and how long the next one waits after it.
    written: Option<(u64, u64)>,
}

impl Held {
    /// Whether a summary may be written now.
    fn is_due(&self, now: u64) -> bool {
        self.written.is_none_or(|(at, wait)| now.saturating_sub(at) >= wait)
    }
}

impl Bucket {
    fn new(size: u64, fills: u64, now: u64) -> Bucket {
        Bucket { size, fills, left: i128::from(size), at: now }
    }

    /// What is left now.
    fn left(&mut self, now: u64) -> i128 {
        let since = now.saturating_sub(self.at);
        let gained = i128::from(self.size) * i128::from(since) / i128::from(self.fills.max(1));
        // Time too short for a byte is not lost.
        if gained > 0 {
            self.left = (self.left + gained).min(i128::from(self.size));
            self.at = now;
        }
        self.left
    }

    fn take(&mut self, amount: u64) {
        self.left -= i128::from(amount);
    }
}

impl Meter {
    pub(super) fn new(budget: Budget, now: u64) -> Meter {
        let total = Bucket::new(budget.total, DAY, now);
        Meter {
            budget,
            users: BTreeMap::new(),
            total,
            owners: BTreeMap::new(),
            ended: VecDeque::new(),
            held: BTreeMap::new(),
            unlisted: Unlisted::default(),
            summed: 0,
            due: None,
        }
    }

    /// From now on, entries about the run count for this user.
    pub(super) fn owned(&mut self, run: RunId, uid: u32) {
        self.owners.insert(run, uid);
    }

    /// Whether a record of `bytes` is written.
    pub(super) fn admit(
        &mut self,
        record: &Record,
        run: Option<RunId>,
        draft: &Draft,
        bytes: usize,
        now: u64,
    ) -> Admitted {
        let itself = self.admits(record, run, draft, bytes, now);
        let intervenes = itself && class(record) == Class::Intervention;
        let first = run.filter(|_| intervenes).and_then(|run| self.unlisted.list(run).map(|waits| (run, waits)));
        let first = first.map(|(run, (draft, bytes))| {
            if let Some(uid) = self.owners.get(&run).copied() {
                self.user(uid, now).bytes.take(bytes);
            }
            draft
        });
        Admitted { first, itself }
    }

    fn admits(&mut self, record: &Record, run: Option<RunId>, draft: &Draft, bytes: usize, now: u64) -> bool {
        match record {
            Record::RunStarted { run, .. } | Record::RunAdopted { run, .. } => {
                self.owned(run.id, run.owner_uid);
            }
            Record::RunOwner { run, owner_uid, .. } => {
                self.owned(*run, *owner_uid);
                self.unlisted.belongs_to(*run, *owner_uid);
            }
            _ => {}
        }
        let uid = match record {
            Record::Control(control) => control.actor.uid(),
            Record::ControlOutcome { actor, .. } => actor.uid(),
            Record::PolicyRefused { actor, .. } => actor.as_ref().and_then(Actor::uid),
            _ => run.and_then(|run| self.owners.get(&run).copied()),
        };
        if let (Record::RunEnded { .. }, Some(run)) = (record, run) {
            self.forget_later(run);
        }
        let Some(uid) = uid.filter(|uid| *uid != 0) else { return true };
        let class = class(record);
        let amount = bytes as u64;
        let per_user = self.budget.per_user;
        let total = self.total.left(now);
        let user = self.user(uid, now);
        let left = user.bytes.left(now);
        let refusal = matches!(record, Record::PolicyRefused { .. });
        let begins = left <= 0 && self.unlisted.begins(record, draft, amount);
        if begins || run.is_some_and(|run| self.unlisted.sums_up(run, record)) {
            self.hold(uid, None, record, draft, amount, now);
            return false;
        }
        // Nothing that somebody could leave out is written about a run of which the beginning is not.
        let is_listed = run.is_none_or(|run| self.unlisted.is_listed(run));
        let user = self.user(uid, now);
        let admitted = match class {
            Class::Always => true,
            Class::Intervention => left > -i128::from(per_user),
            Class::Ordinary => is_listed && left > 0 && total > 0 && (!refusal || user.refusals.left(now) > 0),
        };
        if admitted {
            user.bytes.take(amount);
            if refusal {
                user.refusals.take(1);
            }
            if class == Class::Ordinary {
                self.total.take(amount);
            }
        } else {
            self.hold(uid, run, record, draft, amount, now);
        }
        admitted
    }

    /// What comes after a run's end (counters, late outcomes) counts for its owner too.
    fn forget_later(&mut self, run: RunId) {
        self.ended.push_back(run);
        if self.ended.len() > ENDED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.owners.remove(&oldest);
            self.unlisted.forget(oldest);
        }
    }

    /// How much of the day's budget a user has overdrawn or spent: both, and the budget. `None`: there is something left.
    pub(super) fn spent(&mut self, uid: u32, now: u64) -> Option<u64> {
        let budget = self.budget.per_user;
        let spent = uid != 0 && self.users.get_mut(&uid).is_some_and(|user| user.bytes.left(now) <= 0);
        spent.then_some(budget)
    }

    /// What is used of the budgets.
    pub(super) fn used(&mut self, now: u64) -> Spent {
        let of = |bucket: &mut Bucket| u64::try_from(i128::from(bucket.size) - bucket.left(now)).unwrap_or_default();
        let users = self.users.iter_mut().map(|(uid, user)| (*uid, of(&mut user.bytes)));
        let users = users.filter(|(_, used)| *used > 0).collect();
        Spent { budget: self.budget, all: of(&mut self.total), users, summed: self.summed }
    }

    /// The summaries that are to be written now; with `all`, whatever is held.
    pub(super) fn summaries(&mut self, now: u64, all: bool) -> Vec<Limited> {
        if !all && self.due.is_none_or(|due| now < due) {
            return Vec::new();
        }
        let mut out = Vec::new();
        for held in self.held.values_mut() {
            if held.limited.entries == 0 {
                continue;
            }
            if all || held.is_due(now) {
                let mut limited = std::mem::take(&mut held.limited);
                limited.sha256 = hex::encode(std::mem::take(&mut held.hash).finalize());
                let wait = held.written.map_or(SUMMARY_EVERY, |(_, wait)| (wait * 2).min(SUMMARY_SLOWEST));
                held.written = Some((now, wait));
                out.push(limited);
            }
        }
        self.held.retain(|_, held| held.limited.entries > 0 || !held.is_due(now));
        let waits = |held: &Held| held.limited.entries > 0;
        self.due = self.held.values().any(waits).then(|| now + SUMMARY_EVERY / 4);
        out
    }

    fn user(&mut self, uid: u32, now: u64) -> &mut User {
        if self.users.len() >= USERS && !self.users.contains_key(&uid) {
            let full = |user: &mut User| user.bytes.left(now) >= i128::from(user.bytes.size);
            self.users.retain(|_, user| !full(user));
        }
        let per_user = self.budget.per_user;
        self.users.entry(uid).or_insert_with(|| User {
            bytes: Bucket::new(per_user, DAY, now),
            refusals: Bucket::new(REFUSALS, REFUSALS * REFUSAL_EVERY, now),
        })
    }

    fn hold(&mut self, uid: u32, run: Option<RunId>, record: &Record, draft: &Draft, bytes: u64, now: u64) {
        let held = self.held.entry((uid, run)).or_default();
        let Held { limited, hash, .. } = held;
        (limited.uid, limited.run) = (uid, run);
        limited.entries += 1;
        self.summed += 1;
        limited.bytes += bytes;
        *limited.kinds.entry(draft.kind.to_string()).or_default() += 1;
        // Discovered runs are summed up together, without a run. Only of these is the beginning not written at once.
        limited.beginnings += u64::from(run.is_none() && matches!(record, Record::RunStarted { .. }));
        if let Record::Decision { decision, .. } = record {
            limited.last_decision = limited.last_decision.max(decision.id.n);
            limited.last_incident = limited.last_incident.max(decision.incident.n);
            if limited.decisions.len() < NAMED {
                limited.decisions.push(decision.id.n);
            }
        }
        // Key order in a JSON object is fixed, so whoever has the records can compute it.
        hash.update(draft.body.to_string());
        hash.update([b'\n']);
        self.due.get_or_insert(now);
    }
}

pub(super) fn class(record: &Record) -> Class {
    match record {
        Record::Decision { decision, .. } if intervenes(decision) => Class::Intervention,
        Record::Outcome(outcome) if changes(outcome.action) => Class::Intervention,
        Record::Control(_) | Record::ControlOutcome { .. } => Class::Intervention,
        Record::Decision { .. } | Record::Outcome(_) | Record::Evidence { .. } | Record::PolicyRefused { .. } => {
            Class::Ordinary
        }
        Record::Manifest { .. } | Record::Checkpoint { .. } => Class::Ordinary,
        // A restarted daemon learns from it that the run is guarded.
        Record::Gap(gap) if gap.source != Source::Guard => Class::Ordinary,
        _ => Class::Always,
    }
}

fn intervenes(decision: &Decision) -> bool {
    decision.mode == Mode::Enforce && decision.actions.iter().any(|action| changes(*action))
}

fn changes(action: Action) -> bool {
    action.contains() || action == Action::Thaw
}

#[cfg(test)]
mod tests;

//! Which shadows there are, the limits on their number, and which runs of rules got none for that reason.
//!
//! Invariants: a shadow is listed for as long as its [`Place`] exists, so that whatever ends it frees its place; ordinary users cannot take
//! the places of rules of discovery, nor users and rules those of administrators.

use super::{Asked, By};
use crate::platform::clock;
use failsafe_core::{PolicyDigest, RunId};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most shadows of one run.
pub const PER_RUN: usize = 4;
/// Most of them that ordinary users asked for: the rule of a run has a place.
const PER_RUN_OF_USERS: usize = PER_RUN - 1;
/// Most shadows that one user asked for. Those of discovery count for the run and the node only.
pub const PER_USER: usize = 16;
/// Most shadows of the node.
pub const PER_NODE: usize = 128;
/// Most that all ordinary users asked for.
const OF_USERS: usize = 64;
/// Places that only root and administrators take.
const RESERVE: usize = 16;

/// Why there is no shadow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The run has as many as it may have.
    #[error("limit `shadows`: the run has {0} shadows already")]
    Run(usize),
    /// The user has.
    #[error("limit `shadows`: uid {0} has {PER_USER} shadows already")]
    User(u32),
    /// All ordinary users together have.
    #[error("limit `shadows`: ordinary users have {OF_USERS} shadows on this node already")]
    Users,
    /// The node has.
    #[error("limit `shadows`: this node has {0} shadows already")]
    Node(usize),
    /// It has this one.
    #[error("the run has this shadow already")]
    Twice,
    /// It is no other policy.
    #[error("the policy is the one that the run is pinned to: expected another one")]
    InForce,
    /// The run is not judged.
    #[error("the run is not judged: it has ended, or is guarded")]
    NotLive,
    /// Nothing is judged by shadows any more.
    #[error("the thread of shadows has ended: the daemon's journal has the reason")]
    Ended,
}

/// A shadow that judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The run.
    pub run: RunId,
    /// Its name.
    pub run_name: String,
    /// Whom it belongs to.
    pub owner_uid: u32,
    /// Name of the policy.
    pub policy_name: String,
    /// Its version.
    pub version: u64,
    /// Its digest.
    pub digest: PolicyDigest,
    /// Since when, nanoseconds since the epoch.
    pub since_ns: i64,
    /// For whom.
    pub by: By,
    /// Root or an administrator asked.
    pub reserved: bool,
}

/// Runs of a rule that got no shadow since the daemon started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The rule.
    pub rule: String,
    /// Those that live.
    pub live: u64,
    /// Those that ended without one.
    pub ended: u64,
    /// Why the last of them got none.
    pub why: String,
}

#[derive(Debug, Default)]
struct OfRule {
    live: BTreeMap<RunId, Refused>,
    ended: u64,
    why: String,
}

/// A run, a policy, and whether it is for a rule: a user cannot take the place of a rule by asking for the same policy.
type Key = (RunId, PolicyDigest, bool);

#[derive(Debug, Default)]
struct Known {
    shadows: BTreeMap<Key, Listed>,
    /// Those of them that were removed, and that the thread has not ended yet.
    leaving: BTreeSet<Key>,
    left_out: BTreeMap<String, OfRule>,
}

/// All shadows.
#[derive(Debug, Clone, Default)]
pub(super) struct List(Arc<Mutex<Known>>);

/// The place of one. It is free once this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    list: List,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut known = self.list.known();
        known.shadows.remove(&self.key);
        known.leaving.remove(&self.key);
    }
}

fn key(run: RunId, digest: PolicyDigest, by: &By) -> Key {
    (run, digest, matches!(by, By::Rule(_)))
}

impl Listed {
    fn is_of_user(&self) -> bool {
        matches!(self.by, By::User(_)) && !self.reserved
    }
}

impl List {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self, asked: &Asked) -> Result<Place, Refused> {
        let (run, digest) = (asked.run.id, asked.digest);
        if digest == asked.run.policy {
            return Err(Refused::InForce);
        }
        let key = key(run, digest, &asked.by);
        let mut known = self.known();
        if known.shadows.contains_key(&key) {
            return Err(Refused::Twice);
        }
        let listed = Listed {
            run,
            run_name: asked.run.name.clone(),
            owner_uid: asked.run.owner_uid,
            policy_name: asked.policy.name.clone(),
            version: asked.policy.version.into(),
            digest,
            since_ns: clock::wall_ns(),
            by: asked.by.clone(),
            reserved: asked.reserved,
        };
        has_room(&known.shadows, &listed)?;
        known.shadows.insert(key, listed);
        if let By::Rule(rule) = &asked.by
            && let Some(of_rule) = known.left_out.get_mut(rule)
        {
            of_rule.live.remove(&run);
        }
        drop(known);
        Ok(Place { list: self.clone(), key })
    }

    /// Whether it has its place, and nobody removed it.
    pub fn stays(&self, asked: &Asked) -> bool {
        let key = key(asked.run.id, asked.digest, &asked.by);
        let known = self.known();
        known.shadows.get(&key).is_some_and(|one| one.by == asked.by) && !known.leaving.contains(&key)
    }

    /// It was removed: from here on it does not stay.
    pub fn leaves(&self, shadow: &Listed) {
        let key = key(shadow.run, shadow.digest, &shadow.by);
        let mut known = self.known();
        if known.shadows.contains_key(&key) {
            known.leaving.insert(key);
        }
    }

    pub fn all(&self) -> Vec<Listed> {
        self.known().shadows.values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.known().shadows.len()
    }

    pub fn has_of_rule(&self, run: RunId, rule: &str) -> bool {
        self.known().shadows.values().any(|one| one.run == run && matches!(&one.by, By::Rule(name) if name == rule))
    }

    pub fn leave_out(&self, rule: &str, run: RunId, why: &Refused) -> bool {
        let mut known = self.known();
        let of_rule = known.left_out.entry(rule.to_owned()).or_default();
        let is_new = of_rule.live.get(&run) != Some(why);
        if is_new {
            of_rule.why = why.to_string();
            of_rule.live.insert(run, why.clone());
        }
        is_new
    }

    pub fn retain_left_out(&self, lives: impl Fn(RunId) -> bool) {
        for of_rule in self.known().left_out.values_mut() {
            let before = of_rule.live.len();
            of_rule.live.retain(|run, _| lives(*run));
            of_rule.ended += (before - of_rule.live.len()) as u64;
        }
    }

    pub fn left_out(&self) -> Vec<LeftOut> {
        let known = self.known();
        let all = known.left_out.iter().map(|(rule, of_rule)| LeftOut {
            rule: rule.clone(),
            live: of_rule.live.len() as u64,
            ended: of_rule.ended,
            why: of_rule.why.clone(),
        });
        all.filter(|left| left.live + left.ended > 0).collect()
    }
}

/// Whether one more has a place.
fn has_room(known: &BTreeMap<Key, Listed>, asked: &Listed) -> Result<(), Refused> {
    let count = |counts: &dyn Fn(&Listed) -> bool| known.values().filter(|one| counts(one)).count();
    let of_node = if asked.reserved { PER_NODE } else { PER_NODE - RESERVE };
    if known.len() >= of_node {
        return Err(Refused::Node(of_node));
    }
    if count(&|one| one.run == asked.run) >= PER_RUN {
        return Err(Refused::Run(PER_RUN));
    }
    let By::User(uid) = asked.by else { return Ok(()) };
    if count(&|one| one.by == asked.by) >= PER_USER {
        return Err(Refused::User(uid));
    }
    if asked.reserved {
        return Ok(());
    }
    if count(&|one| one.run == asked.run && one.is_of_user()) >= PER_RUN_OF_USERS {
        return Err(Refused::Run(PER_RUN_OF_USERS));
    }
    if count(&Listed::is_of_user) >= OF_USERS {
        return Err(Refused::Users);
    }
    Ok(())
}

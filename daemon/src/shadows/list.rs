//! Which shadows there are, and the limits on their number.
//!
//! Invariant: a shadow is listed for as long as its [`Place`] exists, so that whatever ends it frees its place.

use super::{Asked, By};
use crate::platform::clock;
use failsafe_core::{PolicyDigest, RunId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most shadows of one run.
pub const PER_RUN: usize = 4;
/// Most shadows that one user asked for. Those of discovery count for the run and the node only.
pub const PER_USER: usize = 16;
/// Most shadows of the node.
pub const PER_NODE: usize = 128;

/// Why there is no shadow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The run has as many as it may have.
    #[error("limit `shadows`: the run has {PER_RUN} shadows already")]
    Run,
    /// The user has.
    #[error("limit `shadows`: uid {0} has {PER_USER} shadows already")]
    User(u32),
    /// The node has.
    #[error("limit `shadows`: this node has {PER_NODE} shadows already")]
    Node,
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
}

type Known = BTreeMap<(RunId, PolicyDigest), Listed>;

/// All shadows.
#[derive(Debug, Clone, Default)]
pub(super) struct List(Arc<Mutex<Known>>);

/// The place of one. It is free once this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    list: List,
    run: RunId,
    digest: PolicyDigest,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.list.known().remove(&(self.run, self.digest));
    }
}

impl List {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self, asked: &Asked) -> Result<Place, Refused> {
        let (run, digest) = (asked.run.id, asked.policy.digest());
        if digest == asked.run.policy {
            return Err(Refused::InForce);
        }
        let mut known = self.known();
        if known.contains_key(&(run, digest)) {
            return Err(Refused::Twice);
        }
        if known.len() >= PER_NODE {
            return Err(Refused::Node);
        }
        if known.keys().filter(|(of, _)| *of == run).count() >= PER_RUN {
            return Err(Refused::Run);
        }
        if let By::User(uid) = asked.by
            && known.values().filter(|one| one.by == asked.by).count() >= PER_USER
        {
            return Err(Refused::User(uid));
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
        };
        known.insert((run, digest), listed);
        drop(known);
        Ok(Place { list: self.clone(), run, digest })
    }

    pub fn all(&self) -> Vec<Listed> {
        self.known().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.known().len()
    }

    pub fn has_of_rule(&self, run: RunId, rule: &str) -> bool {
        self.known().values().any(|one| one.run == run && matches!(&one.by, By::Rule(name) if name == rule))
    }
}

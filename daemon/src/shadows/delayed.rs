//! Shadows of an earlier daemon that do not judge again yet, as those see them who asked for them.
//!
//! Invariant: one that is removed here judges no more. Whoever takes a place for it looks here afterwards, and whoever removes it here
//! looks for its place afterwards.

use super::{By, Listed};
use failsafe_core::{PolicyDigest, RunId};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A shadow that does not judge yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delayed {
    /// The run.
    pub run: RunId,
    /// Name of the policy.
    pub policy_name: String,
    /// Its version.
    pub version: u64,
    /// Its digest.
    pub digest: PolicyDigest,
    /// Who asked for it.
    pub uid: u32,
    /// Why it does not judge.
    pub why: String,
}

impl Delayed {
    /// Whether it is this one, which judges.
    pub fn is(&self, listed: &Listed) -> bool {
        (self.run, self.digest) == (listed.run, listed.digest) && matches!(listed.by, By::User(_))
    }
}

/// All of them: at most as many as a node may have shadows.
#[derive(Debug, Clone, Default)]
pub(super) struct DelayedList(Arc<Mutex<BTreeMap<(RunId, PolicyDigest), Delayed>>>);

impl DelayedList {
    fn all_locked(&self) -> MutexGuard<'_, BTreeMap<(RunId, PolicyDigest), Delayed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn insert(&self, delayed: Delayed) {
        self.all_locked().insert((delayed.run, delayed.digest), delayed);
    }

    /// Notes another reason, if it is still delayed.
    pub fn set_reason(&self, run: RunId, digest: PolicyDigest, why: &str) {
        if let Some(delayed) = self.all_locked().get_mut(&(run, digest))
            && delayed.why != why
        {
            why.clone_into(&mut delayed.why);
        }
    }

    pub fn contains(&self, run: RunId, digest: PolicyDigest) -> bool {
        self.all_locked().contains_key(&(run, digest))
    }

    pub fn remove(&self, run: RunId, digest: PolicyDigest) {
        self.all_locked().remove(&(run, digest));
    }

    pub fn all(&self) -> Vec<Delayed> {
        self.all_locked().values().cloned().collect()
    }
}

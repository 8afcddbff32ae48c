//! What of a run's factors is known from reading to reading, and what changed.
//!
//! ```text
//! reading ─► Known::take ─► Drift: changes with both values ─► log, engine
//!                └─ Known: the last known value of each factor, kept beside the recording
//! ```
//!
//! Invariants: a change has two known values; a factor that cannot be read keeps its last known one. What a reading does not
//! list is absent only if the reading has the whole group. Only factors that can change results or speed count. The number of
//! changes is bounded, of one factor and of all: what is left out is counted.

use crate::{
    factor::{Class, Fact},
    json::Json,
    table::{Regime, Table},
};
use failsafe_core::{event::FactorClass, record::FactorChange};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Changes of one factor that are reported, over the whole life of a run.
pub const CHANGES_OF_A_FACTOR: u32 = 4;
/// Changes of all factors.
pub const CHANGES_OF_A_RUN: u32 = 256;
/// Longest value that is kept and reported as it is, bytes. A longer one is cut and has its digest.
pub const VALUE: usize = 512;
/// Factors that are known at once.
const FACTORS: usize = 20_000;

/// What changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drift {
    /// What is reported.
    pub changes: Vec<FactorChange>,
    /// How many are not.
    pub left_out: u64,
}

/// The last known value of each factor of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// As text; `None`: known to be absent.
    values: BTreeMap<String, Option<String>>,
    /// Factors that were there and disappeared. Their value stays known, so that one that comes and goes is reported once.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    gone: BTreeSet<String>,
    /// Reported changes of each factor.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    reported: BTreeMap<String, u32>,
    /// Reported changes of all.
    #[serde(default)]
    total: u32,
}

impl Known {
    /// Whether nothing is known yet.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Takes a reading: what changed since the earlier ones, as far as both values are known. `counts`: whether a factor is
    /// looked at.
    pub fn take(&mut self, facts: &[Fact], table: &Table, counts: impl Fn(&str) -> bool) -> Drift {
        let mut changed = Vec::new();
        let first = self.is_empty();
        let before = self.values.clone();
        let listed_before = |path: &str| groups(path).any(|group| before.contains_key(group));
        let judged = |path: &str| class(table, path).filter(|_| counts(path));
        for fact in facts {
            let Ok(value) = &fact.value else { continue };
            let new = text(value);
            let old = before.get(&fact.path);
            if old == Some(&new) {
                continue;
            }
            let Some(class) = judged(&fact.path) else { continue };
            match old {
                Some(old) => {
                    let old = if self.gone.remove(&fact.path) { None } else { old.clone() };
                    changed.push(FactorChange { path: fact.path.clone(), old, new: new.clone(), class });
                }
                None if !first && new.is_some() && listed_before(&fact.path) => {
                    changed.push(FactorChange { path: fact.path.clone(), old: None, new: new.clone(), class });
                }
                None => {}
            }
            if self.values.len() < FACTORS || self.values.contains_key(&fact.path) {
                self.values.insert(fact.path.clone(), new);
            }
        }
        let listed: BTreeMap<&str, bool> = facts.iter().map(|fact| (fact.path.as_str(), fact.value.is_ok())).collect();
        for (path, old) in before.iter().filter(|(path, old)| old.is_some() && !listed.contains_key(path.as_str())) {
            // The nearest group that the reading has says whether the factor is known to be absent.
            let absent = groups(path).find_map(|group| listed.get(group)).copied().unwrap_or(false);
            let Some(class) = judged(path).filter(|_| absent) else { continue };
            if self.gone.insert(path.clone()) {
                changed.push(FactorChange { path: path.clone(), old: old.clone(), new: None, class });
            }
        }
        self.bounded(changed)
    }

    /// What a reading of a restart has otherwise than `self`, the last known values of its predecessor. What the restart does
    /// not list is no difference: a library may still be loaded later.
    pub fn differences(&self, facts: &[Fact], table: &Table, counts: impl Fn(&str) -> bool) -> Drift {
        let mut changed = Vec::new();
        for fact in facts.iter().filter(|fact| counts(&fact.path)) {
            let (Ok(value), Some(class)) = (&fact.value, class(table, &fact.path)) else { continue };
            let new = text(value);
            let old = match self.values.get(&fact.path) {
                Some(old) => old.clone(),
                None if groups(&fact.path).any(|group| self.values.contains_key(group)) => None,
                None => continue,
            };
            if old != new {
                changed.push(FactorChange { path: fact.path.clone(), old, new, class });
            }
        }
        Known::default().bounded(changed)
    }

    /// The worst first, within the limits.
    fn bounded(&mut self, mut changed: Vec<FactorChange>) -> Drift {
        changed.sort_by(|a, b| (a.class, &a.path).cmp(&(b.class, &b.path)));
        let mut drift = Drift::default();
        for change in changed {
            let of_it = self.reported.get(&change.path).copied().unwrap_or(0);
            if of_it >= CHANGES_OF_A_FACTOR || self.total >= CHANGES_OF_A_RUN {
                drift.left_out += 1;
                continue;
            }
            self.reported.insert(change.path.clone(), of_it + 1);
            self.total += 1;
            drift.changes.push(change);
        }
        drift
    }
}

impl Drift {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.left_out == 0
    }
}

/// The paths above, the nearest first.
fn groups(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').rev().map(move |(at, _)| &path[..at])
}

/// The class, where a difference is one that counts. Of the regime `seeded`, whatever the run's manifest declares.
fn class(table: &Table, path: &str) -> Option<FactorClass> {
    match table.class(path, Regime::Seeded) {
        Class::Result => Some(FactorClass::Result),
        Class::Performance => Some(FactorClass::Performance),
        Class::Identity => None,
    }
}

/// A value as it is kept: `None` where it is known to be absent.
fn text(value: &Json) -> Option<String> {
    let text = match value {
        Json::Null => return None,
        Json::Text(text) => text.clone(),
        other => other.canonical(),
    };
    if text.len() <= VALUE {
        return Some(text);
    }
    let end = text.floor_char_boundary(VALUE / 2);
    let digest = hex::encode(Sha256::digest(text.as_bytes()));
    Some(format!("{} ... ({} bytes, sha256:{digest})", &text[..end], text.len()))
}

#[cfg(test)]
mod tests;

//! The orders that are in force by the entries of the audit log: to observe, and about canaries. And which files the state folder has.
//!
//! `mode.json` and the files of canaries are in the state folder, where somebody may write them. An order of such a file counts only as
//! far as the entries bear it out: [ADR 82](../../../../docs/adr/0082-an-order-of-the-state-folder-counts-as-far-as-the-log-has-it.md).
//! Bounded: canaries beyond [`MOST`] are dropped, those that are over first.

use super::Record;
use crate::{
    actor::Actor,
    canary::{Stage, Terms},
    policy::PolicyDigest,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most canaries that are kept. A node has at most 16; those that are over stay for a while, so that a file that could not be written
/// at the end of its canary is recognised.
const MOST: usize = 32;

/// The orders.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Orders {
    /// The last order to observe that took effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    observe: Option<ObserveEntry>,
    /// An order to observe that was recorded before its file was written; what came of it is not on record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    announced: Option<ObserveEntry>,
    /// Canaries, by the name of the policy.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    canaries: BTreeMap<String, CanaryEntry>,
    /// Files of the state folder.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    files: BTreeSet<String>,
}

/// An order to observe, as entries have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ObserveEntry {
    /// When it ends, nanoseconds since the epoch.
    pub until_ns: i64,
    /// Why it was given.
    pub reason: String,
    /// Who gave it.
    pub actor: Actor,
    /// It has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    over: bool,
}

/// A canary, as its last entry has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CanaryEntry {
    /// The canary.
    pub canary: String,
    /// How it stands.
    pub stage: Stage,
    /// The policy in force when it began.
    pub control: PolicyDigest,
    /// The new policy.
    pub candidate: PolicyDigest,
    /// Its name and version.
    pub candidate_name: String,
    /// On what terms.
    pub terms: Terms,
    /// `sha256:HEX` of the secret by which runs are drawn; none in entries of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draws_by: Option<String>,
}

/// Whether entries have an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BornOut {
    /// It is in force.
    InForce,
    /// It was in force, and ended.
    Ended,
    /// They do not have it.
    No,
}

impl Orders {
    /// Takes in the next entry.
    pub fn take(&mut self, record: &Record) {
        match record {
            Record::Mode { rule: None, until_ns: Some(until_ns), reason, actor, begins, failed, .. } => {
                let is_it = |order: &Option<ObserveEntry>| order.as_ref().is_some_and(|it| it.until_ns == *until_ns);
                let new = || {
                    Some(ObserveEntry {
                        until_ns: *until_ns,
                        reason: reason.clone(),
                        actor: actor.clone(),
                        over: false,
                    })
                };
                if *begins {
                    self.announced = new();
                } else if is_it(&self.announced) {
                    self.observe = self.announced.take();
                } else if is_it(&self.observe) {
                    // Entries about an order that holds have other words. One that was announced and refused has a failure.
                    self.observe.iter_mut().for_each(|order| order.over = false);
                    self.announced.take_if(|_| !failed.is_empty());
                } else {
                    self.observe = new();
                }
            }
            Record::Mode { rule: None, until_ns: None, .. } => {
                self.announced = None;
                self.observe.iter_mut().for_each(|order| order.over = true);
            }
            Record::Canary { name, canary, stage, control, candidate, candidate_name, terms, draws_by, .. } => {
                let entry = CanaryEntry {
                    canary: canary.clone(),
                    stage: *stage,
                    control: *control,
                    candidate: *candidate,
                    candidate_name: candidate_name.clone(),
                    terms: terms.clone(),
                    draws_by: draws_by.clone(),
                };
                self.canaries.insert(name.clone(), entry);
                while self.canaries.len() > MOST {
                    let others = || self.canaries.iter().filter(|(other, _)| *other != name);
                    let over = others().find(|(_, entry)| entry.stage.is_over()).or_else(|| others().next());
                    let Some(least) = over.map(|(name, _)| name.clone()) else { break };
                    self.canaries.remove(&least);
                }
            }
            Record::StateFiles { names } => self.files.clone_from(names),
            _ => {}
        }
    }

    /// The files that the state folder had when they were last recorded.
    #[must_use]
    pub fn files(&self) -> &BTreeSet<String> {
        &self.files
    }

    /// Whether an order to observe is in force by the entries.
    #[must_use]
    pub fn bear_out(&self, until_ns: i64, reason: &str, actor: &Actor) -> BornOut {
        let is_it =
            |order: &&ObserveEntry| order.until_ns == until_ns && order.reason == reason && order.actor == *actor;
        match (self.observe.as_ref().filter(is_it), self.announced.as_ref().filter(is_it)) {
            (Some(order), _) if !order.over => BornOut::InForce,
            (_, Some(_)) => BornOut::InForce,
            (Some(_), None) => BornOut::Ended,
            (None, None) => BornOut::No,
        }
    }

    /// The order to observe that is in force by the entries. One that was only announced may never have been.
    #[must_use]
    pub fn observe(&self) -> Option<&ObserveEntry> {
        self.observe.as_ref().filter(|order| !order.over)
    }

    /// Whether entries have any order to observe, also one that has ended.
    #[must_use]
    pub fn know_observe(&self) -> bool {
        self.observe.is_some() || self.announced.is_some()
    }

    /// The canary of a policy.
    #[must_use]
    pub fn canary(&self, name: &str) -> Option<&CanaryEntry> {
        self.canaries.get(name)
    }

    /// The canaries that are not over.
    pub fn canaries(&self) -> impl Iterator<Item = (&String, &CanaryEntry)> {
        self.canaries.iter().filter(|(_, entry)| !entry.stage.is_over())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Mode;

    fn mode(until_ns: Option<i64>, reason: &str, begins: bool, failed: bool) -> Record {
        Record::Mode {
            mode: if until_ns.is_some() { Mode::Observe } else { Mode::Enforce },
            rule: None,
            until_ns,
            reason: reason.into(),
            actor: Actor::Daemon,
            runs: 0,
            failed: failed.then(|| "why".to_owned()).into_iter().collect(),
            begins,
        }
    }

    fn after(records: &[Record]) -> Orders {
        let mut orders = Orders::default();
        records.iter().for_each(|record| orders.take(record));
        // As a file of the log states it.
        serde_json::from_value(serde_json::to_value(&orders).unwrap()).unwrap()
    }

    #[test]
    fn an_order_to_observe_is_borne_out_from_its_announcement_to_its_end() {
        let (announced, done) = (mode(Some(5), "rollout", true, false), mode(Some(5), "rollout", false, false));
        let held = mode(Some(5), "an earlier order holds: rollout", false, false);
        let (refused, over) = (mode(None, "it was not carried out", false, true), mode(None, "enough", false, false));
        let cases: [(&[&Record], BornOut); 7] = [
            (&[], BornOut::No),
            (&[&announced], BornOut::InForce),
            (&[&announced, &refused], BornOut::No),
            (&[&announced, &done], BornOut::InForce),
            (&[&announced, &done, &held], BornOut::InForce),
            (&[&announced, &done, &over], BornOut::Ended),
            (&[&announced, &done, &over, &held], BornOut::InForce),
        ];
        for (records, expected) in cases {
            let orders = after(&records.iter().map(|record| (*record).clone()).collect::<Vec<_>>());
            assert_eq!(orders.bear_out(5, "rollout", &Actor::Daemon), expected, "{records:?}");
            for (until_ns, reason) in [(6, "rollout"), (5, "other")] {
                assert_eq!(orders.bear_out(until_ns, reason, &Actor::Daemon), BornOut::No);
            }
        }
    }

    #[test]
    fn an_order_that_is_refused_leaves_the_one_that_holds() {
        let first = [mode(Some(5), "first", true, false), mode(Some(5), "first", false, false)];
        let second = mode(Some(9), "second", true, false);
        let refused = mode(Some(5), "it was not carried out: second", false, true);
        let orders = after(&[&first[..], &[second, refused]].concat());
        assert_eq!(orders.bear_out(5, "first", &Actor::Daemon), BornOut::InForce);
        assert_eq!(orders.bear_out(9, "second", &Actor::Daemon), BornOut::No);
    }

    #[test]
    fn canaries_are_bounded_and_those_that_are_not_over_stay() {
        let record = |n: usize, stage| Record::Canary {
            name: format!("p{n:03}"),
            canary: format!("p{n:03}@1"),
            stage,
            control: PolicyDigest([1; 32]),
            candidate: PolicyDigest([2; 32]),
            candidate_name: "p v2".into(),
            terms: Terms {
                share_ppm: 1,
                runs_at_least: 1,
                hold: crate::time::Span(1),
                promote_if: Vec::new(),
                withdraw_if: Vec::new(),
            },
            seen: crate::canary::Arms::default(),
            draws_by: Some("sha256:00".into()),
            actor: Actor::Daemon,
            reason: "test".into(),
        };
        let mut records = vec![record(0, Stage::Running)];
        records.extend((1..200).map(|n| record(n, Stage::Withdrawn)));
        let orders = after(&records);
        assert_eq!(orders.canaries.len(), MOST);
        assert_eq!(orders.canaries().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["p000"]);
        assert_eq!(orders.canary("p199").map(|entry| entry.stage), Some(Stage::Withdrawn));
    }
}

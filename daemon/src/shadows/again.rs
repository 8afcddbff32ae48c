//! A shadow of an earlier daemon, until it judges again.
//!
//! Invariants: it is given up only when it judges, when its run is over, or for a reason that does not change. What can change is tried
//! again: a place that others have now, and a run that the registry has and the pipeline does not have yet.

use super::{Asked, By, Delayed, Refused, ShadowChange, Shadows, Stored};
use failsafe_core::{Policy, PolicyDigest, RunId, input::Run};
use std::sync::Arc;
use tokio::sync::oneshot::{Receiver, error::TryRecvError};

/// Why a shadow is delayed that no limit refuses.
const TAKEN_UP: &str = "its run is being taken up";
const GUARDED: &str = "its run is guarded: it is not judged";

/// What is known of its run.
pub enum RunLookup {
    /// It is judged by this policy.
    Live(Box<Run>, Arc<Policy>),
    /// It may be judged later.
    Guarded,
    /// It has ended.
    Over,
}

impl RunLookup {
    /// `guarded` is looked at first: a run that is taken up between the two looks is live before it stops being guarded, so that it is found
    /// in one of them.
    pub fn of(guarded: impl FnOnce() -> bool, live: impl FnOnce() -> Option<(Box<Run>, Arc<Policy>)>) -> RunLookup {
        let guarded = guarded();
        match live() {
            Some((run, enforced)) => RunLookup::Live(run, enforced),
            None if guarded => RunLookup::Guarded,
            None => RunLookup::Over,
        }
    }
}

/// What came of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is not known yet.
    Waits,
    /// It is refused for now, and tried again: reported once for each reason.
    Refused(Refused),
    /// It judges.
    Judges,
    /// Its run is over.
    Over,
    /// Somebody removed it.
    Removed,
    /// It is refused, and this does not change.
    GivenUp(Refused),
}

/// A shadow that does not judge again yet.
pub struct Pending {
    /// As it was kept.
    stored: Stored,
    policy: Arc<Policy>,
    digest: PolicyDigest,
    /// The pipeline has the order.
    begun: Option<Receiver<Result<(), Refused>>>,
    /// Why it was refused the last time.
    refused: Option<Refused>,
}

impl Pending {
    /// Nothing was tried. From now on it is listed as delayed.
    pub fn new(stored: Stored, shadows: &Shadows) -> Pending {
        let (policy, digest) = (Arc::new(stored.policy.clone()), stored.policy.digest());
        shadows.delayed.insert(Delayed {
            run: stored.run,
            policy_name: policy.name.clone(),
            version: policy.version.into(),
            digest,
            uid: stored.uid,
            why: TAKEN_UP.to_owned(),
        });
        Pending { stored, policy, digest, begun: None, refused: None }
    }

    /// Its run.
    pub fn run(&self) -> RunId {
        self.stored.run
    }

    /// The name of its policy.
    pub fn name(&self) -> &str {
        &self.policy.name
    }

    /// One attempt, or a look at what came of the last one. `send` hands an order to the pipeline.
    pub fn attempt(&mut self, found: RunLookup, shadows: &Shadows, send: impl FnOnce(ShadowChange)) -> Attempt {
        let why = if matches!(found, RunLookup::Guarded) { GUARDED } else { TAKEN_UP };
        let attempt = match shadows.delayed.contains(self.run(), self.digest) {
            true => self.try_to_begin(found, shadows, send),
            false => Attempt::Removed,
        };
        match (&attempt, &self.refused) {
            (Attempt::Waits | Attempt::Refused(_), Some(refused)) => {
                shadows.delayed.set_reason(self.run(), self.digest, &refused.to_string());
            }
            (Attempt::Waits | Attempt::Refused(_), None) => shadows.delayed.set_reason(self.run(), self.digest, why),
            _ => shadows.delayed.remove(self.run(), self.digest),
        }
        attempt
    }

    fn try_to_begin(&mut self, found: RunLookup, shadows: &Shadows, send: impl FnOnce(ShadowChange)) -> Attempt {
        let (run, enforced) = match found {
            RunLookup::Live(run, enforced) => (*run, enforced),
            RunLookup::Guarded => return Attempt::Waits,
            RunLookup::Over => return Attempt::Over,
        };
        if let Some(begun) = &mut self.begun {
            let answer = match begun.try_recv() {
                Err(TryRecvError::Empty) => return Attempt::Waits,
                Err(TryRecvError::Closed) => Err(Refused::Ended),
                Ok(answer) => answer,
            };
            self.begun = None;
            return match answer {
                Ok(()) => Attempt::Judges,
                Err(why) => self.refused(why),
            };
        }
        let asked = Asked {
            run,
            enforced,
            policy: self.policy.clone(),
            digest: self.digest,
            by: By::User(self.stored.uid),
            reserved: self.stored.reserved,
            actor: self.stored.actor.clone(),
        };
        match shadows.add(asked) {
            // The order frees its place.
            Ok((_order, _begun)) if !shadows.delayed.contains(self.run(), self.digest) => Attempt::Removed,
            Ok((order, begun)) => {
                self.begun = Some(begun);
                send(order);
                Attempt::Waits
            }
            // Somebody asked for it again meanwhile.
            Err(Refused::Twice) => Attempt::Judges,
            Err(why) => self.refused(why),
        }
    }

    fn refused(&mut self, why: Refused) -> Attempt {
        match &why {
            Refused::Run(_) | Refused::User(_) | Refused::Users | Refused::Node(_) => {
                if self.refused.as_ref() == Some(&why) {
                    return Attempt::Waits;
                }
                self.refused = Some(why.clone());
                Attempt::Refused(why)
            }
            // The pipeline does not have the run yet, or its end is under way.
            Refused::NotLive => Attempt::Waits,
            Refused::Twice | Refused::InForce | Refused::Ended => Attempt::GivenUp(why),
        }
    }
}

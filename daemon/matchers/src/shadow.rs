//! A policy that is judged beside the one in force, on the same inputs and without effect: the engine, with the verdicts of the kernel
//! computed anew as far as they can be.
//!
//! ```text
//! input ─► verdict of the shadow (rejudge) ─► engine, only watching ─► its decisions ─► pairing with those in force ─► tally
//! ```
//! Invariants: pure; the engine of a shadow only watches, so that nothing that it decides changes what it believes of the run; what
//! became of actions, which are not its own, it is not given, but whether the run is frozen. It begins without a history: what was seen
//! before is not known.

use crate::{
    recorded::{Unrecorded, never_came, unrecorded},
    rejudge::{Judged, Rejudge, Unknown},
};
use failsafe_core::{
    Decision, GpuId, Input, Kind, Mode, MonoTime, Policy, PolicyDigest, PolicySet, State, Value,
    input::{Contained, Run},
    shadow::{Lack, Of, Pairing, Tally, contains, is_compared},
    step,
};
use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Kinds of signals that are remembered as seen.
const CAME: usize = 4_096;

/// The facts of a run and its policy that do not change while a shadow judges it.
#[derive(Debug, Clone)]
pub struct Beside {
    /// The run.
    pub run: Run,
    /// Its policy.
    pub enforced: Arc<Policy>,
    /// What is added to an instant to have nanoseconds since the epoch.
    pub wall_offset_ns: i64,
}

/// What is known of the run when a shadow begins.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// Its GPUs.
    pub gpus: BTreeSet<GpuId>,
    /// Whether it is frozen.
    pub frozen: bool,
    /// The time.
    pub at: MonoTime,
}

/// A shadow of one run.
pub struct Shadow {
    policy: Arc<Policy>,
    digest: PolicyDigest,
    policies: PolicySet,
    state: State,
    verdicts: Rejudge,
    kept: BTreeMap<Unknown, u64>,
    pairing: Pairing,
    /// One of its decisions would have contained the run.
    would_contain: bool,
    came: BTreeSet<Kind>,
    /// What cannot be computed whatever comes, once it was asked for.
    lacks: OnceCell<Vec<Lack>>,
}

impl Shadow {
    /// Judges from now on.
    #[must_use]
    pub fn begin(beside: &Beside, policy: Arc<Policy>, Now { gpus, frozen, at }: Now) -> Shadow {
        let digest = policy.digest();
        let mut shadow = Shadow {
            digest,
            policies: PolicySet::from([(digest, policy.clone())]),
            state: State::default(),
            verdicts: Rejudge::by(&policy),
            kept: BTreeMap::new(),
            pairing: Pairing::default(),
            would_contain: false,
            came: BTreeSet::new(),
            lacks: OnceCell::new(),
            policy,
        };
        let run = Run {
            policy: digest,
            gpus,
            registered: at,
            decisions: 0,
            incidents: 0,
            contained: Contained::default(),
            ..beside.run.clone()
        };
        let watched = Input::Mode { run: run.id, mode: Mode::Observe, at };
        for input in [watched, Input::RunStarted(run)] {
            let _nothing_is_decided = step(&shadow.policies, &mut shadow.state, &input);
        }
        shadow.state.set_frozen_by_others(beside.run.id, frozen);
        shadow
    }

    /// Its policy.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The digest of its policy.
    #[must_use]
    pub fn digest(&self) -> PolicyDigest {
        self.digest
    }

    /// Takes an input of the run with what was decided on it by the policy in force, and whether the run is frozen after it.
    pub fn take(&mut self, beside: &Beside, input: &Input, enforced: &[Decision], frozen: bool, tally: &mut Tally) {
        tally.inputs += 1;
        let decided = match self.given(input) {
            Some(input) => step(&self.policies, &mut self.state, &input),
            None => Vec::new(),
        };
        for decision in decided.iter().filter(|decision| is_compared(decision)) {
            tally.after_contained += u64::from(self.would_contain);
            self.would_contain |= contains(decision, &self.policy);
        }
        let of = Of {
            run: beside.run.id,
            name: &beside.run.name,
            enforced: &beside.enforced,
            shadow: &self.policy,
            wall_offset_ns: beside.wall_offset_ns,
        };
        self.pairing.take(of, enforced, &decided, tally);
        self.state.set_frozen_by_others(beside.run.id, frozen);
    }

    /// The input as it would be under this policy; `None`: it would not be.
    fn given(&mut self, input: &Input) -> Option<Input> {
        match input {
            Input::Signal(signal) => {
                if !self.came.contains(&signal.kind) && self.came.len() < CAME {
                    self.came.insert(signal.kind.clone());
                }
                let Value::Event(event) = &signal.value else { return Some(input.clone()) };
                match self.verdicts.judge(event) {
                    Judged::NoVerdict => Some(input.clone()),
                    Judged::As(judged) => {
                        let mut signal = signal.clone();
                        signal.value = Value::Event(judged);
                        Some(Input::Signal(signal))
                    }
                    Judged::Unreported => None,
                    Judged::Unknown(why) => {
                        *self.kept.entry(why).or_default() += 1;
                        Some(input.clone())
                    }
                }
            }
            // Whether decisions are carried out says nothing here, and those of which this is an outcome are not its own.
            Input::Mode { .. } | Input::Outcome(_) | Input::RunStarted(_) => None,
            other => Some(other.clone()),
        }
    }

    /// What it cannot compute of this run, into the tally. To be called once, when it ends, or on a copy of the tally.
    pub fn conclude(&self, beside: &Beside, tally: &mut Tally) {
        let lack = |Unrecorded { rule, what }: Unrecorded| Lack { rule, what };
        let lacks = self.lacks.get_or_init(|| {
            let sections = sections(&beside.enforced, &self.policy).into_iter().map(|what| Lack { rule: None, what });
            unrecorded(&beside.enforced, &self.policy).into_iter().map(lack).chain(sections).collect()
        });
        lacks.iter().cloned().chain(never_came(&self.policy, &self.came).into_iter().map(lack)).for_each(|lack| {
            tally.lack(lack);
        });
        for (why, count) in self.kept.iter().filter(|(why, _)| why.matters(&beside.enforced, &self.policy)) {
            *tally.kept.entry(why.words()).or_default() += count;
        }
    }
}

/// What is not computed of the sections by which the kernel refuses, where the two policies differ in them.
fn sections(enforced: &Policy, shadow: &Policy) -> Vec<String> {
    let observes = |mode: Option<Mode>| mode == Some(Mode::Observe);
    let egress = |policy: &Policy| observes(policy.egress.as_ref().map(|egress| egress.mode));
    let exec = |policy: &Policy| observes(policy.exec.as_ref().map(|exec| exec.mode));
    let mut lacks = Vec::new();
    for (section, differs, observed_by_one) in [
        ("egress", enforced.egress != shadow.egress, egress(enforced) != egress(shadow)),
        ("exec", enforced.exec != shadow.exec, exec(enforced) != exec(shadow)),
    ] {
        // A decision that holds only of would-be denials is not carried out.
        if observed_by_one {
            lacks.push(format!(
                "[{section}] only observes under one of the two policies: whether a decision on its denials would be carried out is \
                 not compared"
            ));
        }
        if differs {
            lacks.push(format!(
                "[{section}] differs: what the kernel would refuse by the shadow's is no decision, and calls that the policy in force \
                 allows are not reported; `failsafectl policy would` answers for one call"
            ));
        }
    }
    lacks
}

#[cfg(test)]
mod tests;

//! What of a containment is not yet proved, and who waits for it.
//!
//! A frozen cgroup does not stop kernels already queued on a GPU: a freeze of a run with GPUs is proved only when a sample
//! taken after it shows them idle. Until then it is partial, and says which GPU is not.

use failsafe_core::{
    Action, GpuId, Outcome, RunId,
    decision::{DecisionId, Proof, Verdict},
    time::{MonoTime, Span},
};
use std::collections::{BTreeMap, BTreeSet};

/// NVML's utilisation is a mean over up to a second: a sample counts only this long after the freeze.
const SETTLE: Span = Span::from_millis(1_000);

/// The GPUs and MIG devices that are to be seen idle: the run's own parts of a GPU where it was given such.
pub fn proved_by(gpus: &BTreeSet<GpuId>, mig: &BTreeMap<GpuId, BTreeSet<String>>) -> BTreeSet<GpuId> {
    let slices = mig.values().flatten().map(|uuid| GpuId(uuid.clone()));
    gpus.iter().filter(|gpu| !mig.contains_key(gpu)).cloned().chain(slices).collect()
}

#[derive(Debug)]
struct Unproved {
    outcome: Outcome,
    since: MonoTime,
    cgroup: Vec<String>,
    busy: BTreeMap<GpuId, String>,
}

/// Freezes whose proof is not whole.
#[derive(Debug, Default)]
pub struct Containments {
    unproved: BTreeMap<RunId, Unproved>,
}

impl Containments {
    /// Takes the outcome of the freeze of the cgroup, and returns the one to report: with GPUs it is partial until
    /// they are idle.
    pub fn frozen(&mut self, mut outcome: Outcome, gpus: &BTreeSet<GpuId>) -> Outcome {
        let run = outcome.decision.run;
        match (outcome.action, &outcome.verdict) {
            (Action::Thaw, Verdict::Failed(cause)) => self.still_held(&outcome, format!("a thaw failed: {cause}")),
            (Action::Thaw, Verdict::Proved | Verdict::Partial(_)) => drop(self.unproved.remove(&run)),
            _ => {}
        }
        if outcome.action != Action::Freeze {
            return outcome;
        }
        let cgroup = match &outcome.verdict {
            Verdict::Proved => Vec::new(),
            Verdict::Partial(missing) => missing.clone(),
            // The guard tries again for as long as it is wanted, and then this is what it has proved.
            Verdict::Failed(cause) => vec![cause.clone()],
        };
        let failed = matches!(outcome.verdict, Verdict::Failed(_));
        let busy: BTreeMap<GpuId, String> =
            gpus.iter().map(|gpu| (gpu.clone(), format!("{gpu}: no sample since the freeze shows it idle"))).collect();
        let unproved = Unproved { outcome: outcome.clone(), since: outcome.at, cgroup, busy };
        if let Some(missing) = unproved.missing() {
            if !failed {
                outcome.verdict = Verdict::Partial(missing);
            }
            self.unproved.insert(run, unproved);
        } else {
            self.unproved.remove(&run);
        }
        outcome
    }

    /// A run that could not be thawed is held, and its freeze is to be proved again.
    fn still_held(&mut self, thaw: &Outcome, missing: String) {
        let freeze = Outcome { action: Action::Freeze, proofs: Vec::new(), ..thaw.clone() };
        let new = Unproved { since: thaw.at, outcome: freeze, cgroup: Vec::new(), busy: BTreeMap::new() };
        self.unproved.entry(thaw.decision.run).or_insert(new).cgroup.push(missing);
    }

    /// A GPU's utilisation in milli-percent. Returns the freezes that are now proved.
    pub fn gpu(&mut self, gpu: &GpuId, at: MonoTime, utilization: i64) -> Vec<Outcome> {
        let mut settled = Vec::new();
        for (run, unproved) in &mut self.unproved {
            if !unproved.busy.contains_key(gpu) || at.since(unproved.since) < SETTLE {
                continue;
            }
            if utilization == 0 {
                unproved.busy.remove(gpu);
                unproved.outcome.proofs.push(Proof { fact: format!("NVML {gpu}"), seen: "utilisation 0 %".into() });
                settled.push(*run);
            } else {
                let why = format!("{gpu}: still at {} % utilisation", utilization / 1_000);
                unproved.busy.insert(gpu.clone(), why);
            }
        }
        settled.into_iter().filter_map(|run| self.settle(run, at)).collect()
    }

    /// The guard found the run's cgroup frozen as it should be.
    pub fn cgroup_frozen(&mut self, run: RunId, at: MonoTime) -> Option<Outcome> {
        let unproved = self.unproved.get_mut(&run)?;
        if unproved.cgroup.is_empty() {
            return None;
        }
        unproved.cgroup.clear();
        unproved.outcome.proofs.push(Proof { fact: "cgroup.events".into(), seen: "populated 1, frozen 1".into() });
        self.settle(run, at)
    }

    /// The run ended, or was killed.
    pub fn ended(&mut self, run: RunId) {
        self.unproved.remove(&run);
    }

    /// Whether anything of the run is not proved.
    pub fn is_partial(&self, run: RunId) -> bool {
        self.unproved.contains_key(&run)
    }

    fn settle(&mut self, run: RunId, at: MonoTime) -> Option<Outcome> {
        if self.unproved.get(&run)?.missing().is_some() {
            return None;
        }
        let Unproved { mut outcome, since, .. } = self.unproved.remove(&run)?;
        outcome.verdict = Verdict::Proved;
        outcome.took = Span(outcome.took.0 + at.since(since).0);
        outcome.at = at;
        Some(outcome)
    }
}

impl Unproved {
    fn missing(&self) -> Option<Vec<String>> {
        let missing: Vec<String> = self.cgroup.iter().chain(self.busy.values()).cloned().collect();
        (!missing.is_empty()).then_some(missing)
    }
}

/// What a caller who waits for a decision is told.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The outcome so far.
    pub outcome: Outcome,
    /// Whether its record is on disk.
    pub durable: bool,
    /// Whether more is to come.
    pub last: bool,
}

/// Those who wait for a decision's main action.
#[derive(Default)]
pub struct PendingAnswers {
    by_decision: BTreeMap<DecisionId, (Action, tokio::sync::mpsc::UnboundedSender<Answer>)>,
}

impl PendingAnswers {
    /// Somebody waits for `action` of `decision`.
    pub fn add(&mut self, decision: DecisionId, action: Action, tell: tokio::sync::mpsc::UnboundedSender<Answer>) {
        self.by_decision.retain(|_, (_, tell)| !tell.is_closed());
        self.by_decision.insert(decision, (action, tell));
    }

    /// Who is to be told of this outcome, if anybody. With `last` nobody waits for it any more.
    pub fn of(&mut self, outcome: &Outcome, last: bool) -> Option<tokio::sync::mpsc::UnboundedSender<Answer>> {
        let (action, tell) = self.by_decision.get(&outcome.decision)?;
        if *action != outcome.action {
            return None;
        }
        let tell = tell.clone();
        if last {
            self.by_decision.remove(&outcome.decision);
        }
        Some(tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::decision::IncidentId;

    fn outcome(action: Action, verdict: Verdict, ms: u64) -> Outcome {
        let run: RunId = "01936f2e-7b1c-7e50-8000-5f0c9a1b2c3d".parse().unwrap();
        Outcome {
            decision: DecisionId { run, n: 1 },
            incident: IncidentId::new(run, 1),
            action,
            verdict,
            proofs: vec![],
            at: MonoTime(ms * 1_000_000),
            took: Span::from_millis(1),
        }
    }

    fn ms(ms: u64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    #[test]
    fn a_run_on_mig_devices_is_proved_by_these_and_not_by_their_card() {
        let (card, other) = (GpuId("GPU-a".into()), GpuId("GPU-b".into()));
        let mig = [(card.clone(), ["MIG-1".to_owned(), "MIG-2".to_owned()].into())].into();
        let all = proved_by(&[card, other.clone()].into(), &mig);
        assert_eq!(all, [other, GpuId("MIG-1".into()), GpuId("MIG-2".into())].into());
    }

    #[test]
    fn a_gpu_run_is_contained_only_when_its_gpus_are_idle_after_the_freeze() {
        let (a, b) = (GpuId("GPU-a".into()), GpuId("GPU-b".into()));
        let mut c = Containments::default();
        let reported = c.frozen(outcome(Action::Freeze, Verdict::Proved, 100), &[a.clone(), b.clone()].into());
        assert!(matches!(&reported.verdict, Verdict::Partial(missing) if missing.len() == 2));
        assert!(c.gpu(&a, ms(900), 0).is_empty(), "taken before it could show");
        assert!(c.gpu(&a, ms(1_200), 97_000).is_empty());
        assert!(c.gpu(&b, ms(1_200), 0).is_empty());
        let settled = c.gpu(&a, ms(2_200), 0);
        assert_eq!((settled[0].verdict.clone(), settled[0].took), (Verdict::Proved, Span::from_millis(2_101)));
        assert!(!c.is_partial(reported.decision.run));
    }

    #[test]
    fn a_d_state_task_keeps_it_partial_until_the_guard_sees_it_frozen() {
        let mut c = Containments::default();
        let reported =
            c.frozen(outcome(Action::Freeze, Verdict::Partial(vec!["pid 7 in D".into()]), 1), &BTreeSet::new());
        assert!(c.is_partial(reported.decision.run));
        assert_eq!(c.cgroup_frozen(reported.decision.run, ms(5)).unwrap().verdict, Verdict::Proved);
        assert!(c.cgroup_frozen(reported.decision.run, ms(6)).is_none());
    }

    #[test]
    fn a_freeze_that_failed_is_proved_once_the_guard_sees_it_frozen() {
        let mut c = Containments::default();
        let failed = Verdict::Failed("writing cgroup.freeze: EIO".into());
        let reported = c.frozen(outcome(Action::Freeze, failed.clone(), 1), &BTreeSet::new());
        assert_eq!(reported.verdict, failed, "it is told as it is");
        assert!(c.is_partial(reported.decision.run));
        assert_eq!(c.cgroup_frozen(reported.decision.run, ms(5)).unwrap().verdict, Verdict::Proved);
    }

    #[test]
    fn after_a_failed_thaw_the_freeze_is_proved_again_by_the_guard() {
        let mut c = Containments::default();
        let thaw = c.frozen(outcome(Action::Thaw, Verdict::Failed("EIO".into()), 2), &BTreeSet::new());
        assert_eq!(thaw.verdict, Verdict::Failed("EIO".into()));
        let proved = c.cgroup_frozen(thaw.decision.run, ms(5)).unwrap();
        assert_eq!((proved.action, proved.verdict), (Action::Freeze, Verdict::Proved));
    }

    #[test]
    fn a_failed_thaw_keeps_what_was_unproved() {
        let mut c = Containments::default();
        let gpu = GpuId("GPU-a".into());
        c.frozen(outcome(Action::Freeze, Verdict::Proved, 1), &[gpu.clone()].into());
        let thaw = c.frozen(outcome(Action::Thaw, Verdict::Failed("EIO".into()), 2), &BTreeSet::new());
        assert!(c.cgroup_frozen(thaw.decision.run, ms(5)).is_none(), "the GPU is not seen idle");
        assert_eq!(c.gpu(&gpu, ms(2_000), 0)[0].verdict, Verdict::Proved);
    }

    #[test]
    fn a_thaw_forgets_what_was_unproved() {
        let mut c = Containments::default();
        c.frozen(outcome(Action::Freeze, Verdict::Partial(vec!["x".into()]), 1), &BTreeSet::new());
        let thaw = c.frozen(outcome(Action::Thaw, Verdict::Proved, 2), &BTreeSet::new());
        assert_eq!(thaw.verdict, Verdict::Proved);
        assert!(!c.is_partial(thaw.decision.run));
    }
}

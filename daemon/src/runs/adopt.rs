//! Taking up the runs that an earlier daemon left: what the audit log says was decided, against what is found now.
//!
//! Nothing is blindly repeated. An action whose outcome is missing is looked at: found done, it is recorded as such; found
//! undone, the core is told that it failed, and decides again.

use super::{
    LiveRun, Registry, outage,
    store::{KeptRun, Store},
};
use crate::{
    actuators::cgroup::thaw,
    log::Log,
    pipeline::translate,
    platform::{CgroupRoot, clock},
    sensors::ebpf::{self, LeftEvents, PreviousRun},
};
use failsafe_core::{
    Action, Decision, Input, Mode, MonoTime, Outcome, RunId,
    decision::{Proof, Verdict},
    input::{Contained, Gap},
    record::Record,
    signal::Source,
    time::Span,
};
use failsafe_journal::LogReader;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Instant};

/// What the audit log says of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    /// Decisions made.
    pub decisions: u32,
    /// Incidents opened.
    pub incidents: u32,
    /// Whether it is meant to be frozen and latched.
    pub contained: Contained,
    /// Actions that were decided and whose outcome is not on record.
    pub open: Vec<(Decision, Action)>,
    /// Events that were told to be lost.
    pub lost_told: u64,
}

/// A run that was taken up again.
pub struct Adopted {
    /// The run.
    pub live: Arc<LiveRun>,
    /// From when on this daemon's own programs see it, `CLOCK_MONOTONIC` ns.
    pub attached: u64,
    /// What was found, in words.
    pub found: String,
    /// Outcomes of what had been left open.
    pub outcomes: Vec<Outcome>,
    /// What nobody saw, or will see.
    pub gaps: Vec<Gap>,
}

/// Reads what the log at `path` says of these runs. A log that cannot be read says nothing: what is found then counts.
pub fn read_past(path: &Path, runs: &[RunId]) -> BTreeMap<RunId, Past> {
    let mut past: BTreeMap<RunId, Past> = runs.iter().map(|run| (*run, Past::default())).collect();
    let Ok(reader) = LogReader::open(path) else { return past };
    for entry in reader.map_while(Result::ok) {
        let run = entry.run.as_deref().and_then(|r| r.parse().ok());
        let Some(past) = run.and_then(|run: RunId| past.get_mut(&run)) else { continue };
        match serde_json::from_value(entry.body) {
            Ok(Record::Decision { decision, .. }) => past.decided(decision),
            Ok(Record::Outcome(outcome)) => past.came_out(&outcome),
            Ok(Record::Gap(gap)) if gap.source == Source::Ebpf => past.lost_told += gap.lost,
            _ => {}
        }
    }
    past
}

impl Past {
    fn decided(&mut self, decision: Decision) {
        self.decisions = self.decisions.max(decision.id.n);
        self.incidents = self.incidents.max(decision.incident.n);
        if decision.mode == Mode::Observe {
            return;
        }
        for action in decision.actions.clone() {
            match action {
                Action::Freeze => self.contained.frozen = true,
                Action::Block => self.contained.blocked = true,
                Action::Thaw => self.contained = Contained::default(),
                _ => {}
            }
            if matches!(action, Action::Freeze | Action::Block | Action::Kill | Action::Thaw) {
                self.open.push((decision.clone(), action));
            }
        }
    }

    fn came_out(&mut self, outcome: &Outcome) {
        self.open.retain(|(decision, action)| decision.id != outcome.decision || *action != outcome.action);
        if outcome.action == Action::Thaw && matches!(outcome.verdict, Verdict::Failed(_)) {
            self.contained.frozen = true;
        }
    }
}

impl Registry {
    /// Takes up every kept run whose cgroup is still there in this boot; the others are marked ended.
    pub fn adopt(&self, log: &Log, boot_id: &str, now: MonoTime, wall_ns: i64) -> (Vec<Adopted>, Vec<Input>) {
        let kept = self.store.unended();
        let past = read_past(log.path(), &kept.iter().map(|k| k.run.id).collect::<Vec<_>>());
        let previous = self.kernel.previous();
        let mut adopted = Vec::new();
        for kept in kept {
            let past = past.get(&kept.run.id).cloned().unwrap_or_default();
            match self.take_up(&kept, past, &previous, boot_id, now) {
                Ok(run) => adopted.push(run),
                Err(why) => {
                    tracing::info!(run = %kept.run.id, why, "a run ended while no daemon watched");
                    let record = Record::RunEnded { run: kept.run.id, name: kept.run.name.clone() };
                    log.record(&record, Some(kept.run.id), None);
                    self.close_kept(&kept, wall_ns);
                }
            }
        }
        let left = self.kernel.adopted();
        let gaps: Vec<Input> = adopted.iter().flat_map(|run| run.gaps.iter().cloned().map(Input::Gap)).collect();
        let events = left.into_iter().flat_map(|left| self.left_inputs(left, &adopted));
        let inputs = gaps.into_iter().chain(events).collect();
        (adopted, inputs)
    }

    /// The events that an earlier daemon's programs wrote or noted and nobody read, of the runs that were taken up, up to the
    /// instant from which this daemon's own programs see them.
    fn left_inputs(&self, mut left: LeftEvents, adopted: &[Adopted]) -> Vec<Input> {
        let mut runs: BTreeMap<(u32, u32), (RunId, u64)> = BTreeMap::new();
        let mut inputs = Vec::new();
        for previous in &left.runs {
            let Some(run) = adopted.iter().find(|a| a.live.run.cgroup_id == previous.root_id) else { continue };
            runs.insert((previous.slot, previous.epoch), (run.live.run.id, run.attached));
        }
        let mut judge = |event: ebpf::Event| {
            // While it was being attached both rings may have an event: seen twice is better than not at all.
            if let Some((run, attached)) = runs.get(&(event.slot, event.epoch))
                && event.at_ns < *attached
            {
                inputs.extend(translate::event_of(&self.kernel, *run, event));
            }
        };
        left.reader.drain(&mut judge);
        left.leavers().into_iter().for_each(&mut judge);
        if !inputs.is_empty() {
            tracing::info!(events = inputs.len(), "events of the time without a daemon are judged now");
        }
        inputs
    }

    fn take_up(
        &self,
        kept: &KeptRun,
        past: Past,
        previous: &[PreviousRun],
        boot_id: &str,
        now: MonoTime,
    ) -> Result<Adopted, String> {
        let mut run = kept.run.clone();
        if run.boot_id != boot_id {
            return Err("it was of an earlier boot".into());
        }
        let cgroup = self.root.open_path(Path::new(&run.cgroup)).map_err(|e| e.chain())?;
        if cgroup.id() != run.cgroup_id {
            return Err(format!("its cgroup's path now belongs to cgroup {}", cgroup.id()));
        }
        let events = cgroup.events().map_err(|e| e.chain())?;
        if !events.populated {
            if kept.made {
                let _gone = cgroup.remove_tree();
            } else if past.contained.frozen {
                let _thawed = thaw(&cgroup, &[], Instant::now() + super::RELEASE);
            }
            return Err("its cgroup is empty".into());
        }
        let policy = Arc::new(self.store.policy(&run.policy).map_err(|e| super::kernel::chain(&e))?);
        let requested = cgroup.freeze_requested().map_err(|e| e.chain())?;
        let found_frozen = requested && events.frozen;
        let before = previous.iter().filter(|p| p.root_id == run.cgroup_id).max_by_key(|p| p.generation);
        let latch = before.is_some_and(|p| p.latch != 0) || past.contained.blocked;
        let mut found = vec![match (past.contained.frozen, found_frozen) {
            (true, true) => "frozen, as decided".to_owned(),
            (true, false) => "decided to be frozen, found running".into(),
            (false, true) => "found frozen, without a decision in the log: it is held until somebody thaws it".into(),
            (false, false) => "running".into(),
        }];
        if latch {
            found.push("egress latch on".into());
        }
        run.decisions = past.decisions;
        run.incidents = past.incidents;
        // An open thaw explains a frozen run: it was not carried out.
        let thawing = past.open.iter().any(|(_, action)| *action == Action::Thaw);
        let unexplained = requested && !past.contained.frozen && !thawing;
        run.contained = Contained { frozen: past.contained.frozen || requested, blocked: latch, unexplained };
        // Sensors have been silent about it since its last daemon, not since it began: silence counts from now.
        run.registered = now;
        let mut outcomes: Vec<Outcome> = past
            .open
            .iter()
            .map(|(decision, action)| reobserved(decision, *action, found_frozen, latch, now))
            .collect();
        let open_freeze = outcomes.iter().any(|o| o.action == Action::Freeze);
        if past.contained.frozen && !found_frozen && !open_freeze {
            found.push("it was thawed by someone else while no daemon watched".into());
        }
        let part = kept.part + 1;
        let run_id = run.id;
        let live = self.enter(run, policy, cgroup, kept.made, part).map_err(|e| e.to_string())?;
        let attached = clock::monotonic_ns();
        let outage = self.kernel.outage(live.slot);
        found.extend(outage.as_ref().and_then(|outage| outage::found(outage, now)));
        if outage.as_ref().is_none_or(|outage| outage.lost < past.lost_told) {
            self.kernel.count_lost(live.slot, past.lost_told);
        }
        let told = (past.lost_told, self.kernel.watches_calls(live.slot));
        let gaps = match &outage {
            Some(outage) => outage::gaps(outage, run_id, told, now),
            None if self.kernel.blind().is_none() => vec![outage::unguarded(run_id, now)],
            None => Vec::new(),
        };
        {
            let mut status = live.status();
            // The guard looks at once, and tells of a foreign thaw.
            status.frozen_since = live.run.contained.frozen.then_some(now.0);
            if found_frozen {
                status.standing = super::Standing::Frozen;
            }
            status.incident = (live.run.contained.frozen || latch)
                .then(|| failsafe_core::decision::IncidentId::new(live.run.id, live.run.incidents.max(1)));
        }
        outcomes.sort_by_key(|o| o.decision);
        Ok(Adopted { live, attached, found: found.join("; "), outcomes, gaps })
    }

    fn close_kept(&self, kept: &KeptRun, wall_ns: i64) {
        let KeptRun { run, part, policy_name, decisions, .. } = kept.clone();
        let ended = super::EndedRun { run, policy_name, ended_ns: wall_ns, decisions, part };
        let store: &Store = &self.store;
        if let Err(error) = store.mark_ended(&ended) {
            tracing::error!(run = %ended.run.id, %error, "the run's end could not be written");
        }
        self.remember_ended(ended);
    }

    /// The cgroup2 mount.
    pub fn root(&self) -> &CgroupRoot {
        &self.root
    }
}

/// The outcome of an action that an earlier daemon did not live to record, by what is found now.
fn reobserved(decision: &Decision, action: Action, frozen: bool, latched: bool, now: MonoTime) -> Outcome {
    let interrupted =
        |what: &str| Verdict::Failed(format!("interrupted by the daemon's end: re-observed at its restart, {what}"));
    let (verdict, seen) = match action {
        Action::Freeze if frozen => (Verdict::Proved, "populated 1, frozen 1"),
        Action::Freeze => (interrupted("the run is not frozen"), "frozen 0"),
        Action::Thaw if frozen => (interrupted("the run is still frozen"), "frozen 1"),
        Action::Thaw => (Verdict::Proved, "frozen 0"),
        Action::Block if latched => (Verdict::Proved, "egress latch on"),
        Action::Block => (interrupted("the latch is off"), "egress latch off"),
        _ => (interrupted("the run lives"), "populated 1"),
    };
    Outcome {
        decision: decision.id,
        incident: decision.incident,
        action,
        verdict,
        proofs: vec![Proof { fact: "re-observed at restart".into(), seen: seen.into() }],
        at: now,
        // The clock of an earlier daemon is this boot's clock too: both are CLOCK_MONOTONIC.
        took: Span(now.0.saturating_sub(decision.at.0)),
    }
}

//! A run that is judged again: it is attached anew, with the containment that is found.

use super::{Adopted, Candidate, Known};
use crate::{
    guard::{Holder, PreviousRun},
    platform::{Cgroup, CgroupError, clock},
    runs::{
        LiveRun, Registry,
        guarded::gap,
        outage,
        reobserved::{FoundFreeze, reobserved},
        start::{Origin, StartError},
        store::made_for,
    },
    sensors::ebpf::RunCounters,
};
use failsafe_core::{
    Action, MonoTime, Outcome, Policy,
    input::{Contained, Run},
    record::Totals,
    time::Span,
};
use std::sync::Arc;

impl Registry {
    pub(super) fn judge(
        &self,
        candidate: &Candidate,
        known: Known,
        policy: Policy,
        before: Option<&PreviousRun>,
        cgroup: &Cgroup,
    ) -> Result<Adopted, (String, bool)> {
        let now = MonoTime(clock::monotonic_ns());
        let Known { mut run, part, .. } = known;
        // By the cgroup that was found: a record may have been changed.
        let made = made_for(cgroup.path()) == Some(run.id);
        let past = match &candidate.before {
            Some(before) => before.past().clone(),
            None => candidate.past.clone(),
        };
        let mine = cgroup.try_clone().map_err(|e| (e.chain(), false))?;
        let unread = |e: CgroupError| (format!("its cgroup cannot be read: {}", e.chain()), false);
        let requested = cgroup.freeze_requested().map_err(unread)?;
        let found_frozen = requested && cgroup.events().map_err(unread)?.frozen;
        let latch = before.is_some_and(|p| p.latch != 0) || past.containment.is_latched();
        let seen = FoundFreeze { requested, proved: found_frozen };
        let mut found = vec![seen.words(past.containment.is_frozen()).to_owned()];
        if latch {
            found.push("egress latch on".into());
        }
        run.decisions = past.decisions;
        run.incidents = past.incidents;
        // An open thaw explains a frozen run: it was not carried out.
        let thawing = past.open.iter().any(|(_, action)| *action == Action::Thaw);
        let unexplained = requested && !past.containment.is_frozen() && !thawing;
        run.contained = Contained { frozen: past.containment.is_frozen() || requested, blocked: latch, unexplained };
        let recalled = past.containment.clone().found(run.contained, found_frozen, now);
        // Sensors have been silent about it since its last daemon, not since it began: silence counts from now.
        run.registered = now;
        let mut outcomes: Vec<Outcome> =
            past.open.iter().map(|(decision, action)| reobserved(decision, *action, seen, latch, now)).collect();
        let open_freeze = outcomes.iter().any(|o| o.action == Action::Freeze);
        let thawed = past.containment.is_frozen() && !requested && !open_freeze;
        if thawed {
            found.push("it was thawed by someone else while no daemon watched".into());
        }
        let run_id = run.id;
        let origin = Origin { made, holder: holder_of(&run), part: part.saturating_add(1), recalled };
        let live = self.enter(run, Arc::new(policy), mine, origin).map_err(|error| {
            let full = matches!(&error, StartError::Store(error) if error.is_full());
            (format!("it cannot be taken up: {error}"), full)
        })?;
        let attached = clock::monotonic_ns();
        let outage = self.kernel.outage(live.slot);
        found.extend(outage.as_ref().and_then(|outage| outage::found(outage, now)));
        let last_look = outage.as_ref().and_then(|outage| outage.since_ns);
        let frozen_until_ns = (thawed && past.frozen.is_frozen()).then(|| last_look.unwrap_or_default());
        if outage.as_ref().is_none_or(|outage| outage.lost < past.lost_recorded) {
            self.kernel.count_lost(live.slot, past.lost_recorded);
        }
        let recorded = (past.lost_recorded, self.kernel.watches_calls(live.slot));
        let mut gaps = match &outage {
            Some(outage) => outage::gaps(outage, run_id, recorded, now),
            None if self.kernel.blind().is_none() => vec![outage::unguarded(run_id, now)],
            None => Vec::new(),
        };
        if let Some(guarded) = &candidate.before {
            let for_how_long = Span(now.0.saturating_sub(guarded.since.0));
            let missed = guarded.missed();
            let what = format!(
                "it is judged again, after {for_how_long} without: {missed} events of that time were passed over"
            );
            gaps.push(gap(run_id, what, false));
        }
        {
            let mut status = live.status();
            // The guard looks at once, and reports a foreign thaw.
            status.frozen = past.frozen;
            if let Some(until) = frozen_until_ns {
                status.frozen.was_thawed(until, now.0);
            }
            if live.run.contained.frozen {
                status.frozen.begins(now.0);
            } else if past.frozen.is_frozen() {
                status.frozen.ends(now.0);
            }
            status.incident = (live.run.contained.frozen || latch)
                .then(|| failsafe_core::decision::IncidentId::new(live.run.id, live.run.incidents.max(1)));
        }
        outcomes.sort_by_key(|o| o.decision);
        let manifest = past.manifest;
        Ok(Adopted { live, attached, found: found.join("; "), frozen_until_ns, outcomes, gaps, manifest })
    }

    /// What was counted of a run in its life so far.
    pub(super) fn totals_of(&self, live: &LiveRun) -> Option<Totals> {
        let counted = self.kernel.totals(live.slot, live.epoch)?;
        Some(RunCounters::from(counted).totals())
    }
}

/// Where an adopted run is counted.
fn holder_of(run: &Run) -> Holder {
    match run.labels.contains_key(failsafe_core::discover::LABEL) {
        true => Holder::AdoptedDiscovered(run.owner_uid),
        false => Holder::Adopted(run.owner_uid),
    }
}

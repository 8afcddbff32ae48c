//! Has the kernel bind matching cgroups when they are made, and ends what it bound and no run came of.
//!
//! ```text
//! after the first pass: arm ─► each turn: tables of each rule follow policy and mode, slots are offered, provisional runs are looked at
//! consider: a cgroup gets no run ─► release
//! ```
//! Invariants: only cgroups of rules that enforce are bound; what the rules turn out not to say of a cgroup is not refused there for longer
//! than it takes to see that; each release is on record.

use super::Discovery;
use crate::{causes::chain, guard::Provisional, platform::clock, runs::stopped::continue_stopped};
use failsafe_core::{Mode, discover::LABEL, input::Gap, record::Record, signal::Source, time::MonoTime};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

/// A provisional run of this age is looked for: its report was lost, or its cgroup is gone.
const OVERDUE: Duration = Duration::from_secs(2);
/// How often provisional runs are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Entries of the log about released cgroups, each minute.
const RELEASES: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// What the kernel does for discovery.
#[derive(Debug, Default)]
pub(super) struct Early {
    /// `None`: not tried yet.
    armed: Option<Result<(), String>>,
    /// The policy that each rule's cgroups begin with, as it was tried last, and what became of it.
    rules: BTreeMap<u32, (Option<String>, Result<(), String>)>,
    /// Slots could not be offered.
    offering: Option<String>,
    looked: Option<Instant>,
    /// Provisional runs that the pass under way, or the next one, has to find.
    overdue: BTreeSet<u64>,
    /// Cgroups that found no slot, until the last pass.
    exhausted: u64,
    /// What is wrong because of them: until a pass finds no more.
    exhaustion: Option<String>,
    /// Entries of the log about released cgroups.
    releases: Releases,
}

/// Bounds the entries of the log about released cgroups.
#[derive(Debug, Default)]
struct Releases {
    minute: Option<Instant>,
    /// In this minute.
    entries: u32,
    /// Without an entry.
    others: u64,
}

impl Releases {
    /// Counts one. Whether it gets an entry; then how many had none since the last one.
    fn count(&mut self, now: Instant) -> Option<u64> {
        if self.minute.is_none_or(|since| now.duration_since(since) >= MINUTE) {
            (self.minute, self.entries) = (Some(now), 0);
        }
        if self.entries == RELEASES {
            self.others += 1;
            return None;
        }
        self.entries += 1;
        Some(std::mem::take(&mut self.others))
    }
}

impl Discovery {
    /// Attaches the programs, once, after the first pass: what exists is registered first.
    pub(super) fn arm(&mut self) {
        if self.early.armed.is_some() {
            return;
        }
        let armed = if self.limits.early_slots == 0 {
            Err("off: discovery.early_slots is 0".into())
        } else {
            self.try_to_arm()
        };
        match &armed {
            Ok(()) => tracing::info!("the kernel binds matching cgroups when they are made"),
            Err(why) => {
                tracing::warn!(why, "matching cgroups are bound when they are registered, not when they are made")
            }
        }
        self.early.armed = Some(armed);
        self.parts.registry.retire_early();
    }

    fn try_to_arm(&mut self) -> Result<(), String> {
        let registry = self.parts.registry.clone();
        let mount = registry.root().mount();
        let root = mount.join(&self.root);
        let top = fs::metadata(mount).map_err(|error| format!("{}: {error}", mount.display()))?.ino();
        // The kernel gives paths from there on.
        if top != 1 {
            return Err(format!("{} is not the root of the cgroup2 hierarchy", mount.display()));
        }
        let automaton = self.rules.automaton(self.root.to_str().ok_or("discovery.root is not UTF-8")?)?;
        let above = self.root.components().count();
        let depths = self.rules.iter().flat_map(|rule| &rule.patterns).map(|pattern| pattern.depth() + above);
        let levels = depths.filter_map(|level| u8::try_from(level).ok()).collect();
        registry.kernel().arm_early(&automaton, &root, levels)
    }

    /// Has tables and slots follow what holds now. `pass`: a pass is under way, so what failed is tried again. Whether the tables of a rule
    /// changed.
    pub(super) fn tend_early(&mut self, pass: bool) -> bool {
        let mut changed = false;
        if !matches!(self.early.armed, Some(Ok(()))) {
            return changed;
        }
        for (number, rule) in (0..).zip(self.rules.clone().iter()) {
            let mut labels = rule.labels.clone();
            labels.insert(LABEL.into(), rule.name.clone());
            let enforced = self.parts.registry.mode_of(&labels) == Mode::Enforce;
            let in_force = self.policies.with_digest(&rule.policy).ok().filter(|_| enforced);
            // The kernel cannot draw: until a candidate is promoted it binds by the policy in force.
            let policy = in_force.map(|(policy, digest)| {
                self.parts.registry.canaries().promoted(&rule.policy, digest).unwrap_or(policy)
            });
            let wanted = policy.as_ref().map(|policy| policy.digest().to_string());
            let stays = self
                .early
                .rules
                .get(&number)
                .is_some_and(|(made, result)| *made == wanted && (result.is_ok() || !pass));
            if stays {
                continue;
            }
            let set = self.parts.registry.bind_early(number, policy.as_deref()).map_err(|error| error.to_string());
            if let Err(why) = &set {
                tracing::warn!(
                    rule = rule.name,
                    why,
                    "the kernel does not bind cgroups of this rule when they are made"
                );
            }
            self.early.rules.insert(number, (wanted, set));
            changed = true;
        }
        let offered = self.parts.registry.kernel().offer_early(self.limits.early_slots);
        self.early.offering = offered.err().map(|error| error.to_string());
        if pass || self.early.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            self.early.looked = Some(Instant::now());
            self.look_for_overdue();
        }
        changed
    }

    fn look_for_overdue(&mut self) {
        let now = clock::monotonic_ns();
        let old = |run: &Provisional| now.saturating_sub(run.at_ns) >= OVERDUE.as_nanos() as u64;
        let all = self.parts.registry.kernel().all_provisional();
        self.early.overdue = all.into_iter().filter(old).map(|run| run.root_id).collect();
    }

    /// Whether a pass is due because of provisional runs that nobody reported.
    pub(super) fn is_early_overdue(&self) -> bool {
        !self.early.overdue.is_empty()
    }

    /// This one was found, and is to be registered.
    pub(super) fn is_not_overdue(&mut self, cgroup_id: u64) {
        self.early.overdue.remove(&cgroup_id);
    }

    /// After a pass, which registers what matches: what was overdue before it and is provisional still matches nothing, or is gone. A pass
    /// that is not `whole` shows that of none.
    pub(super) fn release_overdue(&mut self, whole: bool) {
        let overdue = std::mem::take(&mut self.early.overdue);
        for id in overdue.into_iter().filter(|_| whole) {
            self.release(id, "no cgroup that matches has its number");
        }
        let counts = self.parts.registry.kernel().early_counts();
        let missed = (counts.exhausted + counts.failed).saturating_sub(self.early.exhausted);
        self.early.exhausted += missed;
        self.early.exhaustion = (missed > 0).then(|| {
            format!(
                "cgroups were bound when they were registered, not when they were made: more than discovery.early_slots ({}) were made at \
                 once",
                self.limits.early_slots
            )
        });
    }

    /// A cgroup gets no run: nothing is refused there any more.
    pub(super) fn release(&mut self, cgroup_id: u64, why: &str) {
        if !matches!(self.early.armed, Some(Ok(()))) {
            return;
        }
        let registry = self.parts.registry.clone();
        match registry.kernel().release_early(cgroup_id) {
            Ok(None) => {}
            Ok(Some((run, stopped))) => {
                let continued = continue_stopped(registry.root().mount(), cgroup_id, &stopped);
                let rule = self.rules.iter().nth(run.rule as usize).map_or("?", |rule| rule.name.as_str());
                let after = Duration::from_nanos(clock::monotonic_ns().saturating_sub(run.at_ns));
                let mut what = format!(
                    "the kernel bound cgroup {cgroup_id} by rule {rule} when it was made, and let it go after {} ms: {why}",
                    after.as_millis()
                );
                if continued > 0 {
                    what.push_str(&format!("; {continued} processes that a rule had stopped continue"));
                }
                tracing::info!(what, "a provisional run was released");
                // Users make cgroups: not each is an entry of the log.
                let Some(others) = self.early.releases.count(Instant::now()) else { return };
                if others > 0 {
                    what.push_str(&format!("; {others} others were let go since the last such entry"));
                }
                let at = MonoTime(clock::monotonic_ns());
                let gap = Gap { seq: 0, at, source: Source::Guard, run: None, gpu: None, what, lost: 0, blind: false };
                self.parts.log.record(&Record::Gap(gap), None, None);
            }
            Err(error) => tracing::error!(cgroup_id, why = chain(&error), "a provisional run cannot be released"),
        }
    }

    /// Whether the kernel bound a cgroup of a rule by this policy, and not by an earlier one of the rule.
    pub(super) fn is_bound_by(&self, rule: &str, policy: &str) -> bool {
        let number = (0..).zip(self.rules.iter()).find(|(_, one)| one.name == rule).map(|(number, _)| number);
        number.and_then(|number| self.early.rules.get(&number)).is_some_and(|(made, _)| made.as_deref() == Some(policy))
    }

    /// What does not work, in words, for the health of the node.
    pub(super) fn early_problems(&self) -> Vec<String> {
        let mut all = Vec::new();
        match &self.early.armed {
            Some(Err(why)) if self.limits.early_slots > 0 => {
                all.push(format!("cgroups are bound when they are registered, not when they are made: {why}"));
            }
            _ => {}
        }
        for (number, rule) in (0..).zip(self.rules.iter()) {
            if let Some((_, Err(why))) = self.early.rules.get(&number) {
                all.push(format!(
                    "cgroups of rule {} are bound when they are registered, not when they are made: {why}",
                    rule.name
                ));
            }
        }
        all.extend(self.early.offering.clone());
        all.extend(self.early.exhaustion.clone());
        all
    }

    /// Whether the kernel binds the cgroups of a rule when they are made.
    pub(super) fn is_early(&self, rule: u32) -> bool {
        self.early.offering.is_none() && matches!(self.early.rules.get(&rule), Some((Some(_), Ok(()))))
    }

    /// How cgroups are bound, for people.
    pub(super) fn early_view(&self) -> super::view::EarlyView {
        let counts = self.parts.registry.kernel().early_counts();
        super::view::EarlyView {
            off: match &self.early.armed {
                Some(Ok(())) => None,
                Some(Err(why)) => Some(why.clone()),
                None => Some("not yet".into()),
            },
            bound: counts.bound,
            missed: counts.exhausted + counts.failed,
        }
    }
}

#[cfg(test)]
mod tests;

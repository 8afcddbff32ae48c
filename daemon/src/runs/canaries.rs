//! Canaries of named policies: which runs get the candidate, what became of them, and what was decided.
//!
//! ```text
//! API: start, promote, withdraw ─► disk ─► memory      a run of the name: draw ─► its label ─► watch
//! thread `canary`, each second: what watched runs did ─► counts ─► criteria ─► promote, withdraw ─► disk
//! ```
//! Invariants: a run gets the candidate only while the file of the name is the one that the canary began beside; what cannot be read or
//! stored, and what the audit log does not bear out, gives nobody the candidate; a withdrawal takes effect before it is stored,
//! everything else after it is recorded and stored; a run keeps its policy.

mod kept;

pub use kept::{Decided, Kept, New};

use super::LiveRun;
use crate::log::LoggedOrders;
use failsafe_core::{
    Actor, Mode, Policy, PolicyDigest, RunId,
    canary::{Arms, Finding, LABEL, Side, Stage, draw},
    record::Record,
    time::Span,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most canaries that are kept: those that are over make room.
pub const MOST: usize = 16;
/// How much time with the criteria met a crash of the daemon may lose.
const HELD_LOST: Span = Span::from_secs(60);

/// The policy of a run that was drawn.
#[derive(Debug, Clone)]
pub struct Drawn {
    /// The candidate; none: the policy in force.
    pub candidate: Option<Arc<Policy>>,
    /// Whether the candidate takes the place of the policy in force: then a node that refuses it refuses the run. Discovered runs have
    /// begun: they get the policy in force.
    pub promoted: bool,
    /// What the run's label [`LABEL`] is to be.
    pub label: String,
}

/// A canary, for monitoring.
#[derive(Debug, Clone)]
pub struct Monitored {
    /// The canary.
    pub kept: Kept,
    /// Decisions that contained a run, since the daemon or the canary began.
    pub interventions: BySide,
    /// Whether a person has to decide.
    pub waits: bool,
}

/// A number for each side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BySide {
    /// Of runs with the candidate.
    pub candidate: u64,
    /// Of the others.
    pub control: u64,
}

impl BySide {
    fn add(&mut self, side: Side, more: u32) {
        let of = match side {
            Side::Candidate => &mut self.candidate,
            Side::Control => &mut self.control,
        };
        *of = of.saturating_add(more.into());
    }
}

/// Why something was not done. Nothing has changed then, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    /// There is none.
    #[error("policy `{0}` has no canary")]
    None(String),
    /// It stands so that this cannot be done.
    #[error("the canary of policy `{name}` is {stage}: {expected}")]
    Stage {
        /// The name.
        name: String,
        /// How it stands.
        stage: Stage,
        /// What to do.
        expected: &'static str,
    },
    /// There are too many.
    #[error("limit `canaries`: this node has {MOST} canaries that are not over: withdraw one")]
    Most,
    /// It could not be recorded or stored.
    #[error("{0}")]
    Store(String),
}

/// A canary in memory.
#[derive(Debug)]
struct One {
    kept: Kept,
    policy: Arc<Policy>,
    /// Runs that are looked at, also those that have ended since.
    watched: BTreeMap<RunId, Watched>,
    interventions: BySide,
    /// The disk has it.
    stored: bool,
    stored_held: Span,
}

/// A run that is looked at.
#[derive(Debug)]
struct Watched {
    live: Arc<LiveRun>,
    /// Interventions that are counted.
    counted: u32,
}

impl One {
    fn new(kept: Kept, policy: Arc<Policy>) -> One {
        let (stored_held, interventions) = (kept.held, BySide::default());
        One { kept, policy, watched: BTreeMap::new(), interventions, stored: true, stored_held }
    }
}

#[derive(Debug, Default)]
struct Known {
    all: BTreeMap<String, One>,
    /// Why what is stored of a name cannot be used.
    unreadable: BTreeMap<String, String>,
    /// Why the last write failed.
    unstored: Option<String>,
}

/// All canaries.
#[derive(Debug, Default)]
pub struct Canaries {
    folder: PathBuf,
    known: Mutex<Known>,
    /// Held while files are written; taken before `known`, which is never held meanwhile.
    disk: Mutex<()>,
}

impl Canaries {
    /// Those that earlier daemons left in the state folder.
    #[must_use]
    pub fn open(state_dir: &Path) -> Canaries {
        let folder = state_dir.join("canaries");
        let mut known = Known::default();
        for (name, read) in kept::read_all(&folder) {
            match read {
                Ok((kept, policy)) => drop(known.all.insert(name, One::new(kept, Arc::new(policy)))),
                Err(why) => drop(known.unreadable.insert(name, why)),
            }
        }
        Canaries { folder, known: Mutex::new(known), disk: Mutex::default() }
    }

    /// Holds what the files have against the audit log. No canary gives the candidate to more runs than the log has it. What differs, in
    /// words, and what is to be recorded so that the log has how each canary stands now.
    pub fn borne_out_by(&self, logged: &LoggedOrders) -> (Vec<String>, Vec<Record>) {
        let (mut differs, mut records) = (Vec::new(), Vec::new());
        let mut known = self.known();
        let Known { all, unreadable, .. } = &mut *known;
        for (name, one) in all.iter_mut() {
            let said = match logged.orders.canary(name) {
                Some(entry) => one.kept.borne_out_by(entry),
                None if one.kept.stage.is_over() => Ok(None),
                None if logged.may_lack => Ok(Some(
                    "it is accepted although the audit log does not have it: the log was begun by an earlier version, and its \
                     beginning was removed"
                        .to_owned(),
                )),
                None => Err("it is not in the audit log".to_owned()),
            };
            match said {
                Ok(None) => {}
                Ok(Some(what)) => {
                    one.stored = false;
                    records.push(one.kept.record());
                    differs.push(format!("the canary of policy `{name}`: {what}"));
                }
                Err(why) => {
                    differs.push(format!("the canary of policy `{name}` does not count: {why}"));
                    unreadable.insert(name.clone(), why);
                }
            }
        }
        all.retain(|name, _| !unreadable.contains_key(name));
        for (name, entry) in logged.orders.canaries() {
            if all.contains_key(name) || unreadable.contains_key(name) {
                continue;
            }
            let reason = format!(
                "its file is missing: it was {} by the audit log, and new runs get the policy in force",
                entry.stage
            );
            differs.push(format!("the canary of policy `{name}`: {reason}"));
            records.push(Record::Canary {
                name: name.clone(),
                canary: entry.canary.clone(),
                stage: Stage::Over,
                control: entry.control,
                candidate: entry.candidate,
                candidate_name: entry.candidate_name.clone(),
                terms: entry.terms.clone(),
                seen: Arms::default(),
                draws_by: entry.draws_by.clone(),
                actor: Actor::Daemon,
                reason,
            });
        }
        (differs, records)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> MutexGuard<'_, ()> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong with what is stored; runs get the policies in force there.
    pub fn problem(&self) -> Option<String> {
        let known = self.known();
        let unreadable = known.unreadable.iter().map(|(name, why)| {
            format!("the canary of policy `{name}` cannot be read, so that runs get the policy in force: {why}")
        });
        let all: Vec<String> = unreadable.chain(known.unstored.clone()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// What a new run of this name gets; none: the policy in force, and it is not counted. `file`: the digest of the policy in force.
    /// `who` says which run it is.
    pub fn draw(&self, name: &str, file: PolicyDigest, who: &[&str]) -> Option<Drawn> {
        let known = self.known();
        let One { kept, policy, .. } = known.all.get(name)?;
        if kept.control != file {
            return None;
        }
        let side = match kept.stage {
            Stage::Running => draw(&kept.secret, &kept.id, who, kept.terms.share_ppm),
            Stage::Promoted => Side::Candidate,
            Stage::Withdrawn | Stage::Over => return None,
        };
        let candidate = (side == Side::Candidate).then(|| policy.clone());
        let promoted = kept.stage == Stage::Promoted;
        Some(Drawn { candidate, promoted, label: side.label(&kept.id) })
    }

    /// The policy by which the kernel binds a cgroup of this name before it is drawn; none: the one in force.
    pub fn promoted(&self, name: &str, file: PolicyDigest) -> Option<Arc<Policy>> {
        let known = self.known();
        let One { kept, policy, .. } = known.all.get(name)?;
        (kept.stage == Stage::Promoted && kept.control == file).then(|| policy.clone())
    }

    /// Whether this is the candidate of the name, in whatever stage.
    pub fn is_candidate(&self, name: &str, policy: PolicyDigest) -> bool {
        self.known().all.get(name).is_some_and(|one| one.kept.candidate == policy)
    }

    /// Looks at a run from here on, if it was drawn and its policy is enforced.
    pub fn watch(&self, live: &Arc<LiveRun>) {
        let Some((id, _)) = live.run.labels.get(LABEL).and_then(|label| Side::of_label(label)) else { return };
        if live.mode() == Mode::Observe {
            return;
        }
        let mut known = self.known();
        let of = |one: &&mut One| one.kept.id == id && one.kept.stage == Stage::Running;
        if let Some(one) = known.all.values_mut().find(of) {
            one.watched.entry(live.run.id).or_insert_with(|| Watched { live: live.clone(), counted: 0 });
        }
    }

    /// Begins a canary. `announce` records it, and returns when that is durable: a file without an entry does not count at the next start.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn start(
        &self,
        kept: Kept,
        policy: Policy,
        announce: impl FnOnce(&Kept) -> Result<(), String>,
    ) -> Result<(), NotDone> {
        let _disk = self.disk();
        let gives_way = {
            let known = self.known();
            if let Some(one) = known.all.get(&kept.name).filter(|one| !one.kept.stage.is_over()) {
                let (name, stage) = (kept.name, one.kept.stage);
                return Err(NotDone::Stage { name, stage, expected: "withdraw it first" });
            }
            let over = known.all.values().filter(|one| one.kept.stage.is_over() && one.kept.name != kept.name);
            let oldest = over.min_by_key(|one| one.kept.since_ns).map(|one| one.kept.name.clone());
            let full = known.all.len() >= MOST && !known.all.contains_key(&kept.name);
            if full { Some(oldest.ok_or(NotDone::Most)?) } else { None }
        };
        announce(&kept).map_err(NotDone::Store)?;
        kept::write(&self.folder, &kept, Some(&policy)).map_err(NotDone::Store)?;
        let candidates = {
            let mut known = self.known();
            if let Some(name) = &gives_way {
                known.all.remove(name);
            }
            known.unreadable.remove(&kept.name);
            known.all.insert(kept.name.clone(), One::new(kept, Arc::new(policy)));
            // What cannot be read may name any.
            known.unreadable.is_empty().then(|| known.all.values().map(|one| one.kept.candidate).collect())
        };
        if let Some(candidates) = candidates {
            kept::tidy(&self.folder, gives_way.as_ref(), &candidates);
        }
        Ok(())
    }

    /// All new runs of the name get the candidate. `announce` is as for [`Canaries::start`].
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn promote(
        &self,
        name: &str,
        decided: Decided,
        announce: impl FnOnce(&Kept) -> Result<(), String>,
    ) -> Result<Kept, NotDone> {
        let _disk = self.disk();
        let mut kept = self.get(name)?;
        if kept.stage != Stage::Running {
            let (name, stage) = (kept.name, kept.stage);
            return Err(NotDone::Stage { name, stage, expected: "expected one that is running" });
        }
        kept.decide(Stage::Promoted, decided.clone());
        announce(&kept).map_err(NotDone::Store)?;
        kept::write(&self.folder, &kept, None).map_err(NotDone::Store)?;
        let mut known = self.known();
        let Some(one) = known.all.get_mut(name).filter(|one| one.kept.stage == Stage::Running) else {
            // Withdrawn meanwhile, which counts; the disk follows.
            known.all.values_mut().filter(|one| one.kept.name == name).for_each(|one| one.stored = false);
            return Err(NotDone::Stage {
                name: kept.name,
                stage: Stage::Withdrawn,
                expected: "it was withdrawn meanwhile",
            });
        };
        one.kept.decide(kept.stage, decided);
        one.watched.clear();
        one.stored = one.kept == kept;
        Ok(one.kept.clone())
    }

    /// No new run of the name gets the candidate. It takes effect before it is stored; the text is why it could not be stored, which is
    /// tried again: until then a restart of the daemon undoes it.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn withdraw(&self, name: &str, stage: Stage, decided: Decided) -> Result<(Kept, Option<String>), NotDone> {
        let kept = {
            let mut known = self.known();
            let one = known.all.get_mut(name).ok_or_else(|| NotDone::None(name.to_owned()))?;
            if one.kept.stage.is_over() {
                let (name, stage) = (name.to_owned(), one.kept.stage);
                return Err(NotDone::Stage { name, stage, expected: "it is over already" });
            }
            one.kept.decide(stage, decided);
            one.watched.clear();
            one.stored = false;
            one.kept.clone()
        };
        self.store();
        let known = self.known();
        let stored = known.all.get(name).is_none_or(|one| one.stored);
        Ok((kept, known.unstored.clone().filter(|_| !stored)))
    }

    fn get(&self, name: &str) -> Result<Kept, NotDone> {
        self.known().all.get(name).map(|one| one.kept.clone()).ok_or_else(|| NotDone::None(name.to_owned()))
    }

    /// All of them.
    pub fn all(&self) -> Vec<Kept> {
        self.known().all.values().map(|one| one.kept.clone()).collect()
    }

    /// All of them, for monitoring.
    pub fn monitored(&self) -> Vec<Monitored> {
        let known = self.known();
        let one = |One { kept, interventions, .. }: &One| Monitored {
            waits: kept.stage == Stage::Running && kept.terms.waits_for_command(&kept.arms(), kept.held),
            interventions: *interventions,
            kept: kept.clone(),
        };
        known.all.values().map(one).collect()
    }

    /// Takes in what became of the runs since the last time, `elapsed` ago, and says what follows from it. `live`: the live runs, `guarded`:
    /// those that are not judged and live all the same.
    pub fn look(&self, live: &[Arc<LiveRun>], guarded: &BTreeSet<RunId>, elapsed: Span) -> Vec<(String, Finding)> {
        live.iter().for_each(|live| self.watch(live));
        let lives: BTreeSet<RunId> = live.iter().map(|live| live.run.id).chain(guarded.iter().copied()).collect();
        let mut known = self.known();
        let mut found = Vec::new();
        for One { kept, watched, interventions, stored, stored_held, .. } in known.all.values_mut() {
            if kept.stage != Stage::Running {
                continue;
            }
            let mut ended = BTreeSet::new();
            for Watched { live, counted } in watched.values_mut() {
                // Asked first: what is decided until the end is counted then.
                let has_ended = live.ended().is_some();
                if has_ended {
                    ended.insert(live.run.id);
                }
                let side = live.run.labels.get(LABEL).and_then(|label| Side::of_label(label)).map(|(_, side)| side);
                let Some(side) = side else { continue };
                let now = live.status().interventions;
                interventions.add(side, now.saturating_sub(std::mem::replace(counted, now)));
                *stored &= !kept.saw(live.run.id, side, now > 0, has_ended);
            }
            watched.retain(|run, _| !ended.contains(run));
            // Ended while no daemon ran.
            *stored &= !kept.retain(|run| lives.contains(&run) || watched.contains_key(&run));
            kept.holds_for(elapsed);
            *stored &= kept.held >= *stored_held && kept.held.0 - stored_held.0 < HELD_LOST.0;
            match kept.terms.judge(&kept.arms(), kept.held) {
                Finding::Wait(_) => {}
                finding => found.push((kept.name.clone(), finding)),
            }
        }
        found
    }

    /// Stores what the disk lacks.
    pub fn store(&self) {
        let _disk = self.disk();
        let due: Vec<Kept> = self.known().all.values().filter(|one| !one.stored).map(|one| one.kept.clone()).collect();
        let mut unstored = None;
        for kept in due {
            match kept::write(&self.folder, &kept, None) {
                Ok(()) => {
                    let mut known = self.known();
                    if let Some(one) = known.all.get_mut(&kept.name) {
                        // What changed meanwhile is stored the next time.
                        one.stored = one.kept == kept;
                        one.stored_held = kept.held;
                    }
                }
                Err(why) => unstored = Some(why),
            }
        }
        self.known().unstored = unstored;
    }

    /// The counts of the runs of a name.
    pub fn arms(&self, name: &str) -> Option<Arms> {
        self.known().all.get(name).map(|one| one.kept.arms())
    }
}

#[cfg(test)]
mod tests;

//! What the audit log has of runs: how each began, what was decided about it, and what became of that.

use super::{NO_UID, frozen::FrozenTime};
use crate::log::OPEN_RUNS;
use failsafe_attest::Manifest;
use failsafe_core::{
    Action, Containment, Decision, Mode, Outcome, RunId,
    containment::StepResult,
    discover::is_discovered,
    input::Run,
    record::{Record, Totals, Unwatched},
    signal::{Real, Source},
};
use failsafe_journal::{Entry, Filter, Query, Search, kind, search::SearchError};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// How the gap of a run begins that is bounded by the kernel and judged by nobody.
pub const GUARDED: &str = "guarded, not judged";

/// The end of a run, as the audit log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// When; where no daemon watched it, when it was noticed. Nanoseconds since the epoch.
    pub at_ns: i64,
    /// Between which times it ended, where no daemon watched it.
    pub unwatched: Option<Unwatched>,
    /// The number of its last recording, where the entry has one.
    pub part: Option<u32>,
    /// For how long the run was frozen, ns, where the entry has it.
    pub frozen_ns: Option<u64>,
}

/// What the audit log has of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Past {
    /// The run as it was started, with the owner that became known later; `None`: no such record was found.
    pub start: Option<Run>,
    /// Name and version of its policy.
    pub policy_name: Option<String>,
    /// The number of its last recording, as far as one was begun.
    pub part: u32,
    /// When an entry shows it alive for the last time, nanoseconds since the epoch.
    pub last_seen_ns: Option<i64>,
    /// Its end.
    pub end: Option<Ending>,
    /// What the kernel counted of it.
    pub totals: Option<Totals>,
    /// Decisions made.
    pub decisions: u32,
    /// Incidents opened.
    pub incidents: u32,
    /// What is desired and proved of its containment.
    pub containment: Containment,
    /// For how long it has been frozen.
    pub frozen: FrozenTime,
    /// Actions that were decided and whose outcome is not on record.
    pub open: Vec<(Decision, Action)>,
    /// Lost events that are on record.
    pub lost_recorded: u64,
    /// The numbers of its manifests; of each the first, as the engine takes them.
    pub manifest: BTreeMap<String, Real>,
    /// It was last recorded as guarded, not judged: commands are carried out without a decision.
    pub guarded: bool,
}

/// What the audit log has of the runs of this boot, and of others that were asked for.
#[derive(Debug, Default, PartialEq)]
pub struct History {
    runs: BTreeMap<RunId, Past>,
    /// The log was read to its end, and no entry is missing.
    whole: bool,
}

impl History {
    /// Reads the log at `path`: the runs in `wanted`, those that had the cgroups in `roots`, and all that were started in this boot and
    /// did not end. A log that cannot be read has nothing: what is found then counts.
    ///
    /// The runs that are open are in the first entry of each file. So only the beginnings and ends of runs behind the last of these
    /// entries are read, and then the entries of those concerned: the time does not depend on the size of the log. If a cgroup is of
    /// no open run, the beginnings and ends of all are read.
    pub fn read(path: &Path, boot_id: &str, wanted: &BTreeSet<RunId>, roots: &BTreeSet<u64>) -> History {
        if let Some(stated) = Stated::find(path, boot_id) {
            let history = History::of_concerned(path, boot_id, wanted, roots, stated);
            let of_open = |root: &u64| history.open().any(|run| run.cgroup_id == *root && run.boot_id == boot_id);
            if roots.iter().all(of_open) {
                return history;
            }
        }
        History::of_concerned(path, boot_id, wanted, roots, Stated::default())
    }

    fn of_concerned(
        path: &Path,
        boot_id: &str,
        wanted: &BTreeSet<RunId>,
        roots: &BTreeSet<u64>,
        stated: Stated,
    ) -> History {
        let mut history = History { whole: true, ..History::default() };
        let concerned = history.concerned(path, boot_id, wanted, roots, stated);
        let kinds = ["run", "decision", "outcome", "gap", "control", "manifest"];
        for entry in search(path, 0, Some(&concerned), &kinds) {
            let Some(entry) = history.entry(entry) else { break };
            let Some(id) = entry.run.as_deref().and_then(|run| run.parse::<RunId>().ok()) else { continue };
            let wall_ns = i64::try_from(entry.wall_ns).unwrap_or(i64::MAX);
            let known = wanted.contains(&id) || history.runs.contains_key(&id);
            if !known && entry.kind != "run" {
                continue;
            }
            match serde_json::from_value(entry.body) {
                Ok(Record::RunStarted { run, policy_name, .. }) if known || run.boot_id == boot_id => {
                    let past = history.runs.entry(id).or_default();
                    past.last_seen_ns = past.last_seen_ns.max(Some(wall_ns));
                    (past.start, past.policy_name) = (Some(run), Some(policy_name));
                }
                Ok(Record::RunEnded { recording, unwatched, frozen_ns, .. }) if known => {
                    let past = history.runs.entry(id).or_default();
                    let at_ns = unwatched.as_ref().map_or(wall_ns, |unwatched| unwatched.noticed_ns);
                    past.end = Some(Ending { at_ns, unwatched, part: recording.map(|seal| seal.part), frozen_ns });
                    past.open.clear();
                    let root = past.start.as_ref().map(|run| run.cgroup_id);
                    if !wanted.contains(&id) && !root.is_some_and(|root| roots.contains(&root)) {
                        history.runs.remove(&id);
                    }
                }
                Ok(record) if known => history.runs.entry(id).or_default().takes(record, wall_ns, entry.mono_ns),
                _ => {}
            }
        }
        history
    }

    /// The runs of which all entries are needed. Of those that `stated` has, the beginnings are not known here.
    fn concerned(
        &mut self,
        path: &Path,
        boot_id: &str,
        wanted: &BTreeSet<RunId>,
        roots: &BTreeSet<u64>,
        stated: Stated,
    ) -> BTreeSet<RunId> {
        let mut open = stated.runs;
        let mut started: BTreeMap<RunId, u64> = BTreeMap::new();
        for entry in search(path, stated.from, None, &["run"]) {
            let Some(entry) = self.entry(entry) else { break };
            let Some(id) = entry.run.as_deref().and_then(|run| run.parse::<RunId>().ok()) else { continue };
            match serde_json::from_value(entry.body) {
                Ok(Record::RunStarted { run, .. }) if run.boot_id == boot_id => {
                    started.insert(id, run.cgroup_id);
                }
                // Whether a cgroup of those that are stated is left is seen when their entries are read.
                Ok(Record::RunEnded { .. }) if !started.get(&id).is_some_and(|root| roots.contains(root)) => {
                    started.remove(&id);
                }
                _ => {}
            }
        }
        open.extend(wanted.iter().copied().chain(started.into_keys()));
        open
    }

    /// An entry, if it could be read.
    fn entry(&mut self, read: Result<Entry, ()>) -> Option<Entry> {
        self.whole &= read.is_ok();
        read.ok()
    }

    /// Whether the log was read to its end, and no entry is missing: one that cannot be read hides those behind it.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// What it has of a run.
    pub fn of(&self, id: RunId) -> Past {
        self.runs.get(&id).cloned().unwrap_or_default()
    }

    /// The runs that were started and did not end.
    pub fn open(&self) -> impl Iterator<Item = &Run> {
        self.runs.values().filter(|past| past.end.is_none()).filter_map(|past| past.start.as_ref())
    }

    /// The run that had this cgroup in this boot; the one that did not end, if several had it.
    pub fn of_cgroup(&self, boot_id: &str, root: u64) -> Option<&Run> {
        let starts = self.runs.values().filter_map(|past| Some((past.end.is_some(), past.start.as_ref()?)));
        let of_root = starts.filter(|(_, run)| run.cgroup_id == root && run.boot_id == boot_id);
        of_root.min_by_key(|(ended, run)| (*ended, std::cmp::Reverse(run.registered_wall_ns))).map(|(_, run)| run)
    }
}

/// The last entries about segments among which the one with the open runs is looked for; the others are about removals.
const LAST_SEGMENTS: [usize; 2] = [2, 16];

/// The runs that were open at an entry of the log.
#[derive(Debug, Default)]
struct Stated {
    /// The index of the entry.
    from: u64,
    runs: BTreeSet<RunId>,
}

impl Stated {
    /// The last entry that states them. `None`: there is none, as in a log of an earlier version.
    fn find(path: &Path, boot_id: &str) -> Option<Stated> {
        let filter = Filter { kinds: vec![kind::SEGMENT.to_owned()], ..Filter::default() };
        let of_last = |tail| {
            let query = Query { filter: filter.clone(), tail: Some(tail), ..Query::default() };
            let last: Vec<Entry> = Search::open(path, query).ok()?.collect::<Result<_, _>>().ok()?;
            last.into_iter().rev().find(|entry| entry.body[OPEN_RUNS].is_array())
        };
        let entry = LAST_SEGMENTS.into_iter().find_map(of_last)?;
        // What was open at the end of an earlier boot ended with it.
        let runs = entry.body[OPEN_RUNS].as_array().filter(|_| entry.boot_id == boot_id);
        let runs = runs.into_iter().flatten().map(|run| run.as_str()?.parse().ok());
        Some(Stated { from: entry.index, runs: runs.collect::<Option<_>>()? })
    }
}

/// The entries of these kinds from entry `from` on, of these runs or of all; up to the first that cannot be read, which is an error.
/// Entries that are missing are an error at the end.
fn search(
    path: &Path,
    from: u64,
    runs: Option<&BTreeSet<RunId>>,
    kinds: &[&str],
) -> impl Iterator<Item = Result<Entry, ()>> {
    let runs = runs.map(|runs| runs.iter().map(RunId::to_string).collect());
    let filter = Filter { runs, kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(), ..Filter::default() };
    let unreadable = |error: SearchError| {
        tracing::error!(error = crate::causes::chain(&error), "the audit log cannot be read");
    };
    let (mut search, mut failed) = match Search::open(path, Query { from, filter, ..Query::default() }) {
        Ok(search) => (Some(search), None),
        Err(error) => (None, Some(error)),
    };
    let mut is_over = false;
    std::iter::from_fn(move || {
        if let Some(entry) = search.as_mut().and_then(Iterator::next) {
            return Some(entry.map_err(unreadable));
        }
        if std::mem::replace(&mut is_over, true) {
            return None;
        }
        let missing = search.as_ref().and_then(Search::missing_in_words);
        if let Some(what) = &missing {
            tracing::error!(what, "the audit log does not have all entries about runs");
        }
        failed.take().map(unreadable).or(missing.map(drop)).map(Err)
    })
}

impl Past {
    fn takes(&mut self, record: Record, wall_ns: i64, mono_ns: u64) {
        if matches!(record, Record::RunAdopted { .. } | Record::Decision { .. } | Record::Outcome(_)) {
            self.last_seen_ns = self.last_seen_ns.max(Some(wall_ns));
        }
        match record {
            Record::Decision { decision, .. } => self.decided(decision),
            Record::Outcome(outcome) => self.came_out(&outcome),
            Record::Gap(gap) if gap.source == Source::Ebpf => {
                self.lost_recorded = self.lost_recorded.saturating_add(gap.lost)
            }
            Record::Gap(gap) if gap.source == Source::Guard => {
                self.guarded |= gap.blind && gap.what.starts_with(GUARDED);
            }
            Record::RunAdopted { part, frozen_until_ns, .. } => {
                (self.guarded, self.part) = (false, self.part.max(part));
                if let Some(until) = frozen_until_ns {
                    self.frozen.was_thawed(until, mono_ns);
                }
            }
            Record::Manifest { manifest, .. } => match Manifest::from_json(manifest.as_bytes()) {
                Ok(manifest) => {
                    for (key, value) in manifest.numbers() {
                        self.manifest.entry(key).or_insert(value);
                    }
                }
                Err(error) => {
                    tracing::warn!(error = crate::causes::chain(&error), "a manifest in the log cannot be read")
                }
            },
            Record::RunTotals { totals, .. } => self.totals = Some(totals),
            Record::RunOwner { owner_uid, .. } => {
                if let Some(start) = self.start.as_mut().filter(|start| start.owner_uid == NO_UID) {
                    start.owner_uid = owner_uid;
                }
            }
            Record::Limited(limited) => {
                self.decisions = self.decisions.max(limited.last_decision);
                self.incidents = self.incidents.max(limited.last_incident);
            }
            // Of a run that is judged, the decision that follows counts.
            Record::Control(control) if self.guarded => self.containment.commanded(&control),
            Record::ControlOutcome { command, verdict, proofs, at, .. } if self.guarded => {
                self.containment.carried_out(command.into(), StepResult { verdict, proofs, at }, None);
            }
            _ => {}
        }
    }

    fn decided(&mut self, decision: Decision) {
        self.decisions = self.decisions.max(decision.id.n);
        self.incidents = self.incidents.max(decision.incident.n);
        if decision.mode == Mode::Observe {
            return;
        }
        self.containment.decided(&decision);
        for action in decision.actions.clone() {
            if matches!(action, Action::Freeze | Action::Block | Action::Kill | Action::Thaw) {
                self.open.push((decision.clone(), action));
            }
        }
    }

    fn came_out(&mut self, outcome: &Outcome) {
        self.containment.came_out(outcome);
        self.frozen.takes(outcome, &self.containment);
        self.open.retain(|(decision, action)| decision.id != outcome.decision || *action != outcome.action);
    }
}

/// The name of a policy, of its name and version as entries have it.
pub fn without_version(name: &str) -> String {
    name.rsplit_once(" v").map_or(name, |(name, _)| name).to_owned()
}

/// The first thing in which two records of one run differ that never changes in its life; `None`: they agree.
pub fn differs(kept: &Run, logged: &Run) -> Option<String> {
    let seen = |what: &str, kept: &dyn std::fmt::Display, logged: &dyn std::fmt::Display| {
        format!("{what}: run.json has {kept}, the audit log has {logged}")
    };
    if kept.policy != logged.policy {
        return Some(seen("policy", &kept.policy, &logged.policy));
    }
    let words = [
        ("name", &kept.name, &logged.name),
        ("cgroup", &kept.cgroup, &logged.cgroup),
        ("boot", &kept.boot_id, &logged.boot_id),
    ];
    if let Some((what, kept, logged)) = words.iter().find(|(_, kept, logged)| kept != logged) {
        return Some(seen(what, kept, logged));
    }
    if kept.cgroup_id != logged.cgroup_id {
        return Some(seen("cgroup id", &kept.cgroup_id, &logged.cgroup_id));
    }
    if kept.owner_uid != logged.owner_uid && !is_learnt_later(kept, logged) {
        return Some(seen("user", &kept.owner_uid, &logged.owner_uid));
    }
    let rest =
        kept.id == logged.id && kept.labels == logged.labels && kept.gpus == logged.gpus && kept.mig == logged.mig;
    (!rest).then(|| "id, labels or GPUs: run.json and the audit log have others".to_owned())
}

/// Whether only one of two records of a discovered run has its owner: it became known later. `run.json` has it from the end of the run
/// on, and logs of earlier versions do not have it at all.
fn is_learnt_later(kept: &Run, logged: &Run) -> bool {
    is_discovered(&logged.labels) && (kept.owner_uid == NO_UID || logged.owner_uid == NO_UID)
}

#[cfg(test)]
mod tests;

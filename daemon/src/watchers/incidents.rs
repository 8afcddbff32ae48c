//! Keeps the incidents of the audit log as a list in memory, for who lists and watches them.
//!
//! ```text
//! audit log, from the last entries about incidents on ─► core's Incidents ─► Shared: what the API answers and watchers follow
//! ```
//! Owns the list. Invariants: what is in it is durable in the log; no other thread waits for this one; reading the log begins at
//! most [`TAIL`] entries about incidents before its end, which its index leads to, and the last entries about contained runs are
//! read besides; an entry that cannot be read hides no other one for longer than its file requires, and is counted.

use crate::{
    causes::chain,
    log::{Log, damaged},
    runs::{FoundRun, NO_UID, Registry},
};
use failsafe_core::{
    RunId,
    incidents::{Entry, Incidents, KEPT, KINDS, Known, OF_INCIDENTS},
    record::Record,
};
use failsafe_journal::{Filter, Query, Search, search::SearchError};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Entries about incidents that are read when the daemon starts: an incident has about four.
const TAIL: usize = 4 * KEPT;
/// Contained runs whose last entries are read besides, and how many of each.
const SEEDED: usize = 256;
const SEEDS: usize = 256;
/// Entries that are taken up before others may look.
const BATCH: usize = 256;
/// How often the thread looks whether the daemon stops.
const LOOK: Duration = Duration::from_millis(100);
/// What is written together is read together.
const GATHER: Duration = Duration::from_millis(20);
/// When a log that could not be read is read again.
const AGAIN: Duration = Duration::from_secs(5);

/// What the API reads.
#[derive(Debug)]
pub struct Shared {
    list: RwLock<Incidents>,
    progress: watch::Sender<Progress>,
    /// Entries of the log that are taken up.
    read: watch::Sender<u64>,
}

/// How far the log is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// All that there was at the start of the daemon is read.
    pub complete: bool,
    /// The last change.
    pub revision: u64,
    /// Why the log cannot be read on; what was read before stays in the list.
    pub problem: Option<Problem>,
    /// The log cannot be written as it should be: what happens now is not in it.
    pub unwritten: bool,
}

/// Why the log cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// In words.
    pub why: String,
    /// An entry is damaged. Otherwise reading can go on later.
    pub is_damaged: bool,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            list: RwLock::default(),
            progress: watch::Sender::new(Progress::default()),
            read: watch::Sender::new(0),
        }
    }
}

impl Shared {
    /// The list. It is held by who adds to it for the time of a few entries.
    pub fn list(&self) -> RwLockReadGuard<'_, Incidents> {
        self.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever the list does.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// How many entries of the log are taken up: who wrote one can wait for it.
    pub fn read(&self) -> watch::Receiver<u64> {
        self.read.subscribe()
    }
}

/// The thread.
pub struct Following {
    /// Knows the runs.
    pub registry: Arc<Registry>,
    /// The audit log.
    pub log: Log,
    /// Where the list is.
    pub shared: Arc<Shared>,
}

/// Where the thread is in the log.
#[derive(Debug)]
struct Place {
    /// Entries about incidents that are read at first.
    tail: usize,
    search: Option<Search>,
    /// Index of the entry to go on with; none: nothing is read yet.
    next: Option<u64>,
    /// Index of the last entry that could not be read.
    damaged: Option<u64>,
    /// Indices from which entries are missing, as reported.
    missing: BTreeSet<u64>,
}

impl Place {
    fn new(tail: usize) -> Place {
        Place { tail, search: None, next: None, damaged: None, missing: BTreeSet::new() }
    }
}

/// What comes after a look at the log.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    /// All is read that there is.
    Wait,
    /// An entry is skipped.
    Again,
    /// It cannot be read now.
    Pause,
}

impl Following {
    /// Works until `stop`.
    pub fn work(self, stop: &AtomicBool) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
            return self.fails("there is no timer".to_owned(), false);
        };
        let mut latest = self.log.latest();
        let mut place = Place::new(TAIL);
        let mut grown = true;
        while !stop.load(Ordering::Relaxed) {
            self.note_writing();
            // Where it has not grown, there is nothing to read: a look opens and reads files.
            if grown {
                latest.mark_unchanged();
                match self.look(&mut place, stop) {
                    Then::Wait => {}
                    Then::Again => continue,
                    Then::Pause => {
                        self.pause(AGAIN, stop);
                        continue;
                    }
                }
            }
            let changed = runtime.block_on(async { tokio::time::timeout(LOOK, latest.changed()).await });
            grown = matches!(changed, Ok(Ok(())));
            if grown {
                std::thread::sleep(GATHER);
            }
        }
    }

    fn pause(&self, length: Duration, stop: &AtomicBool) {
        let until = std::time::Instant::now() + length;
        while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < until {
            self.note_writing();
            std::thread::park_timeout(LOOK);
        }
    }

    /// Wakes those who watch when the log cannot be written any more, and when it can be again.
    fn note_writing(&self) {
        let unwritten = self.log.state() != "healthy";
        self.shared
            .progress
            .send_if_modified(|progress| std::mem::replace(&mut progress.unwritten, unwritten) != unwritten);
    }

    fn look(&self, place: &mut Place, stop: &AtomicBool) -> Then {
        let Err(error) = self.go_on(place, stop) else { return Then::Wait };
        let index = damaged(&error).filter(|index| place.damaged.is_none_or(|before| before < *index));
        let Some(index) = index else {
            self.fails(chain(&error), damaged(&error).is_some());
            return Then::Pause;
        };
        // Frame lengths and the index of a segment lead to the entries behind it.
        tracing::error!(why = chain(&error), "an entry of the audit log cannot be read for the incidents");
        self.list().cannot_read(index);
        (place.damaged, place.next) = (Some(index), Some(index.saturating_add(1)));
        Then::Again
    }

    /// Takes up what there is. After an error, the place has no search.
    fn go_on(&self, place: &mut Place, stop: &AtomicBool) -> Result<(), SearchError> {
        let mut search = match place.search.take() {
            Some(search) => search,
            None => self.begin(place)?,
        };
        let goes_on = self.read(&mut search, &mut place.next, stop)?;
        for missing in search.missing() {
            if place.missing.insert(missing.start) {
                tracing::error!(?missing, "entries of the audit log are missing for the incidents");
                self.list().cannot_read(missing.start);
            }
        }
        if goes_on {
            place.search = Some(search);
        }
        Ok(())
    }

    /// The log from where it is to be read on; at first, from the last entries about incidents on.
    fn begin(&self, place: &Place) -> Result<Search, SearchError> {
        let path = self.log.path();
        let from = match place.next {
            Some(next) => next,
            None => {
                let end = *self.log.latest().borrow();
                let first = |from, tail, kinds: &[&str]| {
                    let query = Query { from, tail, filter: filter(kinds), ..Query::default() };
                    Ok::<_, SearchError>(Search::open(path, query)?.next().transpose()?.map(|entry| entry.index))
                };
                let of_tail = first(0, Some(place.tail), &OF_INCIDENTS)?;
                let from = of_tail.unwrap_or(end);
                let (begins, cut) = match (first(0, None, &[]), first(0, None, &OF_INCIDENTS)) {
                    // Retention removed what was before the oldest entry: nothing about a run that lives.
                    (Ok(oldest), Ok(first)) if first == of_tail => (oldest.unwrap_or_default(), false),
                    // More than the tail, or the log cannot be read from its beginning on.
                    _ => (from, true),
                };
                self.list().begins_at(begins, cut);
                if cut {
                    self.seed(&self.contained(), from);
                }
                from
            }
        };
        Search::open(path, Query { from, filter: filter(&KINDS), ..Query::default() })
    }

    /// The runs that something contains now, or is to contain.
    fn contained(&self) -> Vec<RunId> {
        let live = self.registry.live().into_iter();
        let live = live.filter(|run| !run.status().containment.is_empty()).map(|run| run.run.id);
        let guarded = self.registry.guarded().into_iter().filter(|run| !run.containment().is_empty());
        live.chain(guarded.map(|run| run.run.id)).take(SEEDED).collect()
    }

    /// Takes up the last entries of before `end` about these runs: however much is decided about other runs, their incidents are in
    /// the list.
    fn seed(&self, runs: &[RunId], end: u64) {
        for run in runs {
            let filter = Filter { run: Some(run.to_string()), ..filter(&OF_INCIDENTS) };
            let query = Query { tail: Some(SEEDS), filter, ..Query::default() };
            let Ok(found) = Search::open(self.log.path(), query) else { continue };
            // What cannot be read is left out: the list is incomplete as it is.
            let found: Vec<_> = found.map_while(Result::ok).take_while(|entry| entry.index < end).collect();
            self.take(found);
        }
    }

    /// Takes up what there is. False: `search` has read what is not durable, and another one is to go on at `next`. On a full disk that is
    /// a part of an entry, which is written again when there is room.
    fn read(&self, search: &mut Search, next: &mut Option<u64>, stop: &AtomicBool) -> Result<bool, SearchError> {
        let (mut more, mut is_durable) = (true, true);
        let latest = self.log.latest();
        while more && !stop.load(Ordering::Relaxed) {
            // Before the entries are read: what is durable now is in the list then.
            let end = *latest.borrow();
            let (mut entries, mut failed) = (Vec::new(), None);
            for entry in search.by_ref().take(BATCH) {
                let index = entry.as_ref().map_or_else(damaged, |entry| Some(entry.index));
                if index.is_some_and(|index| index >= end && index >= *latest.borrow()) {
                    is_durable = false;
                    break;
                }
                match entry {
                    Ok(entry) => entries.push(entry),
                    Err(error) => failed = Some(error),
                }
            }
            more = is_durable && entries.len() == BATCH;
            let last = entries.last().map(|entry| entry.index.saturating_add(1));
            *next = last.or(*next);
            if !is_durable {
                // All before that is taken up.
                *next = Some(next.unwrap_or_default().max(end));
            }
            let revision = self.take(entries);
            if let Some(error) = failed {
                return Err(error);
            }
            self.shared.progress.send_if_modified(|before| {
                let complete = !more || before.complete;
                let progress = Progress { complete, revision, problem: None, unwritten: before.unwritten };
                let is_new = *before != progress;
                *before = progress;
                is_new
            });
            let read = if more { last.unwrap_or_default() } else { end };
            self.shared.read.send_if_modified(|before| {
                let grown = read > *before;
                *before = read.max(*before);
                grown
            });
        }
        Ok(is_durable)
    }

    /// Adds entries to the list, and returns its revision.
    fn take(&self, entries: Vec<failsafe_journal::Entry>) -> u64 {
        let records: Vec<_> = entries
            .into_iter()
            .filter(|entry| !is_of_the_log(entry))
            .map(|entry| {
                let run = entry.run.as_deref().and_then(|run| run.parse().ok());
                (entry.index, entry.wall_ns, entry.mono_ns, run, serde_json::from_value::<Record>(entry.body).ok())
            })
            .collect();
        let mut list = self.list();
        for (index, wall_ns, mono_ns, run, record) in &records {
            match record {
                Some(record) => {
                    let entry = Entry { index: *index, wall_ns: *wall_ns, mono_ns: *mono_ns, run: *run, record };
                    list.apply(&entry, |run| self.known(run));
                }
                // A later version wrote it.
                None => list.cannot_read(*index),
            }
        }
        list.revision()
    }

    fn fails(&self, why: String, is_damaged: bool) {
        let problem = Problem { why, is_damaged };
        self.shared.progress.send_if_modified(|progress| {
            let is_new = progress.problem.as_ref() != Some(&problem);
            if is_new {
                tracing::error!(why = problem.why, "the incidents of the audit log cannot be read");
                progress.problem = Some(problem);
            }
            is_new
        });
    }

    fn list(&self) -> std::sync::RwLockWriteGuard<'_, Incidents> {
        self.shared.list.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, run: RunId) -> Arc<Known> {
        known(&self.registry, run)
    }
}

fn filter(kinds: &[&str]) -> Filter {
    Filter { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(), ..Filter::default() }
}

/// A gap of the log itself, such as a disk that was full for a while: it is about no incident, unless entries about some were dropped.
fn is_of_the_log(entry: &failsafe_journal::Entry) -> bool {
    let has_dropped = |kind: &&str| entry.body["dropped_by_kind"].get(*kind).is_some();
    entry.body.get("type").is_none() && entry.body["cause"].is_string() && !KINDS.iter().any(has_dropped)
}

/// What is known of a run.
pub fn known(registry: &Registry, run: RunId) -> Arc<Known> {
    let Some(found) = registry.of_id(run) else { return Arc::default() };
    let policy = match &found {
        FoundRun::Live(live) => live.policy.name.clone(),
        FoundRun::Guarded(guarded) => guarded.policy_name.clone(),
        FoundRun::Ended(ended) => ended.policy_name.clone(),
    };
    let run = found.run();
    let owner_uid = Some(run.owner_uid).filter(|uid| *uid != NO_UID);
    Arc::new(Known { name: run.name.clone(), owner_uid, labels: run.labels.clone(), policy })
}

#[cfg(test)]
mod tests;

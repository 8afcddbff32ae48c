//! Keeps the incidents of the audit log as a list in memory, for who lists and watches them.
//!
//! ```text
//! audit log, from the last entries about incidents on ─► core's Incidents ─► Shared: what the API answers and watchers follow
//! ```
//! Owns the list. Invariants: what is in it is durable in the log; no other thread waits for this one; reading the log begins at
//! most [`TAIL`] entries about incidents before its end, which its index leads to.

use crate::{
    causes::chain,
    log::Log,
    runs::{FoundRun, NO_UID, Registry},
};
use failsafe_core::{
    RunId,
    incidents::{Entry, Incidents, KEPT, KINDS, Known, OF_INCIDENTS},
    record::Record,
};
use failsafe_journal::{Filter, Query, Search, search::SearchError};
use std::{
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// Entries about incidents that are read when the daemon starts: an incident has about four.
const TAIL: usize = 4 * KEPT;
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
    /// Why the log cannot be read on.
    pub problem: Option<String>,
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

impl Following {
    /// Works until `stop`.
    pub fn work(self, stop: &AtomicBool) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
            return self.fails("there is no timer");
        };
        let mut latest = self.log.latest();
        let mut search: Option<Search> = None;
        let mut next = None;
        while !stop.load(Ordering::Relaxed) {
            latest.mark_unchanged();
            let read = match search.take() {
                Some(search) => Ok(search),
                None => self.begin(next),
            };
            match read.and_then(|mut search| self.read(&mut search, &mut next, stop).map(|()| search)) {
                Ok(read) => search = Some(read),
                Err(error) => {
                    self.fails(&chain(&error));
                    self.pause(AGAIN, stop);
                    continue;
                }
            }
            let grown = runtime.block_on(async { tokio::time::timeout(LOOK, latest.changed()).await });
            if matches!(grown, Ok(Ok(()))) {
                std::thread::sleep(GATHER);
            }
        }
    }

    fn pause(&self, length: Duration, stop: &AtomicBool) {
        let until = std::time::Instant::now() + length;
        while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < until {
            std::thread::park_timeout(LOOK);
        }
    }

    /// The log from where it is to be read on; at first, from the last entries about incidents on.
    fn begin(&self, next: Option<u64>) -> Result<Search, SearchError> {
        let filter = |kinds: &[&str]| {
            let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
            Filter { kinds, ..Filter::default() }
        };
        let path = self.log.path();
        let from = match next {
            Some(next) => next,
            None => {
                let end = *self.log.latest().borrow();
                let first = |from, tail, kinds: &[&str]| {
                    let query = Query { from, tail, filter: filter(kinds), ..Query::default() };
                    Ok::<_, SearchError>(Search::open(path, query)?.next().transpose()?.map(|entry| entry.index))
                };
                // Retention removed what was before this one.
                let oldest = first(0, None, &[])?.unwrap_or(0);
                let of_tail = first(0, Some(TAIL), &OF_INCIDENTS)?;
                let cut = of_tail.filter(|tail| first(0, None, &OF_INCIDENTS).is_ok_and(|it| it < Some(*tail)));
                self.list().begins_at(cut.unwrap_or(oldest), cut.is_some());
                of_tail.unwrap_or(end)
            }
        };
        Search::open(path, Query { from, filter: filter(&KINDS), ..Query::default() })
    }

    /// Takes up what there is.
    fn read(&self, search: &mut Search, next: &mut Option<u64>, stop: &AtomicBool) -> Result<(), SearchError> {
        let end = *self.log.latest().borrow();
        let mut more = true;
        while more && !stop.load(Ordering::Relaxed) {
            let mut entries = Vec::new();
            for entry in search.by_ref().take(BATCH) {
                entries.push(entry?);
            }
            more = entries.len() == BATCH;
            let records: Vec<(u64, u64, u64, Record)> = entries
                .into_iter()
                .filter_map(|entry| {
                    *next = Some(entry.index.saturating_add(1));
                    // Of a kind that a later version writes.
                    let record = serde_json::from_value(entry.body).ok()?;
                    Some((entry.index, entry.wall_ns, entry.mono_ns, record))
                })
                .collect();
            let mut list = self.list();
            for (index, wall_ns, mono_ns, record) in &records {
                let entry = Entry { index: *index, wall_ns: *wall_ns, mono_ns: *mono_ns, record };
                list.apply(&entry, |run| self.known(run));
            }
            let progress = Progress { complete: !more, revision: list.revision(), problem: None };
            drop(list);
            self.shared.progress.send_if_modified(|before| {
                let progress = Progress { complete: progress.complete || before.complete, ..progress };
                let is_new = *before != progress;
                *before = progress;
                is_new
            });
        }
        if !more {
            self.shared.read.send_replace(end);
        }
        Ok(())
    }

    fn fails(&self, why: &str) {
        tracing::error!(why, "the incidents of the audit log cannot be read");
        self.shared.progress.send_modify(|progress| progress.problem = Some(why.to_owned()));
    }

    fn list(&self) -> std::sync::RwLockWriteGuard<'_, Incidents> {
        self.shared.list.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, run: RunId) -> Arc<Known> {
        known(&self.registry, run)
    }
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

//! What submitters and the writer thread share: the bounded queue and the state that `status` shows. One mutex; nobody
//! holds it during I/O, a callback or a wait for the disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ticket::{Done, WaitError};
use super::{Options, Stats, Status, TreeStatus};
use crate::clock::Stamp;
use crate::entry::{Draft, Prepared};
use crate::plausible::Plausible;

pub(super) struct Queue {
    max_entries: usize,
    max_bytes: usize,
    stall_after: Duration,
    state: Mutex<State>,
    /// To the writer: something to do.
    work: Condvar,
    /// From the writer: it has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// Accepted and not durable: in `items` or with the writer.
    held_entries: usize,
    held_bytes: usize,
    /// Refused, not on record yet.
    unrecorded: u64,
    unrecorded_since: Option<Stamp>,
    outage: Option<(Stamp, String)>,
    committing: Option<(Instant, Stamp)>,
    close_by: Option<Instant>,
    stopped: bool,
    stats: Stats,
    tree: TreeStatus,
    /// What is known of the wall clock; `None` until the log's thread has looked.
    plausible: Option<Plausible>,
}

/// One thing to put in the log.
pub(super) enum Item {
    Draft {
        prepared: Prepared,
        done: Done,
    },
    /// Drafts were refused between the items before and behind.
    Refused(Refused),
}

/// Count of refused drafts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refused {
    pub count: u64,
    pub by_kind: BTreeMap<String, u64>,
    /// Times of the first and last refused draft itself.
    pub first: Stamp,
    pub last: Stamp,
}

/// Kinds counted one by one in a gap; more are counted as `other`, so that a marker stays small.
const MAX_KINDS: usize = 32;

/// What entries without a reserve may take of the queue.
fn share(most: usize, reserved: bool) -> usize {
    if reserved { most } else { most - most / 4 }
}

/// Why the writer woke.
pub(super) struct Work {
    pub items: VecDeque<Item>,
    pub close_by: Option<Instant>,
}

impl Queue {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            max_entries: options.max_entries,
            max_bytes: options.max_bytes,
            stall_after: options.stall_after,
            state: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    pub(super) fn push(&self, draft: &Draft, prepared: Prepared, done: Done, reserved: bool) {
        let mut state = self.state();
        let bytes = prepared.max_bytes();
        let refusal = if state.stopped || state.close_by.is_some() {
            WaitError::Closed
        } else if state.held_entries >= share(self.max_entries, reserved)
            || state.held_bytes + bytes > share(self.max_bytes, reserved)
        {
            state.refuse(draft);
            WaitError::Full
        } else {
            state.held_entries += 1;
            state.held_bytes += bytes;
            state.items.push_back(Item::Draft { prepared, done });
            drop(state);
            self.work.notify_one();
            return;
        };
        drop(state);
        done.resolve(Err(refusal));
    }

    /// Waits until there is something to do. `busy_until` and `idle_until` hold back work after a failure: queued items
    /// wait for the first, the passing of the second is work in itself.
    pub(super) fn take(&self, busy_until: Option<Instant>, idle_until: Option<Instant>) -> Work {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let queued = !state.items.is_empty() || state.close_by.is_some();
            let due = if queued { busy_until.or(Some(now)) } else { idle_until };
            match due {
                Some(due) if due <= now => {
                    return Work { items: std::mem::take(&mut state.items), close_by: state.close_by };
                }
                Some(due) => {
                    state = self.work.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0;
                }
                None => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    pub(super) fn tree(&self) -> TreeStatus {
        self.state().tree.clone()
    }

    pub(super) fn set_tree(&self, change: impl FnOnce(&mut TreeStatus)) {
        change(&mut self.state().tree);
    }

    pub(super) fn plausible(&self) -> Option<Plausible> {
        self.state().plausible.clone()
    }

    pub(super) fn set_plausible(&self, plausible: Plausible) {
        self.state().plausible = Some(plausible);
    }

    pub(super) fn commit_begins(&self, now: Stamp) {
        self.state().committing = Some((Instant::now(), now));
    }

    /// `durable` entries were written, of which `entries` with `bytes` in all had been held, and `refused` are on record.
    pub(super) fn commit_ends(&self, durable: u64, entries: usize, bytes: usize, refused: u64) {
        let mut state = self.state();
        if let Some((began, _)) = state.committing.take() {
            state.stats.last_commit_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
        state.held_entries = state.held_entries.saturating_sub(entries);
        state.held_bytes = state.held_bytes.saturating_sub(bytes);
        state.unrecorded = state.unrecorded.saturating_sub(refused);
        if state.unrecorded == 0 {
            state.unrecorded_since = None;
        }
        state.stats.durable += durable;
        state.stats.commits += u64::from(durable > 0);
    }

    pub(super) fn commit_failed(&self, now: Stamp, error: String) {
        let mut state = self.state();
        state.committing = None;
        state.stats.failed_commits += 1;
        let since = state.outage.take().map_or(now, |(since, _)| since);
        state.outage = Some((since, error));
    }

    pub(super) fn outage_over(&self) {
        self.state().outage = None;
    }

    pub(super) fn close(&self, by: Instant) {
        self.state().close_by.get_or_insert(by);
        self.work.notify_one();
    }

    /// Ends the queue and gives back what nobody will write.
    pub(super) fn stop(&self) -> VecDeque<Item> {
        let mut state = self.state();
        state.stopped = true;
        let rest = std::mem::take(&mut state.items);
        drop(state);
        self.ended.notify_all();
        rest
    }

    pub(super) fn await_stopped(&self, deadline: Instant) -> bool {
        let mut state = self.state();
        while !state.stopped {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub(super) fn held(&self) -> usize {
        self.state().held_entries
    }

    pub(super) fn stats(&self) -> Stats {
        self.state().stats
    }

    pub(super) fn status(&self) -> Status {
        let state = self.state();
        if state.stopped {
            return Status::Stopped;
        }
        let stalled = state.committing.as_ref().filter(|(began, _)| began.elapsed() > self.stall_after);
        let (since, error) = if let Some((since, error)) = &state.outage {
            (since.clone(), error.clone())
        } else if let Some((began, since)) = stalled {
            (since.clone(), format!("a commit has not returned for {} ms", began.elapsed().as_millis()))
        } else if let Some(since) = &state.unrecorded_since {
            (since.clone(), "audit queue was full".to_owned())
        } else {
            return Status::Healthy;
        };
        Status::Degraded { since, error, pending: state.held_entries, dropped: state.unrecorded }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts `draft` in a marker at the queue's end, so that the gap stands where the draft would have.
    fn refuse(&mut self, draft: &Draft) {
        let at = Stamp { wall_ns: draft.wall_ns, mono_ns: draft.mono_ns, boot_id: draft.boot_id.clone() };
        self.unrecorded += 1;
        self.stats.dropped += 1;
        self.unrecorded_since.get_or_insert_with(|| at.clone());
        if !matches!(self.items.back(), Some(Item::Refused(_))) {
            self.items.push_back(Item::Refused(Refused { first: at.clone(), ..Refused::default() }));
        }
        if let Some(Item::Refused(refused)) = self.items.back_mut() {
            refused.count += 1;
            refused.last = at;
            let room = refused.by_kind.len() < MAX_KINDS || refused.by_kind.contains_key(&*draft.kind);
            *refused.by_kind.entry(if room { draft.kind.to_string() } else { "other".to_owned() }).or_default() += 1;
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("status", &self.status()).finish_non_exhaustive()
    }
}

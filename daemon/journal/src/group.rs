//! The audit log's writer thread: many submitters, one writer, one `fdatasync` for all that waits.
//!
//! ```text
//!  submit (any thread, never touches the disk)        audit-log thread (owns AuditLog)
//!    check, encode body --> Queue (bounded) --take all--> seal in order --> commit --> observer, then tickets
//!                             | full: count                                  | failed: keep, retry (next submit, 1 s)
//!                             +--> Gap marker in the queue                   +--> when it works again: `gap` entry
//! ```
//!
//! Invariants:
//! - Entries stand in the log in the order of their submits; a `gap` entry for refused drafts stands where they would.
//! - A ticket resolves exactly once: durable, refused, or closed. Durable means synced.
//! - What is held in memory (queued or waiting for the disk) stays within [`Options::max_entries`] and
//!   [`Options::max_bytes`], however long the disk is away.

mod queue;
mod ticket;
mod vouch;
mod worker;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::{Clock, Stamp, SystemClock};
use crate::entry::{Draft, Prepared};
use crate::storage::{Layout, LogFolder, Storage};
use crate::tree::Signing;
use crate::writer::{AuditLog, OpenError, Recovery};

use queue::Queue;
use ticket::Done;
pub use ticket::{Durable, Ticket, WaitError};

/// Called on the writer thread for every durable entry, in order, with its index and its bytes in the log, before its
/// ticket resolves. It must not block.
pub type Observer = Box<dyn FnMut(u64, Arc<[u8]>) + Send>;

/// Called on the writer thread before segments are removed: the ids of the runs that live, of which nothing may be removed.
/// `None`: they are not known yet, and nothing is removed. It must not block.
pub type LiveRuns = Box<dyn Fn() -> Option<BTreeSet<String>> + Send>;

/// Called on the writer thread when a file is sealed: what the owner states in the first entry of the next one, as fields of its body.
/// They cannot replace those of the journal. It must not block.
pub type Statement = Box<dyn Fn() -> serde_json::Map<String, serde_json::Value> + Send>;

/// How an [`AuditWriter`] works.
pub struct Options {
    /// Most entries in memory, waiting to be durable.
    pub max_entries: usize,
    /// Most bytes of entries in memory, waiting to be durable.
    pub max_bytes: usize,
    /// After a failed commit, the time until it is tried again without a new submit.
    pub retry_after: Duration,
    /// After a failed commit, the least time until it is tried again because of a new submit.
    pub retry_least: Duration,
    /// A commit that takes longer shows as degraded.
    pub stall_after: Duration,
    /// See [`Observer`].
    pub observer: Option<Observer>,
    /// See [`LiveRuns`].
    pub live: Option<LiveRuns>,
    /// See [`Statement`].
    pub statement: Option<Statement>,
    /// With what and how often checkpoints are signed.
    pub signing: Option<Signing>,
    /// A `heartbeat` entry is written when nothing else was for this long.
    pub heartbeat: Option<Duration>,
    /// Time for the journal's own entries.
    pub clock: Box<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_entries: 65_536,
            max_bytes: 32 << 20,
            retry_after: Duration::from_secs(1),
            retry_least: Duration::from_millis(20),
            stall_after: Duration::from_secs(1),
            observer: None,
            live: None,
            statement: None,
            signing: None,
            heartbeat: None,
            clock: Box::new(SystemClock::new()),
        }
    }
}

/// Owner of the writer thread.
#[derive(Debug)]
pub struct AuditWriter {
    handle: AuditHandle,
    recovery: Recovery,
    thread: Option<JoinHandle<()>>,
}

impl AuditWriter {
    /// Opens the log in `dir` (verifying and repairing it, on this thread) and starts the writer.
    ///
    /// # Errors
    /// [`OpenError`]; see there what to do about tampering.
    pub fn spawn(dir: &Path, options: Options) -> Result<Self, OpenError> {
        Self::spawn_in(dir, Layout::default(), options)
    }

    /// [`spawn`](Self::spawn) with another layout of the folder.
    ///
    /// # Errors
    /// As there.
    pub fn spawn_in(dir: &Path, layout: Layout, options: Options) -> Result<Self, OpenError> {
        Self::spawn_on(LogFolder::open(dir, layout).map_err(OpenError::File)?, options)
    }

    /// [`spawn`](Self::spawn) on any medium.
    ///
    /// # Errors
    /// As there.
    pub fn spawn_on<S: Storage + Send + 'static>(storage: S, options: Options) -> Result<Self, OpenError> {
        let (log, recovery) = AuditLog::open(storage, &*options.clock)?;
        let queue = Arc::new(Queue::new(&options));
        let handle = AuditHandle { queue: Arc::clone(&queue) };
        let first = recovery.clone();
        let thread = std::thread::Builder::new()
            .name("audit-log".into())
            .spawn(move || worker::run(log, &queue, options, first))
            .map_err(OpenError::Thread)?;
        Ok(Self { handle, recovery, thread: Some(thread) })
    }

    /// What opening the log found and did.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// A handle to submit with.
    #[must_use]
    pub fn handle(&self) -> AuditHandle {
        self.handle.clone()
    }

    /// Refuses further submits, writes what waits, and ends the thread; a failing disk is tried until `timeout`.
    ///
    /// # Errors
    /// [`ShutdownError`]: some entries never became durable; their tickets say so.
    pub fn shutdown(mut self, timeout: Duration) -> Result<(), ShutdownError> {
        self.end(timeout)
    }

    fn end(&mut self, timeout: Duration) -> Result<(), ShutdownError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let deadline = Instant::now() + timeout;
        self.handle.queue.close(deadline);
        // A disk that hangs is left hanging: the thread cannot be stopped inside a system call.
        if self.handle.queue.await_stopped(deadline + Duration::from_millis(200)) {
            let _panicked = thread.join();
        }
        match self.handle.queue.held() {
            0 => Ok(()),
            lost => Err(ShutdownError { lost }),
        }
    }
}

impl Drop for AuditWriter {
    /// Like [`shutdown`](AuditWriter::shutdown), with two seconds.
    fn drop(&mut self) {
        let _lost = self.end(Duration::from_secs(2));
    }
}

/// The log was closed before everything was durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("audit log closed with {lost} entries not durable")]
pub struct ShutdownError {
    /// Entries that were accepted and are not durable.
    pub lost: usize,
}

/// Submits to the audit log, from any thread.
#[derive(Debug, Clone)]
pub struct AuditHandle {
    queue: Arc<Queue>,
}

impl AuditHandle {
    /// Queues `draft`. Never waits for the disk. If the queue is full the draft is refused, which its ticket says and a
    /// `gap` entry will.
    #[must_use = "a ticket not waited for says nothing about durability"]
    pub fn submit(&self, draft: &Draft) -> Ticket {
        let (ticket, done) = Ticket::new();
        self.push(draft, done);
        ticket
    }

    /// Queues `draft`; `then` is called once with what became of it, on the writer thread or, if it is refused, at once
    /// on this one. It must not block. For async callers: send into a oneshot channel.
    pub fn submit_then(&self, draft: &Draft, then: impl FnOnce(Result<Durable, WaitError>) + Send + 'static) {
        self.push(draft, Done::Call(Box::new(then)));
    }

    /// Queues a draft that is checked already, as [`submit_then`](Self::submit_then) does. Without `reserved` a quarter of the
    /// queue is kept free of it, for entries that have more weight.
    pub fn submit_prepared(
        &self,
        draft: &Draft,
        prepared: Prepared,
        reserved: bool,
        then: impl FnOnce(Result<Durable, WaitError>) + Send + 'static,
    ) {
        self.queue.push(draft, prepared, Done::Call(Box::new(then)), reserved);
    }

    /// Whether the log is being written as it should.
    #[must_use]
    pub fn status(&self) -> Status {
        self.queue.status()
    }

    /// What is signed of the log's tree.
    #[must_use]
    pub fn tree(&self) -> TreeStatus {
        self.queue.tree()
    }

    /// Whether the wall clock can be right at `now`: at most a day ahead of what the log's last entry and the monotonic
    /// clock allow. `false` until the log's thread has looked at its entries.
    #[must_use]
    pub fn believes_clock(&self, now: &Stamp) -> bool {
        self.queue.plausible().is_some_and(|mut plausible| plausible.see(now))
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }

    fn push(&self, draft: &Draft, done: Done) {
        match draft.prepare() {
            Ok(prepared) => self.queue.push(draft, prepared, done, true),
            Err(error) => done.resolve(Err(WaitError::Refused(error))),
        }
    }
}

/// State of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// What is submitted becomes durable.
    Healthy,
    /// Entries are held in memory, or were refused and this is not on record yet.
    Degraded {
        /// Since when.
        since: Stamp,
        /// The disk's error, or what else is wrong.
        error: String,
        /// Entries in memory, waiting to be durable.
        pending: usize,
        /// Drafts refused whose `gap` entry is not durable yet.
        dropped: u64,
    },
    /// The writer thread has ended.
    Stopped,
}

/// The tree of the log, and what is signed of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreeStatus {
    /// Entries that the last checkpoint vouches for; 0: there is none.
    pub signed: u64,
    /// When this process signed last.
    pub signed_at: Option<Stamp>,
    /// Whether sealed segments are still being read for the tree, so that nothing is signed.
    pub building: bool,
    /// Why nothing can be signed.
    pub problem: Option<String>,
    /// What was found amiss since the start.
    pub findings: Vec<String>,
}

/// Counts since the writer's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Entries made durable.
    pub durable: u64,
    /// Successful commits that wrote entries.
    pub commits: u64,
    /// Failed commits.
    pub failed_commits: u64,
    /// Drafts refused because the queue was full.
    pub dropped: u64,
    /// Duration of the latest successful commit, write and sync, in nanoseconds.
    pub last_commit_ns: u64,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("max_entries", &self.max_entries)
            .field("max_bytes", &self.max_bytes)
            .field("retry_after", &self.retry_after)
            .finish_non_exhaustive()
    }
}

//! The queue of one target: messages in their order, in memory and as one file each, so that a restart loses none.
//!
//! ```text
//! queue/TARGET/00000000000000000017.json   message 17, until the target took it
//! ```
//! Invariants: the queue is bounded in messages and bytes; who has the most messages in it loses one when it is full, so that one
//! user cannot push out the messages about others; a file that was written after the last commit is not a message; a message without
//! a file is in memory only, and [`Queue::store_rest`] writes it as soon as that is possible.

use super::message::Message;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::Notify;

/// Bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Messages.
    pub entries: usize,
    /// Their size, in bytes.
    pub bytes: usize,
}

/// A message in the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queued {
    /// Its number: later messages have larger ones.
    pub n: u64,
    /// The message.
    pub message: Message,
}

/// A queue.
pub struct Queue {
    folder: PathBuf,
    bounds: Bounds,
    waiting: Mutex<Waiting>,
    changed: Notify,
    /// Messages that were lost because it was full or they were too old.
    pub dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    all: VecDeque<Entry>,
    bytes: usize,
    /// The number of the message that is being sent: it is not pushed out.
    under_way: Option<u64>,
}

struct Entry {
    queued: Arc<Queued>,
    bytes: usize,
    is_stored: bool,
}

impl Queue {
    /// Opens the folder; messages with a number above `committed` are removed.
    ///
    /// # Errors
    /// The folder cannot be read or made.
    pub fn open(folder: PathBuf, bounds: Bounds, committed: u64) -> io::Result<Queue> {
        fs::create_dir_all(&folder)?;
        let mut found: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            match number.filter(|n| *n <= committed && path.extension().is_some_and(|it| it == "json")) {
                Some(n) => found.push((n, path)),
                None => remove(&path),
            }
        }
        found.sort();
        let queue =
            Queue { folder, bounds, waiting: Mutex::default(), changed: Notify::new(), dropped: AtomicU64::new(0) };
        for (n, path) in found {
            let read = fs::read(&path).and_then(|text| Ok((serde_json::from_slice::<Message>(&text)?, text.len())));
            match read {
                Ok((message, bytes)) => queue.publish(Arc::new(Queued { n, message }), bytes, true),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a queued message cannot be read: it is lost");
                    queue.dropped.fetch_add(1, Ordering::Relaxed);
                    remove(&path);
                }
            }
        }
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, n: u64) -> PathBuf {
        self.folder.join(format!("{n:020}.json"))
    }

    /// Writes the file of a message. It is a message when what was written is committed, and [`Queue::publish`]ed then.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self, queued: &Queued, text: &[u8]) -> io::Result<()> {
        durable(&self.path(queued.n), text)
    }

    /// Writes the files of messages that could not be written before.
    ///
    /// # Errors
    /// One cannot be written; those behind it are not tried.
    pub fn store_rest(&self) -> io::Result<()> {
        let rest: Vec<Arc<Queued>> =
            self.lock().all.iter().filter(|it| !it.is_stored).map(|it| it.queued.clone()).collect();
        for queued in rest {
            self.store(&queued, &serde_json::to_vec(&queued.message)?)?;
            let mut waiting = self.lock();
            match waiting.all.iter_mut().find(|it| it.queued.n == queued.n) {
                Some(entry) => entry.is_stored = true,
                // It was taken meanwhile.
                None => remove(&self.path(queued.n)),
            }
        }
        Ok(())
    }

    /// Adds a message behind the others. Where there is no room, the oldest of the owner with the most messages is lost.
    pub fn publish(&self, queued: Arc<Queued>, bytes: usize, is_stored: bool) {
        let mut lost = Vec::new();
        {
            let mut waiting = self.lock();
            waiting.bytes += bytes;
            waiting.all.push_back(Entry { queued, bytes, is_stored });
            while waiting.all.len() > self.bounds.entries || waiting.bytes > self.bounds.bytes {
                let Some(at) = superfluous(&waiting) else { break };
                if let Some(Entry { queued, bytes, .. }) = waiting.all.remove(at) {
                    waiting.bytes -= bytes;
                    lost.push(queued);
                }
            }
        }
        for queued in lost {
            self.lost(&queued, "the queue is full");
        }
        self.changed.notify_one();
    }

    fn lost(&self, queued: &Queued, why: &str) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        tracing::error!(id = queued.message.id, summary = queued.message.summary, "a notification is lost: {why}");
        remove(&self.path(queued.n));
    }

    /// The oldest message that is not about one of `held`. It stays in the queue until it is [`Queue::done`].
    pub fn pick(&self, held: impl Fn(&str) -> bool) -> Option<Arc<Queued>> {
        let mut waiting = self.lock();
        let picked = waiting.all.iter().map(|it| &it.queued).find(|queued| !held(&queued.message.key)).cloned();
        waiting.under_way = picked.as_ref().map(|queued| queued.n);
        picked
    }

    /// All messages.
    #[cfg(test)]
    pub fn all(&self) -> Vec<Arc<Queued>> {
        self.lock().all.iter().map(|it| it.queued.clone()).collect()
    }

    /// Waits until a message is added.
    pub async fn added(&self) {
        self.changed.notified().await;
    }

    /// What the messages are about.
    pub fn keys(&self) -> BTreeSet<String> {
        self.lock().all.iter().map(|it| it.queued.message.key.clone()).collect()
    }

    /// The message was taken, or refused for ever.
    pub fn done(&self, n: u64) {
        self.take_out(n);
        remove(&self.path(n));
    }

    /// The message is too old.
    pub fn expire(&self, queued: &Queued) {
        self.take_out(queued.n);
        self.lost(queued, "its target did not take it in time (keep_h)");
    }

    fn take_out(&self, n: u64) {
        let mut waiting = self.lock();
        waiting.under_way = None;
        if let Some(at) = waiting.all.iter().position(|it| it.queued.n == n)
            && let Some(Entry { bytes, .. }) = waiting.all.remove(at)
        {
            waiting.bytes -= bytes;
        }
    }

    /// How many wait, and since when the oldest, nanoseconds since the epoch.
    pub fn waiting(&self) -> (usize, Option<i64>) {
        let waiting = self.lock();
        (waiting.all.len(), waiting.all.front().map(|first| first.queued.message.at_ns))
    }
}

/// The place of the oldest message of the owner with the most messages, of those that are not under way. The last one of all is new:
/// it stays.
fn superfluous(waiting: &Waiting) -> Option<usize> {
    let last = waiting.all.len().checked_sub(1)?;
    let others = || waiting.all.iter().enumerate().filter(|(_, it)| Some(it.queued.n) != waiting.under_way);
    let mut of_owner: BTreeMap<Option<u32>, usize> = BTreeMap::new();
    for (_, it) in others() {
        *of_owner.entry(it.queued.message.owner()).or_default() += 1;
    }
    let (most, _) = of_owner.into_iter().max_by_key(|(_, count)| *count)?;
    others().find(|(at, it)| *at < last && it.queued.message.owner() == most).map(|(at, _)| at)
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "a file of the queue cannot be removed"),
    }
}

/// Replaces a file: after a crash it has the old content or the new one.
///
/// # Errors
/// It cannot be written.
pub fn durable(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().ok_or_else(|| io::Error::other("a file in a folder was expected"))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::message::tests::frozen;

    const ROOM: Bounds = Bounds { entries: 4, bytes: 1 << 20 };

    fn queued(n: u64, owner: u32) -> Arc<Queued> {
        let mut message = frozen();
        if let Some(run) = &mut message.run {
            run.owner_uid = Some(owner);
        }
        Arc::new(Queued { n, message })
    }

    fn add(queue: &Queue, queued: Arc<Queued>) {
        let text = serde_json::to_vec(&queued.message).unwrap();
        queue.store(&queued, &text).unwrap();
        queue.publish(queued, text.len(), true);
    }

    fn numbers(queue: &Queue) -> Vec<u64> {
        queue.lock().all.iter().map(|it| it.queued.n).collect()
    }

    fn pick(queue: &Queue) -> u64 {
        queue.pick(|_| false).unwrap().n
    }

    #[test]
    fn messages_survive_a_restart_in_their_order_and_what_was_not_committed_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a");
        let queue = Queue::open(folder.clone(), ROOM, 0).unwrap();
        for n in [2, 9, 10, 11] {
            add(&queue, queued(n, 1));
        }
        queue.done(2);
        drop(queue);
        fs::write(folder.join("00000000000000000003.json"), "torn").unwrap();
        let queue = Queue::open(folder.clone(), ROOM, 10).unwrap();
        assert_eq!(numbers(&queue), [9, 10]);
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 1, "the torn one");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        assert_eq!(queue.pick(|_| false).unwrap().message, queued(9, 1).message);
    }

    #[test]
    fn a_full_queue_loses_the_oldest_message_of_whom_it_has_the_most() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::open(dir.path().join("a"), ROOM, 0).unwrap();
        for (n, owner) in [(1, 7), (2, 8), (3, 7), (4, 7), (5, 7), (6, 7)] {
            add(&queue, queued(n, owner));
            assert_eq!(pick(&queue), 1);
        }
        assert_eq!(numbers(&queue), [1, 2, 5, 6], "the message of user 8 stays, and the one that is under way");
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 2);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 4);
    }

    #[test]
    fn a_queue_is_bounded_in_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = serde_json::to_vec(&queued(1, 7).message).unwrap().len();
        let bounds = Bounds { entries: 100, bytes: 2 * bytes };
        let queue = Queue::open(dir.path().join("a"), bounds, 0).unwrap();
        (1..=5).for_each(|n| add(&queue, queued(n, 7)));
        assert_eq!(numbers(&queue), [4, 5]);
        assert_eq!(queue.lock().bytes, 2 * bytes);
    }

    #[test]
    fn a_message_without_a_file_gets_one_later_unless_it_was_taken() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a");
        let queue = Queue::open(folder.clone(), ROOM, 0).unwrap();
        fs::remove_dir(&folder).unwrap();
        for n in [1, 2] {
            assert!(queue.store(&queued(n, 7), b"{}").is_err());
            queue.publish(queued(n, 7), 2, false);
        }
        assert!(queue.store_rest().is_err());
        fs::create_dir(&folder).unwrap();
        queue.done(1);
        queue.store_rest().unwrap();
        drop(queue);
        assert_eq!(numbers(&Queue::open(folder, ROOM, 2).unwrap()), [2]);
    }
}

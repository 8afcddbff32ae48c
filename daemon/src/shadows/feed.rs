//! The pipeline's end of the queue of shadows.
//!
//! Invariants: nothing here waits; a run without a shadow costs one look-up; of a run with one, at most [`PER_RUN`] entries wait, and
//! [`ALL`] of all runs: the rest is dropped and counted. An entry counts until it is dropped, whatever becomes of it. Beginnings and ends
//! are few and bounded by the list, and are never dropped.

use super::{Beginning, Ending, Message};
use failsafe_core::{Decision, Input, RunId};
use failsafe_matchers::shadow::Now;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::Sender,
    },
    thread::JoinHandle,
};

/// Entries of one run that may wait.
pub(super) const PER_RUN: usize = 4_096;
/// Entries of all runs that may wait.
pub(super) const ALL: usize = 32_768;
/// Entries that are handed on together at most.
const TOGETHER: usize = 256;

/// An input of a run, with what was decided on it.
pub(super) struct Entry {
    pub run: RunId,
    pub input: Input,
    pub decisions: Vec<Decision>,
    /// Whether the run is frozen after it.
    pub frozen: bool,
    /// Given back with the entry.
    _room: [Room; 2],
}

/// The room of an entry that waits: of its run, or of all.
struct Room(Arc<AtomicUsize>);

impl Room {
    fn of(waiting: &Arc<AtomicUsize>) -> Room {
        waiting.fetch_add(1, Ordering::Relaxed);
        Room(waiting.clone())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A run that has shadows.
#[derive(Default)]
struct Fed {
    /// Shared with the thread for as long as that has a shadow of the run, and with entries that wait.
    waiting: Arc<AtomicUsize>,
    /// Not handed on, and not reported to the thread yet.
    dropped: u64,
}

impl Fed {
    /// Whether its last shadow has ended.
    fn is_over(&self) -> bool {
        Arc::strong_count(&self.waiting) == 1
    }
}

/// What the pipeline has of the shadows.
pub struct Feed {
    queue: Sender<Message>,
    fed: BTreeMap<RunId, Fed>,
    waiting: Arc<AtomicUsize>,
    pending: Vec<Entry>,
    dropped: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    pub(super) fn spawn(
        queue: Sender<Message>,
        dropped: Arc<AtomicU64>,
        work: impl FnOnce(Arc<AtomicBool>) + Send + 'static,
    ) -> std::io::Result<Feed> {
        let (waiting, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("shadows".into()).spawn(move || work(told))?;
        Ok(Feed { queue, fed: BTreeMap::new(), waiting, pending: Vec::new(), dropped, stop, thread: Some(thread) })
    }

    /// A shadow of a live run begins.
    pub fn begin(&mut self, beginning: Box<Beginning>, now: Now) {
        let fed = self.fed.entry(beginning.run()).or_default();
        if fed.is_over() {
            *fed = Fed::default();
        }
        let waiting = fed.waiting.clone();
        self.send(Message::Begin { beginning, now, fed: waiting });
    }

    /// One is ended.
    pub fn end(&mut self, ending: Ending) {
        self.send(Message::End(ending));
    }

    /// The run has ended.
    pub fn run_ended(&mut self, run: RunId) {
        if let Some(fed) = self.fed.remove(&run) {
            self.send(Message::Dropped(run, fed.dropped));
            self.send(Message::RunEnded(run));
        }
    }

    /// Takes an input of a run, once [`Feed::hand_on`] is called. `frozen`: whether the run is, after it.
    pub fn entry(&mut self, run: RunId, input: &Input, decisions: &[Decision], frozen: impl FnOnce() -> bool) {
        let Some(fed) = self.fed.get_mut(&run) else { return };
        if fed.is_over() {
            self.fed.remove(&run);
            return;
        }
        let full = fed.waiting.load(Ordering::Relaxed) >= PER_RUN || self.waiting.load(Ordering::Relaxed) >= ALL;
        if full {
            fed.dropped += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let room = [Room::of(&fed.waiting), Room::of(&self.waiting)];
        if fed.dropped > 0 {
            let lost = std::mem::take(&mut fed.dropped);
            self.send(Message::Dropped(run, lost));
        }
        let decisions = decisions.iter().filter(|decision| decision.id.run == run).cloned().collect();
        self.pending.push(Entry { run, input: input.clone(), decisions, frozen: frozen(), _room: room });
        if self.pending.len() >= TOGETHER {
            self.hand_on();
        }
    }

    /// Hands what came since the last time on to the thread.
    pub fn hand_on(&mut self) {
        if !self.pending.is_empty() {
            // Without its thread nothing is judged by shadows, which reports say.
            let _ended = self.queue.send(Message::Entries(std::mem::take(&mut self.pending)));
        }
    }

    /// Entries of a run that find room now.
    #[cfg(test)]
    pub fn room(&self, run: RunId) -> Option<usize> {
        let fed = self.fed.get(&run)?;
        Some(PER_RUN - fed.waiting.load(Ordering::Relaxed))
    }

    /// In the order of the entries.
    fn send(&mut self, message: Message) {
        self.hand_on();
        let _ended = self.queue.send(message);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.send(Message::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of shadows panicked");
        }
    }
}

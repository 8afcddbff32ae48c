//! What is recorded, counted for monitoring. Whoever records, the pipeline too, only puts a note into a bounded queue; the log's
//! thread and whoever reads the counts take the notes up.
//!
//! Invariants: recording takes no lock here and waits for nobody; a note without room is counted as missed.

use crossbeam_queue::ArrayQueue;
use failsafe_core::{
    record::Record,
    tally::{Note, Tally},
};
use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Notes that wait. The log's thread takes them up with each batch of entries.
const ROOM: usize = 4_096;

/// The counts, and the notes on their way to them.
#[derive(Debug)]
pub struct Tallying {
    notes: ArrayQueue<Note>,
    missed: AtomicU64,
    tally: Mutex<Tally>,
}

impl Default for Tallying {
    fn default() -> Tallying {
        Tallying { notes: ArrayQueue::new(ROOM), missed: AtomicU64::new(0), tally: Mutex::default() }
    }
}

impl Tallying {
    /// Notes a record.
    pub(super) fn note(&self, record: &Record) {
        let Some(note) = Note::of(record) else { return };
        if let Err(note) = self.notes.push(note) {
            // Nobody took the notes up for long, as when the disk hangs. A lock that another holds is not waited for.
            let Ok(mut tally) = self.tally.try_lock() else {
                self.missed.fetch_add(1, Ordering::Relaxed);
                return;
            };
            self.take_into(&mut tally);
            tally.take(note);
        }
    }

    /// Takes the notes up, on a thread that may wait.
    pub(super) fn take_up(&self) {
        if !self.notes.is_empty() {
            self.with(|_| ());
        }
    }

    /// Reads the counts, and adds to them.
    pub fn with<T>(&self, read: impl FnOnce(&mut Tally) -> T) -> T {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        self.take_into(&mut tally);
        read(&mut tally)
    }

    /// Records that are in no count.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn take_into(&self, tally: &mut Tally) {
        // At most as many as there is room for: others may go on adding.
        for _ in 0..ROOM {
            let Some(note) = self.notes.pop() else { return };
            tally.take(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_core::record::Limited;

    fn record() -> Record {
        Record::Limited(Limited { entries: 1, ..Limited::default() })
    }

    #[test]
    fn more_records_than_notes_have_room_are_all_counted_although_nobody_reads() {
        let tallying = Tallying::default();
        (0..3 * ROOM).for_each(|_| tallying.note(&record()));
        assert_eq!(tallying.with(|tally| tally.counts().limited), 3 * ROOM as u64);
        assert_eq!(tallying.missed(), 0);
    }

    #[test]
    fn recording_does_not_wait_for_whoever_reads_the_counts() {
        let tallying = Tallying::default();
        // It would never end if it waited: the lock is held by this thread.
        tallying.with(|_| (0..ROOM + 10).for_each(|_| tallying.note(&record())));
        assert_eq!(tallying.missed(), 10);
        assert_eq!(tallying.with(|tally| tally.counts().limited), ROOM as u64);
    }
}

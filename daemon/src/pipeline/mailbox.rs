//! Events on their way from the ring's reader to the pipeline: one message in its queue stands for all that wait (ADR 14).
//!
//! ```text
//! reader ─► post ─► waiting ─► take ─► pipeline
//!              └─ Message::Events, when nothing waited ─► queue ─┘
//! ```
//! The first event wakes the pipeline at once; what comes while it works is taken together, and costs no wake-up. Invariants:
//! while something waits, the queue holds a message for it, or the pipeline has ended; no more than [`ROOM`] events wait, so that a
//! flood makes the reader wait, the kernel's ring fill, and the loss is counted there.

use super::{Message, Sender};
use failsafe_core::Input;
use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Events that may wait: what the pipeline takes in within a few milliseconds, so that none is old when it is judged.
const ROOM: usize = 1_024;
/// The reader looks this often whether there is still a pipeline.
const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// What waits.
pub struct Mailbox {
    waiting: Mutex<Vec<Input>>,
    taken: Condvar,
    room: usize,
}

impl Mailbox {
    /// Inputs that may wait here.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Input>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what waits in `into`, which is empty; its memory is filled next.
    pub(super) fn take(&self, into: &mut Vec<Input>) {
        std::mem::swap(&mut *self.waiting(), into);
        self.taken.notify_all();
    }
}

/// The reader's end.
pub struct Poster {
    mailbox: Arc<Mailbox>,
    pipeline: Sender,
    /// There is no pipeline any more.
    ended: bool,
}

impl Poster {
    /// A way in beside the pipeline's queue.
    pub fn new(pipeline: Sender) -> Poster {
        Poster::with_room(pipeline, ROOM)
    }

    /// The same, where no more than `room` may wait.
    pub fn with_room(pipeline: Sender, room: usize) -> Poster {
        let mailbox = Arc::new(Mailbox { waiting: Mutex::default(), taken: Condvar::new(), room });
        Poster { mailbox, pipeline, ended: false }
    }

    /// Hands an event on, and waits while there is no room. Without a pipeline it is dropped.
    pub fn post(&mut self, event: Input) {
        while !self.ended {
            let waiting = self.mailbox.waiting();
            let full = |waiting: &mut Vec<Input>| waiting.len() >= self.mailbox.room;
            let (mut waiting, late) = self
                .mailbox
                .taken
                .wait_timeout_while(waiting, LOOKS_EVERY, full)
                .unwrap_or_else(PoisonError::into_inner);
            if late.timed_out() {
                drop(waiting);
                self.wake_pipeline();
                continue;
            }
            let first = waiting.is_empty();
            waiting.push(event);
            drop(waiting);
            if first {
                self.wake_pipeline();
            }
            return;
        }
    }

    fn wake_pipeline(&mut self) {
        self.ended = self.pipeline.send(Message::Events(self.mailbox.clone())).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::queue::{self, Receiver};
    use failsafe_core::MonoTime;

    fn tick(ns: u64) -> Input {
        Input::Tick(MonoTime(ns))
    }

    fn next(queue: &Receiver<Message>, into: &mut Vec<Input>) -> usize {
        let Message::Events(mailbox) = queue.recv().unwrap() else { panic!("another message") };
        mailbox.take(into);
        into.len()
    }

    #[test]
    fn what_waits_is_reported_once_and_taken_in_order() {
        let (pipeline, queue) = queue::channel(4);
        let mut poster = Poster::new(pipeline);
        (0..3).for_each(|n| poster.post(tick(n)));
        let mut taken = Vec::new();
        assert_eq!(next(&queue, &mut taken), 3);
        assert!(taken.iter().zip(0..).all(|(input, n)| *input == tick(n)));
        assert!(queue.try_recv().is_err(), "one message stands for all");
        taken.clear();
        poster.post(tick(9));
        assert_eq!(next(&queue, &mut taken), 1, "what comes later is told again");
    }

    #[test]
    fn a_full_mailbox_makes_the_reader_wait_and_loses_nothing() {
        let (pipeline, queue) = queue::channel(4);
        let sent = u64::try_from(ROOM).unwrap() * 5;
        let reader = std::thread::spawn(move || {
            let mut poster = Poster::new(pipeline);
            (0..sent).for_each(|n| poster.post(tick(n)));
        });
        let (mut all, mut batch) = (Vec::new(), Vec::new());
        while all.len() < ROOM * 5 {
            assert!(next(&queue, &mut batch) <= ROOM);
            all.append(&mut batch);
        }
        reader.join().unwrap();
        assert!(all.iter().zip(0..).all(|(input, n)| *input == tick(n)));
    }

    #[test]
    fn without_a_pipeline_nobody_waits_for_ever() {
        let (pipeline, queue) = queue::channel(4);
        let mut poster = Poster::new(pipeline);
        (0..u64::try_from(ROOM).unwrap()).for_each(|n| poster.post(tick(n)));
        drop(queue);
        // One wait at most, however much the ring still holds.
        (0..100_000).for_each(|n| poster.post(tick(n)));
    }
}

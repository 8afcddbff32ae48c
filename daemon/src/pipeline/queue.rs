//! The pipeline's queue: many senders, one receiver, no lock.
//!
//! The channels of std and crossbeam wake their receiver while they hold a lock. On a busy machine the woken pipeline displaces the
//! sender at once, needs the same lock, and waits until the sender gets a processor again. A sampler with ordinary priority delayed a
//! freeze by up to 77 ms in this way (ADR 23). Here a sender puts its message into a lock-free ring and then unparks the receiver's
//! thread, so nobody is woken while something is held. What is left is a sender that loses its processor between the two instructions
//! with which it puts a message into the ring: until it goes on, the receiver spins there.
//!
//! Invariants: what was sent is received once, in the order of each sender; after the receiver is gone nothing stays in the ring.

use crossbeam_queue::ArrayQueue;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
        mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// A sender that finds no room tries again after this time.
const FULL: Duration = Duration::from_micros(200);
/// A receiver without a deadline looks this often by itself.
const LONG: Duration = Duration::from_secs(3_600);

/// A queue with room for `capacity` messages.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        ring: ArrayQueue::new(capacity.max(1)),
        receiver: OnceLock::new(),
        senders: AtomicUsize::new(1),
        closed: AtomicBool::new(false),
    });
    (Sender(shared.clone()), Receiver(shared))
}

struct Shared<T> {
    ring: ArrayQueue<T>,
    /// The thread that receives, from its first wait on.
    receiver: OnceLock<Thread>,
    senders: AtomicUsize,
    /// There is no receiver any more.
    closed: AtomicBool,
}

impl<T> Shared<T> {
    fn wake(&self) {
        // Pairs with the fence of the receiver: either it sees what was put in before it sleeps, or it is seen here.
        fence(Ordering::SeqCst);
        if let Some(receiver) = self.receiver.get() {
            receiver.unpark();
        }
    }

    fn empty(&self) {
        while self.ring.pop().is_some() {}
    }
}

/// A way in.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Sends, and waits while there is no room.
    ///
    /// # Errors
    /// The receiver is gone; the message comes back.
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        let mut message = message;
        loop {
            match self.try_send(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(back)) => return Err(SendError(back)),
                Err(TrySendError::Full(back)) => message = back,
            }
            thread::sleep(FULL);
        }
    }

    /// Sends; never waits.
    ///
    /// # Errors
    /// There is no room, or the receiver is gone; the message comes back.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(TrySendError::Disconnected(message));
        }
        self.0.ring.push(message).map_err(TrySendError::Full)?;
        self.0.wake();
        if self.0.closed.load(Ordering::Acquire) {
            // It left in between, and whoever waits for an answer to a message is to learn that.
            self.0.empty();
        }
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake();
        }
    }
}

/// The way out, for one thread.
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    /// The next message, if one is there.
    ///
    /// # Errors
    /// There is none, or there are no senders either.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        if let Some(message) = self.0.ring.pop() {
            return Ok(message);
        }
        if self.0.senders.load(Ordering::Acquire) > 0 {
            return Err(TryRecvError::Empty);
        }
        // The last sender may have sent between the two looks.
        self.0.ring.pop().ok_or(TryRecvError::Disconnected)
    }

    /// What is there now.
    pub fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.0.ring.pop())
    }

    /// The next message, waited for. The first call binds the receiver to the calling thread.
    ///
    /// # Errors
    /// None came within `wait`, or none can come.
    pub fn recv_timeout(&self, wait: Duration) -> Result<T, RecvTimeoutError> {
        self.0.receiver.get_or_init(thread::current);
        fence(Ordering::SeqCst);
        let deadline = Instant::now() + wait;
        loop {
            match self.try_recv() {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RecvTimeoutError::Timeout);
            }
            thread::park_timeout(left);
        }
    }

    /// The next message, however long that takes.
    ///
    /// # Errors
    /// There are no senders.
    pub fn recv(&self) -> Result<T, RecvError> {
        loop {
            match self.recv_timeout(LONG) {
                Ok(message) => return Ok(message),
                Err(RecvTimeoutError::Disconnected) => return Err(RecvError),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.0.empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_many_senders_arrive_once_and_in_the_order_of_each_sender() {
        let (sender, receiver) = channel(8);
        let threads: Vec<_> = (0..4usize)
            .map(|who| {
                let sender = sender.clone();
                thread::spawn(move || (0..5_000usize).for_each(|n| sender.send((who, n)).unwrap()))
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        while let Ok((who, n)) = receiver.recv() {
            assert_eq!(n, next[who]);
            next[who] += 1;
        }
        assert_eq!(next, [5_000; 4]);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn each_message_wakes_a_receiver_that_waits() {
        let (there, receiver) = channel(1);
        let (back, answers) = channel(1);
        let echo = thread::spawn(move || {
            while let Ok(n) = receiver.recv() {
                back.send(n).unwrap();
            }
        });
        // A wake-up that is lost would make this last an hour.
        for n in 0..20_000u32 {
            there.send(n).unwrap();
            assert_eq!(answers.recv_timeout(Duration::from_secs(60)), Ok(n));
        }
        drop(there);
        echo.join().unwrap();
        assert_eq!(answers.recv(), Err(RecvError));
    }

    #[test]
    fn a_full_queue_and_a_receiver_that_is_gone_give_the_message_back() {
        let (sender, receiver) = channel(1);
        sender.try_send(1).unwrap();
        assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        assert_eq!(receiver.try_recv(), Ok(1));
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        drop(receiver);
        assert_eq!(sender.try_send(3), Err(TrySendError::Disconnected(3)));
        assert_eq!(sender.send(3), Err(SendError(3)));
    }

    #[test]
    fn a_sender_that_waits_for_room_goes_on_when_the_receiver_leaves_and_no_message_stays() {
        let (sender, receiver) = channel(1);
        let held = Arc::new(());
        sender.send(held.clone()).unwrap();
        let waits = thread::spawn({
            let (sender, held) = (sender.clone(), held.clone());
            move || sender.send(held)
        });
        drop(receiver);
        // Sent or given back: in both cases nobody holds the message any more.
        drop(waits.join().unwrap());
        assert_eq!(Arc::strong_count(&held), 1);
    }
}

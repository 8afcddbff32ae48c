//! The pipeline's queue: many senders, one receiver, no lock.
//!
//! The channels of std and crossbeam wake their receiver while they hold a lock. On a busy machine the woken pipeline displaces the
//! sender at once, needs the same lock, and waits until the sender gets a processor again. A sampler with ordinary priority delayed a
//! freeze by up to 77 ms in this way (ADR 23). Here a sender puts its message into a lock-free ring and then unparks the receiver's
//! thread, so nobody is woken while something is held. What is left is a sender that loses its processor between the two instructions
//! with which it puts a message into the ring: until it goes on, the receiver spins there.
//!
//! Invariants: what was sent is received once, in the order of each sender; after the receiver is gone nothing stays in the ring.
//! `tests/models` runs this file through every order of its threads' steps.

use super::sync::{Arc, ArrayQueue, AtomicBool, AtomicUsize, Instant, OnceLock, Ordering, Thread, fence, thread};
use std::{
    sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError},
    time::Duration,
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

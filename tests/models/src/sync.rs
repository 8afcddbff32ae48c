//! What the pipeline's queue is made of, as loom can follow it.
//!
//! There is no time in a model: a wait ends when somebody ends it, so a lost wake-up is a deadlock, which loom reports.

use std::{ops::Add, sync::Mutex, time::Duration};

pub use loom::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};
pub use loom::thread::Thread;

/// Threads, without time.
pub mod thread {
    use std::time::Duration;

    pub use loom::thread::current;

    /// Waits until somebody unparks this thread, however long that takes.
    pub fn park_timeout(_: Duration) {
        loom::thread::park();
    }

    /// Lets others go on.
    pub fn sleep(_: Duration) {
        loom::thread::yield_now();
    }
}

/// A moment; all are the same.
#[derive(Debug, Clone, Copy)]
pub struct Instant(Duration);

impl Instant {
    /// Now.
    pub fn now() -> Instant {
        Instant(Duration::ZERO)
    }

    /// How much later than `earlier` it is.
    pub fn saturating_duration_since(self, earlier: Instant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, later: Duration) -> Instant {
        Instant(self.0 + later)
    }
}

/// A cell that is set once.
#[derive(Debug, Default)]
pub struct OnceLock<T> {
    set: AtomicBool,
    value: std::sync::OnceLock<T>,
}

impl<T> OnceLock<T> {
    /// An empty one.
    pub fn new() -> OnceLock<T> {
        OnceLock { set: AtomicBool::new(false), value: std::sync::OnceLock::new() }
    }

    /// The value, if this thread can see it.
    pub fn get(&self) -> Option<&T> {
        if self.set.load(Ordering::Acquire) { self.value.get() } else { None }
    }

    /// The value, which is set where there is none.
    pub fn get_or_init(&self, value: impl FnOnce() -> T) -> &T {
        let value = self.value.get_or_init(value);
        self.set.store(true, Ordering::Release);
        value
    }
}

/// A ring without locks, with no more ordering than a ring needs for its own sake: what was put into a place is seen by whoever sees
/// that the place is full. That of crossbeam has fences besides, on which the queue must not depend.
#[derive(Debug)]
pub struct ArrayQueue<T> {
    places: Vec<Place<T>>,
    head: AtomicUsize,
    tail: AtomicUsize,
}

#[derive(Debug)]
struct Place<T> {
    /// Of an empty place twice the number of the push that fills it, of a full one that and 1.
    turn: AtomicUsize,
    /// Only whoever has the turn looks into it.
    value: Mutex<Option<T>>,
}

impl<T> ArrayQueue<T> {
    /// A ring with that many places.
    pub fn new(places: usize) -> ArrayQueue<T> {
        let place = |n| Place { turn: AtomicUsize::new(2 * n), value: Mutex::new(None) };
        ArrayQueue { places: (0..places).map(place).collect(), head: AtomicUsize::new(0), tail: AtomicUsize::new(0) }
    }

    /// Puts a value in.
    ///
    /// # Errors
    /// No place is empty; the value comes back.
    pub fn push(&self, value: T) -> Result<(), T> {
        loop {
            let tail = self.tail.load(Ordering::Relaxed);
            let Some(place) = self.places.get(tail % self.places.len()) else { return Err(value) };
            match place.turn.load(Ordering::Acquire) {
                turn if turn == 2 * tail => {}
                turn if turn < 2 * tail => return Err(value),
                _ => {
                    loom::thread::yield_now();
                    continue;
                }
            }
            if self.tail.compare_exchange(tail, tail + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                if let Ok(mut empty) = place.value.lock() {
                    *empty = Some(value);
                }
                place.turn.store(2 * tail + 1, Ordering::Release);
                return Ok(());
            }
        }
    }

    /// Takes the next value out. One that is being put in does not count.
    pub fn pop(&self) -> Option<T> {
        loop {
            let head = self.head.load(Ordering::Relaxed);
            let place = self.places.get(head % self.places.len())?;
            if place.turn.load(Ordering::Acquire) != 2 * head + 1 {
                return None;
            }
            if self.head.compare_exchange(head, head + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                let value = place.value.lock().ok().and_then(|mut full| full.take());
                place.turn.store(2 * (head + self.places.len()), Ordering::Release);
                return value;
            }
        }
    }
}

//! How to wait for the kernel without its notifications: spin, then yield, then sleep.
//!
//! Owns the time of one wait. Freezing one process takes tens of microseconds, a thousand some milliseconds, so a
//! fixed sleep would be either too long or a busy loop.

use std::time::{Duration, Instant};

/// Spinning without giving up the processor: shorter than a sleep could ever be.
const SPIN: Duration = Duration::from_micros(30);
/// Then yielding, so that the tasks being frozen can run to their trap on this processor too.
const YIELD: Duration = Duration::from_millis(2);
/// Then sleeping, twice as long each time, between these.
const SLEEP_MIN: Duration = Duration::from_micros(50);
const SLEEP_MAX: Duration = Duration::from_millis(2);

/// One wait towards a deadline.
#[derive(Debug)]
pub(super) struct Backoff {
    began: Instant,
    deadline: Instant,
    sleep: Duration,
}

impl Backoff {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { began: Instant::now(), deadline, sleep: SLEEP_MIN }
    }

    /// Whether waiting has got as far as sleeping.
    pub(super) fn is_slow(&self) -> bool {
        self.sleep > SLEEP_MIN
    }

    /// Waits a little; false when the deadline has passed, without waiting.
    pub(super) fn pause(&mut self) -> bool {
        let now = Instant::now();
        let Some(left) = self.deadline.checked_duration_since(now).filter(|l| !l.is_zero()) else {
            return false;
        };
        let waited = now.duration_since(self.began);
        if waited < SPIN {
            std::hint::spin_loop();
        } else if waited < YIELD {
            std::thread::yield_now();
        } else {
            std::thread::sleep(self.sleep.min(left));
            self.sleep = (self.sleep * 2).min(SLEEP_MAX);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_at_the_deadline_and_never_pauses_past_it() {
        let deadline = Instant::now() + Duration::from_millis(8);
        let mut backoff = Backoff::until(deadline);
        let mut pauses = 0u32;
        while backoff.pause() {
            pauses += 1;
        }
        assert!(Instant::now() >= deadline);
        assert!(pauses > 3, "it spins and yields before it sleeps");
        assert!(!Backoff::until(Instant::now()).pause());
    }
}

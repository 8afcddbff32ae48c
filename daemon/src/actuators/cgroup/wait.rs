//! How to wait for the kernel without its notifications: short sleeps, each longer than the one before.
//!
//! Owns the time of one wait. Freezing one process takes tens of microseconds, a thousand some milliseconds, so a
//! fixed sleep would be either too long or a busy loop. It never yields: a thread that stays runnable keeps the tasks
//! that are to freeze off its processor.

use std::time::{Duration, Instant};

/// Sleeps, twice as long each time, between these. The kernel's timer slack (50 us by default) lengthens the shortest ones.
const SLEEP_MIN: Duration = Duration::from_micros(20);
const SLEEP_MAX: Duration = Duration::from_millis(2);
/// From here on a wait is not the ordinary one.
const SLOW: Duration = Duration::from_millis(2);

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

    /// Whether it waits longer than usual.
    pub(super) fn is_slow(&self) -> bool {
        self.began.elapsed() >= SLOW
    }

    /// Waits a little; false when the deadline has passed, without waiting.
    pub(super) fn pause(&mut self) -> bool {
        match self.next() {
            Some(time) => {
                std::thread::sleep(time);
                true
            }
            None => false,
        }
    }

    /// How long to wait now; `None` when the deadline has passed.
    pub(super) fn next(&mut self) -> Option<Duration> {
        self.next_at(Instant::now())
    }

    fn next_at(&mut self, now: Instant) -> Option<Duration> {
        let left = self.deadline.saturating_duration_since(now);
        if left.is_zero() {
            return None;
        }
        let sleep = self.sleep.min(left);
        self.sleep = (self.sleep * 2).min(SLEEP_MAX);
        Some(sleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sleep_is_twice_as_long_and_none_goes_past_the_deadline() {
        let began = Instant::now();
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        let mut backoff = Backoff { began, deadline: began + ms(8), sleep: SLEEP_MIN };
        let sleeps: Vec<_> = (0..8).map(|_| backoff.next_at(began)).collect();
        let expected = [20, 40, 80, 160, 320, 640, 1280, 2000].map(|n| Some(us(n)));
        assert_eq!(sleeps, expected);
        assert_eq!(backoff.next_at(began + ms(8) - us(7)), Some(us(7)));
        assert_eq!(backoff.next_at(began + ms(8)), None);
        assert_eq!(backoff.next_at(began + ms(9)), None);
    }

    #[test]
    fn after_the_deadline_there_is_no_pause() {
        assert!(!Backoff::until(Instant::now()).pause());
    }
}

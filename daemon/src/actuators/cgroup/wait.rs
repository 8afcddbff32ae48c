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
        match self.next(Instant::now()) {
            Pause::Over => return false,
            Pause::Spin => std::hint::spin_loop(),
            Pause::Yield => std::thread::yield_now(),
            Pause::Sleep(time) => std::thread::sleep(time),
        }
        true
    }

    fn next(&mut self, now: Instant) -> Pause {
        let left = self.deadline.saturating_duration_since(now);
        let waited = now.saturating_duration_since(self.began);
        if left.is_zero() {
            Pause::Over
        } else if waited < SPIN {
            Pause::Spin
        } else if waited < YIELD {
            Pause::Yield
        } else {
            let sleep = self.sleep.min(left);
            self.sleep = (self.sleep * 2).min(SLEEP_MAX);
            Pause::Sleep(sleep)
        }
    }
}

/// What one pause is.
#[derive(Debug, PartialEq)]
enum Pause {
    /// The deadline has passed.
    Over,
    Spin,
    Yield,
    Sleep(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_spins_then_yields_then_sleeps_and_never_past_the_deadline() {
        let began = Instant::now();
        let (us, ms) = (Duration::from_micros, Duration::from_millis);
        let mut backoff = Backoff { began, deadline: began + ms(8), sleep: SLEEP_MIN };
        assert_eq!(backoff.next(began), Pause::Spin);
        assert_eq!(backoff.next(began + SPIN), Pause::Yield);
        assert!(!backoff.is_slow());
        let sleeps: Vec<_> = (0..7).map(|_| backoff.next(began + YIELD)).collect();
        let expected = [us(50), us(100), us(200), us(400), us(800), us(1600), ms(2)].map(Pause::Sleep);
        assert_eq!(sleeps, expected);
        assert!(backoff.is_slow());
        assert_eq!(backoff.next(began + ms(8) - us(7)), Pause::Sleep(us(7)));
        assert_eq!(backoff.next(began + ms(8)), Pause::Over);
        assert_eq!(backoff.next(began + ms(9)), Pause::Over);
    }

    #[test]
    fn after_the_deadline_there_is_no_pause() {
        assert!(!Backoff::until(Instant::now()).pause());
    }
}

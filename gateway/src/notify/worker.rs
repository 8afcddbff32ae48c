//! Sends the messages of one target, one after the other: the order of an incident's messages is that of the log. A target that
//! does not answer delays no other one.

use super::{
    message::Message,
    now_ns,
    queue::Queue,
    target::{Delivery, Target},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The wait after the first attempt that failed; it doubles with each one.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait, unless the target asks for a longer one.
const LONGEST: Duration = Duration::from_secs(300);
/// Open alerts are sent again after this time.
const AGAIN: Duration = Duration::from_secs(300);
/// Alerts in one request.
const TOGETHER: usize = 100;

/// What is counted of a target.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages that it took.
    pub sent: AtomicU64,
    /// Attempts that failed.
    pub failed: AtomicU64,
    /// Messages that it refused for ever.
    pub refused: AtomicU64,
}

/// One target with its queue.
pub struct Worker {
    pub name: String,
    pub target: Target,
    pub queue: Queue,
    pub counts: Counts,
    pub keep: Duration,
    /// Messages about what is open, for a target that wants to hear of it again.
    pub active: Mutex<Vec<Message>>,
}

impl Worker {
    /// Sends. It does not end by itself.
    pub async fn serve(self: Arc<Worker>) {
        let mut again = Instant::now();
        loop {
            let first = tokio::select! {
                first = self.queue.first() => first,
                () = tokio::time::sleep_until(again), if self.target.wants_again() => {
                    self.send_active().await;
                    again = Instant::now() + AGAIN;
                    continue;
                }
            };
            let mut attempt = 0;
            loop {
                if age(first.message.at_ns) > self.keep {
                    self.queue.expire(&first);
                    break;
                }
                match self.target.send(&first.message).await {
                    Delivery::Sent => {
                        self.counts.sent.fetch_add(1, Ordering::Relaxed);
                        self.queue.done(first.n);
                        tracing::info!(target = self.name, id = first.message.id, "a notification is sent");
                        break;
                    }
                    Delivery::Refused(why) => {
                        self.counts.refused.fetch_add(1, Ordering::Relaxed);
                        let (target, id) = (&self.name, &first.message.id);
                        tracing::error!(target, id, why, "a notification is refused, and not sent again");
                        self.queue.done(first.n);
                        break;
                    }
                    Delivery::Later(why, after) => {
                        self.counts.failed.fetch_add(1, Ordering::Relaxed);
                        attempt += 1;
                        let wait = wait(attempt, after);
                        let (target, id, wait_s) = (&self.name, &first.message.id, wait.as_secs_f32());
                        tracing::warn!(target, id, why, attempt, wait_s, "a notification cannot be sent now");
                        tokio::time::sleep(wait).await;
                    }
                }
            }
        }
    }

    async fn send_active(&self) {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for some in active.chunks(TOGETHER) {
            match self.target.send_all(some).await {
                Delivery::Sent => {}
                Delivery::Later(why, _) | Delivery::Refused(why) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(target = self.name, why, "open alerts cannot be sent again now");
                    return;
                }
            }
        }
    }
}

/// How old a message is; one of the future is new.
fn age(at_ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(now_ns().saturating_sub(at_ns)).unwrap_or(0))
}

/// How long to wait after the nth attempt: exponential, with a random half, and never less than the target asks for.
fn wait(attempt: u32, after: Option<Duration>) -> Duration {
    let whole = FIRST.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(LONGEST);
    let random = f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX);
    let backoff = whole.mul_f64(0.5 + random / 2.0);
    after.map_or(backoff, |after| after.max(backoff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_are_never_shorter_than_the_target_asks_for() {
        for attempt in 1..200 {
            let most = FIRST.saturating_mul(1 << (attempt - 1).min(20)).min(LONGEST);
            let waited = wait(attempt, None);
            assert!(waited >= most / 2 && waited <= most, "{attempt}: {waited:?}");
        }
        assert!(wait(1, Some(Duration::from_secs(900))) >= Duration::from_secs(900));
        assert!(wait(30, Some(Duration::ZERO)) >= LONGEST / 2);
    }
}

//! Sends the messages of one target, one after the other: the order of an incident's messages is that of the log. A target that
//! does not answer delays no other one, and a message that its target never takes delays only those about the same.

mod held;

use super::{
    message::Message,
    now_ns,
    queue::{Queue, Queued},
    target::{Delivery, Target},
};
use held::Held;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The wait after the first attempt that failed.
pub const FIRST: Duration = Duration::from_secs(1);
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
    /// The wait after the first attempt that failed; it doubles with each one.
    pub first_wait: Duration,
    /// The last message about each key that is open, for a target that wants to hear of it again.
    pub active: Mutex<BTreeMap<String, Arc<Message>>>,
}

impl Worker {
    /// Sends. It does not end by itself.
    pub async fn serve(self: Arc<Worker>) {
        let mut again = Instant::now();
        let mut held = Held::default();
        loop {
            let next = tokio::select! {
                next = self.next(&held) => next,
                () = tokio::time::sleep_until(again), if self.target.wants_again() => {
                    self.send_active().await;
                    again = Instant::now() + AGAIN;
                    continue;
                }
            };
            let (key, id) = (next.message.key.as_str(), &next.message.id);
            if age(next.message.at_ns) > self.keep {
                self.queue.expire(&next);
                held.over(key);
                continue;
            }
            match self.target.send(&next.message).await {
                Delivery::Sent => {
                    self.counts.sent.fetch_add(1, Ordering::Relaxed);
                    self.queue.done(next.n);
                    held.sent(key);
                    tracing::info!(target = self.name, id, "a notification is sent");
                }
                Delivery::Refused(why) => {
                    self.counts.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(target = self.name, id, why, "a notification is refused, and not sent again");
                    self.queue.done(next.n);
                    held.over(key);
                }
                Delivery::Later(why, after) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    let waiting = self.queue.keys();
                    held.keep(|key| waiting.contains(key));
                    let failed = held.failed(key, Instant::now(), |attempt| self.wait(attempt, after));
                    let (attempt, wait_s) = (failed.attempt, failed.wait.as_secs_f32());
                    tracing::warn!(target = self.name, id, why, attempt, wait_s, "a notification cannot be sent now");
                    tokio::time::sleep(failed.pause).await;
                }
            }
        }
    }

    /// The next message that is not held back.
    async fn next(&self, held: &Held) -> Arc<Queued> {
        loop {
            let now = Instant::now();
            if let Some(next) = self.queue.pick(|key| held.is_held(key, now)) {
                return next;
            }
            tokio::select! {
                () = self.queue.added() => {}
                () = tokio::time::sleep_until(held.until(now).unwrap_or(now)), if held.until(now).is_some() => {}
            }
        }
    }

    /// How long to wait after the nth attempt.
    fn wait(&self, attempt: u32, after: Option<Duration>) -> Duration {
        wait(self.first_wait, attempt, after)
    }

    async fn send_active(&self) {
        let active: Vec<Arc<Message>> =
            self.active.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for some in active.chunks(TOGETHER) {
            let some: Vec<Message> = some.iter().map(|message| Message::clone(message)).collect();
            match self.target.send_all(&some).await {
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
fn wait(first: Duration, attempt: u32, after: Option<Duration>) -> Duration {
    let whole = first.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(LONGEST);
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
            let waited = wait(FIRST, attempt, None);
            assert!(waited >= most / 2 && waited <= most, "{attempt}: {waited:?}");
        }
        assert!(wait(FIRST, 1, Some(Duration::from_secs(900))) >= Duration::from_secs(900));
        assert!(wait(FIRST, 30, Some(Duration::ZERO)) >= LONGEST / 2);
    }
}

//! How fast requests may come. A user has one pace for all connections. Each connection of the reserved share has a pace of its
//! own; beyond a few requests, all of them together also have one, so that a thousand clients of root do not delay a freeze.
//!
//! Invariants: a connection that makes few requests never waits for others; any other one waits for them at most [`LONGEST`].

use super::limits::{Bucket, PerSecond, Share};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

/// What a connection of the reserved share may ask before it takes turns with the others.
const FREE: PerSecond = PerSecond { rate: 1, burst: 16 };
/// The pace of all connections of the reserved share together is this many times that of one.
const TOGETHER: u32 = 10;
/// The longest wait for a turn: a connection that asks often may also send a command. It bounds the queue too.
const LONGEST: Duration = Duration::from_millis(250);

/// The paces of all who have connections.
#[derive(Debug)]
pub struct Paces {
    pace: PerSecond,
    users: Mutex<BTreeMap<u32, Weak<Mutex<Bucket>>>>,
    reserved: Arc<Turns>,
}

/// Turns of the reserved share, at equal distances.
#[derive(Debug)]
struct Turns {
    distance: Duration,
    next: Mutex<Instant>,
}

/// The pace of one connection.
#[derive(Debug)]
pub struct Pace {
    bucket: Arc<Mutex<Bucket>>,
    reserved: Option<(Arc<Turns>, Mutex<Taken>)>,
}

#[derive(Debug)]
struct Taken {
    free: Bucket,
    /// When the next request may come.
    turn: Instant,
}

impl Paces {
    /// The same for every user.
    pub fn new(pace: PerSecond) -> Paces {
        let distance = Duration::from_secs(1) / pace.rate.saturating_mul(TOGETHER).max(1);
        let reserved = Arc::new(Turns { distance, next: Mutex::new(Instant::now()) });
        Paces { pace, users: Mutex::default(), reserved }
    }

    /// That of a new connection.
    pub fn of(&self, share: Share, now: Instant) -> Pace {
        let new = || Arc::new(Mutex::new(Bucket::new(self.pace, now)));
        let Share::User(uid) = share else {
            let taken = Taken { free: Bucket::new(FREE, now), turn: now };
            return Pace { bucket: new(), reserved: Some((self.reserved.clone(), Mutex::new(taken))) };
        };
        let mut users = lock(&self.users);
        if let Some(bucket) = users.get(&uid).and_then(Weak::upgrade) {
            return Pace { bucket, reserved: None };
        }
        users.retain(|_, bucket| bucket.strong_count() > 0);
        let bucket = new();
        users.insert(uid, Arc::downgrade(&bucket));
        Pace { bucket, reserved: None }
    }
}

impl Turns {
    fn take(&self, now: Instant) -> Instant {
        let mut next = lock(&self.next);
        *next = ((*next).max(now) + self.distance).min(now + LONGEST);
        *next
    }
}

impl Pace {
    /// A request has come.
    pub fn charge(&self, now: Instant) {
        lock(&self.bucket).charge(now);
        if let Some((turns, taken)) = &self.reserved {
            let mut taken = lock(taken);
            if !taken.free.take(now) {
                taken.turn = turns.take(now);
            }
        }
    }

    /// How long the next one waits.
    pub fn wait(&self, now: Instant) -> Duration {
        let debt = lock(&self.bucket).debt(now);
        let turn = self.reserved.as_ref().map(|(_, taken)| lock(taken).turn.saturating_duration_since(now));
        debt.max(turn.unwrap_or_default())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: PerSecond = PerSecond { rate: 100, burst: 200 };

    #[test]
    fn a_connection_of_root_with_few_requests_does_not_wait_for_a_thousand_others() {
        let (paces, now) = (Paces::new(PACE), Instant::now());
        let crowd: Vec<Pace> = (0..1_000).map(|_| paces.of(Share::Reserved(0), now)).collect();
        let command = paces.of(Share::Reserved(0), now);
        for pace in &crowd {
            (0..=FREE.burst).for_each(|_| pace.charge(now));
        }
        let mut waits: Vec<Duration> = crowd.iter().map(|pace| pace.wait(now)).collect();
        waits.sort();
        // 1,000 a second together, one after the other, up to the longest wait.
        let gaps: Vec<Duration> = waits[..250].windows(2).map(|two| two[1] - two[0]).collect();
        assert!(gaps.iter().all(|gap| *gap == Duration::from_millis(1)), "{gaps:?}");
        assert_eq!(waits[999], LONGEST);
        (0..FREE.burst).for_each(|_| command.charge(now));
        assert_eq!(command.wait(now), Duration::ZERO);
    }

    #[test]
    fn a_user_has_one_pace_for_all_connections_and_takes_no_turns_of_root() {
        let (paces, now) = (Paces::new(PACE), Instant::now());
        let (first, second) = (paces.of(Share::User(7), now), paces.of(Share::User(7), now));
        (0..PACE.burst).for_each(|_| first.charge(now));
        second.charge(now);
        assert!(first.wait(now) > Duration::ZERO && second.wait(now) > Duration::ZERO);
        assert_eq!(paces.of(Share::User(8), now).wait(now), Duration::ZERO);
        assert!(*lock(&paces.reserved.next) <= now);
    }
}

//! How fast requests may come. A user has one pace for all connections, and so has a remote identity. Each connection of the
//! reserved share has a pace of its own. Beyond a few requests, all of the reserved share together also have one, and so have all
//! remote identities: a thousand clients of root do not delay a freeze by root, nor other remote clients one by a remote operator.
//!
//! Invariants: who makes few requests never waits for others; who takes turns waits for the others at most [`LONGEST`]; there are
//! no more paces than connections and users that had one lately. A name of a remote identity comes from the gateway, and has a role.

use super::limits::{Bucket, PerSecond, Share};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// What a client that takes turns may ask before it does.
const FREE: PerSecond = PerSecond { rate: 1, burst: 16 };
/// The pace of all clients that take turns together is this many times that of one.
const TOGETHER: u32 = 10;
/// The longest wait for a turn: a connection that asks often may also send a command. It bounds the queue too. At the shipped
/// pace, 2,000 clients have a turn each in this time. Where fewer have, the others all come at its end, more than the event loop can
/// answer, and a freeze waits behind them.
const LONGEST: Duration = Duration::from_secs(1);
/// The resolution of the event loop's timer. A wait that is shorter would be rounded up to it.
const TIMER: Duration = Duration::from_millis(1);

/// The paces of all who have connections.
#[derive(Debug)]
pub struct Paces {
    pace: PerSecond,
    users: Mutex<BTreeMap<u32, Arc<Client>>>,
    identities: Mutex<BTreeMap<String, Arc<Client>>>,
    reserved: Arc<Turns>,
    remote: Arc<Turns>,
}

/// The turns of clients that together have one pace, one after the other at equal distances.
#[derive(Debug)]
struct Turns {
    distance: Duration,
    next: Mutex<Instant>,
}

/// Whatever has one pace: a user, a remote identity, or a connection of the reserved share.
#[derive(Debug)]
struct Client {
    bucket: Mutex<Bucket>,
    turns: Option<(Arc<Turns>, Mutex<Taken>)>,
}

#[derive(Debug)]
struct Taken {
    free: Bucket,
    /// When the next request may come.
    turn: Instant,
}

/// The pace of one connection.
#[derive(Debug)]
pub struct Pace {
    /// Of whom its last request was; at first, who made the connection.
    client: Mutex<Arc<Client>>,
    maker: Arc<Client>,
}

impl Paces {
    /// The same for every user.
    pub fn new(pace: PerSecond) -> Paces {
        let distance = Duration::from_secs(1) / pace.rate.saturating_mul(TOGETHER).max(1);
        let turns = || Arc::new(Turns { distance, next: Mutex::new(Instant::now()) });
        let (users, identities) = Default::default();
        Paces { pace, users, identities, reserved: turns(), remote: turns() }
    }

    /// That of a new connection.
    pub fn of(&self, share: Share, now: Instant) -> Pace {
        let maker = match share {
            Share::Reserved(_) => Arc::new(Client::new(self.pace, Some(&self.reserved), now)),
            Share::User(uid) => find(&self.users, &uid, now, || Client::new(self.pace, None, now)),
        };
        Pace { client: Mutex::new(maker.clone()), maker }
    }

    /// From now on, the connection has the pace of this remote identity; `None`: that of its maker.
    pub fn count_for(&self, pace: &Pace, identity: Option<&str>, now: Instant) {
        let client = match identity {
            Some(name) => {
                find(&self.identities, &name.to_owned(), now, || Client::new(self.pace, Some(&self.remote), now))
            }
            None => pace.maker.clone(),
        };
        *lock(&pace.client) = client;
    }
}

/// The client with this key, or a new one. One of which nobody has a connection is forgotten once its bucket is full again: who
/// connects anew has the pace that it had.
fn find<K: Ord + Clone>(
    clients: &Mutex<BTreeMap<K, Arc<Client>>>,
    key: &K,
    now: Instant,
    new: impl FnOnce() -> Client,
) -> Arc<Client> {
    let mut clients = lock(clients);
    if let Some(client) = clients.get(key) {
        return client.clone();
    }
    clients.retain(|_, client| Arc::strong_count(client) > 1 || !lock(&client.bucket).is_full(now));
    let client = Arc::new(new());
    clients.insert(key.clone(), client.clone());
    client
}

impl Turns {
    fn take(&self, now: Instant) -> Instant {
        let mut next = lock(&self.next);
        let turn = (*next).max(now).min(now + LONGEST);
        *next = turn + self.distance;
        turn
    }
}

impl Client {
    fn new(pace: PerSecond, turns: Option<&Arc<Turns>>, now: Instant) -> Client {
        let taken = || Mutex::new(Taken { free: Bucket::new(FREE, now), turn: now });
        Client { bucket: Mutex::new(Bucket::new(pace, now)), turns: turns.map(|turns| (turns.clone(), taken())) }
    }

    fn charge(&self, now: Instant) {
        lock(&self.bucket).charge(now);
        if let Some((turns, taken)) = &self.turns {
            let mut taken = lock(taken);
            if !taken.free.take(now) {
                taken.turn = turns.take(now);
            }
        }
    }

    fn wait(&self, now: Instant) -> Duration {
        let debt = lock(&self.bucket).debt(now);
        let turn = self.turns.as_ref().map(|(_, taken)| lock(taken).turn.saturating_duration_since(now));
        debt.max(turn.filter(|wait| *wait >= TIMER).unwrap_or_default())
    }
}

impl Pace {
    /// A request has come.
    pub fn charge(&self, now: Instant) {
        lock(&self.client).charge(now);
    }

    /// How long the next one waits.
    pub fn wait(&self, now: Instant) -> Duration {
        lock(&self.client).wait(now)
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
        let crowd: Vec<Pace> = (0..2_000).map(|_| paces.of(Share::Reserved(0), now)).collect();
        let command = paces.of(Share::Reserved(0), now);
        for pace in &crowd {
            (0..=FREE.burst).for_each(|_| pace.charge(now));
        }
        let mut waits: Vec<Duration> = crowd.iter().map(|pace| pace.wait(now)).collect();
        waits.sort();
        // 1,000 a second together, one after the other, up to the longest wait.
        assert_eq!(waits[0], Duration::ZERO, "nobody is before it");
        let gaps: Vec<Duration> = waits[..1_000].windows(2).map(|two| two[1] - two[0]).collect();
        assert!(gaps.iter().all(|gap| *gap == Duration::from_millis(1)), "{gaps:?}");
        assert_eq!(waits[1_999], LONGEST);
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

    #[test]
    fn two_thousand_connections_of_root_at_the_shipped_pace_never_come_together() {
        let pace = crate::config::Limits::default().requests_per_second;
        let (paces, now) = (Paces::new(PerSecond { rate: pace, burst: pace }), Instant::now());
        let crowd: Vec<Pace> = (0..2_000).map(|_| paces.of(Share::Reserved(0), now)).collect();
        crowd.iter().for_each(|pace| (0..=FREE.burst).for_each(|_| pace.charge(now)));
        let mut turns: Vec<Duration> =
            crowd.iter().map(|pace| lock(&pace.maker.turns.as_ref().unwrap().1).turn - now).collect();
        turns.sort();
        let together = turns.windows(2).filter(|two| two[1] == two[0]).count();
        assert_eq!(together, 0, "{together} of 2,000 have the turn of another");
    }

    #[test]
    fn a_lone_connection_of_root_waits_for_nobody() {
        let (paces, now) = (Paces::new(PerSecond { rate: 200, burst: 400 }), Instant::now());
        let lone = paces.of(Share::Reserved(0), now);
        for n in 0..PACE.burst {
            // At the pace of all together.
            let now = now + Duration::from_micros(500) * n;
            lone.charge(now);
            assert_eq!(lone.wait(now), Duration::ZERO, "request {n}");
        }
    }

    #[test]
    fn a_remote_identity_has_one_pace_for_all_connections_and_others_do_not_wait_for_it() {
        let (paces, now) = (Paces::new(PACE), Instant::now());
        let of = |name: &str| {
            let pace = paces.of(Share::User(65_534), now);
            paces.count_for(&pace, Some(name), now);
            pace
        };
        let (first, second, other) = (of("dns:a"), of("dns:a"), of("dns:b"));
        (0..PACE.burst + 50).for_each(|_| first.charge(now));
        assert!(first.wait(now) >= Duration::from_millis(500) && second.wait(now) == first.wait(now));
        other.charge(now);
        assert_eq!(other.wait(now), Duration::ZERO);
        assert_eq!(paces.of(Share::User(65_534), now).wait(now), Duration::ZERO, "the gateway itself");
        paces.count_for(&first, None, now);
        assert_eq!(first.wait(now), Duration::ZERO, "the gateway asks for itself on this connection");
    }

    #[test]
    fn many_remote_identities_take_turns_and_one_with_few_requests_takes_none() {
        let (paces, now) = (Paces::new(PACE), Instant::now());
        let of = |name: String| {
            let pace = paces.of(Share::User(65_534), now);
            paces.count_for(&pace, Some(&name), now);
            pace
        };
        let crowd: Vec<Pace> = (0..2_000).map(|n| of(format!("dns:{n}"))).collect();
        for pace in &crowd {
            (0..=FREE.burst).for_each(|_| pace.charge(now));
        }
        assert_eq!(crowd.iter().map(|pace| pace.wait(now)).max(), Some(LONGEST));
        let operator = of("dns:operator".to_owned());
        (0..FREE.burst).for_each(|_| operator.charge(now));
        assert_eq!(operator.wait(now), Duration::ZERO);
        assert!(*lock(&paces.reserved.next) <= now, "they take no turns of root");
    }

    #[test]
    fn who_connects_anew_has_the_pace_that_it_had_until_it_has_waited() {
        let (paces, now) = (Paces::new(PACE), Instant::now());
        let pace = paces.of(Share::User(1_000), now);
        (0..PACE.burst + PACE.rate).for_each(|_| pace.charge(now));
        let wait = pace.wait(now);
        assert!(wait > Duration::ZERO);
        drop(pace);
        drop(paces.of(Share::User(1_001), now));
        assert_eq!(paces.of(Share::User(1_000), now).wait(now), wait);
        let later = now + Duration::from_secs(60);
        drop(paces.of(Share::User(1_002), later));
        assert_eq!(lock(&paces.users).len(), 1, "those that are full again are forgotten");
    }

    #[test]
    fn what_nobody_has_a_connection_of_is_forgotten() {
        let (paces, now) = (Paces::new(PACE), Instant::now());
        let pace = paces.of(Share::User(65_534), now);
        for n in 0..100 {
            paces.count_for(&pace, Some(&format!("dns:{n}")), now);
        }
        assert!(lock(&paces.identities).len() <= 2, "a connection has one pace at a time");
    }
}

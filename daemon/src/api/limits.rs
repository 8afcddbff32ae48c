//! What each user may use of the interface: counted, bounded, and with a reserve for root and the administrators' group.
//!
//! ```text
//! accept ─► connection ─┐
//! gate   ─► stream, request ─┴─► Limit::take(share) ─► Permit (released when dropped) | Exceeded (counted, named)
//! ```
//! Invariants: users without a reserve share `total`, and none has more than `per_user` of it; the reserve is apart, so nothing
//! that they do can use it up. Refusing costs one lock that is held for a look-up.

use crate::config;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// So many seconds' worth may be used at once.
const BURST_S: u32 = 10;

/// In which share a caller is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// A user without a reserve; root inside a run is one.
    User(u32),
    /// Root or a member of the administrators' group, outside runs.
    Reserved(u32),
}

impl Share {
    /// Whether the reserve is for it.
    pub fn is_reserved(self) -> bool {
        matches!(self, Share::Reserved(_))
    }

    /// The user id.
    pub fn uid(self) -> u32 {
        match self {
            Share::User(uid) | Share::Reserved(uid) => uid,
        }
    }
}

/// How much there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Most for one user.
    pub per_user: usize,
    /// Most for all users without a reserve.
    pub total: usize,
    /// Beside that, for root and the administrators' group.
    pub reserve: usize,
}

/// A bounded resource.
#[derive(Debug)]
pub struct Limit {
    name: &'static str,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    quota: Quota,
    users: BTreeMap<u32, usize>,
    ordinary: usize,
    reserved: usize,
    refused: u64,
}

/// What each user has of a quota.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The most for one; 0: there is no quota for a user.
    pub most: usize,
    /// What is counted.
    pub unit: &'static str,
    /// By user id.
    pub users: BTreeMap<u32, usize>,
}

/// What of a limit is used, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The limit.
    pub name: &'static str,
    /// Its size.
    pub quota: Quota,
    /// Used by all users without a reserve.
    pub used: usize,
    /// Used of the reserve.
    pub reserve_used: usize,
    /// The user who uses the most, and how much.
    pub most: Option<(u32, usize)>,
    /// What each user has of it.
    pub held: Held,
    /// How often it refused since the daemon started.
    pub refused: u64,
    /// How often somebody had to wait.
    pub waited: u64,
    /// What is counted.
    pub unit: &'static str,
    /// Whether a user's part is limited, and whether the reserve is.
    pub bounded: (bool, bool),
}

impl Usage {
    /// Of something that is counted otherwise; one that nobody was refused.
    pub fn of(name: &'static str, unit: &'static str, quota: Quota) -> Usage {
        let (used, reserve_used, most, refused, waited, bounded) = (0, 0, None, 0, 0, (true, true));
        let held = Held { most: quota.per_user, unit, users: BTreeMap::new() };
        Usage { name, quota, used, reserve_used, most, held, refused, waited, unit, bounded }
    }

    /// The same, with what each user has.
    #[must_use]
    pub fn by(self, users: BTreeMap<u32, usize>) -> Usage {
        let most = users.iter().max_by_key(|(_, held)| **held).map(|(uid, held)| (*uid, *held));
        Usage { most: most.filter(|(_, held)| *held > 0), held: Held { users, ..self.held }, ..self }
    }
}

/// A limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit.
    pub name: &'static str,
    share: Share,
    /// What it is used up by: the user, or all together.
    own: bool,
    most: usize,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exceeded { name, share, own, most } = self;
        match (share, own) {
            (Share::User(uid), true) => {
                write!(f, "limit `{name}`: uid {uid} uses {most} of {most}; end some and try again")
            }
            (Share::User(_), false) => {
                write!(f, "limit `{name}`: all users together use {most} of {most}; try again later")
            }
            (Share::Reserved(_), _) => {
                write!(f, "limit `{name}`: the reserve of root and the administrators' group, {most}, is used up")
            }
        }
    }
}

impl Limit {
    /// A limit of which nothing is used.
    pub fn new(name: &'static str, quota: Quota) -> Arc<Limit> {
        Arc::new(Limit { name, used: Mutex::new(Used { quota, ..Used::default() }) })
    }

    /// Changes its size. What is in use beyond a smaller one stays in use.
    pub fn resize(&self, quota: Quota) {
        self.used().quota = quota;
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one.
    ///
    /// # Errors
    /// [`Exceeded`], which is counted.
    pub fn take(self: &Arc<Limit>, share: Share) -> Result<Permit, Exceeded> {
        let mut used = self.used();
        let quota = used.quota;
        let exceeded = match share {
            Share::Reserved(_) if used.reserved >= quota.reserve => Some((false, quota.reserve)),
            Share::Reserved(_) => None,
            Share::User(uid) if used.users.get(&uid).is_some_and(|own| *own >= quota.per_user) => {
                Some((true, quota.per_user))
            }
            Share::User(_) if used.ordinary >= quota.total => Some((false, quota.total)),
            Share::User(_) => None,
        };
        if let Some((own, most)) = exceeded {
            used.refused += 1;
            return Err(Exceeded { name: self.name, share, own, most });
        }
        match share {
            Share::Reserved(_) => used.reserved += 1,
            Share::User(uid) => {
                used.ordinary += 1;
                *used.users.entry(uid).or_default() += 1;
            }
        }
        drop(used);
        Ok(Permit { limit: self.clone(), share })
    }

    /// What is used now.
    pub fn usage(&self) -> Usage {
        let used = self.used();
        Usage {
            used: used.ordinary,
            reserve_used: used.reserved,
            refused: used.refused,
            ..Usage::of(self.name, self.name, used.quota).by(used.users.clone())
        }
    }

    fn release(&self, share: Share) {
        let mut used = self.used();
        match share {
            Share::Reserved(_) => used.reserved -= 1,
            Share::User(uid) => {
                used.ordinary -= 1;
                if let Some(own) = used.users.get_mut(&uid) {
                    *own -= 1;
                    if *own == 0 {
                        used.users.remove(&uid);
                    }
                }
            }
        }
    }
}

/// One of a limit, in use until it is dropped.
#[derive(Debug)]
pub struct Permit {
    limit: Arc<Limit>,
    share: Share,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.release(self.share);
    }
}

/// So many in a second, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerSecond {
    /// In a second.
    pub rate: u32,
    /// At once.
    pub burst: u32,
}

impl From<config::Shares> for Quota {
    fn from(config::Shares { per_user, total, reserve }: config::Shares) -> Quota {
        Quota { per_user, total, reserve }
    }
}

impl config::Rates {
    /// As [`PerSecond`]: of one user, of all.
    pub fn per_second(self) -> (PerSecond, PerSecond) {
        let pace = |rate: u32| PerSecond { rate, burst: rate.saturating_mul(BURST_S) };
        (pace(self.per_user), pace(self.total))
    }
}

/// Tokens that come back with time. It may go into debt, see [`Bucket::charge`].
#[derive(Debug)]
pub struct Bucket {
    pace: PerSecond,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(pace: PerSecond, now: Instant) -> Bucket {
        Bucket { pace, tokens: f64::from(pace.burst), at: now }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * f64::from(self.pace.rate)).min(f64::from(self.pace.burst));
        self.at = now;
    }

    /// Takes one where there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Takes one in any case.
    pub fn charge(&mut self, now: Instant) {
        self.refill(now);
        self.tokens -= 1.0;
    }

    /// How long until nothing is owed any more.
    pub fn debt(&mut self, now: Instant) -> Duration {
        self.refill(now);
        if self.tokens >= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64((-self.tokens / f64::from(self.pace.rate.max(1))).min(60.0))
    }

    /// How many are taken and have not come back.
    fn taken(&mut self, now: Instant) -> usize {
        self.refill(now);
        (f64::from(self.pace.burst) - self.tokens).ceil().max(0.0) as usize
    }

    /// Whether none is taken.
    pub(super) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= f64::from(self.pace.burst)
    }
}

/// Buckets of users: those that are full are forgotten.
#[derive(Debug)]
pub struct Rate {
    name: &'static str,
    per_user: PerSecond,
    total: PerSecond,
    buckets: Mutex<(Bucket, BTreeMap<u32, Bucket>)>,
    refused: AtomicU64,
}

/// Buckets that are kept before the full ones are looked for.
const BUCKETS: usize = 256;

impl Rate {
    /// A rate that nobody has used.
    pub fn new(name: &'static str, per_user: PerSecond, total: PerSecond) -> Rate {
        let all = Bucket::new(total, Instant::now());
        Rate { name, per_user, total, buckets: Mutex::new((all, BTreeMap::new())), refused: AtomicU64::new(0) }
    }

    /// Takes one of the user's. The reserved share is not limited.
    ///
    /// # Errors
    /// What is exceeded, with the limit's name.
    pub fn take(&self, share: Share, now: Instant) -> Result<(), String> {
        let Share::User(uid) = share else { return Ok(()) };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, users) = &mut *buckets;
        if users.len() >= BUCKETS {
            users.retain(|_, bucket| !bucket.is_full(now));
        }
        let own = users.entry(uid).or_insert_with(|| Bucket::new(self.per_user, now));
        let Rate { name, per_user, total, .. } = self;
        let refused = if !own.take(now) {
            let PerSecond { rate, burst } = per_user;
            format!("limit `{name}`: uid {uid} has made {burst} at once, and may make {rate} a second; try again later")
        } else if !all.take(now) {
            let PerSecond { rate, burst } = total;
            format!(
                "limit `{name}`: all users together have made {burst} at once, and may make {rate} a second; try again later"
            )
        } else {
            return Ok(());
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(refused)
    }

    /// The rates, and how often it refused.
    pub fn usage(&self) -> Usage {
        let quota = Quota { per_user: self.per_user.rate as usize, total: self.total.rate as usize, reserve: 0 };
        let (refused, now) = (self.refused.load(Ordering::Relaxed), Instant::now());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let users = buckets.1.iter_mut().map(|(uid, bucket)| (*uid, bucket.taken(now))).collect();
        drop(buckets);
        let held = Held { most: self.per_user.burst as usize, unit: "at once", users };
        Usage { refused, held, bounded: (true, false), ..Usage::of(self.name, "per second", quota) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota { per_user: 2, total: 3, reserve: 1 };

    #[test]
    fn one_user_cannot_use_what_another_may_and_all_cannot_use_the_reserve() {
        let limit = Limit::new("connections", QUOTA);
        let take = |share| limit.take(share).map_err(|e| e.to_string());
        let first = take(Share::User(7)).unwrap();
        let _second = take(Share::User(7)).unwrap();
        assert!(take(Share::User(7)).unwrap_err().contains("limit `connections`: uid 7 uses 2 of 2"));
        let _other = take(Share::User(8)).unwrap();
        assert!(take(Share::User(9)).unwrap_err().contains("all users together use 3 of 3"));
        let _root = take(Share::Reserved(0)).unwrap();
        assert!(take(Share::Reserved(0)).unwrap_err().contains("the reserve of root"));
        let usage = limit.usage();
        assert_eq!((usage.used, usage.reserve_used, usage.refused, usage.most), (3, 1, 3, Some((7, 2))));
        assert_eq!(usage.held, Held { most: 2, unit: "connections", users: [(7, 2), (8, 1)].into() });
        drop(first);
        let _third = take(Share::User(9)).unwrap();
        assert!(take(Share::User(0)).is_err(), "root inside a run has no reserve");
    }

    #[test]
    fn a_user_without_any_is_forgotten() {
        let limit = Limit::new("requests", QUOTA);
        drop(limit.take(Share::User(7)).unwrap());
        assert!(limit.used().users.is_empty());
    }

    #[test]
    fn rates_come_back_with_time_and_the_reserved_share_has_none() {
        let start = Instant::now();
        let pace = |rate, burst| PerSecond { rate, burst };
        let rate = Rate::new("changes", pace(1, 2), pace(10, 3));
        let at = |ms| start + Duration::from_millis(ms);
        assert!(rate.take(Share::User(7), at(0)).is_ok() && rate.take(Share::User(7), at(0)).is_ok());
        assert!(rate.take(Share::User(7), at(0)).unwrap_err().contains("uid 7 has made 2 at once"));
        assert!(rate.take(Share::User(8), at(0)).is_ok());
        assert!(rate.take(Share::User(8), at(0)).unwrap_err().contains("all users together"));
        assert!(rate.take(Share::Reserved(0), at(0)).is_ok());
        assert!(rate.take(Share::User(7), at(1_100)).is_ok());
        assert_eq!(rate.usage().refused, 2);
        let held = Rate::new("changes", pace(0, 2), pace(10, 3));
        assert!(held.take(Share::User(7), Instant::now()).is_ok());
        assert_eq!(held.usage().held, Held { most: 2, unit: "at once", users: [(7, 1)].into() });
    }

    #[test]
    fn a_debt_is_paid_by_waiting() {
        let start = Instant::now();
        let mut bucket = Bucket::new(PerSecond { rate: 100, burst: 1 }, start);
        (0..11).for_each(|_| bucket.charge(start));
        assert_eq!(bucket.debt(start), Duration::from_millis(100));
        assert_eq!(bucket.debt(start + Duration::from_millis(100)), Duration::ZERO);
    }
}

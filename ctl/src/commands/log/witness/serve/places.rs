//! Who may have how many connections at once: no address keeps the others out.
//!
//! Invariants: one address has at most [`OF_ADDRESS`] connections, and the last [`RESERVE`] of all are for addresses that have none. An
//! IPv6 address counts as its /64 network, which one machine has whole. A proxy on this machine speaks for many others: it may have all but
//! the reserve.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Connections at once; further ones are closed.
const CONNECTIONS: usize = 64;
/// Those of one address.
const OF_ADDRESS: usize = 8;
/// Places for addresses without a connection.
const RESERVE: usize = 16;
/// Closed connections are logged once in this time.
const LOGGED: Duration = Duration::from_secs(60);

/// The connections of each address.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<BTreeMap<IpAddr, usize>>);

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    of: IpAddr,
}

impl Places {
    /// A place for a connection from there; none: it is to be closed.
    pub fn take(self: &Arc<Places>, from: IpAddr) -> Option<Place> {
        let of = network(from);
        let mut held = self.held();
        let (all, own) = (held.values().sum::<usize>(), held.get(&of).copied().unwrap_or(0));
        let share = if of.is_loopback() { CONNECTIONS - RESERVE } else { OF_ADDRESS };
        let room = if own == 0 { CONNECTIONS } else { CONNECTIONS - RESERVE };
        if own >= share || all >= room {
            return None;
        }
        *held.entry(of).or_default() += 1;
        Some(Place { places: self.clone(), of })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        if let Some(own) = held.get_mut(&self.of) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.of);
            }
        }
    }
}

/// By what an address is counted.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// Connections that were closed and are not logged yet.
#[derive(Debug, Default)]
pub(super) struct Closed {
    count: u64,
    logged: Option<Instant>,
}

impl Closed {
    /// Counts one. What is to be logged, now and then.
    pub fn count(&mut self, from: IpAddr, now: Instant) -> Option<String> {
        self.count += 1;
        if self.logged.is_some_and(|logged| now.duration_since(logged) < LOGGED) {
            return None;
        }
        self.logged = Some(now);
        let count = std::mem::take(&mut self.count);
        Some(format!("{count} connections were closed, the last one from {from}: too many at once"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_does_not_keep_the_others_out() {
        let places = Arc::new(Places::default());
        let mut held: Vec<Place> = (0..OF_ADDRESS).map(|_| places.take(ip("192.0.2.1")).unwrap()).collect();
        assert!(places.take(ip("192.0.2.1")).is_none());
        assert!(places.take(ip("::ffff:192.0.2.1")).is_none(), "it is the same address");
        held.push(places.take(ip("192.0.2.2")).unwrap());
        held.remove(0);
        assert!(places.take(ip("192.0.2.1")).is_some(), "a place that is dropped is free");
    }

    #[test]
    fn addresses_that_take_all_they_may_leave_room_for_new_ones() {
        let places = Arc::new(Places::default());
        let many = (0..200).map(|n| ip(&format!("192.0.2.{}", n / OF_ADDRESS)));
        let held: Vec<Place> = many.take(CONNECTIONS - RESERVE).map(|from| places.take(from).unwrap()).collect();
        assert!(places.take(ip("192.0.2.0")).is_none());
        let new: Vec<Place> = (0..RESERVE).map(|n| places.take(ip(&format!("198.51.100.{n}"))).unwrap()).collect();
        assert!(
            places.take(ip("198.51.100.1")).is_none() && places.take(ip("198.51.100.200")).is_none(),
            "all are in use"
        );
        drop((held, new));
        assert!(places.held().is_empty());
    }

    #[test]
    fn a_proxy_of_this_machine_has_all_but_the_reserve() {
        for own in ["127.0.0.1", "::1"] {
            let places = Arc::new(Places::default());
            let held: Vec<Place> = std::iter::from_fn(|| places.take(ip(own))).collect();
            assert_eq!(held.len(), CONNECTIONS - RESERVE, "{own}");
            assert!(places.take(ip("192.0.2.1")).is_some());
        }
    }

    #[test]
    fn an_ipv6_address_counts_as_its_network() {
        let places = Arc::new(Places::default());
        let held: Vec<Place> = (0..64).filter_map(|n| places.take(ip(&format!("2001:db8::{n}")))).collect();
        assert_eq!(held.len(), OF_ADDRESS);
        assert!(places.take(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn closed_connections_are_logged_once_a_minute_with_their_number() {
        let (mut closed, begin) = (Closed::default(), Instant::now());
        let mut count = |s| closed.count(ip("192.0.2.1"), begin + Duration::from_secs(s));
        assert!(count(0).is_some_and(|text| text.starts_with("1 connections were closed")));
        assert_eq!((count(1), count(59)), (None, None));
        assert!(
            count(60).is_some_and(|text| text.starts_with("3 connections were closed, the last one from 192.0.2.1"))
        );
    }
}

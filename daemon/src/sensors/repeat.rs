//! Which values the core is to get: those that have changed, and all of them now and then.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// An unchanged value is sent again after this; well below the core's `STALE_AFTER`.
pub const REPEAT_AFTER: Duration = Duration::from_secs(4);

/// The last value of each that was sent, and when.
#[derive(Debug, Clone)]
pub struct Repeats<K>(BTreeMap<K, (i64, Instant)>);

impl<K> Default for Repeats<K> {
    fn default() -> Repeats<K> {
        Repeats(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Repeats<K> {
    /// Whether the value is to be sent; it then counts as sent.
    pub fn is_due(&mut self, key: &K, value: i64, now: Instant) -> bool {
        match self.0.get_mut(key) {
            Some((sent, at)) if *sent == value && now.duration_since(*at) < REPEAT_AFTER => false,
            Some(entry) => {
                *entry = (value, now);
                true
            }
            None => {
                self.0.insert(key.clone(), (value, now));
                true
            }
        }
    }

    /// Forgets all others.
    pub fn retain(&mut self, stays: impl Fn(&K) -> bool) {
        self.0.retain(|key, _| stays(key));
    }
}

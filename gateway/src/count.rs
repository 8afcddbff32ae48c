//! What is counted for each key and in all: a place is taken, and given back when its permit is dropped.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Places, so many in all and so many for one key.
pub struct Counts<K: Ord> {
    taken: Arc<Mutex<BTreeMap<K, usize>>>,
    total: usize,
    of_one: usize,
}

/// A place that is taken.
pub struct Permit<K: Ord> {
    taken: Arc<Mutex<BTreeMap<K, usize>>>,
    key: K,
}

impl<K: Ord + Clone> Counts<K> {
    /// With no place taken.
    pub fn new(total: usize, of_one: usize) -> Counts<K> {
        Counts { taken: Arc::default(), total, of_one }
    }

    /// Takes a place, if there is one.
    pub fn take(&self, key: &K) -> Option<Permit<K>> {
        let mut taken = lock(&self.taken);
        let own = taken.get(key).copied().unwrap_or(0);
        if own >= self.of_one || taken.values().sum::<usize>() >= self.total {
            return None;
        }
        taken.insert(key.clone(), own + 1);
        Some(Permit { taken: self.taken.clone(), key: key.clone() })
    }
}

impl<K: Ord> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(own) = taken.get_mut(&self.key) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

fn lock<K: Ord>(taken: &Mutex<BTreeMap<K, usize>>) -> MutexGuard<'_, BTreeMap<K, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_does_not_take_the_places_of_another_and_places_come_back() {
        let counts = Counts::new(3, 2);
        let first = counts.take(&"a").unwrap();
        let _second = counts.take(&"a").unwrap();
        assert!(counts.take(&"a").is_none());
        let _third = counts.take(&"b").unwrap();
        assert!(counts.take(&"b").is_none(), "the total is reached");
        drop(first);
        assert!(counts.take(&"b").is_some());
        assert_eq!(lock(&counts.taken).len(), 2);
    }
}

//! The last change of each of many subjects, in the order of their revisions: what somebody who watches them goes on from.
//!
//! A subject is in it once, as it is after its last change, so that its size is that of what exists and not of what happened.
//! Invariants: whoever asks for the changes after a revision gets every subject that changed since, or is answered that changes
//! were missed; values are shared, not copied, by all who watch.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

/// Changes of subjects `K` with values `V`.
#[derive(Debug)]
pub struct Changes<K, V> {
    /// One change of the outside can change several subjects.
    by_revision: BTreeMap<u64, Vec<(K, Arc<V>)>>,
    revisions: BTreeMap<K, u64>,
    /// The highest revision of a change that is not known any more.
    forgotten: u64,
    /// The highest revision.
    last: u64,
}

/// Changes after a revision.
#[derive(Debug)]
pub struct Since<V> {
    /// Some after that revision are not known any more, or the revision is not one of these changes.
    pub missed: bool,
    /// Each with the revision to go on after; oldest first.
    pub changes: Vec<(u64, Arc<V>)>,
    /// Whether there are more.
    pub more: bool,
}

impl<K: Ord + Copy, V> Changes<K, V> {
    /// None after `revision`. Of what was before it, nothing is known.
    pub fn after(revision: u64) -> Changes<K, V> {
        Changes { by_revision: BTreeMap::new(), revisions: BTreeMap::new(), forgotten: revision, last: revision }
    }

    /// The highest revision.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How many subjects there are.
    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// A subject as it is after its last change.
    pub fn get(&self, key: K) -> Option<&Arc<V>> {
        let of = self.by_revision.get(self.revisions.get(&key)?)?;
        of.iter().find(|(other, _)| *other == key).map(|(_, value)| value)
    }

    /// A subject changed.
    pub fn put(&mut self, key: K, revision: u64, value: Arc<V>) {
        self.take(key);
        self.revisions.insert(key, revision);
        self.by_revision.entry(revision).or_default().push((key, value));
        self.last = self.last.max(revision);
    }

    /// A subject is not known any more. Who has not seen its last change yet is answered that it was missed.
    pub fn forget(&mut self, key: K) -> Option<Arc<V>> {
        let (revision, value) = self.take(key)?;
        self.forgotten = self.forgotten.max(revision);
        Some(value)
    }

    fn take(&mut self, key: K) -> Option<(u64, Arc<V>)> {
        let revision = self.revisions.remove(&key)?;
        let of = self.by_revision.get_mut(&revision)?;
        let at = of.iter().position(|(other, _)| *other == key)?;
        let (_, value) = of.remove(at);
        if of.is_empty() {
            self.by_revision.remove(&revision);
        }
        Some((revision, value))
    }

    /// Of changes up to this revision, some are not known.
    pub fn forgets(&mut self, revision: u64) {
        self.forgotten = self.forgotten.max(revision);
        self.last = self.last.max(revision);
    }

    /// All subjects, in the order of their last changes.
    pub fn iter(&self) -> impl Iterator<Item = (K, &Arc<V>)> {
        self.by_revision.values().flatten().map(|(key, value)| (*key, value))
    }

    /// The changes after `revision`: at most `most`, but for those that belong together.
    pub fn since(&self, revision: u64, most: usize) -> Since<V> {
        if revision < self.forgotten || revision > self.last {
            return Since { missed: true, changes: Vec::new(), more: false };
        }
        let mut changes = Vec::new();
        let mut more = false;
        for (at, of) in self.by_revision.range((Excluded(revision), Unbounded)) {
            if changes.len() >= most {
                more = true;
                break;
            }
            let last = of.len().saturating_sub(1);
            // Who has one of several only, and goes on after it, gets all of them again.
            changes.extend(of.iter().enumerate().map(|(n, (_, value))| (at - u64::from(n < last), value.clone())));
        }
        Since { missed: false, changes, more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(since: Since<&'static str>) -> Vec<(u64, &'static str)> {
        assert!(!since.missed);
        since.changes.into_iter().map(|(revision, value)| (revision, *value)).collect()
    }

    fn some() -> Changes<u8, &'static str> {
        let mut changes = Changes::after(10);
        changes.put(1, 11, Arc::new("one"));
        changes.put(2, 12, Arc::new("two"));
        changes.put(1, 13, Arc::new("one again"));
        changes
    }

    #[test]
    fn a_subject_comes_once_as_it_is_after_its_last_change() {
        let changes = some();
        assert_eq!(seen(changes.since(10, 9)), [(12, "two"), (13, "one again")]);
        assert_eq!(seen(changes.since(12, 9)), [(13, "one again")]);
        assert_eq!(seen(changes.since(13, 9)), []);
        let first = changes.since(10, 1);
        assert!(first.more && first.changes.len() == 1);
        assert_eq!(changes.get(1).map(|value| **value), Some("one again"));
    }

    #[test]
    fn a_revision_of_which_changes_are_forgotten_or_which_is_of_another_list_misses_them() {
        let mut changes = some();
        assert!(changes.since(9, 9).missed, "before the list began");
        assert!(changes.since(14, 9).missed, "the list has not come so far");
        changes.forget(2);
        assert!(changes.since(11, 9).missed);
        assert_eq!(seen(changes.since(12, 9)), [(13, "one again")]);
    }

    #[test]
    fn changes_that_belong_together_are_not_lost_by_who_saw_a_part_of_them() {
        let mut changes = Changes::after(0);
        changes.put(1, 5, Arc::new("one"));
        changes.put(2, 5, Arc::new("two"));
        let all = changes.since(0, 1);
        assert_eq!(seen(all), [(4, "one"), (5, "two")]);
        assert_eq!(seen(changes.since(4, 9)), [(4, "one"), (5, "two")]);
        assert_eq!(seen(changes.since(5, 9)), []);
    }

    proptest! {
        /// Whoever follows in pieces knows every subject as the list has it, unless it was answered that changes were missed.
        #[test]
        fn who_follows_knows_what_the_list_has(
            steps in prop::collection::vec((0u8..6, any::<bool>(), any::<bool>()), 0..60),
            most in 1usize..4,
        ) {
            let mut changes: Changes<u8, (u8, u64)> = Changes::after(0);
            let mut known: BTreeMap<u8, u64> = BTreeMap::new();
            let (mut revision, mut at) = (0, 0);
            for (key, forget, look) in steps {
                if forget {
                    changes.forget(key);
                    known.remove(&key);
                } else {
                    revision += 1;
                    changes.put(key, revision, Arc::new((key, revision)));
                }
                if look {
                    let since = changes.since(at, most);
                    if since.missed {
                        at = changes.last();
                        known = changes.iter().map(|(key, value)| (key, value.1)).collect();
                    }
                    for (to, value) in since.changes {
                        known.insert(value.0, value.1);
                        at = to;
                    }
                }
            }
            loop {
                let since = changes.since(at, most);
                if since.missed {
                    at = changes.last();
                    known = changes.iter().map(|(key, value)| (key, value.1)).collect();
                }
                for (to, value) in since.changes {
                    known.insert(value.0, value.1);
                    at = to;
                }
                if !since.more {
                    break;
                }
            }
            let has: BTreeMap<u8, u64> = changes.iter().map(|(key, value)| (key, value.1)).collect();
            prop_assert_eq!(known, has);
        }
    }
}

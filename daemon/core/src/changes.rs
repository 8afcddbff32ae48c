//! The last change of each of many subjects, in the order of their revisions: what somebody who watches them goes on from.
//!
//! A subject is in it once, as it is after its last change, so that its size is that of what exists and not of what happened.
//! Invariants: whoever asks for the changes after a revision gets every subject that changed since, or is answered that changes
//! were missed; values are shared, not copied, by all who watch.

use std::{
    collections::{BTreeMap, VecDeque},
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

/// Where somebody is who watches: the state is sent in parts, then changes. It holds keys and no values: what waits to be sent does not keep
/// what has changed since.
#[derive(Debug)]
pub struct Cursor<K>(At<K>);

#[derive(Debug)]
enum At<K> {
    /// Nothing is sent.
    New,
    /// These are to be sent yet of the state, which was complete at that revision.
    State(VecDeque<K>, u64),
    /// Goes on after this one.
    After(u64),
}

/// What is to be sent next.
#[derive(Debug)]
pub struct Part<V> {
    /// Each with the revision to go on after; 0: it is of the state, which is not complete.
    pub values: Vec<(u64, Arc<V>)>,
    /// What these are.
    pub is: PartIs,
    /// Whether there is more at once.
    pub more: bool,
}

/// What a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartIs {
    /// Of the state, and there is more of it.
    State,
    /// The last of the state, which was complete at this revision.
    Complete(u64),
    /// Changes up to this revision.
    Changes(u64),
    /// Changes before this revision are not known any more.
    Missed(u64),
}

impl<K: Ord + Copy> Cursor<K> {
    /// Goes on after a revision; none: begins with the state.
    pub fn after(revision: Option<u64>) -> Cursor<K> {
        Cursor(revision.map_or(At::New, At::After))
    }

    /// The next part. `is_present`: whether a value is of the state. At most `most` values, and no more once one leaves no `room`; but at
    /// least one change, with those that belong together.
    pub fn next<V>(
        &mut self,
        changes: &Changes<K, V>,
        is_present: impl Fn(&V) -> bool,
        most: usize,
        mut room: impl FnMut(&V) -> bool,
    ) -> Part<V> {
        if matches!(self.0, At::New) {
            let keys = changes.iter().filter(|(_, value)| is_present(value)).map(|(key, _)| key);
            self.0 = At::State(keys.collect(), changes.last());
        }
        let mut values = Vec::new();
        match &mut self.0 {
            At::New => Part { values, is: PartIs::State, more: true },
            At::State(keys, last) => {
                while let Some(key) = keys.pop_front() {
                    // What has left the state since comes as a change.
                    let Some(value) = changes.get(key).filter(|value| is_present(value)) else { continue };
                    values.push((0, value.clone()));
                    if values.len() >= most || !room(value) {
                        break;
                    }
                }
                if !keys.is_empty() {
                    return Part { values, is: PartIs::State, more: true };
                }
                let last = *last;
                self.0 = At::After(last);
                Part { values, is: PartIs::Complete(last), more: changes.last() > last }
            }
            At::After(at) => {
                let since = changes.since(*at, most);
                if since.missed {
                    *at = changes.last();
                    return Part { values, is: PartIs::Missed(*at), more: false };
                }
                let (begin, mut full, mut more) = (*at, false, since.more);
                for (revision, value) in since.changes {
                    if full && *at > begin {
                        more = true;
                        break;
                    }
                    full |= !room(&value);
                    *at = revision;
                    values.push((revision, value));
                }
                Part { values, is: PartIs::Changes(*at), more }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revisions(since: Since<&'static str>) -> Vec<(u64, &'static str)> {
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
        assert_eq!(revisions(changes.since(10, 9)), [(12, "two"), (13, "one again")]);
        assert_eq!(revisions(changes.since(12, 9)), [(13, "one again")]);
        assert_eq!(revisions(changes.since(13, 9)), []);
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
        assert_eq!(revisions(changes.since(12, 9)), [(13, "one again")]);
    }

    #[test]
    fn changes_that_belong_together_are_not_lost_by_who_saw_a_part_of_them() {
        let mut changes = Changes::after(0);
        changes.put(1, 5, Arc::new("one"));
        changes.put(2, 5, Arc::new("two"));
        let all = changes.since(0, 1);
        assert_eq!(revisions(all), [(4, "one"), (5, "two")]);
        assert_eq!(revisions(changes.since(4, 9)), [(4, "one"), (5, "two")]);
        assert_eq!(revisions(changes.since(5, 9)), []);
    }

    #[test]
    fn a_state_is_sent_in_parts_and_holds_no_value_that_changed_meanwhile() {
        let mut changes = Changes::after(0);
        let values: Vec<Arc<u64>> = (1..=5).map(Arc::new).collect();
        values.iter().for_each(|value| changes.put(**value, **value, value.clone()));
        let mut cursor = Cursor::after(None);
        let is_even_or_new = |value: &u64| *value != 3;
        let sent = |part: &Part<u64>| part.values.iter().map(|(at, value)| (*at, **value)).collect::<Vec<_>>();
        let part = cursor.next(&changes, is_even_or_new, 2, |_| true);
        assert_eq!((sent(&part), part.is, part.more), (vec![(0, 1), (0, 2)], PartIs::State, true));
        drop(part);
        changes.put(4, 6, Arc::new(40));
        changes.put(5, 7, Arc::new(3));
        assert_eq!(Arc::strong_count(&values[3]), 1, "the watch does not keep what 4 was");
        let part = cursor.next(&changes, is_even_or_new, 2, |_| true);
        assert_eq!((sent(&part), part.is, part.more), (vec![(0, 40)], PartIs::Complete(5), true));
        let part = cursor.next(&changes, is_even_or_new, 2, |_| true);
        assert_eq!((sent(&part), part.is, part.more), (vec![(6, 40), (7, 3)], PartIs::Changes(7), false));
        let part = cursor.next(&changes, is_even_or_new, 2, |_| true);
        assert_eq!((sent(&part), part.is, part.more), (vec![], PartIs::Changes(7), false));
    }

    #[test]
    fn changes_that_find_no_room_come_with_the_next_part_and_none_is_stuck() {
        let mut changes = Changes::after(0);
        for key in 1..=3 {
            changes.put(key, 5, Arc::new(key));
        }
        changes.put(4, 6, Arc::new(4));
        let mut cursor = Cursor::after(Some(0));
        let mut next = || {
            let part = cursor.next(&changes, |_| true, 9, |_| false);
            (part.values.iter().map(|(_, value)| **value).collect::<Vec<u64>>(), part.is, part.more)
        };
        // Who goes on after one of three changes of one revision gets all of them again: they come together.
        assert_eq!(next(), (vec![1], PartIs::Changes(4), true));
        assert_eq!(next(), (vec![1, 2, 3], PartIs::Changes(5), true));
        assert_eq!(next(), (vec![4], PartIs::Changes(6), false));
        assert_eq!(next(), (vec![], PartIs::Changes(6), false));
        let mut early = Cursor::after(Some(9));
        assert_eq!(early.next(&changes, |_| true, 9, |_| true).is, PartIs::Missed(6));
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

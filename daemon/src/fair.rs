//! What several users have to be done, in turns: one of each, so that what one user has delays another by the time of one item for each
//! other user. Inputs of the engine, and tasks of the interpreter.
//!
//! ```text
//! put ─► one queue for each user ─► next: the user after the last one
//! ```
//! Invariants: the items of a run keep their order, as a run has one user; items of no run are a user of their own. Runs do not see one
//! another in the engine, so that the order between users decides nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

/// Whose they are; `None`: of no run.
pub(crate) type User = Option<u32>;

/// What waits, by user. A user of whom nothing waits takes no memory.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    waiting: BTreeMap<User, VecDeque<T>>,
    last: User,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Fair { waiting: BTreeMap::new(), last: None }
    }
}

impl<T> Fair<T> {
    pub(crate) fn put(&mut self, user: User, input: T) {
        self.waiting.entry(user).or_default().push_back(input);
    }

    /// The next item of the user whose turn it is.
    pub(crate) fn next(&mut self) -> Option<T> {
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        let user =
            self.waiting.range(after).next().or_else(|| self.waiting.first_key_value()).map(|(user, _)| *user)?;
        self.last = user;
        let queue = self.waiting.get_mut(&user)?;
        let input = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&user);
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_user_delays_another_by_one_input() {
        let mut fair = Fair::default();
        (0..1_000).for_each(|n| fair.put(Some(1), (1, n)));
        assert_eq!((fair.next(), fair.next()), (Some((1, 0)), Some((1, 1))));
        fair.put(Some(2), (2, 0));
        fair.put(None, (0, 0));
        let next: Vec<_> = std::iter::from_fn(|| fair.next()).take(3).collect();
        assert_eq!(next, [(2, 0), (0, 0), (1, 2)], "each of the others first");
        let rest: Vec<_> = std::iter::from_fn(|| fair.next()).collect();
        assert!(rest.iter().zip(3..).all(|(input, n)| *input == (1, n)) && rest.len() == 997, "in their order");
        assert!(fair.waiting.is_empty());
    }
}

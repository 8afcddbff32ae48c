//! What waits for the threads of a lane: what is urgent first, and users in turns.
//!
//! A kill waits for the snapshot of its own decision, and for no more than one of other decisions. Invariants: what is urgent (a kill, a
//! process that is brought back into its run) comes before what is not, whosever it is; of each kind, the users have turns; the tasks of
//! a user keep their order within a kind.

use crate::fair::Fair;
use std::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

/// A task, and when it came.
struct Since<T>(Instant, T);

/// Whose a task is, and whether it is urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) owner: u32,
    pub(super) is_urgent: bool,
}

/// The way into a lane.
pub(super) struct Entrance<T>(Sender<(Place, Since<T>)>);

impl<T> Clone for Entrance<T> {
    fn clone(&self) -> Self {
        Entrance(self.0.clone())
    }
}

impl<T> Entrance<T> {
    /// Queues a task. False: the lane has no threads any more.
    pub(super) fn send(&self, place: Place, task: T) -> bool {
        self.0.send((place, Since(Instant::now(), task))).is_ok()
    }
}

/// The queue of a lane.
pub(super) struct Waiting<T> {
    coming: Receiver<(Place, Since<T>)>,
    urgent: Fair<Since<T>>,
    rest: Fair<Since<T>>,
}

/// A queue, and the way into it.
pub(super) fn waiting<T>() -> (Entrance<T>, Waiting<T>) {
    let (entrance, coming) = channel();
    (Entrance(entrance), Waiting { coming, urgent: Fair::default(), rest: Fair::default() })
}

impl<T> Waiting<T> {
    /// The next task, and for how long it has waited. Waits for one; `None`: there will be none.
    pub(super) fn next(&mut self) -> Option<(T, Duration)> {
        while let Ok((place, task)) = self.coming.try_recv() {
            self.put(place, task);
        }
        let next = self.urgent.next().or_else(|| self.rest.next());
        let Since(since, task) = match next {
            Some(next) => next,
            None => self.coming.recv().ok()?.1,
        };
        Some((task, since.elapsed()))
    }

    fn put(&mut self, place: Place, task: Since<T>) {
        let queue = if place.is_urgent { &mut self.urgent } else { &mut self.rest };
        queue.put(Some(place.owner), task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(tasks: &[(u32, bool, &'static str)]) -> Vec<&'static str> {
        let (entrance, mut waiting) = waiting();
        for (owner, is_urgent, task) in tasks {
            assert!(entrance.send(Place { owner: *owner, is_urgent: *is_urgent }, *task));
        }
        drop(entrance);
        std::iter::from_fn(|| waiting.next()).map(|(task, _)| task).collect()
    }

    #[test]
    fn a_kill_waits_for_no_snapshot_of_others_and_users_have_turns() {
        let tasks = [
            (1, false, "a1"),
            (1, false, "a2"),
            (1, false, "a3"),
            (2, false, "b1"),
            (1, true, "kill a1"),
            (1, true, "kill a2"),
            (2, true, "kill b"),
        ];
        assert_eq!(order(&tasks), ["kill a1", "kill b", "kill a2", "a1", "b1", "a2", "a3"]);
    }

    #[test]
    fn the_time_that_a_task_has_waited_counts_from_when_it_came() {
        let (entrance, mut waiting) = waiting();
        let came = Instant::now();
        entrance.send(Place { owner: 1, is_urgent: true }, ());
        while came.elapsed() < Duration::from_millis(20) {
            std::thread::yield_now();
        }
        assert!(waiting.next().unwrap().1 >= Duration::from_millis(20));
        drop(entrance);
        assert!(waiting.next().is_none());
    }
}

//! Whether the thread that finds the GPUs of runs works: nobody waits for it, so its hang would otherwise look like runs without GPUs.

use crate::{pipeline::Message, platform::clock, watchers::keep::NodeState};
use failsafe_core::{MonoTime, input::Gap, signal::Source};
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The code of the node's reason of health while the thread does not work.
pub const CODE: &str = "run-gpus";
/// A thread that shows nothing for this time hangs. It works every second; one pass reads a bounded number of links.
const HANGS: Duration = Duration::from_secs(60);

/// What the thread shows of itself.
#[derive(Debug, Default)]
pub struct Alive(Mutex<State>);

#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// It is not started: there are no rules of discovery.
    #[default]
    Off,
    /// It worked at this time.
    Works(Instant),
    /// It panicked.
    Panicked,
}

/// Notes the end of the thread by a panic.
pub struct Working<'a>(&'a Alive);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *self.0.state() = State::Panicked;
        }
    }
}

impl Alive {
    /// The thread starts at `now`; the guard lives as long as it.
    pub fn start(&self, now: Instant) -> Working<'_> {
        self.beat(now);
        Working(self)
    }

    /// The thread works.
    pub fn beat(&self, now: Instant) {
        *self.state() = State::Works(now);
    }

    /// Whether it is started; why it does not work.
    pub fn check(&self, now: Instant) -> Option<Result<(), &'static str>> {
        match *self.state() {
            State::Off => None,
            State::Works(at) if now.saturating_duration_since(at) <= HANGS => Some(Ok(())),
            State::Works(_) => Some(Err(
                "the thread that finds the GPUs of discovered runs hangs since more than 1 min: open device files are not seen",
            )),
            State::Panicked => {
                Some(Err("the thread that finds the GPUs of discovered runs panicked: open device files are not seen"))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports that the thread does not work, and that it does again.
pub struct Watch {
    state: NodeState,
    reported: Option<&'static str>,
}

impl Default for Watch {
    /// Nothing is known yet.
    fn default() -> Watch {
        Watch { state: NodeState::new(CODE), reported: None }
    }
}

impl Watch {
    /// What is to be recorded now, and the message about the node's health.
    pub fn look(&mut self, alive: &Alive, now: Instant) -> (Option<Gap>, Option<Message>) {
        let problem = alive.check(now).and_then(Result::err);
        let begins = problem.filter(|_| self.reported != problem);
        self.reported = problem;
        let gap = begins.map(|what| Gap {
            seq: 0,
            at: MonoTime(clock::monotonic_ns()),
            source: Source::Guard,
            run: None,
            gpu: None,
            what: what.into(),
            lost: 0,
            blind: false,
        });
        (gap, self.state.update(problem.map(Into::into)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_hangs_is_a_gap_and_a_reason_of_health_until_it_works_again() {
        let (alive, mut watch, begin) = (Alive::default(), Watch::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(alive.check(at(0)), None);
        let (gap, message) = watch.look(&alive, at(0));
        assert!(gap.is_none() && message.is_some(), "an earlier daemon may have left the reason");
        let working = alive.start(at(0));
        assert_eq!(alive.check(at(60)), Some(Ok(())));
        assert!(matches!(watch.look(&alive, at(60)), (None, None)));
        assert!(alive.check(at(61)).unwrap().unwrap_err().contains("hangs"));
        let (gap, message) = watch.look(&alive, at(61));
        assert!(gap.unwrap().what.contains("hangs") && message.is_some());
        assert!(matches!(watch.look(&alive, at(62)), (None, None)), "it is reported once");
        alive.beat(at(63));
        let (gap, message) = watch.look(&alive, at(63));
        assert!(gap.is_none() && message.is_some(), "it works again");
        drop(working);
        assert_eq!(alive.check(at(64)), Some(Ok(())), "an end without a panic is the daemon's stop");
    }

    #[test]
    fn a_thread_that_panics_is_a_gap() {
        let alive = Alive::default();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _working = alive.start(Instant::now());
                std::panic::resume_unwind(Box::new(()));
            });
            assert!(thread.join().is_err());
        });
        let (gap, _) = Watch::default().look(&alive, Instant::now());
        assert!(gap.unwrap().what.contains("panicked"));
    }
}

//! The workers that take turns with the GPUs: one as long as calls come back, more where one does not.
//!
//! Waking a thread for each GPU costs more than the calls of its pass: one worker takes all that are due, and then sleeps until
//! the next. A turn may never end, so whoever begins one arms a relief timer, unless it is armed; it fires after [`Pool::patience`]
//! and lets another worker in, again and again until one of them comes to rest.
//! ```text
//!  due ─► a worker: turn, turn, turn ─► nothing is due: tells what was found, disarms the timer, keeps the time
//!            └─ the timer fires: another worker takes what is still due
//! ```
//! Owns the tasks that no worker has in hand. Invariants: while a task waits, somebody keeps the time or the timer is armed; no
//! lock is held during a turn; there are at most as many workers as tasks, and one more. Those that are not needed sleep
//! until they are, and cost nothing.

use super::{STACK, complain, lock};
use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The longest that others wait for a turn to end before another worker takes them.
const PATIENCE: Duration = Duration::from_millis(20);

/// What takes turns.
pub trait Task: Send + 'static {
    /// One turn, which may never end.
    fn turn(&mut self) -> Next;
}

/// When a task has its next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When the pool is opened, or at the next tick if it is.
    Open,
    /// At the next tick, which is the same instant for all. A late turn is not caught up with.
    Tick,
    /// So much later.
    After(Duration),
}

/// The tasks and their workers.
pub struct Pool<T> {
    state: Mutex<State<T>>,
    /// Wakes who keeps the time.
    keeper: Condvar,
    /// Wakes who is not needed.
    spare: Condvar,
    timer: ReliefTimer,
    interval: Duration,
    patience: Duration,
    /// Called when nothing is due any more, or the timer fires.
    tell: Box<dyn Fn() + Send + Sync>,
}

struct State<T> {
    /// By when it is due, and number.
    waiting: BTreeMap<(Instant, usize), T>,
    /// Tasks that wait for the opening.
    held: Vec<(usize, T)>,
    opened: Option<Instant>,
    /// Somebody keeps the time, until then or until woken.
    keeps: Option<Option<Instant>>,
    armed: bool,
    /// Workers that are not needed.
    spare: usize,
    /// Workers, all of them.
    workers: usize,
    /// Tasks, all of them.
    tasks: usize,
    /// Time of all turns since a keeper last woke.
    spent: Duration,
    /// Turns have ended since it was last told.
    untold: bool,
}

impl<T: Task> Pool<T> {
    /// Starts the pool; each task has its first turn after its wait. Ticks are `interval` apart, from the opening on.
    ///
    /// # Errors
    /// A thread or the timer could not be made.
    pub fn start(
        tasks: impl IntoIterator<Item = (T, Duration)>,
        interval: Duration,
        tell: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Arc<Pool<T>>> {
        let now = Instant::now();
        let waiting = tasks.into_iter().enumerate().map(|(n, (task, wait))| ((now + wait, n), task));
        let waiting: BTreeMap<_, _> = waiting.collect();
        let state = State {
            tasks: waiting.len(),
            waiting,
            held: Vec::new(),
            opened: None,
            keeps: None,
            armed: false,
            spare: 0,
            workers: 0,
            spent: Duration::ZERO,
            untold: false,
        };
        let pool = Arc::new(Pool {
            state: Mutex::new(state),
            keeper: Condvar::new(),
            spare: Condvar::new(),
            timer: ReliefTimer::new()?,
            interval,
            patience: PATIENCE.min(interval / 4),
            tell: Box::new(tell),
        });
        pool.hire(&mut lock(&pool.state))?;
        let relief = Arc::clone(&pool);
        super::spawn("relief", move || relief.relieve())?;
        Ok(pool)
    }

    /// Lets those that wait for it have their turns.
    pub fn open(&self) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.opened = Some(now);
        for (n, task) in std::mem::take(&mut state.held) {
            state.waiting.insert((now, n), task);
        }
        self.attend(&mut state);
    }

    fn hire(self: &Arc<Self>, state: &mut State<T>) -> io::Result<()> {
        let pool = Arc::clone(self);
        let worker = thread::Builder::new().name("gpus".to_owned()).stack_size(STACK);
        worker.spawn(move || pool.work()).map(drop)?;
        state.workers += 1;
        Ok(())
    }

    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            let Some((n, mut task)) = state.due(now) else {
                state = self.rest(state);
                continue;
            };
            self.arm(&mut state);
            drop(state);
            let next = task.turn();
            let ended = Instant::now();
            state = lock(&self.state);
            state.spent += ended.duration_since(now);
            state.untold = true;
            match (next, state.opened) {
                (Next::Open, None) => state.held.push((n, task)),
                (Next::Open | Next::Tick, opened) => {
                    let due = next_tick(opened.unwrap_or(ended), self.interval, ended);
                    state.waiting.insert((due, n), task);
                }
                (Next::After(wait), _) => drop(state.waiting.insert((ended + wait, n), task)),
            }
            self.attend(&mut state);
        }
    }

    /// Nothing is due: keeps the time, or sleeps until needed when somebody else does.
    fn rest<'a>(&'a self, mut state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        if std::mem::take(&mut state.untold) {
            drop(state);
            (self.tell)();
            return lock(&self.state);
        }
        if state.keeps.is_some() {
            state.spare += 1;
            state = self.spare.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.spare -= 1;
            return state;
        }
        if std::mem::take(&mut state.armed) {
            self.timer.disarm();
        }
        let until = state.first();
        state.keeps = Some(until);
        state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(wait) => self.keeper.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
            None => self.keeper.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
        state.keeps = None;
        // As many as the turns since the last time were too long for one begin together.
        let needed = state.spent.as_nanos() / self.patience.as_nanos().max(1);
        for _ in 0..needed.min(state.spare as u128) {
            self.spare.notify_one();
        }
        state.spent = Duration::ZERO;
        state
    }

    /// Sees to it that what waits now is not forgotten.
    fn attend(&self, state: &mut State<T>) {
        match state.keeps {
            Some(until) if until.is_none_or(|until| state.first().is_some_and(|first| first < until)) => {
                self.keeper.notify_one();
            }
            Some(_) => {}
            None => self.arm(state),
        }
    }

    fn arm(&self, state: &mut State<T>) {
        if !std::mem::replace(&mut state.armed, true) {
            self.timer.arm(self.patience);
        }
    }

    /// Lets another worker in when the timer fires.
    fn relieve(self: Arc<Self>) {
        loop {
            self.timer.wait(self.patience);
            let mut state = lock(&self.state);
            if !std::mem::take(&mut state.armed) || state.keeps.is_some() {
                continue;
            }
            if !state.waiting.is_empty() {
                if state.spare > 0 {
                    self.spare.notify_one();
                } else if state.workers <= state.tasks
                    && let Err(error) = self.hire(&mut state)
                {
                    complain("starting another worker", &error);
                }
                self.arm(&mut state);
            }
            // What was found does not wait for a turn that does not end.
            if std::mem::take(&mut state.untold) {
                drop(state);
                (self.tell)();
            }
        }
    }
}

impl<T> State<T> {
    fn first(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    fn due(&mut self, now: Instant) -> Option<(usize, T)> {
        if self.first()? > now {
            return None;
        }
        self.waiting.pop_first().map(|((_, n), task)| (n, task))
    }
}

/// The first tick after `now`.
fn next_tick(opened: Instant, interval: Duration, now: Instant) -> Instant {
    let since = now.saturating_duration_since(opened).as_nanos() % interval.as_nanos().max(1);
    now + interval.saturating_sub(Duration::from_nanos(u64::try_from(since).unwrap_or(0)))
}

/// Fires once after it was armed, unless it is disarmed before. Arming wakes nobody, which a wait with a deadline would.
struct ReliefTimer(TimerFd);

impl ReliefTimer {
    fn new() -> io::Result<ReliefTimer> {
        Ok(ReliefTimer(TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?))
    }

    fn arm(&self, after: Duration) {
        if let Err(errno) = self.0.set(Expiration::OneShot(TimeSpec::from(after)), TimerSetTimeFlags::empty()) {
            complain("arming the relief timer", &errno);
        }
    }

    fn disarm(&self) {
        // One that rings for nothing is looked at and no more.
        let _rings = self.0.unset();
    }

    fn wait(&self, patience: Duration) {
        match self.0.wait() {
            Ok(()) | Err(Errno::EINTR) => {}
            // Looking every now and then is as good, and dearer.
            Err(_) => thread::sleep(patience),
        }
    }
}

#[cfg(test)]
mod tests;

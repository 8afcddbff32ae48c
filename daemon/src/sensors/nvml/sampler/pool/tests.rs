//! The pool over tasks that hang, are slow, or wait: who has a turn when, and how many workers there are.

use super::*;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};

const TICK: Duration = Duration::from_millis(40);
/// Far longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(20);

/// Says who had a turn; inside it waits for leave where it is told to.
struct Turn {
    name: usize,
    said: Sender<usize>,
    leave: Option<Receiver<()>>,
    next: Next,
    takes: Duration,
}

impl Task for Turn {
    fn turn(&mut self) -> Next {
        self.said.send(self.name).unwrap();
        if let Some(leave) = &self.leave {
            // The other end being dropped is leave for ever.
            let _ = leave.recv();
        }
        thread::sleep(self.takes);
        self.next
    }
}

struct Rig {
    said: Receiver<usize>,
    told: Receiver<()>,
    pool: Arc<Pool<Turn>>,
}

fn rig(count: usize, change: impl Fn(&mut Turn)) -> Rig {
    let ((say, said), (tell, told)) = (mpsc::channel(), mpsc::channel());
    let tasks = (0..count).map(|name| {
        let mut turn = Turn { name, said: say.clone(), leave: None, next: Next::Tick, takes: Duration::ZERO };
        change(&mut turn);
        (turn, Duration::ZERO)
    });
    let tasks: Vec<_> = tasks.collect();
    let pool = Pool::start(tasks, TICK, move || _ = tell.send(())).unwrap();
    Rig { said, told, pool }
}

impl Rig {
    /// Waits until each of these has had so many turns more.
    fn turns(&self, of: &[usize], each: usize) {
        let mut left: BTreeMap<usize, usize> = of.iter().map(|name| (*name, each)).collect();
        while left.values().any(|left| *left > 0) {
            let name = self.said.recv_timeout(LONG).unwrap_or_else(|_| panic!("turns that nobody had: {left:?}"));
            left.entry(name).and_modify(|left| *left = left.saturating_sub(1));
        }
    }

    fn workers(&self) -> usize {
        lock(&self.pool.state).workers
    }
}

#[test]
fn one_worker_serves_all_while_turns_end() {
    let rig = rig(8, |_| {});
    rig.pool.open();
    rig.turns(&[0, 1, 2, 3, 4, 5, 6, 7], 5);
    // A machine that is busy elsewhere may hold one up for as long as the bell takes, and the next as well.
    assert!(rig.workers() <= 4, "{} workers", rig.workers());
    rig.told.recv_timeout(LONG).unwrap();
}

#[test]
fn a_turn_that_does_not_end_is_left_to_its_worker_and_the_others_go_on() {
    let (leave, wait) = mpsc::channel();
    let wait = Mutex::new(Some(wait));
    let rig = rig(4, |turn| {
        if turn.name == 1 {
            turn.leave = lock(&wait).take();
        }
    });
    rig.pool.open();
    rig.turns(&[0, 2, 3], 5);
    // What the others find is told all the same.
    while rig.told.try_recv().is_ok() {}
    rig.told.recv_timeout(LONG).unwrap();
    assert_eq!(rig.said.try_iter().filter(|name| *name == 1).count(), 0, "in two hands");
    // When it ends, it takes turns like the others.
    drop(leave);
    rig.turns(&[0, 1, 2, 3], 3);
    assert!(rig.workers() <= 4, "{} workers", rig.workers());
}

#[test]
fn all_may_hang_and_come_back() {
    let (leaves, waits): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::channel::<()>()).unzip();
    let waits = Mutex::new(waits);
    let rig = rig(4, |turn| turn.leave = lock(&waits).pop());
    rig.turns(&[0, 1, 2, 3], 1);
    assert_eq!(rig.said.recv_timeout(TICK * 3), Err(RecvTimeoutError::Timeout));
    // Opened while nobody keeps the time and nobody waits.
    rig.pool.open();
    drop(leaves);
    rig.turns(&[0, 1, 2, 3], 3);
}

#[test]
fn slow_turns_are_shared_among_workers() {
    // Four times what one worker has time for.
    let rig = rig(8, |turn| turn.takes = TICK / 2);
    rig.pool.open();
    rig.turns(&[0, 1, 2, 3, 4, 5, 6, 7], 2);
    let began = Instant::now();
    rig.turns(&[0, 1, 2, 3, 4, 5, 6, 7], 4);
    let (took, alone) = (began.elapsed(), TICK / 2 * 8 * 4);
    assert!(took < alone, "{took:?}: one worker alone takes {alone:?}");
    assert!((2..=9).contains(&rig.workers()), "{} workers", rig.workers());
}

#[test]
fn who_waits_for_the_opening_has_no_turn_before_it() {
    let rig = rig(2, |turn| turn.next = if turn.name == 0 { Next::Open } else { Next::Tick });
    rig.turns(&[0], 1);
    let name = |_| rig.said.recv_timeout(LONG).unwrap();
    let before: Vec<usize> = (0..5).map(name).collect();
    assert!(!before.contains(&0), "{before:?}");
    rig.pool.open();
    rig.turns(&[0], 3);
}

#[test]
fn ticks_are_the_same_for_all_and_none_is_caught_up_with() {
    let opened = Instant::now();
    let ms = |n| opened + Duration::from_millis(n);
    let tick = |now| next_tick(opened, TICK, ms(now));
    assert_eq!((tick(0), tick(39), tick(40), tick(41), tick(1_000)), (ms(40), ms(40), ms(80), ms(80), ms(1_040)));
}

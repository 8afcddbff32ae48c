//! Whether the threads that freeze make progress: the heartbeat to the kernel and the one to systemd depend on that, and on
//! nothing else.
//!
//! ```text
//! pipeline, ring reader, guard ─► Pulse (an instant) ─► heartbeat's thread ─► watchdog map, systemd
//! ```
//! A thread that waits for work comes by at least once a second and sets its pulse; one that hangs does not. While every
//! pulse is younger than [`STUCK`] the heart beats, every [`EVERY`]. So `on_dead_daemon = N` takes hold N after the last beat,
//! that is at most N + [`STUCK`] after a thread of the freeze path hung, and no disk, client, log or compilation can make the
//! daemon look dead.

use crate::platform::clock;
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// A thread that has not come by for this long makes no progress.
pub const STUCK: Duration = Duration::from_secs(3);
/// How often the heart beats.
const EVERY: Duration = Duration::from_millis(500);

/// When a thread last came by.
#[derive(Debug)]
pub struct Pulse {
    name: &'static str,
    at_ns: AtomicU64,
}

impl Pulse {
    /// Of a thread that is about to start.
    pub fn new(name: &'static str) -> Arc<Pulse> {
        Arc::new(Pulse { name, at_ns: AtomicU64::new(clock::monotonic_ns()) })
    }

    /// The thread comes by.
    pub fn beat(&self) {
        self.at_ns.store(clock::monotonic_ns(), Ordering::Relaxed);
    }

    fn age(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(now_ns.saturating_sub(self.at_ns.load(Ordering::Relaxed)))
    }
}

/// A thread of the freeze path that makes no progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stuck {
    /// Its name.
    pub thread: &'static str,
    /// For how long.
    pub since: Duration,
}

/// The pulses of the freeze path, for those who answer for the node: reading them takes no lock and waits for none of these threads.
#[derive(Debug, Clone, Default)]
pub struct Pulses(Arc<OnceLock<Vec<Arc<Pulse>>>>);

impl Pulses {
    /// Once these threads run.
    pub fn watch(&self, pulses: Vec<Arc<Pulse>>) {
        let _once = self.0.set(pulses);
    }

    /// The thread that has made no progress for the longest time, if that is [`STUCK`] at least.
    pub fn stuck(&self) -> Option<Stuck> {
        self.stuck_at(clock::monotonic_ns())
    }

    fn stuck_at(&self, now_ns: u64) -> Option<Stuck> {
        let all = self.0.get()?.iter().map(|pulse| Stuck { thread: pulse.name, since: pulse.age(now_ns) });
        all.filter(|stuck| stuck.since >= STUCK).max_by_key(|stuck| stuck.since)
    }
}

/// Beats until `stop`, while every pulse is fresh.
pub fn heart(pulses: &[Arc<Pulse>], stop: &AtomicBool, mut beat: impl FnMut()) {
    let mut stuck = None;
    while !stop.load(Ordering::Relaxed) {
        let now = stuck_one(pulses, clock::monotonic_ns());
        if now != stuck {
            match now {
                Some(name) => tracing::error!(thread = name, "a thread that freezes makes no progress: no heartbeat"),
                None => tracing::warn!("the threads that freeze make progress again"),
            }
            stuck = now;
        }
        if now.is_none() {
            beat();
        }
        std::thread::park_timeout(EVERY);
    }
}

fn stuck_one(pulses: &[Arc<Pulse>], now_ns: u64) -> Option<&'static str> {
    pulses.iter().find(|pulse| pulse.age(now_ns) >= STUCK).map(|pulse| pulse.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::until;

    #[test]
    fn one_thread_that_hangs_stops_the_heart_and_an_idle_one_does_not() {
        let pulses = [Pulse::new("a"), Pulse::new("b")];
        let start = clock::monotonic_ns();
        let stuck = u64::try_from(STUCK.as_nanos()).unwrap();
        assert_eq!(stuck_one(&pulses, start + stuck / 2), None);
        pulses[0].at_ns.store(start + stuck, Ordering::Relaxed);
        assert_eq!(stuck_one(&pulses, start + stuck + 1), Some("b"));
        pulses[1].at_ns.store(start + stuck, Ordering::Relaxed);
        assert_eq!(stuck_one(&pulses, start + stuck + 1), None);
    }

    #[test]
    fn a_thread_without_progress_is_seen_without_asking_it() {
        let pulses = Pulses::default();
        assert_eq!(pulses.stuck_at(u64::MAX), None, "no thread runs yet");
        let (a, b) = (Pulse::new("a"), Pulse::new("b"));
        pulses.watch(vec![a.clone(), b.clone()]);
        let stuck = u64::try_from(STUCK.as_nanos()).unwrap();
        a.at_ns.store(stuck, Ordering::Relaxed);
        b.at_ns.store(0, Ordering::Relaxed);
        assert_eq!(pulses.stuck_at(stuck - 1), None);
        assert_eq!(pulses.stuck_at(stuck), Some(Stuck { thread: "b", since: STUCK }));
        b.at_ns.store(stuck, Ordering::Relaxed);
        assert_eq!(pulses.stuck_at(stuck), None, "it makes progress again");
    }

    #[test]
    fn the_heart_beats_only_while_every_pulse_is_fresh() {
        let (pulse, stop) = (Pulse::new("a"), Arc::new(AtomicBool::new(false)));
        let beats = Arc::new(AtomicU64::new(0));
        pulse.at_ns.store(0, Ordering::Relaxed);
        let heart_of = {
            let (pulse, stop, beats) = (pulse.clone(), stop.clone(), beats.clone());
            std::thread::spawn(move || {
                heart(&[pulse], &stop, || {
                    beats.fetch_add(1, Ordering::Relaxed);
                })
            })
        };
        heart_of.thread().unpark();
        // Nothing announces a beat that does not come: it has looked at the start, and once more after it was woken.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(beats.load(Ordering::Relaxed), 0, "the thread hangs");
        pulse.beat();
        until("it beats again", || {
            heart_of.thread().unpark();
            beats.load(Ordering::Relaxed) > 0
        });
        stop.store(true, Ordering::Relaxed);
        heart_of.thread().unpark();
        heart_of.join().unwrap();
    }
}

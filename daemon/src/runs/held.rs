//! Events of runs that the kernel has bound and nobody has registered: held, and judged after the registration.
//!
//! ```text
//! reader ─► hold ─► [MOST refusals, MOST others] ─► take, until nothing is held ─► pipeline
//!              └─ from then on, and of all other runs ─► pipeline
//! ```
//! Invariants: at most [`MOST`] refusals of each run and as many other events, the first ones, in order; of no more runs than the kernel
//! may bind. What is harmless leaves refusals their room. The reader waits for nobody here.

use super::Registry;
use crate::sensors::ebpf::Event;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Refusals that are held of a run, and as many other events.
const MOST: usize = 256;

/// Those of one run.
#[derive(Debug, Default)]
pub struct Held {
    /// The first ones of both kinds, in order.
    pub events: Vec<Event>,
    refusals: usize,
    /// How many more refusals there were.
    pub lost_refusals: u64,
    /// How many more other events there were.
    pub lost_others: u64,
}

impl Held {
    fn add(&mut self, event: Event) {
        let is_refused = event.what.is_refused();
        let held = if is_refused { self.refusals } else { self.events.len() - self.refusals };
        match (held < MOST, is_refused) {
            (true, _) => {
                self.refusals += usize::from(is_refused);
                self.events.push(event);
            }
            (false, true) => self.lost_refusals += 1,
            (false, false) => self.lost_others += 1,
        }
    }
}

/// Slot and epoch of a run.
type Place = (u32, u32);

/// By their place.
#[derive(Debug, Default)]
pub(super) struct HeldEvents(Mutex<BTreeMap<Place, Held>>);

impl HeldEvents {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the event of a run that is awaited; otherwise gives it back.
    fn hold(&self, event: Event, awaits: impl Fn(Place) -> bool) -> Option<Event> {
        let place = (event.slot, event.epoch);
        if !awaits(place) {
            return Some(event);
        }
        let mut all = self.lock();
        // It may have been registered in between.
        if !awaits(place) {
            return Some(event);
        }
        if !all.contains_key(&place) {
            // Of those that were released.
            all.retain(|place, _| awaits(*place));
        }
        all.entry(place).or_default().add(event);
        None
    }

    /// What is held of a run. The holding ends when nothing was, or at once with `last`.
    fn take(&self, place: Place, last: bool, end: impl FnOnce()) -> Option<Held> {
        let mut all = self.lock();
        let held = all.remove(&place);
        if last || held.is_none() {
            end();
        }
        held
    }
}

impl Registry {
    /// Takes an event of a run that is not registered yet; otherwise gives it back.
    pub fn hold(&self, event: Event) -> Option<Event> {
        self.held.hold(event, |(slot, epoch)| self.kernel.awaits(slot, epoch))
    }

    /// The events that are held of a run that the engine has. `None`: there are none, and from here on they are held no more. They are held
    /// until then, or what comes meanwhile would be judged before these. With `last` they are held no more in any case.
    pub fn take_held(&self, slot: u32, epoch: u32, last: bool) -> Option<Held> {
        self.held.take((slot, epoch), last, || self.kernel.awaits_no_more(slot, epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::ebpf::{Net, NetOp, NetVerdict, Subject, What};
    use std::cell::Cell;

    fn event(seq: u64, what: What) -> Event {
        let subject =
            Subject { cgroup_id: 1, pid: 2, tid: 2, ppid: 1, uid: 0, start_boottime_ns: 1, comm: "job".into() };
        Event { at_ns: seq, seq, slot: 3, epoch: 4, subject, what }
    }

    fn connect(seq: u64, verdict: NetVerdict) -> Event {
        let net = Net {
            op: NetOp::Connect,
            verdict,
            protocol: 6,
            addr: [192, 0, 2, 1].into(),
            port: 443,
            sock_type: 1,
            repeats: 0,
            mapped: false,
            held: None,
            foreign: false,
            odd_headers: false,
        };
        event(seq, What::Net(net))
    }

    fn exit(seq: u64) -> Event {
        event(seq, What::Exit { status: 0 })
    }

    #[test]
    fn a_refusal_is_held_after_any_number_of_harmless_events_and_both_stay_in_order() {
        let all = HeldEvents::default();
        assert!(all.hold(connect(0, NetVerdict::Denied), |_| true).is_none());
        (1..1_001).for_each(|seq| assert!(all.hold(exit(seq), |_| true).is_none()));
        assert!(all.hold(connect(1_001, NetVerdict::Denied), |_| true).is_none());
        let held = all.take((3, 4), true, || {}).unwrap();
        assert!(held.events.is_sorted_by_key(|event| event.seq));
        let refusals: Vec<u64> = held.events.iter().filter(|e| e.what.is_refused()).map(|e| e.seq).collect();
        assert_eq!(refusals, [0, 1_001]);
        assert_eq!((held.events.len(), held.lost_others, held.lost_refusals), (MOST + 2, 1_000 - 256, 0));
    }

    #[test]
    fn refusals_are_bounded_and_counted_apart() {
        let all = HeldEvents::default();
        (0..300).for_each(|seq| drop(all.hold(connect(seq, NetVerdict::Denied), |_| true)));
        drop(all.hold(connect(300, NetVerdict::Allowed), |_| true));
        let held = all.take((3, 4), true, || {}).unwrap();
        assert_eq!((held.events.len(), held.lost_refusals, held.lost_others), (MOST + 1, 44, 0));
    }

    /// An event that were given back while earlier ones are on their way would be judged before them.
    #[test]
    fn events_are_held_until_nothing_is_held_any_more() {
        let (all, awaited) = (HeldEvents::default(), Cell::new(true));
        let end = || awaited.set(false);
        assert!(all.hold(exit(1), |_| awaited.get()).is_none());
        assert_eq!(all.take((3, 4), false, end).unwrap().events.len(), 1);
        assert!(all.hold(exit(2), |_| awaited.get()).is_none(), "the first one may not be judged yet");
        assert_eq!(all.take((3, 4), false, end).unwrap().events[0].seq, 2);
        assert!(all.take((3, 4), false, end).is_none());
        assert_eq!(all.hold(exit(3), |_| awaited.get()).map(|event| event.seq), Some(3));
    }

    #[test]
    fn the_last_taking_ends_the_holding_although_events_are_held() {
        let (all, awaited) = (HeldEvents::default(), Cell::new(true));
        drop(all.hold(exit(1), |_| awaited.get()));
        assert!(all.take((3, 4), true, || awaited.set(false)).is_some());
        assert!(all.hold(exit(2), |_| awaited.get()).is_some());
    }
}
